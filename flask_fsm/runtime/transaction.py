"""The caller's database transaction, in which the transitions of a request take part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from flask import Response, after_this_request, current_app, g, request
from werkzeug.exceptions import InternalServerError

from ..errors import ConfigError
from ..responses import no_store
from ..stores import RecordStore
from ..stores.records.model import CallerTransaction
from .app_state import unwrap

__all__ = ["TRANSACTION", "Transaction", "current_transaction", "transaction"]

log: Final = logging.getLogger("flask_fsm")

TRANSACTION: Final = "_fsm_transaction"
"""The attribute of `g` that holds the current transaction."""


class PendingChange:
    """What takes part in the caller's transaction: a commit of a flow, or a message to its clients.

    Args:
        scopes: The transaction and the savepoints in which it is.
        notify: Called after the commit.
        undo: Called if it is rolled back.
        moves: Whether it is a transition.
    """

    __slots__ = ("_undo", "answer", "moves", "notify", "scopes")

    def __init__(
        self,
        scopes: tuple[object, ...],
        notify: Callable[[], None],
        undo: Callable[[], None],
        moves: bool,
    ) -> None:
        self.scopes: tuple[object, ...] = scopes
        self.notify: Callable[[], None] = notify
        self._undo = undo
        self.moves: bool = moves
        self.answer: Response | None = None
        """The response to it, for the view to return."""

    def undo(self) -> None:
        """Undo it in memory, and make sure that its response is not sent."""
        self._undo()
        if self.answer is not None:
            after_this_request(partial(_replaced, self.answer))


class Transaction:
    """The changes in a caller's transaction, which may be committed or rolled back at any time."""

    def __init__(self, caller: CallerTransaction) -> None:
        self.caller: CallerTransaction = caller
        """In which a store writes."""
        self.session: Any = caller.session
        self.failed: bool = False
        """Whether a part of it has failed, so that it must not be committed."""
        self._open: list[PendingChange] = []
        self._committed: list[PendingChange] = []
        caller.ended = self._ended

    @property
    def moved(self) -> bool:
        """Whether a transition was made in it, and not undone."""
        return any(change.moves for change in (*self._committed, *self._open))

    def join(
        self, notify: Callable[[], None], undo: Callable[[], None], *, moves: bool = True
    ) -> None:
        """Call `notify` after the commit, or `undo` on a rollback.

        `moves` says whether a transition was made, without which nothing is committed.
        """
        self._open.append(PendingChange(self.caller.scopes(), notify, undo, moves))

    def answered(self, response: Response) -> None:
        """Note the response to the latest change, which must not be sent if that is undone."""
        if self._open:
            self._open[-1].answer = response

    def _ended(self, scope: object, committed: bool) -> None:
        """Settle the changes in a scope: undo them, newest first, unless they are committed."""
        inside = [change for change in self._open if scope in change.scopes]
        self._open = [change for change in self._open if scope not in change.scopes]
        if committed:
            self._committed += inside
        else:
            for change in reversed(inside):
                change.undo()

    def keep_messages(self) -> None:
        """Keep the messages of a block without a transition: it is rolled back but not failed."""
        self._committed += self._open
        self._open = []

    def end(self) -> None:
        """Undo what was not committed, and notify of everything that was, in order."""
        while self._open:
            self._open.pop().undo()
        for change in self._committed:
            change.notify()


def _replaced(answer: Response, response: Response) -> Response:
    """Return a 500 in place of the `answer` of a step that was undone, else the response."""
    if response is not answer:
        return response
    log.error(
        "The view of %r returned the response of a transition that was rolled back in "
        "fsm.transaction(), so the client gets 500. After a rollback return another response, or "
        "let the exception leave the block.",
        request.endpoint,
    )
    error = current_app.handle_http_exception(InternalServerError())
    return no_store(current_app.make_response(error))


def current_transaction() -> Transaction | None:
    """Return the caller's transaction in which commits of this request take part, if any."""
    found: Transaction | None = unwrap(g).get(TRANSACTION)
    return found


@contextmanager
def transaction(store: RecordStore, session: Any) -> Iterator[Any]:
    """Commit the transitions of the block with `session`, a new one of the store's if None.

    The session is rolled back if the block raises, or makes no transition that is still valid.
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
    with store.transaction(session) as caller:
        inner = Transaction(caller)
        setattr(unwrap(g), TRANSACTION, inner)
        try:
            yield caller.session
            caller.verify()
            if inner.moved and not inner.failed:
                caller.commit()
            else:
                if not inner.failed:
                    inner.keep_messages()
                caller.roll_back()
        except BaseException as error:
            caller.roll_back(error)
            raise
        finally:
            unwrap(g).pop(TRANSACTION, None)
            inner.end()
