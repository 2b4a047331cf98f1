"""The sending side of the bus: a queue of messages, and the thread that sends them in order."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from ...redis_client import is_unreachable
from ..base import FULL_CHANNELS, Revision, encode_text
from .client import BusClient, backoff, start_thread
from .scripts import PUBLISH, REPORT_LOSS, Call

__all__ = ["QUEUE_SIZE", "Item", "KeptBytes", "LocalReceivers", "Outbox"]

log: Final = logging.getLogger(__name__)
# Number of messages that may wait while the server can't be reached.
QUEUE_SIZE: Final = 10_000
QUEUE_BYTES: Final = 1 << 26
# Number of channels whose lost messages are recorded beyond that.
LOST_CHANNELS: Final = 100_000
# Number of messages that are sent together.
BATCH: Final = 100


class Item(NamedTuple):
    """A queued message; or, without a payload, the notice that messages are lost."""

    channel: str
    payload: bytes | None
    revision: Revision | None
    number: int


class LocalReceivers(Protocol):
    """The receivers of this process, which learn of lost messages without the server."""

    def is_subscribed(self, channel: str) -> bool: ...

    def report_gap(self, channel: str) -> None: ...


class KeptBytes:
    """How many bytes the server keeps of the channels on which this process has sent.

    At most FULL_CHANNELS channels may keep `most` bytes each, which the server drops `seconds`
    after the last message, unless somebody listens. Beyond that, a channel keeps a small share,
    which does not count.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        # The first to expire comes first.
        self._channels: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.total: int = 0

    @property
    def allowed(self) -> int:
        """How many bytes the next channel may keep."""
        return self._most if self.total < self._most * FULL_CHANNELS else self._share

    @property
    def _share(self) -> int:
        return self._most // FULL_CHANNELS

    def note(self, channel: str, kept: int) -> None:
        """Note how many bytes a channel keeps now."""
        self.total -= self._channels.pop(channel, (0, 0.0))[0]
        if kept > self._share:
            self.total += kept
            self._channels[channel] = kept, time.monotonic() + self._seconds

    def drop_expired(self, is_subscribed: Callable[[str], bool]) -> None:
        """Forget the channels that the server has dropped by now."""
        now = time.monotonic()
        for _ in range(len(self._channels)):
            channel, (kept, end) = next(iter(self._channels.items()))
            if end > now:
                return
            self.note(channel, kept if is_subscribed(channel) else 0)


