"""What waits for one client: its queue, and the messages in it that come from no channel."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from ...bus import Position
from ...errors import QueueFull
from ..channels.app_channels import LiveChannel
from ..channels.listener import Backlog, MessageQueue
from ..protocol.frames import FrameKind

__all__ = ["ClientQueue", "DirectMessage", "SwitchFlow"]


class DirectMessage:
    """A frame for this client only; `state` is the run and the rev that a state frame shows."""

    __slots__ = ("backlogs", "body", "gap", "kind", "queued_bytes", "ref", "state")

    latest: ClassVar[None] = None

    def __init__(
        self,
        kind: FrameKind,
        body: str,
        ref: Any = None,
        gap: bool = False,
        state: tuple[str, int] | None = None,
    ) -> None:
        self.kind: FrameKind = kind
        self.body: str = body
        self.ref: Any = ref
        self.gap: bool = gap
        self.queued_bytes: int = sys.getsizeof(body)
        self.backlogs: int = 0
        self.state: tuple[str, int] | None = state


class SwitchFlow:
    """Marks where the client switches to the channel of another flow, and from which position."""

    __slots__ = ("channel", "position")

    latest: ClassVar[None] = None
    queued_bytes: ClassVar[int] = 0

    def __init__(self, channel: LiveChannel, position: Position) -> None:
        self.channel: LiveChannel = channel
        self.position: Position = position


class ClientQueue(MessageQueue):
    """A queue that reports its overflow to the engine, instead of raising at the sender."""

    __slots__ = ("_size", "_size_in_bytes", "overflown")

    def __init__(self, limit: int, max_bytes: int, backlog: Backlog | None = None) -> None:
        super().__init__(limit, max_bytes=max_bytes, backlog=backlog)
        self._size = limit
        self._size_in_bytes = max_bytes
        self.overflown: bool = False
        """Whether the client was too slow, so that messages are lost and it must be cut."""

    def lift_limit(self) -> bool:
        """Accept any number of messages; if the queue is already full, return False instead."""
        if (
            len(self._waiting) >= self._size
            or self._bytes >= self._size_in_bytes
            or self._exceeds_share
        ):
            return False
        self.limit: int = sys.maxsize
        self.max_bytes: int = sys.maxsize
        self.max_share: int = sys.maxsize
        return True

    def restore_limit(self) -> None:
        """Limit the queue again, with some room beyond the messages that wait now."""
        self.limit = max(self._size, len(self._waiting) + self._size // 2)
        self.max_bytes = max(self._size_in_bytes, self._bytes + self._size_in_bytes // 2)
        self.max_share = max(self._share, self._bytes + self._share // 2)

    def push(self, message: Any, *, counted: bool = True) -> None:
        if self.overflown:
            return
        try:
            super().push(message, counted=counted)
        except QueueFull:
            self.overflow()

    def overflow(self) -> None:
        """Accept no more messages: the client is too slow, and the engine cuts it."""
        self.overflown = True
        self.notify()

    def clear(self) -> None:
        """Drop all messages, and accept no more."""
        self.overflown = True
        while self.take() is not None:
            pass

    def notify(self) -> None:
        """Wake the engine that serves this queue, without a message."""
        if self.on_push is not None:
            self.on_push()
