"""The store `memory://`: flows live in this process; the session carries only their ids."""

from __future__ import annotations

import re
from typing import Final

from ..core.flow import blank
from ..core.machine import Machine
from ..core.snapshot import Receipt, Snapshot
from ..errors import FlowGone, SnapshotError, SnapshotTooLarge
from .base import Loaded
from .heads import Heads

__all__ = ["MemoryStore"]

_CARRIED: Final = re.compile(r"([\w-]{22}(?:~[1-9]\d{0,8})?),(\d{1,15}),(\d{1,12})", re.ASCII)


class MemoryStore:
    """Keeps as many flows as there are heads; the one that was used longest ago goes first."""

    def __init__(self, heads: Heads, history_limit: int | None, max_size: int) -> None:
        self._heads = heads
        self._history_limit = history_limit
        self._max_size = max_size

    def identify(self, carried: str) -> str | None:
        match = _CARRIED.fullmatch(carried) if isinstance(carried, str) else None
        return None if match is None else match[1]

    def load(self, machine: Machine, carried: str) -> Loaded:
        match = _CARRIED.fullmatch(carried) if isinstance(carried, str) else None
        if match is None:
            raise SnapshotError("The session carries no flow of the store memory://.")
        id, rev, started = match.groups()
        found = self._heads.newest(id)
        if found is not None:
            return Loaded(*found)
        if rev != "0" or "~" in id:
            raise FlowGone(
                f"The run of {machine.name!r} is no longer in the memory of this process: "
                f"it was restarted, or has kept more than FSM_HEADS flows since.",
                flow=id,
                code="evicted",
            )
        return Loaded(blank(machine, int(started), id=id), carried)

    def carry(self, machine: Machine, snapshot: Snapshot) -> str:
        return f"{snapshot.id},{snapshot.rev},{snapshot.started}"

    def bury(
        self, old: Snapshot, receipt: Receipt | None = None, location: str | None = None
    ) -> None:
        self._heads.bury(old, receipt, location)

    def commit(self, machine: Machine, old: Snapshot, new: Snapshot, location: str | None) -> str:
        new = new.compacted(machine, self._history_limit)
        check_size(new, len(new.encode(machine).encode("utf-8", "surrogatepass")), self._max_size)
        carried = self.carry(machine, new)
        self._heads.swap(old, new, carried, location)
        return carried


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
