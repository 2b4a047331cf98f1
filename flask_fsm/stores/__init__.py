"""Where snapshots live. `open_store` turns the value of FSM_STORE_URL into a store."""

from __future__ import annotations

from ..errors import ConfigError
from .base import Store
from .heads import Heads, Kept, Turn
from .memory import MemoryStore
from .session import SessionStore

__all__ = ["Heads", "Kept", "MemoryStore", "SessionStore", "Store", "Turn", "open_store"]


def open_store(url: str, heads: Heads, history_limit: int | None, max_size: int) -> Store:
    """Return the store at `url`, or raise ConfigError. `max_size` is in bytes."""
    if url == "session":
        return SessionStore(heads, history_limit, max_size)
    if url == "memory://":
        return MemoryStore(heads, history_limit, max_size)
    raise ConfigError(f"FSM_STORE_URL is {url!r}: this release knows 'session' and 'memory://'.")
