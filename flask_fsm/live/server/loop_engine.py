"""An engine that serves all connections of a process by one event loop.

One thread at a time leads the loop, and only that one reads and writes (see `leadership`). The jobs
of each connection are run one after the other. A client that only listens takes no thread.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from .engine import RECEIVE, Engine, Waker
from .leadership import Leadership, LeadershipLost
from .lifecycle import Lifecycle
from .transport import CHUNK, MAX_UNWRITTEN, Transport

__all__ = ["LoopEngine"]

log: Final = logging.getLogger("flask_fsm")
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
# Seconds that events which are being handled get at the end of the process.
GRACE: Final = 30.0


class LoopEngine(Engine):
    """One event loop, and `workers` threads of which one leads it."""

    lingers = True
    leadership: Leadership
    """Assigns work to the threads; set once a connection was registered."""

    def __init__(self, limit: int, workers: int, per_address: int | None = None) -> None:
        super().__init__(limit, per_address)
        self._workers = workers
        self._pid = 0

    def register(self, transport: Transport, address: str = "") -> bool:
        self._start()
        return super().register(transport, address)

    def serve(self, sock: socket.socket, transport: Transport, first_bytes: bytes) -> None:
        """Serve a connection from now on, and return at once."""
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.configure(sock)
        connection = LoopConnection(self, sock, transport)
        self.call(lambda: connection.open(first_bytes))

    def _start(self) -> None:
        """Start the threads in this process; after a fork the child has none of them."""
        if self._pid == os.getpid():
            return
        with self._mutex:
            if self._pid == os.getpid():
                return
            self._selector = selectors.DefaultSelector()
            self._waker = Waker()
            self._selector.register(self._waker.reader, READ, self)
            self._calls: deque[Callable[[], None]] = deque()
            self._timers: list[tuple[float, int, Callable[[], None]]] = []
            self._count = itertools.count()
            self.leadership = Leadership(self._run, self.call)
            self.leadership.start(self._workers)
            self._pid = os.getpid()

    def release(self, transport: Transport) -> None:
        self.leadership.count(1)
        try:
            super().release(transport)
        finally:
            self.leadership.count(-1)

    def stop(self, within: float = 1.0) -> None:
        super().stop(within)
        # Events get time to end, as requests do: the server kills the process after that time.
        end = time.monotonic() + GRACE
        while self._pid == os.getpid() and self.leadership.busy and time.monotonic() < end:
            time.sleep(0.01)

    # -- the loop -----------------------------------------------------------------------

    def call(self, function: Callable[[], None]) -> None:
        """Have the leader call a function soon; in any thread. Many calls wake it once."""
        self._calls.append(function)
        if not self._waker.woken:
            self._waker.wake()

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call a function at a time of time.monotonic(); only the leader may do that."""
        heapq.heappush(self._timers, (when, next(self._count), function))

    def _run(self, term: int) -> None:
        """Run the loop until another thread leads it."""
        leadership = self.leadership
        while leadership.term == term:
            timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
            ready = self._selector.select(timeout)
            try:
                for key, events in ready:
                    self._guarded(key.data.on_ready, events)
                while self._timers and self._timers[0][0] <= time.monotonic():
                    self._guarded(heapq.heappop(self._timers)[2])
            except LeadershipLost:
                return

    @staticmethod
    def _guarded(function: Callable[..., None], *args: int) -> None:
        try:
            function(*args)
        except LeadershipLost:
            raise
        except BaseException:
            log.exception("A connection of the live loop failed.")

    def on_ready(self, events: int) -> None:
        """Run the functions for which the loop was woken."""
        self._waker.clear()
        calls = self._calls
        try:
            for _ in range(len(calls)):
                self._guarded(calls.popleft())
        except LeadershipLost:
            if calls:
                self._waker.wake()
            raise

    def watch(self, connection: LoopConnection, before: int, events: int) -> None:
        """Wait for these events of a connection's socket, instead of the previous ones."""
        if not before:
            self._selector.register(connection.socket, events, connection)
        elif events:
            self._selector.modify(connection.socket, events, connection)
        else:
            self._selector.unregister(connection.socket)


