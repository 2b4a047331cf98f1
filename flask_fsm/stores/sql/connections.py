"""What becomes of a connection that fails while it is opened, or is given up amid a statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

__all__ = ["ACTIVE", "cancel_statement", "cancel_when_given_up", "closed_on_failure"]

# Of libpq: the server is running a statement.
ACTIVE: Final = 1
PATIENCE: Final = 1.0
"""How many seconds to wait for a server to take a cancellation."""


@contextmanager
def closed_on_failure(connection: Any) -> Iterator[None]:
    """Close a connection of a driver if the block, which prepares it for use, raises."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def cancel_statement(connection: Any, *_: object) -> None:
    """Cancel the statement that a server runs for a connection of psycopg, if it runs one.

    PostgreSQL does not notice that nobody waits for it any more: the statement would keep its locks
    or its place in the queue for one, and commit later.
    """
    cancel = getattr(connection, "cancel_safe", None)
    if cancel is not None and connection.info.transaction_status == ACTIVE:
        with suppress(Exception):
            cancel(timeout=PATIENCE)


def cancel_when_given_up(engine: sa.Engine) -> None:
    """Have each connection of an engine that is invalidated cancel its statement first."""
    if not event.contains(engine, "invalidate", cancel_statement):
        event.listen(engine, "invalidate", cancel_statement)
