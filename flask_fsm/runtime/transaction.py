"""The caller's database transaction, in which the transitions of a request take part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from flask import g

from ..errors import ConfigError
from ..stores import RecordStore
from .app_state import unwrap

__all__ = ["TRANSACTION", "Transaction", "current_transaction", "transaction"]

TRANSACTION: Final = "_fsm_transaction"
"""The attribute of `g` that holds the current transaction."""


class Transaction:
    """Collects what is to be done after the caller's commit, or if it is rolled back."""

    def __init__(self, session: Any, connect: Callable[[], Any]) -> None:
        self.session = session
        self._connect = connect
        self.failed = False
        """Whether a part of it has failed, so that it must not be committed."""
        self.moved: bool = False
        """Whether a transition was made in it."""
        self._notifications: list[Callable[[], None]] = []
        self._undos: list[Callable[[], None]] = []

    @property
    def connection(self) -> Any:
        """The connection on which a store writes."""
        return self._connect()

    def join(
        self, notify: Callable[[], None], undo: Callable[[], None], *, moves: bool = True
    ) -> None:
        """Call `notify` after the commit, or `undo` on a rollback.

        `moves` says whether a transition was made, without which nothing is committed.
        """
        self.moved |= moves
        self._notifications.append(notify)
        self._undos.append(undo)

    def committed(self) -> None:
        """Notify of everything that was committed, in order."""
        for notify in self._notifications:
            notify()

    def rolled_back(self) -> None:
        """Undo everything in memory that was rolled back, newest first."""
        for undo in reversed(self._undos):
            undo()


def current_transaction() -> Transaction | None:
    """Return the caller's transaction in which commits of this request take part, if any."""
    found: Transaction | None = unwrap(g).get(TRANSACTION)
    return found


@contextmanager
def transaction(store: RecordStore, session: Any) -> Iterator[Any]:
    """Commit the transitions of the block with `session`, a new one of the store's if None.

    The session is rolled back if the block raises, or makes no transition.
    """
    outer = current_transaction()
    if outer is not None:
        if session is not None and session is not outer.session:
            raise ConfigError(
                "fsm.transaction() is nested in another one with a different session: only one "
                "session can commit with the transitions of a request."
            )
        try:
            yield outer.session
        except BaseException:
            outer.failed = True  # even if the outer block catches the exception
            raise
        return
    with store.transaction(session) as (joined, connect):
        inner = Transaction(joined, connect)
        setattr(unwrap(g), TRANSACTION, inner)
        try:
            yield joined
            if inner.moved and not inner.failed:
                store.finish(joined)
            else:
                joined.rollback()
            if inner.failed:
                inner.rolled_back()
        except BaseException:
            joined.rollback()
            inner.rolled_back()
            raise
        finally:
            unwrap(g).pop(TRANSACTION, None)
    if not inner.failed:
        inner.committed()
