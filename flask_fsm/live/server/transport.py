"""A transport is a websocket or an event stream without I/O: bytes in, bytes out, jobs to run.

An engine calls `received`, `next_output`, `heartbeat` and `close` in one thread at a time, and none
of them waits; `run_job` may take long, and is called for one job after the other. `lifecycle`
decides when a slow client is dropped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple, Protocol

from ...config import Config
from ..channels.stream import SILENCE
from ..client.actions import Close, Frame, Job
from ..protocol.close_codes import CloseCode
from ..protocol.sse import COMMENT
from ..protocol.websocket import WebSocket
from .handoff import end_silence

__all__ = [
    "CHUNK",
    "MAX_UNWRITTEN",
    "GroupPresence",
    "JobHandler",
    "OutputQueue",
    "OutputSource",
    "StreamTransport",
    "Transport",
    "WebSocketTransport",
]

# While this many events wait to be run, no more are read.
BACKLOG: Final = 8
# Bytes that are taken from the queue at once. If fewer come, nothing more waits.
CHUNK: Final = 65_536
# While this many bytes wait to be written, no more are read: a client could otherwise send pings
# without end, and read none of the answers.
MAX_UNWRITTEN: Final = 4 * CHUNK
# The end of a body that is sent in chunks (RFC 9112, section 7.1).
LAST_CHUNK: Final = b"0\r\n\r\n"
REASONS: Final[dict[int, str]] = {
    CloseCode.SERVICE_RESTART: "The server is restarting: reconnect.",
    CloseCode.TRY_AGAIN_LATER: "The client is too slow: reconnect.",
    CloseCode.UNRESPONSIVE: "The client did not answer pings.",
    CloseCode.SUBJECT_CHANGED: "This session belongs to another user now, or to none.",
    CloseCode.NOT_ADMITTED: "You may not use this any more.",
    CloseCode.FLOW_GONE: "This flow does not exist any more.",
}


# -- what a transport needs of its client -----------------------------------------------------


class JobHandler(Protocol):
    """Runs the events of one client."""

    closing: int
    """The close code to end with once all queued is written, or 0."""

    @property
    def inline_key(self) -> str:
        """The machine's name if its events need no store, or ''."""

    @property
    def flow_key(self) -> str:
        """Identifies the flow, whose events wait for each other."""

    def handle(self, job: Job) -> None:
        """Run an event, and queue its frames; never raises."""

    def close(self) -> None:
        """Release the client's resources in the app."""


class OutputQueue(Protocol):
    """The output queue of one client."""

    on_push: Callable[[], None] | None
    """Called in any thread when there is something to send."""
    overflown: bool
    """Whether too much waits, so that the client is to be dropped."""

    def notify(self) -> None:
        """Call `on_push` without a message."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until something can be taken; return whether it can."""


class OutputSource(Protocol):
    """Collects the output for one client."""

    @property
    def queue(self) -> OutputQueue: ...

    def take(self) -> Frame | Close | Job | None:
        """Return what is to be done next, or None if nothing waits."""

    def leave(self) -> None:
        """Leave all channels, and drop all that waits for the client."""


class GroupPresence(Protocol):
    """The client's presence in its groups. It may be stored on a server, so calls may take long."""

    @property
    def groups(self) -> Collection[str]: ...

    def renew(self) -> None:
        """Renew the presence."""

    def leave(self) -> None:
        """Leave the groups."""


class PresenceJob(NamedTuple):
    """The job to renew the presence in groups, or to leave them."""

    stay: bool


# -- transports -------------------------------------------------------------------------------


