"""Peer: a websocket or an event stream, as an engine serves it: bytes in, bytes out, jobs to do.

An engine calls `received`, `outgoing`, `beat` and `close` from one thread at a time, and never
waits in them; `do` may take long, and runs one job after the other.
"""

from __future__ import annotations

import random
import time
from collections import deque
from math import ceil
from typing import Any, Final, NamedTuple

from ...config import Config
from ..channels.stream import SILENCE
from ..client.actions import Frame, Job
from ..client.presence import Membership
from ..client.session import ClientSession
from ..client.subscriber import Subscriber
from ..protocol.close_codes import CloseCode
from ..protocol.websocket import WebSocket
from .handoff import end_silence

__all__ = ["CHUNK", "Peer", "SocketPeer", "StreamPeer"]

# While that many events wait to be run, no more are read.
BACKLOG: Final = 8
# Bytes that are taken from the queue at once: where fewer are, nothing more waits.
CHUNK: Final = 65_536
# At so many times within FSM_HEARTBEAT seconds hearts beat.
BEATS: Final = 64
REASONS: Final[dict[int, str]] = {
    CloseCode.SERVICE_RESTART: "This server goes: come back.",
    CloseCode.TRY_AGAIN_LATER: "Too slow: come back.",
    CloseCode.NO_SIGN_OF_LIFE: "No sign of life.",
    CloseCode.SUBJECT_CHANGED: "Another user, or none, has this session now.",
    CloseCode.FLOW_GONE: "This flow is not there any more.",
}


class Presence(NamedTuple):
    """Says whether the client is still in its groups; a server is told, so it may take long."""

    still: bool


