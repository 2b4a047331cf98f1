"""Server-sent events, as `curl -N` gets them from each engine."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from flask import Flask, Response
from werkzeug.test import TestResponse

from flask_fsm import FlaskFSM, Machine

from ..clients import LOOPBACK, PATIENCE
from .apps import SECRET
from .frames import checked
from .serving import Browser, Site, Sites, Stream, until

LOW = {"FSM_HEARTBEAT": 0.2}


def opened(browser: Browser, **options: Any) -> Stream:
    """A stream of the laboratory, after its first frame."""
    stream = browser.curl_events("lab", **options)
    stream.receive()
    return stream


# -- how it begins ------------------------------------------------------------------------------


def test_the_head(site: Site) -> None:
    """The headers keep caches and proxies from holding the stream back."""
    with opened(site.browser()) as stream:
        assert stream.status == 200
        assert stream.header("content-type") == "text/event-stream"
        assert stream.header("cache-control") == "no-cache, no-transform"
        assert stream.header("x-accel-buffering") == "no"
        assert stream.header("content-length") is None
        assert "Cookie" in (stream.header("vary") or "")


def test_the_beginning(site: Site) -> None:
    """First comes `retry`, then the state with its id; the session keeps the flow."""
    browser = site.browser()
    with browser.curl_events("lab") as stream:
        event = stream.event()
        assert event.type == "state"
        frame = checked(event.data)
        assert (frame["state"], frame["rev"], frame["id"]) == ("idle", 0, event.last_id)
        assert stream.retries == [3000]
    browser.event("lab", "start")
    with browser.curl_events("lab") as stream:
        assert stream.receive()["state"] == "busy"


def test_retry_is_set(sites: Sites) -> None:
    """FSM_SSE_RETRY says after how many milliseconds a browser comes back."""
    site = sites.get("loop", FSM_SSE_RETRY=1234)
    with opened(site.browser()) as stream:
        assert stream.retries == [1234]


@pytest.mark.parametrize(
    ("machine", "groups", "status"),
    [("none", [], 404), ("lab", ["closed"], 403), ("lab", [""], 400)],
)
def test_an_endpoint_stays_closed(site: Site, machine: str, groups: list[str], status: int) -> None:
    """What can't be joined is refused by a problem document, and browsers do not come back."""
    with site.browser().curl_events(machine, groups=groups) as stream:
        body = stream.ended()
        assert stream.status == status
        assert stream.header("content-type") == "application/problem+json"
        assert checked(body, "Problem")["status"] == status


def test_a_machine_of_connections(site: Site) -> None:
    """A stream of a machine with a flow for each connection shows that flow's first state."""
    with site.browser().curl_events("light") as stream:
        frame = stream.receive()
        assert (frame["state"], "id" in frame) == ("red", False)


# -- what it tells ------------------------------------------------------------------------------


def test_events_have_names(site: Site) -> None:
    """State, data and group frames are events of those names, with ids, in order."""
    browser = site.browser()
    with opened(browser, groups=["ops"]) as stream:
        assert stream.receive()["type"] == "join"
        browser.event("lab", "ping", ref="mine")
        browser.event("lab", "start")
        browser.get("/broadcast/ops", text='{"a": [1]}')
        data, state, group = stream.receive(), stream.receive(), stream.receive()
        assert [event.type for event in stream.events] == [
            "state",
            "group",
            "data",
            "state",
            "group",
        ]
        assert (data["data"], "ref" in data) == ("pong", False)
        assert state["state"] == "busy"
        assert (group["data"], group["group"], group["type"]) == ({"a": [1]}, "ops", "message")


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb\rc", "\n\nevent: x\ndata: y\n\n", "\0", "é\u2028"]
)
def test_texts_stay_within_their_event(site: Site, text: str) -> None:
    """Line ends in data break out of nothing."""
    browser = site.browser()
    with opened(browser) as stream:
        browser.event("lab", "echo", text)
        browser.event("lab", "ping")
        assert stream.receive()["data"] == text
        assert stream.receive()["data"] == "pong"


def test_refusals_are_not_told(site: Site) -> None:
    """Streams hear of no refusal, which was another client's."""
    browser = site.browser()
    with opened(browser) as stream:
        for event in ("fly", "boom", "burgle", "nothing", "ping"):
            browser.event("lab", event)
        assert stream.receive()["data"] == "pong"


