"""Listeners of channels, and the queues in which their messages wait."""

from __future__ import annotations

import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any, Final, Protocol

from ...errors import NoMessages, QueueFull
from .message import MessageContract, bytes_of, fresh_id
from .wakeups import Notifier, ThreadWaiter

__all__ = [
    "QUEUE_SIZE",
    "Backlog",
    "Connection",
    "ConnectionsFactory",
    "Listener",
    "MemoryConnections",
    "MessageQueue",
    "Queue",
]

log: Final = logging.getLogger("flask_fsm")
QUEUE_SIZE: Final = 1000
QUEUE_BYTES: Final = 8 << 20


class Queue(Protocol):
    """A first-in, first-out queue of the messages for one listener."""

    def push(self, message: MessageContract) -> None:
        """Append a message; raises QueueFull if there is no room."""

    def pop(self) -> MessageContract:
        """Remove and return the oldest message; raises NoMessages if the queue is empty."""
        raise NotImplementedError


class Backlog:
    """The bytes that wait in the long queues of a process; what waits in several counts once.

    Each queue has a `share` that does not count. Beyond `most` bytes, no queue may exceed its
    share: those that lag the most are full then.
    """

    def __init__(self, most: int, share: int) -> None:
        self.share: int = share
        self._most = most
        self._bytes = 0
        self._mutex = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether the long queues hold as much as they may."""
        return self._bytes >= self._most

    def reserve(self, size: int) -> None:
        """Count bytes that wait elsewhere for a client; below 0, discount them."""
        with self._mutex:
            self._bytes += size

    def add(self, message: Any) -> None:
        """Count a message that waits in another long queue."""
        with self._mutex:
            if not message.backlogs:
                self._bytes += message.queued_bytes
            message.backlogs += 1

    def remove(self, message: Any) -> None:
        """Discount a message that waits in one long queue less."""
        with self._mutex:
            message.backlogs -= 1
            if not message.backlogs:
                self._bytes -= message.queued_bytes


class MessageQueue:
    """A queue in memory.

    When it is more than half full, a message with a `latest` key replaces the waiting messages with
    the same key, at the end of the queue. No other message is ever dropped.

    Args:
        limit: The number of messages for which it has room, at least 1.
        on_push: Called after each push, in the thread that pushes.
        max_bytes: When messages of this many bytes wait, it has no room either. A message has
            its `queued_bytes`, or else about those of its payload. By default without a limit.
        backlog: Limits the bytes of all queues of a process together. Its queues must be emptied
            before they are dropped.

    Raises:
        ValueError: `limit` is less than 1.
    """

    __slots__ = (
        "_backlog",
        "_bytes",
        "_counted",
        "_keyed",
        "_mutex",
        "_numbers",
        "_share",
        "_sizes",
        "_waiting",
        "limit",
        "max_bytes",
        "max_share",
        "notifier",
        "on_push",
    )

    def __init__(
        self,
        limit: int = QUEUE_SIZE,
        on_push: Callable[[], None] | None = None,
        max_bytes: int = sys.maxsize,
        backlog: Backlog | None = None,
    ) -> None:
        if limit < 1:
            raise ValueError(f"The limit of a queue must be at least 1, not {limit}.")
        self.limit: int = limit
        self.max_bytes: int = max_bytes
        self._bytes = 0
        self._backlog = backlog
        # How many bytes do not count in the backlog, and may wait even if the backlog is full.
        self._share = sys.maxsize if backlog is None else backlog.share
        self.max_share: int = self._share
        self._counted: set[int] | None = None
        """The numbers of the messages that count in the backlog."""
        self.on_push: Callable[[], None] | None = on_push
        self._waiting: OrderedDict[int, MessageContract] = OrderedDict()
        self._sizes: dict[int, int] | None = None
        """The bytes of the messages that do not know their own."""
        self._numbers = count()
        # The numbers of the messages that wait with a key, the oldest first.
        self._keyed: dict[str, list[int]] = {}
        self._mutex = threading.Lock()
        self.notifier: Notifier = Notifier()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, message: MessageContract, *, counted: bool = True) -> None:
        """Append a message; raises QueueFull if there is no room, by bytes only if not `counted`.

        The `limit` of messages holds only if `counted` is True.
        """
        key: str | None = getattr(message, "latest", None)
        known: int | None = getattr(message, "queued_bytes", None)
        size = bytes_of(message.payload) if known is None else known
        with self._mutex:
            waiting = self._waiting
            if key is not None and self._is_half_full:
                for old in self._keyed.pop(key, ()):
                    self._discount(old, waiting.pop(old))
            if (
                (counted and len(waiting) >= self.limit)
                or self._bytes >= self.max_bytes
                or (self._bytes > self.max_share and self._exceeds_share)
            ):
                raise QueueFull(
                    f"The queue is full: {len(waiting)} messages wait, so their listener is too "
                    f"slow."
                )
            number = next(self._numbers)
            waiting[number] = message
            self._bytes += size
            if known is None:
                self._sizes = self._sizes or {}
                self._sizes[number] = size
            if size and self._bytes > self._share:
                self._count(number, message)
            if key is not None:
                self._keyed.setdefault(key, []).append(number)
        if self.notifier.waiters:
            self.notifier.notify()
        if self.on_push is not None:
            try:
                self.on_push()
            except Exception:
                # The message is in the queue, so its sender must not take it for lost.
                log.exception("The on_push of a queue failed.")

    def _count(self, number: int, message: MessageContract) -> None:
        if self._backlog is not None:
            self._counted = self._counted or set()
            self._counted.add(number)
            self._backlog.add(message)

    def _discount(self, number: int, message: MessageContract) -> None:
        known: int | None = getattr(message, "queued_bytes", None)
        if known is None:
            known = 0 if self._sizes is None else self._sizes.pop(number, 0)
        self._bytes -= known
        if self._counted and number in self._counted and self._backlog is not None:
            self._counted.remove(number)
            self._backlog.remove(message)

    @property
    def _exceeds_share(self) -> bool:
        """Whether it holds too much while all queues together hold as much as they may."""
        backlog = self._backlog
        return backlog is not None and self._bytes > self.max_share and backlog.is_full

    @property
    def _is_half_full(self) -> bool:
        return (
            len(self._waiting) > self.limit // 2
            or self._bytes > self.max_bytes // 2
            or self._exceeds_share
        )

    def pop(self) -> MessageContract:
        """Remove and return the oldest message; raises NoMessages if the queue is empty."""
        message = self.take()
        if message is None:
            raise NoMessages("The queue is empty.")
        return message

    def take(self) -> MessageContract | None:
        """Remove and return the oldest message, or return None."""
        if not self._waiting:
            return None
        with self._mutex:
            if not self._waiting:
                return None
            number, message = self._waiting.popitem(last=False)
            if self._counted or self._sizes:
                self._discount(number, message)
            else:
                self._bytes -= getattr(message, "queued_bytes", 0)
            key = getattr(message, "latest", None)
            if key is not None:
                numbers = self._keyed[key]
                del numbers[0]
                if not numbers:
                    del self._keyed[key]
        return message

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for a message; return whether there is one."""
        until = None if timeout is None else monotonic() + timeout
        while not self._waiting:
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return False
            waiter = ThreadWaiter()
            self.notifier.waiters[waiter] = None
            try:
                if not self._waiting:
                    waiter.wait(left)
            finally:
                self.notifier.waiters.pop(waiter, None)
        return True


