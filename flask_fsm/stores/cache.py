"""The cache: the newest snapshot of each flow that this process knows, and the lock of each flow.

A run and its successors share one cached flow, so that they share a lock, and a run that was reset
or replaced can't come back by an old cookie.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from ..core.snapshot import Receipt, Snapshot
from ..errors import Code, FlowBusy, FSMError, StaleFlow
from ..texts import _
from .base import ROOT_LENGTH, StoredReply, Version, order_key
from .ended_runs import EndedRuns, Ending
from .expiry import flow_gone

__all__ = ["FlowCache", "FlowLock"]

RECEIPTS: Final = 16
MAX_WAITING: Final = 2
"""How many requests of a flow may wait long for its lock, each of which takes a thread."""
GRACE: Final = 0.2
"""Seconds for which any number may wait, since most requests are served in less."""


class WaitingRequest:
    """A request that waits for the lock of a flow."""

    __slots__ = ("form", "thread", "waits_long", "wakeup")

    def __init__(self, form: str) -> None:
        self.thread: int = threading.get_ident()
        self.form: str = form
        self.waits_long: bool = False
        """Whether it is one of those that wait for longer than GRACE."""
        self.wakeup: threading.Lock = threading.Lock()
        """Released to wake the request: it has got the lock, or has lost its place."""
        self.wakeup.acquire()


class CachedFlow:
    """The newest snapshot of a flow, its lock, and the replies to its last submissions."""

    __slots__ = (
        "ended",
        "holder",
        "moved_to",
        "replies",
        "session_value",
        "snapshot",
        "users",
        "waiting",
    )

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.session_value: str = ""
        self.replies: dict[str, StoredReply] = {}
        self.users: int = 0
        self.holder: int = 0
        """The thread that holds the lock, or 0."""
        self.waiting: tuple[WaitingRequest, ...] = ()
        """The requests that wait for the lock, in the order in which they get it."""
        self.ended: str = ""
        """Why the flow has ended for good, if it has: then this is a tombstone."""
        self.moved_to: str | None = None
        """The id under which the flow continues after a login."""

    def require_open(self, id: str) -> None:
        """Raise FlowGone if this is a tombstone."""
        if self.ended:
            raise flow_gone(id, self.ended)

    def lost_race(self, version: Version) -> StaleFlow:
        """Return the error of a conflict: this is no longer the version that was loaded."""
        now = self.snapshot
        return StaleFlow(
            _(
                "Another request has changed this flow first: it is now at %(state)s.",
                state=repr(now.state),
            )
            if now
            else _("Another request has changed this flow first, and has started a new run."),
            flow=version.flow,
            source=now.state if now else None,
            code=Code.LOST_RACE,
        )


class FlowCache:
    """Caches the flows that were used last. One in use is never dropped.

    Args:
        size: FSM_CACHE_SIZE, the number of flows.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._flows: OrderedDict[str, CachedFlow] = OrderedDict()
        self._ended = EndedRuns()
        self._mutex = threading.Lock()

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
        # The least recently used first; one in use becomes the newest instead of being dropped.
        for _excess in range(len(self._flows) - self._size):
            for _kept in range(len(self._flows)):
                key, flow = next(iter(self._flows.items()))
                if not flow.users:
                    del self._flows[key]
                    self._note_ended(key, flow)
                    break
                self._flows.move_to_end(key)

    def _note_ended(self, key: str, flow: CachedFlow) -> None:
        """Remember what is over of a flow that is dropped, so that no old cookie revives it."""
        if flow.ended:
            self._ended.note(key, 0, Ending.RESET)
        elif flow.snapshot is not None:
            run = order_key(flow.snapshot)[0]
            if flow.snapshot.finished:
                self._ended.note(key, run, Ending.FINISHED)
            elif run:
                self._ended.note(key, run, Ending.REPLACED)

    def _require_not_ended(self, snapshot: Snapshot) -> None:
        """Raise FlowGone if a snapshot from a cookie is of a run that is known to be over."""
        known = self._ended.find(snapshot.id[:ROOT_LENGTH])
        if known is None:
            return
        run = order_key(snapshot)[0]
        if known.ending is Ending.RESET or run < known.run:
            raise flow_gone(snapshot.id, Code.RESET)
        if known.ending is Ending.FINISHED and run == known.run and not snapshot.finished:
            raise flow_gone(snapshot.id, Code.FINISHED)

    def newest(self, id: str) -> tuple[Snapshot, str] | None:
        """Return the newest snapshot of a flow and what its session carries, or None.

        Raises FlowGone if the flow was reset or has moved.
        """
        with self._mutex:
            flow = self._used(id[:ROOT_LENGTH])
            if flow is None:
                return None
            if flow.snapshot is None:
                flow.require_open(id)
                return None
            return flow.snapshot, flow.session_value

    def adopt(self, snapshot: Snapshot, session_value: str) -> tuple[Snapshot, str]:
        """Cache a snapshot from a cookie unless it is older, as in a replay; return the newest.

        Raises FlowGone if its run is over.
        """
        with self._mutex:
            if order_key(snapshot) == (0, 0) and snapshot.id[:ROOT_LENGTH] not in self._flows:
                return snapshot, session_value
            flow = self._made(snapshot.id[:ROOT_LENGTH])
            flow.require_open(snapshot.id)
            if flow.snapshot is None:
                self._require_not_ended(snapshot)
            if flow.snapshot is None or order_key(flow.snapshot) < order_key(snapshot):
                flow.snapshot, flow.session_value = snapshot, session_value
            self._trim()
            return flow.snapshot, flow.session_value

    def compare_and_swap(
        self, version: Version, new: Snapshot, session_value: str, location: str | None
    ) -> None:
        """Replace the snapshot of `version` by `new`; raise StaleFlow on a conflict."""
        with self._mutex:
            flow = self._made(version.flow[:ROOT_LENGTH])
            now = flow.snapshot
            if flow.ended or (now is not None and (now.id, now.rev) != version):
                raise flow.lost_race(version)
            flow.snapshot, flow.session_value = new, session_value
            receipt = new.receipt
            if receipt is not None:
                receipts = flow.replies
                reply = StoredReply(receipt.digest, location, new.rev, new.state)
                receipts[receipt.nonce] = reply
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
        """Replace the snapshot of `version` by a tombstone; raise StaleFlow on a conflict."""
        with self._mutex:
            flow = self._made(version.flow[:ROOT_LENGTH])
            now = flow.snapshot
            if flow.ended or (now is not None and (now.id, now.rev) != version):
                raise flow.lost_race(version)
            flow.snapshot, flow.session_value = None, ""
            flow.ended = Code.MOVED if moved_to else Code.RESET
            flow.moved_to = moved_to
            flow.replies.clear()
            if receipt is not None:
                flow.replies[receipt.nonce] = StoredReply(receipt.digest, location)
            self._trim()

    def moved_to(self, id: str) -> str | None:
        """Return the id under which a flow continues after a login, or None."""
        with self._mutex:
            flow = self._flows.get(id[:ROOT_LENGTH])
            return None if flow is None else flow.moved_to

    def stored_reply(self, id: str, nonce: str) -> StoredReply | None:
        """Return the reply to the submission with this nonce, if it was handled, or None."""
        with self._mutex:
            flow = self._flows.get(id[:ROOT_LENGTH])
            return None if flow is None else flow.replies.get(nonce)

    def lock(self, id: str, wait: float, form: str = "") -> FlowLock:
        """Return the lock of a flow, a context manager; see FlowLock."""
        return FlowLock(self, id, wait, form)

    def _enter(self, id: str, wait: float, form: str) -> CachedFlow:
        thread = threading.get_ident()  # gevent may have put its own there by now
        with self._mutex:
            flow = self._made(id[:ROOT_LENGTH])
            holder = flow.holder
            if holder == thread:
                raise FSMError(
                    "This request holds the lock of the flow already, so fsm.live.flow() can't "
                    "send to it: call flow.transition() in the handler of an event, and "
                    "fsm.transition() in a view.",
                    flow=id,
                    code=Code.IN_TURN,
                )
            flow.users += 1
            if not holder:
                flow.holder = thread
                return flow
            me = WaitingRequest(form)
            flow.waiting += (me,)
        try:
            woken = me.wakeup.acquire(timeout=min(wait, GRACE))
            if not woken and wait > GRACE:
                self._wait_longer(id, flow, me)
                woken = me.wakeup.acquire(timeout=wait - GRACE)
            if flow.holder != thread:
                raise self._busy(id, wait, displaced=woken)
        except BaseException:  # also what ends a greenlet, or comes from the handler of a signal
            self._leave(id, flow, me)
            raise
        return flow

    def _wait_longer(self, id: str, flow: CachedFlow, me: WaitingRequest) -> None:
        """Make a request one of the MAX_WAITING of its flow, or raise FlowBusy."""
        with self._mutex:
            others = [each for each in flow.waiting if each.waits_long]
            if len(others) >= MAX_WAITING and flow.holder != me.thread:
                # An impatient visitor clicks again, and sees the answer to the last click.
                earlier = next((each for each in others if me.form and each.form == me.form), None)
                if earlier is None:
                    raise FlowBusy(
                        _(
                            "%(number)s other requests for this flow are waiting already. "
                            "Wait a moment, then try again.",
                            number=MAX_WAITING,
                        ),
                        flow=id,
                        status=503,
                    )
                flow.waiting = tuple(each for each in flow.waiting if each is not earlier)
                earlier.wakeup.release()
            me.waits_long = True

    @staticmethod
    def _busy(id: str, wait: float, displaced: bool) -> FlowBusy:
        if displaced:
            return FlowBusy(
                _(
                    "This form has been sent again, and only that request waits. "
                    "Wait a moment, then try again."
                ),
                flow=id,
                status=503,
            )
        return FlowBusy(
            _(
                "Another request for this flow has been running for more than %(seconds)s s. "
                "Wait a moment, then try again.",
                seconds=format(wait, "g"),
            ),
            flow=id,
        )

    def _leave(self, id: str, flow: CachedFlow, waiting: WaitingRequest | None = None) -> None:
        """Pass the lock on to the next request, or stop waiting for it."""
        with self._mutex:
            flow.users -= 1
            if waiting is not None and flow.holder != waiting.thread:
                flow.waiting = tuple(each for each in flow.waiting if each is not waiting)
            elif flow.waiting:
                following, *others = flow.waiting
                flow.waiting = tuple(others)
                flow.holder = following.thread
                following.wakeup.release()
            else:
                flow.holder = 0
            if not flow.users and flow.snapshot is None and not flow.ended:
                self._flows.pop(id[:ROOT_LENGTH], None)


class FlowLock:
    """The lock of a flow: while a request holds it, this process serves no other of that flow.

    Entering raises FlowBusy after `wait` seconds; or already after GRACE if MAX_WAITING others wait
    longer, since each takes a thread that other visitors need. If one of these has the same `form`
    (the token of a form that was sent again), that one gives up its place and raises instead.
    """

    __slots__ = ("_cache", "_flow", "_form", "_id", "_wait")

    def __init__(self, cache: FlowCache, id: str, wait: float, form: str) -> None:
        self._cache = cache
        self._id = id
        self._wait = wait
        self._form = form

    def __enter__(self) -> None:
        self._flow = self._cache._enter(self._id, self._wait, self._form)

    def __exit__(self, *error: object) -> None:
        self._cache._leave(self._id, self._flow)
