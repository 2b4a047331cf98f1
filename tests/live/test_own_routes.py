"""Routes of flask-sock of an app as endpoints: `fsm.live.serve(ws)`, and a Sock of its own."""

from __future__ import annotations

import json
import re
import time
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from flask_sock import Sock
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from flask_fsm import FlaskFSM, Machine
from flask_fsm.errors import ConfigError

from ..clients import LOOPBACK
from .own_routes import order_machine
from .rawsocket import RawSocket, framed
from .serving import Browser, Site, Sites, until

PATIENCE = 10
APP = "tests.live.own_routes:create_app()"


@pytest.fixture
def site(sites: Sites, engine: str) -> Site:
    """The app of own_routes.py on each engine."""
    return sites.get(engine, APP)


@pytest.fixture
def loop(sites: Sites) -> Site:
    """The app where it makes no difference what serves it."""
    return sites.get("loop", APP)


def ada(site: Site) -> Browser:
    browser = site.browser()
    browser.get("/login/ada")
    return browser


def closed(connection: ClientConnection) -> tuple[int, str]:
    """Return how the server has closed a connection that had no frame."""
    with pytest.raises(ConnectionClosed) as caught:
        connection.recv(PATIENCE)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def test_a_route_of_the_app_serves_the_machine(site: Site) -> None:
    """Its arguments are those of the flow, which is the same at each endpoint."""
    browser = ada(site)
    page = browser.get("/orders/7").json
    assert page["state"] == "open"
    with (
        browser.websocket(path="/orders/7/live") as client,
        browser.websocket(path="/orders/8/live") as other,
        browser.websocket(path="/fsm/order/ws?number=7") as usual,
    ):
        assert [each.receive(PATIENCE)["state"] for each in (client, other, usual)] == ["open"] * 3
        assert client.ask("arguments")["data"] == {"number": 7}
        usual.receive(PATIENCE)
        assert client.ask("send")["state"] == "sent"
        assert usual.receive(PATIENCE)["state"] == "sent"
        assert other.ask("echo", "alive")["data"] == "alive"


def test_the_decorators_of_the_route_guard_it(site: Site) -> None:
    """Who may not use the route gets no frame of the machine, but a close code for `abort(401)`."""
    with connect(f"ws://{LOOPBACK}:{site.port}/orders/7/live") as client:
        assert closed(client)[0] == 4401
    assert site.browser().get("/ping").status == 200


def test_what_is_sent_before_the_view_serves_is_heard(site: Site) -> None:
    """Messages of a hasty client, whole or in parts, are answered in their order and once."""
    # A client without a cookie gets a flow of its own.
    for _ in range(2):
        client = RawSocket(site.port, "/slow/9/live", deflate=True)
        texts = [json.dumps({"event": "echo", "data": number}) for number in range(4)]
        first, second = texts[2][:9].encode(), texts[2][9:].encode()
        client.socket.sendall(framed(texts[0].encode()) + framed(texts[1].encode()))
        client.socket.sendall(bytes([0x01]) + framed(first)[1:])
        time.sleep(0.1)  # within the time that the view takes
        client.socket.sendall(framed(second, opcode=0) + framed(texts[3].encode()))
        frames = [client.receive() for _ in range(5)]
        assert [frame.get("data") for frame in frames] == [None, 0, 1, 2, 3]
        client.close()


def test_clients_that_come_at_once_are_all_understood(engine: str) -> None:
    """Whatever compression each has agreed on before the route has served anybody."""
    with Site(engine, APP) as site, ExitStack() as stack:
        url = f"ws://{LOOPBACK}:{site.port}/slow/1/live"
        clients = [stack.enter_context(connect(url)) for _ in range(3)]
        for client in clients:
            for number in range(3):
                client.send(json.dumps({"event": "echo", "data": f"the same text {number}"}))
            texts = [client.recv(PATIENCE) for _ in range(4)]
            assert json.loads(texts[-1])["data"] == "the same text 2"


def test_a_view_may_speak_before_it_serves(site: Site) -> None:
    """What the view has received itself is no event."""
    for _ in range(2):
        with connect(f"ws://{LOOPBACK}:{site.port}/secret/3/live") as client:
            assert client.recv(PATIENCE) == "who?"
            client.send("ada")
            assert json.loads(client.recv(PATIENCE))["state"] == "open"
            client.send(json.dumps({"event": "echo", "data": "x" * 2_000}))
            assert json.loads(client.recv(PATIENCE))["data"] == "x" * 2_000


