"""Channels of this process: messages wait in queues of listeners until streams take them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wrappers import Response

from ...errors import DuplicateChannel, NoMessages, QueueFull, UnknownChannel, UnknownListener
from ..protocol.sse import STREAM_HEADERS
from .listener import (
    Connection,
    ConnectionsFactory,
    Listener,
    MemoryConnections,
)
from .message import MessageContract, check_message, fresh_id
from .stream import HEARTBEAT, MessageStream, SSEStream
from .wakeups import LoopCaller

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Channel", "ChannelContainer", "SSEChannel"]

log: Final = logging.getLogger("flask_fsm")


def check_time(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless an argument is a length of time."""
    if not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a number, not {value!r:.80}. An id is given as channel_id=."
        )
    if not 0 <= value < inf:
        raise ValueError(f"{name} must be at least 0, not {value!r}.")


class Channel:
    """Delivers messages to listeners: `broadcast` to all of them, `dispatch` to one.

    Args:
        channel_id: The id; by default 128 random bits as text.
        stream_delay_seconds: The least time between two messages of a stream, in seconds.
        connections_factory: Makes the queue of each listener; by default a queue in memory.
        queue_size: The number of messages that may wait for each listener, unless
            `connections_factory` is given. The default of 1000 counts from the start of a
            listener on; what waits before that has room for 8 MiB.

    Raises:
        TypeError: An argument is of another type, such as an id in the place of a delay.
        ValueError: `queue_size` is less than 1, or a time is negative.
    """

    def __init__(
        self,
        channel_id: str | None = None,
        stream_delay_seconds: float = 0,
        connections_factory: ConnectionsFactory | None = None,
        *,
        queue_size: int | None = None,
    ) -> None:
        if channel_id is not None and not isinstance(channel_id, str):
            raise TypeError(
                f"channel_id must be a str, not {channel_id!r:.80}. The delay between two messages "
                f"is given as stream_delay_seconds=."
            )
        check_time("stream_delay_seconds", stream_delay_seconds)
        self._id = fresh_id() if channel_id is None else channel_id
        self.stream_delay_seconds = stream_delay_seconds
        self._factory: ConnectionsFactory = connections_factory or MemoryConnections(queue_size)
        self._connections: dict[str, Connection] = {}
        self._mutex = threading.Lock()
        self._abandoned: deque[Connection] = deque()
        """Connections whose stream was garbage-collected without being closed."""
        self._callers: dict[AbstractEventLoop, LoopCaller] = {}

    @property
    def id(self) -> str:
        return self._id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"

    # -- listeners ----------------------------------------------------------------------

    def add_listener(self) -> Listener:
        """Add a new listener, which is not started, and return it."""
        connection = self._factory.create()
        self.register_connection(connection)
        return connection.listener

    def register_listener(self, listener: Listener) -> None:
        """Add a listener. One that the channel has already keeps its queue."""
        present = self._connections.get(listener.id)
        if present is None or present.listener is not listener:
            self.register_connection(self._factory.create(listener))

    def register_connection(self, connection: Connection) -> None:
        """Add a listener with its queue; it replaces another listener with the same id."""
        if self._abandoned:
            self._sweep()
        key = connection.listener.id
        with self._mutex:
            previous = self._connections.get(key)
            self._connections[key] = connection
        if previous is not None and previous is not connection:
            previous.notifier.notify()

    def remove_listener(self, listener_id: str) -> None:
        """Remove a listener and end its streams; raises UnknownListener."""
        connection = self._connections.pop(listener_id, None)
        if connection is None:
            raise self._unknown(listener_id)
        connection.notifier.notify()

    def get_listener(self, listener_id: str) -> Listener:
        """Return the listener with this id; raises UnknownListener."""
        return self._connection(listener_id).listener

    def get_connections(self) -> list[Connection]:
        """Return the connections of all listeners."""
        if self._abandoned:
            self._sweep()
        return list(self._connections.values())

    def _connection(self, listener_id: str) -> Connection:
        connection = self._connections.get(listener_id)
        if connection is None:
            raise self._unknown(listener_id)
        return connection

    def _unknown(self, listener_id: str) -> UnknownListener:
        hint = "" if isinstance(listener_id, str) else " Give the id of a listener, listener.id."
        text = f"The channel {self.id!r} has no listener {listener_id!r}.{hint}"
        return UnknownListener(text)

    def is_connected(self, connection: Connection) -> bool:
        """Return whether the channel has this connection."""
        return self._connections.get(connection.listener.id) is connection

    def disconnect(self, connection: Connection) -> bool:
        """Remove a connection and end its streams; return whether the channel had it."""
        if not self.is_connected(connection):
            return False
        try:
            self.remove_listener(connection.listener.id)
        except UnknownListener:
            return False
        return True

    def abandon(self, connection: Connection) -> None:
        """Remove a connection at the next use of the channel; takes no lock."""
        self._abandoned.append(connection)

    def _sweep(self) -> None:
        while self._abandoned:
            with suppress(IndexError):  # another thread sweeps too
                self.disconnect(self._abandoned.popleft())

    # -- messages ----------------------------------------------------------------------

    def dispatch(self, listener_id: str, message: MessageContract) -> None:
        """Queue a message for one listener.

        Args:
            listener_id: The id of the listener.
            message: A Message, or another object with a type and a payload.

        Raises:
            TypeError: `message` is not such an object.
            UnknownListener: The channel has no listener with this id.
            QueueFull: Too many messages wait for the listener, so this one is not queued.
        """
        check_message(message, "dispatch()")
        self._connection(listener_id).push(message)

    def broadcast(self, message: MessageContract) -> None:
        """Queue a message for all listeners.

        A listener whose queue is full is cut: its streams end with a message of type `error`, and
        the channel removes it. The other listeners get the message.

        Args:
            message: A Message, or another object with a type and a payload.

        Raises:
            TypeError: `message` is not such an object.
        """
        check_message(message, "broadcast()")  # otherwise each queue would fail, and be cut
        if self._abandoned:
            self._sweep()
        for connection in list(self._connections.values()):
            try:
                connection.push(message)
            except Exception as error:
                self._cut(connection, error)

    def _cut(self, connection: Connection, error: Exception) -> None:
        # Counted first, so that no stream mistakes the removal for a regular end.
        connection.cuts += 1
        if not self.disconnect(connection):
            return
        log.warning(
            "The listener %r was removed from the channel %r, because its queue failed: %s",
            connection.listener.id,
            self.id,
            error,
            exc_info=None if isinstance(error, QueueFull) else error,
        )
        try:
            connection.listener.stop()
        except Exception:
            log.exception("The listener %r could not be stopped.", connection.listener.id)

    def deliver_next(self, listener_id: str) -> MessageContract:
        """Remove and return the next message of a listener, after its `on_message` has seen it.

        Args:
            listener_id: The id of the listener.

        Raises:
            UnknownListener: The channel has no listener with this id.
            NoMessages: No message waits, or the listener is not started.
        """
        connection = self._connection(listener_id)
        listener = connection.listener
        if not listener.is_running():
            raise NoMessages(f"The listener {listener_id!r} is not started: call its start().")
        message = connection.queue.pop()
        listener.on_message(message)
        return message

    # -- streams ------------------------------------------------------------------------

    def adapt(self, message: MessageContract) -> Any:
        """Return what a stream yields for a message. Override it for another form."""
        return {"event": message.type, "data": message.payload}

    def message_stream(self, listener: Listener) -> MessageStream:
        """Return a stream of the messages of `listener`; raises UnknownListener."""
        return MessageStream(self, self._connection_of(listener))

    def watch(self) -> MessageStream:
        """Return a stream of a new, started listener, which is removed at the end of the stream.

        The listener exists from now on. The stream may be awaited, which returns it.
        """
        listener = self.add_listener()
        listener.start()
        return MessageStream(self, self._connection_of(listener), owner=True)

    def loop_caller(self) -> LoopCaller:
        """Return the object that wakes tasks of the running event loop."""
        # Not at the top: an app without an event loop should not pay for the import.
        from asyncio import get_running_loop

        loop = get_running_loop()
        caller = self._callers.get(loop)
        if caller is None or caller.thread != threading.get_ident():
            for other in list(self._callers):
                if other.is_closed():
                    self._callers.pop(other, None)
            caller = self._callers[loop] = LoopCaller(loop)
        return caller

    def _connection_of(self, listener: Listener) -> Connection:
        connection = self._connection(listener.id)
        if connection.listener is not listener:
            raise UnknownListener(
                f"The channel {self.id!r} has another listener with the id {listener.id!r}."
            )
        return connection


