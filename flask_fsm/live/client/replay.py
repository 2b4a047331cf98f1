"""Replay: what a client has missed before it reconnected, read from the bus piece by piece.

However much it has missed, and however slowly it reads, only one piece of it is in memory here; the
bus keeps the messages once for all clients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ...bus import PIECE, Position
from ..channels.app_channels import Delivered, Gap, LiveChannel
from ..protocol.frames import Envelope

__all__ = ["Missed", "Replay", "Replayed"]


class Replayed(Delivered):
    """A missed message, replayed by a bus that may lag behind the store.

    The client may already have a later state than the bus, and must not get an older one after it.
    So the current state is sent once, in place of the missed states.
    """

    __slots__ = ()


class Missed(NamedTuple):
    """The messages of a channel after one position, up to another."""

    channel: LiveChannel
    after: Position
    until: Position

    def read(self) -> list[Delivered] | None:
        """Return the first of them, or None if they are lost."""
        bus = self.channel.bus
        found = bus.since(self.channel.id, self.after, PIECE)
        if found is None or (not found and self.after.offset < self.until.offset):
            return None
        kind = Delivered if bus.synchronous else Replayed
        return [kind(self.channel.id, at, Envelope.decode(payload)) for at, payload in found]

    def without(self, read: Sequence[Delivered]) -> Missed | None:
        """Return what is left after some were read, or None if that is nothing."""
        last = read[-1].position if read else self.after
        return self._replace(after=last) if last.offset < self.until.offset else None


class Replay:
    """The missed messages of one client, in the order of its channels."""

    __slots__ = ("_left", "_read", "reading")

    def __init__(self) -> None:
        self._read: deque[Delivered | Gap] = deque()
        self._left: deque[Missed] = deque()
        self.reading: bool = False
        """Whether a job is reading the next ones."""

    def add(self, missed: Missed) -> bool:
        """Add the messages of another channel; return False, and add none, if they are lost."""
        if self._left:
            self._left.append(missed)
            return True
        read = missed.read()
        if read is None:
            return False
        self._take_over(missed, read)
        return True

    def _take_over(self, missed: Missed, read: Sequence[Delivered]) -> None:
        self._read.extend(read)
        left = missed.without(read)
        if left is not None:
            self._left.appendleft(left)

    def read_on(self) -> None:
        """Read the next messages; those that are lost by now become a gap.

        If the bus can't be reached, this raises, and nothing more can be taken.
        """
        missed = self._left[0]
        read = missed.read()
        self._left.popleft()
        if read is None:
            self._read.append(Gap(missed.channel.id, missed.until))
        else:
            self._take_over(missed, read)
        self.reading = False

    @property
    def is_over(self) -> bool:
        """Whether all was taken."""
        return not self._read and not self._left

    def take(self) -> Delivered | Gap | None:
        """Return the next message, or None if none is read."""
        return self._read.popleft() if self._read else None
