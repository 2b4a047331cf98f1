"""The protocol on a websocket, by a real client, on each engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..clients import PATIENCE
from ..store_servers import Valkey
from .apps import SECRET
from .frames import checked
from .serving import Browser, Site, Sites, Socket, until

PONG = {"status": 200, "data": "pong"}


def lab(site: Site, browser: Browser | None = None, **options: Any) -> Socket:
    """A socket on the laboratory, of a new browser if none is given, after its first frame."""
    made = (browser or site.browser()).websocket("lab", **options)
    made.receive()
    return made


def plain(frame: dict[str, Any]) -> dict[str, Any]:
    """A frame without what differs from client to client."""
    return {name: value for name, value in frame.items() if name not in ("id", "ref")}


def alive(socket: Socket, state: str = "idle", rev: int = 0) -> None:
    """Check that the connection works, and that the flow stands there."""
    frame = socket.ask("ping", ref="alive")
    assert plain(frame) == PONG
    assert frame["ref"] == "alive"
    refusal = socket.ask("ping", rev=10**6, ref="where")
    assert (refusal["data"]["state"], refusal["data"]["rev"]) == (state, rev)


# -- joining ----------------------------------------------------------------------------------


def test_a_client_gets_the_state_first(site: Site) -> None:
    """The first frame is the state frame, with the events of handlers and of named edges."""
    with site.browser().websocket("lab") as client:
        frame = client.receive()
    assert plain(frame) == {
        "state": "idle",
        "events": [
            *("ping", "echo", "look", "boom", "nothing", "many", "later", "keep", "hush"),
            *(
                "unlock",
                "burgle",
                "stray",
                "unsayable",
                "unsayable_move",
                "odd_status",
                "odd_status_move",
                "returned",
                "half_done",
                "ask_oneself",
                "start_anew",
            ),
            *("start", "open_vault", "enter"),
        ],
        "status": 200,
        "data": None,
        "rev": 0,
    }
    assert "id" in frame


def test_the_handshake_names_the_flow(site: Site) -> None:
    """A new client's cookie is set by the handshake, so that it comes back to the same flow."""
    browser = site.browser()
    with lab(site, browser) as client:
        client.ask("start")
    assert browser.cookies
    with browser.websocket("lab") as client:
        assert client.receive()["state"] == "busy"


def test_the_path_of_a_machine(site: Site) -> None:
    """A machine is served at the path that it was given, and at its common one."""
    browser = site.browser()
    with lab(site, browser) as client:
        client.ask("start")
    with browser.websocket(path="/lab/socket") as client:
        assert client.receive()["state"] == "busy"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/fsm/none/ws", 404),
        ("/fsm/lab/ws?group_id=closed", 403),
        ("/fsm/lab/ws?group_id=", 400),
        ("/fsm/lab/ws?" + "&".join(f"group_id=ops{number}" for number in range(17)), 400),
    ],
)
def test_an_endpoint_stays_closed(site: Site, path: str, status: int) -> None:
    """What can't be joined is refused before the handshake, by a problem document.

    A browser does not show that to its page, which may ask for it without a handshake.
    """
    with pytest.raises(InvalidStatus) as caught:
        site.browser().websocket(path=path)
    assert caught.value.response.status_code == status
    problem = checked(caught.value.response.body, "Problem")
    assert problem["status"] == status
    asked = site.browser().get(path)
    assert (asked.status, asked.json) == (status, problem)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Upgrade": None}, 426),
    ],
)
def test_a_faulty_handshake(site: Site, changed: dict[str, str | None], status: int) -> None:
    """What is no handshake of RFC 6455 is answered by HTTP, naming the version that is spoken."""
    given: dict[str, str | None] = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        **changed,
    }
    headers = {name: value for name, value in given.items() if value is not None}
    reply = site.browser().request("GET", "/fsm/lab/ws", headers=headers)
    assert reply.status == status
    if status == 426:
        assert reply.headers["Sec-WebSocket-Version"] == "13"