@pytest.mark.parametrize(
    ("path", "origin", "code", "text"),
    [
        ("/open/1/live", "https://evil.example", 4403, "evil.example"),
        ("/open/1/live?group_id=closed", None, 4403, "group"),
        ("/open/1/live?group_id=", None, 1008, "group name"),
    ],
)
def test_a_refusal_is_a_close_code(
    site: Site, path: str, origin: Any, code: int, text: str
) -> None:
    """The handshake is answered before the view runs, so that it is too late for a status."""
    with connect(f"ws://{LOOPBACK}:{site.port}{path}", origin=origin) as client:
        found, reason = closed(client)
    assert found == code
    assert text in reason
    # The view is told, too.
    until(lambda: site.browser().get("/count/SERVED").json == {"count": False}, PATIENCE)


def test_a_full_server_asks_to_come_back(sites: Sites) -> None:
    """Beyond FSM_MAX_CONNECTIONS a route of the app is closed with 1013."""
    site = sites.get("loop", APP, FSM_MAX_CONNECTIONS=1)
    with site.browser().websocket(path="/open/1/live") as client:
        client.receive(PATIENCE)
        with connect(f"ws://{LOOPBACK}:{site.port}/open/2/live") as other:
            assert closed(other)[0] == 1013


def test_a_machine_that_is_not_there_is_a_fault_of_the_app(loop: Site) -> None:
    """The log names it, and the client is told 1011."""
    with connect(f"ws://{LOOPBACK}:{loop.port}/nothing") as client:
        assert closed(client)[0] == 1011
    until(lambda: "found no machine 'nothing'" in loop.log)


def test_it_takes_no_thread_of_the_server_on_the_loop(sites: Sites) -> None:
    """More sockets than threads are served, and pages beside them."""
    site = sites.get("loop", APP, threads=3)
    browsers = [site.browser() for _ in range(8)]
    clients = [browser.websocket(path="/light") for browser in browsers]
    assert [client.receive(PATIENCE)["state"] for client in clients] == ["red"] * 8
    assert site.browser().get("/ping").status == 200
    assert site.browser().get("/fsm/health").json["connections"] == 8
    for client in clients:
        client.close()
    until(lambda: site.browser().get("/fsm/health").json["connections"] == 0)


def test_the_context_is_torn_down_before_the_connection_is_served(site: Site) -> None:
    """A database session of the view is not held as long as the connection is open."""
    browser = site.browser()
    before = browser.get("/count/TEARDOWNS").json["count"]
    with browser.websocket(path="/light") as client:
        client.receive(PATIENCE)
        # Of the first count, the socket, and this one, which has not ended.
        until(lambda: browser.get("/count/TEARDOWNS").json["count"] >= before + 2, 5)


@pytest.mark.parametrize("when", ["before", "between", "after", "given"])
@pytest.mark.parametrize("kind", ["loop", "gevent"])
def test_the_apps_own_routes_keep_their_options(sites: Sites, kind: str, when: str) -> None:
    """Whenever the app makes its Sock and sets the options, which are not those of a machine."""
    site = sites.get(kind, APP, SOCK=when)
    url = f"ws://{LOOPBACK}:{site.port}"
    for _ in range(2):
        with connect(f"{url}/own", subprotocols=["chat"]) as own:  # type: ignore[list-item]
            own.send("options")
            assert own.recv(PATIENCE) == "500 5 chat"
            own.send("x" * 501)
            assert closed(own)[0] == 1009
        long = {"event": "echo", "data": "x" * 5_000}
        for path in ("/open/1/live", "/fsm/order/ws?number=1"):
            with connect(url + path) as client:
                client.recv(PATIENCE)
                client.send(json.dumps(long))
                assert json.loads(client.recv(PATIENCE))["data"] == "x" * 5_000


