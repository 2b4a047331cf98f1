"""Waiting without polling, for threads and for tasks.

A thread or task that waits adds a waiter to the notifiers of what can change, checks once more, and
sleeps. Every change notifies.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

__all__ = ["LoopCaller", "Notifier", "TaskWaiter", "ThreadWaiter", "Waiter"]


class Waiter(Protocol):
    """A thread or task that sleeps until `wake` is called in any thread."""

    def wake(self) -> None: ...


class Notifier:
    """Wakes its waiters, each of them once. Without waiters that costs next to nothing.

    It has no lock, so that the garbage collector can call it without blocking.
    """

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}

    def notify(self) -> None:
        """Wake all waiters."""
        waiters = self.waiters
        while waiters:
            try:
                waiter, _ = waiters.popitem()
            except KeyError:
                return  # another thread has woken the last one
            waiter.wake()


class ThreadWaiter:
    """A thread that waits for a lock, which `wake` releases."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # woken by two notifiers
            self._lock.release()

    def wait(self, seconds: float | None) -> bool:
        """Sleep for at most `seconds`; return whether it was woken."""
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0.0), TIMEOUT_MAX))


class LoopCaller:
    """Wakes tasks of the event loop that runs in this thread, from any thread.

    The loop is called once, however many tasks are to be woken.
    """

    __slots__ = ("_called", "_futures", "loop", "thread")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop: AbstractEventLoop = loop
        self.thread: int = threading.get_ident()
        self._futures: deque[Future[None]] = deque()
        self._called = False

    def wake(self, future: Future[None]) -> None:
        if threading.get_ident() == self.thread:
            finish(future)
            return
        self._futures.append(future)
        if not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._wake_all)
            except RuntimeError:  # the loop is closed, and so are its tasks
                self._futures.clear()

    def _wake_all(self) -> None:
        self._called = False  # first, so that a future that is added meanwhile is not missed
        while self._futures:
            finish(self._futures.popleft())


def finish(future: Future[None]) -> None:
    """Wake the task that waits for `future`, unless it was woken or cancelled."""
    if not future.done():
        future.set_result(None)


class TaskWaiter:
    """A task that waits for a future, which `wake` finishes."""

    __slots__ = ("_caller", "_future")

    def __init__(self, caller: LoopCaller) -> None:
        self._caller = caller
        self._future: Future[None] = caller.loop.create_future()

    def wake(self) -> None:
        self._caller.wake(self._future)

    async def wait(self, seconds: float | None) -> None:
        """Sleep for at most `seconds`."""
        if seconds is None:
            await self._future
            return
        timer = self._caller.loop.call_later(max(seconds, 0.0), finish, self._future)
        try:
            await self._future
        finally:
            timer.cancel()
