"""Channels of this process: messages wait in the queues of listeners until streams take them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wrappers import Response

from ...errors import DuplicateChannel, NoMessages, QueueFull, UnknownChannel, UnknownListener
from .listener import (
    QUEUE_SIZE,
    Connection,
    ConnectionsFactory,
    Listener,
    MemoryConnections,
)
from .message import Message, fresh_id
from .stream import HEARTBEAT, MessageStream, SSEStream
from .wakeups import LoopCaller

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Channel", "ChannelContainer", "SSEChannel"]

log: Final = logging.getLogger("flask_fsm")


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

        When the client has gone, the listener is removed. In an app with a FlaskFSM that is after
        two heartbeats at the latest, if the server lets us at its socket.
        """
        stream = SSEStream(self, self._connection_of(listener), heartbeat, owner=True)
        return Response(
            stream,
            content_type="text/event-stream",
            headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"},
        )


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
