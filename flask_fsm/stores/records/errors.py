"""Errors that every kind of record store raises in the same words."""

from __future__ import annotations

from ...core.snapshot import Snapshot
from ...errors import Code, FlowBusy, FlowGone, SnapshotTooLarge, StaleFlow, StoreUnavailable
from ...texts import _

__all__ = ["leased_elsewhere", "link_used", "lost_race", "snapshot_too_large", "unavailable"]


def lost_race(state: str | None = None) -> StaleFlow:
    """Return the error of a conflict: compare-and-swap found a newer version in the store."""
    return StaleFlow(
        _("Another request has changed this flow first: it is now at %(state)s.", state=repr(state))
        if state
        else _("Another request has changed this flow first."),
        source=state,
        code=Code.LOST_RACE,
    )


def leased_elsewhere() -> FlowBusy:
    """Return the error of a write to a flow on which another request holds the lease."""
    return FlowBusy(
        _("Another request for this flow is still being processed. Wait a moment, then try again.")
    )


def link_used() -> FlowGone:
    """Return the error of a resume link whose flow has a new id since, or has ended."""
    return FlowGone(
        _("This link has already been used, or what it continues has ended."), code=Code.LINK_USED
    )


def unavailable() -> StoreUnavailable:
    """Return the error of a server that can't be reached; set the driver's error as its cause."""
    return StoreUnavailable(_("Your answers can't be reached just now. Try again in a moment."))


def snapshot_too_large(snapshot: Snapshot, size: int, limit: int) -> SnapshotTooLarge:
    """Return the error of a snapshot of `size` bytes where FSM_MAX_SNAPSHOT_SIZE is `limit`."""
    return SnapshotTooLarge(
        f"The flow would take {size} bytes, and FSM_MAX_SNAPSHOT_SIZE is {limit}: store less "
        f"in its answers, or raise the limit.",
        size=size,
        limit=limit,
        flow=snapshot.id,
        target=snapshot.state,
    )