def test_who_asks_without_a_handshake(site: Site) -> None:
    """Is told whether a stream and POSTs can take the place of the websocket."""
    for machine, reason in (("lab", "bad_handshake"), ("light", "websocket_only")):
        reply = site.browser().get(f"/fsm/{machine}/ws")
        assert (reply.status, checked(reply.body, "Problem")["reason"]) == (426, reason)


# -- refusals ---------------------------------------------------------------------------------

INVALID: list[tuple[str | bytes, Any]] = [
    ("", None),
    ("nope", None),
    ("{", None),
    ('{"event": "ping", "data": NaN}', None),
    ('{"event": "ping", "data": [-1e999]}', None),
    ('{"event": "ping", "data": 1} {}', None),
    ("[" * 50_000, None),
    ('{"a":' * 10_000, None),
    ("[]", None),
    ('"ping"', None),
    ("null", None),
    ("1", None),
    ("{}", None),
    ('{"ref": 5}', 5),
    ('{"data": 1, "ref": "r"}', "r"),
    ('{"event": 1, "data": 1, "ref": false}', False),
    ('{"event": "", "data": 1}', None),
    ('{"event": null, "data": 1}', None),
    (json.dumps({"event": "e" * 256, "data": 1, "ref": 0}), 0),
    ('{"event": "ping", "data": 1, "more": 2, "ref": 7}', 7),
    ('{"event": "ping", "data": 1, "ref": [1]}', None),
    ('{"event": "ping", "data": 1, "ref": {"a": 1}}', None),
    (json.dumps({"event": "ping", "data": 1, "ref": "r" * 129}), None),
    ('{"event": "ping", "data": 1, "ref": 1e400}', None),
    ('{"event": "ping", "data": 1, "rev": -1, "ref": 1}', 1),
    ('{"event": "ping", "data": 1, "rev": "0", "ref": 1}', 1),
    ('{"event": "ping", "data": 1, "rev": true, "ref": 1}', 1),
    ('{"event": "ping", "data": 1, "rev": 0.0, "ref": 1}', 1),
    (b'{"event": "ping", "data": 1}', None),
    (b"\xff\x00", None),
]


def test_what_is_no_frame_is_answered(site: Site) -> None:
    """Each of many invalid payloads is answered by 403, with its ref if that can be told."""
    with lab(site) as client:
        for message, ref in INVALID:
            client.send_text(message)
            frame = client.receive()
            assert frame["status"] == 403, message
            assert frame["data"]["reason"] == "invalid_payload"
            assert frame.get("ref") == ref, message
            assert ("ref" in frame) == (ref is not None)
            assert plain(client.ask("ping")) == PONG
        alive(client)


REFUSED: list[tuple[str, Any, int, str]] = [
    ("no such event", None, 402, "no_event"),
    ("stop", None, 402, "no_event"),  # of another state
    ("page", None, 402, "no_event"),  # an edge of pages has no event
    ("idle", None, 402, "no_event"),
    ("\ud800", None, 402, "no_event"),
    ("open_vault", None, 400, "guard"),
    ("burgle", None, 400, "guard"),
    ("enter", {"key": "good"}, 400, "validation"),  # of an edge: it takes no data
    ("unlock", {"key": "bad"}, 400, "validation"),
    ("unlock", None, 400, "validation"),
    ("stray", None, 400, "no_edge"),
]


def test_what_is_refused_is_answered(site: Site) -> None:
    """Unknown events, guards, validators and missing edges answer with their reason."""
    with lab(site) as client:
        for event, data, status, reason in REFUSED:
            frame = client.ask(event, data, ref=event[:9])
            assert (frame["status"], frame["data"]["reason"]) == (status, reason), event
            assert frame["ref"] == event[:9]
            assert frame["data"]["message"]
            assert "id" not in frame
            alive(client)


