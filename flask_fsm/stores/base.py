"""What every store does, and how runs and revs are ordered."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..core.machine import Machine
from ..core.snapshot import Receipt, Snapshot

__all__ = ["Loaded", "Store", "age", "lineage"]


class Loaded(NamedTuple):
    """A snapshot, and what the session is to carry for it from now on."""

    snapshot: Snapshot
    carried: str


class Store(Protocol):
    """Keeps snapshots. The session carries a text by which a store finds, or reads, its flow."""

    def identify(self, carried: str) -> str | None:
        """Return the id of the flow that `carried` names, without loading it, or None."""
        ...

    def load(self, machine: Machine, carried: str) -> Loaded:
        """Return the newest snapshot known of the flow that `carried` names.

        Raises SnapshotError if the text can't be read, FlowGone if the store has lost the flow.
        """
        ...

    def carry(self, machine: Machine, snapshot: Snapshot) -> str:
        """Return what the session carries for a run that has not begun."""
        ...

    def bury(
        self, old: Snapshot, receipt: Receipt | None = None, location: str | None = None
    ) -> None:
        """End the flow `old` for good: from now on whatever names it is FlowGone.

        `receipt` and `location` answer the submission that ended it, should it come again.
        Raises StaleFlow unless `old` is the newest.
        """
        ...

    def commit(self, machine: Machine, old: Snapshot, new: Snapshot, location: str | None) -> str:
        """Replace `old` by `new`, and return what the session is to carry.

        `location` is kept with the receipt of `new`, to answer the same submission again.
        Raises StaleFlow unless `old` is the newest, and SnapshotTooLarge if `new` doesn't fit.
        """
        ...


def lineage(id: str) -> str:
    """Return the part of a flow's id that all successive runs share."""
    return id[:22]


def age(snapshot: Snapshot) -> tuple[int, int]:
    """Return what orders the snapshots of one lineage: number of the run, rev."""
    return int(snapshot.id.partition("~")[2] or 0), snapshot.rev
