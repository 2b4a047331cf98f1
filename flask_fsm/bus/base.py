"""What a bus promises: messages, as text, from any process to all that subscribe to a channel."""

from __future__ import annotations

import logging
import re
import secrets
import string
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from ..errors import StoreUnavailable

__all__ = [
    "RUNS",
    "Bus",
    "Order",
    "Position",
    "Receiver",
    "closed",
    "deliver",
    "new_epoch",
    "raw",
    "text",
]

log: Final = logging.getLogger(__name__)
LETTERS: Final = string.ascii_letters + string.digits
# How many runs of a channel are remembered, to tell which of two state messages is the newer one.
RUNS: Final = 8
# Offsets are exact in Lua, whose numbers are doubles, and in JavaScript.
POSITION: Final = re.compile(r"([A-Za-z0-9_]{1,32})-(0|[1-9][0-9]{0,14})")


class Position(NamedTuple):
    """A place in a channel: how many messages (`offset`) came before it since its `epoch` began."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, text: object) -> Position | None:
        """Return the position that `str()` gave the text of, or None if it is no such text."""
        found = POSITION.fullmatch(text) if isinstance(text, str) else None
        return None if found is None else cls(found[1], int(found[2]))


class Order(NamedTuple):
    """Of a state message: the run it is of, at which rev, and which run it ended, if it did."""

    run: str
    rev: int
    ended: str | None = None


class Receiver(Protocol):
    """Takes the messages of a channel; called by one thread at a time, and must not wait.

    What it raises is logged, and disturbs nobody. It may call its bus: what it publishes is sent
    after what is being delivered.
    """

    def receive(self, position: Position, payload: str) -> None:
        """Take the message that ends at `position`."""

    def gap(self, position: Position) -> None:
        """Learn that messages are lost, and that the next one comes after `position`."""


class Bus(Protocol):
    """Carries messages between the threads of a process, or between processes.

    Where a server is needed and does not answer, StoreUnavailable is raised, but not by `publish`,
    `unsubscribe`, `flush` and `close`.
    """

    synchronous: bool
    """Whether what is published has been received when `publish` returns."""

    def has_subscribers(self, channel: str) -> bool:
        """Tell whether anybody may hear what is published on a channel, without asking a server."""

    def publish(self, channel: str, payload: str, order: Order | None = None) -> None:
        """Send a message to all receivers of a channel, without waiting for a server.

        One with an order is dropped if it is late: its run has been sent at this or a later rev,
        or has been ended by another one.
        """

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        """Return the position after which every message reaches the receiver, in order and once.

        Some may reach it before this returns. A receiver that has subscribed already stays so.
        """

    def unsubscribe(self, channel: str, receiver: Receiver) -> None:
        """Send it no more; one that is being delivered may still arrive."""

    def since(self, channel: str, position: Position) -> list[tuple[Position, str]] | None:
        """Return the messages after a position, or None if some of them are not kept any more."""

    def acquire_once(self, key: str, seconds: int) -> bool:
        """Return True to the first of all processes that asks, and to nobody for some seconds."""

    def enter(self, group: str, member: str, info: str, until: float) -> bool:
        """Put a member into a group until a time (of time.time()); tell whether it is new there."""

    def leave(self, group: str, member: str) -> bool:
        """Take a member out of a group, and tell whether it was there."""

    def renew(self, group: str, members: Iterable[str], until: float) -> list[str]:
        """Let members stay until a time, and return those that are not there any more."""

    def members(self, group: str) -> dict[str, str]:
        """Return the info of each member whose time is not over."""

    def expired(self, group: str) -> list[tuple[str, str]]:
        """Remove those whose time is over, and return them and their infos to this caller only."""

    def flush(self, timeout: float) -> bool:
        """Wait some seconds until what was published before is out, and tell whether it is."""

    def close(self) -> None:
        """End what runs in the background; a closed bus carries nothing."""


def closed() -> StoreUnavailable:
    """Return the error of who would listen on a closed bus."""
    return StoreUnavailable("The bus is closed.")


def raw(value: str) -> bytes:
    """Return a text as it is sent; JSON may hold halves of surrogate pairs."""
    return value.encode("utf-8", "surrogatepass")


def text(value: bytes | str) -> str:
    """Return what was sent as a text."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def new_epoch() -> str:
    """Return a name for a count of messages that begins now; 71 random bits."""
    return "".join(secrets.choice(LETTERS) for _ in range(12))


def deliver(channel: str, receiver: Receiver, position: Position, payload: str | None) -> None:
    """Give a receiver a message, or a gap if there is none; log what it raises."""
    try:
        if payload is None:
            receiver.gap(position)
        else:
            receiver.receive(position, payload)
    except Exception:
        log.exception("A receiver of the channel %r failed at %s.", channel, position)
