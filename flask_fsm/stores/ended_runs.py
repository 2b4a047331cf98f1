"""EndedRuns remembers which runs are over, for a million flows that the cache has dropped.

Without it, someone who makes thousands of new flows could push a finished or reset run out of the
cache, and bring it back by an old cookie (a replay).
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = ["EndedRun", "EndedRuns", "Ending"]

# 2**17 buckets of 16 flows, 8 bytes each, take 16 MiB once the first flow is noted. A million flows
# fill half of it, so that hardly a bucket overflows.
BUCKETS: Final = 1 << 17
WAYS: Final = 16
MAX_RUN: Final = (1 << 14) - 1


class Ending(IntEnum):
    """What is over: all runs before the newest one, the newest one too, or the whole flow."""

    REPLACED = 1
    FINISHED = 2
    RESET = 3


class EndedRun(NamedTuple):
    """The number of a flow's newest run, and what of the flow is over."""

    run: int
    ending: Ending


class EndedRuns:
    """A table of bounded size: 8 bytes a flow. In a full bucket the flow noted first is dropped.

    A flow is known by 64 bits of a keyed hash of its id: among a million flows, the probability
    that two of one bucket share theirs is below 1e-8. Not thread-safe: the cache calls it under its
    mutex.
    """

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: array[int] | None = None

    def note(self, root: str, run: int, ending: Ending) -> None:
        """Remember the newest `run` of the flow with this root id, and what of the flow is over."""
        if self._table is None:
            self._table = array("Q", [0]) * (WAYS * BUCKETS)
        start, mark = _place(root)
        kept = [slot for slot in self._table[start : start + WAYS] if slot >> 16 != mark]
        slots = [mark << 16 | min(run, MAX_RUN) << 2 | ending, *kept]
        self._table[start : start + WAYS] = array("Q", slots[:WAYS])

    def find(self, root: str) -> EndedRun | None:
        """Return what is remembered of a flow, or None."""
        if self._table is None:
            return None
        start, mark = _place(root)
        for slot in self._table[start : start + WAYS]:
            if slot and slot >> 16 == mark:
                return EndedRun(slot >> 2 & MAX_RUN, Ending(slot & 3))
        return None


def _place(root: str) -> tuple[int, int]:
    """Return where the bucket of a flow begins, and what distinguishes the flow within it."""
    hashed = hash(root)  # keyed anew in each process, so that nobody can aim at a bucket
    return (hashed & BUCKETS - 1) * WAYS, hashed >> 16 & (1 << 48) - 1