def test_a_validator_says_why_not(site: Site) -> None:
    """The messages of a validator come with their fields."""
    with lab(site) as client:
        frame = client.ask("unlock", {"key": "bad"})
        assert frame["data"]["fields"] == {"key": ["This key does not fit."]}
        assert frame["data"]["messages"] == []
        assert client.ask("unlock", {"key": "good"})["state"] == "office"


def test_a_handler_that_raises(site: Site) -> None:
    """A crash is 405; its client learns nothing of it, the log everything, others nothing."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        before = site.log.count("LookupError: " + SECRET)
        frame = client.ask("boom", ref=1)
        assert frame["status"] == 405
        assert frame["data"]["reason"] == "crashed"
        assert frame["ref"] == 1
        alive(client)
        assert [plain(other.receive())] == [PONG]
        other.silent()
        text = json.dumps(client.frames + other.frames)
    assert SECRET not in text
    assert "LookupError" not in text
    assert site.log.count("LookupError: " + SECRET) == before + 1
    assert "The handler of the event 'boom' of machine 'lab' failed." in site.log


def test_a_handler_that_raises_after_a_move(site: Site) -> None:
    """What was committed before the crash stands and is told."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        client.send("half_done", ref=1)
        state, crash = client.receive(), client.receive()
        assert (state["state"], state["rev"], crash["status"]) == ("busy", 1, 405)
        assert other.receive()["state"] == "busy"
        alive(client, "busy", 1)


def test_an_event_within_an_event_of_the_same_flow(site: Site) -> None:
    """It would wait for itself, so it is refused at once, and the log says what to do."""
    with lab(site) as client:
        client.ask("start")
        client.ask("stop")
        assert client.ask("ask_oneself")["status"] == 405
        alive(client, "idle", 2)
    assert "call flow.transition() in the handler of an event" in site.log


def test_a_store_that_is_away(engine: str) -> None:
    """A socket's event and a program's are told that they can be sent again; then they work."""
    with (
        Valkey() as server,
        Site(engine, FSM_STORE_URL=server.url, FSM_STORE_TIMEOUT=1) as site,
        lab(site, browser := site.browser()) as client,
    ):
        client.ask("start")
        server.kill()
        frame = client.ask("stop", ref=1)
        assert (frame["status"], frame["data"]["reason"]) == (405, "unavailable")
        reply = browser.event("lab", "stop")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert reply.json["data"]["reason"] == "unavailable"
        assert "The handler of" not in site.log
        for endpoint in ("state", "events", "ws"):
            assert browser.get(f"/fsm/lab/{endpoint}").status == 503
        assert "ConnectionError" in site.log  # at most once each second
        server.start()
        browser = site.browser()
        with lab(site, browser) as other:
            assert other.ask("start")["state"] == "busy"
        client.send("look", ref=2)  # what was not kept durably is gone, and that is said
        assert client.closed() == 4404


@pytest.mark.parametrize("event", ["unsayable", "unsayable_move", "odd_status", "odd_status_move"])
def test_a_handler_that_says_what_is_no_json(site: Site, event: str) -> None:
    """What JSON has no form for is the app's fault, and so is what is no status: 405, no move."""
    with lab(site) as client:
        frame = client.ask(event, ref=1)
        assert frame["status"] == 405
        assert "object at 0x" not in json.dumps(frame)
        alive(client)


def test_a_handler_that_returns_its_transition(site: Site) -> None:
    """It is told once, like any other."""
    with lab(site) as client:
        client.send("returned", ref=1)
        frame = client.receive()
        assert (frame["state"], frame["status"], frame["data"]) == ("busy", 200, "there")
        client.silent()


