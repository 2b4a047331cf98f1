"""Replay: what a client has missed before it reconnected, read from the bus piece by piece.

However much it has missed, and however slowly it reads, only one piece of it is in memory here; the
bus keeps the messages once for all clients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from sys import getsizeof
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

    def read(self) -> list[tuple[Position, str]] | None:
        """Return the first of them, or None if they are lost."""
        found = self.channel.bus.since(self.channel.id, self.after, PIECE)
        if not found and self.after.offset < self.until.offset:
            return None
        return found

    def message(self, position: Position, payload: str) -> Delivered:
        """Return one of them for the client."""
        kind = Delivered if self.channel.bus.synchronous else Replayed
        return kind(self.channel.id, position, Envelope.decode(payload))


class Replay:
    """The missed messages of one client, in the order of its channels."""

    __slots__ = ("_left", "_read", "_size", "reading")

    def __init__(self) -> None:
        # As the bus has them, since other clients may hold the same. None stands for lost ones.
        self._read: deque[tuple[Missed, Position, str | None]] = deque()
        self._left: deque[Missed] = deque()
        self._size = 0
        """The bytes of the messages that are read."""
        self.reading: bool = False
        """Whether a job is reading the next ones."""

    def add(self, missed: Missed) -> bool:
        """Add the messages of another channel; return False, and add none, if they are lost.

        Those of a channel that is not read yet may turn out to be lost later, see `read_on`.
        """
        if self._left or self._size >= PIECE:
            self._left.append(missed)
            return True
        found = missed.read()
        if found is None:
            return False
        self._take_over(missed, found)
        return True

    def _take_over(self, missed: Missed, found: Sequence[tuple[Position, str]]) -> None:
        self._read.extend((missed, position, payload) for position, payload in found)
        self._size += sum(getsizeof(payload) for _, payload in found)
        last = found[-1][0] if found else missed.after
        if last.offset < missed.until.offset:
            self._left.appendleft(missed._replace(after=last))

    def read_on(self) -> None:
        """Read the next messages; those that are lost by now become a gap.

        If the bus can't be reached, this raises, and nothing more can be taken.
        """
        missed = self._left[0]
        found = missed.read()
        self._left.popleft()
        self._size = 0
        if found is None:
            self._read.append((missed, missed.until, None))
        else:
            self._take_over(missed, found)
        self.reading = False

    @property
    def is_over(self) -> bool:
        """Whether all was taken."""
        return not self._read and not self._left

    def take(self) -> Delivered | Gap | None:
        """Return the next message, or None if none is read."""
        if not self._read:
            return None
        missed, position, payload = self._read.popleft()
        if payload is None:
            return Gap(missed.channel.id, position)
        return missed.message(position, payload)
