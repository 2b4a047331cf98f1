"""Origin: pages of other sites open no socket, read no stream, and send no event."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from .frames import checked
from .serving import Site, Sites

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
HOST = "app.example:8000"
ENDPOINTS = ("ws", "post", "events", "state")
ALLOWED = ("https://friend.example", "http://other.example:8080")


class Asking(NamedTuple):
    """Who asks: the headers beside Host."""

    origin: str | None = None
    fetch_site: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        given = {"Host": HOST, "Origin": self.origin, "Sec-Fetch-Site": self.fetch_site}
        return {name: value for name, value in given.items() if value is not None}


def knock(site: Site, endpoint: str, headers: dict[str, str]) -> int:
    """Return the status of a request at an endpoint; a refusal is a problem document."""
    browser = site.browser()
    if endpoint == "post":
        body = json.dumps({"event": "start", "data": None}).encode()
        reply = browser.request(
            "POST", "/fsm/lab/event", body, {**headers, "Content-Type": "application/json"}
        )
        if reply.status == 200:
            assert reply.json["rev"] == 1
    elif endpoint == "events":
        reply = browser.request("HEAD", "/fsm/lab/events", headers=headers)
    else:
        more = HANDSHAKE if endpoint == "ws" else {}
        if more:  # and who asks why is told the same
            asked = browser.copy().request("GET", "/fsm/lab/ws", headers=headers)
        reply = browser.request("GET", f"/fsm/lab/{endpoint}", headers={**headers, **more})
    if reply.status == 403:
        assert browser.cookies == {}
        if endpoint != "events":
            problem = checked(reply.body, "Problem")
            assert problem["reason"] == "origin"
            if by_page := {"Origin", "Sec-Fetch-Site"} & set(headers):
                assert (headers.get("Origin") or "another site") in problem["detail"]
                assert headers.get("Host", "") in problem["detail"]
            else:
                assert "FSM_REQUIRE_ORIGIN" in problem["detail"]
        if endpoint == "ws" and by_page:
            assert (asked.status, asked.body) == (403, reply.body)
        return 403
    if endpoint == "ws":
        assert asked.status == 426
    assert reply.status == (101 if endpoint == "ws" else 200)
    return 200


OWN = [
    Asking("http://app.example:8000"),
    Asking("http://APP.example:8000"),
    Asking("http://app.example:8000", "same-origin"),
    Asking(),
    Asking(None, "same-origin"),
    Asking(None, "none"),
]
STRANGERS = [
    Asking("https://evil.example"),
    Asking("http://evil.app.example:8000"),
    Asking("http://example:8000"),
    Asking("http://app.example.evil.example:8000"),
    Asking("http://app.example:8000.evil.example"),
    Asking("http://app.example:8000@evil.example"),
    Asking("http://app.example"),
    Asking("http://app.example:8001"),
    Asking("null"),
    Asking("null", "same-origin"),
    Asking(""),
    Asking("file://"),
    Asking("app.example:8000"),
    Asking("http://[::1"),
    Asking("chrome-extension://app.example:8000"),
    Asking(None, "cross-site"),
    Asking(None, "same-site"),
    Asking(None, "nonsense"),
]


def named(asking: Any) -> str:
    return f"{asking.origin}-{asking.fetch_site}" if isinstance(asking, Asking) else str(asking)


@pytest.fixture
def loop(sites: Sites) -> Site:
    return sites.get("loop")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("asking", OWN, ids=named)
def test_own_pages_and_programs(loop: Site, endpoint: str, asking: Asking) -> None:
    """A page of the same origin is let in, and so is a program, which names none."""
    assert knock(loop, endpoint, asking.headers) == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("asking", STRANGERS, ids=named)
def test_pages_of_other_sites(loop: Site, endpoint: str, asking: Asking) -> None:
    """Another site, a sibling subdomain, another port and `null` are refused with 403."""
    assert knock(loop, endpoint, asking.headers) == 403


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_each_engine_refuses(site: Site, endpoint: str) -> None:
    """The endpoints behave the same on each engine."""
    assert knock(site, endpoint, {"Origin": "https://evil.example"}) == 403
    assert knock(site, endpoint, {"Origin": site.origin}) == 200


def test_who_asks_why_opens_nothing(sites: Sites) -> None:
    """A browser names no Origin when it gets something, so that is not demanded of who asks why."""
    site = sites.get("loop", FSM_REQUIRE_ORIGIN=True)
    reply = site.browser().request("GET", "/fsm/lab/ws", headers={"Host": HOST})
    assert (reply.status, reply.json["reason"]) == (426, "bad_handshake")
    assert reply.headers["Cache-Control"] == "no-store"
    assert "Cookie" in reply.headers["Vary"]


def test_the_log_says_which_site(sites: Sites) -> None:
    """Once, as it may be the app's own site behind a proxy: then that is to be changed."""
    site = sites.get("loop", FSM_REQUIRE_ORIGIN=False)
    assert "another site" not in site.log
    for _ in range(3):
        assert knock(site, "ws", {"Host": HOST, "Origin": "https://front.example"}) == 403
    assert site.log.count("A page of 'https://front.example' was refused at 'app.example:80") == 1
    for number in range(40):
        knock(site, "ws", {"Host": HOST, "Origin": f"https://{number}.example"})
    assert site.log.count(" was refused at ") == 16


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_allowed_origins(sites: Sites, endpoint: str) -> None:
    """FSM_ALLOWED_ORIGINS lets in those that it names, to the letter, and no others."""
    site = sites.get("loop", FSM_ALLOWED_ORIGINS=ALLOWED)
    for origin in ALLOWED:
        assert knock(site, endpoint, Asking(origin).headers) == 200
    for asking in (*OWN[:2], *OWN[3:]):
        assert knock(site, endpoint, asking.headers) == 200
    for origin in (
        "http://friend.example",
        "https://a.friend.example",
        "http://other.example",
        "null",
    ):
        assert knock(site, endpoint, Asking(origin).headers) == 403


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_programs_may_be_refused(sites: Sites, endpoint: str) -> None:
    """With FSM_REQUIRE_ORIGIN who names no origin is refused; pages of this site are not."""
    site = sites.get("loop", FSM_REQUIRE_ORIGIN=True)
    assert knock(site, endpoint, Asking("http://app.example:8000").headers) == 200
    assert knock(site, endpoint, Asking("https://evil.example").headers) == 403
    # A browser names no origin when it gets from its own site, but says that it is.
    assert knock(site, endpoint, Asking(None, "same-origin").headers) == 200
    assert knock(site, endpoint, {}) == 403


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_scheme_counts(loop: Site, endpoint: str) -> None:
    """Behind TLS a page that came without it is another site's."""
    behind = {"X-Forwarded-Proto": "https"}  # which gunicorn takes from a proxy on this machine
    assert knock(loop, endpoint, Asking("https://app.example:8000").headers | behind) == 200
    assert knock(loop, endpoint, Asking("http://app.example:8000").headers | behind) == 403
    # Where nothing tells the server that it is behind TLS, both are pages of this host.
    assert knock(loop, endpoint, Asking("https://app.example:8000").headers) == 200