# -- coming back --------------------------------------------------------------------------------


def test_what_was_missed_is_sent(site: Site) -> None:
    """`Last-Event-ID` brings what came after it, once and in order."""
    browser = site.browser()
    with opened(browser) as stream:
        browser.event("lab", "echo", "seen")
        stream.receive()
        id = stream.last_id
    for number in range(5):
        browser.event("lab", "echo", number)
    browser.event("lab", "start")
    with browser.curl_events("lab", last_id=id) as stream:
        assert [stream.receive()["data"] for _ in range(5)] == [0, 1, 2, 3, 4]
        frame = stream.receive()
        assert (frame["state"], "gap" in frame) == ("busy", False)
        browser.event("lab", "ping")
        assert stream.receive()["data"] == "pong"


def test_since_is_for_those_who_set_no_header(site: Site) -> None:
    """`?since=` does as much; where both are there, the header, which is newer, counts."""
    browser = site.browser()
    with opened(browser) as stream:
        ids = []
        for number in range(3):
            browser.event("lab", "echo", number)
            stream.receive()
            ids.append(stream.last_id)
    with browser.curl_events("lab", since=ids[0]) as stream:
        assert [stream.receive()["data"] for _ in range(2)] == [1, 2]
    with browser.curl_events("lab", since=ids[0], last_id=ids[1]) as stream:
        assert stream.receive()["data"] == 2
        assert stream.receive()["state"] == "idle"


@pytest.mark.parametrize("last_id", ["nonsense", "unknown-7", "x" * 2_000, "\u00e9"])
def test_a_gap_is_told(site: Site, last_id: str) -> None:
    """An id that leads nowhere is answered by the full state, which says that some is lost."""
    browser = site.browser()
    browser.event("lab", "start")
    with browser.curl_events("lab", last_id=last_id) as stream:
        frame = stream.receive()
        assert (frame["state"], frame["rev"], frame["gap"]) == ("busy", 1, True)


# -- signs of life ------------------------------------------------------------------------------


@pytest.fixture
def lively(sites: Sites, engine: str) -> Site:
    """A site whose heart beats five times a second, on each engine."""
    return sites.get(engine, **LOW)


def of_this_process(**config: float) -> tuple[Flask, FlaskFSM]:
    """An app that no server serves, and its extension."""
    app = Flask("kept")
    app.secret_key = SECRET
    app.config.update(config)
    fsm = FlaskFSM(Machine("m", [("a", "b")]))
    fsm.live.authorize(lambda group: True)
    fsm.init_app(app)
    return app, fsm


def streamed(app: Flask) -> TestResponse:
    """A stream of it in a group, of which the server keeps the socket."""
    several = {"wsgi.multithread": True}
    return app.test_client().get("/fsm/m/events?group_id=ops", environ_overrides=several)


def connections(site: Site) -> int:
    return int(site.browser().get("/fsm/health").json["connections"])


def test_heartbeat(lively: Site) -> None:
    """A silent stream is kept open by comments, which are no events."""
    with opened(lively.browser()) as stream:
        stream.commented(3)
        assert len(stream.events) == 1


def test_a_heart_that_beats_slowly(sites: Sites) -> None:
    """Unless it is told to do otherwise, a stream sends a comment each 15 seconds."""
    browser = sites.get("loop").browser()
    begun = time.monotonic()
    with opened(browser) as stream:
        stream.commented(1)
        assert time.monotonic() - begun < 16
        first = time.monotonic()
        stream.commented(2)
    assert time.monotonic() - first > 14


@pytest.mark.parametrize("how", ["closed", "reset", "half"])
def test_dead_streams_are_gone(lively: Site, how: str) -> None:
    """A client that has gone, in whichever way, is not served any more after some beats."""
    until(lambda: connections(lively) == 0)
    browser = lively.browser()
    browser.state("lab")
    client = socket.create_connection((LOOPBACK, lively.port), PATIENCE)
    cookie = browser.cookie_header["Cookie"]
    request = f"GET /fsm/lab/events?group_id=ops HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n"
    client.sendall(request.encode())
    until(lambda: connections(lively) == 1)
    assert len(browser.get("/members/ops").json["members"]) == 1
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        client.shutdown(socket.SHUT_WR)
    else:
        client.close()
    until(lambda: connections(lively) == 0)
    until(lambda: browser.get("/members/ops").json["members"] == [])
    client.close()


