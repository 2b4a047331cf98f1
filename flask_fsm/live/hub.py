"""Channels of this process: messages wait in the queues of listeners until streams take them.

Nothing here polls. Who waits leaves a waiter at the bells of what can change, looks once more, and
sleeps; whoever changes something rings.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from threading import TIMEOUT_MAX, Lock, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from werkzeug.wrappers import Response

from ..errors import DuplicateChannel, NoMessages, QueueFull, UnknownChannel, UnknownListener

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

__all__ = [
    "Channel",
    "ChannelContainer",
    "Connection",
    "ConnectionsFactory",
    "Listener",
    "MemoryConnections",
    "Message",
    "MessageQueue",
    "MessageStream",
    "Queue",
    "SSEChannel",
    "SSEStream",
    "SignedMessage",
    "UniqueMessage",
]

log: Final = logging.getLogger("flask_fsm")

QUEUE_SIZE: Final = 1000
HEARTBEAT: Final = 15.0
"""After how many seconds of silence a stream of events says that it is there."""
BREATH: Final = 16
"""After how many messages without a wait an async stream lets others of its loop run."""
# What `MessageStream._take` returns in place of a message.
WAIT: Final = object()
END: Final = object()


# -- messages -------------------------------------------------------------------------------


class Message:
    """Something to tell: a type, which is a name, and a payload.

    Of several messages in one queue whose `latest` is the same key, only the newest matters.
    """

    __slots__ = ("_payload", "_type", "latest")

    def __init__(self, type: str, payload: Any = None, *, latest: str | None = None) -> None:
        self._type = type
        self._payload = payload
        self.latest = latest

    @property
    def type(self) -> str:
        return self._type

    @property
    def payload(self) -> Any:
        return self._payload

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type!r}>"


class SignedMessage(Message):
    """A message that names the listener that sent it."""

    __slots__ = ("_sender_id",)

    def __init__(
        self, sender_id: str, type: str, payload: Any = None, *, latest: str | None = None
    ) -> None:
        super().__init__(type, payload, latest=latest)
        self._sender_id = sender_id

    @property
    def sender_id(self) -> str:
        return self._sender_id


class UniqueMessage(Message):
    """A message with an id, by default 128 random bits, and a sender if there is one."""

    __slots__ = ("_id", "_sender_id")

    def __init__(
        self, message: Message, sender_id: str | None = None, message_id: str | None = None
    ) -> None:
        super().__init__(message.type, message.payload, latest=message.latest)
        self._sender_id: str | None = sender_id
        if sender_id is None and isinstance(message, SignedMessage | UniqueMessage):
            self._sender_id = message.sender_id
        self._id = fresh_id() if message_id is None else message_id

    @property
    def id(self) -> str:
        return self._id

    @property
    def sender_id(self) -> str | None:
        return self._sender_id


def fresh_id() -> str:
    """Return an id that nobody can guess."""
    return secrets.token_urlsafe(16)


# -- waiting --------------------------------------------------------------------------------


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


# -- queues, listeners, connections ---------------------------------------------------------


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

    __slots__ = ("_bell", "_keyed", "_limit", "_mutex", "_numbers", "_waiting", "on_push")

    def __init__(self, limit: int = QUEUE_SIZE, on_push: Callable[[], None] | None = None) -> None:
        if limit < 1:
            raise ValueError(f"A queue has room for at least one message, not for {limit}.")
        self._limit = limit
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
            if key is not None and len(waiting) > self._limit // 2:
                for old in self._keyed.pop(key, ()):
                    del waiting[old]
            if len(waiting) >= self._limit:
                raise QueueFull(
                    f"{self._limit} messages wait already: whoever takes them is too slow."
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
        with self._mutex:
            if not self._waiting:
                raise NoMessages("No message waits.")
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
        self._limit = limit

    def create(self, listener: Listener | None = None) -> Connection:
        return Connection(Listener() if listener is None else listener, MessageQueue(self._limit))


# -- channels -------------------------------------------------------------------------------


class Channel:
    """Tells its listeners what is broadcast on it, and one of them what is dispatched to it.

    `stream_delay_seconds` is the least time between two messages of a stream. `queue_size` is how
    many messages may wait for each listener, unless `connections_factory` makes other queues.
    """

    def __init__(
        self,
        channel_id: str | None = None,
        stream_delay_seconds: float = 0,
        connections_factory: ConnectionsFactory | None = None,
        *,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        self._id = fresh_id() if channel_id is None else channel_id
        self.stream_delay_seconds = stream_delay_seconds
        self._factory: ConnectionsFactory = connections_factory or MemoryConnections(queue_size)
        self._connections: dict[str, Connection] = {}
        self._mutex = Lock()
        self._abandoned: deque[Connection] = deque()
        """Those whose stream was dropped without being closed."""
        self._callers: dict[AbstractEventLoop, LoopCaller] = {}

    @property
    def id(self) -> str:
        return self._id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"

    # -- who listens --------------------------------------------------------------------

    def add_listener(self) -> Listener:
        """Return a new listener, which has not been started."""
        connection = self._factory.create()
        self.register_connection(connection)
        return connection.listener

    def register_listener(self, listener: Listener) -> None:
        """Let `listener` listen. If it does already, it keeps its queue."""
        present = self._connections.get(listener.id)
        if present is None or present.listener is not listener:
            self.register_connection(self._factory.create(listener))

    def register_connection(self, connection: Connection) -> None:
        """Let the listener of `connection` listen; another one of the same id makes way."""
        if self._abandoned:
            self._sweep()
        key = connection.listener.id
        with self._mutex:
            previous = self._connections.get(key)
            self._connections[key] = connection
        if previous is not None and previous is not connection:
            previous._bell.ring()

    def remove_listener(self, listener_id: str) -> None:
        """End the streams of a listener, and tell it nothing more; raises UnknownListener."""
        connection = self._connections.pop(listener_id, None)
        if connection is None:
            raise self._unknown(listener_id)
        connection._bell.ring()

    def get_listener(self, listener_id: str) -> Listener:
        """Return the listener of this id; raises UnknownListener."""
        return self._connection(listener_id).listener

    def get_connections(self) -> list[Connection]:
        """Return the connections that there are now."""
        if self._abandoned:
            self._sweep()
        return list(self._connections.values())

    def _connection(self, listener_id: str) -> Connection:
        connection = self._connections.get(listener_id)
        if connection is None:
            raise self._unknown(listener_id)
        return connection

    def _unknown(self, listener_id: str) -> UnknownListener:
        return UnknownListener(f"The channel {self.id!r} has no listener {listener_id!r}.")

    def _holds(self, connection: Connection) -> bool:
        return self._connections.get(connection.listener.id) is connection

    def _drop(self, connection: Connection) -> bool:
        """Remove a connection unless it is gone; return whether it was there."""
        if not self._holds(connection):
            return False
        try:
            self.remove_listener(connection.listener.id)
        except UnknownListener:
            return False
        return True

    def _sweep(self) -> None:
        while self._abandoned:
            with suppress(IndexError):  # another thread sweeps too
                self._drop(self._abandoned.popleft())

    # -- what they are told -------------------------------------------------------------

    def dispatch(self, listener_id: str, message: Message) -> None:
        """Tell one listener; raises UnknownListener, or QueueFull, and then it is not told."""
        self._connection(listener_id).push(message)

    def broadcast(self, message: Message) -> None:
        """Tell all listeners. One whose queue takes no more is cut, and the others are served."""
        if not hasattr(message, "latest"):  # or each queue would fail, and be cut for it
            raise TypeError(f"A Message is broadcast, not {message!r}.")
        if self._abandoned:
            self._sweep()
        for connection in list(self._connections.values()):
            try:
                connection.push(message)
            except Exception as error:
                self._cut(connection, error)

    def _cut(self, connection: Connection, error: Exception) -> None:
        # Marked first, so that no stream sees it removed and takes that for its end.
        connection._cuts += 1
        if not self._drop(connection):
            return
        log.warning(
            "The listener %r of the channel %r is cut, because its queue takes no more: %s",
            connection.listener.id,
            self.id,
            error,
            exc_info=None if isinstance(error, QueueFull) else error,
        )
        try:
            connection.listener.stop()
        except Exception:
            log.exception("The listener %r could not be stopped.", connection.listener.id)

    def deliver_next(self, listener_id: str) -> Message:
        """Return the next message of a listener, which has seen it then.

        Raises UnknownListener, or NoMessages if none waits or the listener has not been started.
        """
        connection = self._connection(listener_id)
        listener = connection.listener
        if not listener.is_running():
            raise NoMessages(f"The listener {listener_id!r} is not running: start() it.")
        message = connection.queue.pop()
        listener.on_message(message)
        return message

    # -- streams ------------------------------------------------------------------------

    def adapt(self, message: Message) -> Any:
        """Return what a stream yields for a message."""
        return {"event": message.type, "data": message.payload}

    def message_stream(self, listener: Listener) -> MessageStream:
        """Return a stream of what `listener` is told; raises UnknownListener."""
        return MessageStream(self, self._connection_of(listener))

    def watch(self) -> MessageStream:
        """Return a stream of a new, started listener, which is removed when the stream ends."""
        listener = self.add_listener()
        listener.start()
        return MessageStream(self, self._connection_of(listener), owner=True)

    def _caller(self) -> LoopCaller:
        """Return what wakes tasks of the running event loop."""
        # Not at the top: who has no event loop doesn't pay for the import.
        from asyncio import get_running_loop

        loop = get_running_loop()
        caller = self._callers.get(loop)
        if caller is None or caller.thread != get_ident():
            for other in list(self._callers):
                if other.is_closed():
                    self._callers.pop(other, None)
            caller = self._callers[loop] = LoopCaller(loop)
        return caller

    def _connection_of(self, listener: Listener) -> Connection:
        connection = self._connection(listener.id)
        if connection.listener is not listener:
            raise UnknownListener(
                f"The channel {self.id!r} has another listener of the id {listener.id!r}."
            )
        return connection


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
            return self._output(
                Message("error", {"reason": QueueFull.default_code, "message": text})
            )
        except Exception:
            log.exception("The queue of the listener %r failed.", listener.id)
            self.close()
            return self._output(Message("error"))
        if self._channel.stream_delay_seconds:
            self._due = monotonic() + self._channel.stream_delay_seconds
        try:
            listener.on_message(message)
            return self._output(message)
        except Exception:
            log.exception("A message could not be delivered to the listener %r.", listener.id)
            return self._output(Message("error"))

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

# The three ends of a line that the format knows; str.splitlines() knows more.
_line_end: Final = re.compile(r"\r\n|\r|\n")
_unsafe: Final = re.compile(r"[\r\n\0]")
_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def event_bytes(event: Any, data: Any, id: Any = None, retry: int | None = None) -> bytes:
    """Return one event of a text/event-stream.

    A payload that is no text is told as JSON; raises TypeError or ValueError if it has no such
    form. What would end a line is left out of `event` and `id`.
    """
    text = data if isinstance(data, str) else _json.encode(data)
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


class SSEChannel(Channel):
    """A channel for server-sent events; clients come back `retry_timeout_milliseconds` after."""

    def __init__(
        self,
        stream_delay_seconds: float = 0,
        retry_timeout_milliseconds: int = 3000,
        channel_id: str | None = None,
        connections_factory: ConnectionsFactory | None = None,
        *,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        super().__init__(
            channel_id, stream_delay_seconds, connections_factory, queue_size=queue_size
        )
        self.retry_timeout_milliseconds = retry_timeout_milliseconds

    def adapt(self, message: Message) -> Any:
        """Return the fields of an event: `event`, `retry` in milliseconds, `data`, perhaps `id`."""
        return {
            "event": message.type,
            "retry": self.retry_timeout_milliseconds,
            "data": message.payload,
        }

    def sse_stream(self, listener: Listener, heartbeat: float = HEARTBEAT) -> SSEStream:
        """Return what `listener` is told as bytes of a text/event-stream.

        After `heartbeat` seconds of silence it has a comment. Raises UnknownListener.
        """
        return SSEStream(self, self._connection_of(listener), heartbeat)

    def sse_response(self, listener: Listener, heartbeat: float = HEARTBEAT) -> Response:
        """Return that stream as the answer of a view; raises UnknownListener.

        When the client has gone, the listener is removed.
        """
        stream = SSEStream(self, self._connection_of(listener), heartbeat, owner=True)
        return Response(
            stream,
            content_type="text/event-stream",
            headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"},
        )


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
        self._first_retry = channel.retry_timeout_milliseconds
        self._retry: int | None = None
        """What the client was told last."""
        self._heartbeat = heartbeat

    def _output(self, message: Message) -> bytes:
        fields: Mapping[str, Any] = self._channel.adapt(message)
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
        taken = self._next(self._heartbeat)
        if taken is END:
            raise StopIteration
        block: bytes = b": \n\n" if taken is WAIT else taken
        return block

    async def __anext__(self) -> bytes:
        greeting = self._greeting()
        if greeting is not None:
            return greeting
        taken = await self._next_in_loop(self._heartbeat)
        if taken is END:
            raise StopAsyncIteration
        block: bytes = b": \n\n" if taken is WAIT else taken
        return block


# -- containers -----------------------------------------------------------------------------


class ChannelContainer:
    """Channels by their ids."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._mutex = Lock()

    def register(self, channel: Channel) -> None:
        """Take up a channel; raises DuplicateChannel if there is one of its id."""
        self.register_iterable([channel])

    def register_iterable(self, channels: Iterable[Channel]) -> None:
        """Take up several, or none of them; raises DuplicateChannel if an id comes twice."""
        found: dict[str, Channel] = {}
        given = list(channels)
        with self._mutex:
            for channel in given:
                if channel.id in self._channels or channel.id in found:
                    raise DuplicateChannel(f"There is a channel {channel.id!r} already.")
                found[channel.id] = channel
            self._channels.update(found)

    def get(self, channel_id: str) -> Channel:
        """Return the channel of this id; raises UnknownChannel."""
        channel = self._channels.get(channel_id)
        if channel is None:
            raise self._unknown(channel_id)
        return channel

    def rm(self, channel_id: str) -> None:
        """Forget the channel of this id; its streams go on. Raises UnknownChannel."""
        with self._mutex:
            if self._channels.pop(channel_id, None) is None:
                raise self._unknown(channel_id)

    def get_all_ids(self) -> list[str]:
        """Return the ids of all channels, in the order in which they were registered."""
        return list(self._channels)

    @staticmethod
    def _unknown(channel_id: str) -> UnknownChannel:
        return UnknownChannel(f"There is no channel {channel_id!r}.")