class SSEChannel(Channel):
    """A channel whose streams are server-sent events.

    Args:
        stream_delay_seconds: The least time between two messages of a stream, in seconds.
        retry_timeout_milliseconds: After how many milliseconds a browser reconnects.
        channel_id: The id; by default 128 random bits as text.
        connections_factory: Makes the queue of each listener; by default a queue in memory.
        queue_size: The number of messages that may wait for each listener, unless
            `connections_factory` is given. The default of 1000 counts from the start of a
            listener on; what waits before that has room for 8 MiB.

    Raises:
        TypeError: An argument is of another type, such as an id in the place of a delay.
        ValueError: `queue_size` is less than 1, or a time is negative.
    """

    def __init__(
        self,
        stream_delay_seconds: float = 0,
        retry_timeout_milliseconds: int = 3000,
        channel_id: str | None = None,
        connections_factory: ConnectionsFactory | None = None,
        *,
        queue_size: int | None = None,
    ) -> None:
        check_time("retry_timeout_milliseconds", retry_timeout_milliseconds)
        super().__init__(
            channel_id, stream_delay_seconds, connections_factory, queue_size=queue_size
        )
        self.retry_timeout_milliseconds = retry_timeout_milliseconds

    def adapt(self, message: MessageContract) -> Any:
        """Return the fields of an event: `event`, `data`, and optionally `retry` and `id`.

        `retry` is in milliseconds. Without `id`, that of the message is sent if it has one.
        """
        return {
            "event": message.type,
            "retry": self.retry_timeout_milliseconds,
            "data": message.payload,
        }

    def sse_stream(self, listener: Listener, heartbeat: float = HEARTBEAT) -> SSEStream:
        """Return a stream of the messages of a listener, as bytes of a text/event-stream.

        Args:
            listener: A listener of this channel.
            heartbeat: Seconds of silence after which a comment is sent. Default: 15.

        Raises:
            UnknownListener: The channel does not have this listener.
            ValueError: `heartbeat` is not a positive number.
        """
        return SSEStream(self, self._connection_of(listener), heartbeat)

    def sse_response(self, listener: Listener, heartbeat: float = HEARTBEAT) -> Response:
        """Return that stream as the response of a view.

        The listener is removed when the client disconnects. In an app with a FlaskFSM that is
        noticed after two heartbeats at the latest, if the server gives access to its sockets.

        Args:
            listener: A listener of this channel.
            heartbeat: Seconds of silence after which a comment is sent. Default: 15.

        Raises:
            UnknownListener: The channel does not have this listener.
            ValueError: `heartbeat` is not a positive number.
        """
        stream = SSEStream(self, self._connection_of(listener), heartbeat, owner=True)
        response = Response(stream, headers=STREAM_HEADERS)
        # Or what compresses the app's responses would hold each event until its buffer is full.
        response.headers["Content-Encoding"] = "identity"
        return response


