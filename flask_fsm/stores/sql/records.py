"""Flows in a database, by SQLAlchemy: SQLite, PostgreSQL, and others that it supports.

A commit is a compare-and-swap: one UPDATE whose WHERE names the version that it replaces, and the
INSERT of its history, in one transaction. On a conflict the UPDATE finds no row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Final, TypeVar
from weakref import finalize

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session

from ...config import Config
from ...core.history import Entry
from ...errors import FlowBusy, FSMError, StaleFlow, StoreUnavailable
from ...reports.funnel import Funnel, LogEntry, arrange
from ..base import StoredReply, Version
from ..records.errors import leased_elsewhere, lost_race
from ..records.model import Address, HistoryRow, Record, longest_lease
from .caller_session import CallerSession
from .connections import cancel_when_given_up
from .engine import acquire_write_lock
from .errors import translated_sql
from .fast_sql import FastSQL
from .funnel_sql import count
from .statements import (
    SKIPS_DUPLICATES,
    Statements,
    address_values,
    record_values,
    tables,
    update_values,
    version_values,
)

__all__ = ["SQLRecords"]

T = TypeVar("T")
# How many commits after the form's rev are searched for a submission, which may have made several.
SPAN: Final = 16
BATCH: Final = 10_000


class SQLRecords:
    """Keeps records in a database.

    Args:
        find_engine: Returns the engine. It is called when the engine is first needed.
        config: FSM_FLOW_TABLE, FSM_HISTORY_TABLE, FSM_HISTORY_LIMIT, FSM_FLOWS_PER_SUBJECT,
            FSM_ONCE_LEASE and FSM_STORE_TIMEOUT apply.
        own: Whether only these records use the engine, so that it is disposed of with them.
    """

    def __init__(
        self, find_engine: Callable[[], sa.Engine], config: Config, *, own: bool = False
    ) -> None:
        self._find_engine = find_engine
        self._own = own
        self._engine: sa.Engine | None = None
        self._process = os.getpid()
        self._history_limit = config.history_limit
        self._flows_per_owner = config.flows_per_subject
        self._longest_lease = longest_lease(config.once_lease)
        self._timeout = config.store_timeout
        self.metadata: sa.MetaData = tables(config.flow_table, config.history_table)
        self._flow = self.metadata.tables[config.flow_table]
        self._history = self.metadata.tables[config.history_table]
        self._statements = Statements(self._flow, self._history)
        self._fast: FastSQL | None = None

    # -- connections --------------------------------------------------------------------

    @property
    def engine(self) -> sa.Engine:
        """The engine, with connections that belong to this process."""
        if self._engine is None:
            self._engine = self._find_engine()
            cancel_when_given_up(self._engine)
            if FastSQL.supports(self._engine):
                each = ("read", "update", "append", "move")
                statements = {name: getattr(self._statements, name) for name in each}
                self._fast = FastSQL(self._engine, statements)
            if self._own:
                # Not at exit: in a forked process the connections are those of its parent.
                finalize(self, self._engine.dispose).atexit = False
        if self._process != os.getpid():  # a server has forked its workers since
            self._engine.dispose(close=False)
            self._process = os.getpid()
        return self._engine

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        """Open a connection, and discard it if something interrupts a statement.

        GreenletExit, gevent.Timeout and exceptions of signal handlers leave it in the middle of an
        exchange with the server.
        """
        with translated_sql(), self.engine.connect() as connection:
            try:
                yield connection
            except (exc.SQLAlchemyError, FSMError, GeneratorExit):
                raise
            except BaseException:
                connection.invalidate()
                raise

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """Open a transaction that is committed at the end of the block."""
        with self._connected() as connection:
            if connection.dialect.name == "postgresql":  # an engine may commit by itself
                connection.execution_options(isolation_level="READ COMMITTED")
            acquire_write_lock(connection)
            yield connection
            connection.commit()

    @contextmanager
    def _unbounded(self) -> Iterator[sa.Connection]:
        """Open a connection without the bound on waiting, for reports and purges."""
        with self._connected() as connection:
            driver = connection.connection.dbapi_connection
            patience = getattr(driver, "patience", None)
            if patience is not None:
                driver.patience = None  # type: ignore[union-attr]
            try:
                yield connection
            finally:
                if patience is not None:
                    driver.patience = patience  # type: ignore[union-attr]

    @contextmanager
    def _autocommit(self) -> Iterator[sa.Connection]:
        """Open a connection for a single statement, without the round trips of a transaction."""
        with self._connected() as connection:
            if connection.dialect.name != "sqlite":  # SQLite has no round trips to save
                connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    def _rows(self, statement: Any, values: dict[str, Any] | None = None) -> Sequence[Any]:
        def ask() -> Sequence[Any]:
            with self._autocommit() as connection:
                return connection.execute(statement, values).all()

        return self._retried(ask)

    def _retried(self, ask: Callable[[], T]) -> T:
        """Call `ask`, a second time if the server has closed the connection since its last use."""
        try:
            return ask()
        except StoreUnavailable as error:
            cause = error.__cause__
            if not (isinstance(cause, exc.DBAPIError) and cause.connection_invalidated):
                raise
        return ask()

    @contextmanager
    def transaction(self, session: Any) -> Iterator[CallerSession]:
        """Take part in the transaction of a session, of a new one if it is None."""
        own = Session(self.engine) if session is None else nullcontext(session)
        with (
            own as opened,
            closing(CallerSession(opened, self.engine, self._read_within)) as caller,
        ):
            yield caller

    def _read_within(self, connection: sa.Connection, address: Address) -> Record | None:
        row = connection.execute(self._statements.read, address_values(address)).first()
        return None if row is None else Record(*row)

    # -- the operations of a store ------------------------------------------------------

    def read(self, address: Address) -> Record | None:
        if self.engine is None or self._fast is None:
            rows = self._rows(self._statements.read, address_values(address))
            return Record(*rows[0]) if rows else None
        fast, values = self._fast, address_values(address)

        def ask() -> Any:
            with translated_sql(), fast.cursor(self._timeout) as cursor:  # a read waits for no lock
                fast.execute(cursor, "read", values)
                return cursor.fetchone()

        row = self._retried(ask)
        return None if row is None else Record(*row)

    def write(
        self,
        address: Address,
        version: Version | None,
        record: Record,
        logged: Sequence[HistoryRow],
        *,
        lease: str,
        now: int,
        within: CallerSession | None,
    ) -> None:
        if within is not None:
            with translated_sql():
                connection = within.connection()
                self._put(connection, address, version, record, lease, now)
                self._append(connection, logged)
            within.wrote(address, record)
            return
        if self.engine is not None and self._fast is not None and version and len(logged) == 1:
            values = update_values(address, version, record, lease, now, now + self._longest_lease)
            if not self._swap(self._fast, values, logged[0]):
                with self._autocommit() as connection:
                    raise self._conflict(connection, address, version)
            return
        with self._transaction() as connection:
            self._put(connection, address, version, record, lease, now)
            self._append(connection, logged)

    def _swap(self, fast: FastSQL, values: dict[str, Any], row: HistoryRow) -> bool:
        """Compare and swap a record and append one row of history; return whether it was there."""
        with translated_sql(), fast.cursor() as cursor:
            if self.engine.dialect.name == "postgresql":
                # Both by one statement: one round trip in place of four.
                moved = values | {f"row_{name}": value for name, value in row._asdict().items()}
                fast.execute(cursor, "move", moved)
                return bool(cursor.rowcount == 1)
            if not cursor.connection.in_transaction:
                cursor.execute("BEGIN IMMEDIATE")
            fast.execute(cursor, "update", values)
            found = bool(cursor.rowcount == 1)
            if found:
                fast.execute(cursor, "append", row._asdict())
            cursor.execute("COMMIT")
            return found

    def _put(
        self,
        connection: sa.Connection,
        address: Address,
        version: Version | None,
        record: Record,
        lease: str,
        now: int,
    ) -> None:
        if version is None:
            self._insert(connection, address, record_values(record))
            return
        values = update_values(address, version, record, lease, now, now + self._longest_lease)
        if connection.execute(self._statements.update, values).rowcount != 1:
            raise self._conflict(connection, address, version)

    def _insert(self, connection: sa.Connection, address: Address, values: dict[str, Any]) -> None:
        owner, machine, key = address
        values |= {"owner": owner, "machine": machine, "slot": key}
        insert = self._statements.insert(connection.dialect.name)
        try:
            taken = connection.execute(insert, values).rowcount != 1
        except exc.IntegrityError:
            if connection.dialect.name in SKIPS_DUPLICATES:
                raise  # a constraint that somebody has added
            taken = True
        if taken:
            raise lost_race()
        if key:
            self._drop_oldest(connection, address)

    def _drop_oldest(self, connection: sa.Connection, fresh: Address) -> None:
        """Delete an owner's surplus flows; tombstones first, then the oldest."""
        flow, (owner, machine, key) = self._flow.c, fresh
        others = (flow.owner == owner, flow.machine == machine, flow.slot != key)
        surplus = connection.scalars(
            sa.select(flow.slot)
            .where(*others)
            .order_by(sa.case((flow.record == "", 1), else_=0), flow.updated.desc(), flow.slot)
            .offset(self._flows_per_owner - 1)
            .limit(BATCH)
        ).all()
        if surplus:
            connection.execute(sa.delete(self._flow).where(*others, flow.slot.in_(list(surplus))))

    def _append(self, connection: sa.Connection, logged: Sequence[HistoryRow]) -> None:
        if logged:
            rows = [row._asdict() for row in logged]
            connection.execute(self._statements.append, rows if len(rows) > 1 else rows[0])

    def _conflict(
        self, connection: sa.Connection, address: Address, version: Version
    ) -> FlowBusy | StaleFlow:
        """Return why a write found no row: a conflict, or somebody else's lease."""
        row = connection.execute(self._statements.read, address_values(address)).first()
        if row is None or row[:2] != version:
            return lost_race(None if row is None else row[2])
        return leased_elsewhere()

    def move(
        self,
        source: Address,
        source_version: Version,
        tombstone: Record,
        target: Address,
        target_version: Version | None,
        record: Record,
        now: int,
    ) -> None:
        with self._transaction() as connection:
            self._put(connection, source, source_version, tombstone, "", now)
            self._put(connection, target, target_version, record, "", now)

    def acquire_lease(
        self, address: Address, version: Version, lease: str, now: int, until: int
    ) -> None:
        values = {
            **address_values(address),
            **version_values(version),
            "now": now,
            "lease": lease,
            "until": until,
        }
        values["horizon"] = now + self._longest_lease
        with self._transaction() as connection:
            if connection.execute(self._statements.acquire_lease, values).rowcount != 1:
                raise self._conflict(connection, address, version)

    def release_lease(self, address: Address, version: Version, lease: str) -> None:
        with self._transaction() as connection:
            values = {**address_values(address), **version_values(version), "lease": lease}
            connection.execute(self._statements.release_lease, values)

    def owner_records(self, owner: str, machine: str) -> list[tuple[str, Record]]:
        rows = self._rows(self._statements.listed, {"at_owner": owner, "at_machine": machine})
        return [(key, Record(*record)) for key, *record in rows]

    def history(self, address: Address, flow: str, rev: int) -> list[Entry]:
        statement = self._statements.history
        if self._history_limit is not None:
            statement = statement.limit(self._history_limit)
        rows = self._rows(statement, {"flow": flow, "rev": rev})
        return [Entry(*row) for row in reversed(rows)]

    def stored_reply(self, address: Address, flow: str, rev: int, nonce: str) -> StoredReply | None:
        values = {"flow": flow, "rev": rev, "last": rev + SPAN, "nonce": nonce}
        rows = self._rows(self._statements.stored_reply, values)
        return StoredReply(*rows[0]) if rows else None

    # -- the history of all runs --------------------------------------------------------

    def _between(
        self, machine: str | None, since: int | None, until: int | None
    ) -> list[sa.ColumnElement[bool]]:
        history = self._history.c
        wanted = []
        if machine is not None:
            wanted.append(history.machine == machine)
        if since is not None:
            wanted.append(history.at >= since)
        if until is not None:
            wanted.append(history.at < until)
        return wanted

    def log(self, machine: str | None, since: int | None, until: int | None) -> Iterator[LogEntry]:
        history = self._history.c
        statement = (
            sa.select(*(history[name] for name in LogEntry._fields))
            .where(*self._between(machine, since, until))
            .order_by(history.at, history.flow, history.rev, history.n)
        )
        with self._unbounded() as connection:
            options = {"yield_per": BATCH}
            for row in connection.execute(statement, execution_options=options):
                yield LogEntry(*row)

    def funnel(
        self,
        machine: str,
        states: Sequence[str],
        initial: str,
        since: int | None,
        until: int | None,
    ) -> Funnel:
        wanted = self._between(machine, since, until)
        with self._unbounded() as connection:
            # The statements are large and differ from call to call: not worth caching.
            connection.execution_options(compiled_cache=None)
            return arrange(machine, states, *count(connection, self._history, wanted, initial))

    def init(self) -> None:
        with self._transaction() as connection:
            if connection.dialect.name == "postgresql":
                # Two processes that make the same table at once would fail.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7305434919)"))
            self.metadata.create_all(connection)

    def purge(self, before: int, history_before: int | None) -> int:
        with self._unbounded() as connection:
            acquire_write_lock(connection)
            flows = sa.delete(self._flow).where(self._flow.c.updated < before)
            removed = connection.execute(flows).rowcount
            if history_before is not None:
                old = sa.delete(self._history).where(self._history.c.at < history_before)
                connection.execute(old)
            connection.commit()
        return removed
