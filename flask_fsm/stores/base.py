"""What every store does, and how runs and revs are ordered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from ..core.machine import Machine
from ..core.snapshot import Receipt, Snapshot
from ..errors import Code, FlowGone, FSMError

__all__ = [
    "Choose",
    "CommitResult",
    "FlowLocator",
    "LoadResult",
    "Store",
    "StoredReply",
    "SubmissionQuery",
    "Version",
    "flow_gone",
    "order_key",
    "root_id",
]

Choose = Callable[[Snapshot, Snapshot], Snapshot]
"""Of the flow of a session that has logged in and the flow that its user has, the one to keep."""


class FlowLocator(NamedTuple):
    """Which flow is meant: of which machine, whose, and under which key.

    It is `subject`'s; with None, of whoever has `secret` in the session; with neither, of whoever
    has the flow's id there.
    """

    machine: Machine
    subject: str | None = None
    secret: str | None = None
    key: str = ""

    @property
    def owned(self) -> bool:
        """Whether the flow is found by its owner, and not by its id."""
        return self.subject is not None or self.secret is not None


class Version(NamedTuple):
    """What a store had under a place when it was asked: the name of the run, and its rev."""

    flow: str
    rev: int


class LoadResult(NamedTuple):
    """What a store knows of a place."""

    snapshot: Snapshot | None = None
    """The newest snapshot; None if there is none, or if it is `gone`."""
    session_value: str | None = None
    """What the session is to carry for it from now on."""
    version: Version | None = None
    """What a commit has to find in its place."""
    missing_reason: FSMError | None = None
    """Why the flow that the session names is not there any more."""
    previous_id: str | None = None
    """The id that the flow had until its session logged in."""


class CommitResult(NamedTuple):
    """A commit that was kept: the snapshot as it stands, what the session carries, and its mark."""

    snapshot: Snapshot
    session_value: str
    version: Version


class StoredReply(NamedTuple):
    """What answers a submission that comes again: its body's digest, and where it led."""

    digest: str
    location: str | None


class SubmissionQuery(NamedTuple):
    """A submission that may have come before: what its token says, and which flow it is about."""

    id: str
    """The id of the flow now; the token may name the one that it had before, or an earlier run."""
    flow: str
    rev: int
    nonce: str
    version: Version | None
    current: bool
    """Whether the token is of the run that was seen."""


class Store(Protocol):
    """Keeps snapshots. The session carries a text by which a store finds, or reads, its flow."""

    def lock_name(self, locator: FlowLocator, session_value: str | None) -> str | None:
        """Return what names the flow among those whose requests wait for each other, or None."""
        ...

    def load(
        self, locator: FlowLocator, session_value: str | None, oldest: float, choose: Choose
    ) -> LoadResult:
        """Return what is known of the flow at `place`; `carried` is what the session has of it.

        A flow whose last commit is before `oldest` (seconds since 1970) has expired. A flow of a
        session that has got a subject since is claimed for it.
        """
        ...

    def session_value(self, locator: FlowLocator, snapshot: Snapshot) -> str:
        """Return what the session carries for a run that has not begun."""
        ...

    def session_value_of(self, locator: FlowLocator, id: str) -> str | None:
        """Return what a session would carry of the flow with this id, or None if there is none."""
        ...

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
        """Put `new` in the place of what was `seen`.

        `location` is kept with the receipt of `new`, to answer the same submission again. `claim`
        is the one that `claim()` set. `within` is a transaction of the caller's, if the store knows
        such. Raises StaleFlow unless what was seen is still there, FlowBusy if somebody else has a
        claim on it, and SnapshotTooLarge if `new` doesn't fit.
        """
        ...

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
        """End the flow `old` for good: from now on whatever names it is FlowGone.

        `receipt` and `location` answer the submission that ended it, should it come again.
        Raises StaleFlow unless what was seen is still there. Returns what is there now.
        """
        ...

    def stored_reply(self, locator: FlowLocator, asked: SubmissionQuery) -> StoredReply | None:
        """Return what is kept of a submission, if it has had its effect."""
        ...


GONE: Final = {
    Code.RESET: "This run was given up, and another one begun.",
    Code.MOVED: "This run goes on elsewhere: after a login, or on another device.",
    Code.EXPIRED: "This run was left for too long and has expired.",
    Code.EVICTED: "This run is not in the store any more.",
}


def flow_gone(id: str | None, code: str) -> FlowGone:
    """Return the error of a flow that is not there any more."""
    known = Code(code)  # a tombstone has it as plain text
    return FlowGone(GONE[known], flow=id, code=known)


def root_id(id: str) -> str:
    """Return the part of a flow's id that all successive runs share."""
    return id[:22]


def order_key(snapshot: Snapshot) -> tuple[int, int]:
    """Return what orders the snapshots of one lineage: number of the run, rev."""
    return int(snapshot.id.partition("~")[2] or 0), snapshot.rev
