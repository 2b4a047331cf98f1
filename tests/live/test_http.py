"""Plain HTTP: the state, events by POST, and pages and sockets of one flow."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from websockets.exceptions import InvalidStatus

from flask_fsm import ConfigError, FlaskFSM, Machine

from ..clients import LOOPBACK, PATIENCE
from .apps import SECRET
from .frames import checked
from .serving import Browser, LiveReply, Site, Sites

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def loop(sites: Sites) -> Site:
    """The app where it makes no difference what serves it."""
    return sites.get("loop")


def raw(browser: Browser, body: bytes, headers: dict[str, str] | None = None) -> LiveReply:
    """Post a body to the laboratory."""
    return browser.request("POST", "/fsm/lab/event", body, JSON if headers is None else headers)


# -- the state ----------------------------------------------------------------------------------


def test_the_state(loop: Site) -> None:
    """GET answers with the state frame, which no cache keeps, and the session keeps the flow."""
    browser = loop.browser()
    reply = browser.get("/fsm/lab/state")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    assert "Cookie" in reply.headers["Vary"]
    frame = checked(reply.body, "StateFrame")
    assert (frame["state"], frame["rev"]) == ("idle", 0)
    browser.event("lab", "start")
    assert browser.state("lab")["state"] == "busy"
    assert loop.browser().state("lab")["state"] == "idle"


@pytest.mark.parametrize("path", ["/fsm/lab/state", "/fsm/lab/events", "/fsm/health"])
def test_head(site: Site, path: str) -> None:
    """HEAD is answered at once, and without a body."""
    reply = site.browser().request("HEAD", path)
    assert (reply.status, reply.body) == (200, b"")
    if path.endswith("events"):
        assert reply.headers["Content-Type"] == "text/event-stream"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/fsm/lab/state"),
        ("GET", "/fsm/lab/event"),
        ("HEAD", "/fsm/lab/event"),
        ("POST", "/fsm/lab/events"),
        ("PUT", "/fsm/lab/event"),
    ],
)
def test_other_methods(loop: Site, method: str, path: str) -> None:
    """Each endpoint has its method."""
    body = b"{}" if method == "PUT" else None
    assert loop.browser().request(method, path, body, JSON).status == 405


def test_a_machine_that_is_not_there(loop: Site) -> None:
    """A machine that is not there is 404."""
    browser = loop.browser()
    assert browser.get("/fsm/none/state").status == 404
    assert browser.event("none", "ping").status == 404


def test_health(loop: Site) -> None:
    """The health answers without a session, and counts the connections."""
    browser = loop.browser()
    reply = browser.get("/fsm/health")
    assert checked(reply.body, "Health")["status"] == "ok"
    assert browser.cookies == {}
    with browser.websocket("lab") as client:
        client.receive()
        assert browser.get("/fsm/health").json["connections"] >= 1


# -- events -------------------------------------------------------------------------------------


def test_an_event(site: Site) -> None:
    """A POST is answered by the frame that a socket would get, with its ref."""
    browser = site.browser()
    reply = browser.event("lab", "ping", ref="r")
    assert (reply.status, reply.json) == (200, {"status": 200, "data": "pong", "ref": "r"})
    assert reply.headers["Cache-Control"] == "no-store"
    reply = browser.event("lab", "keep", [1], rev=0)
    assert reply.status == 200
    assert (reply.json["state"], reply.json["status"], reply.json["rev"]) == ("busy", 203, 1)
    assert reply.json["data"] == {"kept": [1]}
    assert browser.event("lab", "look").json["data"]["data"] == {"idle": {"kept": [1]}}


def test_several_frames(site: Site) -> None:
    """If a handler says several things, the last one is the answer, and all stand in `frames`."""
    reply = site.browser().event("lab", "many", ref=7)
    frames = reply.json["frames"]
    assert [f["data"] for f in frames] == ["first", "there", {"kept": "twice"}, None, "last"]
    assert [f.get("state") for f in frames] == [None, "busy", "idle", None, None]
    assert {**frames[-1], "frames": frames, "ref": 7} == reply.json


def test_an_async_handler(site: Site) -> None:
    """A coroutine is awaited before the answer."""
    reply = site.browser().event("lab", "later", 1)
    assert [frame["data"] for frame in reply.json["frames"]] == [{"kept": 1}, "awaited"]


def test_nothing_said(loop: Site) -> None:
    """A handler that says nothing is answered by 202, for HTTP always answers."""
    assert loop.browser().event("lab", "nothing").json == {"status": 202, "data": None}
    assert loop.browser().event("lab", "nothing", ref=1).json == {
        "status": 202,
        "data": None,
        "ref": 1,
    }


@pytest.mark.parametrize(
    ("event", "more", "http_status", "status", "reason"),
    [
        ("fly", {}, 409, 402, "no_event"),
        ("stop", {}, 409, 402, "no_event"),
        ("page", {}, 409, 402, "no_event"),
        ("open_vault", {}, 409, 400, "guard"),
        ("stray", {}, 409, 400, "no_edge"),
        ("ping", {"rev": 1}, 409, 400, "stale_rev"),
        ("unlock", {"data": {"key": "bad"}}, 422, 400, "validation"),
        ("enter", {"data": {"key": "good"}}, 422, 400, "validation"),
        ("boom", {}, 500, 405, "crashed"),
        ("unsayable", {}, 500, 405, "crashed"),
        ("unsayable_move", {}, 500, 405, "crashed"),
        ("odd_status", {}, 500, 405, "crashed"),
        ("odd_status_move", {}, 500, 405, "crashed"),
        ("ping", {"rev": "0"}, 400, 403, "invalid_payload"),
        ("ping", {"more": 1}, 400, 403, "invalid_payload"),
        ("", {}, 400, 403, "invalid_payload"),
    ],
)
def test_refusals(
    loop: Site, event: str, more: dict[str, Any], http_status: int, status: int, reason: str
) -> None:
    """A refusal has a status of HTTP beside the frame's; the next event is answered as ever."""
    browser = loop.browser()
    reply = browser.event("lab", event, ref="r", **more)
    frame = checked(reply.body, "ErrorFrame")
    assert (reply.status, frame["status"], frame["data"]["reason"]) == (http_status, status, reason)
    assert frame["ref"] == "r"
    assert SECRET not in reply.body.decode()
    assert "object at 0x" not in reply.body.decode()
    assert browser.event("lab", "ping", rev=0).json["data"] == "pong"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nope",
        b"[]",
        b"null",
        b"\xff",
        b"{",
        b'{"data":1}',
        b'{"event":"ping","data":NaN}',
    ],
)
def test_what_is_no_frame(loop: Site, body: bytes) -> None:
    """A body that is no frame is 400."""
    reply = raw(loop.browser(), body)
    assert reply.status == 400
    assert checked(reply.body, "ErrorFrame")["data"]["reason"] == "invalid_payload"


