"""Leadership: which thread runs the loop, and which one the handler of an event.

The leader runs the loop and the events that need no store, since handing one to another thread
would cost more than the event itself. If such an event takes long, another thread becomes the
leader meanwhile (Schmidt et al., "Leader/Followers", 2000). The other threads run the rest, one job
of a flow at a time: a busy flow then holds up one thread, however many sockets it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, NamedTuple, Protocol

from .transport import Transport

__all__ = ["JobConnection", "Leadership", "LeadershipLost"]

log: Final = logging.getLogger("flask_fsm")
# Seconds that an event may take in the leader's thread before another thread leads.
LONG: Final = 0.01
# Seconds for which events of a machine that took long are left to the other threads.
SLOW_TIME: Final = 2.0
# Seconds until the loop continues after an error of its own.
PAUSE: Final = 0.1


class Term(NamedTuple):
    """The task to lead the loop until the next term begins."""

    number: int


class FlowTask(NamedTuple):
    """The task to run a function that may wait for the lock of a flow."""

    flow: str
    function: Callable[[], None]


class LeadershipLost(Exception):
    """Another thread leads now."""


class JobConnection(Protocol):
    """A connection whose jobs are run by the leader or by another thread."""

    transport: Transport

    def run_job(self) -> None:
        """Run the next job."""

    def run_job_apart(self) -> None:
        """Run the next job in a thread that does not lead."""

    def job_done(self) -> None:
        """Note in the leader's thread that its job is done."""

    def job_done_apart(self) -> None:
        """Note in the leader's thread that another thread has done the job."""

    def on_wake(self) -> None:
        """Write what is queued."""


class Leadership:
    """Several threads, of which one at a time runs the loop.

    `run_loop` runs the loop for as long as `term` is the number it is called with; `call` lets the
    leader call a function soon.
    """

    def __init__(
        self,
        run_loop: Callable[[int], None],
        call: Callable[[Callable[[], None]], None],
    ) -> None:
        self.term: int = 0
        """The number of the term of the thread that leads."""
        self.idle: int = 0
        """How many threads wait for a task."""
        self._run_loop = run_loop
        self._call = call
        self._tasks: SimpleQueue[Term | FlowTask | Callable[[], None]] = SimpleQueue()
        self._waiting: dict[str, deque[FlowTask]] = {}
        """Of each flow with a task that waits for a thread or has one, the tasks after that."""
        self._mutex = threading.Lock()
        self._running = 0
        self._inline: JobConnection | None = None
        """The connection whose job the leader runs or has run last."""
        self._inline_since = 0.0
        self._inline_began = threading.Event()
        self._slow_machines: dict[str, float] = {}
        """Until when the events of a machine are left to the other threads."""

    def start(self, workers: int) -> None:
        """Start the threads; the first one to come leads. What they run must be set up by now."""
        self._tasks.put(Term(0))
        for number in range(workers):
            self._start_thread(self._worker, f"flask-fsm-{number}")
        self._start_thread(self._watchdog, "flask-fsm-watchdog")

    @staticmethod
    def _start_thread(work: Callable[[], None], name: str) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether a job is being run."""
        return bool(self._inline_since or self._running or self._waiting)

    def count(self, more: int) -> None:
        """Add to the number of jobs that are being run apart from the leader."""
        with self._mutex:
            self._running += more

    def submit(self, function: Callable[[], None], flow: str = "") -> None:
        """Have another thread run a function that may take long: after the others of its `flow`."""
        if not flow:
            self._tasks.put(function)
            return
        task = FlowTask(flow, function)
        with self._mutex:
            waiting = self._waiting.get(flow)
            if waiting is not None:
                waiting.append(task)
                return
            self._waiting[flow] = deque()
        self._tasks.put(task)

    def _run_task(self, task: FlowTask) -> None:
        """Run a task of a flow, then pass on the next one, behind those of other flows."""
        try:
            task.function()
        finally:
            with self._mutex:
                waiting = self._waiting[task.flow]
                if waiting:
                    self._tasks.put(waiting.popleft())
                else:
                    del self._waiting[task.flow]

    def _worker(self) -> None:
        """Run tasks: lead the loop for a term, or run a job that takes long."""
        while True:
            with self._mutex:
                self.idle += 1
            task = self._tasks.get()
            with self._mutex:
                self.idle -= 1
            try:
                if isinstance(task, FlowTask):
                    self._run_task(task)
                elif isinstance(task, Term):
                    self._run_loop(task.number)
                else:
                    task()
            except BaseException:
                log.exception("A thread of the live loop failed and continues.")
                if isinstance(task, Term) and task.number == self.term:
                    time.sleep(PAUSE)
                    self._tasks.put(task)  # a thread has to lead

    def _watchdog(self) -> None:
        """Make another thread the leader when the leader runs an event for long."""
        while True:
            self._inline_began.wait()
            self._inline_began.clear()
            since, connection = self._inline_since, self._inline
            time.sleep(LONG)
            with self._mutex:
                if not since or self._inline_since != since:
                    continue
                # The leader still runs the same event, which counts as run apart from now on.
                self._running += 1
                self._inline_since = 0.0
                self.term += 1
                self._tasks.put(Term(self.term))
            if connection is not None:
                self._call(connection.on_wake)  # to write what the event has sent so far

    def run_job_of(self, connection: JobConnection) -> None:
        """Run the next job of a connection, in the leader's thread or in another one.

        Raises LeadershipLost if the job took so long that another thread leads by now.
        """
        key = connection.transport.inline_key
        now = time.monotonic()
        if not key or self._slow_machines.get(key, 0.0) > now or self.idle < 1:
            self.submit(connection.run_job_apart, connection.transport.flow_key)
            return
        term = self.term
        self._inline = connection
        self._inline_since = now
        if not self._inline_began.is_set():
            self._inline_began.set()
        connection.run_job()
        with self._mutex:
            lost = self.term != term
            if lost:
                self._running -= 1
            else:
                self._inline_since = 0.0
        if lost:
            self._slow_machines[key] = time.monotonic() + SLOW_TIME
            self._call(connection.job_done_apart)
            raise LeadershipLost
        connection.job_done()
