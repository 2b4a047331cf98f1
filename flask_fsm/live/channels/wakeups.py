"""Waiting: who waits leaves a waiter at the bells of what can change, looks once more, and sleeps.

Whoever changes something rings. Nothing polls.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from threading import TIMEOUT_MAX, Lock, get_ident
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

__all__ = ["Bell", "LoopCaller", "TaskWaiter", "ThreadWaiter", "Waiter"]


class Waiter(Protocol):
    """Somebody who sleeps until `wake` is called, from whichever thread."""

    def wake(self) -> None: ...


class Bell:
    """Wakes those who wait at it, each once. Ringing where nobody waits costs next to nothing.

    It has no lock, so that nothing that is called by the garbage collector can block on it.
    """

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}

    def ring(self) -> None:
        waiters = self.waiters
        while waiters:
            try:
                waiter, _ = waiters.popitem()
            except KeyError:
                return  # another thread has woken the last one
            waiter.wake()


class ThreadWaiter:
    """A thread that waits. Its lock is held as long as nobody has woken it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # two bells rang
            self._lock.release()

    def wait(self, seconds: float | None) -> bool:
        """Sleep for at most that time; return whether it was woken."""
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0.0), TIMEOUT_MAX))


class LoopCaller:
    """Wakes tasks of an event loop that runs in this thread, from whichever thread.

    However many are to be woken at once, the loop is called once.
    """

    __slots__ = ("_called", "_futures", "loop", "thread")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.thread = get_ident()
        self._futures: deque[Future[None]] = deque()
        self._called = False

    def wake(self, future: Future[None]) -> None:
        if get_ident() == self.thread:
            finish(future)
            return
        self._futures.append(future)
        if not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._wake_all)
            except RuntimeError:  # the loop is closed, and with it whoever waited
                self._futures.clear()

    def _wake_all(self) -> None:
        self._called = False  # before the rest, so that nobody comes too late and is not seen
        while self._futures:
            finish(self._futures.popleft())


def finish(future: Future[None]) -> None:
    """Wake the task that waits for `future`, unless it was woken or cancelled."""
    if not future.done():
        future.set_result(None)


class TaskWaiter:
    """A task that waits."""

    __slots__ = ("_caller", "_future")

    def __init__(self, caller: LoopCaller) -> None:
        self._caller = caller
        self._future: Future[None] = caller.loop.create_future()

    def wake(self) -> None:
        self._caller.wake(self._future)

    async def wait(self, seconds: float | None) -> None:
        """Sleep for at most that time."""
        if seconds is None:
            await self._future
            return
        timer = self._caller.loop.call_later(max(seconds, 0.0), finish, self._future)
        try:
            await self._future
        finally:
            timer.cancel()
