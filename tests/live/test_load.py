"""Load by one visitor: a flow that is busy holds up one thread, however many sockets it has."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from flask import Flask, request
from websockets.exceptions import InvalidStatus

from flask_fsm import FlaskFSM, Machine, State, Transition
from flask_fsm.stores.cache import GRACE
from flask_fsm.testing import LiveClient, LiveServer

from ..apps import SECRET
from .serving import Sites, until

SOCKETS = 8
EDGES = [Transition("idle", "end", event="go"), ("end", "idle")]
WORKERS = 3
AT_ONCE = 2.0  # seconds; a wait for the lock takes FSM_LOCK_TIMEOUT, which is 10


class Busy:
    """A served app, in which `/hold` keeps the lock of the visitor's flow until `finish`."""

    def __init__(self, **config: Any) -> None:
        app = self.app = Flask("busy")
        app.config.update(
            SECRET_KEY=SECRET, FSM_STORE_URL="memory://", FSM_LIVE=True, FSM_LIVE_WORKERS=WORKERS
        )
        app.config.update(config)
        self.serving, self.finish = threading.Event(), threading.Event()
        self.order: list[Any] = []
        self._threads: list[threading.Thread] = []
        idle = State("idle")
        fsm = FlaskFSM(app, Machine("busy", EDGES, states=[idle, "end"]))

        @idle.event("note")
        def note(flow: Any, data: Any) -> Any:
            self.order.append(data)
            return data

        @app.route("/idle", endpoint="idle", methods=["GET", "POST"])
        @fsm.check()
        def page() -> str:
            return f"{fsm.token().value}"

        @app.post("/hold")
        @fsm.requires("idle")
        def hold() -> str:
            self.serving.set()
            assert self.finish.wait(timeout=30)
            return "held"

        @app.get("/id")
        @fsm.requires("idle")
        def id() -> str:
            return fsm.flow.id

        @app.get("/send")
        def send() -> str:
            return str(fsm.live.flow(request.args["id"]).send("note"))

        @app.get("/end", endpoint="end")
        @fsm.check()
        def end() -> str:
            return "end"

    @contextmanager
    def serve(self) -> Iterator[LiveServer]:
        """Serve the app; at the end `/hold` ends."""
        with LiveServer(self.app) as server:
            try:
                yield server
            finally:
                self.finish.set()
                for thread in self._threads:
                    thread.join(timeout=20)

    def hold(self, client: LiveClient) -> None:
        """Let a visitor's request hold the lock of the flow, or wait for it."""
        client.get("/idle")
        thread = threading.Thread(target=client.post, args=["/hold"])
        thread.start()
        self._threads.append(thread)
        assert self.serving.wait(timeout=20)


@pytest.fixture(params=["loop", "threads"])
def busy(request: pytest.FixtureRequest) -> Busy:
    """That app on each engine."""
    return Busy(FSM_LIVE_ENGINE=request.param)


def test_a_stranger_is_served_while_the_sockets_of_another_wait(busy: Busy) -> None:
    """Eight sockets whose events wait for a slow form leave threads for everybody else."""
    with busy.serve() as server, ExitStack() as stack:
        visitor, stranger = server.client(), server.client()
        visitor.get("/idle")
        sockets = [stack.enter_context(visitor.websocket("busy")) for _ in range(SOCKETS)]
        for each in sockets:
            each.receive()
        busy.hold(visitor)
        for number, each in enumerate(sockets):
            each.send("note", number)
        with stranger.websocket("busy") as other:
            other.receive()
            for _ in range(3):
                begun = time.monotonic()
                assert other.ask("note", "stranger")["data"] == "stranger"
                assert time.monotonic() - begun < AT_ONCE
        begun = time.monotonic()
        assert stranger.get("/idle").status == 200
        assert time.monotonic() - begun < AT_ONCE
        busy.finish.set()


def test_who_comes_back_while_the_flow_is_busy_gets_what_was_missed(busy: Busy) -> None:
    """However much it is, it does not wait for the event of another socket that waits."""
    texts = [f"{number} {'x' * 20_000}" for number in range(12)]
    with busy.serve() as server, ExitStack() as stack:
        visitor = server.client()
        visitor.get("/idle")
        client = stack.enter_context(visitor.websocket("busy"))
        client.receive()
        since = client.ask("note", "first")["id"]
        for text in texts:
            client.ask("note", text)
        busy.hold(visitor)
        client.send("note", "waits")
        begun = time.monotonic()
        with visitor.websocket("busy", since=since) as again:
            assert [again.receive()["data"] for _ in texts] == texts
        assert time.monotonic() - begun < AT_ONCE
        busy.finish.set()