def test_refusals_are_for_one_client(site: Site) -> None:
    """Other sockets of the flow hear nothing of a refusal."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        for event in ("fly", "burgle", "boom"):
            client.ask(event, ref=1)
        client.send_text("nope")
        client.receive()
        other.silent()


# -- ref, rev, and nothing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "ref", [0, 1, -1, 1.5, "", "r", "é\u2028\ud800", True, False, 2**62, "r" * 128]
)
def test_ref_is_echoed(sites: Sites, ref: Any) -> None:
    """Whichever scalar a client calls its event comes back with the answer."""
    with lab(sites.get("loop")) as client:
        frame = client.ask("ping", ref=ref)
        assert frame["ref"] == ref
        assert type(frame["ref"]) is type(ref)
        assert client.ask("start", ref=ref)["ref"] == ref
        assert client.ask("fly", ref=ref)["ref"] == ref


def test_a_null_ref_is_none(sites: Sites) -> None:
    """A ref of null is echoed by none."""
    with lab(sites.get("loop")) as client:
        assert "ref" not in client.ask("ping", ref=None)


def test_ref_goes_to_who_asked_only(site: Site) -> None:
    """State and data frames reach all sockets of the flow; only the asking one sees its ref."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        for event in ("ping", "start"):
            mine = client.ask(event, ref="mine")
            theirs = other.receive()
            assert mine["ref"] == "mine"
            assert "ref" not in theirs
            assert plain(mine) == plain(theirs)
            assert mine["id"] == theirs["id"]


def test_rev_is_a_precondition(site: Site) -> None:
    """An event at another rev does nothing, and is told where the flow is; at its rev it runs."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        assert other.ask("start", rev=0)["rev"] == 1
        assert client.receive()["rev"] == 1
        for rev in (0, 2, 10**30):
            frame = client.ask("stop", rev=rev, ref=rev if rev < 9 else None)
            assert (frame["status"], frame["data"]["reason"]) == (400, "stale_rev")
            assert (frame["data"]["state"], frame["data"]["rev"]) == ("busy", 1)
        assert client.ask("stop", rev=1)["rev"] == 2
        assert client.ask("ping", rev=None)["data"] == "pong"


def test_rev_comes_before_the_event(site: Site) -> None:
    """A stale client is told so, also of an event that is unknown by now."""
    with lab(site) as client:
        client.ask("start")
        assert client.ask("start", rev=0)["data"]["reason"] == "stale_rev"
        assert client.ask("start", rev=1)["data"]["reason"] == "no_event"


def test_a_handler_that_does_nothing(site: Site) -> None:
    """Nothing is sent to anybody; 202 to who gave a ref."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        client.send("nothing")
        client.silent()
        assert client.ask("nothing", ref=1) == {"status": 202, "data": None, "ref": 1}
        assert plain(other.receive()) == PONG
        other.silent()


# -- what handlers say --------------------------------------------------------------------------