class Outbox:
    """Sends messages in its own thread, which starts with the first message."""

    def __init__(self, client: BusClient, receivers: LocalReceivers, kept: KeptBytes) -> None:
        self._client = client
        self._receivers = receivers
        self._kept = kept
        self.sender_id: str = secrets.token_hex(8)
        """The name of this process in the counts of the server."""
        self.thread: threading.Thread | None = None
        self.changed: threading.Condition = threading.Condition(threading.Lock())
        """Guards the queue and the attributes below."""
        self.queue: deque[Item] = deque()
        self._bytes = 0
        """The size of the payloads in the queue."""
        self._lost: set[str] = set()
        """The channels whose newest item in the queue is the notice of a loss."""
        self._unreported: set[str] = set()
        """The channels whose receivers in this process have yet to be notified of a loss."""
        self._put = 0
        self._done = 0
        self._idle = False
        self._warned = False
        self._closing = threading.Event()

    # -- in any thread --------------------------------------------------------------------

    def put(self, channel: str, payload: str, revision: Revision | None) -> None:
        """Queue a message; if too many wait already, note that it is lost."""
        sent = encode_text(payload)
        with self.changed:
            if self._closing.is_set():
                return
            if len(self.queue) < QUEUE_SIZE and self._bytes < QUEUE_BYTES:
                self._lost.discard(channel)
                self._append(channel, sent, revision)
            else:
                self._overflow(channel)
            if self.thread is None:
                self.thread = start_thread(self._send_until_closed, "fsm-bus-sender")

    def _append(self, channel: str, payload: bytes | None, revision: Revision | None) -> None:
        self._put += 1
        self.queue.append(Item(channel, payload, revision, self._put))
        self._bytes += len(payload or b"")
        if self._idle:
            self._idle = False
            self.changed.notify_all()

    def _overflow(self, channel: str) -> None:
        """Record in the queue that a message of a channel is lost."""
        if not self._warned:
            self._warned = True
            log.error(
                "The bus can't send: %d messages wait for its server. New messages are lost until "
                "it can be reached; their receivers will be notified of a gap.",
                len(self.queue),
            )
        if channel not in self._lost and len(self.queue) < QUEUE_SIZE + LOST_CHANNELS:
            self._lost.add(channel)
            self._append(channel, None, None)
        if self._receivers.is_subscribed(channel):
            self._unreported.add(channel)
            self.changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until all messages are sent; return whether they are."""
        with self.changed:
            until = self._put
            return self.changed.wait_for(
                lambda: self._done >= until or self._closing.is_set(), timeout
            ) and (self._done >= until)

    def stop(self) -> None:
        """End the thread; messages that it has not sent are dropped."""
        self._closing.set()
        with self.changed:
            self.changed.notify_all()

    # -- in the sender's thread -----------------------------------------------------------

    def _send_until_closed(self) -> None:
        """Send the queued messages, in order, until the bus is closed."""
        attempt = 0
        while not self._closing.is_set():
            with self.changed:
                while not (self.queue or self._unreported or self._closing.is_set()):
                    self._idle = True
                    self.changed.wait()
                self._idle = False
                batch = list(itertools.islice(self.queue, BATCH))
            self._report_gaps()
            if not batch or self._closing.is_set():
                continue
            try:
                sent = self._send(batch)
            except Exception as error:
                sent = 0
                if not is_unreachable(error):
                    log.exception("The bus failed to send messages.")
            with self.changed:
                for _ in range(sent):
                    item = self.queue.popleft()
                    self._bytes -= len(item.payload or b"")
                    if item.payload is None:
                        self._lost.discard(item.channel)
                self._done += sent
                self.changed.notify_all()
            if sent == len(batch):
                attempt, self._warned = 0, False
            else:
                attempt += 1
                self._pause(attempt)

    def _send(self, batch: Sequence[Item]) -> int:
        """Send items; return how many are done, so that the others are sent again."""
        self._kept.drop_expired(self._receivers.is_subscribed)
        answers = self._client.ask_all([self.call_for(item) for item in batch])
        for at, (item, answer) in enumerate(zip(batch, answers, strict=True)):
            if not isinstance(answer, Exception):
                if answer is not None:
                    self._kept.note(item.channel, int(answer))
                continue
            overtaken = any(
                later.channel == item.channel and not isinstance(outcome, Exception)
                for later, outcome in zip(batch[at + 1 :], answers[at + 1 :], strict=True)
            )
            if overtaken or not is_unreachable(answer):
                log.error("A message on the channel %r is lost: %s", item.channel, answer)
                if item.payload is None:
                    return at + 1
                with self.changed:
                    self._bytes -= len(item.payload)
                    self.queue[at] = item._replace(payload=None, revision=None)
            return at
        return len(batch)

    def call_for(self, item: Item) -> Call:
        """Return the call that sends an item."""
        if item.payload is None:
            return self._client.channel_call(REPORT_LOSS, item.channel)
        revision = item.revision
        ordered = (
            ()
            if revision is None
            else (encode_text(revision.run), revision.rev, encode_text(revision.ended or ""))
        )
        return self._client.channel_call(
            PUBLISH,
            item.channel,
            item.payload,
            self.sender_id,
            item.number,
            self._kept.allowed,
            *ordered,
        )

    def _report_gaps(self) -> None:
        with self.changed:
            unreported, self._unreported = self._unreported, set()
        for channel in unreported:
            self._receivers.report_gap(channel)

    def _pause(self, attempt: int) -> None:
        """Wait before the next attempt, and report losses meanwhile."""
        end = time.monotonic() + backoff(attempt)
        while not self._closing.is_set() and (left := end - time.monotonic()) > 0:
            with self.changed:
                self.changed.wait_for(lambda: self._unreported or self._closing.is_set(), left)
            self._report_gaps()