def test_the_events_of_a_flow_are_handled_in_turn() -> None:
    """On the loop each event gets its answer when the flow is free, in the order they came."""
    busy = Busy(FSM_LIVE_ENGINE="loop")
    with busy.serve() as server, ExitStack() as stack:
        visitor = server.client()
        visitor.get("/idle")
        sockets = [stack.enter_context(visitor.websocket("busy")) for _ in range(SOCKETS)]
        for each in sockets:
            each.receive()
        busy.hold(visitor)
        for number, each in enumerate(sockets):
            each.send("note", number, ref=number)
            time.sleep(0.02)
        busy.finish.set()
        for number, each in enumerate(sockets):
            each.until(lambda frame, n=number: frame.get("ref") == n)
        assert busy.order == list(range(SOCKETS))


def test_a_socket_that_closes_frees_its_place_while_its_flow_is_busy() -> None:
    """However many sockets come and go, none keeps its place until the flow is free."""
    busy = Busy(FSM_LIVE_ENGINE="loop", FSM_MAX_CONNECTIONS=3)
    with busy.serve() as server:
        visitor = server.client()
        with visitor.websocket("busy") as first:
            first.receive()
            busy.hold(visitor)
            first.send("note", 1)
            for _ in range(8):
                with visitor.websocket("busy") as other:
                    other.receive()
                until(lambda: server.client().get("/fsm/health").json["connections"] == 1)


def test_the_last_events_of_closed_sockets_hold_up_one_thread() -> None:
    """Sockets that send an event and close at once leave threads for everybody else, too."""
    busy = Busy(FSM_LIVE_ENGINE="loop")
    with busy.serve() as server:
        visitor, stranger = server.client(), server.client()
        visitor.get("/idle")
        sockets = [visitor.websocket("busy") for _ in range(SOCKETS)]
        for each in sockets:
            each.receive()
        busy.hold(visitor)
        for number, each in enumerate(sockets):
            each.send("note", number)
            each.send("note", number)
            each.close()
        with stranger.websocket("busy") as other:
            other.receive()
            begun = time.monotonic()
            assert other.ask("note", "stranger")["data"] == "stranger"
            assert time.monotonic() - begun < AT_ONCE
        busy.finish.set()
        until(lambda: len(busy.order) == 2 * SOCKETS + 1)


def test_an_event_by_http_is_told_that_the_flow_is_busy(busy: Busy) -> None:
    """With two requests waiting, it gets 503, Retry-After, and a frame that says `busy`."""
    with busy.serve() as server:
        visitor = server.client()
        busy.hold(visitor)
        busy.hold(visitor)
        busy.hold(visitor)
        time.sleep(2 * GRACE)
        begun = time.monotonic()
        reply = visitor.event("busy", "note", 5)
        assert time.monotonic() - begun < AT_ONCE
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert (reply.json["status"], reply.json["data"]["reason"]) == (400, "busy")
        assert busy.order == []
        busy.finish.set()
        until(lambda: visitor.event("busy", "note", 5).status == 200)


def test_a_flow_may_have_half_of_the_threads(sites: Sites) -> None:
    """With a thread for each socket, one visitor's sockets leave room for those of others."""
    site = sites.get("threads", threads=8)
    visitor, stranger = site.browser(), site.browser()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(visitor.websocket("lab")).receive()
        with pytest.raises(InvalidStatus) as caught:
            visitor.websocket("lab")
        assert caught.value.response.status_code == 429
        assert int(caught.value.response.headers["Retry-After"]) > 0
        assert stack.enter_context(stranger.websocket("lab")).receive()["state"] == "idle"
        assert visitor.get("/ping").status == 200


def test_a_view_without_a_guard_is_told_that_the_flow_is_busy(busy: Busy) -> None:
    """One that sends an event to a busy flow answers 503 with Retry-After, and not 500."""
    with busy.serve() as server:
        visitor = server.client()
        visitor.get("/idle")
        assert visitor.event("busy", "go").status == 200
        id = visitor.get("/id").body.decode()
        for _ in range(3):
            busy.hold(visitor)
        time.sleep(2 * GRACE)
        reply = visitor.get("/send", id=id)
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")


def test_a_connection_keeps_no_large_headers(sites: Sites) -> None:
    """Headers are kept as long as a socket is open, so large ones are refused with 431."""
    site = sites.get("loop")
    browser = site.browser()
    large = {f"X-Padding-{number}": "x" * 7_000 for number in range(6)}
    assert browser.request("GET", "/fsm/lab/events", headers=large).status == 431
    with pytest.raises(InvalidStatus) as caught:
        browser.websocket("lab", headers=large)
    assert caught.value.response.status_code == 431
    assert browser.request("GET", "/fsm/lab/state", headers=large).status == 200
