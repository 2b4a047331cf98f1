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
from ..errors import Code, FlowBusy, FSMError, StaleFlow
from .base import StoredReply, Version, flow_gone, order_key, root_id

__all__ = ["FlowCache", "FlowLock"]

RECEIPTS: Final = 16


class CachedFlow:
    __slots__ = (
        "ended",
        "holder",
        "lock",
        "moved_to",
        "replies",
        "session_value",
        "snapshot",
        "users",
    )

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.session_value = ""
        self.replies: dict[str, StoredReply] = {}
        self.lock = Lock()
        self.users = 0
        self.holder = 0
        """The thread whose turn it is, if it is anyone's."""
        self.ended = ""
        """Why the flow was ended for good, if it was; the head is then its tombstone."""
        self.moved_to: str | None = None
        """The id under which the flow goes on, if it was claimed."""

    @property
    def empty(self) -> bool:
        return self.snapshot is None and not self.ended

    def require_open(self, id: str) -> None:
        """Raise FlowGone if this is a tombstone."""
        if self.ended:
            raise flow_gone(id, self.ended)

    def require_version(self, version: Version) -> None:
        """Raise StaleFlow unless the newest snapshot is the one that was seen."""
        now = self.snapshot
        if self.ended or (now is not None and (now.id, now.rev) != version):
            raise StaleFlow(
                "Another request of this flow was faster"
                + (f": it is at {now.state!r} now." if now else ", and began a new run."),
                flow=version.flow,
                source=now.state if now else None,
                code=Code.LOST_RACE,
            )


class FlowCache:
    """Keeps the heads of the `size` flows that were used last. A head in use is never dropped."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._flows: OrderedDict[str, CachedFlow] = OrderedDict()
        self._mutex = Lock()

    def __len__(self) -> int:
        return len(self._flows)

    def _used(self, key: str) -> CachedFlow | None:
        flow = self._flows.get(key)
        if flow is not None:
            self._flows.move_to_end(key)
        return flow

    def _made(self, key: str) -> CachedFlow:
        flow = self._used(key)
        if flow is None:
            flow = self._flows[key] = CachedFlow()
        return flow

    def _trim(self) -> None:
        # The oldest first; one that is in use moves behind the others instead of being dropped.
        for _ in range(len(self._flows) - self._size):
            for _ in range(len(self._flows)):
                key, flow = next(iter(self._flows.items()))
                if not flow.users:
                    del self._flows[key]
                    break
                self._flows.move_to_end(key)

    def newest(self, id: str) -> tuple[Snapshot, str] | None:
        """Return the head of the flow's lineage and what its session carries, or None."""
        with self._mutex:
            flow = self._used(root_id(id))
            if flow is None:
                return None
            if flow.snapshot is None:
                flow.require_open(id)
                return None
            return flow.snapshot, flow.session_value

    def adopt(self, snapshot: Snapshot, session_value: str) -> tuple[Snapshot, str]:
        """Take a snapshot that came from elsewhere, unless it is older; return the head."""
        with self._mutex:
            if order_key(snapshot) == (0, 0) and root_id(snapshot.id) not in self._flows:
                return snapshot, session_value
            flow = self._made(root_id(snapshot.id))
            flow.require_open(snapshot.id)
            if flow.snapshot is None or order_key(flow.snapshot) < order_key(snapshot):
                flow.snapshot, flow.session_value = snapshot, session_value
            self._trim()
            return flow.snapshot, flow.session_value

    def compare_and_swap(
        self, version: Version, new: Snapshot, session_value: str, location: str | None
    ) -> None:
        """Put `new` in the place of the head that was seen, or raise StaleFlow if it has gone."""
        with self._mutex:
            flow = self._made(root_id(version.flow))
            flow.require_version(version)
            flow.snapshot, flow.session_value = new, session_value
            receipt = new.receipt
            if receipt is not None:
                receipts = flow.replies
                receipts[receipt.nonce] = StoredReply(receipt.digest, location)
                if len(receipts) > RECEIPTS:
                    del receipts[next(iter(receipts))]
            if len(self._flows) > self._size:
                self._trim()

    def write_tombstone(
        self,
        version: Version,
        receipt: Receipt | None = None,
        location: str | None = None,
        *,
        moved_to: str | None = None,
    ) -> None:
        """Put a tombstone in the place of the head that was seen, or raise StaleFlow."""
        with self._mutex:
            flow = self._made(root_id(version.flow))
            flow.require_version(version)
            flow.snapshot, flow.session_value, flow.ended = (
                None,
                "",
                "moved" if moved_to else "reset",
            )
            flow.moved_to = moved_to
            flow.replies.clear()
            if receipt is not None:
                flow.replies[receipt.nonce] = StoredReply(receipt.digest, location)
            self._trim()

    def moved_to(self, id: str) -> str | None:
        """Return the id under which the flow goes on, if it was claimed."""
        with self._mutex:
            flow = self._flows.get(root_id(id))
            return None if flow is None else flow.moved_to

    def stored_reply(self, id: str, nonce: str) -> StoredReply | None:
        """Return what is kept of the submission with this nonce, or None."""
        with self._mutex:
            flow = self._flows.get(root_id(id))
            return None if flow is None else flow.replies.get(nonce)

    def lock(self, id: str, wait: float) -> FlowLock:
        """Return a context in which no other request of this lineage is served."""
        return FlowLock(self, id, wait)

    def _enter(self, id: str, wait: float) -> CachedFlow:
        with self._mutex:
            flow = self._made(root_id(id))
            if flow.holder == threading.get_ident():  # gevent may have put its own there by now
                raise FSMError(
                    "This request is the one that is served of the flow, so nothing else can be "
                    "done with it by fsm.live.flow() meanwhile: call flow.transition() in the "
                    "handler of an event, and fsm.transition() in a view.",
                    flow=id,
                    code=Code.IN_TURN,
                )
            flow.users += 1
        if flow.lock.acquire(timeout=wait):
            flow.holder = threading.get_ident()
            return flow
        self._leave(id, flow)
        raise FlowBusy(
            f"Another request of this flow has been running for over {wait:g} seconds. "
            f"Wait a moment, then try again.",
            flow=id,
        )

    def _leave(self, id: str, flow: CachedFlow) -> None:
        with self._mutex:
            flow.users -= 1
            if not flow.users and flow.empty:
                self._flows.pop(root_id(id), None)


class FlowLock:
    """The time in which a request is the only one served of its lineage.

    Entering it raises FlowBusy after `wait` seconds.
    """

    __slots__ = ("_head", "_heads", "_id", "_wait")

    def __init__(self, cache: FlowCache, id: str, wait: float) -> None:
        self._heads = cache
        self._id = id
        self._wait = wait

    def __enter__(self) -> None:
        self._head = self._heads._enter(self._id, self._wait)

    def __exit__(self, *error: object) -> None:
        self._head.holder = 0
        self._head.lock.release()
        self._heads._leave(self._id, self._head)