class Listener:
    """A receiver of a channel's messages, which wait until it is started.

    Override `on_message` to see each message at its delivery. An override of `start` or `stop` must
    call `super()`.

    Args:
        listener_id: The id, unique in a channel; by default 128 random bits as text.
    """

    def __init__(self, listener_id: str | None = None) -> None:
        self.id: str = fresh_id() if listener_id is None else listener_id
        self._running = False
        self.stops: int = 0  # counted, so that a stream sees a stop that is followed by a start
        self.notifier: Notifier = Notifier()

    def start(self) -> None:
        """Deliver the waiting messages, and all later ones."""
        self._running = True
        self.notifier.notify()

    def stop(self) -> None:
        """End the listener's streams. Messages wait for the next start."""
        self._running = False
        self.stops += 1
        self.notifier.notify()

    def is_running(self) -> bool:
        """Return whether messages are delivered."""
        return self._running

    def on_message(self, message: MessageContract) -> None:
        """Called with each message at its delivery, in the thread that takes it."""


class Connection:
    """A listener of a channel and the queue of its messages.

    Args:
        listener: The listener.
        queue: The queue: a `MessageQueue`, or any object with its `push` and `pop`.
        connection_id: The id; by default 128 random bits as text.
        counts_always: Whether the number of messages for which a `MessageQueue` has room also holds
            while the listener has not been started. By default True.
    """

    __slots__ = (
        "__weakref__",
        "_counts_always",
        "_notifies",
        "cuts",
        "id",
        "listener",
        "notifier",
        "queue",
    )

    def __init__(
        self,
        listener: Listener,
        queue: Queue,
        connection_id: str | None = None,
        *,
        counts_always: bool = True,
    ) -> None:
        self._counts_always = counts_always
        self.listener: Listener = listener
        self.queue: Queue = queue
        self.id: str = fresh_id() if connection_id is None else connection_id
        self.cuts: int = 0  # how often the channel has cut it because its queue was full
        self.notifier: Notifier = Notifier()
        # A queue class of the app has no notifier, so the connection has one for it.
        self._notifies = not isinstance(queue, MessageQueue)

    # No docstrings: these two are for streams. Not stored, since there may be many connections.
    @property
    def end_notifiers(self) -> tuple[Notifier, Notifier]:
        return self.listener.notifier, self.notifier

    @property
    def notifiers(self) -> tuple[Notifier, ...]:
        queue, ends = self.queue, self.end_notifiers
        return (*ends, queue.notifier) if isinstance(queue, MessageQueue) else ends

    def push(self, message: MessageContract) -> None:
        """Append a message to the queue, and wake its streams; raises QueueFull."""
        queue = self.queue
        try:
            queue.push(message)
        except QueueFull:
            # A listener that has not been started is not slow, however many messages wait for it.
            if self._counts_always or not isinstance(queue, MessageQueue):
                raise
            if self.listener.is_running() or self.listener.stops:
                raise
            queue.push(message, counted=False)
        if self._notifies:
            self.notifier.notify()