def test_several_frames_of_one_handler(site: Site) -> None:
    """What a handler says arrives in order, with the ref on each frame."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        client.send("many", ref="m")
        mine = [client.receive() for _ in range(5)]
        theirs = [other.receive() for _ in range(5)]
    told = [(f.get("state"), f["status"], f["data"], f.get("rev")) for f in mine]
    assert told == [
        (None, 201, "first", None),
        ("busy", 200, "there", 1),
        ("idle", 200, {"kept": "twice"}, 2),
        (None, 200, None, None),
        (None, 200, "last", None),
    ]
    assert [f["ref"] for f in mine] == ["m"] * 5
    assert [plain(f) for f in mine] == [plain(f) for f in theirs]
    assert not any("ref" in f for f in theirs)


def test_an_async_handler(site: Site) -> None:
    """A coroutine may move the flow after it has waited, and return something."""
    with lab(site) as client:
        assert client.ask("later", 5)["state"] == "busy"
        assert client.receive()["data"] == "awaited"
        assert client.ask("look")["data"]["data"] == {"idle": {"kept": 5}}


def test_what_is_replied(site: Site) -> None:
    """The frame of a move has the data that the handler keeps, or what it replies instead."""
    for event, data, status in (("keep", {"kept": [1, "a"]}, 203), ("hush", None, 200)):
        with lab(site) as client:
            frame = client.ask(event, [1, "a"])
            assert (frame["state"], frame["data"], frame["status"]) == ("busy", data, status)
            assert client.ask("look")["data"]["data"] == {"idle": {"kept": [1, "a"]}}


@pytest.mark.parametrize(
    "data",
    ["text", "é\u2028\U0001f600", "\ud800", 0, 1.5, True, [], {}, {"a": [None, {"b": "c"}]}],
)
def test_any_json_is_data(site: Site, data: Any) -> None:
    """Whatever JSON a client sends reaches the handler, and what it returns the client."""
    with lab(site) as client:
        assert client.ask("echo", data)["data"] == data


def test_letters_are_sent_as_utf8(site: Site) -> None:
    """Letters that a client sends take no more bytes on their way back, by each kind of reply."""
    browser = site.browser()
    text = "\x7fé漢😀" * 1_000
    size = len(text.encode())
    with lab(site, browser) as client:
        client.send("echo", text)
        assert size < len(client.connection.recv(decode=False)) < size + 300
    assert size < len(browser.event("lab", "echo", text).body) < size + 300
    assert "é漢" in browser.event("lab", "é漢").body.decode()


@pytest.mark.parametrize("compression", ["deflate", None])
def test_large_frames(site: Site, compression: Any) -> None:
    """A frame below the limit comes through, packed or not, whole or in parts."""
    text = "".join(chr(65 + number * 7919 % 57) for number in range(60_000))
    with lab(site, compression=compression) as client:
        assert client.ask("echo", text)["data"] == text
        frame = json.dumps({"event": "echo", "data": text})
        client.connection.send([frame[:1], frame[1:30_000], frame[30_000:]])
        assert client.receive()["data"] == text


# -- edges with an event ------------------------------------------------------------------------


def test_an_edge_takes_no_data(site: Site) -> None:
    """An edge with an event is sendable; what the client sends along reaches nobody."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        frame = client.ask("start", {"idle": {"kept": "mine"}, "key": "good"})
        assert (frame["state"], frame["data"], frame["rev"]) == ("busy", None, 1)
        assert "mine" not in json.dumps(other.receive())
        assert client.ask("look")["data"]["data"].get("idle", {}) == {}
        assert other.receive()["data"]["data"].get("idle", {}) == {}
        assert client.ask("stop")["state"] == "idle"


def test_edges_of_pages_are_no_events(site: Site) -> None:
    """Neither the target nor the source of a page's edge can be sent, nor is it offered."""
    with site.browser().websocket("checkout") as client:
        assert client.receive()["events"] == ["ping"]
        for event in ("address", "cart", "payment", "cart -> address"):
            assert client.ask(event, {"street": "x"})["status"] == 402
        assert client.ask("ping")["data"] == "pong"


# -- the end of a connection --------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["deflate", None])
def test_a_frame_that_is_too_large(site: Site, compression: Any) -> None:
    """A message of 200 KiB ends the connection with 1009, also if it takes few bytes packed."""
    with lab(site, compression=compression) as client:
        with suppress(ConnectionClosed):  # while it is being sent
            client.send_text(json.dumps({"event": "echo", "data": "x" * 200 * 1_024}))
        assert client.closed() == 1009
    with lab(site) as client:
        alive(client)


def test_parts_that_are_too_large_together(site: Site) -> None:
    """The limit is one of messages, not of the frames that they come in."""
    with lab(site) as client:
        with suppress(ConnectionClosed):  # while it is being sent
            client.connection.send("x" * 1_000 for _ in range(200))
        assert client.closed() == 1009


def test_a_client_that_leaves(site: Site) -> None:
    """The server answers a close frame with the same code."""
    with lab(site) as client:
        client.connection.close(code=1001, reason="bye")
        assert client.connection.close_code == 1001
        assert client.connection.protocol.close_rcvd is not None


def test_ping_is_answered(site: Site) -> None:
    """A ping of the client gets its pong, with what it held."""
    with lab(site) as client:
        assert client.connection.ping(b"here").wait(PATIENCE)
        alive(client)


