"""Runs the statements of every request by the driver's own cursor, on SQLAlchemy's connections.

SQLAlchemy compiles them and pools the connections. What it does around each execution is skipped:
on SQLite that takes several times as long as the statement itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc

from .errors import sqlstate

__all__ = ["FastSQL"]

# The drivers for which we know how to run a single statement without a transaction around it.
DRIVERS: Final = ("pysqlite", "psycopg")
# A migration has changed the type of a column since the connection prepared its statements.
STALE_PLAN: Final = "0A000"


class FastSQL:
    """Runs named statements on the connections of an engine.

    Args:
        engine: One for whose driver `supports` returns True.
        statements: SQLAlchemy statements by their names.
    """

    def __init__(self, engine: sa.Engine, statements: Mapping[str, Any]) -> None:
        self._engine = engine
        self._dialect: Any = engine.dialect
        self._waits = self._dialect.driver == "psycopg"
        self._texts: dict[str, tuple[str, tuple[str, ...] | None]] = {}
        for name, statement in statements.items():
            compiled: Any = statement.compile(dialect=self._dialect)
            names = tuple(compiled.positiontup) if compiled.positional else None
            self._texts[name] = compiled.string, names

    @staticmethod
    def supports(engine: sa.Engine) -> bool:
        """Return whether this class supports the driver of an engine."""
        return engine.dialect.driver in DRIVERS

    @contextmanager
    def cursor(self, patience: float | None = None) -> Iterator[Any]:
        """Open a cursor whose statements commit by themselves, unless they begin a transaction.

        `patience` is how many seconds to wait for the server, if this package opened the engine.
        """
        try:
            connection = self._engine.raw_connection()
        except self._dialect.dbapi.Error as error:
            raise self._wrapped(error, lost=True) from error
        driver: Any = connection.dbapi_connection
        before = driver.autocommit if self._waits else None
        usual = getattr(driver, "patience", None)
        try:
            if usual is not None and patience is not None:
                driver.patience = patience
            if before is False:
                driver.autocommit = True
            cursor = driver.cursor()
            try:
                yield cursor
            finally:
                cursor.close()
        except self._dialect.dbapi.Error as error:
            stale = sqlstate(error) == STALE_PLAN
            lost = stale or self._dialect.is_disconnect(error, driver, None)
            if lost:
                connection.invalidate(error)
                self._engine.dispose()  # the pool's other connections are older, and lost too
            raise self._wrapped(error, lost) from error
        except BaseException:
            # GreenletExit, a signal handler's exception: it may be in the middle of a statement.
            connection.invalidate()
            raise
        finally:
            try:
                if connection.is_valid:
                    driver.rollback()  # nothing, unless a transaction was begun and not ended
                    if before is False:
                        driver.autocommit = False
                    if usual is not None:
                        driver.patience = usual
            except self._dialect.dbapi.Error as error:
                connection.invalidate(error)
            connection.close()

    def _wrapped(self, error: Exception, lost: bool) -> BaseException:
        """Return the error that SQLAlchemy would raise for one of the driver."""
        return exc.DBAPIError.instance(
            None,
            None,
            error,
            self._dialect.dbapi.Error,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=self._dialect,
        )

    def execute(self, cursor: Any, name: str, values: Mapping[str, Any]) -> None:
        """Run a statement; the cursor then has its rows, or the number of rows that it changed."""
        text, names = self._texts[name]
        cursor.execute(text, values if names is None else [values[each] for each in names])
