"""The receiving side of the bus: subscriptions, and the thread that reads their messages.

All messages come on one connection. A gap in the offsets is filled from the server's stream.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from ...redis_client import is_unreachable
from ..base import PIECE, Position, Receiver, closed, decode_text, encode_text
from .client import BusClient, backoff, start_thread, unavailable
from .scripts import SINCE, SYNC
from .subscription import RecentPieces, Subscription, contiguous_after, newest_and_stored

__all__ = ["Inbox"]

log: Final = logging.getLogger(__name__)
# Number of channels that are synchronized together.
BATCH: Final = 100
# Number of names in one SUBSCRIBE command.
NAMES: Final = 1_000


class Inbox:
    """Receives messages in its own thread, which starts with the first subscription.

    `timeout` is how many seconds to wait for the server, and every `refresh` seconds the expiry of
    the stored messages of subscribed channels is extended.
    """

    def __init__(
        self,
        client: BusClient,
        timeout: float,
        refresh: float,
        subscriptions: dict[bytes, Subscription],
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._refresh = refresh
        self.thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        """Guards the attributes below."""
        self._subscriptions = subscriptions
        self._connection: Any = None
        self._unconfirmed = 0
        """How many SUBSCRIBE commands the server has not confirmed."""
        self._closing = threading.Event()
        self._recent = RecentPieces()

    # -- in any thread --------------------------------------------------------------------

    def is_subscribed(self, channel: str) -> bool:
        """Return whether this process receives a channel."""
        return self._client.wire_name(channel) in self._subscriptions

    def report_gap(self, channel: str) -> None:
        """Report to the receivers of a channel that a message was lost before it was sent."""
        found = self._subscriptions.get(self._client.wire_name(channel))
        if found is not None:
            found.report_gap()

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        """Add a receiver; return the position after which it gets the messages."""
        wire = self._client.wire_name(channel)
        with self._mutex:
            if self._closing.is_set():
                raise closed()
            found = self._subscriptions.get(wire)
            if found is None:
                found = self._subscriptions[wire] = Subscription(channel)
                position = found.join(receiver)
                self._start()
                self._command("subscribe", wire)
            else:
                position = found.join(receiver)
        if position is not None:
            return position
        if not found.ready.wait(self._timeout) or found.first is None:
            self.unsubscribe(channel, receiver)
            raise unavailable()
        return found.first

    def unsubscribe(self, channel: str, receiver: Receiver) -> None:
        """Remove a receiver."""
        wire = self._client.wire_name(channel)
        with self._mutex:
            found = self._subscriptions.get(wire)
            if found is not None and found.drop(receiver):
                del self._subscriptions[wire]
                self._command("unsubscribe", wire)

    def _command(self, command: str, wire: bytes) -> None:
        """Send a command on the reader's connection, if there is one; under the mutex."""
        if self._connection is None:
            return
        try:
            getattr(self._connection, command)(wire)
        except Exception:
            log.debug("The connection of the bus is broken.", exc_info=True)
            # The reader notices, and reconnects.
            self._connection = None
        else:
            self._unconfirmed += command == "subscribe"

    def _start(self) -> None:
        if self.thread is None:
            self.thread = start_thread(self._receive_until_closed, "fsm-bus-reader")

    def restart(self) -> None:
        """Start the thread if there are subscriptions, as after a fork."""
        if self._subscriptions:
            with self._mutex:
                self._start()

    def since(
        self, channel: str, position: Position, size: int
    ) -> list[tuple[Position, str]] | None:
        """Return the messages after a position, as far as they take `size` bytes; see `Bus`."""
        key = channel, position, size
        piece = self._recent.get(key)
        if piece is None:
            call = self._client.channel_call(SINCE, channel, position.epoch, position.offset, size)
            newest, messages = newest_and_stored(self._client.ask(call))
            piece = contiguous_after(position, newest, messages)
            if piece and size <= PIECE:
                self._recent.put(key, piece)
        return piece

    def stop(self) -> None:
        """End the thread, and release threads that wait for a subscription."""
        self._closing.set()
        with self._mutex:
            connection, self._connection = self._connection, None
            waiting = list(self._subscriptions.values())
            self._subscriptions.clear()
        for channel in waiting:
            channel.ready.set()
        if connection is not None:
            # Wakes the reader, which waits for a message.
            with suppress(Exception):
                connection.connection.disconnect()

    # -- in the reader's thread -----------------------------------------------------------

    def _receive_until_closed(self) -> None:
        """Receive until the bus is closed, on one connection after another."""
        attempt = 0
        warned = False
        while not self._closing.is_set():
            connection = None
            try:
                connection = self._connect()
                for _ in self._receive(connection):
                    attempt, warned = 0, False
            except Exception as error:
                if self._closing.is_set():
                    break
                if not is_unreachable(error):
                    log.exception("The bus failed to receive messages.")
                elif not warned:
                    warned = True
                    log.warning("The bus has lost its server and is reconnecting: %s", error)
            finally:
                with self._mutex:
                    self._connection = None
                if connection is not None:
                    with suppress(Exception):
                        connection.close()
            attempt += 1
            self._closing.wait(backoff(attempt))

    def _connect(self) -> Any:
        self._recent.clear()
        connection = self._client.pubsub()
        try:
            connection.subscribe(self._client.idle_name())
            with self._mutex:
                names = list(self._subscriptions)
                for start in range(0, len(names), NAMES):
                    connection.subscribe(*names[start : start + NAMES])
                self._unconfirmed = len(names)
                self._connection = connection
        except BaseException:
            with suppress(Exception):
                connection.close()
            raise
        return connection

    def _receive(self, connection: Any) -> Iterator[None]:
        """Handle the messages of a connection until it fails; yield when channels are in sync."""
        confirmed: dict[bytes, Subscription] = {}
        last_heard = time.monotonic()
        refreshed = last_heard
        pinged = False
        while not self._closing.is_set():
            # Never a much shorter time: some drivers use it for the rest of a message, too.
            message = connection.get_message(timeout=min(self._timeout, self._refresh))
            if self._connection is not connection:
                raise ConnectionError("The connection is broken.")
            now = time.monotonic()
            if message is not None:
                last_heard, pinged = now, False
                self._handle(message, confirmed)
            elif now - last_heard >= self._timeout:
                if pinged:
                    raise TimeoutError("The server has stopped answering.")
                connection.ping()
                last_heard, pinged = now, True
            if confirmed and (self._unconfirmed <= 0 or len(confirmed) >= BATCH):
                self._synchronize(list(confirmed.values()))
                confirmed.clear()
            if now - refreshed >= self._refresh:
                refreshed = now
                channels = list(self._subscriptions.values())
                for start in range(0, len(channels), BATCH):
                    self._synchronize(channels[start : start + BATCH])
            if not confirmed:
                yield

    def _handle(self, message: dict[str, Any], confirmed: dict[bytes, Subscription]) -> None:
        kind = message["type"]
        if kind not in ("message", "subscribe"):
            return
        wire = message["channel"]
        if isinstance(wire, str):
            wire = encode_text(wire)
        channel = self._subscriptions.get(wire)
        if kind == "message":
            if channel is not None:
                self._accept(channel, message["data"])
            return
        if b"{" in wire:
            with self._mutex:
                self._unconfirmed -= 1
        if channel is not None:
            # Also where a driver has reconnected by itself.
            confirmed[wire] = channel

    def _accept(self, channel: Subscription, data: bytes | str) -> None:
        """Deliver a message, unless it came before or others are missing before it."""
        position = channel.position
        if position is None:
            return  # It precedes the position that is about to be read.
        try:
            epoch, offset, payload = decode_text(data).split(" ", 2)
            arrived = Position(epoch, int(offset))
        except ValueError:
            log.warning("Ignored data on the channel %r that is not a message.", channel.name)
            return
        if arrived.epoch == position.epoch and arrived.offset <= position.offset:
            return
        if arrived == (position.epoch, position.offset + 1):
            channel.advance(arrived, payload)
        else:
            self._synchronize([channel])

    def _synchronize(self, channels: Sequence[Subscription]) -> None:
        """Synchronize channels with the server: deliver missing messages, or report a gap."""
        while channels:
            channels = self._read_on(channels)

    def _read_on(self, channels: Sequence[Subscription]) -> list[Subscription]:
        """Deliver the next missing messages of channels; return those that miss even more."""
        calls = []
        for channel in channels:
            epoch, offset = channel.position or ("", 0)
            calls.append(self._client.channel_call(SYNC, channel.name, epoch, offset, PIECE))
        behind = []
        answers = self._client.ask_all(calls)
        for channel, answer in zip(channels, answers, strict=True):
            if isinstance(answer, Exception):
                if is_unreachable(answer):
                    raise answer
                log.error("Failed to read the channel %r: %s", channel.name, answer)
                continue
            newest, messages = newest_and_stored(answer)
            if channel.position is None:
                channel.start_after(newest)
                continue
            missed = contiguous_after(channel.position, newest, messages)
            if missed is None or not channel.matches(messages):
                channel.advance(newest, None)
                continue
            for position, payload in missed:
                channel.advance(position, payload)
            if missed and missed[-1][0] != newest:
                behind.append(channel)
        return behind
