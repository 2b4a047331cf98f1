"""Where snapshots live. `open_store` turns FSM_STORE_URL into a store."""

from __future__ import annotations

from ..config import Config
from ..errors import ConfigError
from .base import Store
from .heads import Heads
from .memory import MemoryStore
from .session import SessionStore

__all__ = ["Heads", "MemoryStore", "SessionStore", "Store", "open_store"]


def open_store(config: Config, heads: Heads) -> Store:
    """Return the store that the config names, or raise ConfigError."""
    if config.store_url == "session":
        return SessionStore(heads, config.history_limit, config.max_snapshot_size)
    if config.store_url == "memory://":
        return MemoryStore(heads, config.history_limit, config.max_snapshot_size)
    raise ConfigError(
        f"FSM_STORE_URL is {config.store_url!r}: this release knows 'session' and 'memory://'."
    )
