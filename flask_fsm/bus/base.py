"""The interface of a bus: it carries messages, as text, between processes."""

from __future__ import annotations

import logging
import re
import secrets
import string
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from ..errors import StoreUnavailable

__all__ = [
    "FULL_CHANNELS",
    "PIECE",
    "RUNS",
    "Bus",
    "Position",
    "Receiver",
    "Revision",
    "closed",
    "decode_text",
    "deliver",
    "encode_text",
    "new_epoch",
]

log: Final = logging.getLogger(__name__)
LETTERS: Final = string.ascii_letters + string.digits
# Runs of a flow that its channel remembers, to find which of two states is the newer one.
RUNS: Final = 8
# How many channels may keep `replay_bytes` each. Beyond that all keep less, and clients that
# reconnect get the current state instead of what they have missed.
FULL_CHANNELS: Final = 64
# Bytes of missed messages that are read at once, by a client or by a process.
PIECE: Final = 65_536
# Offsets are exact in Lua, whose numbers are doubles, and in JavaScript.
POSITION: Final = re.compile(r"([A-Za-z0-9_]{1,32})-(0|[1-9][0-9]{0,14})")


class Position(NamedTuple):
    """A place in a channel: the number of messages (`offset`) before it since its `epoch` began."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, text: object) -> Position | None:
        """Return the position that `str()` turned into this text, or None if it is not one."""
        found = POSITION.fullmatch(text) if isinstance(text, str) else None
        return None if found is None else cls(found[1], int(found[2]))


class Revision(NamedTuple):
    """Orders states: the run, its rev, and the run that it has ended, if any."""

    run: str
    rev: int
    ended: str | None = None


class Receiver(Protocol):
    """Receives the messages of a channel; called by one thread at a time, and must not block.

    Exceptions are logged and do not affect other receivers. A receiver may call its bus: what it
    publishes is sent after the message that is being delivered.
    """

    def receive(self, position: Position, payload: str) -> None:
        """Receive a message; `position` is the place just after it."""

    def gap(self, position: Position) -> None:
        """Receive the notice that messages are lost; the next one comes after `position`."""


class Bus(Protocol):
    """Carries messages between the threads of a process, or between processes.

    Methods that need a server raise StoreUnavailable if it does not answer, except for `publish`,
    `unsubscribe`, `flush` and `close`.
    """

    synchronous: bool
    """Whether all receivers have a message by the time `publish` returns."""

    def has_subscribers(self, channel: str) -> bool:
        """Return whether a channel may have receivers, without asking a server."""

    def publish(self, channel: str, payload: str, revision: Revision | None = None) -> None:
        """Send a message to all receivers of a channel, without waiting for a server.

        A message with a revision is dropped if it is late: its run was sent at this rev or a later
        one, or another run has ended it.
        """

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        """Add a receiver; return the position after which it gets every message, in order, once.

        Some may arrive before this returns. Adding a receiver again changes nothing.
        """

    def unsubscribe(self, channel: str, receiver: Receiver) -> None:
        """Remove a receiver; a message that is being delivered may still arrive."""

    def since(
        self, channel: str, position: Position, size: int = sys.maxsize
    ) -> list[tuple[Position, str]] | None:
        """Return the messages after a position, or None if the first is no longer stored.

        These are all, or as many as take about `size` bytes, and at least one.
        """

    def acquire_once(self, key: str, seconds: int) -> bool:
        """Return whether no process has called this for `key` in the last `seconds` seconds."""

    def enter(self, group: str, member: str, info: str, until: float) -> bool:
        """Add a member to a group until a time (as of time.time()); return whether it is new."""

    def leave(self, group: str, member: str) -> bool:
        """Remove a member from a group; return whether it was there."""

    def renew(self, group: str, members: Iterable[str], until: float) -> list[str]:
        """Extend memberships until a time; return the members that are no longer in the group."""

    def members(self, group: str) -> dict[str, str]:
        """Return the info of each member whose membership has not expired."""

    def expired(self, group: str) -> list[tuple[str, str]]:
        """Remove and return the members whose membership has expired, with their infos."""

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until all messages are sent; return whether they are."""

    def close(self) -> None:
        """Stop the threads of the bus; a closed bus neither sends nor receives."""


def closed() -> StoreUnavailable:
    """Return the error of a subscription on a closed bus."""
    return StoreUnavailable("The bus is closed.")


def encode_text(value: str) -> bytes:
    """Encode a text for the wire; JSON may hold halves of surrogate pairs."""
    return value.encode("utf-8", "surrogatepass")


def decode_text(value: bytes | str) -> str:
    """Decode a text from the wire."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def new_epoch() -> str:
    """Return a random name (71 bits) for a new count of messages."""
    return "".join(secrets.choice(LETTERS) for _ in range(12))


def deliver(channel: str, receiver: Receiver, position: Position, payload: str | None) -> None:
    """Give a receiver a message, or a gap if `payload` is None; log its exceptions."""
    try:
        if payload is None:
            receiver.gap(position)
        else:
            receiver.receive(position, payload)
    except Exception:
        log.exception("A receiver of the channel %r failed at %s.", channel, position)