class Transport:
    """Base class of the transports: websockets and event streams."""

    __slots__ = (
        "code",
        "config",
        "ended",
        "jobs",
        "membership",
        "session",
        "subscriber",
        "throttled_until",
        "unwritten",
    )

    def __init__(
        self,
        config: Config,
        subscriber: OutputSource,
        session: JobHandler,
        membership: GroupPresence,
    ) -> None:
        self.config: Config = config
        self.subscriber: OutputSource = subscriber
        self.session: JobHandler = session
        self.membership: GroupPresence = membership
        self.jobs: deque[Job | PresenceJob] = deque()
        self.ended: bool = False
        """Whether no output follows; the connection ends when all is written."""
        self.code: int = 0
        """The close code that it ended with."""
        self.throttled_until: float = 0.0
        """Until when (by time.monotonic()) nothing is read, since the client has sent too much."""
        self.unwritten: int = 0
        """How many bytes the engine could not write yet, when it last waited for the socket."""

    # -- what the client sends ----------------------------------------------------------

    @property
    def inline_key(self) -> str:
        """The machine's name if its events need no store, or ''."""
        return self.session.inline_key

    @property
    def flow_key(self) -> str:
        """Identifies the flow, whose events wait for each other; '' if the next job need not."""
        if self.jobs and isinstance(job := self.jobs[0], Job) and job.reads_missed:
            return ""
        return self.session.flow_key

    @property
    def reading(self) -> bool:
        """Whether more may be read from the client now."""
        if self.ended or len(self.jobs) >= BACKLOG or self.has_unparsed:
            return False
        if self.unwritten >= MAX_UNWRITTEN:
            return False
        return not (self.throttled_until and self.throttled)

    @property
    def throttled(self) -> bool:
        """Whether the client has to wait until `throttled_until`, since it has sent too much."""
        return self.throttled_until > time.monotonic()

    @property
    def has_unparsed(self) -> bool:
        """Whether unparsed bytes can be parsed now, by `received(b"")`, as fewer jobs wait."""
        return False

    def configure(self, sock: Any) -> None:
        """Set the options of the socket."""

    def received(self, data: bytes) -> bytes:
        """Parse bytes of the client into jobs; return the bytes to write at once."""
        raise NotImplementedError

    def run_job(self, job: Job | PresenceJob) -> None:
        """Run a job, which may take long; its output is queued."""
        if isinstance(job, Job):
            self.session.handle(job)
        elif job.stay:
            self.membership.renew()
        else:
            self.membership.leave()

    # -- what the client is sent --------------------------------------------------------

    def next_output(self) -> bytes:
        """Return the bytes to write next, or none if nothing waits."""
        if self.ended:
            return b""
        take = self.subscriber.take
        parts: list[bytes] = []
        last = b""
        size = 0
        while (out := take()) is not None:
            if isinstance(out, Frame):
                part = self.encode(out)
                parts.append(part)
                size += len(part)
                if size >= CHUNK:
                    break
            elif isinstance(out, Job):
                self.jobs.append(out)
            else:
                slow = out.code == CloseCode.TRY_AGAIN_LATER
                last = self.drop_slow() if slow else self.close(out.code)
                break
        if self.session.closing and not self.ended and size < CHUNK:
            last = self.close(self.session.closing)
        out_bytes = b"".join(parts)
        return self.wrap(out_bytes) + last if last else self.wrap(out_bytes)

    def encode(self, frame: Frame) -> bytes:
        """Return the bytes of a frame."""
        raise NotImplementedError

    def wrap(self, data: bytes) -> bytes:
        """Return encoded frames as they are sent; `data` may be empty."""
        return data

    def heartbeat(self) -> bytes:
        """Return a heartbeat, and renew the client's presence in its groups."""
        raise NotImplementedError

    def _renew(self) -> None:
        if self.membership.groups and not self.ended:
            self.jobs.append(PresenceJob(stay=True))

    # -- the end ------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the connection may be closed as soon as all is written."""
        return self.ended

    def request_close(self, code: int) -> None:
        """Have the engine close with this code once all queued is written; in any thread."""
        self.session.closing = code
        self.subscriber.queue.notify()

    def close(self, code: int) -> bytes:
        """End the connection with a close code, and run no more jobs; return the last bytes."""
        raise NotImplementedError

    def drop_slow(self) -> bytes:
        """Cut a slow client with 1013, and free what waits for it; return the last bytes."""
        self.subscriber.leave()
        last = self.close(CloseCode.TRY_AGAIN_LATER)
        # The client may take long to fetch the last bytes, and receives nothing of its groups.
        if self.membership.groups:
            self.jobs.append(PresenceJob(stay=False))
        return last

    def _end(self, code: int) -> None:
        self.ended, self.code = True, code
        self.jobs.clear()

    def finish(self) -> None:
        """Run the remaining jobs of a closed connection, then release it."""
        self.throttled_until = 0.0  # a disconnected client need not be throttled
        while self.jobs or self.has_unparsed:
            if self.jobs:
                self.run_job(self.jobs.popleft())
            else:
                self.received(b"")
                self.throttled_until = 0.0
        self.release()

    def release(self) -> None:
        """Release what the connection holds; may wait for a server."""
        self.subscriber.leave()
        self.session.close()
        self.membership.leave()


