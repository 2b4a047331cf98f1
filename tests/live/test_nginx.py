"""Behind nginx: as the documentation has it, and as people have it who only began."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ..clients import LOOPBACK, PATIENCE
from .nginx import DOCUMENTED, FIRST, WITH_HOST, Nginx, nginx_or_skip
from .node_client import ScriptClient
from .serving import Browser, Site, Sites, until
from .test_stream_readers import READERS, Reader, heard_at_once, news_heard_at_once

Before = Callable[[str], int]
CONFIGS = {"documented": DOCUMENTED, "first": FIRST, "with host": WITH_HOST}


@pytest.fixture(params=["loop", "threads", "gevent"])
def behind(request: pytest.FixtureRequest, sites: Sites) -> Site:
    """The app on each engine, which gunicorn serves."""
    return sites.get(request.param)


@pytest.fixture
def before(behind: Site, proxies: Callable[[Site, str], int]) -> Before:
    """Return the port of an nginx before it, with one of the configurations."""
    return lambda config: proxies(behind, config)


@pytest.fixture(scope="module")
def proxies() -> Iterator[Callable[[Site, str], int]]:
    """One nginx for all tests that ask alike."""
    nginx_or_skip()
    made: dict[tuple[int, str], Nginx] = {}
    with ExitStack() as stack:

        def proxy(site: Site, config: str) -> int:
            key = site.port, config
            if key not in made:
                made[key] = stack.enter_context(Nginx(CONFIGS[config], site.port))
            return made[key].port

        yield proxy


@pytest.fixture
def client() -> Iterator[ScriptClient]:
    """fsm.js in Node, which comes back at once."""
    client = ScriptClient()
    client.do("hurry")
    yield client
    client.stop()


@pytest.mark.parametrize("config", ["documented", "first"])
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_each_event_at_once(before: Before, config: str, reader: Reader) -> None:
    """A stream passes as it comes, though the usual configuration buffers and speaks HTTP/1.0."""
    browser = Browser(before(config))
    heard_at_once(browser, reader)
    news_heard_at_once(browser, reader)


@pytest.mark.parametrize("config", ["documented", "first"])
def test_a_stream_by_curl(before: Before, config: str) -> None:
    """curl gets a stream without Content-Length, and each event at once."""
    browser = Browser(before(config))
    with browser.curl_events("lab") as stream:
        stream.receive()
        for number in range(3):
            browser.event("lab", "echo", number)
            assert stream.receive()["data"] == number
        assert stream.header("content-length") is None


def test_a_websocket(before: Before) -> None:
    """With the documented configuration it opens, and is answered."""
    with connect(f"ws://{LOOPBACK}:{before('documented')}/fsm/lab/ws") as client:
        assert json.loads(client.recv(PATIENCE))["state"] == "idle"
        client.send(json.dumps({"event": "echo", "data": "é"}))
        assert json.loads(client.recv(PATIENCE))["data"] == "é"


def test_a_websocket_that_does_not_pass(before: Before) -> None:
    """The usual configuration passes no websocket on; what comes is answered with 426."""
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{LOOPBACK}:{before('first')}/fsm/lab/ws")
    assert refused.value.response.status_code == 426
    assert json.loads(refused.value.response.body or b"{}")["status"] == 426


@pytest.mark.parametrize(
    ("config", "transport"), [("documented", "websocket"), ("with host", "sse"), ("first", "sse")]
)
def test_fsm_js(before: Before, client: ScriptClient, config: str, transport: str) -> None:
    """It finds the way that is open, follows the flow, and its events are answered."""
    port = before(config)
    user = Browser(port)
    user.state("traffic")
    client.do("cookie", value=user.cookie_header["Cookie"])
    client.connect(f"http://{LOOPBACK}:{port}")
    while client.told("open")["transport"] != transport:
        pass
    client.told("state")
    client.send("a", "next", {"n": 1})
    assert client.told("answer")["state"] == "yellow"
    assert user.event("traffic", "next").status == 200
    until(lambda: client.look()["state"] == "red")


def test_pages_need_their_host(before: Before, behind: Site) -> None:
    """Without the Host that the browser sent, its events get 403, and the log says why."""
    port = before("first")
    page = Browser(port, origin=f"http://{LOOPBACK}:{port}")
    reply = page.event("lab", "start")
    assert (reply.status, reply.json["reason"]) == (403, "origin")
    until(lambda: f"http://{LOOPBACK}:{port}" in behind.log)
    page = Browser(before("with host"), origin=f"http://{LOOPBACK}:{before('with host')}")
    assert page.event("lab", "start").status == 200
