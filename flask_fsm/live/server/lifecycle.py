"""The life of a connection, without I/O: its heartbeat, when it closes, when it is too slow.

A slow client is cut here if it reads nothing for FSM_SEND_TIMEOUT seconds, or if its queue (that
of client/subscriber) is full.
"""

from __future__ import annotations

import random
import time
from math import ceil
from typing import ClassVar, Final, Protocol

from ..protocol.close_codes import CloseCode
from .transport import MAX_UNWRITTEN, Transport

__all__ = ["HEARTBEAT_SLOTS", "Drainable", "Lifecycle", "first_heartbeat", "next_heartbeat"]

# Seconds to wait for the client's close frame, and for it to take what is still to be written.
CLOSE_TIMEOUT: Final = 1.0
# Seconds for which a dropped slow client may still read the close frame, where it takes no thread
# and not much memory.
LINGER: Final = 90.0
# Number of heartbeat slots per FSM_HEARTBEAT. Heartbeats are sent only at these times, many
# together, so that they seldom wake the engine.
HEARTBEAT_SLOTS: Final = 64


def first_heartbeat(period: float) -> float:
    """Return when, by time.monotonic(), a new connection gets its first heartbeat.

    The time is random, since thousands of clients may connect at once, as after a restart.
    """
    return _next_slot(time.monotonic() + random.random() * period, period)


def next_heartbeat(period: float) -> float:
    """Return when, by time.monotonic(), the heartbeat after one that is sent now is due."""
    return _next_slot(time.monotonic() + period * (1 - 1 / HEARTBEAT_SLOTS), period)


def _next_slot(earliest: float, period: float) -> float:
    slot = period / HEARTBEAT_SLOTS
    return ceil(earliest / slot) * slot


class Drainable(Protocol):
    """The part of an engine that a connection's lifecycle uses."""

    draining: bool
    lingers: ClassVar[bool]


class Lifecycle:
    """Decides when to send heartbeats and when to end; the engine writes what it returns.

    All times are those of time.monotonic(), in seconds; 0 stands for never.
    """

    __slots__ = ("_server", "_transport", "deadline", "heartbeat_at", "stalled_since")

    def __init__(self, transport: Transport, server: Drainable) -> None:
        self._transport = transport
        self._server = server
        self.heartbeat_at: float = first_heartbeat(transport.config.heartbeat)
        """When the next heartbeat is due."""
        self.stalled_since: float = 0.0
        """Since when the client has accepted no output."""
        self.deadline: float = 0.0
        """When an ended connection is closed, even if output is pending."""

    def heartbeat(self) -> bytes:
        """Return the heartbeat that is due, and set the time of the next one."""
        self.heartbeat_at = next_heartbeat(self._transport.config.heartbeat)
        return self._transport.heartbeat()

    # -- ending -------------------------------------------------------------------------

    def end_if_due(self) -> bytes:
        """End the connection if the process ends or its queue is full; return the last bytes."""
        transport = self._transport
        if transport.ended:
            return b""
        if self._server.draining:
            return transport.close(CloseCode.SERVICE_RESTART)
        if transport.subscriber.queue.overflown:
            return transport.drop_slow()
        return b""

    def on_written(self, sent: int, left: bool) -> None:
        """Note that the client has accepted `sent` bytes, and whether more are pending."""
        if not left:
            self.stalled_since = 0.0
        elif sent or not self.stalled_since:
            self.stalled_since = time.monotonic()

    @property
    def slow_at(self) -> float:
        """When the client counts as slow, unless it accepts output before."""
        if not self.stalled_since or self._transport.ended:
            return 0.0
        return self.stalled_since + self._transport.config.send_timeout

    def drop_if_slow(self, now: float) -> bytes:
        """Drop a slow client, which accepts nothing for FSM_SEND_TIMEOUT; return the last bytes."""
        slow_at = self.slow_at
        return self._transport.drop_slow() if slow_at and slow_at <= now else b""

    def close_at(self, pending: int, now: float) -> float:
        """Return when to close a connection that has ended; `pending` bytes are left to write.

        It is closed at once when all is written and the client agrees, or else at a deadline.
        """
        transport = self._transport
        if transport.finished and not pending:
            return now
        if not self.deadline:
            lingers = (
                self._server.lingers
                and 0 < pending <= MAX_UNWRITTEN
                and transport.code == CloseCode.TRY_AGAIN_LATER
                and not self._server.draining
            )
            self.deadline = now + (LINGER if lingers else CLOSE_TIMEOUT)
        elif self._server.draining:
            self.deadline = min(self.deadline, now + CLOSE_TIMEOUT)
        return self.deadline

    def next_at(self, reading: bool) -> float:
        """Return when something is due next, for an engine that waits until then."""
        times = [self.heartbeat_at]
        if slow_at := self.slow_at:
            times.append(slow_at)
        if self.deadline:
            times.append(self.deadline)
        if not reading and self._transport.throttled_until:
            # Even if that time has passed: it had not when the engine checked.
            times.append(self._transport.throttled_until)
        return min(times)