class ChannelContainer:
    """Channels by their ids."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._mutex = threading.Lock()

    def register(self, channel: Channel) -> None:
        """Add a channel; raises DuplicateChannel if there is one with its id."""
        with self._mutex:
            if channel.id in self._channels:
                raise self._duplicate(channel)
            self._channels[channel.id] = channel

    def register_iterable(self, channels: Iterable[Channel]) -> None:
        """Add those of several channels whose ids are new, and leave out the others.

        Raises DuplicateChannel, and adds none, if two of them have the same id.
        """
        given = list(channels)
        found: dict[str, Channel] = {}
        with self._mutex:
            for channel in given:
                if channel.id in self._channels:
                    continue
                if found.setdefault(channel.id, channel) is not channel:
                    raise self._duplicate(channel)
            self._channels.update(found)

    def get(self, channel_id: str) -> Channel:
        """Return the channel with this id; raises UnknownChannel."""
        channel = self._channels.get(channel_id)
        if channel is None:
            raise self._unknown(channel_id)
        return channel

    def rm(self, channel_id: str) -> None:
        """Remove the channel with this id; its streams continue. Raises UnknownChannel."""
        with self._mutex:
            if self._channels.pop(channel_id, None) is None:
                raise self._unknown(channel_id)

    def get_all_ids(self) -> list[str]:
        """Return the ids of all channels, in the order in which they were registered."""
        return list(self._channels)

    @staticmethod
    def _duplicate(channel: Channel) -> DuplicateChannel:
        return DuplicateChannel(f"There is already a channel {channel.id!r}.")

    @staticmethod
    def _unknown(channel_id: str) -> UnknownChannel:
        return UnknownChannel(f"There is no channel {channel_id!r}.")
