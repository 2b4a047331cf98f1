"""The data model of flows on a server: addresses, records, history rows, and `Records`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from ...core.history import Entry
from ...core.machine import Machine
from ...core.snapshot import Snapshot
from ...reports.funnel import Funnel, LogEntry
from ..base import StoredReply, Version

__all__ = [
    "MOVE_SECONDS",
    "Address",
    "CallerTransaction",
    "Cipher",
    "HistoryRow",
    "Record",
    "Records",
    "SessionReference",
    "Transactional",
    "history_rows",
    "longest_lease",
]

# Id, whether the run has begun, second of its start, and for an owned flow the first digits of its
# owner's hash. No rev: an unchanged session need not be signed again at each step.
_REFERENCE: Final = re.compile(
    r"([\w-]{22}(?:~[1-9]\d{0,8})?),([01]),(\d{1,12}),([0-9a-f]{16})?", re.ASCII
)
MOVE_SECONDS: Final = 10
"""For how many seconds a record is leased while it is moved to another address."""
# Clocks of several machines may differ by this many seconds.
CLOCK_SKEW: Final = 3_600


class Address(NamedTuple):
    """The address of a record: hash of its owner, name of its machine, key."""

    owner: str
    machine: str
    key: str


class Record(NamedTuple):
    """A snapshot in the form in which a server stores it. The `text` of a tombstone is empty.

    Args:
        flow: Name of the run in the history.
        rev: Number of the commit, from 1.
        state: Name of the state; of a tombstone, the reason why the flow has ended.
        text: The snapshot as JSON.
        sealed: The encrypted id of an owned flow, else empty.
        started: Start of the run, in seconds since 1970.
        updated: Last commit, in seconds since 1970.
        finished: Whether the run has ended.
    """

    flow: str
    rev: int
    state: str
    text: str
    sealed: str
    started: int
    updated: int
    finished: bool

    @property
    def version(self) -> Version:
        return Version(self.flow, self.rev)


class HistoryRow(NamedTuple):
    """A row of the history. Rows of one rev are numbered by `n`, from 0.

    Args:
        flow: Name of the run.
        rev: Number of the commit.
        n: Number of the row within the commit.
        machine: Name of the machine.
        source: State that was left.
        target: State that was entered.
        event: Name of the event, if one caused the transition.
        at: Time of the transition, in seconds since 1970.
        stayed: Seconds that the run was at `source`; None if it only passed through.
        nonce: Nonce of the submission's token, by which a replay is recognised.
        digest: Digest of the submission's body.
        location: URL that answered the submission, and answers its replay.
    """

    flow: str
    rev: int
    n: int
    machine: str
    source: str
    target: str
    event: str | None
    at: int
    stayed: int | None
    nonce: str | None
    digest: str | None
    location: str | None


class Records(Protocol):
    """A server that keeps records. Each operation happens wholly or not at all.

    All methods raise StoreUnavailable if the server can't be reached in time.
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
        """Compare and swap: replace `version` by a record, end its lease, and append history.

        Args:
            address: Where the record is stored.
            version: The version that must be stored there; None for nothing.
            record: The new record.
            logged: Rows to append to the history.
            lease: The lease that the caller holds, or an empty string.
            now: Seconds since 1970.
            within: The caller's transaction, or None.

        Raises:
            StaleFlow: A conflict: something else than `version` is there.
            FlowBusy: Another request holds the lease.
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
        """Write `tombstone` at the one address and `record`, with its history, at the other.

        Raises:
            StaleFlow: A conflict at either address.
            FlowBusy: Another request holds a lease on either record.
        """
        ...

    def acquire_lease(
        self, address: Address, version: Version, lease: str, now: int, until: int
    ) -> None:
        """Keep other requests from writing until the second `until`.

        Raises:
            StaleFlow: A conflict: something else than `version` is there.
            FlowBusy: Another request holds the lease.
        """
        ...

    def release_lease(self, address: Address, version: Version, lease: str) -> None:
        """Release a lease, if it is still held."""
        ...

    def owner_records(self, owner: str, machine: str) -> list[tuple[str, Record]]:
        """Return an owner's records by their keys, newest first."""
        ...

    def history(self, address: Address, flow: str, rev: int) -> list[Entry]:
        """Return the entries of a run up to `rev`, at most FSM_HISTORY_LIMIT of them."""
        ...

    def stored_reply(self, address: Address, flow: str, rev: int, nonce: str) -> StoredReply | None:
        """Return the reply to the submission with `nonce` that a run has taken after `rev`."""
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
        """Create what is needed on the server, unless it is there."""
        ...

    def purge(self, before: int, history_before: int | None) -> int:
        """Delete the records that were last written before a time; return how many."""
        ...


@runtime_checkable
class Transactional(Protocol):
    """Records that can be written in a transaction of the caller's."""

    def transaction(self, session: Any) -> AbstractContextManager[CallerTransaction]:
        """Take part in the transaction of a session, of a new one if it is None."""
        ...


class CallerTransaction(Protocol):
    """The transaction of a caller's session, in which flows are committed.

    Attributes:
        session: The session.
        ended: Called when a scope ends, with it and whether what was written in it is committed.
            A scope is the transaction itself, a savepoint, or one write; a savepoint that is
            released does not count.
    """

    session: Any
    ended: Callable[[object, bool], None]

    def connection(self) -> Any:
        """Return the connection on which to write."""
        ...

    def scopes(self) -> tuple[object, ...]:
        """Return the scopes that are open now; the end of any undoes what depends on them."""
        ...

    def verify(self) -> None:
        """Report the writes as ended that were rolled back without the session's knowledge."""
        ...

    def commit(self) -> None:
        """Commit the session."""
        ...

    def roll_back(self, error: BaseException | None = None) -> None:
        """Roll the session back, because of `error` if there is one.

        Raises:
            StoreUnavailable: The server can't be reached, which may be the cause of `error`.
        """
        ...


class Cipher(Protocol):
    """Encrypts flow ids, so that reading the store without the app's keys does not reveal them."""

    def encrypt(self, id: str) -> str:
        """Return a text from which `decrypt` gets the id back, without the number of its run."""
        ...

    def decrypt(self, text: str) -> str | None:
        """Return the id without the number of its run; None if no current key decrypts it."""
        ...


class SessionReference(NamedTuple):
    """What a session carries of its flow.

    Args:
        id: Id of the flow.
        begun: Whether a commit was made.
        started: Start of the run, in seconds since 1970.
        owner: First digits of the owner's hash; empty for a flow that its id locates.
    """

    id: str
    begun: bool
    started: int
    owner: str

    @classmethod
    def read(cls, text: object) -> SessionReference | None:
        """Parse a text of the session; return None if another kind of store wrote it."""
        match = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            return None
        id, begun, started, owner = match.groups()
        return cls(id, begun == "1", int(started), owner or "")


def longest_lease(lease: float) -> int:
    """Return the longest possible lease in seconds; one beyond was made by a wrong clock."""
    return int(max(lease, MOVE_SECONDS)) + CLOCK_SKEW


def history_rows(
    flow: str, machine: Machine, new: Snapshot, location: str | None
) -> list[HistoryRow]:
    """Return the rows of the history that a commit adds; the first has its receipt."""
    nonce, body = new.receipt or (None, None)
    before = new.entered_at
    rows = []
    for n, (source, target, event, at, rev) in enumerate(new.new_entries):
        stayed = at - before if not n else None
        url = location if nonce is not None else None
        rows.append(
            HistoryRow(
                flow, rev, n, machine.name, source, target, event, at, stayed, nonce, body, url
            )
        )
        nonce = body = None
    return rows
