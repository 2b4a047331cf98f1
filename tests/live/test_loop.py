"""The loop, with sockets of this process: what it does where a client, or a handler, is slow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flask_fsm.live.client.actions import Job
from flask_fsm.live.client.subscriber import Subscriber
from flask_fsm.live.protocol.close_codes import CloseCode
from flask_fsm.live.server.loop_engine import LoopEngine
from flask_fsm.live.server.transport import StreamTransport

from ..clients import PATIENCE
from .serving import until


class ServedStream:
    """A stream that a loop of its own serves, and the client's end of it."""

    def __init__(self, kind: str = "", send_timeout: float = 10.0) -> None:
        self.client, self.server = socket.socketpair()
        self.client.settimeout(PATIENCE)
        self.server.setblocking(False)
        self.engine = LoopEngine(10, 4)
        self.subscriber = Subscriber(100, ids=False)
        self.talk = SimpleNamespace(closing=0, inline_key=kind, flow_key="a", close=lambda: None)
        nothing: Any = SimpleNamespace(groups={}, leave=lambda: None)
        config: Any = SimpleNamespace(heartbeat=30.0, send_timeout=send_timeout)
        talk: Any = self.talk
        self.transport = StreamTransport(config, self.subscriber, talk, nothing)

    def begin(self) -> None:
        assert self.engine.register(self.transport)
        self.engine.serve(self.server, self.transport, b"")

    def heard(self) -> int:
        """Read up to the end of an event, and return how many bytes came."""
        read = b""
        while not read.endswith(b"\n\n"):
            read += self.client.recv(65_536)
        return len(read)


@contextlib.contextmanager
def served(**options: Any) -> Iterator[ServedStream]:
    """Serve a stream, and end it."""
    one = ServedStream(**options)
    try:
        yield one
    finally:
        one.client.close()
        until(lambda: len(one.engine) == 0)
        one.engine.stop()


def test_a_message_that_comes_before_the_first_bytes_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is written after them: without the head of a response there is no stream."""
    with served() as early:
        call = early.engine.call

        def call_later(function: Callable[[], None]) -> None:
            monkeypatch.setattr(early.engine, "call", call)
            early.subscriber.send("early")  # as another thread may at this moment
            call(function)

        assert early.engine.register(early.transport)
        monkeypatch.setattr(early.engine, "call", call_later)
        early.engine.serve(early.server, early.transport, b"HEAD\n")
        read = b""
        while not read.endswith(b"\n\n"):
            read += early.client.recv(65_536)
        assert read.startswith(b"HEAD\n")
        assert b"early" in read


def test_a_client_that_takes_nothing_at_all() -> None:
    """It is cut after FSM_SEND_TIMEOUT, even if not a byte of what is said found room."""
    with served(send_timeout=0.2) as stalled:
        with contextlib.suppress(BlockingIOError):
            while True:
                stalled.server.send(b"x")
        stalled.begin()
        stalled.subscriber.send("hello")
        until(lambda: stalled.transport.ended, 5.0)
        assert stalled.transport.code == CloseCode.TRY_AGAIN_LATER


def test_a_client_that_is_slow_again_and_again() -> None:
    """It has one timer besides that of its heart."""
    with served() as slow:
        slow.begin()
        for _ in range(5):
            slow.subscriber.send("x" * 1_000_000)
            assert slow.heard() > 1_000_000
        assert len(slow.engine._timers) == 2


def test_a_client_that_goes_while_it_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    """Its timers find nothing more to do."""
    with served(send_timeout=0.2) as slow:
        slow.begin()
        slow.subscriber.send("x" * 1_000_000)
        slow.client.recv(1)
        slow.client.close()
        until(lambda: len(slow.engine._timers) == 1)
        assert caplog.text == ""


@pytest.mark.parametrize("kind", ["", "of-a-connection"])
def test_a_process_that_ends_while_a_handler_runs(kind: str) -> None:
    """It waits for the handler, also for one that the leader of the loop has begun."""
    with served(kind=kind) as one:
        begun, done = threading.Event(), threading.Event()

        def do(job: Job) -> None:
            begun.set()
            time.sleep(0.5)
            done.set()

        one.talk.handle = do
        one.begin()
        until(lambda: one.engine.leadership.idle > 1)
        one.transport.jobs.append(Job("slow"))
        one.subscriber.queue.notify()
        assert begun.wait(PATIENCE)
        until(lambda: one.engine.leadership.term == bool(kind))
        one.engine.stop(within=0)
        assert done.is_set()