def test_a_protocol_error(site: Site) -> None:
    """Bytes that are no frame end the connection with 1002, a text that is no UTF-8 with 1007."""
    for data, code in (
        (b"\xf3\x80\x00\x00\x00\x00", 1002),
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
    ):
        with lab(site) as client:
            client.connection.socket.sendall(data)
            assert client.closed() == code


def test_reset_closes_the_sockets(site: Site) -> None:
    """When the flow is started anew, whether by a page or by a handler, its sockets get 1012."""
    browser = site.browser()
    with lab(site, browser) as client, lab(site, browser) as other:
        client.ask("start")
        client.ask("stop")
        client.send("start_anew")
        assert client.closed() == 1012
        assert other.closed() == 1012
    with browser.websocket("lab") as client:
        frame = client.receive()
        assert (frame["state"], frame["rev"]) == ("idle", 0)


@pytest.mark.parametrize("store", ["memory://", "session", "sqlite"])
def test_after_a_reset_the_new_run_goes_on(
    sites: Sites, fresh_store: Callable[[str], str], store: str
) -> None:
    """Who comes back after a handler has started the flow anew can go on at each endpoint."""
    if store == "sqlite":
        store = sites.once("store sqlite", lambda: fresh_store("sqlite"))
    browser = sites.get("loop", FSM_STORE_URL=store).browser()
    with browser.websocket("lab") as client:
        client.receive()
        client.ask("start")
        client.ask("stop")
        client.send("start_anew")
        assert client.closed() == 1012
    with browser.websocket("lab") as client:
        assert client.receive()["rev"] == 0
        assert client.ask("start")["rev"] == 1
    assert browser.state("lab")["state"] == "busy"
    assert browser.event("lab", "stop").json["rev"] == 2


def test_a_flow_that_is_gone(sites: Sites) -> None:
    """A session whose flow the store has lost begins anew on its socket."""
    browser = sites.get("loop").browser()
    browser.event("lab", "start")
    browser.port = sites.get("threads").port  # another server, whose store knows nothing of it
    with browser.websocket("lab") as client:
        frame = client.receive()
        assert (frame["state"], frame["rev"]) == ("idle", 0)
        assert client.ask("keep", 5)["rev"] == 1
    with browser.websocket("lab") as client:
        assert client.receive()["state"] == "busy"


def test_reset_by_a_page_closes_the_sockets(site: Site) -> None:
    """After `fsm.reset()` in a view the sockets of that flow come back to a blank one."""
    browser = site.browser()
    browser.post("/cart", a="1")
    with browser.websocket("checkout") as client:
        assert client.receive()["state"] == "address"
        browser.get("/reset")
        assert client.closed() == 1012
    with browser.websocket("checkout") as client:
        assert client.receive()["state"] == "cart"


# -- ids, since and gaps ------------------------------------------------------------------------


def test_ids_count_the_messages_of_a_channel(site: Site) -> None:
    """Each message has the next id of one epoch; a refusal, which is for one client, has none."""
    with site.browser().websocket("lab") as client:
        ids = [client.receive()["id"]]
        for event in ("ping", "start", "ping"):
            assert "id" not in client.ask("fly")
            ids.append(client.ask(event)["id"])
    epochs, offsets = zip(*(id.rsplit("-", 1) for id in ids), strict=True)
    assert len(set(epochs)) == 1
    assert list(map(int, offsets)) == list(range(int(offsets[0]), int(offsets[0]) + 4))


def test_what_was_missed_is_sent(site: Site) -> None:
    """Who comes back with `since` gets what came after it, once and in order, and no gap."""
    browser = site.browser()
    with lab(site, browser) as other:
        with lab(site, browser) as client:
            id = client.ask("echo", "seen")["id"]
        other.receive()
        sent = [other.ask("echo", number) for number in range(5)]
        sent += [other.ask("start"), other.ask("echo", "at last")]
        with browser.websocket("lab", since=id) as client:
            missed = [client.receive() for _ in sent]
            assert [plain(f) for f in missed] == [plain(f) for f in sent]
            assert [f["id"] for f in missed] == [f["id"] for f in sent]
            client.silent()