class ConnectionsFactory(Protocol):
    """Makes the connections of a channel."""

    def create(self, listener: Listener | None = None) -> Connection:
        """Return a new connection of a listener, by default of a new one."""
        raise NotImplementedError


class MemoryConnections:
    """Makes connections with queues in memory.

    Args:
        limit: The number of messages for which each queue has room, at least 1. The default of
            1000 counts from the start of a listener on; before that, only the bytes count.
        max_bytes: The bytes for which each queue has room, as for a `MessageQueue`. Default: 8 MiB.
        counts_always: Whether `limit` holds before the start, too; by default if it is given.

    Raises:
        ValueError: `limit` is less than 1.
    """

    def __init__(
        self,
        limit: int | None = None,
        max_bytes: int = QUEUE_BYTES,
        *,
        counts_always: bool | None = None,
    ) -> None:
        self._limit = QUEUE_SIZE if limit is None else limit
        MessageQueue(self._limit)  # raises ValueError now, and not for the first listener
        self._max_bytes = max_bytes
        self._counts_always = limit is not None if counts_always is None else counts_always

    def create(self, listener: Listener | None = None) -> Connection:
        queue = MessageQueue(self._limit, max_bytes=self._max_bytes)
        return Connection(
            Listener() if listener is None else listener,
            queue,
            counts_always=self._counts_always,
        )
