"""Event streams in the clients that people use, of which some ask for blocks of many bytes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import requests
from flask import Flask, Response
from httpx_sse import connect_sse
from sseclient import SSEClient
from websockets.sync.client import connect

from flask_fsm import FlaskFSM, Machine

from ..clients import LOOPBACK, PATIENCE
from .serving import Browser, Site, Sites

Reader = Callable[[str, Mapping[str, str]], Iterator[str]]
ENCODINGS = {"Accept-Encoding": "gzip, deflate, br, zstd"}


# -- the clients: each yields the data of events ---------------------------------------------------


def by_requests(url: str, headers: Mapping[str, str]) -> Iterator[str]:
    """`iter_lines` of requests, which asks for 512 bytes."""
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
        for line in response.iter_lines():
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").decode()


def by_blocks(url: str, headers: Mapping[str, str]) -> Iterator[str]:
    """Blocks of 64 KiB of requests."""
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
        for block in response.iter_content(65_536):
            for line in block.splitlines():
                if line.startswith(b"data: "):
                    yield line.removeprefix(b"data: ").decode()


def by_sseclient(url: str, headers: Mapping[str, str]) -> Iterator[str]:
    """sseclient-py above requests, as its README has it."""
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
        for event in SSEClient(response).events():
            yield event.data


def by_httpx(url: str, headers: Mapping[str, str]) -> Iterator[str]:
    """httpx-sse, which also takes comments for events."""
    with (
        httpx.Client(headers=headers, timeout=PATIENCE) as client,
        connect_sse(client, "GET", url) as source,
    ):
        for event in source.iter_sse():
            if event.data:
                yield event.data


def by_urllib(url: str, headers: Mapping[str, str]) -> Iterator[str]:
    """Lines of the standard library."""
    request = urllib.request.Request(url, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        for line in response:
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").rstrip(b"\n").decode()


READERS: list[Reader] = [by_requests, by_blocks, by_sseclient, by_httpx, by_urllib]


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__)
def reader(request: pytest.FixtureRequest) -> Reader:
    """Each of them."""
    read: Reader = request.param
    return read


def frames(read: Reader, browser: Browser, path: str, **query: str) -> Iterator[dict[str, Any]]:
    """Yield the frames of a stream as they come."""
    url = f"{browser.url}{path}?{urlencode(query)}"
    headers = {**browser.cookie_header, **ENCODINGS}
    for text in read(url, headers):
        yield json.loads(text)


def news_heard_at_once(browser: Browser, read: Reader) -> None:
    """Check that each message of the app's channel is there before the next one is sent."""
    with closing(read(f"{browser.url}/news", ENCODINGS)) as stream:
        assert next(stream) == "welcome"
        for number in range(3):
            browser.get(f"/news/{number}")
            assert next(stream) == str(number)


def heard_at_once(browser: Browser, read: Reader, **query: str) -> None:
    """Check that each event is there before the next one happens."""
    browser.state("lab")
    with closing(frames(read, browser, "/fsm/lab/events", **query)) as stream:
        assert next(stream)["state"] == "idle"
        for number in range(3):
            browser.event("lab", "echo", number)
            assert next(stream)["data"] == number


# -- what they get ---------------------------------------------------------------------------------


def test_each_event_at_once(site: Site, reader: Reader) -> None:
    """A client that asks for blocks of bytes does not wait until they are full."""
    heard_at_once(site.browser(), reader)


def test_each_event_of_a_view_of_the_app_at_once(site: Site, reader: Reader) -> None:
    """So it is with the stream of a channel that a view answers with."""
    news_heard_at_once(site.browser(), reader)


