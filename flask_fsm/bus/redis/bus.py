"""A bus on Redis or Valkey, for several processes and machines.

For each channel the server stores a hash (the epoch, the offset of the newest message, the runs)
and a stream of the last messages. Publishing a message is one script, which numbers, stores and
publishes it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, Final

from ...redis_client import open_client
from ..base import RUNS, Position, Receiver, Revision, closed, decode_text, encode_text
from .client import BusClient, milliseconds_until
from .inbox import Inbox
from .outbox import KeptBytes, Outbox
from .scripts import ALL, ENTER, EXPIRED, LEAVE, MEMBERS, RENEW, Script
from .subscription import Subscription

__all__ = ["SENDERS", "RedisBus"]

# Number of senders whose last message a channel remembers.
SENDERS: Final = 64
# Number of stored messages that a script reads at once.
AT_ONCE: Final = 16
# Number of members that one script call handles.
MEMBERS_AT_ONCE: Final = 1_000
# Seconds for which `close` waits for a thread that waits for a server.
JOIN_TIMEOUT: Final = 1.0


class RedisBus:
    """Sends messages in one thread, and receives them in another one, on one connection.

    `source` is a URL or a client of redis-py or valkey-py, `timeout` how many seconds to wait for
    the server. Both threads start when they are needed, in each process after a fork.
    """

    synchronous = False

    def __init__(
        self,
        source: Any,
        prefix: str = "fsm",
        replay_limit: int = 1_000,
        replay_time: float = 300.0,
        replay_bytes: int = 1 << 20,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._given = (
            open_client(source, timeout, "FSM_BUS_URL") if isinstance(source, str) else source
        )
        self._prefix = prefix
        self._timeout = timeout
        # How often the expiry of messages is extended while there are receivers.
        self._refresh = replay_time / 2
        constants = {
            "LIMIT": replay_limit,
            "RUNS": RUNS,
            "SENDERS": SENDERS,
            "AT_ONCE": AT_ONCE,
            "TTL": ceil(replay_time + self._refresh),
        }
        self._replay_bytes = replay_bytes
        self._scripts = {text: Script(text, **constants) for text in ALL}
        self._subscriptions: dict[bytes, Subscription] = {}
        self._closed = False
        self._forked = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        """Set up what each process has for itself."""
        self.client: BusClient = BusClient(self._given, self._prefix, self._timeout, self._scripts)
        self.inbox: Inbox = Inbox(self.client, self._timeout, self._refresh, self._subscriptions)
        self.outbox: Outbox = Outbox(
            self.client, self.inbox, KeptBytes(self._replay_bytes, 3 * self._refresh)
        )
        self._pid = os.getpid()

    def _check_process(self) -> None:
        if os.getpid() == self._pid:
            return
        # Only a child takes this lock, just after its fork, so that no fork copies it locked.
        with self._forked:
            if os.getpid() == self._pid:
                return
            # Receivers that subscribed before the fork are subscribed in parent and child.
            for channel in self._subscriptions.values():
                channel.lock, channel.delivery_lock = threading.Lock(), threading.Lock()
            self._begin()
        self.inbox.restart()

    # -- messages -----------------------------------------------------------------------

    def has_subscribers(self, channel: str) -> bool:
        return True  # other processes may listen

    def publish(self, channel: str, payload: str, revision: Revision | None = None) -> None:
        self._check_process()
        if not self._closed:
            self.outbox.put(channel, payload, revision)

    def flush(self, timeout: float) -> bool:
        self._check_process()
        return self.outbox.flush(timeout)

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        self._check_process()
        if self._closed:
            raise closed()
        return self.inbox.subscribe(channel, receiver)

    def unsubscribe(self, channel: str, receiver: Receiver) -> None:
        self._check_process()
        self.inbox.unsubscribe(channel, receiver)

    def since(
        self, channel: str, position: Position, size: int = sys.maxsize
    ) -> list[tuple[Position, str]] | None:
        self._check_process()
        return self.inbox.since(channel, position, size)

    # -- leases and groups --------------------------------------------------------------

    def acquire_once(self, key: str, seconds: int) -> bool:
        self._check_process()
        return self.client.acquire_once(key, seconds)

    def _on_group(self, text: str, group: str, *arguments: bytes | str | int) -> Any:
        self._check_process()
        return self.client.ask(self.client.group_call(text, group, *arguments))

    def enter(self, group: str, member: str, info: str, until: float) -> bool:
        return bool(
            self._on_group(
                ENTER, group, milliseconds_until(until), encode_text(member), encode_text(info)
            )
        )

    def leave(self, group: str, member: str) -> bool:
        return bool(self._on_group(LEAVE, group, encode_text(member)))

    def renew(self, group: str, members: Iterable[str], until: float) -> list[str]:
        names = [encode_text(member) for member in members]
        missing = []
        for start in range(0, len(names), MEMBERS_AT_ONCE):
            some = names[start : start + MEMBERS_AT_ONCE]
            missing += self._on_group(RENEW, group, milliseconds_until(until), *some)
        return [decode_text(name) for name in missing]

    def members(self, group: str) -> dict[str, str]:
        return dict(pairs(self._on_group(MEMBERS, group)))

    def expired(self, group: str) -> list[tuple[str, str]]:
        return pairs(self._on_group(EXPIRED, group))

    # -- the end ------------------------------------------------------------------------

    def close(self) -> None:
        self._check_process()
        self._closed = True
        self.outbox.stop()
        self.inbox.stop()
        for thread in (self.outbox.thread, self.inbox.thread):
            if thread is not None and thread is not threading.current_thread():
                thread.join(min(self._timeout, JOIN_TIMEOUT))
        self.client.close()


def pairs(flat: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the pairs of a flat list of names and infos."""
    return [
        (decode_text(name), decode_text(info))
        for name, info in zip(flat[::2], flat[1::2], strict=True)
    ]