def test_the_health_is_for_all(loop: Site) -> None:
    """Whoever asks for the health gets it: it tells nothing of anybody."""
    headers = {"Origin": "https://evil.example"}
    assert loop.browser().request("GET", "/fsm/health", headers=headers).status == 200


def test_allowed_sites_may_read(sites: Sites) -> None:
    """Their pages may read what they get, and are told beforehand what they may send (CORS)."""
    site = sites.get("loop", FSM_ALLOWED_ORIGINS=ALLOWED)
    for origin in (*ALLOWED, "https://evil.example"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        told = {}
        for method, path in (
            ("GET", "/fsm/lab/state"),
            ("GET", "/fsm/health"),
            ("GET", "/fsm/static/fsm.js"),
            ("HEAD", "/fsm/lab/events"),
            ("OPTIONS", "/fsm/lab/event"),
            ("GET", "/fsm/lab/resume/none"),
        ):
            reply = site.browser().request(method, path, headers=headers)
            told[path] = reply.headers.get("Access-Control-Allow-Origin")
            if path != "/fsm/lab/resume/none":
                assert "Origin" in reply.headers["Vary"]
        if origin in ALLOWED:
            assert told.pop("/fsm/lab/resume/none") is None
            assert set(told.values()) == {origin}
            reply = site.browser().request("OPTIONS", "/fsm/lab/event", headers=headers)
            assert reply.headers["Access-Control-Allow-Credentials"] == "true"
            assert "POST" in reply.headers["Access-Control-Allow-Methods"]
            assert "Content-Type" in reply.headers["Access-Control-Allow-Headers"]
        else:
            assert set(told.values()) == {None}


def test_other_sites_may_not_read(loop: Site) -> None:
    """No answer lets pages of another site read it (CORS)."""
    for path in ("/fsm/lab/state", "/fsm/health"):
        reply = loop.browser().request("GET", path, headers={"Origin": "http://app.example"})
        assert reply.headers.get("Access-Control-Allow-Origin") is None
