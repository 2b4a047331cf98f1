"""A channel that a process has subscribed to on a server, and the messages it has missed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any, Final

from ..base import Position, Receiver, decode_text, deliver

__all__ = ["RecentPieces", "Subscription", "contiguous_after", "newest_and_stored"]

# Seconds for which a piece is shared, and the number of pieces.
RECENT: Final = 1.0
MAX_PIECES: Final = 64


class Subscription:
    """A channel that this process receives, and the position its receivers have reached."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock: threading.Lock = threading.Lock()
        """Guards the attributes below, and is held only briefly."""
        self.receivers: dict[int, Receiver] = {}
        self.position: Position | None = None
        self.first: Position | None = None
        """The position at which this process joined the channel."""
        self.newest: int | None = None
        """The hash of the message at the position, since a server that has lost its last messages
        uses their offsets again."""
        self.delivery_lock: threading.Lock = threading.Lock()
        """Held while receivers run."""
        self.ready: threading.Event = threading.Event()

    def join(self, receiver: Receiver) -> Position | None:
        """Add a receiver; return the position after which it gets messages, if that is known."""
        with self.lock:
            self.receivers = {**self.receivers, id(receiver): receiver}
            return self.position

    def drop(self, receiver: Receiver) -> bool:
        """Remove a receiver, and return whether none is left."""
        with self.lock:
            left = {key: other for key, other in self.receivers.items() if other is not receiver}
            self.receivers = left
        return not left

    def start_after(self, position: Position) -> None:
        """Set the position after which messages are delivered."""
        with self.lock:
            self.position = self.first = position
        self.ready.set()

    def advance(self, position: Position, payload: str | None) -> None:
        """Give all receivers the next message, or a gap if there is none."""
        with self.delivery_lock:
            with self.lock:
                self.position = position
                self.newest = None if payload is None else hash(payload)
                receivers = self.receivers
            self._deliver(receivers, position, payload)

    def matches(self, messages: dict[int, str]) -> bool:
        """Return whether the server still has the message at the position, or never stored it."""
        assert self.position is not None
        same = messages.get(self.position.offset)
        return same is None or self.newest in (None, hash(same))

    def report_gap(self) -> None:
        """Report to all receivers that a message was lost before it was sent."""
        with self.delivery_lock:
            with self.lock:
                position, receivers = self.position, self.receivers
            if position is not None:
                self._deliver(receivers, position, None)

    def _deliver(
        self, receivers: dict[int, Receiver], position: Position, payload: str | None
    ) -> None:
        for key, receiver in receivers.items():
            if key in self.receivers:
                deliver(self.name, receiver, position, payload)


class RecentPieces:
    """The pieces of messages that clients have read in the last second, so that others share them.

    Many clients come back together, as after a deploy, and have missed the same.
    """

    def __init__(self) -> None:
        # The oldest comes first.
        self._pieces: OrderedDict[Any, tuple[float, list[tuple[Position, str]]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> list[tuple[Position, str]] | None:
        """Return a piece, or None if there is none."""
        now = time.monotonic()
        with self._lock:
            while self._pieces and next(iter(self._pieces.values()))[0] <= now:
                self._pieces.popitem(last=False)
            found = self._pieces.get(key)
        return None if found is None else found[1]

    def put(self, key: Any, piece: list[tuple[Position, str]]) -> None:
        """Add a piece."""
        with self._lock:
            self._pieces.pop(key, None)
            self._pieces[key] = time.monotonic() + RECENT, piece
            if len(self._pieces) > MAX_PIECES:
                self._pieces.popitem(last=False)

    def clear(self) -> None:
        """Forget all, since a server that has lost messages uses their offsets again."""
        with self._lock:
            self._pieces.clear()


def newest_and_stored(answer: Any) -> tuple[Position, dict[int, str]]:
    """Return a channel's newest position, and the messages sent along with it by their offsets."""
    epoch, offset, entries = answer
    messages = {
        int(decode_text(id).partition("-")[0]): decode_text(fields[1]) for id, fields in entries
    }
    return Position(decode_text(epoch), int(offset)), messages


def contiguous_after(
    position: Position, newest: Position, messages: dict[int, str]
) -> list[tuple[Position, str]] | None:
    """Return the messages that follow a position without a hole; None if the first is missing."""
    if position.epoch != newest.epoch or position.offset > newest.offset:
        return None
    found = []
    for offset in range(position.offset + 1, newest.offset + 1):
        if offset not in messages:
            break
        found.append((Position(newest.epoch, offset), messages[offset]))
    return found if found or position == newest else None