def test_a_run_that_has_ended(loop: Site) -> None:
    """Where a run has ended, an edge is no event any more."""
    browser = loop.browser()
    for page, to in (("cart", "address"), ("address", "payment"), ("payment", "done")):
        assert browser.post(f"/{page}", to=to).status < 400
    state = browser.state("checkout")
    assert (state["state"], state["events"]) == ("done", [])
    assert browser.event("checkout", "back").status == 409


def test_a_frame_that_is_too_large(site: Site) -> None:
    """A body over FSM_MAX_MESSAGE_SIZE is 413, whether or not it says how long it is."""
    browser = site.browser()
    body = json.dumps({"event": "echo", "data": "x" * 200_000}).encode()
    assert raw(browser, body).status == 413
    connection = http.client.HTTPConnection(LOOPBACK, site.port, timeout=PATIENCE)
    parts = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    try:
        connection.request("POST", "/fsm/lab/event", parts, JSON, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server may answer, and close, before all is sent
    finally:
        connection.close()
    fits = {"event": "echo", "data": "x" * 60_000}
    assert raw(browser, json.dumps(fits).encode()).json["data"] == fits["data"]


# -- pages of other sites -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"],
)
def test_what_a_form_can_send(loop: Site, kind: str) -> None:
    """A body of a type that a page of another site can post without asking runs no event."""
    browser = loop.browser()
    browser.state("lab")
    body = json.dumps({"event": "start", "data": None}).encode()
    reply = raw(browser, body, {"Content-Type": kind} if kind else {})
    assert reply.status == 415
    assert checked(reply.body, "Problem")["reason"] == "not_json"
    assert browser.state("lab")["rev"] == 0


