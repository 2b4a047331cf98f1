"""The interface of stores: the protocol `Store`, and its arguments and results.

`Store.load` checks the expiry of a flow, `Store.commit` compares and swaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from ..core.machine import Machine
from ..core.snapshot import Receipt, Snapshot
from ..errors import FSMError

__all__ = [
    "ROOT_LENGTH",
    "SESSION_KEY",
    "Choose",
    "CommitResult",
    "FlowLocator",
    "LoadResult",
    "Store",
    "StoredReply",
    "SubmissionQuery",
    "Version",
    "digest",
    "order_key",
    "root_id",
]

Choose = Callable[[Snapshot, Snapshot], Snapshot]
"""After a login: returns the one to keep of (session's snapshot, subject's snapshot)."""
SESSION_KEY: Final = "_fsm_"
"""Prefix of the keys of Flask's session that carry flows; the machine's name follows."""
ROOT_LENGTH: Final = 22
"""Number of characters of an id that all successive runs of a flow share."""


class FlowLocator(NamedTuple):
    """Identifies a flow: its machine, its owner and its key.

    Args:
        machine: Its machine.
        subject: The subject that owns it; None if it belongs to the session.
        secret: With `subject` None: the secret of the session that owns several flows. None: the
            flow is located by its id, which the session has.
        key: Which of its owner's flows, where a machine has `many`; else empty.
    """

    machine: Machine
    subject: str | None = None
    secret: str | None = None
    key: str = ""

    @property
    def owned(self) -> bool:
        """Whether the flow is located by its owner, and not by its id."""
        return self.subject is not None or self.secret is not None


class Version(NamedTuple):
    """The version that a commit expects in the store, for its compare-and-swap.

    Args:
        flow: Name of the run: its id, or on a server the id's digest.
        rev: Number of the last commit.
    """

    flow: str
    rev: int


class LoadResult(NamedTuple):
    """The result of loading a flow.

    Args:
        snapshot: The newest snapshot; None if there is none, or if the flow is gone.
        session_value: What the session carries for it from now on; None for nothing.
        version: The version that a commit expects in the store.
        missing_reason: Why the flow that the session names is gone, or can't be read.
        previous_id: The id that the flow had until its session logged in.
    """

    snapshot: Snapshot | None = None
    session_value: str | None = None
    version: Version | None = None
    missing_reason: FSMError | None = None
    previous_id: str | None = None


class CommitResult(NamedTuple):
    """A commit that was made.

    Args:
        snapshot: The snapshot as it is stored.
        session_value: What the session carries for it from now on.
        version: The version that the next commit expects.
    """

    snapshot: Snapshot
    session_value: str
    version: Version


class StoredReply(NamedTuple):
    """The reply to a submission that was handled, repeated for a double click or a replay.

    Args:
        digest: Digest of the submission's body.
        location: The URL to which it redirected, or None.
        rev: The rev that it led to; None if that run is over.
        state: The state that it led to; None if that run is over.
    """

    digest: str
    location: str | None
    rev: int | None = None
    state: str | None = None


class SubmissionQuery(NamedTuple):
    """Asks whether a submission was handled before.

    Args:
        id: The id of the flow now.
        flow: The id in the token, which may be that of an earlier run, or from before a login.
        rev: The rev in the token.
        nonce: The nonce in the token.
        version: What was loaded.
        current: Whether the token is of the run that was loaded.
    """

    id: str
    flow: str
    rev: int
    nonce: str
    version: Version | None
    current: bool


class Store(Protocol):
    """Keeps snapshots. The session carries a text by which a store finds, or reads, its flow."""

    def lock_name(self, locator: FlowLocator, session_value: str | None) -> str | None:
        """Return the name of the lock that requests of this flow share; None if it needs none."""
        ...

    def load(
        self, locator: FlowLocator, session_value: str | None, expired_before: float, choose: Choose
    ) -> LoadResult:
        """Load a flow.

        A session that has logged in since takes its flow along: the flow moves to the subject.

        Args:
            locator: Identifies the flow.
            session_value: What the session carries of it.
            expired_before: The expiry: a flow whose last commit is before this time is gone.
                Seconds since 1970.
            choose: After a login, returns which of two flows is kept.

        Raises:
            StoreUnavailable: The server can't be reached.
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
        """Compare and swap: replace what was loaded by `new`, or raise StaleFlow on a conflict.

        Args:
            locator: Identifies the flow.
            version: The version that was loaded and must still be stored; None for nothing.
            new: The new snapshot.
            location: URL that answers a replay of the submission whose receipt `new` has.
            lease: The lease that this request holds, or an empty string.
            within: The caller's transaction, or None.

        Raises:
            StaleFlow: A conflict: another request has committed since.
            FlowBusy: Another request holds the lease.
            SnapshotTooLarge: `new` does not fit into the store.
            StoreUnavailable: The server can't be reached.
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
        """End the flow `old` for good: from now on its id leads to FlowGone.

        Args:
            locator: Identifies the flow.
            version: The version that was loaded and must still be stored.
            old: The snapshot that was loaded.
            receipt: Receipt of the submission that ends it, for its replay.
            location: URL that answers this replay.
            lease: The lease that this request holds, or an empty string.
            within: The caller's transaction, or None.

        Returns:
            The version of the tombstone.

        Raises:
            StaleFlow: A conflict: another request has committed since.
            FlowBusy: Another request holds the lease.
            StoreUnavailable: The server can't be reached.
        """
        ...

    def stored_reply(self, locator: FlowLocator, query: SubmissionQuery) -> StoredReply | None:
        """Return the reply to a submission that was handled before, or None.

        This makes submissions idempotent: a double click or a replay has no second effect.
        """
        ...


def digest(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def root_id(id: str) -> str:
    """Return the part of a flow's id that all successive runs share."""
    return id[:ROOT_LENGTH]


def order_key(snapshot: Snapshot) -> tuple[int, int]:
    """Return what orders the snapshots of successive runs: number of the run, rev."""
    return int(snapshot.id.partition("~")[2] or 0), snapshot.rev
