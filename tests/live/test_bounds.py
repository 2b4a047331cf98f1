"""Bounds: whatever clients do, the memory and the places that they take on a server are limited."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from websockets.exceptions import InvalidStatus
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_fsm import FlaskFSM, Machine
from flask_fsm.testing import LiveServer

from ..clients import LOOPBACK, PATIENCE
from ..store_servers import Valkey
from .rawsocket import framed
from .serving import ENGINES as ENGINES_OF_SITES
from .serving import Browser, Site, Sites, Socket, until

MIB = 1 << 20
ENGINES = pytest.mark.parametrize("engine", ["loop", "threads", "gevent"])
BUSES = pytest.mark.parametrize("bus", ["memory://", "redis"])


class Memory:
    """The resident memory of a server's process, compared with what it was at first."""

    def __init__(self, site: Site) -> None:
        (pid,) = site.server.pids()
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak counts from now on
        self._first = self._read("VmRSS")

    def _read(self, name: str) -> int:
        status = (self._folder / "status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1_024

    @property
    def growth(self) -> int:
        """Return by how many bytes it has grown at the most."""
        return self._read("VmHWM") - self._first


def handshake(site: Site, path: str, **headers: str) -> bytes:
    """Return the bytes that open a websocket."""
    headers = {
        "Host": f"{LOOPBACK}:{site.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": b64encode(os.urandom(16)).decode(),
        **headers,
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def deaf(site: Site, browser: Browser, path: str) -> socket.socket:
    """Open a websocket with the browser's cookies, and read no more than the status."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    client.settimeout(PATIENCE)
    client.connect((LOOPBACK, site.port))
    client.sendall(handshake(site, path, **browser.cookie_header))
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


def health(site: Site) -> int:
    """Return how many connections the process has."""
    connections: Any = site.browser().get("/fsm/health").json["connections"]
    return int(connections)


# -- memory ----------------------------------------------------------------------------------------


@pytest.fixture
def limited(
    sites: Sites, engine: str, bus: str, fresh_store: Callable[[str], str]
) -> Iterator[Site]:
    """A server with much to replay, on each engine and with each bus."""
    url = fresh_store("redis") if bus == "redis" else bus
    with Site(engine, FSM_BUS_URL=url, FSM_REPLAY_BYTES=24 * MIB) as site:
        yield site


@ENGINES
@BUSES
def test_a_client_that_sends_much_and_comes_back_ten_times(limited: Site) -> None:
    """What it has missed is kept once, and no client that does not read gets a copy of it."""
    browser = limited.browser()
    text = "\x7f" * 65_000  # which JSON may escape to six times its size
    event = json.dumps({"event": "echo", "data": text}, ensure_ascii=False)
    ids = []
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(browser.websocket("lab"))
        client.receive()
        client.ask("ping")
        memory = Memory(limited)
        for _ in range(1_000):
            client.connection.send(event)
            frame = client.connection.recv(decode=False)
            ids.append(json.loads(b"{" + frame[frame.rindex(b'"id"') :])["id"])
        assert len(frame) < len(text) + 200
        for _ in range(10):
            # From there on all is kept.
            stack.enter_context(deaf(limited, browser, f"/fsm/lab/ws?since={ids[-360]}"))
        until(lambda: health(limited) == 11)
        client.ask("ping")
        assert memory.growth < 64 * MIB
        with browser.websocket("lab", since=ids[-360]) as again:
            for _ in range(359):
                assert again.receive()["data"] == text


# -- places ----------------------------------------------------------------------------------------


def refused(browser: Browser, machine: str = "lab", **options: Any) -> tuple[int, str]:
    """Return the status and the reason with which a websocket is refused, as are its explanation
    and a stream."""
    with pytest.raises(InvalidStatus) as caught:
        browser.websocket(machine, **options)
    response = caught.value.response
    found = {(response.status_code, json.loads(response.body)["reason"])}
    for path in ("ws", "events"):
        answer = browser.get(f"/fsm/{machine}/{path}")
        found.add((answer.status, answer.json["reason"]))
        assert int(answer.headers["Retry-After"]) > 0
    assert int(response.headers["Retry-After"]) > 0
    assert len(found) == 1, found
    return found.pop()


TOO_MANY = (429, "too_many_connections")


@pytest.mark.parametrize("engine", ENGINES_OF_SITES)
def test_a_flow_has_a_number_of_connections(sites: Sites, engine: str) -> None:
    """The next one gets 429 until another one ends; that is nothing to other visitors."""
    site = sites.get(engine, FSM_MAX_CONNECTIONS_PER_FLOW=3)
    browser, stranger = site.browser(), site.browser()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(browser.websocket("lab"))
        first.receive()
        stack.enter_context(browser.websocket("lab")).receive()
        stream = stack.enter_context(browser.curl_events("lab"))
        assert stream.receive()["state"] == "idle"
        assert refused(browser) == TOO_MANY
        assert stack.enter_context(stranger.websocket("lab")).receive()["state"] == "idle"
        assert browser.event("lab", "ping").status == 200
        first.close()
        until(lambda: browser.get("/fsm/lab/ws").status == 426)
        stack.enter_context(browser.websocket("lab")).receive()
        assert refused(browser) == TOO_MANY


def test_of_many_that_connect_at_once_no_more_are_served(sites: Sites) -> None:
    """However closely they come together, exactly as many as may be are let in."""
    site = sites.get("loop", FSM_MAX_CONNECTIONS_PER_FLOW=3)
    browser = site.browser()
    browser.get("/fsm/lab/state")
    browser.event("lab", "ping")
    served: list[Socket] = []

    def come() -> None:
        with contextlib.suppress(InvalidStatus):
            served.append(browser.copy().websocket("lab"))

    threads = [threading.Thread(target=come) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served) == 3
    for each in served:
        each.close()


def test_a_client_that_was_cut_takes_no_place(sites: Sites) -> None:
    """A flow whose clients were too slow can be followed again at once."""
    site = sites.get("loop", FSM_MAX_CONNECTIONS_PER_FLOW=2, FSM_QUEUE_BYTES=100_000)
    browser = site.browser()
    with browser.websocket("lab") as client:
        client.receive()
        slow = deaf(site, browser, "/fsm/lab/ws")
        assert refused(browser) == TOO_MANY
        until(lambda: client.ask("echo", "x" * 60_000) and not is_crowded(browser))
        browser.websocket("lab").close()
        slow.close()


def is_crowded(browser: Browser) -> bool:
    return browser.get("/fsm/lab/ws").status == 429


def test_flows_of_connections_are_not_counted(sites: Sites) -> None:
    """Where each socket has its own flow, a browser may open any number."""
    site = sites.get("loop", FSM_MAX_CONNECTIONS_PER_FLOW=3)
    browser = site.browser()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(browser.websocket("light"))


def test_an_address_has_a_number_of_connections(sites: Sites) -> None:
    """Whoever the clients behind it are; the log tells of a proxy that makes all of them one."""
    site = sites.get("loop", FSM_MAX_CONNECTIONS_PER_ADDRESS=2)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(site.browser().websocket("light"))
        stack.enter_context(site.browser().websocket("lab"))
        assert refused(site.browser()) == TOO_MANY
        assert "ProxyFix" not in site.log
        headers = {"X-Forwarded-For": "192.0.2.7"}
        assert refused(site.browser(), headers=headers) == TOO_MANY
        assert site.log.count("ProxyFix") == 1
        first.close()
        until(lambda: not is_crowded(site.browser()))


def test_behind_a_proxy_each_address_is_counted() -> None:
    """With ProxyFix, what the proxy says of the client counts."""
    app = Flask("proxied")
    app.config.update(SECRET_KEY="a key for tests", FSM_MAX_CONNECTIONS_PER_ADDRESS=1)
    FlaskFSM(app, Machine("lab", [("idle", "busy")], scope="connection"))
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1)  # type: ignore[method-assign]
    with LiveServer(app) as server, contextlib.ExitStack() as stack:
        for address in ("192.0.2.7", "192.0.2.8", "2001:db8::1", "2001:db8:0:1::1"):
            headers = {"X-Forwarded-For": address}
            stack.enter_context(server.client().websocket("lab", headers=headers))
        for address in ("192.0.2.7", "::ffff:192.0.2.8", "2001:db8::ffff:1"):
            with pytest.raises(InvalidStatus) as caught:
                server.client().websocket("lab", headers={"X-Forwarded-For": address})
            assert caught.value.response.status_code == 429


def test_a_bus_that_is_away() -> None:
    """Who asks why a websocket is refused is told what the handshake was told: 503."""
    with Valkey() as bus, Site("loop", FSM_BUS_URL=bus.url) as site:
        browser = site.browser()
        assert browser.get("/fsm/lab/ws").status == 426
        bus.kill()
        # Side by side, since each waits for the bus as long as may be.
        with ThreadPoolExecutor() as pool:
            handshake = pool.submit(site.browser().websocket, "lab")
            asked = pool.submit(site.browser().get, "/fsm/lab/ws")
            with pytest.raises(InvalidStatus) as caught:
                handshake.result()
        assert caught.value.response.status_code == asked.result().status == 503
        assert asked.result().json["reason"] == "unavailable"


def test_what_is_told_first(sites: Sites) -> None:
    """A stranger site before too many connections, and those before a server that is full."""
    site = sites.get("loop", FSM_MAX_CONNECTIONS=2, FSM_MAX_CONNECTIONS_PER_FLOW=2)
    browser = site.browser()
    with browser.websocket("lab") as one, browser.websocket("lab") as two:
        one.receive(), two.receive()
        assert refused(browser) == TOO_MANY
        assert refused(site.browser()) == (503, "full")
        for each in (browser, site.browser()):
            with pytest.raises(InvalidStatus) as caught:
                each.copy(origin="https://elsewhere.example").websocket("lab")
            assert caught.value.response.status_code == 403
            with pytest.raises(InvalidStatus) as caught:
                each.websocket("unknown")
            assert caught.value.response.status_code == 404


@pytest.mark.parametrize("engine", ["threads", "gevent"])
def test_no_thread_keeps_a_client_that_was_cut(sites: Sites, engine: str) -> None:
    """Its thread and its memory are free soon after the cut, although it reads nothing."""
    site = sites.get(engine, FSM_SEND_TIMEOUT=0.5, FSM_QUEUE_BYTES=16 * MIB)
    browser = site.browser()
    with browser.websocket("lab") as client, contextlib.ExitStack() as stack:
        client.receive()
        for _ in range(3):
            stack.enter_context(deaf(site, browser, "/fsm/lab/ws"))
        assert health(site) == 4
        # A connection of the loop lingers for longer than this waits.
        until(lambda: client.ask("echo", "x" * 60_000) and health(site) == 1)


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Origin": "https://elsewhere.example"}, b"403", b"FSM_ALLOWED_ORIGINS"),
        ({"Sec-WebSocket-Key": "short"}, b"400", b"16 bytes"),
    ],
)
@pytest.mark.parametrize("engine", ["loop", "threads", "gevent"])
def test_a_client_that_is_refused_and_sends_frames_holds_no_thread(
    engine: str, headers: dict[str, str], status: bytes, text: bytes
) -> None:
    """The server does not wait for the end of a request that does not come: others are served."""
    with Site(engine, threads=1) as site, contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.settimeout(PATIENCE)
            client.connect((LOOPBACK, site.port))
            client.sendall(handshake(site, "/fsm/lab/ws", **headers))
            assert client.recv(12) == b"HTTP/1.1 " + status
            client.sendall(framed(b"hello"))
            assert site.browser().get("/ping").status == 200
            answer = b""
            while data := receive(client):
                answer += data
            assert text in answer


def receive(client: socket.socket) -> bytes:
    """Return what comes next, or nothing once the connection has ended."""
    try:
        return client.recv(65_536)
    except ConnectionError:
        return b""