def test_json_with_a_charset(loop: Site) -> None:
    """The content type may have parameters."""
    body = json.dumps({"event": "ping", "data": None}).encode()
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert raw(loop.browser(), body, kind).json["data"] == "pong"


@pytest.fixture
def guarded(sites: Sites) -> Site:
    """The app with Flask-WTF's CSRFProtect."""
    return sites.get("loop", CSRF=True)


def test_beside_csrf_protection(guarded: Site) -> None:
    """With Flask-WTF's CSRFProtect events need no token of its own; pages need theirs."""
    browser = guarded.browser(origin=guarded.origin)
    assert browser.post("/cart", a="1").status == 400
    assert browser.event("lab", "start").status == 200
    with browser.websocket("lab") as client:
        assert client.receive()["state"] == "busy"
        assert client.ask("stop")["state"] == "idle"


def test_the_endpoint_guards_itself(guarded: Site) -> None:
    """The endpoint that CSRFProtect lets alone still refuses other sites and forms."""
    browser = guarded.browser(origin="https://evil.example")
    assert browser.event("lab", "start").status == 403
    browser.origin = None
    assert browser.event("lab", "start", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert (
        raw(browser, b'{"event":"start","data":null}', {"Content-Type": "text/plain"}).status == 415
    )
    assert browser.state("lab")["rev"] == 0


# -- pages and sockets --------------------------------------------------------------------------


@pytest.fixture(params=["memory://", "session", "sqlite", "redis"])
def kept(request: pytest.FixtureRequest, sites: Sites, fresh_store: Callable[[str], str]) -> Site:
    """The app on each kind of store."""
    store = request.param
    if store in ("sqlite", "redis"):
        store = sites.once(f"store {store}", lambda: fresh_store(request.param))
    return sites.get("loop", FSM_STORE_URL=store)


def page_and_socket(site: Site) -> None:
    browser = site.browser()
    with browser.websocket("checkout") as client, browser.curl_events("checkout") as stream:
        assert client.receive()["state"] == stream.receive()["state"] == "cart"
        assert browser.post("/cart", item="book").status < 400
        for frame in (client.receive(), stream.receive()):
            assert (frame["state"], frame["rev"], frame["data"]) == ("address", 1, None)
            assert "ref" not in frame
            assert "book" not in json.dumps(frame)
        assert client.ask("fill", "Main Street", ref=1)["state"] == "payment"
        assert stream.receive()["data"] == {"street": "Main Street"}
        seen = browser.get("/payment")
        assert seen.json["rev"] == 2
        assert seen.json["data"]["address"] == {"street": "Main Street"}
        assert browser.event("checkout", "back", ref="b").json["state"] == "address"
        assert client.receive() == {**stream.receive()}
        assert browser.get("/payment").status == 303
        assert browser.get("/address").json["rev"] == 3
        assert client.ask("peek", rev=3)["data"]["cart"] == {"item": "book"}
    assert browser.state("checkout")["rev"] == 3


def test_page_and_socket(site: Site) -> None:
    """What a page does reaches sockets and streams; what these do the next page knows."""
    page_and_socket(site)


def test_page_and_socket_on_each_store(kept: Site) -> None:
    """So it is on each kind of store."""
    page_and_socket(kept)


def test_an_event_reaches_the_sockets(site: Site) -> None:
    """What HTTP does is told to sockets and streams as a frame like any other, without its ref."""
    browser = site.browser()
    with browser.websocket("lab") as client, browser.curl_events("lab") as stream:
        client.receive()
        stream.receive()
        browser.event("lab", "many", ref="mine")
        told = [client.receive() for _ in range(5)]
        assert told == [stream.receive() for _ in range(5)]
        assert [frame["data"] for frame in told] == [
            "first",
            "there",
            {"kept": "twice"},
            None,
            "last",
        ]
        assert not any("ref" in frame for frame in told)
        browser.event("lab", "boom")
        browser.event("lab", "nothing")
        client.silent()


def test_an_app_that_turns_it_off(sites: Sites) -> None:
    """With FSM_LIVE=False there are no endpoints, and pages work as ever."""
    browser = sites.get("loop", FSM_LIVE=False).browser()
    assert browser.get("/fsm/lab/state").status == 404
    assert browser.event("lab", "ping").status == 404
    assert browser.post("/cart", a="1").status < 400


def test_another_prefix(sites: Sites) -> None:
    """The endpoints lie under FSM_URL_PREFIX."""
    browser = sites.get("loop", FSM_URL_PREFIX="/live").browser()
    assert browser.get("/live/lab/state").status == 200
    assert browser.get("/fsm/lab/state").status == 404
    with browser.websocket(path="/live/lab/ws") as client:
        assert client.receive()["state"] == "idle"


# -- several flows of one session ---------------------------------------------------------------


@pytest.fixture
def several(sites: Sites, fresh_store: Callable[[str], str]) -> Site:
    """The app on a database, with machines that have several flows."""
    store = sites.once("store sqlite", lambda: fresh_store("sqlite"))
    return sites.get("loop", FSM_STORE_URL=store)


def test_flows_by_key(several: Site) -> None:
    """Of a machine with `many` the query says which flow is meant, at each endpoint."""
    browser = several.browser()
    begun = [browser.post("/basket").json["location"] for _ in range(2)]
    first, second = (location.partition("flow=")[2] for location in begun)
    with (
        browser.websocket("orders", flow=first) as one,
        browser.websocket("orders", flow=second) as two,
    ):
        assert one.receive()["state"] == two.receive()["state"] == "packed"
        assert one.ask("send_off")["state"] == "sent"
        assert browser.event("orders", "send_off", flow=second).json["rev"] == 2
        assert two.receive()["state"] == "sent"
        assert two.ask("return")["rev"] == 3
    assert browser.get("/fsm/orders/state", flow=first).json["state"] == "sent"
    assert browser.get("/packed", flow=second).json["rev"] == 3
    stranger = several.browser()
    assert stranger.get("/fsm/orders/state", flow=first).status == 404
    with pytest.raises(InvalidStatus) as caught:
        stranger.websocket("orders", flow=first)
    assert caught.value.response.status_code == 404


def test_flows_by_an_argument(several: Site) -> None:
    """Of a machine with `many="number"` that argument says it."""
    browser = several.browser()
    with browser.websocket(path="/fsm/parcels/ws?number=5") as five:
        assert five.receive()["state"] == "here"
        assert five.ask("move", "Rome")["data"] == {"to": "Rome"}
    assert browser.get("/fsm/parcels/state", number=5).json["state"] == "away"
    assert browser.get("/fsm/parcels/state", number=6).json["state"] == "here"
    assert browser.get("/fsm/parcels/state").status == 404


def test_a_fault_of_the_app_is_one_at_each_endpoint(caplog: pytest.LogCaptureFixture) -> None:
    """As on a page: it is in the log, and its text, which is for the developer, is not told."""
    app = Flask("faulty")
    app.secret_key = SECRET
    fsm = FlaskFSM(app, Machine("m", [("a", "b")]))

    @fsm.subject
    def subject() -> str:
        raise ConfigError("The key of the vault is 4711.")

    for endpoint in ("state", "events"):
        several = {"wsgi.multithread": True}
        answer = app.test_client().get(f"/fsm/m/{endpoint}", environ_overrides=several)
        assert answer.status_code == 500
        assert "4711" not in answer.text
        assert "4711" in caplog.text
        caplog.clear()
