"""Flows as records on a server: what the stores `memory://`, SQL and Redis have in common.

A record lies at an address: a hash of its owner, its machine, its key. A flow that belongs to
nobody yet is owned by whoever has its id in the session; so each look-up names the owner, and what
belongs to somebody else is not found. Ids are stored as their SHA-256, and that of a flow with an
owner also sealed, so that another session of the same owner can be given it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from ...core.flow import Clock, blank
from ...core.history import Entry
from ...core.machine import Machine
from ...core.snapshot import NAMELESS, Receipt, Snapshot
from ...errors import (
    Code,
    ConfigError,
    FlowBusy,
    FlowGone,
    FSMError,
    SnapshotError,
    SnapshotTooLarge,
    StaleFlow,
    StoreUnavailable,
)
from ...reports.funnel import Funnel, LogEntry
from ..base import (
    Choose,
    CommitResult,
    FlowLocator,
    LoadResult,
    StoredReply,
    SubmissionQuery,
    Version,
    flow_gone,
    root_id,
)

__all__ = [
    "Address",
    "Cipher",
    "HistoryRow",
    "Record",
    "RecordStore",
    "Records",
    "check_size",
    "leased_elsewhere",
    "link_used",
    "longest_lease",
    "lost_race",
    "unavailable",
]

log: Final = logging.getLogger("flask_fsm")

# Id, whether the run has begun, second of its start, and of an owned flow the beginning of its
# owner's hash. No rev: a session that stays as it is need not be signed again at each step.
_CARRIED: Final = re.compile(
    r"([\w-]{22}(?:~[1-9]\d{0,8})?),([01]),(\d{1,12}),([0-9a-f]{16})?", re.ASCII
)
RESET: Final = "reset"
SKEW: Final = 3_600
MOVING: Final = 10
"""How long a record stands still while it is moved, in seconds."""
# How often, and after how many seconds, a flow is looked at that others are moving just then.
ATTEMPTS: Final = 10
PAUSE: Final = 0.02


class Address(NamedTuple):
    """Where a record lies: hash of its owner, name of its machine, key."""

    owner: str
    machine: str
    key: str


class Record(NamedTuple):
    """A snapshot as it is kept. Of a flow that has ended for good, `text` is empty."""

    flow: str
    """The name of the run in the history."""
    rev: int
    state: str
    """The state; of a flow that has ended for good, why it has."""
    text: str
    sealed: str
    started: int
    updated: int
    finished: bool

    @property
    def version(self) -> Version:
        return Version(self.flow, self.rev)


class HistoryRow(NamedTuple):
    """A row of the history. Several with one rev are counted by `n`."""

    flow: str
    rev: int
    n: int
    machine: str
    source: str
    target: str
    event: str | None
    at: int
    stayed: int | None
    """Seconds that the run was at its source; None if it only passed."""
    nonce: str | None
    digest: str | None
    location: str | None


class Records(Protocol):
    """A server that keeps records. Each operation happens wholly or not at all.

    What can't be reached in time raises StoreUnavailable.
    """

    def read(self, address: Address) -> Record | None:
        """Return the record at an address."""
        ...

    def write(
        self,
        address: Address,
        version: Version | None,
        record: Record,
        logged: Sequence[HistoryRow],
        *,
        lease: str,
        now: int,
        within: Any,
    ) -> None:
        """Put a record in the place of what was seen, end the claim on it, and append history.

        Raises StaleFlow unless what was seen is still there, FlowBusy if another claim holds.
        """
        ...

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
        """Write `tombstone` at the one address and `record`, with its history, at the other."""
        ...

    def acquire_lease(
        self, address: Address, version: Version, lease: str, now: int, until: int
    ) -> None:
        """Keep others from writing until a time; raises StaleFlow or FlowBusy."""
        ...

    def release_lease(self, address: Address, version: Version, lease: str) -> None:
        """End a claim."""
        ...

    def owner_records(self, owner: str, machine: str) -> list[tuple[str, Record]]:
        """Return an owner's records by their keys, newest first."""
        ...

    def history(self, address: Address, flow: str, rev: int) -> list[Entry]:
        """Return the entries of a run up to `rev`, at most FSM_HISTORY_LIMIT of them."""
        ...

    def stored_reply(self, address: Address, flow: str, rev: int, nonce: str) -> StoredReply | None:
        """Return what was kept with `nonce` in a run after `rev`."""
        ...

    def log(self, machine: str | None, since: int | None, until: int | None) -> Iterator[LogEntry]:
        """Return the history of all runs, oldest entry first."""
        ...

    def funnel(
        self,
        machine: str,
        states: Sequence[str],
        initial: str,
        since: int | None,
        until: int | None,
    ) -> Funnel:
        """Count the runs of a machine over the pages that they reached and left."""
        ...

    def init(self) -> None:
        """Make what is needed on the server, unless it is there."""
        ...

    def purge(self, before: int, history_before: int | None) -> int:
        """Remove the records that were last written before a time; return how many."""
        ...