@pytest.mark.parametrize("path", ["/fsm/lab/events", "/news"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_chunks(site: Site, engine: str, path: str, version: str) -> None:
    """They are for HTTP/1.1; a client of HTTP/1.0, as nginx is unless told, gets none."""
    # Werkzeug's development server sends chunks of an app's own streams to everybody.
    chunked = version == "HTTP/1.1" or (engine, path) == ("werkzeug", "/news")
    with socket.create_connection((LOOPBACK, site.port), PATIENCE) as client:
        client.sendall(f"GET {path} {version}\r\nHost: h\r\n\r\n".encode())
        received, body = b"", b""
        while b"3000" not in body:
            received += client.recv(65_536)
            head, _, body = received.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in head.lower()) is chunked
    begun = rb"(?i)(0*d\r\n)?retry: 3000"
    found = re.match(begun, body)
    assert found
    assert bool(found[1]) is chunked


@pytest.mark.parametrize("version", [10, 11])
def test_the_end(site: Site, version: int) -> None:
    """A stream that the server ends is over for the client, and not broken off."""
    browser = site.browser()
    browser.get("/login/ada")
    connection = http.client.HTTPConnection(LOOPBACK, site.port, timeout=PATIENCE)
    connection._http_vsn = version  # type: ignore[attr-defined]
    connection._http_vsn_str = f"HTTP/1.{version - 10}"  # type: ignore[attr-defined]
    with closing(connection):
        connection.request("GET", "/fsm/lab/events", headers=browser.cookie_header)
        answer = connection.getresponse()
        assert answer.readline() == b"retry: 3000\n"
        browser.get("/close/ada")
        assert answer.read().endswith(b"\n\n")


# -- what an app does to all its responses ---------------------------------------------------------

BODY = {"Content-Encoding": "gzip", "Content-Length": "7", "ETag": '"x"', "Content-MD5": "x"}
HOPS = {"Transfer-Encoding": "gzip", "Connection": "keep-alive", "Keep-Alive": "9", "Upgrade": "x"}


@pytest.mark.parametrize("headers", [BODY, HOPS], ids=["of a body", "of a connection"])
def test_headers_that_do_not_fit(site: Site, reader: Reader, headers: dict[str, str]) -> None:
    """What an app says of each response is not said of a stream where it would not be true."""
    given = json.dumps(headers)
    heard_at_once(site.browser(), reader, set_headers=given)
    with site.browser().curl_events("lab", query={"set_headers": given}) as stream:
        stream.receive()
        assert stream.all_of("connection") == ["close"]
        assert stream.all_of("transfer-encoding") == ["chunked"]
        for name in {*BODY, *HOPS} - {"Connection", "Transfer-Encoding"}:
            assert stream.header(name.lower()) is None


def test_other_headers(site: Site) -> None:
    """They reach the client."""
    given = json.dumps({"X-Own": "1", "Cache-Control": "no-store"})
    with site.browser().curl_events("lab", query={"set_headers": given}) as stream:
        stream.receive()
        assert (stream.header("x-own"), stream.header("cache-control")) == ("1", "no-store")


def test_headers_of_a_websocket(site: Site) -> None:
    """An app that sets such headers does not break the handshake either."""
    given = urlencode({"set_headers": json.dumps(BODY | HOPS)})
    with connect(f"ws://{LOOPBACK}:{site.port}/fsm/lab/ws?{given}") as client:
        assert json.loads(client.recv(PATIENCE))["state"] == "idle"
        assert client.response is not None
        assert client.response.headers["Connection"] == "Upgrade"
        assert "Content-Encoding" not in client.response.headers


@pytest.mark.parametrize("engine", ["loop", "gevent"])
def test_flask_compress(sites: Sites, engine: str, reader: Reader) -> None:
    """An app that compresses event streams, as it may have been told to, gets them as they are."""
    browser = sites.get(engine, COMPRESS=True).browser()
    heard_at_once(browser, reader)
    news_heard_at_once(browser, reader)


@pytest.mark.parametrize("header", ["Content-Encoding", "Content-Length", "Transfer-Encoding"])
def test_where_the_server_keeps_its_socket(header: str) -> None:
    """What the server iterates over has no such header of an app either."""
    app = Flask("dressed")
    app.secret_key = "a key"
    FlaskFSM(app, Machine("m", [("a", "b")]))

    @app.after_request
    def set_header(response: Response) -> Response:
        response.headers[header] = "gzip"
        return response

    several = {"wsgi.multithread": True}
    with closing(app.test_client().get("/fsm/m/events", environ_overrides=several)) as reply:
        assert header not in reply.headers
        assert next(reply.response) == b"retry: 3000\n\n"
