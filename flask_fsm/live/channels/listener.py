"""Connections: a listener of a channel, and the queue in which its messages wait."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from threading import Lock
from time import monotonic
from typing import Final, Protocol

from ...errors import NoMessages, QueueFull
from .message import Message, fresh_id
from .wakeups import Bell, ThreadWaiter

__all__ = [
    "QUEUE_SIZE",
    "Connection",
    "ConnectionsFactory",
    "Listener",
    "MemoryConnections",
    "MessageQueue",
    "Queue",
]

log: Final = logging.getLogger("flask_fsm")
QUEUE_SIZE: Final = 1000


class Queue(Protocol):
    """Where the messages for a listener wait, first in, first out.

    `push` raises QueueFull if there is no room, `pop` raises NoMessages if nothing waits.
    """

    def push(self, message: Message) -> None: ...

    def pop(self) -> Message: ...


class MessageQueue:
    """A queue in memory for at most `limit` messages; `on_push` is called after each push.

    When more than half as many wait, a message with a `latest` key takes the place of those that
    wait with the same key, at the end of the queue. Nothing else is ever dropped.
    """

    __slots__ = ("_bell", "_keyed", "_mutex", "_numbers", "_waiting", "limit", "on_push")

    def __init__(self, limit: int = QUEUE_SIZE, on_push: Callable[[], None] | None = None) -> None:
        if limit < 1:
            raise ValueError(f"A queue has room for at least one message, not for {limit}.")
        self.limit = limit
        self.on_push = on_push
        self._waiting: OrderedDict[int, Message] = OrderedDict()
        self._numbers = count()
        # The numbers of the messages that wait with a key, the oldest first.
        self._keyed: dict[str, list[int]] = {}
        self._mutex = Lock()
        self._bell = Bell()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, message: Message) -> None:
        """Append a message; raises QueueFull if there is no room for it."""
        key = message.latest
        with self._mutex:
            waiting = self._waiting
            if key is not None and len(waiting) > self.limit // 2:
                for old in self._keyed.pop(key, ()):
                    del waiting[old]
            if len(waiting) >= self.limit:
                raise QueueFull(
                    f"{self.limit} messages wait already: whoever takes them is too slow."
                )
            number = next(self._numbers)
            waiting[number] = message
            if key is not None:
                self._keyed.setdefault(key, []).append(number)
        if self._bell.waiters:
            self._bell.ring()
        if self.on_push is not None:
            try:
                self.on_push()
            except Exception:
                # The message is in the queue, so that its sender must not think it lost.
                log.exception("The on_push of a queue failed.")

    def pop(self) -> Message:
        """Remove and return the message that waits longest; raises NoMessages."""
        message = self.take()
        if message is None:
            raise NoMessages("No message waits.")
        return message

    def take(self) -> Message | None:
        """Remove and return the message that waits longest, or return None."""
        if not self._waiting:
            return None
        with self._mutex:
            if not self._waiting:
                return None
            _, message = self._waiting.popitem(last=False)
            key = message.latest
            if key is not None:
                numbers = self._keyed[key]
                del numbers[0]
                if not numbers:
                    del self._keyed[key]
        return message

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until something can be popped, or `timeout` seconds; return whether it can."""
        until = None if timeout is None else monotonic() + timeout
        while not self._waiting:
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return False
            waiter = ThreadWaiter()
            self._bell.waiters[waiter] = None
            try:
                if not self._waiting:
                    waiter.wait(left)
            finally:
                self._bell.waiters.pop(waiter, None)
        return True


class Listener:
    """Somebody whom a channel tells its messages. They wait until it is started.

    Override `on_message` to see each message when it is delivered; an override of `start` or
    `stop` calls the one that it overrides.
    """

    def __init__(self, listener_id: str | None = None) -> None:
        self.id: str = fresh_id() if listener_id is None else listener_id
        self._running = False
        self._stops = 0
        self._bell = Bell()

    def start(self) -> None:
        """Let the messages come."""
        self._running = True
        self._bell.ring()

    def stop(self) -> None:
        """End the streams that there are. What comes from now on waits for the next start."""
        self._running = False
        self._stops += 1
        self._bell.ring()

    def is_running(self) -> bool:
        return self._running

    def on_message(self, message: Message) -> None:
        """Called with each message at its delivery, in the thread of whoever takes it."""


class Connection:
    """A listener and the queue of its messages."""

    def __init__(self, listener: Listener, queue: Queue, connection_id: str | None = None) -> None:
        self.listener = listener
        self.queue = queue
        self.id: str = fresh_id() if connection_id is None else connection_id
        self._bell = Bell()
        self._bells = (listener._bell, self._bell)
        # A queue of the app's own has no bell, so that ours stands for it.
        self._rings = not isinstance(queue, MessageQueue)
        self._cuts = 0

    def _all_bells(self) -> tuple[Bell, ...]:
        queue = self.queue
        return (*self._bells, queue._bell) if isinstance(queue, MessageQueue) else self._bells

    def push(self, message: Message) -> None:
        """Put a message into the queue, and wake who waits for it; raises QueueFull."""
        self.queue.push(message)
        if self._rings:
            self._bell.ring()


class ConnectionsFactory(Protocol):
    """Makes the connections of a channel, and the listener too if none is given."""

    def create(self, listener: Listener | None = None) -> Connection: ...


class MemoryConnections:
    """Makes connections whose queues lie in memory, with room for `limit` messages each."""

    def __init__(self, limit: int = QUEUE_SIZE) -> None:
        MessageQueue(limit)  # raises ValueError now, and not when somebody comes
        self._limit = limit

    def create(self, listener: Listener | None = None) -> Connection:
        return Connection(Listener() if listener is None else listener, MessageQueue(self._limit))
