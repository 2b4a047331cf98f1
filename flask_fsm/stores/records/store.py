"""The store of flows on a server, whether `memory://`, SQL or Redis; the session carries an id."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from ...core.flow import Clock
from ...core.machine import Machine
from ...core.snapshot import Receipt, Snapshot
from ...errors import Code, ConfigError, FlowBusy, SnapshotError, StaleFlow
from ...reports.funnel import Funnel, LogEntry
from ..base import (
    Choose,
    CommitResult,
    FlowLocator,
    LoadResult,
    StoredReply,
    SubmissionQuery,
    Version,
    digest,
)
from .links import LinkedFlows
from .login_merge import LoginMerge
from .mapper import FlowMapper
from .model import (
    Address,
    CallerTransaction,
    Cipher,
    HistoryRow,
    Records,
    SessionReference,
    Transactional,
    history_rows,
)

__all__ = ["RecordStore"]

log: Final = logging.getLogger("flask_fsm")
RESET_EVENT: Final = "reset"
"""The event that the history shows for a reset."""


class RecordStore:
    """Keeps flows as records on a server; the session carries only an id.

    Args:
        records: The server.
        cipher: Encrypts the ids of owned flows.
        max_size: FSM_MAX_SNAPSHOT_SIZE, in bytes.
        clock: Returns seconds since 1970.
    """

    def __init__(self, records: Records, cipher: Cipher, max_size: int, clock: Clock) -> None:
        self.records = records
        self.mapper: FlowMapper = FlowMapper(records, cipher, max_size, clock)
        """Finds the record of a flow."""
        self._clock = clock
        self.login: LoginMerge = LoginMerge(self.mapper)
        """Takes flows along at login."""
        self.links: LinkedFlows = LinkedFlows(self.mapper)
        """Finds flows by resume links."""

    # -- reading ------------------------------------------------------------------------

    def lock_name(self, locator: FlowLocator, session_value: str | None) -> str | None:
        """Return the name of a flow's lock: of its address, or of the id that the session has."""
        if locator.owned:
            return digest(repr(self.mapper.address(locator)))
        reference = SessionReference.read(session_value)
        return None if reference is None else reference.id

    def session_value(self, locator: FlowLocator, snapshot: Snapshot) -> str:
        """Return what the session carries of a flow: its id, and whether it has begun."""
        return self.mapper.session_value(locator, snapshot)

    def session_value_of(self, locator: FlowLocator, id: str) -> str | None:
        """Return what a session would carry of the flow with this id; None if there is none."""
        mapper = self.mapper
        record = self.records.read(mapper.address(locator, id))
        if record is None or not record.text:
            return None
        owner = mapper.owner(locator, "")[:16] if locator.owned else ""
        text = f"{id},1,{record.started},{owner}"
        if SessionReference.read(text) is None:
            return None
        if locator.owned and mapper.cipher.decrypt(record.sealed) not in (id, None):
            return None
        return text

    def load(
        self, locator: FlowLocator, session_value: str | None, expired_before: float, choose: Choose
    ) -> LoadResult:
        """Read a flow from the server; after a login, take the session's flow along."""
        reference = SessionReference.read(session_value)
        if session_value is not None and reference is None and not locator.owned:
            error = SnapshotError("The session carries no flow of a store on a server.")
            return LoadResult(missing_reason=error)
        mine = self.mapper.owner(locator, "")[:16] if locator.owned else ""
        if reference is not None and reference.owner != mine:
            if reference.owner or locator.subject is None:
                reference = None  # of another user, who had this session before
            else:
                return self.login.take_along(locator, reference, expired_before, choose)
        if not locator.owned and reference is None:
            return LoadResult()
        return self.mapper.load(locator, reference, expired_before)

    def stored_reply(self, locator: FlowLocator, query: SubmissionQuery) -> StoredReply | None:
        """Return the reply to a submission that was handled before: a double click, or a replay."""
        flow = (
            query.version.flow
            if query.version is not None and query.current
            else digest(query.flow)
        )
        address = self.mapper.address(locator, query.id)
        return self.records.stored_reply(address, flow, query.rev, query.nonce)

    # -- writing ------------------------------------------------------------------------

    def commit(
        self,
        locator: FlowLocator,
        version: Version | None,
        new: Snapshot,
        location: str | None,
        *,
        lease: str = "",
        within: Any = None,
    ) -> CommitResult:
        """Compare and swap: write `new` and its history if `version` is still there."""
        mapper = self.mapper
        address = mapper.address(locator, new.id)
        # A run is named when it begins, and keeps its name when its id changes.
        flow = digest(new.id) if new.rev == 1 or version is None else version.flow
        record = mapper.encode(locator, new, flow)
        rows = history_rows(flow, locator.machine, new, location)
        now = int(self._clock())
        try:
            self.records.write(address, version, record, rows, lease=lease, now=now, within=within)
        except (FlowBusy, StaleFlow) as error:
            error.flow = new.id  # records know no ids
            raise
        if within is None:
            committed = new.with_lazy_history(lambda: self.records.history(address, flow, new.rev))
        else:  # the rows are visible to this transaction only
            committed = new.with_lazy_history(lambda: new.history.entries)
        return CommitResult(committed, mapper.session_value(locator, new), record.version)

    def write_tombstone(
        self,
        locator: FlowLocator,
        version: Version | None,
        old: Snapshot,
        receipt: Receipt | None = None,
        location: str | None = None,
        *,
        lease: str = "",
        within: Any = None,
    ) -> Version:
        """End a flow for good by a record that says so; return the version of that record."""
        record = self.mapper.tombstone(version, old, Code.RESET)
        nonce, body = receipt or (None, None)
        rows = []
        if old.rev or receipt is not None:
            name, at = locator.machine.name, record.updated
            ends = (old.state, locator.machine.initial, RESET_EVENT, at, at - old.updated)
            rows = [HistoryRow(record.flow, record.rev, 0, name, *ends, nonce, body, location)]
        now = int(self._clock())
        address = self.mapper.address(locator, old.id)
        try:
            self.records.write(address, version, record, rows, lease=lease, now=now, within=within)
        except (FlowBusy, StaleFlow) as error:
            error.flow = old.id
            raise
        return record.version

    # -- leases -------------------------------------------------------------------------

    def acquire_lease(
        self,
        locator: FlowLocator,
        version: Version | None,
        snapshot: Snapshot,
        lease: str,
        until: int,
    ) -> Version:
        """Acquire the lease of a flow for a `once=True` transition: only its holder may commit.

        Args:
            locator: The flow.
            version: What was loaded.
            snapshot: The snapshot of that version.
            lease: A random name for the lease.
            until: When it ends by itself, in seconds since 1970.

        Returns:
            The version that the commit has to find.

        Raises:
            StaleFlow: A conflict: the flow has moved on.
            FlowBusy: Another request holds the lease.
        """
        now = int(self._clock())
        address = self.mapper.address(locator, snapshot.id)
        if version is None or not snapshot.rev:
            # A run that has not begun has no record yet, or that of the run before.
            record = self.mapper.encode(locator, snapshot, digest(snapshot.id))
            if version != record.version:
                try:
                    self.records.write(address, version, record, (), lease="", now=now, within=None)
                except (FlowBusy, StaleFlow):
                    found = self.records.read(address)
                    if found is None or found.version != record.version:
                        raise
                    # Another request is about to acquire the lease of the same run.
                version = record.version
        try:
            self.records.acquire_lease(address, version, lease, now, until)
        except (FlowBusy, StaleFlow) as error:
            error.flow = snapshot.id
            raise
        return version

    def release_lease(
        self, locator: FlowLocator, snapshot: Snapshot, version: Version, lease: str
    ) -> None:
        """Release a lease that did not lead to a commit."""
        self.records.release_lease(self.mapper.address(locator, snapshot.id), version, lease)

    # -- the caller's transaction -------------------------------------------------------

    def transaction(self, session: Any) -> AbstractContextManager[CallerTransaction]:
        """Commit within a transaction of the caller's.

        Args:
            session: An SQLAlchemy session of the store's database; None for a new one.

        Raises:
            ConfigError: The store is not a database, or the session can't be used.
        """
        if not isinstance(self.records, Transactional):
            raise ConfigError(
                "fsm.transaction() needs a store in a database: set FSM_STORE_URL to the URL of "
                "the database that the session uses."
            )
        return self.records.transaction(session)

    # -- many flows ---------------------------------------------------------------------

    def owner_flows(
        self, locator: FlowLocator, expired_before: float
    ) -> list[tuple[str, LoadResult]]:
        """Return the flows of an owner that have not expired, by their keys, newest first."""
        owner, name, _ = self.mapper.address(locator)
        found = []
        for key, record in self.records.owner_records(owner, name):
            if record.text and record.rev:
                at = Address(owner, name, key)
                try:
                    id = self.mapper.id_of(locator, None, record)
                    snapshot = self.mapper.decode(at, record, locator.machine, id)
                except SnapshotError as error:
                    log.warning("Machine %r: %s", name, error)
                    continue
                if snapshot.updated >= expired_before:
                    found.append((key, LoadResult(snapshot, None, record.version)))
        return found

    def log(
        self, machine: Machine | None, since: int | None, until: int | None
    ) -> Iterator[LogEntry]:
        """Return all entries of the history, of ended runs too, oldest first.

        Args:
            machine: Only of this machine; None for all.
            since: Only from this time on, in seconds since 1970; None for no bound.
            until: Only before this time, in seconds since 1970; None for no bound.
        """
        return self.records.log(machine.name if machine else None, since, until)

    def funnel(self, machine: Machine, since: int | None, until: int | None) -> Funnel:
        """Return how many runs reached and left each page, and how long they stayed.

        The arguments are those of `log`.
        """
        states = tuple(machine.states)
        return self.records.funnel(machine.name, states, machine.initial, since, until)

    def init(self) -> None:
        """Create what the store needs on its server, unless it is there."""
        self.records.init()

    def purge(self, before: int, history_before: int | None) -> int:
        """Delete expired flows.

        Args:
            before: Delete flows whose last commit is before this time, in seconds since 1970.
            history_before: Delete history before this time too; None keeps all of it.

        Returns:
            The number of flows that were deleted.
        """
        return self.records.purge(before, history_before)