def test_a_sock_of_the_app_makes_the_routes_of_the_machines(sites: Sites) -> None:
    """`FlaskFSM(sock=sock)`: what the app's Sock adds to each of its routes."""
    site = sites.get("loop", APP, SOCK="given")
    before = site.browser().get("/count/COUNT").json["count"] or 0
    with site.browser().websocket("light") as client:
        assert client.ask("change_to_green")["state"] in ("red", "green")
    assert site.browser().get("/count/COUNT").json["count"] == before + 1


def test_compression_keeps_no_context(site: Site) -> None:
    """Each message stands alone, so that no connection takes 300 KiB for what may come."""
    for path in ("/light", "/light", "/fsm/light/ws"):
        with connect(f"ws://{LOOPBACK}:{site.port}{path}") as client:
            assert client.response is not None
            agreed = client.response.headers["Sec-WebSocket-Extensions"]
    assert "client_no_context_takeover" in agreed
    with connect(f"ws://{LOOPBACK}:{site.port}/light") as client:
        assert client.response is not None
        again = client.response.headers["Sec-WebSocket-Extensions"]
    assert re.sub(r"\s", "", again) == re.sub(r"\s", "", agreed)


@pytest.mark.parametrize(
    "offer", ["permessage-deflate; server_max_window_bits=no", "permessage-deflate; x=\xff", ";;,"]
)
def test_an_offer_of_compression_that_makes_no_sense_is_declined(site: Site, offer: str) -> None:
    """The connection opens without compression."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Extensions": offer,
    }
    reply = site.browser().request("GET", "/fsm/light/ws", headers=headers)
    assert reply.status == 101
    assert "Sec-WebSocket-Extensions" not in reply.headers


def test_a_server_ends_at_once_with_such_connections(sites: Sites, engine: str) -> None:
    """It waits for no end of a socket pair, and tells its clients to come back."""
    with Site(engine, APP, SOCK="after") as site:
        client = site.browser().websocket(path="/light")
        client.receive(PATIENCE)
        site.terminate()
        if engine != "werkzeug":
            assert client.closed() == 1012


def test_a_route_of_the_app_that_ends_leaves_nothing(sites: Sites, engine: str) -> None:
    """The reader of a websocket that its view has closed ends, too, and so do its files."""
    site = sites.get(engine, APP, SOCK="plain")
    browser = site.browser()
    before = browser.get("/threads").json
    for _ in range(20):
        with connect(f"ws://{LOOPBACK}:{site.port}/short") as client:
            assert client.recv(PATIENCE) == "bye"

    def gone() -> bool:
        after = browser.get("/threads").json
        # The server may keep some threads of its own.
        return bool(after["count"] < before["count"] + 10 and after["files"] < before["files"] + 10)

    until(gone, PATIENCE)


def test_a_view_serves_a_websocket_once(site: Site) -> None:
    """A second call is that of a closed websocket; the first one is served."""
    with site.browser().websocket(path="/twice") as client:
        client.receive(PATIENCE)
        assert client.ask("change_to_green")["state"] == "green"
        assert site.browser().get("/fsm/health").json["connections"] == 1


def test_options_that_are_set_after_the_first_request(sites: Sites) -> None:
    """The first client of a route is asked to come back, and the log says what to do."""
    site = sites.get("loop", APP, SOCK="before", FSM_SSE_RETRY=2_001)
    site.browser().get("/late")
    with connect(f"ws://{LOOPBACK}:{site.port}/light") as client:
        assert closed(client)[0] == 1012
    assert "SOCK_SERVER_OPTIONS was set after the first request" in site.log
    with site.browser().websocket(path="/light") as socket:
        assert socket.receive(PATIENCE)["state"] == "red"


def test_what_serve_does_not_understand() -> None:
    app = Flask("own")
    app.config.update(SECRET_KEY="a key for tests, long", FSM_STORE_URL="memory://")
    fsm = FlaskFSM(order_machine(), sock=Sock(app))
    fsm.add(Machine("second", [("a", "b")]))
    fsm.init_app(app)
    ws: Any = None
    number: Any = 5
    with app.test_request_context():
        with pytest.raises(TypeError, match="takes a Machine or its name, not 5"):
            fsm.live.serve(ws, number)
        with pytest.raises(ConfigError, match="no machine 'third' in this app"):
            fsm.live.serve(ws, "third")
    with pytest.raises(ConfigError, match="sock= takes the app's Sock"):
        FlaskFSM(order_machine(), sock=number)
