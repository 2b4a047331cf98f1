"""Several flows of one machine for one subject, told apart by a key in the URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask, jsonify, redirect, session
from werkzeug.test import TestResponse

from flask_fsm import DefinitionError, FlaskFSM, Machine, StoreUnavailable
from flask_fsm.testing import FrozenClock

from ..apps import (
    ASKING,
    SECRET,
    Visitor,
    assert_moved,
    assert_refused,
    flask_app,
    notices,
    seen,
    show,
    token_in,
    typed,
)
from .test_subjects import NOW, Store, address, login, logout, prepared

__all__ = ["address"]  # a fixture

FAST = ["memory://", "sqlite", "redis"]

on_fast = pytest.mark.parametrize("kind", FAST)
on_served = pytest.mark.parametrize("kind", [*FAST, "postgres"])
# What no store has a part in is tested on one.
on_memory = pytest.mark.parametrize("kind", ["memory://"])

EDGES = [("items", "ship"), ("ship", "pay"), ("pay", "sent"), ("pay", "items")]
WAYS = {"items": "ship", "ship": "pay", "pay": "sent", "sent": None}


class Many:
    """An app with orders: their keys are in the query, or an argument of the URLs."""

    def __init__(self, store: str, many: Any = True, **config: Any) -> None:
        app = self.app = flask_app(
            {"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": store, **config}
        )
        fsm = self.fsm = FlaskFSM(app, Machine("orders", EDGES, many=many))
        self.many = many
        self.clock = app.extensions["fsm"].clock = FrozenClock(NOW)
        self.ran: list[str] = []

        @fsm.subject
        def user() -> str | None:
            name: str | None = session.get("user")
            return name

        prefix = "" if many is True else f"/<{many}>"
        for name in WAYS:
            app.add_url_rule(
                f"{prefix}/{name}", name, fsm.check()(self._view(name)), methods=["GET", "POST"]
            )

        @app.get("/mine")
        def mine() -> Any:
            return jsonify([flow._asdict() for flow in fsm.flows()])

        app.add_url_rule(f"{prefix}/also", "also", lambda **_: mine())
        app.add_url_rule(
            f"{prefix}/restart", "restart", lambda **_: fsm.reset() or "anew", methods=["POST"]
        )
        app.add_url_rule(
            f"{prefix}/urls", "urls", lambda **_: jsonify({to: fsm.url_for(to) for to in WAYS})
        )

        @app.post("/login/<user>")
        def login(user: str) -> str:
            session["user"] = user
            return "in"

        @app.post("/logout")
        def logout() -> str:
            del session["user"]
            return "out"

        prepared(app, fsm)

    def _view(self, name: str) -> Callable[..., Any]:
        def view(**arguments: Any) -> Any:
            from flask import request

            self.ran.append(name)
            if request.method == "POST":
                answer = self.fsm.advance(WAYS[name], data=typed())
                return answer if answer is not None else redirect("/")
            return show(name, self.fsm)

        return view

    def browser(self, user: str | None = None) -> Browser:
        browser = Browser(self)
        if user is not None:
            login(browser, user)
        return browser


class Browser(Visitor):
    """A browser whose pages belong to a flow with a key."""

    def __init__(self, shop: Many) -> None:
        super().__init__(shop.app)
        self.many = shop.many

    def at(self, page: str, key: str) -> str:
        """The address of a page of the flow with this key."""
        return f"{page}?flow={key}" if self.many is True else f"{key}/{page}"

    def copy(self) -> Browser:
        """Another browser with the same cookie."""
        other = object.__new__(Browser)
        Visitor.__init__(other, self.app)
        other.many = self.many
        other.cookie = self.cookie
        return other

    def begin(self, key: str | None = None) -> str:
        """Open the first page of a new flow, and return its key."""
        if self.many is not True:
            assert key is not None
            self.see(f"{key}/items")
            return key
        response = self.open("items")
        assert response.status_code == 303, response.text
        path, _, key = str(response.location).partition("?flow=")
        assert path == "/items"
        self.see(f"items?flow={key}")
        return key

    def go(self, key: str, *pages: str) -> str:
        """Fill in these pages of a flow, each of which must be taken."""
        for page in pages:
            response = self.send(self.at(page, key), {"of": key, "page": page})
            assert response.status_code == 303, (page, response.status_code, response.text)
            assert key in response.location
        return key

    def began(self, key: str | None = None, *pages: str) -> str:
        """A new flow that has passed these pages, the first one if none are named."""
        return self.go(self.begin(key), *(pages or ("items",)))

    def mine(self, at: str = "mine") -> list[dict[str, Any]]:
        response = self.open(at, "json")
        assert response.status_code == 200, response.text
        listed: list[dict[str, Any]] = response.json
        return listed


@pytest.fixture
def orders(address: Store) -> Callable[..., Many]:
    """A maker of apps with many flows on a kind of store."""

    def make(kind: str, many: Any = True, **config: Any) -> Many:
        return Many(address(kind), many, **config)

    return make


def follow(visitor: Visitor, response: TestResponse) -> TestResponse:
    """Go where an answer sends the visitor, as a browser does."""
    for _ in range(4):
        if response.status_code != 303:
            return response
        response = visitor.open(str(response.location).lstrip("/"))
    raise AssertionError(f"The visitor is sent from page to page, at last to {response.location}.")


# -- the key in the query -------------------------------------------------------------------


@on_fast
def test_the_first_page_without_key_leads_to_one_with_a_key(
    orders: Callable[..., Many], kind: str
) -> None:
    """Each time it is another key, with the first page of another flow."""
    browser = orders(kind).browser()
    keys = [browser.begin() for _ in range(3)]
    assert len(set(keys)) == 3
    assert len({browser.see(browser.at("items", key))["id"] for key in keys}) == 3


@on_fast
def test_all_addresses_keep_the_key(orders: Callable[..., Many], kind: str) -> None:
    """Redirects after a form and from a closed page, and `fsm.url_for`, name the same flow."""
    browser = orders(kind).browser()
    key = browser.begin()
    for page, target in (("items", "ship"), ("ship", "pay")):
        response = browser.send(browser.at(page, key), {"to": target})
        assert_moved(response, "html", f"/{target}?flow={key}")
    response = browser.open(browser.at("sent", key))
    assert (response.status_code, response.location) == (303, f"/pay?flow={key}")
    urls = browser.open(browser.at("urls", key), "json").json
    assert urls == {page: f"/{page}?flow={key}" for page in WAYS}


@on_memory
@pytest.mark.parametrize("asking", ASKING)
def test_programs_are_told_the_key_too(orders: Callable[..., Many], kind: str, asking: str) -> None:
    """The location of a JSON or htmx answer has the key."""
    browser = orders(kind).browser()
    key = browser.begin()
    token = browser.token(browser.at("items", key))
    response = browser.post(browser.at("items", key), {}, token, asking)
    assert_moved(response, asking, f"/ship?flow={key}")


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_two_flows_side_by_side_in_two_tabs(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """Each has its own state, answers and history; back and edit concern one of them."""
    browser = orders(kind, many).browser()
    one, two = browser.began("1"), browser.began("2")
    browser.go(one, "ship")
    assert browser.see(browser.at("ship", two))["data"]["items"]["of"] == two
    assert browser.see(browser.at("pay", one))["data"]["ship"]["of"] == one
    assert browser.open(browser.at("pay", two)).status_code == 303
    before = browser.see(browser.at("ship", two))
    browser.send(browser.at("items", one), {"of": "edited"})
    after = browser.see(browser.at("ship", one))
    assert after["data"] == {"items": {"of": "edited"}}
    assert after["answers"] == {"of": one, "page": "ship"}
    assert browser.see(browser.at("ship", two)) == before


@pytest.mark.parametrize("many", [True, "order_id"])
@on_memory
def test_the_token_of_one_flow_is_no_good_for_another(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """Both flows are at the same page and rev."""
    browser = orders(kind, many).browser()
    one, two = browser.began("1"), browser.began("2")
    token = browser.token(browser.at("ship", one))
    response = browser.post(browser.at("ship", two), {}, token, "json")
    assert_refused(response, "json", 409, "other_flow")
    assert browser.see(browser.at("ship", two))["rev"] == 1


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_a_double_click_moves_its_flow_once(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """The second click of each tab gets the stored answer, with its own key."""
    shop = orders(kind, many)
    browser = shop.browser()
    keys = [browser.begin("1"), browser.begin("2")]
    tokens = [browser.token(browser.at("items", key)) for key in keys]
    for _ in range(2):
        for key, token in zip(keys, tokens, strict=True):
            response = browser.post(browser.at("items", key), {"of": key}, token)
            assert_moved(response, "html", f"/{browser.at('ship', key)}")
    assert [browser.see(browser.at("ship", key))["rev"] for key in keys] == [1, 1]


@on_memory
def test_a_first_form_without_key_and_token_begins_a_flow(
    orders: Callable[..., Many], kind: str
) -> None:
    """A program posts to the first page at once, and is told the key."""
    browser = orders(kind).browser()
    response = browser.post("items", {}, None, "json")
    assert response.status_code == 200, response.text
    browser.see(response.json["location"].lstrip("/"))


@on_memory
@pytest.mark.parametrize("page", ["ship", "sent"])
def test_a_later_page_without_key_leads_to_a_page_that_opens(
    orders: Callable[..., Many], kind: str, page: str
) -> None:
    """Somebody types in the address of a page: there is a page to go on with."""
    browser = orders(kind).browser()
    response = follow(browser, browser.open(page))
    assert response.status_code == 200, response.text
    assert seen(response)["page"] == "items"


# -- keys that aren't there -----------------------------------------------------------------

ODD = [
    "%00",
    "x" * 65,
    "x" * 5_000,
    "%C3%A9",
    "%FF",
    "%F0%9F%92%A5",
    "",
    "a%20b",
    "a/b",
    "a%0A",
    "..",
    "%D9%A3",
    "*",
    "{x}",
    "a:b",
    "'",
]


@pytest.mark.parametrize(
    ("kind", "asking"),
    [*(("memory://", asking) for asking in ASKING), ("sqlite", "html"), ("redis", "html")],
)
def test_a_foreign_key_a_missing_and_a_malformed_one_are_the_same_404(
    orders: Callable[..., Many], kind: str, asking: str
) -> None:
    """Nobody can tell from the answer whether somebody else has such a flow."""
    shop = orders(kind)
    foreign = shop.browser("ann").began()
    nobodys = shop.browser().began()
    blank = shop.browser().begin()
    for user in (None, "bob"):
        browser = shop.browser(user)
        browser.began()
        shop.ran.clear()
        bodies = set()
        for key in (foreign, nobodys, blank, "missing", "x" * 64, *ODD):
            for page in ("items", "ship"):
                for response in (
                    browser.open(f"{page}?flow={key}", asking),
                    browser.post(f"{page}?flow={key}", {}, None, asking),
                ):
                    assert_refused(response, asking, 404, "no_flow")
                    bodies.add((response.text, *sorted(response.headers.items())))
        assert len(bodies) == 1
        assert shop.ran == []


@pytest.mark.parametrize("asking", ASKING)
@on_memory
def test_the_first_page_without_cookies_says_that_they_are_needed(
    orders: Callable[..., Many], kind: str, asking: str
) -> None:
    """A browser that keeps no cookie is sent to a key, and told there what it lacks: no 404."""
    shop = orders(kind)
    browser = shop.browser()
    location = browser.open("items").location
    token = browser.token(location.lstrip("/"))
    foreign = shop.browser("ann").began()
    shop.ran.clear()
    for page in (location.lstrip("/"), f"items?flow={foreign}", "items?flow=", "items?flow=*"):
        for method in ("GET", "POST", "POST with token"):
            browser.client = shop.app.test_client()  # which has no cookies
            if method == "GET":
                response = browser.open(page, asking)
            else:
                response = browser.post(
                    page, {"of": "x"}, token if "token" in method else None, asking
                )
            assert_refused(response, asking, 410, "no_session")
            if asking == "json":
                assert response.json is not None
                assert response.json["location"] == "/items"
            else:
                assert "Cookies are needed" in response.text
                assert 'href="/items"' in response.text
    assert shop.ran == []
    # On other pages, for a user, or with a session, it is a page that is not there.
    browser.client = shop.app.test_client()
    assert_refused(browser.open("ship?flow=missing", asking), asking, 404, "no_flow")
    for known in (shop.browser("bob"), shop.browser()):
        known.open("items")
        assert_refused(known.open(f"items?flow={foreign}", asking), asking, 404, "no_flow")


@on_fast
def test_a_token_does_not_open_a_foreign_key(orders: Callable[..., Many], kind: str) -> None:
    """The token of another user's form, at its own address, is the same 404.

    Nobody knows whose form it is that comes without a cookie, so it is told just that; and the
    same where there is no such flow.
    """
    shop = orders(kind)
    ann, bob = shop.browser("ann"), shop.browser("bob")
    key = ann.began()
    token = ann.token(ann.at("ship", key))
    for at in (ann.at("ship", key), ann.at("ship", "missing")):
        assert_refused(bob.post(at, {}, token, "json"), "json", 404, "no_flow")
        response = shop.browser().post(at, {}, token, "json")
        assert_refused(response, "json", 410, "no_session")
        assert response.json is not None
        assert response.json["state"] is None
    assert ann.see(ann.at("ship", key))["rev"] == 1


@on_memory
def test_only_the_first_key_of_a_query_counts(orders: Callable[..., Many], kind: str) -> None:
    """A query with two keys is read in one way everywhere."""
    browser = orders(kind).browser()
    one, two = browser.began(), browser.began(None, "items", "ship")
    assert browser.see(f"ship?flow={one}&flow={two}")["rev"] == 1


@on_memory
@pytest.mark.parametrize(
    "order", ["%00", "x" * 3_000, "é", "%F0%9F%92%A5", "%FF", "a:b", "{a}", "*", "%25", "~", "'"]
)
def test_an_order_may_be_called_anything(
    orders: Callable[..., Many], kind: str, order: str
) -> None:
    """Of a URL argument any text is a key, and no two are taken for one another."""
    browser = orders(kind, "order_id").browser("ann")
    order = order if order.startswith("%") else quote(order)
    for page in ("items", "ship"):
        response = browser.send(f"{order}/{page}")
        assert response.status_code == 303, response.text
        follow(browser, response)
    assert browser.open(f"{order}/pay").status_code == 200
    for other in (order + "x", "x" * 200, "e", "%2500"):
        assert browser.see(f"{other}/items")["rev"] == 0


@on_fast
def test_orders_that_look_alike_are_apart(orders: Callable[..., Many], kind: str) -> None:
    """Case, width and composition make another key; so does the number in front."""
    browser = orders(kind, "order_id").browser("ann")
    browser.began("a1")
    for other in ("A1", "a1%20", "%EF%BD%811", "0a1"):
        assert browser.see(f"{other}/items")["rev"] == 0
    assert browser.see("a1/ship")["rev"] == 1


# -- the key as a URL argument --------------------------------------------------------------


@on_memory
def test_the_other_arguments_have_to_be_those_of_the_path(address: Store, kind: str) -> None:
    """Pages of the order that were reached with another shelf are not there: 404."""
    app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": address(kind)})
    fsm = FlaskFSM(app, Machine("orders", EDGES, many="order_id"))
    for name in WAYS:

        @app.route(f"/<int:order_id>/<int:shelf>/{name}", methods=["GET", "POST"], endpoint=name)
        @fsm.check()
        def view(order_id: int, shelf: int, name: str = name) -> Any:
            from flask import request

            if request.method == "POST":
                return fsm.advance(WAYS[name], data=typed())
            return show(name, fsm)

    prepared(app, fsm)
    visitor = Visitor(app)
    assert_moved(visitor.send("7/1/items"), "html", "/7/1/ship")
    token = visitor.token("7/1/ship")
    assert_refused(visitor.open("7/2/ship", "json"), "json", 404)
    assert_refused(visitor.post("7/2/ship", {}, token, "json"), "json", 404)
    assert_refused(visitor.post("7/2/items", {}, None, "json"), "json", 404)
    assert visitor.see("7/1/ship")["rev"] == 1
    assert_moved(visitor.send("8/2/items"), "html", "/8/2/ship")
    assert_refused(visitor.open("8/1/ship", "json"), "json", 404)


def test_a_page_without_the_argument_of_the_key_is_a_fault() -> None:
    """Set-up names the view and the argument."""
    app = Flask("faulty")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL="memory://")
    fsm = FlaskFSM(app, Machine("m", [("a", "b")], many="order_id"))
    app.add_url_rule("/<order_id>/a", "a", fsm.check()(lambda order_id: "a"))
    app.add_url_rule("/b", "b", fsm.check()(lambda: "b"))
    with pytest.raises(DefinitionError, match=r"'b'.*order_id"):
        app.test_client().get("/7/a")


@on_fast
def test_the_same_order_of_two_users_are_two_flows(orders: Callable[..., Many], kind: str) -> None:
    """The key tells apart the flows of one user only."""
    shop = orders(kind, "order_id")
    ann, bob = shop.browser("ann"), shop.browser("bob")
    ann.began("7")
    assert bob.see("7/items")["rev"] == 0
    bob.began("7", "items", "ship")
    assert ann.see("7/ship")["rev"] == 1


# -- the list -------------------------------------------------------------------------------


@on_served
def test_flows_are_listed_newest_first(orders: Callable[..., Many], kind: str) -> None:
    """Each with its key, state, rev, times and address; the one moved last comes first."""
    shop = orders(kind)
    browser = shop.browser("ann")
    keys = []
    for _ in range(3):
        shop.clock.tick(60)
        keys.append(browser.began())
    shop.clock.tick(60)
    browser.go(keys[0], "ship")
    listed = browser.mine()
    assert [flow["key"] for flow in listed] == [keys[0], keys[2], keys[1]]
    assert listed[0] == {
        "key": keys[0],
        "state": "pay",
        "rev": 2,
        "started": NOW + 60,
        "updated": NOW + 240,
        "finished": False,
        "url": f"/pay?flow={keys[0]}",
    }
    assert shop.browser("ann").mine() == listed
    assert shop.browser("bob").mine() == []
    assert shop.browser().mine() == []


@on_fast
def test_what_has_not_begun_is_not_listed(orders: Callable[..., Many], kind: str) -> None:
    """A blank form is no flow yet, and a run that was given up is none any more."""
    browser = orders(kind).browser()
    browser.begin()
    assert browser.mine() == []
    key = browser.began()
    assert [flow["key"] for flow in browser.mine()] == [key]
    assert browser.client.post(f"/restart?flow={key}").status_code == 200
    assert browser.mine() == []


@on_fast
def test_a_session_lists_its_own_flows(orders: Callable[..., Many], kind: str) -> None:
    """Without a login, too, there is a list, of more flows than a cookie would hold."""
    browser = orders(kind).browser()
    keys = {browser.began() for _ in range(12)}
    assert {flow["key"] for flow in browser.mine()} == keys
    for key in keys:
        browser.go(key, "ship")
    assert len(browser.cookie) < 2_000


@pytest.mark.parametrize("where", ["mine", "7/also"])
@on_memory
def test_flows_with_a_url_argument_are_listed(
    orders: Callable[..., Many], kind: str, where: str
) -> None:
    """On a page of an order, and on one that lists the orders and so names none."""
    browser = orders(kind, "order_id").browser("ann")
    browser.began("7")
    browser.began("8", "items", "ship")
    listed = {flow["key"]: flow["url"] for flow in browser.mine(where)}
    assert listed == {"7": "/7/ship", "8": "/8/pay"}


@pytest.mark.parametrize("user", [None, "ann"])
@on_served
def test_a_subject_has_so_many_flows_and_the_oldest_goes(
    orders: Callable[..., Many], kind: str, user: str | None
) -> None:
    """FSM_FLOWS_PER_SUBJECT: the one that was moved longest ago makes room, for its owner only."""
    shop = orders(kind, FSM_FLOWS_PER_SUBJECT=3)
    browser, other = shop.browser(user), shop.browser("bob")
    others = other.began()
    keys = []
    for _ in range(3):
        shop.clock.tick(1)
        keys.append(browser.began())
    shop.clock.tick(1)
    browser.go(keys[0], "ship")
    shop.clock.tick(1)
    keys.append(browser.began())
    assert [flow["key"] for flow in browser.mine()] == [keys[3], keys[0], keys[2]]
    assert other.see(other.at("ship", others))["rev"] == 1
    response = browser.post(browser.at("ship", keys[1]), {}, None, "json")
    assert response.status_code in (404, 410)


@on_fast
def test_a_flow_that_made_room_leads_to_a_page_that_opens(
    orders: Callable[..., Many], kind: str
) -> None:
    """Its tab is told, and what it is sent to is there."""
    shop = orders(kind, FSM_FLOWS_PER_SUBJECT=1)
    browser = shop.browser("ann")
    first = browser.began()
    shop.clock.tick(1)
    browser.began()
    response = follow(browser, browser.open(browser.at("ship", first)))
    assert response.status_code == 200, response.text
    assert (seen(response)["page"], seen(response)["rev"]) == ("items", 0)
    assert notices(response)


@on_fast
def test_a_run_that_was_given_up_takes_no_place(orders: Callable[..., Many], kind: str) -> None:
    """A subject may have three flows, and has three, although others were reset before."""
    shop = orders(kind, FSM_FLOWS_PER_SUBJECT=3)
    browser = shop.browser("ann")
    keys = [browser.began() for _ in range(2)]
    shop.clock.tick(1)
    given_up = browser.began()
    assert browser.client.post(f"/restart?flow={given_up}").status_code == 200
    shop.clock.tick(1)
    keys.append(browser.began())
    assert {flow["key"] for flow in browser.mine()} == set(keys)


# -- the end, and a new beginning -----------------------------------------------------------


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_a_finished_flow_begins_anew_under_its_key(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """The final page stays; the first page with the key begins the next run, others go on."""
    browser = orders(kind, many).browser()
    one, two = browser.began("1", "items", "ship", "pay"), browser.began("2")
    assert browser.see(browser.at("sent", one))["finished"]
    assert {
        flow["key"]: flow["finished"] for flow in browser.mine("1/also" if many != 1 else "mine")
    } == {
        one: True,
        two: False,
    }
    response = browser.post(browser.at("pay", one), {}, None, "json")
    assert_refused(response, "json", 410)
    assert browser.see(browser.at("items", one))["rev"] == 0
    browser.go(one, "items")
    assert browser.see(browser.at("ship", one))["rev"] == 1
    assert browser.see(browser.at("ship", two))["rev"] == 1


@on_memory
def test_after_the_end_the_bare_first_page_begins_another_flow(
    orders: Callable[..., Many], kind: str
) -> None:
    """Without a key the finished one stays as it is."""
    browser = orders(kind).browser()
    done = browser.began(None, "items", "ship", "pay")
    again = browser.began()
    assert again != done
    assert browser.see(browser.at("sent", done))["finished"]


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_a_reset_of_one_leaves_the_others(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """The one begins anew under its key, the others are where they were."""
    shop = orders(kind, many)
    browser = shop.browser()
    one, two = browser.began("1"), browser.began("2")
    assert browser.client.post("/" + browser.at("restart", one)).status_code == 200
    assert browser.see(browser.at("items", one))["rev"] == 0
    assert browser.see(browser.at("ship", two))["rev"] == 1
    browser.go(one, "items")
    assert browser.see(browser.at("ship", one))["rev"] == 1


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_a_reset_is_seen_on_the_other_device_as_a_page_that_opens(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """The other device is told, and the page to which it is sent is there."""
    shop = orders(kind, many)
    laptop, phone = shop.browser("ann"), shop.browser("ann")
    key = laptop.began("1")
    phone.see(phone.at("ship", key))
    assert laptop.client.post("/" + laptop.at("restart", key)).status_code == 200
    response = follow(phone, phone.open(phone.at("ship", key)))
    assert response.status_code == 200, response.text
    assert (seen(response)["page"], seen(response)["rev"]) == ("items", 0)
    # Under its key or under another one, the form that is shown there is good.
    shown = response.request.full_path.strip("/?")
    again = phone.post(shown, {}, token_in(response.text))
    assert (again.status_code, follow(phone, again).status_code) == (303, 200)


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_an_expired_flow_leads_to_a_page_that_opens(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """By a GET as by the link of the 410 page, its visitor can start again."""
    shop = orders(kind, many, FSM_FLOW_LIFETIME=100.0)
    browser = shop.browser()
    key = browser.began("1")
    shop.clock.tick(101)
    by_post = browser.copy()
    gone = by_post.post(by_post.at("ship", key), {}, None, "json")
    assert_refused(gone, "json", 410, "expired")
    again = follow(by_post, by_post.open(gone.json["location"].lstrip("/")))
    assert (again.status_code, seen(again)["rev"]) == (200, 0)
    response = follow(browser, browser.open(browser.at("ship", key)))
    assert response.status_code == 200, response.text
    assert notices(response)
    assert browser.mine("1/also" if many != 1 else "mine") == []


# -- logging in and out ---------------------------------------------------------------------


@pytest.mark.parametrize("many", [True, "order_id"])
@on_served
def test_a_login_takes_all_flows_of_the_session_along(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """All come along under their keys and new ids, beside those the user has."""
    shop = orders(kind, many)
    own = shop.browser("ann").began("9")
    browser = shop.browser()
    keys = [browser.began("1"), browser.began("2", "items", "ship"), browser.began("3")]
    thief = browser.copy()
    ids = [browser.see(browser.at("items", key))["id"] for key in keys]
    login(browser, "ann")
    assert browser.see(browser.at("ship", keys[0]))["data"]["items"]["of"] == keys[0]
    assert browser.see(browser.at("pay", keys[1]))["rev"] == 2
    assert browser.see(browser.at("ship", own))["rev"] == 1
    after = [browser.see(browser.at("items", key))["id"] for key in keys]
    assert not set(ids) & set(after)
    phone = shop.browser("ann")
    assert {flow["key"] for flow in phone.mine("1/also" if many != 1 else "mine")} == {own, *keys}
    for key in keys:
        assert thief.copy().open(thief.at("ship", key)).status_code in (303, 404)
        response = thief.copy().post(thief.at("ship", key), {}, None, "json")
        assert response.status_code in (404, 409, 410)
    browser.go(keys[2], "ship")


@pytest.mark.parametrize("many", [True, "order_id"])
@on_memory
def test_a_form_open_at_login_is_good_until_the_next_commit(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """Each of the flows has its open form, and each is taken once."""
    browser = orders(kind, many).browser()
    keys = [browser.began("1"), browser.began("2")]
    forms = {key: [browser.token(browser.at("ship", key)) for _ in range(2)] for key in keys}
    login(browser, "ann")
    for key, (token, other) in forms.items():
        response = browser.post(browser.at("ship", key), {}, token)
        assert_moved(response, "html", f"/{browser.at('pay', key)}")
        response = browser.post(browser.at("ship", key), {}, other, "json")
        assert_refused(response, "json", 409)


@pytest.mark.parametrize("many", [True, "order_id"])
@on_memory
def test_a_blank_form_is_good_after_the_login(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """The first page was open when its visitor logged in: it is still there, and so is its form."""
    browser = orders(kind, many).browser()
    key = browser.begin("1")
    token = browser.token(browser.at("items", key))
    login(browser, "ann")
    assert browser.copy().see(browser.at("items", key))["rev"] == 0
    response = browser.post(browser.at("items", key), {}, token)
    assert_moved(response, "html", f"/{browser.at('ship', key)}")


@on_fast
@pytest.mark.parametrize("newer", ["session", "users"])
def test_of_two_flows_with_one_key_the_newest_is_kept(
    orders: Callable[..., Many], kind: str, newer: str
) -> None:
    """A session and its user have both begun order 7."""
    shop = orders(kind, "order_id")
    browser, phone = shop.browser(), shop.browser("ann")
    for each in (phone, browser) if newer == "session" else (browser, phone):
        shop.clock.tick(60)
        each.began("7", *(("items", "ship") if each is phone else ("items",)))
    login(browser, "ann")
    page, rev = ("ship", 1) if newer == "session" else ("pay", 2)
    assert browser.see(f"7/{page}")["rev"] == rev
    assert phone.see(f"7/{page}")["rev"] == rev


@on_fast
def test_a_login_takes_along_where_the_user_has_given_up(
    orders: Callable[..., Many], kind: str
) -> None:
    """The user has reset order 7 before; what the session has of it comes along."""
    shop = orders(kind, "order_id")
    browser = shop.browser("ann")
    browser.began("7")
    assert browser.client.post("/7/restart").status_code == 200
    logout(browser)
    browser.began("7")
    login(browser, "ann")
    assert browser.see("7/ship")["rev"] == 1


@on_fast
def test_a_login_does_not_change_the_order_of_the_list(
    orders: Callable[..., Many], kind: str
) -> None:
    """What comes along has its place by when it was moved, not by when it was taken along."""
    shop = orders(kind)
    browser, phone = shop.browser(), shop.browser("ann")
    keys = []
    for each in (phone, browser, phone, browser):
        shop.clock.tick(60)
        keys.append(each.began())
    shop.clock.tick(60)
    login(browser, "ann")
    assert [flow["key"] for flow in browser.mine()] == keys[::-1]


@on_fast
def test_a_login_keeps_the_newest_of_all(orders: Callable[..., Many], kind: str) -> None:
    """If both have more than a user may have, the oldest go, whoever had them."""
    shop = orders(kind, FSM_FLOWS_PER_SUBJECT=3)
    browser, phone = shop.browser(), shop.browser("ann")
    keys = []
    for each in (browser, browser, phone, phone, browser):
        shop.clock.tick(60)
        keys.append(each.began())
    login(browser, "ann")
    assert [flow["key"] for flow in browser.mine()] == keys[:1:-1]


@on_fast
def test_expired_flows_are_not_taken_along(orders: Callable[..., Many], kind: str) -> None:
    """A login revives nothing, and what has expired pushes nothing out."""
    shop = orders(kind, FSM_FLOWS_PER_SUBJECT=2, FSM_FLOW_LIFETIME=1000.0)
    browser, phone = shop.browser(), shop.browser("ann")
    old = [browser.began(), browser.began()]
    shop.clock.tick(1001)
    keys = [phone.began(), phone.began()]
    login(browser, "ann")
    assert {flow["key"] for flow in browser.mine()} == set(keys)
    for key in old:
        assert browser.copy().open(browser.at("ship", key)).status_code in (303, 404)


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_after_a_logout_nobody_in_that_browser_sees_the_flows(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """Neither without a login nor as another user; the user has them at the next login."""
    shop = orders(kind, many)
    browser = shop.browser()
    first = browser.began("1")
    login(browser, "ann")
    second = browser.began("2")
    logout(browser)
    for user in (None, "bob"):
        other = browser.copy()
        if user is not None:
            login(other, user)
        assert other.mine("1/also" if many != 1 else "mine") == []
        for key in (first, second):
            response = other.open(other.at("ship", key))
            assert response.status_code in (303, 404)
            response = other.post(other.at("ship", key), {}, None, "json")
            assert response.status_code in (404, 409)
    login(browser, "ann")
    for key in (first, second):
        assert browser.see(browser.at("ship", key))["rev"] == 1


@on_fast
def test_what_a_session_begins_after_a_logout_is_taken_along_again(
    orders: Callable[..., Many], kind: str
) -> None:
    """Login, logout and login: nothing that was begun is lost."""
    browser = orders(kind).browser()
    keys = [browser.began()]
    login(browser, "ann")
    keys.append(browser.began())
    logout(browser)
    keys.append(browser.began())
    login(browser, "ann")
    keys.append(browser.began())
    assert {flow["key"] for flow in browser.mine()} == set(keys)


@pytest.mark.parametrize("many", [True, "order_id"])
@on_fast
def test_a_flow_that_another_request_has_leased_is_not_lost_at_login(
    orders: Callable[..., Many], kind: str, many: Any
) -> None:
    """A transition with once=True is being made just then: the flow comes along afterwards."""
    shop = orders(kind, many)
    browser = shop.browser()
    key = browser.began("1")
    at, seen_there = leased(shop, key, browser)
    login(browser, "ann")
    browser.open(browser.at("ship", key))
    shop.app.extensions["fsm"].store.records.release_lease(at, seen_there, "elsewhere")
    assert browser.see(browser.at("ship", key))["rev"] == 1


def test_what_came_along_is_told_although_the_store_then_goes_away(
    orders: Callable[..., Many], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients of a flow that has moved are closed, whatever happens to the next flow."""
    shop = orders("memory://", "order_id")
    browser = shop.browser()
    for key in "12":
        browser.began(key)
    state = shop.app.extensions["fsm"]
    left: list[str] = []
    monkeypatch.setattr(state.live, "moved_away", left.append)
    move = state.store.records.move

    def move_once(*arguments: Any) -> None:
        monkeypatch.setattr(state.store.records, "move", fail)
        move(*arguments)

    def fail(*arguments: Any) -> None:
        raise StoreUnavailable("The server is away.")

    monkeypatch.setattr(state.store.records, "move", move_once)
    login(browser, "ann")
    assert len(left) == 1


