"""Stores of snapshots. `open_store` turns the value of FSM_STORE_URL into a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config import Config
from ..core.flow import Clock
from ..errors import ConfigError
from ..redis_client import SCHEMES, is_client, open_client
from .base import (
    CommitResult,
    FlowLocator,
    LoadResult,
    Store,
    StoredReply,
    SubmissionQuery,
    Version,
    root_id,
)
from .cache import FlowCache, FlowLock
from .memory import MemoryRecords, PlainIds
from .records.model import Cipher, Records
from .records.store import RecordStore
from .session import SessionStore

__all__ = [
    "Cipher",
    "CommitResult",
    "FlowCache",
    "FlowLocator",
    "FlowLock",
    "LoadResult",
    "MemoryRecords",
    "RecordStore",
    "Records",
    "SessionStore",
    "Store",
    "StoredReply",
    "SubmissionQuery",
    "Version",
    "open_store",
    "root_id",
]

REMEDY = (
    "It must be 'session', 'memory://', an SQLAlchemy URL such as sqlite:////path/to/flows.db or "
    "postgresql+psycopg://..., or redis://, rediss://, unix://."
)


def open_store(
    source: Any, config: Config, cache: FlowCache, cipher: Callable[[], Cipher], clock: Clock
) -> Store:
    """Return the store that FSM_STORE_URL names.

    Args:
        source: A URL, or an engine, session or client that the app hands over.
        config: The config of the app.
        cache: The flows that this process knows.
        cipher: Returns what encrypts the ids of flows on a server; may raise ImportError.
        clock: Returns seconds since 1970.

    Raises:
        ConfigError: The URL is faulty, or an extra or a driver is not installed.
    """
    if source == "session":
        return SessionStore(cache, config.history_limit, config.max_snapshot_size)
    if source == "memory://":
        return RecordStore(MemoryRecords(config), PlainIds(), config.max_snapshot_size, clock)
    records = _records(source, config)
    try:
        encrypting = cipher()
    except ImportError as error:
        scheme = source.partition("://")[0] if isinstance(source, str) else None
        extra = "redis" if scheme in SCHEMES or is_client(source) else "sql"
        raise _missing(source, extra, error) from error
    return RecordStore(records, encrypting, config.max_snapshot_size, clock)


def _records(source: Any, config: Config) -> Records:
    if not isinstance(source, str):
        return _records_of(source, config)
    scheme, separator, _ = source.partition("://")
    if scheme in SCHEMES and separator:
        try:
            from .redis import RedisRecords

            client = open_client(source, config.store_timeout, "FSM_STORE_URL")
        except ImportError as error:
            raise _missing(source, "redis", error) from error
        return RedisRecords(client, config)
    if not separator:
        # What follows a colon may be a password.
        raise ConfigError(f"FSM_STORE_URL begins with {source.partition(':')[0]!r}. {REMEDY}")
    try:
        from .sql.engine import open_engine
        from .sql.records import SQLRecords
    except ImportError as error:
        raise _missing(source, "sql", error) from error
    engine = open_engine(source, config.store_timeout, config.lock_timeout)
    return SQLRecords(lambda: engine, config, own=True)


def _records_of(source: Any, config: Config) -> Records:
    """Return the records for an object of the app: an engine, a session, or a client."""
    if is_client(source):
        from .redis import RedisRecords

        return RedisRecords(source, config)
    try:
        from .sql.engine import engine_finder
        from .sql.records import SQLRecords
    except ImportError as error:
        raise _missing(source, "sql", error) from error
    find_engine = engine_finder(source)
    if find_engine is None:
        raise ConfigError(
            f"{source!r} can't store flows: pass an SQLAlchemy engine, a session or the object "
            f"of Flask-SQLAlchemy(-Lite), a redis-py client, or a URL."
        )
    return SQLRecords(find_engine, config)


def _missing(source: Any, extra: str, error: ImportError) -> ConfigError:
    kind = source.partition(":")[0] if isinstance(source, str) else type(source).__name__
    return ConfigError(
        f"The store {kind!r} of FSM_STORE_URL needs the extra {extra!r}: "
        f"pip install 'flask-fsm[{extra}]', or in a clone pip install '.[{extra}]' ({error})."
    )