def test_nothing_missed(site: Site) -> None:
    """Who has missed nothing gets the state and no gap."""
    browser = site.browser()
    with lab(site, browser) as other:
        id = other.ask("ping")["id"]
        with browser.websocket("lab", since=id) as client:
            frame = client.receive()
            assert (frame["state"], frame.get("gap"), frame["id"]) == ("idle", None, id)


@pytest.mark.parametrize("since", ["", "nonsense", "unknown-0", "unknown-5,more-1", "x" * 2_000])
def test_a_gap_is_told(site: Site, since: str) -> None:
    """An id that leads nowhere is answered by the full state, and by the word that some is lost."""
    browser = site.browser()
    with lab(site, browser) as other:
        other.ask("start")
        with browser.websocket("lab", since=since) as client:
            frame = client.receive()
            assert (frame["state"], frame["rev"], frame["gap"]) == ("busy", 1, True)
            client.silent()


def test_an_id_ahead_is_a_gap(site: Site) -> None:
    """An id of what has not been said yet is none."""
    browser = site.browser()
    with lab(site, browser) as other:
        epoch, _, offset = other.ask("ping")["id"].rpartition("-")
        with browser.websocket("lab", since=f"{epoch}-{int(offset) + 1}") as client:
            assert client.receive()["gap"] is True


def test_more_is_missed_than_is_kept(sites: Sites) -> None:
    """Beyond FSM_REPLAY_LIMIT the full state comes, with the word that some is lost."""
    site = sites.get("loop", FSM_REPLAY_LIMIT=5)
    browser = site.browser()
    with lab(site, browser) as other:
        ids = [other.ask("echo", number)["id"] for number in range(10)]
        with browser.websocket("lab", since=ids[4]) as client:
            assert [client.receive()["data"] for _ in range(5)] == [5, 6, 7, 8, 9]
        with browser.websocket("lab", since=ids[3]) as client:
            frame = client.receive()
            assert (frame["state"], frame["gap"]) == ("idle", True)
            client.silent()


# -- several at once ----------------------------------------------------------------------------


def test_one_event_after_the_other(site: Site) -> None:
    """Events that are sent without waiting are answered in their order."""
    with lab(site) as client:
        for number in range(100):
            client.send("echo", number, ref=number)
        found = [client.receive() for _ in range(100)]
    assert [frame["ref"] for frame in found] == list(range(100))


@pytest.mark.parametrize("bus", ["memory", "redis"])
def test_refusals_wait_their_turn(
    sites: Sites, engine: str, bus: str, fresh_store: Callable[[str], str]
) -> None:
    """What is refused, crashes or says nothing is answered after what was sent before it."""
    url = sites.once("order", lambda: fresh_store("redis")) if bus == "redis" else "memory://"
    site = sites.get(engine, FSM_BUS_URL=url)
    events = {"start": 200, "fly": 402, "stop": 200, "nothing": 202, "ping": 200, "boom": 405}
    expected: list[tuple[Any, int]] = []
    got = []
    with lab(site) as client:
        for _ in range(10):
            for event, status in events.items():
                client.send(event, ref=event)
                expected.append((event, status))
            client.send_text(b"binary")
            client.send("half_done", ref="half")
            client.send_text('{"ref": "none"}')
            client.send("stop", ref="stop")
            expected += [(None, 403), ("half", 200), ("half", 405), ("none", 403), ("stop", 200)]
        while len(got) < len(expected):
            frame = client.receive()
            got.append((frame.get("ref"), frame["status"]))
        client.silent()
    assert got == expected


