"""Loop: an engine that serves all connections of a process by one event loop.

One thread at a time leads the loop, and only that one reads and writes. What takes no store, it
handles itself, since handing it to another thread would cost more than that; should it take long
all the same, another thread goes on with the loop meanwhile (leader and followers: Schmidt et al.,
"Leader/Followers", 2000). The rest is done by the other threads, for each connection one after the
other. A client that only listens takes no thread.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, NamedTuple

from ..protocol.close_codes import CloseCode
from .engine import Engine, Wake
from .transport import CHUNK, Peer

__all__ = ["LoopEngine"]

log: Final = logging.getLogger("flask_fsm")
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
RECEIVE: Final = 65_536
# Seconds that the leader may take for an event before another thread leads.
LONG: Final = 0.01
# Seconds for which events of a machine that took long are left to the other threads.
WARY: Final = 2.0
# Seconds until the loop goes on after an error of its own.
PAUSE: Final = 0.1
# Seconds that events which are being handled get at the end of the process.
GRACE: Final = 30.0


class Lead(NamedTuple):
    """The order to lead the loop, which the next order ends."""

    number: int


class LoopEngine(Engine):
    """One event loop, and `workers` threads of which one leads it."""

    def __init__(self, limit: int, workers: int) -> None:
        super().__init__(limit)
        self._workers = workers
        self._pid = 0

    def admit(self, peer: Peer) -> bool:
        self._start()
        return super().admit(peer)

    def serve(self, sock: socket.socket, peer: Peer, head: bytes, wake: Wake) -> None:
        """Take a connection over, and return at once."""
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.prepare(sock)
        served = Served(self, sock, peer)
        wake.set(served.wake)
        self.call(lambda: served.open(head))

    # -- threads ------------------------------------------------------------------------

    def _start(self) -> None:
        """Start the threads, in this process: one that was forked has none of them."""
        if self._pid == os.getpid():
            return
        with self._mutex:
            if self._pid == os.getpid():
                return
            self._selector = selectors.DefaultSelector()
            self._waker, self._alarm = socket.socketpair()
            self._waker.setblocking(False)
            self._alarm.setblocking(False)
            self._selector.register(self._waker, READ, self)
            self._calls: deque[Callable[[], None]] = deque()
            self._called = False
            self._timers: list[tuple[float, int, Callable[[], None]]] = []
            self._count = itertools.count()
            self._orders: SimpleQueue[Lead | Callable[[], None]] = SimpleQueue()
            self._idle = 0
            self._changing = threading.Lock()
            self._lead = 0
            self._since = 0.0
            self._at: Served | None = None
            self._busy = threading.Event()
            self._wary: dict[str, float] = {}
            self._doing = 0
            for number in range(self._workers):
                self._thread(self._obey, f"flask-fsm-{number}")
            self._thread(self._look, "flask-fsm-look")
            self._orders.put(Lead(0))
            self._pid = os.getpid()

    @staticmethod
    def _thread(work: Callable[[], None], name: str) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def _obey(self) -> None:
        """Be one of the threads: lead the loop when told to, or do what takes long."""
        while True:
            with self._changing:
                self._idle += 1
            order = self._orders.get()
            with self._changing:
                self._idle -= 1
            try:
                if isinstance(order, Lead):
                    self._turn(order.number)
                else:
                    order()
            except BaseException:
                log.exception("A thread of the live loop went on after an error.")
                if isinstance(order, Lead) and order.number == self._lead:
                    time.sleep(PAUSE)
                    self._orders.put(order)  # somebody has to lead

    def _look(self) -> None:
        """Let another thread lead, when the leader is busy with an event for long."""
        while True:
            self._busy.wait()
            self._busy.clear()
            before, served = self._since, self._at
            time.sleep(LONG)
            with self._changing:
                if not before or self._since != before:
                    continue
                # The leader is still at the same event, which counts as any other job from now on.
                self._doing += 1
                self._since = 0.0
                self._lead += 1
                self._orders.put(Lead(self._lead))
            if served is not None:
                self.call(served.on_wake)  # what it says meanwhile is written

    def count(self, more: int) -> None:
        """Count the jobs that are being done."""
        with self._changing:
            self._doing += more

    def dismiss(self, peer: Peer) -> None:
        self.count(1)
        try:
            super().dismiss(peer)
        finally:
            self.count(-1)

    def stop(self, within: float = 1.0) -> None:
        super().stop(within)
        # As a server waits for requests that are being served: it kills us when that is enough.
        end = time.monotonic() + GRACE
        while self._pid == os.getpid() and (self._since or self._doing) and time.monotonic() < end:
            time.sleep(0.01)

    def submit(self, task: Callable[[], None]) -> None:
        """Let one of the other threads do something that may take long."""
        self._orders.put(task)

    def handle(self, served: Served) -> None:
        """Do the next job of a connection, here or in another thread."""
        kind = served.peer.kind
        now = time.monotonic()
        wary = self._wary.get(kind, 0.0) > now
        if not kind or wary or self._idle < 1:
            self.submit(served.do_elsewhere)
            return
        number = self._lead
        self._at = served
        self._since = now
        if not self._busy.is_set():
            self._busy.set()
        served.do()
        with self._changing:
            lost = self._lead != number
            if lost:
                self._doing -= 1
            else:
                self._since = 0.0
        if lost:
            self._wary[kind] = time.monotonic() + WARY
            self.call(served.done_elsewhere)
            raise Deposed
        served.done()

    # -- the loop -----------------------------------------------------------------------

    def call(self, function: Callable[[], None]) -> None:
        """Let the leader call a function soon; many calls cost it one awakening."""
        self._calls.append(function)
        if not self._called:
            self._called = True
            with contextlib.suppress(BlockingIOError):
                self._alarm.send(b"\0")

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Let the leader, who asks for it, call a function at a time of time.monotonic()."""
        heapq.heappush(self._timers, (when, next(self._count), function))

    def _turn(self, number: int) -> None:
        """Lead the loop, until another thread does."""
        while self._lead == number:
            timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
            ready = self._selector.select(timeout)
            try:
                for key, events in ready:
                    self._guarded(key.data.on_ready, events)
                while self._timers and self._timers[0][0] <= time.monotonic():
                    self._guarded(heapq.heappop(self._timers)[2])
            except Deposed:
                return

    @staticmethod
    def _guarded(function: Callable[..., None], *args: int) -> None:
        try:
            function(*args)
        except Deposed:
            raise
        except BaseException:
            log.exception("A connection of the live loop failed.")

    def on_ready(self, events: int) -> None:
        """Answer the calls, which have made the waker ready."""
        with contextlib.suppress(BlockingIOError):
            self._waker.recv(RECEIVE)
        self._called = False
        calls = self._calls
        try:
            for _ in range(len(calls)):
                self._guarded(calls.popleft())
        except Deposed:
            if calls:
                self._nudge()
            raise

    def _nudge(self) -> None:
        self._called = True
        with contextlib.suppress(BlockingIOError):
            self._alarm.send(b"\0")

    # -- what a connection asks of the selector -------------------------------------------

    def watch(self, served: Served, before: int, events: int) -> None:
        """Look out for these events of a connection, from now on."""
        if not before:
            self._selector.register(served.socket, events, served)
        elif events:
            self._selector.modify(served.socket, events, served)
        else:
            self._selector.unregister(served.socket)


