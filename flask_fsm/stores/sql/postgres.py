"""A connection of psycopg that does not wait forever for a server that hangs."""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any

import psycopg

__all__ = ["BoundedConnection"]


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
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                wanted = gen.send(happened)
        except StopIteration as done:
            return done.value
