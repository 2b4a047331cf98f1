"""The channels of an app; the bus connects each to its counterparts in other processes.

A message travels as an envelope: one line with its kind and its sender, and a frame.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

from ...bus import Bus, Position, Revision
from ...errors import Code, FSMError, StoreUnavailable
from ...outages import OutageLog
from ...texts import _
from ..protocol.frames import Envelope, EnvelopeKind, group_frame
from .channel import SSEChannel
from .listener import Backlog, Connection, MemoryConnections
from .message import Message, is_message

__all__ = [
    "FLOW",
    "GROUP",
    "GROUP_EVENTS",
    "SUBJECT",
    "Channels",
    "Delivered",
    "Gap",
    "LiveChannel",
    "TooManyConnections",
]

FLOW: Final = "flow:"
GROUP: Final = "group:"
GROUP_EVENTS: Final = "orders:"
SUBJECT: Final = "subject:"
# For how many clients `queue_bytes` may wait each. Beyond that, clients that lag are cut earlier.
FULL_QUEUES: Final = 64


class TooManyConnections(FSMError):
    """A flow, or an address, has as many connections as it may have."""

    default_code: ClassVar[str] = Code.TOO_MANY_CONNECTIONS
    status = 429
    retry_after: ClassVar[int] = 5


class Delivered:
    """A message that the bus has delivered; its id is its position in the channel."""

    __slots__ = ("backlogs", "channel", "envelope", "id", "latest", "position", "queued_bytes")

    def __init__(self, channel: str, position: Position, envelope: Envelope) -> None:
        self.channel: str = channel
        self.position: Position = position
        self.id: str = str(position)
        self.envelope: Envelope = envelope
        self.queued_bytes: int = sys.getsizeof(envelope.body)
        self.backlogs: int = 0
        """In how many long queues of this process it waits."""
        self.latest: str | None = channel if envelope.kind is EnvelopeKind.STATE else None

    @property
    def sender_id(self) -> str:
        return self.envelope.sender

    @property
    def type(self) -> str:
        kind = self.envelope.kind
        return (
            str(json.loads(self.envelope.body)["type"])
            if kind is EnvelopeKind.GROUP_MESSAGE
            else kind
        )

    @property
    def payload(self) -> Any:
        frame = json.loads(self.envelope.body)
        return frame["data"] if self.envelope.kind is EnvelopeKind.GROUP_MESSAGE else frame


class Gap(Message):
    """The notice that messages of a channel are lost; the next one comes after `position`."""

    __slots__ = ("channel", "position")

    def __init__(self, channel: str, position: Position) -> None:
        super().__init__("gap", None)
        self.channel: str = channel
        self.position: Position = position

    @property
    def queued_bytes(self) -> int:
        return 0


class LiveChannel(SSEChannel):
    """A channel whose broadcasts reach the listeners of all processes."""

    def __init__(
        self,
        name: str,
        bus: Bus,
        retry: int,
        queue_size: int,
        queue_bytes: int = sys.maxsize,
    ) -> None:
        super().__init__(
            retry_timeout_milliseconds=retry,
            channel_id=name,
            connections_factory=MemoryConnections(queue_size, queue_bytes, counts_always=False),
        )
        self.bus = bus
        self._subscribed = False
        self._failures = 0
        """How often it was impossible to subscribe at the bus."""
        self._changing = threading.Lock()
        self._moving = threading.Lock()
        self._entering = threading.Lock()
        self.position: Position = Position("", 0)
        """The position of the newest message that has arrived in this process."""

    @property
    def name(self) -> str:
        """The name without the prefix of its kind, as of a group."""
        return self.id.partition(":")[2]

    def broadcast(self, message: Any) -> None:
        """Send a message to the listeners of all processes.

        Args:
            message: A Message, an object with a type and a payload, or any value that can be sent
                as JSON: the payload of a Message.
        """
        if not is_message(message):
            message = Message("message", message)
        body = group_frame(self.name, message.type, message.payload)
        sender = getattr(message, "sender_id", None) or ""
        self.bus.publish(self.id, Envelope(EnvelopeKind.GROUP_MESSAGE, body, sender).encode())

    # -- messages of the bus -----------------------------------------------------------

    def _reach(self, position: Position) -> None:
        with self._moving:
            if position.epoch != self.position.epoch or position.offset > self.position.offset:
                self.position = position

    def receive(self, position: Position, payload: str) -> None:
        """Queue a message of the bus for all listeners of this process."""
        self._reach(position)
        message: Any = Delivered(self.id, position, Envelope.decode(payload))
        super().broadcast(message)

    def gap(self, position: Position) -> None:
        """Notify all listeners of this process that messages are lost."""
        self._reach(position)
        super().broadcast(Gap(self.id, position))

    # -- listeners ----------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The number of listeners in this process."""
        return len(self._connections)

    def require_room(self, most: int) -> None:
        """Raise TooManyConnections if there are `most` listeners already."""
        if self.size >= most:
            raise TooManyConnections(
                _("This page is open in too many tabs: close one of them, or try again later.")
            )

    def register_client(self, connection: Connection, most: int) -> None:
        """Add a listener that is one of `most` at the most; raises TooManyConnections."""
        with self._entering:
            self.require_room(most)
            super().register_connection(connection)
        self.register_connection(connection)

    def register_connection(self, connection: Connection) -> None:
        failures = self._failures
        # The listener is added first, so that it misses nothing after the position.
        super().register_connection(connection)
        # Always: another thread may be about to unsubscribe, as the last listener has just left.
        with self._changing:
            if not self._subscribed:
                try:
                    position = self._subscribe(failures)
                except BaseException:
                    super().remove_listener(connection.listener.id)
                    raise
                self._reach(position)
                self._subscribed = True

    def _subscribe(self, failures: int) -> Position:
        """Subscribe to the bus, unless a client has failed to since `failures` was read."""
        if self._failures > failures:
            # Otherwise clients that come together would each wait for the full timeout in turn.
            raise StoreUnavailable(
                "The bus can't be reached: another client's attempt has just failed."
            )
        try:
            return self.bus.subscribe(self.id, self)
        except StoreUnavailable:
            self._failures += 1
            raise

    def remove_listener(self, listener_id: str) -> None:
        super().remove_listener(listener_id)
        # Don't wait for the lock, since the bus may be calling this. The next one to leave does it.
        if not self.get_connections() and self._changing.acquire(blocking=False):
            try:
                if self._subscribed and not self.get_connections():
                    self._subscribed = False
                    self.bus.unsubscribe(self.id, self)
            finally:
                self._changing.release()


class Channels:
    """The channels of one app in this process. Unused ones are garbage-collected."""

    def __init__(
        self, bus: Bus, retry: int, queue_size: int, queue_bytes: int, outages: OutageLog
    ) -> None:
        self.bus = bus
        self.outages = outages
        """Logs that the bus can't be reached."""
        self._retry = retry
        self.backlog: Backlog = Backlog(queue_bytes * FULL_QUEUES, queue_bytes // FULL_QUEUES)
        """What waits for all slow clients of this process."""
        self._queue_limits = queue_size, queue_bytes
        self._channels: WeakValueDictionary[str, LiveChannel] = WeakValueDictionary()
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._channels)

    def get(self, name: str) -> LiveChannel:
        """Return the channel with this name."""
        with self._mutex:
            channel = self._channels.get(name)
            if channel is None:
                channel = LiveChannel(name, self.bus, self._retry, *self._queue_limits)
                self._channels[name] = channel
            return channel

    def publish(self, name: str, envelope: Envelope, revision: Revision | None = None) -> None:
        """Send an envelope to the channel with this name, in all processes."""
        self.bus.publish(name, envelope.encode(), revision)
