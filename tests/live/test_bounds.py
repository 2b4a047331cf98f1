"""Bounds: whatever clients do, the memory and the places that they take on a server are limited."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..clients import LOOPBACK, PATIENCE
from .serving import Browser, Site, Sites, until

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


def deaf(site: Site, browser: Browser, path: str) -> socket.socket:
    """Open a websocket with the browser's cookies, and read no more than the status."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    client.settimeout(PATIENCE)
    client.connect((LOOPBACK, site.port))
    headers = {
        "Host": f"{LOOPBACK}:{site.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": b64encode(os.urandom(16)).decode(),
        **browser.cookie_header,
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


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


def health(site: Site) -> int:
    """Return how many connections the process has."""
    connections: Any = site.browser().get("/fsm/health").json["connections"]
    return int(connections)