def test_dead_sockets_are_gone(lively: Site) -> None:
    """A websocket whose client answers no ping is closed with 1011, and is gone."""
    until(lambda: connections(lively) == 0)
    with socket.create_connection((LOOPBACK, lively.port), PATIENCE) as client:
        client.sendall(
            b"GET /fsm/lab/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        received = b""
        while part := client.recv(65_536):
            received += part
    assert b"\x88" in received
    assert struct.pack("!H", 1011) in received
    assert received.count(b"\x89\x00") == 2
    until(lambda: connections(lively) == 0)


def test_lively_sockets_stay(lively: Site) -> None:
    """A client that answers pings, as all that are alive do, stays through many beats."""
    browser = lively.browser()
    with browser.websocket("lab") as client, opened(browser) as stream:
        client.receive()
        stream.commented(6)
        assert client.ask("ping")["data"] == "pong"


# -- how many -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "config"),
    [("loop", {"FSM_MAX_CONNECTIONS": 2}), ("threads", {"FSM_MAX_THREADS": 2})],
)
def test_no_more_than_are_allowed(sites: Sites, engine: str, config: dict[str, int]) -> None:
    """Beyond the cap a connection is refused with 503 and a time to come back; pages go on."""
    site = sites.get(engine, **config)
    browser = site.browser()
    until(lambda: connections(site) == 0)
    with opened(browser), browser.websocket("lab") as client:
        client.receive()
        with browser.curl_events("lab") as third:
            body = json.loads(third.ended())
        assert (third.status, body["reason"], third.header("retry-after")) == (503, "full", "5")
        assert browser.get("/cart").status == 200
        assert client.ask("ping")["data"] == "pong"
    until(lambda: connections(site) == 0)
    opened(browser).close()


def test_no_more_than_are_allowed_at_once() -> None:
    """Of those who come at the same time, too, only as many stay as there are places."""
    app, fsm = of_this_process(FSM_MAX_THREADS=1)
    both = threading.Barrier(2, timeout=PATIENCE)
    fsm.live.authorize(lambda group: both.wait() >= 0)
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(streamed, [app, app]))
    assert sorted(reply.status_code for reply in replies) == [200, 503]
    with app.app_context():
        assert len(fsm.live.group("ops").members()) == 1
        for reply in replies:
            reply.close()
        assert fsm.live.group("ops").members() == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_place_that_comes_to_nothing(fails: bool) -> None:
    """It is given back if the app puts another answer in the place of the stream, or fails."""
    app, _ = of_this_process(FSM_MAX_THREADS=1)

    def instead(response: Response) -> Response:
        if fails:
            raise LookupError
        return Response("another")

    app.after_request_funcs[None] = [instead]
    assert streamed(app).status_code == (500 if fails else 200)
    app.after_request_funcs.clear()
    until(lambda: app.test_client().get("/fsm/health").get_json()["connections"] == 0)
    with closing(streamed(app)) as reply:
        assert reply.status_code == 200


# -- where the server keeps its socket ----------------------------------------------------------


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_server_that_keeps_its_socket(read: int) -> None:
    """It iterates over the stream, as far as it likes; then nothing is left of the client."""
    app, fsm = of_this_process()
    reply = streamed(app)
    assert "Connection" not in reply.headers
    parts = [next(reply.response) for _ in range(read)]
    assert [part[:3] for part in parts] == [b"ret", b"id:"][:read]
    with app.app_context():
        assert len(fsm.live.group("ops").members()) == 1
        reply.close()
        assert fsm.live.group("ops").members() == []
    assert app.test_client().get("/fsm/health").get_json()["connections"] == 0


def test_a_busy_group_where_the_server_keeps_its_socket() -> None:
    """Its members stay beyond FSM_PRESENCE_TTL, though there is always something to be sent."""
    app, fsm = of_this_process(FSM_HEARTBEAT=0.1, FSM_PRESENCE_TTL=0.5)
    reply = streamed(app)
    with app.app_context():
        group = fsm.live.group("ops")
        end = time.monotonic() + 1
        read = b""
        while time.monotonic() < end:
            group.broadcast("news")
            read += next(reply.response)
            time.sleep(0.01)
        assert len(group.members()) == 1
        assert read.count(b": \n\n") > 5
        reply.close()
