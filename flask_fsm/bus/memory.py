"""The bus of `memory://`: it carries messages between the threads of this process."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from threading import Lock, local
from typing import NamedTuple

from .base import RUNS, Order, Position, Receiver, closed, deliver, new_epoch

__all__ = ["MemoryBus"]


class Runs:
    """The runs that a channel has sent states of; the last few are remembered."""

    def __init__(self) -> None:
        # A run that is over has no rev.
        self._revs: OrderedDict[str, int | None] = OrderedDict()

    def admit(self, order: Order) -> bool:
        """Tell whether nothing newer was admitted before, and remember it."""
        rev = self._revs.get(order.run, -1)
        new = rev is not None and order.rev > rev
        if new:
            self._remember(order.run, order.rev)
        # A late message tells the truth about the run that it ended.
        if order.ended is not None:
            self._remember(order.ended, None)
        return new

    def _remember(self, run: str, rev: int | None) -> None:
        self._revs[run] = rev
        self._revs.move_to_end(run)
        if len(self._revs) > RUNS:
            self._revs.popitem(last=False)


class ChannelLog:
    """The receivers of a channel, and its last messages."""

    def __init__(self, replay_limit: int) -> None:
        self.epoch = new_epoch()
        self.offset = 0
        self.kept: deque[str] = deque(maxlen=replay_limit)
        self.runs = Runs()
        # By their ids, since a receiver need not be hashable; replaced, never changed.
        self.receivers: dict[int, Receiver] = {}
        self.turn = Lock()

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)


class Member(NamedTuple):
    """Who is in a group, and until when."""

    info: str
    until: float


class Later(local):
    """What a thread publishes while it delivers; None: it does not."""

    messages: deque[tuple[str, str, Order | None]] | None = None


class MemoryBus:
    """Keeps `replay_limit` messages of each channel that has receivers.

    It keeps them for another `replay_time` seconds (of `clock`) after the last receiver has left.
    What is published on a channel that has neither is gone.
    """

    synchronous = True

    def __init__(
        self,
        replay_limit: int = 1_000,
        replay_time: float = 300.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replay_limit = replay_limit
        self._replay_time = replay_time
        self._clock = clock
        self._channels: dict[str, ChannelLog] = {}
        # Channels without receivers, and until when they are kept: those that end first come first.
        self._idle: OrderedDict[str, float] = OrderedDict()
        # Held for a moment only, never while a receiver runs.
        self._mutex = Lock()
        self._later = Later()
        self._claims: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []
        self._groups: dict[str, dict[str, Member]] = {}
        self._closed = False

    # -- messages -----------------------------------------------------------------------

    def has_subscribers(self, channel: str) -> bool:
        return channel in self._channels

    def publish(self, channel: str, payload: str, order: Order | None = None) -> None:
        if channel not in self._channels:
            return
        # A thread that delivers holds the turn of a channel. It takes no second one, or two
        # threads could wait for each other.
        if self._later.messages is not None:
            self._later.messages.append((channel, payload, order))
            return
        waiting = self._later.messages = deque([(channel, payload, order)])
        try:
            while waiting:
                self._send(*waiting.popleft())
        finally:
            self._later.messages = None

    def _send(self, name: str, payload: str, order: Order | None) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        with channel.turn:
            with self._mutex:
                self._forget()
                if order is not None and not channel.runs.admit(order):
                    return
                channel.offset += 1
                channel.kept.append(payload)
                position, receivers = channel.position, channel.receivers
            for key, receiver in receivers.items():
                if key in channel.receivers:
                    deliver(name, receiver, position, payload)

    def _forget(self) -> None:
        """Drop the channels whose time is over."""
        now = self._clock()
        while self._idle:
            name, end = next(iter(self._idle.items()))
            if end > now:
                return
            del self._idle[name], self._channels[name]

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        with self._mutex:
            if self._closed:
                raise closed()
            self._forget()
            self._idle.pop(channel, None)
            found = self._channels.get(channel)
            if found is None:
                found = self._channels[channel] = ChannelLog(self._replay_limit)
            found.receivers = {**found.receivers, id(receiver): receiver}
            return found.position

    def unsubscribe(self, channel: str, receiver: Receiver) -> None:
        with self._mutex:
            self._forget()
            found = self._channels.get(channel)
            if found is None or id(receiver) not in found.receivers:
                return
            left = {key: other for key, other in found.receivers.items() if other is not receiver}
            found.receivers = left
            if not left:
                self._idle[channel] = self._clock() + self._replay_time

    def since(self, channel: str, position: Position) -> list[tuple[Position, str]] | None:
        with self._mutex:
            self._forget()
            found = self._channels.get(channel)
            if found is None or found.epoch != position.epoch:
                return None
            missed = found.offset - position.offset
            if not 0 <= missed <= len(found.kept):
                return None
            payloads = list(found.kept)[len(found.kept) - missed :]
        return [
            (Position(position.epoch, offset), payload)
            for offset, payload in enumerate(payloads, position.offset + 1)
        ]

    # -- claims and groups --------------------------------------------------------------

    def acquire_once(self, key: str, seconds: int) -> bool:
        now = self._clock()
        with self._mutex:
            while self._ends and self._ends[0][0] <= now:
                del self._claims[heappop(self._ends)[1]]
            if key in self._claims:
                return False
            self._claims[key] = now + seconds
            heappush(self._ends, (now + seconds, key))
            return True

    def enter(self, group: str, member: str, info: str, until: float) -> bool:
        with self._mutex:
            members = self._groups.setdefault(group, {})
            known = members.get(member)
            members[member] = Member(info, until)
        return known is None or known.until <= time.time()

    def leave(self, group: str, member: str) -> bool:
        with self._mutex:
            return self._removed(group, [member]) != []

    def renew(self, group: str, members: Iterable[str], until: float) -> list[str]:
        missing = []
        with self._mutex:
            found = self._groups.get(group, {})
            for member in members:
                if member in found:
                    found[member] = found[member]._replace(until=until)
                else:
                    missing.append(member)
        return missing

    def members(self, group: str) -> dict[str, str]:
        now = time.time()
        with self._mutex:
            found = self._groups.get(group, {})
            return {name: member.info for name, member in found.items() if member.until > now}

    def expired(self, group: str) -> list[tuple[str, str]]:
        now = time.time()
        with self._mutex:
            found = self._groups.get(group, {})
            over = [name for name, member in found.items() if member.until <= now]
            return self._removed(group, over)

    def _removed(self, group: str, names: Iterable[str]) -> list[tuple[str, str]]:
        found = self._groups.get(group, {})
        gone = [(name, found.pop(name).info) for name in names if name in found]
        if not found:
            self._groups.pop(group, None)
        return gone

    # -- the end ------------------------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            for kept in (self._channels, self._idle, self._claims, self._ends, self._groups):
                kept.clear()