class Deposed(Exception):
    """Another thread leads now."""


class Served:
    """One connection. All but `wake` and `do` is done by the leader."""

    __slots__ = (
        "_busy",
        "_checking",
        "_deadline",
        "_engine",
        "_events",
        "_pending",
        "_progress",
        "_resuming",
        "_woken",
        "closed",
        "peer",
        "socket",
    )

    def __init__(self, engine: LoopEngine, sock: socket.socket, peer: Peer) -> None:
        self.socket = sock
        self.peer = peer
        self._engine = engine
        self._pending = b""
        self._events = 0
        self._busy = False
        self.closed = False
        """Whether the socket is closed."""
        self._woken = False
        self._progress = 0.0
        """Since when nothing more has been written of what is pending; 0: nothing is."""
        self._checking = False
        """Whether a timer is set for the time when that is too long."""
        self._resuming = False
        """Whether a timer is set for the time when the client need not wait any more."""
        self._deadline = 0.0
        """When the connection is closed, whatever is pending; 0: not yet."""

    def open(self, head: bytes) -> None:
        """Begin."""
        self._engine.call_at(self.peer.first_beat(), self._on_beat)
        self._write(head)
        self._go_on()

    # -- what others ask for --------------------------------------------------------------

    def wake(self) -> None:
        """Say from whichever thread that something waits for the peer."""
        if not self._woken:
            self._woken = True
            self._engine.call(self.on_wake)

    def on_wake(self) -> None:
        self._woken = False
        self._go_on()

    def do(self) -> None:
        """Do the next job."""
        try:
            self.peer.do(self.peer.jobs.popleft())
        except BaseException:
            log.exception("A job of a connection failed.")

    def do_elsewhere(self) -> None:
        """Do the next job, in a thread that does not lead."""
        self._engine.count(1)
        try:
            self.do()
        finally:
            self._engine.count(-1)
            self._engine.call(self.done_elsewhere)

    def done_elsewhere(self) -> None:
        self.done()
        if self.closed:
            self._leave()
        else:
            self._go_on()

    def done(self) -> None:
        """Note that the job is done."""
        self._busy = False

    # -- what the loop tells ----------------------------------------------------------------

    def on_ready(self, events: int) -> None:
        """Read, or write, what can be."""
        if self.closed:
            return
        if events & WRITE:
            self._send()
        if events & READ:
            try:
                data = self.socket.recv(RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close()
                return
            self._woken = True  # what is queued meanwhile is written below
            self._write(self.peer.received(data))
        self._go_on()

    def _go_on(self) -> None:
        """Write what waits, do what is to be done, and see what to look out for."""
        if self.closed:
            return
        self._woken = False
        peer = self.peer
        self._flush()
        while not self.closed and not self._busy and (peer.jobs or peer.behind):
            if not peer.jobs:
                self._write(peer.received(b""))
                continue
            self._busy = True
            self._woken = True  # what a job says is written after it
            self._engine.handle(self)
            self._woken = False
            self._flush()
        if self.closed or (peer.ended and self._ends()):
            return
        events = (WRITE if self._pending else 0) | (READ if peer.reading or peer.ended else 0)
        if events != self._events:
            before, self._events = self._events, events
            self._engine.watch(self, before, events)
        if not events & READ and peer.resume_at and not (self._resuming or self._busy or peer.jobs):
            # Also if that time is over by now: it was not when we looked.
            self._resuming = True
            self._engine.call_at(peer.resume_at, self._resume)

    def _resume(self) -> None:
        self._resuming = False
        self._go_on()

    def _flush(self) -> None:
        peer = self.peer
        if peer.ended:
            return
        if self._engine.going:
            self._write(peer.close(CloseCode.SERVICE_RESTART))
        elif peer.subscriber.queue.overflown:
            self._write(peer.cut())
        while not self._pending and not peer.ended and not self.closed:
            out = peer.outgoing()
            self._write(out)
            if len(out) < CHUNK:
                return  # that was all: what has been queued since then has called `wake`

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._pending:
            self._pending += data
            return
        self._pending = data
        self._send()

    def _send(self) -> None:
        try:
            sent = self.socket.send(self._pending)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close()
            return
        self._pending = self._pending[sent:]
        if not self._pending:
            self._progress = 0.0
            return
        if sent or not self._progress:
            self._progress = time.monotonic()
        self._check_later()

    def _check_later(self) -> None:
        """Set the timer, unless it is set: it looks when it is due whether it came too early."""
        if not self._checking:
            self._checking = True
            self._engine.call_at(self._progress + self.peer.config.send_timeout, self._check)

    def _check(self) -> None:
        """Cut a client that makes no progress."""
        self._checking = False
        if self.closed or not self._progress or self.peer.ended:
            return
        if self._progress + self.peer.config.send_timeout > time.monotonic():
            self._check_later()
        else:
            self._write(self.peer.cut())
            self._go_on()

    # -- the end ------------------------------------------------------------------------

    def _ends(self) -> bool:
        """Close the connection if nothing more is to be said; else in some time."""
        if self.peer.finished and not self._pending:
            self._close()
            return True
        if not self._deadline:
            patience = self._engine.patience_with(self.peer, bool(self._pending))
            self._deadline = time.monotonic() + patience
            self._engine.call_at(self._deadline, self._close)
        return False

    def _close(self) -> None:
        if self.closed:
            return
        if self._events:
            self._engine.watch(self, self._events, 0)
            self._events = 0
        self.closed = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._pending = b""
        if not self._busy:
            self._leave()

    def _leave(self) -> None:
        """Let go of the peer. Timers still know this connection, but no more than that it was."""
        peer, engine = self.peer, self._engine
        del self.peer
        engine.submit(lambda: engine.dismiss(peer))

    def _on_beat(self) -> None:
        if self.closed or self.peer.ended:
            return
        self._engine.call_at(self.peer.next_beat(), self._on_beat)
        self._write(self.peer.beat())
        self._go_on()
