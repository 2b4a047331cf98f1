"""A session of the app, in whose transaction flows are committed, and how this transaction ends.

The app may end it, or a savepoint in it, at any time: by `rollback()`, `close()`, `commit()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.orm import Session, SessionTransaction, SessionTransactionOrigin, scoped_session

from ...errors import ConfigError, StoreUnavailable
from ..records.errors import unavailable
from ..records.model import Address, Record
from .connections import ACTIVE, cancel_when_given_up
from .engine import acquire_write_lock, same_database
from .errors import redact, translated_sql, translation

__all__ = ["CallerSession"]

# The states of a transaction in libpq, beside ACTIVE: there is none; statements can be run; one has
# failed, so that COMMIT will roll back.
NO_TRANSACTION: Final = 0
IN_TRANSACTION: Final = 2
FAILED: Final = 3


OUTER: Final = (
    "The session given to transaction() is in an outer transaction of its connection, which ends "
    "with a commit or rollback of yours, after transaction() would have told of its steps. Bind "
    "the session to the engine. A test suite that rolls an outer transaction back can give each "
    "test a database of its own instead, or delete the rows afterwards."
)


@dataclass(frozen=True, eq=False)
class Write:
    """A record that was written at an address, and the scope of what depends on it."""

    address: Address
    record: Record


class CallerSession:
    """A session of the app with which commits of flows take part.

    Args:
        session: An SQLAlchemy session, perhaps a scoped one.
        engine: The engine of the store.
        read: Reads the record at an address, within the transaction of a connection.

    Raises:
        ConfigError: `session` is not a session, is bound to another database, commits by itself, or
            is in a transaction that the app has begun and will commit.
    """

    def __init__(
        self,
        session: Any,
        engine: sa.Engine,
        read: Callable[[sa.Connection, Address], Record | None],
    ) -> None:
        if not isinstance(session, (Session, scoped_session)):
            raise ConfigError(
                f"transaction() takes an SQLAlchemy session, or None to open a new one; not "
                f"{session!r}."
            )
        self.session: Session | scoped_session[Any] = session
        self.ended: Callable[[object, bool], None] = lambda scope, committed: None
        self._engine = engine
        self._read = read
        self._writes: list[Write] = []
        self._watched: list[tuple[Session, Sequence[tuple[str, Callable[..., None]]]]] = []
        self._committed: SessionTransaction | None = None
        self._connection: sa.Connection | None = None
        self._written = False
        current = self._current()
        begun = current.get_transaction()
        if begun is not None and (
            begun.origin is SessionTransactionOrigin.BEGIN or current.in_nested_transaction()
        ):
            raise ConfigError(
                "The session given to transaction() is inside `with session.begin():` or "
                "begin_nested(), which ends with a commit of yours; transaction() would commit "
                "before it. Write `with fsm.transaction(session):` in its place, or begin a "
                "savepoint inside of it."
            )
        bind = current.get_bind()
        # A transaction of a connection that the session has used already may be its own.
        if isinstance(bind, sa.Connection) and (
            bind.in_nested_transaction() or (begun is None and bind.in_transaction())
        ):
            raise ConfigError(OUTER)
        self.connection()
        self._written = False

    def _current(self) -> Session:
        return self.session() if isinstance(self.session, scoped_session) else self.session

    def connection(self) -> sa.Connection:
        """Return the connection on which the session's transaction is, in which flows commit."""
        session = self._current()
        bound = session.get_bind().engine
        if not same_database(bound, self._engine):
            raise ConfigError(
                f"The session given to transaction() is bound to {bound.url!r}, but flows are "
                f"stored in {self._engine.url!r}: only one database can commit both."
            )
        cancel_when_given_up(bound)
        if not session.in_transaction():
            session.begin()  # a session may have autobegin=False
        with translated_sql():
            connection = session.connection()
            if getattr(connection.connection.dbapi_connection, "autocommit", None) is True:
                raise ConfigError(
                    "The session given to transaction() uses AUTOCOMMIT, so nothing could be "
                    "rolled back: use an engine with another isolation level."
                )
            acquire_write_lock(connection)
        self._connection = connection
        self._written = True
        if all(session is not watched for watched, _ in self._watched):
            listeners = self._listeners()
            self._watched.append((session, listeners))
            for name, listener in listeners:
                event.listen(session, name, listener)
        return connection

    def wrote(self, address: Address, record: Record) -> None:
        """Note what was written, so that `verify` can find out whether it is still there."""
        self._writes.append(Write(address, record))

    def scopes(self) -> tuple[object, ...]:
        """Return the open transaction, its savepoints, and the latest write."""
        session = self._current()
        found: list[object] = [*self._writes[-1:]]
        scope = session.get_nested_transaction() or session.get_transaction()
        while scope is not None:
            found.append(scope)
            scope = scope.parent
        return tuple(found)

    def verify(self) -> None:
        """Report the writes that the transaction does not hold any more, newest first.

        The session does not notice the end of a savepoint that its connection or SQL text has set.
        """
        writes, self._writes = self._writes, []
        connection = self._connection
        if not writes or connection is None or connection.closed or connection.invalidated:
            return
        if self._status() in (NO_TRANSACTION, FAILED):
            return  # nothing of it will be kept
        with translated_sql():
            stored = {
                address: self._read(connection, address) for address in {w.address for w in writes}
            }
        for write in reversed(writes):
            # What was written before the stored record was there when that replaced it.
            if stored.get(write.address) == write.record:
                del stored[write.address]
            elif write.address in stored:
                self.ended(write, False)

    def commit(self) -> None:
        """Commit, unless the database has given the transaction up.

        Errors of the app's own statements are raised unchanged.
        """
        if self._status() in (NO_TRANSACTION, FAILED):
            self.roll_back()
            return
        try:
            self.session.commit()
        except exc.DBAPIError as error:
            translated = translation(error, ours=False)
            if translated is None:
                raise
            redact(error)
            raise translated from error
        outer = None if self._connection is None else self._connection.get_transaction()
        if outer is not None:  # nothing is committed
            outer.rollback()
            raise ConfigError(OUTER)

    def roll_back(self, error: BaseException | None = None) -> None:
        """Roll back, because of `error` if there is one; it may raise a better error.

        A connection on which `error` has interrupted a statement is given up.
        """
        busy = self._status() == ACTIVE
        if error is not None and (busy or not isinstance(error, Exception)):
            self._give_up()
            cause = self._interruption(error) if busy else error
            if cause is not error:
                raise cause
            return
        try:
            self.session.rollback()
        except Exception as failure:
            self._give_up()
            if isinstance(failure, exc.StatementError):
                redact(failure)
            raise unavailable() from failure
        if isinstance(error, exc.DBAPIError):
            translated = translation(error, ours=False)
            if isinstance(translated, StoreUnavailable):
                redact(error)
                raise translated from error

    def close(self) -> None:
        """Stop observing the session."""
        for session, listeners in self._watched:
            for name, listener in listeners:
                event.remove(session, name, listener)
        self._watched.clear()

    def _give_up(self) -> None:
        with suppress(Exception):
            self._current().invalidate()

    def _interruption(self, error: BaseException) -> BaseException:
        """Return what interrupted a statement, after which SQLAlchemy could not roll back."""
        driver = self._engine.dialect.loaded_dbapi.Error
        found: BaseException | None = error
        while isinstance(found, (exc.SQLAlchemyError, driver)):
            found = found.__cause__ or found.__context__
        return error if found is None else found

    # -- what becomes of the transaction ------------------------------------------------

    def _listeners(self) -> Sequence[tuple[str, Callable[..., None]]]:
        return (
            ("do_orm_execute", lambda state: self._check(state.session, NO_TRANSACTION)),
            ("before_flush", lambda session, *_: self._check(session, NO_TRANSACTION)),
            ("before_commit", self._before_commit),
            ("after_commit", self._after_commit),
            ("after_transaction_end", self._after_end),
        )

    def _before_commit(self, session: Session) -> None:
        """Report a transaction of which a commit by the app will keep nothing."""
        if not session.in_nested_transaction():
            self._check(session, NO_TRANSACTION, FAILED)
            self.verify()

    def _check(self, session: Session, *lost: int) -> None:
        """Report the transaction as rolled back if its state is one of these.

        The database may do that by itself, and the driver then begins another one unasked.
        """
        if self._written and self._status() in lost:
            self._written = False
            self._writes.clear()
            self.ended(session.get_transaction(), False)

    def _status(self) -> int | None:
        """Return the state of the transaction in libpq's numbers; None if it is not known."""
        connection = self._connection
        if connection is None or connection.closed or connection.invalidated:
            return None
        driver: Any = connection.connection.dbapi_connection
        if hasattr(driver, "in_transaction"):  # SQLite
            return IN_TRANSACTION if driver.in_transaction else NO_TRANSACTION
        status = getattr(getattr(driver, "info", None), "transaction_status", None)
        return None if status is None else int(status)

    def _after_commit(self, session: Session) -> None:
        nested, connection = session.get_nested_transaction(), self._connection
        if nested is None and connection is not None and connection.in_transaction():
            return  # an outer transaction of the connection, which is not committed
        self._committed = nested or session.get_transaction()

    def _after_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._writes.clear()
        if transaction is not self._committed:
            self.ended(transaction, False)
        elif transaction.parent is None:
            self.ended(transaction, True)