def leased(shop: Many, key: str, browser: Browser) -> tuple[Any, Any]:
    """Take the lease as another request would; return the flow's address and what was seen."""
    from flask_fsm.stores import FlowLocator

    app, fsm = shop.app, shop.fsm
    store = app.extensions["fsm"].store
    with browser.client.session_transaction() as cookie:
        secret = cookie["_fsmowner_orders"]
    with app.app_context():
        at = store.mapper.address(FlowLocator(fsm.machine, None, secret, key))
    record = store.records.read(at)
    store.records.acquire_lease(at, record.version, "elsewhere", NOW, NOW + 60)
    return at, record.version


# -- what the cookie remembers --------------------------------------------------------------


@on_memory
def test_a_blank_form_stays_good_while_others_are_filled_in(
    orders: Callable[..., Many], kind: str
) -> None:
    """What is on the server needs no place in the cookie, and what is blank is nowhere else."""
    browser = orders(kind).browser("ann")
    key = browser.begin()
    token = browser.token(browser.at("items", key))
    for _ in range(8):
        browser.began()
    response = browser.post(browser.at("items", key), {}, token)
    assert_moved(response, "html", f"/ship?flow={key}")


@on_memory
def test_the_cookie_remembers_the_newest(orders: Callable[..., Many], kind: str) -> None:
    """Not those whose keys come last in the alphabet: Flask sorts what is in a session."""
    browser = orders(kind, "order_id").browser("ann")
    for key in "stuvwxyz":
        browser.began(key)
    token = browser.token("a/items")
    browser.token("b/items")
    assert_moved(browser.post("a/items", {}, token), "html", "/a/ship")


class Order:
    """What a converter makes of an order's number; each request has an object of its own."""

    def __init__(self, number: str) -> None:
        self.number = number


@on_memory
def test_the_key_is_what_the_url_says(address: Store, kind: str) -> None:
    """A converter of the app makes objects, which are other ones in each request."""
    from flask import request
    from werkzeug.routing import BaseConverter

    class OrderConverter(BaseConverter):
        def to_python(self, value: str) -> Order:
            return Order(value)

        def to_url(self, value: Order) -> str:
            return value.number

    app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": address(kind)})
    app.url_map.converters["order"] = OrderConverter
    fsm = FlaskFSM(app, Machine("orders", EDGES, many="order"))
    for name in WAYS:

        @app.route(f"/<order:order>/{name}", methods=["GET", "POST"], endpoint=name)
        @fsm.check()
        def view(order: Order, name: str = name) -> Any:
            if request.method == "POST":
                return fsm.advance(WAYS[name], data=typed())
            return jsonify([flow.key for flow in fsm.flows()])

    prepared(app, fsm)
    visitor = Visitor(app)
    assert_moved(visitor.post("7/items"), "html", "/7/ship")
    response = visitor.open("7/ship")
    assert (response.status_code, response.json) == (200, ["7"])
