"""Connections of psycopg that do not wait forever, neither for a lock nor for a silent server.

They also work behind PgBouncer in transaction mode, which gives each transaction another connection
to the server: there settings and prepared statements do not stay with their connection.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any, Final

import psycopg

from .connections import cancel_statement, closed_on_failure
from .errors import REFUSED_PARAMETER

__all__ = ["BoundedConnection", "Connector"]

# A setting of our own. Who can read it is connected directly: a pooler may also ignore `options`.
MARK: Final = "flask_fsm.direct"


class BoundedConnection(psycopg.Connection[Any]):
    """Closes itself if the server is silent for longer than `patience`, in seconds; None: never.

    Timeouts of the server and of TCP don't help where the server takes the bytes and never answers.
    """

    patience: float | None = None

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        if self.patience is None:
            return super().wait(gen, *args, **options)
        return super().wait(self._bounded(gen, monotonic() + self.patience), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, Any], end: float) -> Generator[Any, Any, Any]:
        """Pass on the events of the socket until the deadline."""
        try:
            wanted = next(gen)
            while True:
                happened = yield wanted
                if monotonic() > end and not happened:
                    cancel_statement(self)
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                wanted = gen.send(happened)
        except StopIteration as done:
            return done.value


class Connector:
    """Opens connections to one server or pooler.

    Args:
        patience: How long to wait for the server, in seconds.
        wait: How long the server may wait for a lock, in seconds. A pooler does not pass this on:
            behind one, `patience` is the bound.
        prepare_threshold: How often a statement is run before psycopg prepares it; None: never.
            Behind a pooler it is never prepared.
    """

    def __init__(self, patience: float, wait: float, prepare_threshold: int | None) -> None:
        self._patience = patience
        self._threshold = prepare_threshold
        self._settings = f"-c lock_timeout={round(wait * 1000)} -c {MARK}=on"
        self._pooled = prepare_threshold is None

    def connect(self, *args: Any, **options: Any) -> BoundedConnection:
        """Open a connection; the arguments are those of psycopg."""
        if not self._pooled:
            settings = f"{options.get('options', '')} {self._settings}".strip()
            try:
                return self._opened(*args, **{**options, "options": settings})
            except psycopg.OperationalError as error:
                if not any(text in str(error) for text in REFUSED_PARAMETER):
                    raise
                self._pooled = True
        return self._opened(*args, **options)

    def _opened(self, *args: Any, **options: Any) -> BoundedConnection:
        connection = BoundedConnection.connect(*args, **options)
        with closed_on_failure(connection):
            connection.patience = self._patience
            connection.prepare_threshold = None if self._pooled else self._threshold
            if not self._pooled:
                marked = connection.execute(f"SELECT current_setting('{MARK}', true)").fetchone()
                connection.rollback()
                if marked != ("on",):
                    connection.prepare_threshold = None
        return connection
