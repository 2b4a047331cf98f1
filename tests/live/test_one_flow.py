"""Page, socket, stream and program have one flow before its first step, whatever opens first."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

from .serving import Browser, Site, Sites

PATIENCE = 10


class PageCookies:
    """A client that takes cookies from pages only, as flask-sock's 101 may set none."""

    def __init__(self, site: Site) -> None:
        self._browser = site.browser()

    def page(self, path: str = "/cart") -> dict[str, Any]:
        """Open a page in a tab."""
        reply = self._browser.get(path)
        assert reply.status == 200
        found: dict[str, Any] = reply.json
        return found

    def other(self) -> Browser:
        """Return a client with the cookies of the pages so far, which learns none."""
        return self._browser.copy()


ORDERS = list(itertools.permutations(["socket", "stream", "program", "tab"]))


@pytest.mark.parametrize("order", ORDERS[::3])
def test_one_flow_whatever_opens_first(sites: Sites, order: tuple[str, ...]) -> None:
    client = PageCookies(sites.get("loop"))
    id = client.page()["id"]
    _use_all(client, order, id)


@pytest.mark.parametrize("kind", ["session", "sqlite"])
def test_one_flow_on_each_store(sites: Sites, kind: str, fresh_store: Callable[[str], str]) -> None:
    url = "session" if kind == "session" else sites.once(kind, lambda: fresh_store(kind))
    client = PageCookies(sites.get("loop", FSM_STORE_URL=url))
    _use_all(client, ("program", "socket", "tab", "stream"), client.page()["id"])


def test_one_flow_on_each_engine(site: Site) -> None:
    client = PageCookies(site)
    _use_all(client, ("socket", "tab", "stream", "program"), client.page()["id"])


def test_two_tabs_that_open_at_once(sites: Sites) -> None:
    """Both had no cookie when they asked: what they open then has the flow of the last answer."""
    site = sites.get("loop")
    first, second = site.browser(), site.browser()
    first.get("/cart")
    page = second.get("/cart").json
    first.keep_cookies([f"{name}={value}" for name, value in second.cookies.items()])
    with first.websocket("checkout") as one, second.websocket("checkout") as two:
        assert one.receive(PATIENCE)["state"] == two.receive(PATIENCE)["state"] == "cart"
        assert first.get("/cart").json["id"] == second.get("/cart").json["id"] == page["id"]
        assert first.post("/cart", book="1").status in (200, 303)
        assert one.receive(PATIENCE)["state"] == two.receive(PATIENCE)["state"] == "address"


def _use_all(client: PageCookies, order: tuple[str, ...], id: str) -> None:
    """Open all, in an order, then move the flow; each is told."""
    with ExitStack() as stack:
        opened: list[Any] = []
        for way in order:
            if way == "tab":
                assert client.page()["id"] == id
            elif way == "program":
                assert client.other().state("checkout")["rev"] == 0
            elif way == "socket":
                opened.append(stack.enter_context(client.other().websocket("checkout")))
            else:
                opened.append(stack.enter_context(client.other().curl_events("checkout")))
        for each in opened:
            assert each.receive(PATIENCE)["state"] == "cart"
        client.other().post("/cart", book="1")
        for each in opened:
            assert each.receive(PATIENCE)["state"] == "address"
        assert client.other().event("checkout", "fill", "Rose Lane").json["state"] == "payment"
        for each in opened:
            assert each.receive(PATIENCE)["state"] == "payment"


def test_a_page_that_is_only_shown_makes_no_record(
    sites: Sites, fresh_store: Callable[[str], str]
) -> None:
    """Its cookie names the flow, and the store knows nothing of it before the first step."""
    url = sites.once("sqlite", lambda: fresh_store("sqlite"))
    site = sites.get("loop", FSM_STORE_URL=url)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:

        def records() -> int:
            count: int = database.execute("select count(*) from fsm_flow").fetchone()[0]
            return count

        before = records()
        for _ in range(3):
            assert site.browser().get("/cart").status == 200
        assert records() == before
        client = site.browser()
        client.get("/cart")
        client.post("/cart", book="1")
        assert records() == before + 1