@runtime_checkable
class Transactional(Protocol):
    """Records that can be written in a transaction of the caller's."""

    def transaction(self, session: Any) -> AbstractContextManager[tuple[Any, Callable[[], Any]]]:
        """Yield the session, and what returns the connection to write on."""
        ...

    def finish(self, session: Any) -> None:
        """Commit the session."""
        ...


class Cipher(Protocol):
    """Hides ids from whoever reads the store and has not the app's keys."""

    def encrypt(self, id: str) -> str:
        """Return a text from which `open` gets the id back."""
        ...

    def decrypt(self, text: str) -> str | None:
        """Return the id, or None if the key that closed it is gone."""
        ...


def digest(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class SessionReference(NamedTuple):
    """What a session says of its flow."""

    id: str
    begun: bool
    started: int
    owner: str
    """The beginning of the owner's hash, or nothing."""

    @classmethod
    def read(cls, text: object) -> SessionReference | None:
        match = _CARRIED.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            return None
        id, begun, started, owner = match.groups()
        return cls(id, begun == "1", int(started), owner or "")


def lost_race(state: str | None = None) -> StaleFlow:
    """Return the error of a write that another one overtook."""
    return StaleFlow(
        "Another request of this flow was faster"
        + (f": it is at {state!r} now." if state else "."),
        source=state,
        code=Code.LOST_RACE,
    )


def leased_elsewhere() -> FlowBusy:
    """Return the error of a write that waits for what another request has claimed."""
    return FlowBusy(
        "Another request of this flow is still being served. Wait a moment, then try again."
    )


def longest_lease(lease: float) -> int:
    """Return how many seconds a claim may lie ahead; one beyond was made by a wrong clock.

    The clocks of several machines may differ by an hour before a claim is taken for such.
    """
    return int(max(lease, MOVING)) + SKEW


def link_used() -> FlowGone:
    """Return the error of a link whose flow has got another id since, or has ended."""
    return FlowGone("This link has been used, or what it led to has ended.", code=Code.LINK_USED)


def unavailable() -> StoreUnavailable:
    """Return the error of a server that can't be reached; what it said is its cause."""
    return StoreUnavailable(
        "What has been kept so far can't be reached just now. Try again in a moment."
    )


@contextmanager
def naming_flow(id: str) -> Iterator[None]:
    """Let errors of records, which know no ids, say which flow they are about."""
    try:
        yield
    except (StaleFlow, FlowBusy) as error:
        error.flow = id
        raise


def check_size(snapshot: Snapshot, size: int, limit: int) -> None:
    """Raise SnapshotTooLarge if a snapshot takes more bytes than FSM_MAX_SNAPSHOT_SIZE."""
    if size > limit:
        raise SnapshotTooLarge(
            f"The flow would take {size} bytes, and FSM_MAX_SNAPSHOT_SIZE is {limit}: keep less "
            f"in its answers, or raise the limit.",
            size=size,
            limit=limit,
            flow=snapshot.id,
            target=snapshot.state,
        )


class RecordStore:
    """Keeps flows as records; the session carries an id, which says nothing else."""

    def __init__(self, records: Records, seal: Cipher, max_size: int, clock: Clock) -> None:
        self.records = records
        self._seal = seal
        self._max_size = max_size
        self._clock = clock

    # -- addresses ----------------------------------------------------------------------

    def _owner(self, locator: FlowLocator, id: str) -> str:
        if locator.subject is not None:
            return digest(f"subject {locator.subject}")
        return (
            digest(root_id(id)) if locator.secret is None else digest(f"session {locator.secret}")
        )

    def _address(self, locator: FlowLocator, id: str = "") -> Address:
        return Address(self._owner(locator, id), locator.machine.name, locator.key)

    def lock_name(self, locator: FlowLocator, session_value: str | None) -> str | None:
        if locator.owned:
            return digest(repr(self._address(locator)))
        parsed = SessionReference.read(session_value)
        return None if parsed is None else parsed.id

    def session_value(self, locator: FlowLocator, snapshot: Snapshot) -> str:
        owner = self._owner(locator, "")[:16] if locator.owned else ""
        return f"{snapshot.id},{snapshot.rev > 0:d},{snapshot.started},{owner}"

    def session_value_of(self, locator: FlowLocator, id: str) -> str | None:
        address = self._address(locator, id)
        record = self.records.read(address)
        if record is None or not record.text:
            return None
        owner = self._owner(locator, "")[:16] if locator.owned else ""
        text = f"{id},1,{record.started},{owner}"
        return (
            text
            if SessionReference.read(text) is not None and self._is_of(record, locator, id)
            else None
        )

    def _is_of(self, record: Record, locator: FlowLocator, id: str) -> bool:
        return not locator.owned or self._seal.decrypt(record.sealed) in (id, None)

    # -- loading ------------------------------------------------------------------------

    def load(
        self, locator: FlowLocator, session_value: str | None, oldest: float, choose: Choose
    ) -> LoadResult:
        parsed = SessionReference.read(session_value)
        if session_value is not None and parsed is None and not locator.owned:
            error = SnapshotError("The session carries no flow of a store on a server.")
            return LoadResult(missing_reason=error)
        mine = self._owner(locator, "")[:16] if locator.owned else ""
        if parsed is not None and parsed.owner != mine:
            if parsed.owner or locator.subject is None:
                parsed = None  # somebody else's, who was here before
            else:
                return self._taken_along(locator, parsed, oldest, choose)
        if not locator.owned and parsed is None:
            return LoadResult()
        return self._loaded(locator, parsed, oldest)

    def _loaded(
        self, locator: FlowLocator, parsed: SessionReference | None, oldest: float
    ) -> LoadResult:
        machine = locator.machine
        address = self._address(locator, parsed.id if parsed else "")
        try:
            record = self.records.read(address)
        except SnapshotError as unreadable:
            return LoadResult(missing_reason=unreadable)
        if record is None:
            if parsed is not None and (parsed.begun or "~" in parsed.id):
                return LoadResult(missing_reason=flow_gone(parsed.id, Code.EVICTED))
            return self._blank(locator, parsed, None)
        named = parsed is not None and (
            not locator.owned or record.flow == digest(parsed.id) or parsed.begun
        )
        error: FSMError
        try:
            if not record.text:
                raise flow_gone(None, record.state)
            id = self._id(locator, parsed, record)
            snapshot = self._snapshot(address, record, machine, id)
            if snapshot.updated < oldest:
                raise flow_gone(None, Code.EXPIRED)
            return LoadResult(snapshot, self.session_value(locator, snapshot), record.version)
        except SnapshotError as unreadable:
            if not named:
                log.warning("%s", unreadable)
            error = unreadable
        except FlowGone as ended:
            error = ended
        error.flow = parsed.id if parsed is not None else None
        if named:
            return LoadResult(version=record.version, missing_reason=error)
        return self._blank(locator, parsed, record.version)

    def _blank(
        self, locator: FlowLocator, parsed: SessionReference | None, version: Version | None
    ) -> LoadResult:
        """Return the flow that has not begun and that the session names, if it does."""
        if parsed is None or parsed.begun:
            return LoadResult(version=version)
        snapshot = blank(locator.machine, parsed.started, id=parsed.id, subject=locator.subject)
        return LoadResult(snapshot, self.session_value(locator, snapshot), version)

    def _id(self, locator: FlowLocator, parsed: SessionReference | None, record: Record) -> str:
        if not locator.owned:
            assert parsed is not None
            return parsed.id
        id = self._seal.decrypt(record.sealed)
        if id is None:
            # The key that sealed it is gone; the next commit seals the new id.
            id = parsed.id if parsed is not None else secrets.token_urlsafe(16)
        return id

    def _snapshot(self, address: Address, record: Record, machine: Machine, id: str) -> Snapshot:
        def read() -> list[Entry]:
            return self.records.history(address, record.flow, record.rev)

        if len(record.text) > self._max_size:
            raise SnapshotError(
                f"A stored flow of {machine.name!r} takes {len(record.text)} characters, and "
                f"FSM_MAX_SNAPSHOT_SIZE is {self._max_size}."
            )
        snapshot = Snapshot.from_record(record.text, machine, id, read)
        if snapshot.rev != record.rev:
            raise SnapshotError(f"A stored flow of {machine.name!r} is not of the rev it is at.")
        return snapshot

    # -- claiming after a login ---------------------------------------------------------

    def _taken_along(
        self, locator: FlowLocator, parsed: SessionReference, oldest: float, choose: Choose
    ) -> LoadResult:
        """Let the flow of a session that has got a subject be that subject's, under a new id."""
        nobodys = locator._replace(subject=None, secret=None)
        busy: FlowBusy | None = None
        for _ in range(ATTEMPTS):
            # In this order: another request may move the one to the other meanwhile.
            theirs = self._loaded(nobodys, parsed, oldest)
            own = self._loaded(locator, None, oldest)
            if theirs.snapshot is None:
                was, there = theirs.version, own.version
                if was is not None and there is not None and was.flow == there.flow:
                    return own._replace(previous_id=parsed.id if own.snapshot is not None else None)
                return own
            if theirs.version is None or not theirs.snapshot.rev:
                if own.snapshot is not None:
                    return own
                # Nothing is stored yet: the form that is open goes on under a new id.
                fresh = theirs.snapshot.with_id(secrets.token_urlsafe(16), locator.subject)
                return LoadResult(
                    fresh, self.session_value(locator, fresh), own.version, previous_id=parsed.id
                )
            try:
                return self.merge_at_login(locator, nobodys, theirs, choose, own)
            except FlowBusy as error:
                busy = error
                time.sleep(PAUSE)
            except StaleFlow:
                pass  # one of the two has moved on meanwhile
        raise busy or lost_race()

    def merge_at_login(
        self,
        locator: FlowLocator,
        nobodys: FlowLocator,
        theirs: LoadResult,
        choose: Choose,
        own: LoadResult | None = None,
    ) -> LoadResult:
        """Keep one of two flows at `place`: the one there, or the one at `nobodys`."""
        assert theirs.snapshot is not None
        source = self._address(nobodys, theirs.snapshot.id)
        return self.move_to(source, theirs, locator, choose, own)

    def move_to(
        self,
        source: Address,
        found: LoadResult,
        locator: FlowLocator,
        choose: Choose,
        own: LoadResult | None = None,
        id: str | None = None,
    ) -> LoadResult:
        """Move the flow that was found at `source` to `place`, under a new id.

        If there is one at `place`, `choose` says which of both is kept.
        """
        old, version = found.snapshot, found.version
        assert old is not None
        assert version is not None
        new = old.with_id(id or secrets.token_urlsafe(16), locator.subject)
        target = self._address(locator, new.id)
        now = int(self._clock())
        tombstone = self._tombstone(version, old, "moved")
        if own is None:
            own = (
                self._loaded(locator, None, -inf)
                if locator.owned and source != target
                else LoadResult()
            )
        if own.snapshot is not None and choose(old, own.snapshot) is not old:
            self.records.write(source, version, tombstone, (), lease="", now=now, within=None)
            return own
        record = self._record(locator, new, version.flow)
        if source == target:
            self.records.write(target, version, record, (), lease="", now=now, within=None)
        else:
            self.records.move(source, version, tombstone, target, own.version, record, now)
        kept = self._snapshot(target, record, locator.machine, new.id)
        return LoadResult(
            kept, self.session_value(locator, kept), record.version, previous_id=old.id
        )

    # -- links to another device --------------------------------------------------------

    def link_target(self, locator: FlowLocator, snapshot: Snapshot) -> tuple[str, str, str]:
        """Return how a link finds a flow: hash of its owner, key, and a mark of its id."""
        owner = self._owner(locator, snapshot.id)
        return owner, locator.key, digest(root_id(snapshot.id))[:16]

    def find_by_link(
        self, machine: Machine, owner: str, key: str, mark: str, oldest: float
    ) -> tuple[Address, LoadResult]:
        """Return the flow of a link, under no id; FlowGone if it has got another one since."""
        address = Address(owner, machine.name, key)
        record = self.records.read(address)
        if record is not None and record.text:
            id = self._seal.decrypt(record.sealed) if record.sealed else None
            if (digest(id) if id is not None else owner)[:16] == mark:
                snapshot = self._snapshot(address, record, machine, NAMELESS)
                if snapshot.updated >= oldest:
                    return address, LoadResult(snapshot, None, record.version)
        raise link_used()

    # -- writing ------------------------------------------------------------------------

    def _record(self, locator: FlowLocator, new: Snapshot, flow: str) -> Record:
        text = new.to_record(locator.machine)
        check_size(new, len(text.encode("utf-8", "surrogatepass")), self._max_size)
        sealed = self._seal.encrypt(new.id) if locator.owned else ""
        return Record(
            flow, new.rev, new.state, text, sealed, new.started, new.updated, new.finished
        )

    def _tombstone(self, version: Version | None, old: Snapshot, code: str) -> Record:
        flow = digest(old.id) if version is None or old.rev == 0 else version.flow
        now = int(self._clock())
        return Record(flow, old.rev + 1, code, "", "", old.started, max(now, old.updated), True)

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
        address = self._address(locator, new.id)
        # A run is named when it begins, and keeps its name under whatever id.
        flow = digest(new.id) if new.rev == 1 or version is None else version.flow
        record = self._record(locator, new, flow)
        rows = _history_rows(flow, locator.machine, new, location)
        now = int(self._clock())
        with naming_flow(new.id):
            self.records.write(address, version, record, rows, lease=lease, now=now, within=within)
        if within is None:
            kept = new.with_lazy_history(lambda: self.records.history(address, flow, new.rev))
        else:  # nobody else sees yet what was written there
            kept = new.with_lazy_history(lambda: new.history.entries)
        return CommitResult(kept, self.session_value(locator, new), record.version)

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
        record = self._tombstone(version, old, RESET)
        nonce, body = receipt or (None, None)
        rows = []
        if old.rev or receipt is not None:
            name, at = locator.machine.name, record.updated
            ends = (old.state, locator.machine.initial, RESET, at, at - old.updated)
            rows = [HistoryRow(record.flow, record.rev, 0, name, *ends, nonce, body, location)]
        now = int(self._clock())
        address = self._address(locator, old.id)
        with naming_flow(old.id):
            self.records.write(address, version, record, rows, lease=lease, now=now, within=within)
        return record.version

    def stored_reply(self, locator: FlowLocator, asked: SubmissionQuery) -> StoredReply | None:
        flow = (
            asked.version.flow
            if asked.version is not None and asked.current
            else digest(asked.flow)
        )
        return self.records.stored_reply(
            self._address(locator, asked.id), flow, asked.rev, asked.nonce
        )

    def adopt_unstarted(self, locator: FlowLocator, session_value: str) -> LoadResult | None:
        """Return a flow that had not begun when its session got a subject; None if it had."""
        parsed = SessionReference.read(session_value)
        if parsed is None or parsed.begun:
            return None
        new = blank(
            locator.machine, parsed.started, id=secrets.token_urlsafe(16), subject=locator.subject
        )
        return LoadResult(new, self.session_value(locator, new), previous_id=parsed.id)

    def acquire_lease(
        self,
        locator: FlowLocator,
        version: Version | None,
        snapshot: Snapshot,
        lease: str,
        until: int,
    ) -> Version:
        """Keep all others from committing in the place of what was `seen`, until a time.

        Raises StaleFlow or FlowBusy, as `commit` does.
        """
        now = int(self._clock())
        address = self._address(locator, snapshot.id)
        if version is None or not snapshot.rev:
            # A run that has not begun has no record yet, or that of the run before.
            record = self._record(locator, snapshot, digest(snapshot.id))
            if version != record.version:
                try:
                    self.records.write(address, version, record, (), lease="", now=now, within=None)
                except (StaleFlow, FlowBusy):
                    found = self.records.read(address)
                    if found is None or found.version != record.version:
                        raise
                    # Another request is about to claim the same run.
                version = record.version
        with naming_flow(snapshot.id):
            self.records.acquire_lease(address, version, lease, now, until)
        return version

    def release_lease(
        self, locator: FlowLocator, snapshot: Snapshot, version: Version, lease: str
    ) -> None:
        """Give up a claim that did not lead to a commit."""
        self.records.release_lease(self._address(locator, snapshot.id), version, lease)

    @contextmanager
    def transaction(self, session: Any) -> Iterator[tuple[Any, Callable[[], Any]]]:
        """Open a caller's transaction to commits; with None, one of a session of its own.

        Yields the session, and what returns the connection to write on. Raises ConfigError.
        """
        if not isinstance(self.records, Transactional):
            raise ConfigError(
                "fsm.transaction() needs a store in a database: set FSM_STORE_URL to the URL of "
                "the database that the session uses."
            )
        with self.records.transaction(session) as joined:
            yield joined

    def finish(self, session: Any) -> None:
        """Commit a caller's transaction, and say what went wrong as this package does."""
        if isinstance(self.records, Transactional):
            self.records.finish(session)

    # -- asking -------------------------------------------------------------------------

    def owner_flows(self, locator: FlowLocator, oldest: float) -> list[tuple[str, LoadResult]]:
        """Return the flows of the owner of `place` by their keys, newest first."""
        owner, name, _ = self._address(locator)
        found = []
        for key, record in self.records.owner_records(owner, name):
            if record.text and record.rev:
                at = Address(owner, name, key)
                try:
                    id = self._id(locator, None, record)
                    snapshot = self._snapshot(at, record, locator.machine, id)
                except SnapshotError as error:
                    log.warning("%s", error)
                    continue
                if snapshot.updated >= oldest:
                    found.append((key, LoadResult(snapshot, None, record.version)))
        return found

    def log(
        self, machine: Machine | None, since: int | None, until: int | None
    ) -> Iterator[LogEntry]:
        """Return all entries of the history, of runs that have ended too, oldest first."""
        return self.records.log(machine.name if machine else None, since, until)

    def funnel(self, machine: Machine, since: int | None, until: int | None) -> Funnel:
        """Return how many runs reached and left each page, and how long they stayed."""
        states = tuple(machine.states)
        return self.records.funnel(machine.name, states, machine.initial, since, until)

    def init(self) -> None:
        """Make what the store needs on its server, unless it is there."""
        self.records.init()

    def purge(self, before: int, history_before: int | None) -> int:
        """Remove the flows whose last commit is before a time; return how many there were."""
        return self.records.purge(before, history_before)


def _history_rows(
    flow: str, machine: Machine, new: Snapshot, location: str | None
) -> list[HistoryRow]:
    """Return the rows of the history that a commit adds; the first has its receipt."""
    nonce, body = new.receipt or (None, None)
    before = new.entered_at
    rows = []
    for n, (source, target, event, at, rev) in enumerate(new.new_entries):
        stayed = at - before if not n else None
        locator = location if nonce is not None else None
        rows.append(
            HistoryRow(
                flow, rev, n, machine.name, source, target, event, at, stayed, nonce, body, locator
            )
        )
        nonce = body = location = None
    return rows