class WebSocketTransport(Transport):
    """A websocket."""

    __slots__ = ("_allowance", "_counted_at", "_silent", "_socket")

    def __init__(self, socket: WebSocket, *args: Any) -> None:
        super().__init__(*args)
        self._socket = socket
        self._silent = 0
        """Heartbeats since the client's last bytes."""
        # A token bucket (compare RFC 2697) that holds the messages of two seconds.
        self._allowance = self.config.message_rate * 2
        self._counted_at = time.monotonic()

    @property
    def has_unparsed(self) -> bool:
        if not self._socket.rest:
            return False
        return len(self.jobs) < BACKLOG and not self.code and not self.throttled

    @property
    def finished(self) -> bool:
        return self.ended and self._socket.received_code is not None

    def resume(self, messages: list[str | bytes], begun: str | bytes | bytearray | None) -> None:
        """Continue after another reader, which has read whole messages; see `WebSocket.resume`."""
        self._socket.resume(begun)
        self.jobs.extend(map(Job, messages))
        self._count(len(messages))

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
        refilled = min(self._allowance + (now - self._counted_at) * rate, rate * 2)
        self._allowance = refilled - number
        self._counted_at = now
        self.throttled_until: float = now - self._allowance / rate if self._allowance < 0 else 0.0

    def encode(self, frame: Frame) -> bytes:
        return self._socket.text(frame.text)

    def heartbeat(self) -> bytes:
        if self.ended:
            return b""
        if self.reading:  # otherwise its pongs may be waiting unread
            self._silent += 1
        self._renew()
        if self._silent > SILENCE:
            return self.close(CloseCode.UNRESPONSIVE)
        return self._socket.ping()

    def close(self, code: int) -> bytes:
        self._end(code)
        return self._socket.close(code, REASONS.get(code, ""))


class StreamTransport(Transport):
    """An event stream (WHATWG HTML, server-sent events), in chunks of HTTP/1.1 if `chunked`."""

    __slots__ = ("_chunked",)

    def __init__(self, *args: Any, chunked: bool = False) -> None:
        super().__init__(*args)
        self._chunked = chunked

    def configure(self, sock: Any) -> None:
        end_silence(sock, self.config.heartbeat * SILENCE)

    def received(self, data: bytes) -> bytes:
        return b""  # a client sends nothing on a stream

    def encode(self, frame: Frame) -> bytes:
        id = "" if frame.id is None else f"id: {frame.id}\n"
        return f"{id}event: {frame.kind}\ndata: {frame.text}\n\n".encode()

    def wrap(self, data: bytes) -> bytes:
        # A reader that asks for blocks of bytes gets each chunk at once.
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self._chunked else data

    def heartbeat(self) -> bytes:
        self._renew()
        return b"" if self.ended else self.wrap(COMMENT)

    def close(self, code: int) -> bytes:
        self._end(code)
        # A browser reconnects by itself, and gets the error then.
        return LAST_CHUNK if self._chunked else b""
