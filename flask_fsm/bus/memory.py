"""The bus of `memory://`: it carries messages between the threads of this process."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import islice
from sys import getsizeof
from typing import Final, NamedTuple

from .base import FULL_CHANNELS, RUNS, Position, Receiver, Revision, closed, deliver, new_epoch

__all__ = ["MemoryBus"]


# Bytes that a channel takes without its messages. What clients leave behind that come and go, each
# with a flow of its own, counts among the messages.
CHANNEL_BYTES: Final = 1_536


class Runs:
    """The latest runs of which a channel has sent states."""

    def __init__(self) -> None:
        # None: the run is over.
        self._revs: OrderedDict[str, int | None] = OrderedDict()

    def admit(self, revision: Revision) -> bool:
        """Return whether this is newer than all that was admitted before, and remember it."""
        rev = self._revs.get(revision.run, -1)
        new = rev is not None and revision.rev > rev
        if new:
            self._remember(revision.run, revision.rev)
        # Even if the message is late, since the run that it ended is over.
        if revision.ended is not None:
            self._remember(revision.ended, None)
        return new

    def _remember(self, run: str, rev: int | None) -> None:
        self._revs[run] = rev
        self._revs.move_to_end(run)
        if len(self._revs) > RUNS:
            self._revs.popitem(last=False)


class ChannelLog:
    """The receivers of a channel, and its last messages."""

    def __init__(self, replay_limit: int) -> None:
        self.epoch: str = new_epoch()
        self.offset: int = 0
        self.messages: deque[str] = deque(maxlen=replay_limit)
        self.bytes: int = 0
        """What the messages take in memory."""
        self.runs: Runs = Runs()
        # By id, since a receiver need not be hashable. The dict is replaced, never changed.
        self.receivers: dict[int, Receiver] = {}
        self.delivery_lock: threading.Lock = threading.Lock()

    def shorten(self, size: int) -> int:
        """Drop the oldest messages until all take `size` bytes; return what that has freed."""
        before = self.bytes
        while self.bytes > size and self.messages:
            self.bytes -= getsizeof(self.messages.popleft())
        return before - self.bytes

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)


class Member(NamedTuple):
    """A member of a group, and the time at which its membership expires."""

    info: str
    until: float


class MemoryBus:
    """Keeps the last messages of each channel that has receivers.

    These are at most `replay_limit`, and take at most `replay_bytes`. They are kept for another
    `replay_time` seconds (of `clock`) after the last receiver has left.
    Messages on a channel without receivers or stored messages are dropped.
    """

    synchronous = True

    def __init__(
        self,
        replay_limit: int = 1_000,
        replay_time: float = 300.0,
        replay_bytes: int = 1 << 20,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replay_limit = replay_limit
        self._replay_bytes = replay_bytes
        self._most_bytes = replay_bytes * FULL_CHANNELS
        self._replay_time = replay_time
        self._bytes = 0
        """What all stored messages take in memory."""
        self._clock = clock
        self._channels: dict[str, ChannelLog] = {}
        # Channels without receivers, and when they expire; the first to expire comes first.
        self._idle: OrderedDict[str, float] = OrderedDict()
        # Held only briefly, never while a receiver runs.
        self._mutex = threading.Lock()
        self._deferred: dict[int, deque[tuple[str, str, Revision | None]]] = {}
        """By thread, what it publishes during a delivery, to be sent after it."""
        self._acquired: dict[str, float] = {}
        self._expiries: list[tuple[float, str]] = []
        self._groups: dict[str, dict[str, Member]] = {}
        self._closed = False

    # -- messages -----------------------------------------------------------------------

    def has_subscribers(self, channel: str) -> bool:
        return channel in self._channels

    def publish(self, channel: str, payload: str, revision: Revision | None = None) -> None:
        if channel not in self._channels:
            return
        # A thread that delivers holds the lock of a channel. It takes no second lock, or two
        # threads could wait for each other.
        thread = threading.get_ident()
        waiting = self._deferred.get(thread)
        if waiting is not None:
            waiting.append((channel, payload, revision))
            return
        waiting = self._deferred[thread] = deque([(channel, payload, revision)])
        try:
            while waiting:
                self._send(*waiting.popleft())
        finally:
            del self._deferred[thread]

    def _send(self, name: str, payload: str, revision: Revision | None) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        with channel.delivery_lock:
            with self._mutex:
                self._drop_idle()
                if self._channels.get(name) is not channel:
                    return  # it has expired
                if revision is not None and not channel.runs.admit(revision):
                    return
                messages, size = channel.messages, getsizeof(payload)
                if len(messages) == self._replay_limit:
                    size -= getsizeof(messages[0])  # the deque drops it
                messages.append(payload)
                channel.offset += 1
                channel.bytes += size
                self._bytes += size
                if channel.bytes > self._replay_bytes or self._bytes > self._most_bytes:
                    self._keep_less(channel)
                position, receivers = channel.position, channel.receivers
            for key, receiver in receivers.items():
                if key in channel.receivers:
                    deliver(name, receiver, position, payload)

    def _keep_less(self, channel: ChannelLog) -> None:
        """Drop the oldest messages of a channel if they take too much.

        If all channels together keep too much, drop idle ones, and if need be most of this one.
        """
        self._bytes -= channel.shorten(self._replay_bytes)
        self._drop_excess()
        if self._bytes > self._most_bytes:
            self._bytes -= channel.shorten(self._replay_bytes // FULL_CHANNELS)

    def _drop_excess(self) -> None:
        """Drop idle channels if all together take too much, the first to expire first."""
        while self._idle and self._bytes + len(self._idle) * CHANNEL_BYTES > self._most_bytes:
            self._drop(next(iter(self._idle)))

    def _drop(self, name: str) -> None:
        del self._idle[name]
        self._bytes -= self._channels.pop(name).bytes

    def _drop_idle(self) -> None:
        """Drop the idle channels that have expired."""
        now = self._clock()
        while self._idle:
            name, end = next(iter(self._idle.items()))
            if end > now:
                return
            self._drop(name)

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        with self._mutex:
            if self._closed:
                raise closed()
            self._drop_idle()
            self._idle.pop(channel, None)
            found = self._channels.get(channel)
            if found is None:
                found = self._channels[channel] = ChannelLog(self._replay_limit)
            found.receivers = {**found.receivers, id(receiver): receiver}
            return found.position

    def unsubscribe(self, channel: str, receiver: Receiver) -> None:
        with self._mutex:
            self._drop_idle()
            found = self._channels.get(channel)
            if found is None or id(receiver) not in found.receivers:
                return
            left = {key: other for key, other in found.receivers.items() if other is not receiver}
            found.receivers = left
            if not left:
                self._idle[channel] = self._clock() + self._replay_time
                self._drop_excess()

    def since(
        self, channel: str, position: Position, size: int = sys.maxsize
    ) -> list[tuple[Position, str]] | None:
        with self._mutex:
            self._drop_idle()
            found = self._channels.get(channel)
            if found is None or found.epoch != position.epoch:
                return None
            missed = found.offset - position.offset
            if not 0 <= missed <= len(found.messages):
                return None
            payloads = []
            for payload in islice(found.messages, len(found.messages) - missed, None):
                payloads.append(payload)
                size -= getsizeof(payload)
                if size <= 0:
                    break
        return [
            (Position(position.epoch, offset), payload)
            for offset, payload in enumerate(payloads, position.offset + 1)
        ]

    # -- leases and groups --------------------------------------------------------------

    def acquire_once(self, key: str, seconds: int) -> bool:
        now = self._clock()
        with self._mutex:
            while self._expiries and self._expiries[0][0] <= now:
                del self._acquired[heappop(self._expiries)[1]]
            if key in self._acquired:
                return False
            self._acquired[key] = now + seconds
            heappush(self._expiries, (now + seconds, key))
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
            for container in (
                self._channels,
                self._idle,
                self._acquired,
                self._expiries,
                self._groups,
            ):
                container.clear()