def test_a_bus_that_forgets(engine: str, fresh_store: Callable[[str], str]) -> None:
    """What was answered while Redis was away, and is lost with it, is told all the same, once."""
    with (
        Valkey() as bus,
        Site(engine, FSM_BUS_URL=bus.url, FSM_STORE_URL=fresh_store("sqlite")) as site,
        lab(site) as client,
    ):
        client.ask("start")
        for round in range(4):
            bus.kill()
            events = {"stop": 200, "fly": 402, "start": 200, "ping": 200, "boom": 405}
            for event in events:
                client.send(event, ref=event)
            if round % 2:
                # What waits for Redis is there before who listens, or after.
                time.sleep(0.5)
            bus.start()
            got: list[tuple[str, int]] = []
            while len(got) < len(events):
                frame = client.receive()
                if "ref" in frame:
                    got.append((frame["ref"], frame["status"]))
            assert got == list(events.items())
            client.send("ping", ref=f"on {round}")
            assert client.until(f"on {round}")[-1]["data"] == "pong"
            client.silent()


def test_clients_that_race(site: Site) -> None:
    """Of several clients that send at one rev, one wins; all see the same states."""
    browser = site.browser()
    with lab(site, browser) as one, lab(site, browser) as other:
        won: list[str] = []
        for rev in range(0, 40, 2):
            together = threading.Barrier(2)
            answers: dict[str, list[dict[str, Any]]] = {}

            def race(
                name: str,
                client: Socket,
                rev: int = rev,
                together: threading.Barrier = together,
                answers: dict[str, list[dict[str, Any]]] = answers,
            ) -> None:
                together.wait(PATIENCE)
                client.send("start", rev=rev, ref=name)
                answers[name] = client.until(name)

            racers = [
                threading.Thread(target=race, args=pair)
                for pair in (("one", one), ("other", other))
            ]
            for racer in racers:
                racer.start()
            for racer in racers:
                racer.join()
            winners = [name for name in answers if answers[name][-1]["status"] == 200]
            assert len(winners) == 1
            won += winners
            one.send("stop", ref="back")
            one.until("back")
            other.send("ping", ref="here")
            assert any(f.get("rev") == rev + 2 for f in other.until("here"))
            one.receive()
    assert len(won) == 20


def test_a_client_may_close_while_it_is_answered(site: Site) -> None:
    """Clients that go without waiting for their answers leave nothing behind that fails."""
    browser = site.browser()
    for _ in range(20):
        client = lab(site, browser)
        for _ in range(5):
            client.send("echo", "x" * 1_000)
        client.cut()
    with lab(site, browser) as last:  # which is told what the others asked for, too
        last.send("ping", ref="last")
        assert plain(last.until("last")[-1]) == PONG


# -- beside others ------------------------------------------------------------------------------


def test_a_sock_of_the_app(sites: Sites, engine: str) -> None:
    """An app's own Sock of flask-sock serves beside ours, each with its own options."""
    site = sites.get(engine, SOCK={"max_message_size": 1_000})
    browser = site.browser()
    with browser.websocket(path="/own") as own, lab(site, browser) as ours:
        own.connection.send("hello")
        assert own.connection.recv(PATIENCE) == "hello"
        text = "x" * 50_000
        assert ours.ask("echo", text)["data"] == text
        own.connection.send("limit")
        assert own.connection.recv(PATIENCE) == "1000"
        alive(ours)


def test_nothing_fails_unseen(sites: Sites, engine: str) -> None:
    """However sockets and streams end, the server's log has no error."""
    site = sites.get(engine, FSM_SSE_RETRY=1_001)
    browser = site.browser()
    for way in ("close", "cut"):
        client = lab(site, browser)
        client.ask("ping")
        getattr(client, way)()
        client.close()
    with lab(site) as client:
        client.send("start_anew")
        assert client.closed() == 1012
    for _ in range(2):
        with browser.curl_events("lab") as stream:
            stream.receive()
            browser.event("lab", "ping")
            stream.receive()
    browser.get("/reset")
    until(lambda: browser.get("/fsm/health").json["connections"] == 0)
    assert browser.get("/ping").status == 200
    assert "Traceback" not in site.log
    assert "ERROR" not in site.log
