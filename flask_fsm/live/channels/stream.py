"""Streams of the messages of a listener, for loops and as server-sent events.

These are for channels that the app makes. For the clients of flows, live/client/subscriber replays
what they missed before they reconnected.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from time import monotonic
from typing import Any, Final, Protocol, Self

from ...errors import NoMessages, QueueFull
from ..protocol.sse import COMMENT, event_bytes, retry_bytes
from .listener import Connection, MessageQueue
from .message import Message, MessageContract
from .wakeups import LoopCaller, TaskWaiter, ThreadWaiter, Waiter

__all__ = ["HEARTBEAT", "SILENCE", "MessageStream", "SSEStream"]

log: Final = logging.getLogger("flask_fsm")
HEARTBEAT: Final = 15.0
"""Seconds of silence after which a stream of server-sent events sends a comment."""
SILENCE: Final = 2
"""Heartbeats without an acknowledgement after which a client counts as disconnected."""
YIELD_AFTER: Final = 16
"""Messages in a row after which an async stream lets other tasks of its loop run."""
# What `MessageStream._take` returns in place of a message.
WAIT: Final = object()
END: Final = object()


class Source(Protocol):
    """The channel of a stream."""

    stream_delay_seconds: float

    @property
    def id(self) -> str: ...

    def adapt(self, message: MessageContract) -> Any: ...

    def is_connected(self, connection: Connection) -> bool: ...

    def disconnect(self, connection: Connection) -> bool: ...

    def abandon(self, connection: Connection) -> None: ...

    def loop_caller(self) -> LoopCaller: ...


class MessageStream(Iterator[Any], AsyncIterator[Any]):
    """The messages of a listener as they come, for `for` and for `async for`.

    It waits until the listener is started. It ends when the listener is stopped, removed or cut,
    and when the stream is closed, in any thread.

    Args:
        channel: The channel, whose `adapt` makes what the stream yields of each message.
        connection: The connection of the listener.
        owner: Whether to remove the listener at the end of the stream.
    """

    def __init__(self, channel: Source, connection: Connection, *, owner: bool = False) -> None:
        self._channel = channel
        self._connection = connection
        self._owner = owner
        self._closed = False
        self._stops = connection.listener.stops
        self._cuts = connection.cuts
        self._due = 0.0
        """When (by time.monotonic()) the next message may be yielded at the earliest, or 0."""
        self._in_a_row = 0

    # -- the next message ---------------------------------------------------------------

    def _output(self, message: MessageContract) -> Any:
        return self._channel.adapt(message)

    def _plain(self, message: MessageContract) -> Any:
        return {"event": message.type, "data": message.payload}

    def _error(self, payload: Any = None) -> Any:
        """Return the output of a message of type `error`, also if the channel's `adapt` fails."""
        message = Message("error", payload)
        try:
            return self._output(message)
        except Exception:
            log.exception(
                "adapt() of the channel %r failed for a message of type 'error'.", self._channel.id
            )
            return self._plain(message)

    def _empty(self) -> bool:
        # Only to avoid the exception, which costs more than the rest of a delivery.
        queue = self._connection.queue
        return isinstance(queue, MessageQueue) and not len(queue)

    def _take(self) -> Any:
        """Return what to yield now, WAIT or END. Only here is a message removed from the queue."""
        if self._closed:
            return END
        connection = self._connection
        listener = connection.listener
        # Read first: a cut is counted before it stops and removes the listener.
        over = listener.stops != self._stops or not self._channel.is_connected(connection)
        cut = connection.cuts != self._cuts
        if over and not cut:
            self.close()
            return END
        if self._due:
            if monotonic() < self._due:
                return WAIT
            self._due = 0.0
        if not cut and (not listener.is_running() or self._empty()):
            return WAIT
        try:
            message = connection.queue.pop()
        except NoMessages:
            if not cut:
                return WAIT
            self.close()
            text = "Messages were lost, because too many waited for this listener."
            return self._error({"reason": QueueFull.default_code, "message": text})
        except Exception:
            log.exception("The queue of the listener %r failed.", listener.id)
            self.close()
            return self._error()
        if self._channel.stream_delay_seconds:
            self._due = monotonic() + self._channel.stream_delay_seconds
        try:
            listener.on_message(message)
            return self._output(message)
        except Exception:
            log.exception("A message could not be delivered to the listener %r.", listener.id)
            return self._error()

    def _listen(self, waiter: Waiter, due: float) -> None:
        # While it is too early for the next message, a push need not wake the stream.
        connection = self._connection
        for notifier in connection.end_notifiers if due else connection.notifiers:
            notifier.waiters[waiter] = None

    def _unlisten(self, waiter: Waiter) -> None:
        for notifier in self._connection.notifiers:
            notifier.waiters.pop(waiter, None)

    def _seconds_left(self, until: float | None, due: float) -> float | None:
        """Return the seconds to wait: up to `until`, or to when the next may be yielded."""
        due = due or self._due
        if due and (until is None or due < until):
            until = due
        return None if until is None else until - monotonic()

    def _next(self, timeout: float | None = None) -> Any:
        """Return the next output, END, or WAIT if there is none within `timeout` seconds."""
        taken = self._take()
        if taken is not WAIT:
            return taken
        until = None if timeout is None else monotonic() + timeout
        while taken is WAIT and (until is None or monotonic() < until):
            due, waiter = self._due, ThreadWaiter()
            self._listen(waiter, due)
            try:
                taken = self._take()
                if taken is WAIT:
                    waiter.wait(self._seconds_left(until, due))
            finally:
                self._unlisten(waiter)
            if taken is WAIT:
                taken = self._take()
        return taken

    async def _next_in_loop(self, timeout: float | None = None) -> Any:
        """Do the same in a task. It takes a message last, so that a cancelled task loses none."""
        if self._in_a_row >= YIELD_AFTER:
            from asyncio import sleep

            self._in_a_row = 0
            await sleep(0)
        self._in_a_row += 1
        taken = self._take()
        if taken is not WAIT:
            return taken
        self._in_a_row = 0
        until = None if timeout is None else monotonic() + timeout
        while taken is WAIT and (until is None or monotonic() < until):
            due, waiter = self._due, TaskWaiter(self._channel.loop_caller())
            self._listen(waiter, due)
            try:
                taken = self._take()
                if taken is WAIT:
                    await waiter.wait(self._seconds_left(until, due))
            finally:
                self._unlisten(waiter)
            if taken is WAIT:
                taken = self._take()
        return taken

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        taken = self._next()
        if taken is END:
            raise StopIteration
        return taken

    def __aiter__(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Return this stream at once, for `await channel.watch()` as in eric-sse."""
        yield from ()
        return self

    async def __anext__(self) -> Any:
        taken = await self._next_in_loop()
        if taken is END:
            raise StopAsyncIteration
        return taken

    # -- the end ------------------------------------------------------------------------

    def close(self) -> None:
        """End the stream, in any thread. Messages that it has not yielded stay in the queue."""
        if self._closed:
            return
        self._closed = True
        if self._owner:
            self._channel.disconnect(self._connection)
        self._connection.notifier.notify()

    async def aclose(self) -> None:
        """Do the same as `close`."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # The garbage collector may call this at any point, so it takes no lock: the channel removes
        # the listener when it is used next.
        if self._owner and not self._closed:
            self._channel.abandon(self._connection)


# -- server-sent events ---------------------------------------------------------------------


class SSESource(Source, Protocol):
    """The channel of a stream of server-sent events."""

    retry_timeout_milliseconds: int


class SSEStream(MessageStream):
    """A stream of the bytes of a text/event-stream, with heartbeats.

    Args:
        channel: The channel, whose `adapt` returns the fields of an event for each message.
        connection: The connection of the listener.
        heartbeat: Seconds of silence after which a comment is sent.
        owner: Whether to remove the listener at the end of the stream.

    Raises:
        ValueError: `heartbeat` is not a positive number.
    """

    def __init__(
        self,
        channel: SSESource,
        connection: Connection,
        heartbeat: float,
        *,
        owner: bool = False,
    ) -> None:
        super().__init__(channel, connection, owner=owner)
        if not heartbeat > 0:
            raise ValueError(f"heartbeat must be a positive number of seconds, not {heartbeat!r}.")
        self._first_retry = channel.retry_timeout_milliseconds
        self._retry: int | None = None
        """The value that the client was sent last."""
        self.heartbeat = heartbeat

    def _output(self, message: MessageContract) -> bytes:
        fields = self._channel.adapt(message)
        if fields.__class__ is not dict and not isinstance(fields, Mapping):
            raise TypeError(
                f"adapt() of an SSEChannel must return a mapping of event, data, retry and id, "
                f"not {fields!r:.80}."
            )
        retry = fields.get("retry")
        fresh = retry is not None and retry != self._retry
        block = event_bytes(
            fields.get("event"),
            fields.get("data"),
            fields.get("id", getattr(message, "id", None)),
            retry if fresh else None,
        )
        if fresh:
            self._retry = retry
        return block

    def _plain(self, message: MessageContract) -> bytes:
        return event_bytes(message.type, message.payload)

    def _preamble(self) -> bytes | None:
        # Sent first, so that a client knows at once that the stream is open.
        if self._retry is not None:
            return None
        self._retry = self._first_retry
        return retry_bytes(self._retry)

    def __next__(self) -> bytes:
        preamble = self._preamble()
        if preamble is not None:
            return preamble
        taken = self._next(self.heartbeat)
        if taken is END:
            raise StopIteration
        block: bytes = COMMENT if taken is WAIT else taken
        return block

    async def __anext__(self) -> bytes:
        preamble = self._preamble()
        if preamble is not None:
            return preamble
        taken = await self._next_in_loop(self.heartbeat)
        if taken is END:
            raise StopAsyncIteration
        block: bytes = COMMENT if taken is WAIT else taken
        return block
