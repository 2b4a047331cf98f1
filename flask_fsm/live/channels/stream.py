"""Streams: what a listener is told, as it comes, for loops and as server-sent events."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

from ...core.reply import dump_reply
from ...errors import NoMessages, QueueFull
from .listener import Connection, MessageQueue
from .message import Message
from .wakeups import TaskWaiter, ThreadWaiter, Waiter

if TYPE_CHECKING:
    from .channel import Channel, SSEChannel

__all__ = ["HEARTBEAT", "SILENCE", "MessageStream", "SSEStream"]

log: Final = logging.getLogger("flask_fsm")
HEARTBEAT: Final = 15.0
"""After how many seconds of silence a stream of events says that it is there."""
SILENCE: Final = 2
"""After how many heartbeats without a sign of life a client is dead."""
BREATH: Final = 16
"""After how many messages without a wait an async stream lets others of its loop run."""
# What `MessageStream._take` returns in place of a message.
WAIT: Final = object()
END: Final = object()


class MessageStream(Iterator[Any], AsyncIterator[Any]):
    """What a listener is told, as it comes, for `for` and for `async for`.

    It waits until the listener is started, and ends when that is stopped, removed or cut, or when
    the stream is closed, from whichever thread. An `owner` removes the listener at its end.
    """

    def __init__(self, channel: Channel, connection: Connection, *, owner: bool = False) -> None:
        self._channel = channel
        self._connection = connection
        self._owner = owner
        self._closed = False
        self._stops = connection.listener._stops
        self._cuts = connection._cuts
        self._due = 0.0
        """Before when (by the monotonic clock) nothing more is yielded, or 0."""
        self._in_a_row = 0

    # -- the next message ---------------------------------------------------------------

    def _output(self, message: Message) -> Any:
        return self._channel.adapt(message)

    def _plain(self, message: Message) -> Any:
        return {"event": message.type, "data": message.payload}

    def _error(self, payload: Any = None) -> Any:
        """Return the output of a message of type `error`, whatever the channel's `adapt` does."""
        message = Message("error", payload)
        try:
            return self._output(message)
        except Exception:
            log.exception("The channel %r has no form for errors.", self._channel.id)
            return self._plain(message)

    def _empty(self) -> bool:
        # Only to spare the exception: it costs more than all else of a delivery.
        queue = self._connection.queue
        return isinstance(queue, MessageQueue) and not queue._waiting

    def _take(self) -> Any:
        """Return what is to be yielded now, WAIT or END. All that can be lost is in here."""
        if self._closed:
            return END
        connection = self._connection
        listener = connection.listener
        # This first, as a cut is marked before it stops and removes.
        over = listener._stops != self._stops or not self._channel._holds(connection)
        cut = connection._cuts != self._cuts
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
            text = "Messages were lost: too many waited for this listener."
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
        # While it is too early for the next message, no push need wake anyone.
        bells = self._connection._bells if due else self._connection._all_bells()
        for bell in bells:
            bell.waiters[waiter] = None

    def _unlisten(self, waiter: Waiter) -> None:
        for bell in self._connection._all_bells():
            bell.waiters.pop(waiter, None)

    def _patience(self, until: float | None, due: float) -> float | None:
        """Return for how many seconds to wait: till `until` or till the next may be yielded."""
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
                    waiter.wait(self._patience(until, due))
            finally:
                self._unlisten(waiter)
            if taken is WAIT:
                taken = self._take()
        return taken

    async def _next_in_loop(self, timeout: float | None = None) -> Any:
        """Do the same for a task. It awaits only before it takes, so a cancelled one took none."""
        if self._in_a_row >= BREATH:
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
            due, waiter = self._due, TaskWaiter(self._channel._caller())
            self._listen(waiter, due)
            try:
                taken = self._take()
                if taken is WAIT:
                    await waiter.wait(self._patience(until, due))
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

    async def __anext__(self) -> Any:
        taken = await self._next_in_loop()
        if taken is END:
            raise StopAsyncIteration
        return taken

    # -- the end ------------------------------------------------------------------------

    def close(self) -> None:
        """End the stream, and wake who waits for it. What it has not yielded stays queued."""
        if self._closed:
            return
        self._closed = True
        if self._owner:
            self._channel._drop(self._connection)
        self._connection._bell.ring()

    async def aclose(self) -> None:
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
        # The garbage collector may call this within anything, so it takes no lock: the channel
        # removes the listener when it is used next.
        if self._owner and not self._closed:
            self._channel._abandoned.append(self._connection)


# -- server-sent events ---------------------------------------------------------------------

_line_end: Final = re.compile(r"\r\n|\r|\n")
_unsafe: Final = re.compile(r"[\r\n\0]")


def event_bytes(event: Any, data: Any, id: Any = None, retry: int | None = None) -> bytes:
    """Return one event of a text/event-stream.

    A payload that is no text is told as JSON; raises TypeError if it has no such form. What would
    end a line is left out of `event` and `id`.
    """
    text = data if isinstance(data, str) else dump_reply(data)
    lines = [] if event is None else [f"event: {_unsafe.sub('', str(event))}"]
    if retry is not None:
        lines.append(f"retry: {retry:d}")
    if id is not None:
        lines.append(f"id: {_unsafe.sub('', str(id))}")
    if "\n" in text or "\r" in text:
        lines += [f"data: {line}" for line in _line_end.split(text)]
    else:
        lines.append(f"data: {text}")
    block = "\n".join(lines) + "\n\n"
    try:
        return block.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which UTF-8 can't say; two halves are made whole.
        return block.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


class SSEStream(MessageStream):
    """A stream whose outputs are bytes of a text/event-stream, heartbeats among them."""

    def __init__(
        self,
        channel: SSEChannel,
        connection: Connection,
        heartbeat: float,
        *,
        owner: bool = False,
    ) -> None:
        super().__init__(channel, connection, owner=owner)
        if not heartbeat > 0:
            raise ValueError(f"A heart beats every so many seconds, not every {heartbeat!r}.")
        self._first_retry = channel.retry_timeout_milliseconds
        self._retry: int | None = None
        """What the client was told last."""
        self.heartbeat = heartbeat

    def _output(self, message: Message) -> bytes:
        fields = self._channel.adapt(message)
        if fields.__class__ is not dict and not isinstance(fields, Mapping):
            raise TypeError(
                f"adapt() of an SSEChannel returns a mapping of event, data, retry and id, and "
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

    def _plain(self, message: Message) -> bytes:
        return event_bytes(message.type, message.payload)

    def _greeting(self) -> bytes | None:
        # Before all else, so that a client knows at once that the stream is open.
        if self._retry is not None:
            return None
        self._retry = self._first_retry
        return b"retry: %d\n\n" % self._retry

    def __next__(self) -> bytes:
        greeting = self._greeting()
        if greeting is not None:
            return greeting
        taken = self._next(self.heartbeat)
        if taken is END:
            raise StopIteration
        block: bytes = b": \n\n" if taken is WAIT else taken
        return block

    async def __anext__(self) -> bytes:
        greeting = self._greeting()
        if greeting is not None:
            return greeting
        taken = await self._next_in_loop(self.heartbeat)
        if taken is END:
            raise StopAsyncIteration
        block: bytes = b": \n\n" if taken is WAIT else taken
        return block