class Peer:
    """What both kinds have in common."""

    __slots__ = (
        "code",
        "config",
        "ended",
        "jobs",
        "membership",
        "resume_at",
        "session",
        "subscriber",
    )

    def __init__(
        self,
        config: Config,
        subscriber: Subscriber,
        session: ClientSession,
        membership: Membership,
    ) -> None:
        self.config = config
        self.subscriber = subscriber
        self.session = session
        self.membership = membership
        self.jobs: deque[Job | Presence] = deque()
        self.ended = False
        """Whether nothing more goes out; the connection ends when all is written."""
        self.code = 0
        """With which code it ended."""
        self.resume_at = 0.0
        """Until when (of time.monotonic()) nothing is taken, since the client sent too much."""

    @property
    def kind(self) -> str:
        """What names the events that take no store, or nothing if they do."""
        return self.session.inline_key

    @property
    def reading(self) -> bool:
        """Whether more may be read from the client now."""
        if self.ended or len(self.jobs) >= BACKLOG or self.behind:
            return False
        return not (self.resume_at and self.held_up)

    @property
    def held_up(self) -> bool:
        """Whether the client has sent too much, so that it has to wait until `resume_at`."""
        return self.resume_at > time.monotonic()

    @property
    def behind(self) -> bool:
        """Whether bytes of the client wait until jobs are done; then `received(b"")` goes on."""
        return False

    @property
    def finished(self) -> bool:
        """Whether the connection may be closed as soon as all is written."""
        return self.ended

    def prepare(self, sock: Any) -> None:
        """Set what the socket needs."""

    def received(self, data: bytes) -> bytes:
        """Take bytes of the client; return what is to be written at once."""
        raise NotImplementedError

    def do(self, job: Job | Presence) -> None:
        """Do a job, which may take long; what comes of it is queued."""
        if isinstance(job, Job):
            self.session.handle(job)
        elif job.still:
            self.membership.renew()
        else:
            self.membership.leave()

    def outgoing(self) -> bytes:
        """Return what is to be written next, nothing if nothing waits."""
        if self.ended:
            return b""
        take = self.subscriber.take
        parts: list[bytes] = []
        size = 0
        while (out := take()) is not None:
            if isinstance(out, Frame):
                part = self.frame(out)
                parts.append(part)
                size += len(part)
                if size >= CHUNK:
                    break
            elif isinstance(out, Job):
                self.jobs.append(out)
            else:
                parts.append(
                    self.cut() if out.code == CloseCode.TRY_AGAIN_LATER else self.close(out.code)
                )
                break
        if self.session.closing and not self.ended and size < CHUNK:
            parts.append(self.close(self.session.closing))
        return b"".join(parts)

    def frame(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        raise NotImplementedError

    def first_beat(self) -> float:
        """Return when, by time.monotonic(), `beat` is to be called first.

        Thousands may come at once, as after a restart: they shall not beat at once for ever.
        """
        return self._on_a_beat(time.monotonic() + random.random() * self.config.heartbeat)

    def next_beat(self) -> float:
        """Return when it is to be called next, as it is now: FSM_HEARTBEAT seconds later."""
        return self._on_a_beat(time.monotonic() + self.config.heartbeat * (1 - 1 / BEATS))

    def _on_a_beat(self, soonest: float) -> float:
        """Return the next time at which hearts beat: some together, so that few wake the engine."""
        apart = self.config.heartbeat / BEATS
        return ceil(soonest / apart) * apart

    def beat(self) -> bytes:
        """Return a sign of life."""
        raise NotImplementedError

    def close(self, code: int) -> bytes:
        """End it with a code, and run nothing more of it; return the last bytes."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what the client had asked for before it went, then let go of everything."""
        self.resume_at = 0.0  # who is gone need not be held up
        while self.jobs or self.behind:
            if self.jobs:
                self.do(self.jobs.popleft())
            else:
                self.received(b"")
                self.resume_at = 0.0
        self.gone()

    def _end(self, code: int) -> None:
        self.ended, self.code = True, code
        self.jobs.clear()

    def _renew(self) -> None:
        if self.membership.groups and not self.ended:
            self.jobs.append(Presence(still=True))

    def cut(self) -> bytes:
        """End it as too slow, and free what waits; return the last bytes."""
        self.subscriber.leave()
        self.subscriber.queue.clear()
        last = self.close(CloseCode.TRY_AGAIN_LATER)
        # It may take long until the last bytes are fetched, and it hears nothing any more.
        if self.membership.groups:
            self.jobs.append(Presence(still=False))
        return last

    def gone(self) -> None:
        """Let go of everything: the connection is closed. May wait for a server."""
        self.subscriber.leave()
        self.session.close()
        self.membership.leave()


class SocketPeer(Peer):
    """A websocket."""

    __slots__ = ("_allowed", "_counted", "_silent", "_socket")

    def __init__(self, socket: WebSocket, *args: Any) -> None:
        super().__init__(*args)
        self._socket = socket
        self._silent = 0
        # A bucket of messages (RFC 2697 has the idea): it holds those of two seconds.
        self._allowed = self.config.message_rate * 2
        self._counted = time.monotonic()

    @property
    def behind(self) -> bool:
        if not self._socket.rest:
            return False
        return len(self.jobs) < BACKLOG and not self.code and not self.held_up

    @property
    def finished(self) -> bool:
        return self.ended and self._socket.received_code is not None

    def received(self, data: bytes) -> bytes:
        self._silent = 0
        messages, out, others = self._socket.receive(data, BACKLOG - len(self.jobs))
        for message in messages:
            self.jobs.append(Job(message))
        if messages or others:
            self._count(len(messages) + others)
        if self._socket.closed:
            self.ended = True
        return out

    def _count(self, number: int) -> None:
        rate, now = self.config.message_rate, time.monotonic()
        self._allowed = min(self._allowed + (now - self._counted) * rate, rate * 2) - number
        self._counted = now
        self.resume_at = now - self._allowed / rate if self._allowed < 0 else 0.0

    def frame(self, frame: Frame) -> bytes:
        return self._socket.text(frame.text)

    def beat(self) -> bytes:
        if self.ended:
            return b""
        if self.reading:  # else its answers lie unread
            self._silent += 1
        self._renew()
        return (
            self.close(CloseCode.NO_SIGN_OF_LIFE) if self._silent > SILENCE else self._socket.ping()
        )

    def close(self, code: int) -> bytes:
        self._end(code)
        return self._socket.close(code, REASONS.get(code, ""))


class StreamPeer(Peer):
    """An event stream (WHATWG HTML, server-sent events)."""

    __slots__ = ()

    def prepare(self, sock: Any) -> None:
        end_silence(sock, self.config.heartbeat * SILENCE)

    def received(self, data: bytes) -> bytes:
        return b""  # nobody speaks on it

    def frame(self, frame: Frame) -> bytes:
        id = "" if frame.id is None else f"id: {frame.id}\n"
        return f"{id}event: {frame.kind}\ndata: {frame.text}\n\n".encode()

    def beat(self) -> bytes:
        self._renew()
        return b"" if self.ended else b": \n\n"

    def close(self, code: int) -> bytes:
        self._end(code)
        return b""  # a browser comes back by itself, and is told then