class LoopConnection:
    """One connection. The leader calls everything but `wake`, `run_job` and `run_job_apart`."""

    __slots__ = (
        "_busy",
        "_checking",
        "_engine",
        "_events",
        "_life",
        "_pending",
        "_unthrottling",
        "_woken",
        "closed",
        "socket",
        "transport",
    )

    def __init__(self, engine: LoopEngine, sock: socket.socket, transport: Transport) -> None:
        self.socket: socket.socket = sock
        self.transport: Transport = transport
        self._engine = engine
        self._life = Lifecycle(transport, engine)
        self._pending = b""
        self._events = 0
        self._busy = False
        """Whether a job is being run."""
        self.closed: bool = False
        """Whether the socket is closed."""
        self._woken = False
        """Whether what is queued will be written anyway."""
        self._checking = False
        """Whether a timer is set for the time when the client counts as slow."""
        self._unthrottling = False
        """Whether a timer is set for the time when the client is not throttled any more."""

    def open(self, first_bytes: bytes) -> None:
        """Write the first bytes, then serve the connection."""
        self._engine.call_at(self._life.heartbeat_at, self._on_heartbeat)
        self._write(first_bytes)
        # Not before: a message must not be written ahead of the first bytes.
        self.transport.subscriber.queue.on_push = self.wake
        self._proceed()

    # -- in any thread ------------------------------------------------------------------

    def wake(self) -> None:
        """Have the leader write what is queued."""
        if not self._woken:
            self._woken = True
            self._engine.call(self.on_wake)

    def run_job(self) -> None:
        """Run the next job."""
        try:
            job = self.transport.jobs.popleft()
        except IndexError:  # the connection has ended since this thread was chosen
            return
        try:
            self.transport.run_job(job)
        except BaseException:
            log.exception("A job of a connection failed.")

    def run_job_apart(self) -> None:
        """Run the next job in a thread that does not lead."""
        leadership = self._engine.leadership
        leadership.count(1)
        try:
            self.run_job()
        finally:
            leadership.count(-1)
            self._engine.call(self.job_done_apart)

    # -- in the leader's thread ---------------------------------------------------------

    def job_done(self) -> None:
        """Note that the job is done."""
        self._busy = False

    def job_done_apart(self) -> None:
        """Note that another thread has done the job, and continue."""
        self._busy = False
        if self.closed:
            self._release_transport()
        else:
            self._proceed()

    def on_wake(self) -> None:
        """Write what is queued."""
        self._woken = False
        self._proceed()

    def on_ready(self, events: int) -> None:
        """Read or write, as far as the socket is ready."""
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
            self._write(self.transport.received(data))
        self._proceed()

    def _proceed(self) -> None:
        """Write pending output, run the jobs, and decide which events to wait for."""
        if self.closed:
            return
        self._woken = False
        transport = self.transport
        self._flush()
        while not self.closed and not self._busy and (transport.jobs or transport.has_unparsed):
            if not transport.jobs:
                self._write(transport.received(b""))
                continue
            self._busy = True
            self._woken = True  # what a job queues is written after it
            self._engine.leadership.run_job_of(self)
            self._woken = False
            self._flush()
        if self.closed or (transport.ended and self._close_if_due()):
            return
        transport.unwritten = unwritten = len(self._pending)
        may_read = transport.reading or transport.ended
        events = (WRITE if unwritten else 0) | (READ if may_read else 0)
        if events != self._events:
            before, self._events = self._events, events
            self._engine.watch(self, before, events)
        if (
            not events & READ
            and unwritten < MAX_UNWRITTEN
            and transport.throttled_until
            and not (self._unthrottling or self._busy or transport.jobs)
        ):
            # Even if that time has passed: it had not when `reading` checked.
            self._unthrottling = True
            self._engine.call_at(transport.throttled_until, self._on_unthrottled)

    def _on_unthrottled(self) -> None:
        self._unthrottling = False
        self._proceed()

    def _on_heartbeat(self) -> None:
        if self.closed or self.transport.ended:
            return
        try:
            self._write(self._life.heartbeat())
        finally:
            self._engine.call_at(self._life.heartbeat_at, self._on_heartbeat)
        self._proceed()

    # -- writing ------------------------------------------------------------------------

    def _flush(self) -> None:
        transport = self.transport
        if transport.ended:
            return
        self._write(self._life.end_if_due())
        while not self._pending and not transport.ended and not self.closed:
            out = transport.next_output()
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
        if self._pending or self._life.stalled_since:
            self._life.on_written(sent, bool(self._pending))
            if self._pending:
                self._check_slow_later()

    def _check_slow_later(self) -> None:
        """Set the timer for slow clients unless it is set; if it fires too early, set it again."""
        if not self._checking and (slow_at := self._life.slow_at):
            self._checking = True
            self._engine.call_at(slow_at, self._check_slow)

    def _check_slow(self) -> None:
        self._checking = False
        if self.closed or self.transport.ended:
            return
        transport = self.transport
        self._write(self._life.drop_if_slow(time.monotonic()))
        if transport.ended:
            self._proceed()
        else:
            self._check_slow_later()

    # -- the end ------------------------------------------------------------------------

    def _close_if_due(self) -> bool:
        """Close the connection if it is time; else set a timer. Return whether it is closed."""
        life, now = self._life, time.monotonic()
        deadline = life.deadline
        close_at = life.close_at(len(self._pending), now)
        if close_at <= now:
            self._close()
            return True
        if close_at != deadline:
            self._engine.call_at(close_at, self._close)
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
            self._release_transport()

    def _release_transport(self) -> None:
        """Release the transport. Timers still refer to this connection, but not to its client."""
        transport, engine = self.transport, self._engine
        del self.transport, self._life
        # Its last events wait for others of the flow; without any, its place is free at once.
        waits = transport.jobs or transport.has_unparsed
        flow = transport.session.flow_key if waits else ""
        engine.leadership.submit(lambda: engine.release(transport), flow)
