"""Heads: the newest snapshot this process knows of each flow, and whose turn it is.

A head stands for a lineage, so that a run and its successors share a lock, and a run that was
reset or replaced can't come back by an old cookie.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from threading import Lock
from typing import Final

from ..core.snapshot import Receipt, Snapshot
from ..errors import FlowBusy, FSMError, StaleFlow
from .base import Kept, Seen, age, gone, lineage

__all__ = ["Heads", "Turn"]

RECEIPTS: Final = 16


class Head:
    __slots__ = ("buried", "carried", "moved_to", "owner", "receipts", "snapshot", "turn", "users")

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.carried = ""
        self.receipts: dict[str, Kept] = {}
        self.turn = Lock()
        self.users = 0
        self.owner = 0
        """The thread whose turn it is, if it is anyone's."""
        self.buried = ""
        """Why the flow was ended for good, if it was; the head is then its tombstone."""
        self.moved_to: str | None = None
        """The id under which the flow goes on, if it was claimed."""

    @property
    def empty(self) -> bool:
        return self.snapshot is None and not self.buried

    def open(self, id: str) -> None:
        """Raise FlowGone if this is a tombstone."""
        if self.buried:
            raise gone(id, self.buried)

    def replaces(self, seen: Seen) -> None:
        """Raise StaleFlow unless the newest snapshot is the one that was seen."""
        now = self.snapshot
        if self.buried or (now is not None and (now.id, now.rev) != seen):
            raise StaleFlow(
                "Another request of this flow was faster"
                + (f": it is at {now.state!r} now." if now else ", and began a new run."),
                flow=seen.flow,
                source=now.state if now else None,
                code="lost_race",
            )


class Heads:
    """Keeps the heads of the `size` flows that were used last. A head in use is never dropped."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self._mutex = Lock()

    def __len__(self) -> int:
        return len(self._heads)

    def _used(self, key: str) -> Head | None:
        head = self._heads.get(key)
        if head is not None:
            self._heads.move_to_end(key)
        return head

    def _made(self, key: str) -> Head:
        head = self._used(key)
        if head is None:
            head = self._heads[key] = Head()
        return head

    def _trim(self) -> None:
        # The oldest first; one that is in use moves behind the others instead of being dropped.
        for _ in range(len(self._heads) - self._size):
            for _ in range(len(self._heads)):
                key, head = next(iter(self._heads.items()))
                if not head.users:
                    del self._heads[key]
                    break
                self._heads.move_to_end(key)

    def newest(self, id: str) -> tuple[Snapshot, str] | None:
        """Return the head of the flow's lineage and what its session carries, or None."""
        with self._mutex:
            head = self._used(lineage(id))
            if head is None:
                return None
            if head.snapshot is None:
                head.open(id)
                return None
            return head.snapshot, head.carried

    def adopt(self, snapshot: Snapshot, carried: str) -> tuple[Snapshot, str]:
        """Take a snapshot that came from elsewhere, unless it is older; return the head."""
        with self._mutex:
            if age(snapshot) == (0, 0) and lineage(snapshot.id) not in self._heads:
                return snapshot, carried
            head = self._made(lineage(snapshot.id))
            head.open(snapshot.id)
            if head.snapshot is None or age(head.snapshot) < age(snapshot):
                head.snapshot, head.carried = snapshot, carried
            self._trim()
            return head.snapshot, head.carried

    def swap(self, seen: Seen, new: Snapshot, carried: str, location: str | None) -> None:
        """Put `new` in the place of the head that was seen, or raise StaleFlow if it has gone."""
        with self._mutex:
            head = self._made(lineage(seen.flow))
            head.replaces(seen)
            head.snapshot, head.carried = new, carried
            receipt = new.receipt
            if receipt is not None:
                receipts = head.receipts
                receipts[receipt.nonce] = Kept(receipt.digest, location)
                if len(receipts) > RECEIPTS:
                    del receipts[next(iter(receipts))]
            if len(self._heads) > self._size:
                self._trim()

    def bury(
        self,
        seen: Seen,
        receipt: Receipt | None = None,
        location: str | None = None,
        *,
        moved_to: str | None = None,
    ) -> None:
        """Put a tombstone in the place of the head that was seen, or raise StaleFlow."""
        with self._mutex:
            head = self._made(lineage(seen.flow))
            head.replaces(seen)
            head.snapshot, head.carried, head.buried = None, "", "moved" if moved_to else "reset"
            head.moved_to = moved_to
            head.receipts.clear()
            if receipt is not None:
                head.receipts[receipt.nonce] = Kept(receipt.digest, location)
            self._trim()

    def moved_to(self, id: str) -> str | None:
        """Return the id under which the flow goes on, if it was claimed."""
        with self._mutex:
            head = self._heads.get(lineage(id))
            return None if head is None else head.moved_to

    def receipt(self, id: str, nonce: str) -> Kept | None:
        """Return what is kept of the submission with this nonce, or None."""
        with self._mutex:
            head = self._heads.get(lineage(id))
            return None if head is None else head.receipts.get(nonce)

    def turn(self, id: str, wait: float) -> Turn:
        """Return a context in which no other request of this lineage is served."""
        return Turn(self, id, wait)

    def _enter(self, id: str, wait: float) -> Head:
        with self._mutex:
            head = self._made(lineage(id))
            if head.owner == threading.get_ident():  # gevent may have put its own there by now
                raise FSMError(
                    "This request is the one that is served of the flow, so nothing else can be "
                    "done with it by fsm.live.flow() meanwhile: call flow.transition() in the "
                    "handler of an event, and fsm.transition() in a view.",
                    flow=id,
                    code="in_turn",
                )
            head.users += 1
        if head.turn.acquire(timeout=wait):
            head.owner = threading.get_ident()
            return head
        self._leave(id, head)
        raise FlowBusy(
            f"Another request of this flow has been running for over {wait:g} seconds. "
            f"Wait a moment, then try again.",
            flow=id,
        )

    def _leave(self, id: str, head: Head) -> None:
        with self._mutex:
            head.users -= 1
            if not head.users and head.empty:
                self._heads.pop(lineage(id), None)


class Turn:
    """The time in which a request is the only one served of its lineage.

    Entering it raises FlowBusy after `wait` seconds.
    """

    __slots__ = ("_head", "_heads", "_id", "_wait")

    def __init__(self, heads: Heads, id: str, wait: float) -> None:
        self._heads = heads
        self._id = id
        self._wait = wait

    def __enter__(self) -> None:
        self._head = self._heads._enter(self._id, self._wait)

    def __exit__(self, *error: object) -> None:
        self._head.owner = 0
        self._head.turn.release()
        self._heads._leave(self._id, self._head)
