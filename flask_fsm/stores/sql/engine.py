"""Engines of SQLAlchemy: opened from a URL with the settings that a store needs, or an app's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session, scoped_session

from ...errors import ConfigError
from .connections import closed_on_failure

__all__ = ["acquire_write_lock", "engine_finder", "open_engine", "same_database"]


def open_engine(url: str, timeout: float, wait: float) -> sa.Engine:
    """Return an engine for `url` with the settings that a store needs.

    Args:
        url: An SQLAlchemy URL.
        timeout: How long to wait for the server, in seconds.
        wait: How long to wait for the lock of another transaction, in seconds.

    Raises:
        ConfigError: The URL is faulty, or its driver is not installed.
    """
    address = _address(url)
    backend = address.get_backend_name()
    psycopg = backend == "postgresql" and address.get_driver_name() == "psycopg"
    threshold = address.query.get("prepare_threshold") if psycopg else None
    address = address.difference_update_query(["prepare_threshold"] if psycopg else ())
    options: dict[str, Any] = {"pool_timeout": timeout, "hide_parameters": True}
    if backend == "sqlite":
        if address.database in (None, "", ":memory:"):
            raise ConfigError(
                "FSM_STORE_URL is an SQLite database in memory, which is private to each "
                "connection: name a file (sqlite:////path/to/flows.db), or use memory://."
            )
        options["connect_args"] = {"timeout": timeout}
    else:
        options["isolation_level"] = "READ COMMITTED"
    if backend == "postgresql" and address.get_driver_name() in ("psycopg", "psycopg2"):
        bounds = {
            "connect_timeout": max(2, round(timeout)),  # the least that libpq accepts
            "tcp_user_timeout": round(timeout * 1000),
        }
        options["connect_args"] = {
            name: value for name, value in bounds.items() if name not in address.query
        }
    try:
        engine = sa.create_engine(address, **options)
    except ImportError as error:
        raise _no_driver(address.drivername, error) from error

    if psycopg:
        from .postgres import Connector

        connector = Connector(timeout + wait, wait, _prepare_threshold(threshold))

        @sa.event.listens_for(engine, "do_connect")
        def connect(_: object, __: object, args: Any, options: Any) -> Any:
            return connector.connect(*args, **options)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        with closed_on_failure(connection):
            cursor = connection.cursor()
            if backend == "sqlite":
                _write_ahead(cursor, timeout)
                cursor.execute("PRAGMA synchronous = FULL")
            elif backend == "postgresql" and not psycopg:
                cursor.execute(f"SET lock_timeout = {round(wait * 1000)}")
                connection.commit()
            cursor.close()

    return engine


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except exc.ArgumentError as error:  # its text has the password
        raise ConfigError(
            f"FSM_STORE_URL begins with {url.partition(':')[0]!r} and can't be read. Write it like "
            f"sqlite:////path/to/flows.db or postgresql+psycopg://user:password@host/database."
        ) from error
    try:
        address.get_dialect()
    except exc.ArgumentError as error:
        raise ConfigError(
            f"FSM_STORE_URL is {address!r}, which SQLAlchemy does not know: {error}. Write it like "
            f"sqlite:////path/to/flows.db or postgresql+psycopg://user:password@host/database."
        ) from error
    except ImportError as error:
        raise _no_driver(address.drivername, error) from error
    return address


def _prepare_threshold(text: str | tuple[str, ...] | None) -> int | None:
    """Return psycopg's option of this name, whose type a URL can't show; by default psycopg's 5."""
    if text is None:
        return 5
    if str(text).lower() == "none":
        return None
    try:
        return int(str(text))
    except ValueError:
        raise ConfigError(
            f"FSM_STORE_URL has prepare_threshold={text}: write a number, or none, so that psycopg "
            f"prepares no statements."
        ) from None


def _no_driver(scheme: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"FSM_STORE_URL begins with {scheme}://, whose driver is not installed ({error}). Install "
        f"it, or name another one, as in postgresql+psycopg://"
    )


def _write_ahead(cursor: Any, timeout: float) -> None:
    """Switch a SQLite file to write-ahead logging, which it then keeps.

    Here SQLite does not wait for another writer, whatever its busy timeout, so this tries again.
    """
    end = monotonic() + timeout
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except Exception as error:
            if "locked" not in str(error) or monotonic() > end:
                raise
            sleep(0.02)


def engine_finder(source: Any) -> Callable[[], sa.Engine] | None:
    """Return a function that returns the engine of an object of the app; None if it has none."""
    if isinstance(source, sa.Engine):
        return lambda: source
    if isinstance(source, (Session, scoped_session)):
        return lambda: source.get_bind().engine
    kinds = {kind.__module__.partition(".")[0] for kind in type(source).__mro__}
    if kinds & {"flask_sqlalchemy", "flask_sqlalchemy_lite"} and hasattr(type(source), "engine"):
        return lambda: source.engine  # this needs an app context
    return None


def _database(url: sa.URL) -> tuple[Any, ...]:
    """Return what identifies a database, however its URL is written."""
    name = url.database
    if url.get_backend_name() == "sqlite" and name:
        name = str(Path(name).absolute())
    return url.get_backend_name(), url.host, url.port, name


def same_database(one: sa.Engine, other: sa.Engine) -> bool:
    """Return whether two engines are bound to one database, however their URLs are written."""
    return _database(one.url) == _database(other.url)


def acquire_write_lock(connection: sa.Connection) -> None:
    """On SQLite, acquire the write lock now: a transaction that reads first may fail to later."""
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.dbapi_connection
        if not connection.in_transaction():
            connection.begin()  # the app's engine may begin one in its own event handler
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
