"""Load by one visitor: what waits for a flow holds up few threads, and nobody else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from werkzeug.test import TestResponse

from flask_fsm.stores.cache import GRACE
from flask_fsm.testing import LiveServer

from ..apps import ANSWERS, Shop, Visitor, fields_in
from .test_races import statuses, tabs

AT_ONCE = 2.0  # seconds; without the limit an answer takes FSM_LOCK_TIMEOUT, which is 10


class Held:
    """A shop in which one form is being served, until `finish`; the other ones are sent to it."""

    def __init__(self, shop: Shop) -> None:
        self.serving, self.finish = threading.Event(), threading.Event()
        self.answers: list[TestResponse] = []
        self._threads: list[threading.Thread] = []
        self._shop = shop
        shop.before_advance = self._wait

    def _wait(self, page: str) -> None:
        self.serving.set()
        assert self.finish.wait(timeout=30)

    def send(self, call: Callable[[], TestResponse]) -> None:
        """Make a request in a thread of its own, and wait until it holds or awaits the lock."""
        before = self.users
        thread = threading.Thread(target=lambda: self.answers.append(call()))
        thread.start()
        self._threads.append(thread)
        until = time.monotonic() + 20
        while self.users == before and thread.is_alive():
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(GRACE * 1.5)

    @property
    def users(self) -> int:
        """How many requests hold or await the lock of a flow."""
        flows = list(self._shop.app.extensions["fsm"].cache._flows.values())
        return sum(flow.users for flow in flows)

    def end(self) -> list[TestResponse]:
        """Let the view finish, and return all answers in the order in which they came."""
        self.finish.set()
        for thread in self._threads:
            thread.join(timeout=30)
        return self.answers


@contextmanager
def held(shop: Shop) -> Iterator[Held]:
    holding = Held(shop)
    try:
        yield holding
    finally:
        holding.end()


@pytest.fixture
def shop_held(stored: Shop) -> Iterator[Held]:
    with held(stored) as holding:
        yield holding


def test_two_forms_wait_for_their_turn_and_a_third_is_told_at_once(
    visitor: Visitor, stored: Shop, shop_held: Held
) -> None:
    """503 with Retry-After; its page shows what was typed, and sends it again."""

    tokens = [visitor.token("cart") for _ in range(4)]
    first, second, third, fourth = tabs(visitor, stored, 4)
    for number, tab in enumerate((first, second, third)):
        form = {"item": f"lamp {number}"}
        shop_held.send(lambda tab=tab, form=form, n=number: tab.post("cart", form, tokens[n]))
    begun = time.monotonic()
    refused = fourth.post("cart", {"item": "my own words"}, tokens[3])
    assert time.monotonic() - begun < AT_ONCE
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "my own words" in refused.text
    assert "Nothing has been lost" in refused.text
    assert fields_in(refused.text)["item"] == "my own words"
    problem = fourth.post("cart", {"item": "x"}, tokens[3], "json")
    assert (problem.status_code, problem.json["reason"]) == (503, "busy")
    assert statuses(shop_held.end()) == {303: 1, 409: 2}


def test_the_last_of_many_clicks_leads_to_the_next_page(
    visitor: Visitor, stored: Shop, shop_held: Held
) -> None:
    """A browser shows the answer to the last click, so an earlier one gives up its place."""
    token = visitor.token("cart")
    for tab in tabs(visitor, stored, 8):
        shop_held.send(lambda tab=tab: tab.post("cart", ANSWERS["cart"], token))
        assert shop_held.users <= 3
    *_, last = shop_held.end()
    assert statuses(shop_held.answers) == {503: 5, 303: 3}
    assert last.location == "/address"
    assert visitor.see("address")["rev"] == 1


def test_a_form_that_is_told_to_wait_can_be_sent_again(
    visitor: Visitor, stored: Shop, shop_held: Held
) -> None:
    """Afterwards the very same form is taken, or answered like any that came late."""
    token = visitor.token("cart")
    others = [visitor.token("cart") for _ in range(3)]
    for tab, other in zip(tabs(visitor, stored, 3), others, strict=True):
        shop_held.send(lambda tab=tab, other=other: tab.post("cart", {"item": "z"}, other))
    (tab,) = tabs(visitor, stored, 1)
    assert tab.post("cart", ANSWERS["cart"], token).status_code == 503
    shop_held.end()
    assert statuses(shop_held.answers) == {303: 1, 409: 2}
    late = tab.post("cart", ANSWERS["cart"], token)
    assert late.status_code == 409
    assert fields_in(late.text)["item"] == ANSWERS["cart"]["item"]


def test_other_visitors_do_not_notice(visitor: Visitor, stored: Shop, shop_held: Held) -> None:
    """A flow that is busy keeps no other flow busy."""
    token = visitor.token("cart")
    for tab in tabs(visitor, stored, 3):
        shop_held.send(lambda tab=tab: tab.post("cart", ANSWERS["cart"], token))
    stored.before_advance = lambda page: None
    stored.visitor().walk("cart", "address")


def test_a_page_opens_while_forms_wait(visitor: Visitor, stored: Shop, shop_held: Held) -> None:
    """A GET takes no lock, however many wait for it."""
    token = visitor.token("cart")
    for tab in tabs(visitor, stored, 5):
        shop_held.send(lambda tab=tab: tab.post("cart", ANSWERS["cart"], token))
    assert visitor.see("cart")["rev"] == 0


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json",
        "application/octet-stream",
    ],
)
def test_an_unfinished_body_keeps_nobody_waiting(visitor: Visitor, stored: Shop, kind: str) -> None:
    """A form whose body does not arrive does not hold the flow: other forms are served."""
    visitor.walk("cart")
    token = visitor.token("address")
    head = (
        f"POST /address HTTP/1.1\r\nHost: localhost\r\nCookie: session={visitor.cookie}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 1000\r\nX-FSM-Token: {token}\r\n\r\n--x"
    )
    with LiveServer(stored.app) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as unfinished:
            unfinished.sendall(head.encode())
            time.sleep(2 * GRACE)
            begun = time.monotonic()
            assert visitor.post("address", ANSWERS["address"], token).location == "/delivery"
            assert time.monotonic() - begun < AT_ONCE
