"""Whose flow it is: users with several browsers, logins and logouts, orders, and what is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest
from flask import Flask, redirect, request, session
from werkzeug.test import TestResponse

from flask_fsm import ConfigError, DefinitionError, FlaskFSM, Machine, Transition
from flask_fsm.testing import FrozenClock

from ..apps import (
    ANSWERS,
    SECRET,
    TO_REVIEW,
    Shop,
    Visitor,
    assert_moved,
    assert_refused,
    flask_app,
    notices,
    seen,
    show,
    typed,
)
from .test_races import at_once, statuses

FAST = ["memory://", "sqlite", "redis"]
SERVED = [*FAST, "postgres"]
EVERY = ["session", *SERVED]
FAST_AND_SESSION = ["session", *FAST]
BOTH = ["session", "memory://"]
MEMORY = ["memory://"]

# What no store has a part in is tested on one.
on_memory = pytest.mark.parametrize("kind", ["memory://"])
on_both = pytest.mark.parametrize("kind", ["session", "memory://"])
on_fast = pytest.mark.parametrize("kind", FAST)
on_fast_and_session = pytest.mark.parametrize("kind", FAST_AND_SESSION)
on_served = pytest.mark.parametrize("kind", SERVED)
on_every = pytest.mark.parametrize("kind", EVERY)

NOW = 1_800_000_000
DAY = 24 * 3600


def prepared(app: Flask, fsm: FlaskFSM) -> None:
    """Make the tables of an app's store, unless its flows live in the session."""
    if app.config["FSM_STORE_URL"] != "session":
        with app.app_context():
            fsm.init_db()


class Members(Shop):
    """A shop whose visitors log in and out, and whose clock is set by hand."""

    def __init__(
        self,
        config: Mapping[str, Any],
        machine: Machine | None = None,
        subject: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__({"SECRET_KEY": SECRET, "TESTING": True, **config}, machine)
        self.clock = self.app.extensions["fsm"].clock = FrozenClock(NOW)
        self.fsm.subject(subject or (lambda: session.get("user")))

        @self.app.post("/login/<user>")
        def login(user: str) -> Any:
            session["user"] = user
            return "in"

        @self.app.post("/logout")
        def logout() -> Any:
            del session["user"]
            return "out"

        @self.app.post("/restart")
        def restart() -> Any:
            self.fsm.reset()
            return "anew"

        prepared(self.app, self.fsm)

    def member(self, user: str | None = None) -> Visitor:
        """A browser that has not been here before, in which `user` has logged in."""
        visitor = self.visitor()
        if user is not None:
            login(visitor, user)
        return visitor

    def copy(self, visitor: Visitor) -> Visitor:
        """Another browser with the cookie as it stands in this one."""
        other = self.visitor()
        other.cookie = visitor.cookie
        return other


def login(visitor: Visitor, user: str) -> None:
    assert visitor.client.post(f"/login/{user}").status_code == 200


def logout(visitor: Visitor) -> None:
    assert visitor.client.post("/logout").status_code == 200


def restart(visitor: Visitor) -> None:
    assert visitor.client.post("/restart").status_code == 200


def follow(visitor: Visitor, response: TestResponse) -> TestResponse:
    """Go where an answer sends the visitor, as a browser does."""
    for _ in range(4):
        if response.status_code != 303:
            return response
        response = visitor.open(str(response.location).lstrip("/"))
    raise AssertionError(f"The visitor is sent from page to page, at last to {response.location}.")


Store = Callable[[str], str]


@pytest.fixture
def address(fresh_store: Store) -> Store:
    """A maker of empty stores of a kind, those without a server among them."""
    return lambda kind: kind if kind in ("session", "memory://") else fresh_store(kind)


@pytest.fixture
def members(address: Store) -> Callable[..., Members]:
    """A maker of shops with members on a kind of store."""

    def make(kind: str, machine: Machine | None = None, **config: Any) -> Members:
        return Members({**config, "FSM_STORE_URL": address(kind)}, machine)

    return make


@pytest.fixture
def shop(members: Callable[..., Members], kind: str) -> Members:
    """A shop with members on the kind of store that the test is run on."""
    return members(kind)


def assert_lost(visitor: Visitor, page: str = "address") -> None:
    """What this browser had is not there any more, neither to be seen nor to be moved."""
    response = visitor.open(page)
    assert response.status_code == 303
    assert response.location == "/cart"
    after = visitor.see("cart")
    assert (after["rev"], after["data"], after["drafts"]) == (0, {}, {})


# -- the tables ---------------------------------------------------------------------------


def play(shop: Members, visitor: Visitor, script: str) -> None:
    """Do in a browser what a row of a table says, such as `walk cart; login ann; wait 60`."""
    for step in script.split("; "):
        verb, *names = step.split()
        match verb:
            case "walk":
                visitor.walk(*names)
            case "login":
                login(visitor, *names)
            case "logout":
                logout(visitor)
            case "reset":
                restart(visitor)
            case "see":
                visitor.see(*names)
            case "lose":  # the answer, and with it the new cookie, does not arrive
                shop.copy(visitor).see(*names)
            case "lost":
                assert_lost(visitor, *names)
            case "wait":
                shop.clock.tick(int(names[0]))
            case "elsewhere":  # another browser of a user walks
                shop.member(names[0]).walk(*names[1:])
            case _:
                raise ValueError(step)


def table(names: str, *rows: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise by rows, each of which begins with its name and the kinds of store."""
    cases = [
        pytest.param(kind, *rest, id=f"{name}-{kind}")
        for name, kinds, *rest in rows
        for kind in kinds
    ]
    return pytest.mark.parametrize(f"kind, {names}", cases)


# -- one user, several browsers -------------------------------------------------------------


@on_served
def test_two_browsers_of_a_user_share_a_flow(shop: Members) -> None:
    """What is done in one browser is seen and continued in the other."""
    laptop, phone = shop.member("ann"), shop.member("ann")
    laptop.walk("cart", "address")
    assert phone.see("delivery") == laptop.see("delivery")
    phone.walk("delivery", "payment")
    assert laptop.see("review")["data"].keys() == set(TO_REVIEW)
    laptop.walk("review")
    assert phone.see("done")["finished"]


@on_fast
def test_a_form_that_the_other_browser_has_overtaken_is_409(shop: Members) -> None:
    """A form opened before the other browser's step changes nothing."""
    laptop, phone = shop.member("ann"), shop.member("ann")
    laptop.walk("cart")
    token = phone.token("address")
    laptop.walk("address")
    before = laptop.see("delivery")
    response = phone.post("address", ANSWERS["address"] | {"street": "late"}, token, "json")
    assert_refused(response, "json", 409, "old_rev")
    assert laptop.see("delivery") == before


@on_fast
def test_of_two_blank_forms_of_a_user_one_is_taken(shop: Members) -> None:
    """Both browsers begin: whoever comes second is told, and goes on with the first one's."""
    laptop, phone = shop.member("ann"), shop.member("ann")
    tokens = laptop.token("cart"), phone.token("cart")
    assert_moved(laptop.post("cart", {"item": "a lamp"}, tokens[0]), "html", "/address")
    assert_refused(phone.post("cart", {"item": "a rug"}, tokens[1]), "html", 409)
    assert phone.see("address")["data"] == {"cart": {"item": "a lamp"}}


@on_fast
def test_two_browsers_of_a_user_race_and_one_wins(shop: Members) -> None:
    """Forms of one rev, sent from both at once: one moves the flow."""
    laptop, phone = shop.member("ann"), shop.member("ann")
    laptop.walk("cart")
    tokens = [browser.token("address") for browser in (laptop, phone)]
    answers = at_once(
        lambda: laptop.post("address", ANSWERS["address"], tokens[0]),
        lambda: phone.post("address", ANSWERS["address"], tokens[1]),
    )
    assert statuses(answers) == {303: 1, 409: 1}
    assert laptop.see("delivery")["rev"] == phone.see("delivery")["rev"] == 2


@on_memory
def test_other_users_have_other_flows(shop: Members) -> None:
    """Two users, and somebody who is none, see nothing of each other."""
    ann, bob, nobody = shop.member("ann"), shop.member("bob"), shop.member()
    ann.walk("cart", "address")
    bob.walk("cart")
    assert nobody.see("cart")["rev"] == 0
    assert (bob.see("address")["rev"], ann.see("delivery")["rev"]) == (1, 2)
    assert len({each.see("cart")["id"] for each in (ann, bob, nobody)}) == 3


@on_fast
def test_a_reset_on_one_device_is_seen_on_the_other(shop: Members) -> None:
    """The other device is told that the run was given up, and goes on with the new one."""
    laptop, phone = shop.member("ann"), shop.member("ann")
    laptop.walk("cart", "address")
    token = phone.token("delivery")
    restart(laptop)
    assert_refused(phone.post("delivery", {}, token, "json"), "json", 410, "reset")
    assert_lost(phone, "delivery")
    laptop.walk("cart")
    assert phone.see("address")["rev"] == 1
    assert_refused(phone.post("address", ANSWERS["address"], token, "json"), "json", 409)


@on_memory
def test_a_reset_by_the_other_device_is_told_by_a_notice(shop: Members) -> None:
    """Whoever opens a page of a run that was given up is sent to the first page, and told."""
    laptop, phone = shop.member("ann"), shop.member("ann")
    laptop.walk("cart", "address")
    phone.see("delivery")
    restart(laptop)
    response = phone.open("delivery")
    assert (response.status_code, response.location) == (303, "/cart")
    assert notices(phone.open("cart")) == ["This form is no longer open. Please start again."]


# -- logging in -----------------------------------------------------------------------------


@on_fast_and_session
def test_a_login_takes_the_flow_of_the_session_along(shop: Members, kind: str) -> None:
    """The answers come along, under a new id."""
    visitor = shop.visitor().walk("cart", "address")
    before = visitor.see("delivery")
    login(visitor, "ann")
    after = visitor.see("delivery")
    assert after["id"] != before["id"]
    assert {**after, "id": ""} == {**before, "id": ""}
    visitor.walk("delivery")
    if kind != "session":
        assert shop.member("ann").see("payment")["data"] == visitor.see("payment")["data"]


@on_fast_and_session
def test_the_cookie_from_before_the_login_opens_nothing(shop: Members) -> None:
    """Whoever had set or seen the anonymous cookie neither sees nor moves the user's flow."""
    visitor = shop.visitor().walk("cart", "address")
    thief = shop.copy(visitor)
    token = thief.token("delivery")
    login(visitor, "ann")
    before = visitor.see("delivery")
    assert_lost(shop.copy(thief), "delivery")
    with_token = shop.copy(thief).post("delivery", ANSWERS["delivery"], token, "json")
    assert_refused(with_token, "json", 410)
    without = shop.copy(thief).post("delivery", ANSWERS["delivery"], None, "json")
    assert_refused(without, "json", 410)
    assert visitor.see("delivery") == before


@on_fast_and_session
def test_a_blank_flow_that_was_planted_is_not_the_users(shop: Members) -> None:
    """The victim fills in a form in a session that somebody else prepared, and logs in."""
    thief = shop.visitor()
    thief.see("cart")
    victim = shop.copy(thief)
    login(victim, "ann")
    victim.walk("cart")
    assert thief.see("cart")["rev"] == 0
    assert thief.open("address").status_code == 303
    assert victim.see("address")["rev"] == 1


@on_every
def test_a_form_open_at_login_is_good_until_the_next_commit(shop: Members) -> None:
    """The token that was made for the old id is taken once more after the login."""
    visitor = shop.visitor().walk("cart")
    token, other = visitor.token("address"), visitor.token("address")
    login(visitor, "ann")
    visitor.see("cart")
    assert_moved(visitor.post("address", ANSWERS["address"], token), "html", "/delivery")
    response = visitor.post("address", ANSWERS["address"], other, "json")
    assert_refused(response, "json", 409)
    assert visitor.see("delivery")["rev"] == 2


@table(
    "before, between",
    ("first request", FAST_AND_SESSION, "see cart; walk cart", "login ann"),
    ("blank, first request", BOTH, "see cart", "login ann"),
    ("blank", FAST_AND_SESSION, "see cart", "login ann; see cart"),
)
def test_a_form_open_at_login_is_taken_after_it(shop: Members, before: str, between: str) -> None:
    """With or without a look at the page in between; the flow has a new id."""
    visitor = shop.visitor()
    play(shop, visitor, before)
    page, following = ("address", "delivery") if "walk" in before else ("cart", "address")
    at_first, token = visitor.see(page), visitor.token(page)
    play(shop, visitor, between)
    assert_moved(visitor.post(page, ANSWERS[page], token), "html", f"/{following}")
    after = visitor.see(following)
    assert (after["rev"], after["id"] == at_first["id"]) == (at_first["rev"] + 1, False)


@table(
    "between, page, codes",
    ("moved on", FAST_AND_SESSION, "login ann; walk address", "delivery", [409]),
    ("bob's", MEMORY, "elsewhere bob cart; login ann; see address; login bob", "address", [409]),
    ("anonymous", BOTH, "login ann; see address; logout; walk cart", "address", [409, 410]),
)
def test_a_form_open_at_login_does_not_move_another_flow(
    shop: Members, between: str, page: str, codes: list[int]
) -> None:
    """Neither the moved one, nor what that browser has next, though at the same page and rev."""
    visitor = shop.visitor().walk("cart")
    token = visitor.token("address")
    play(shop, visitor, between)
    before = visitor.see(page)
    answers = ANSWERS["address"] | {"street": "late"}
    response = visitor.post("address", answers, token, "json")
    assert response.status_code in codes
    assert_refused(response, "json", response.status_code)
    assert visitor.see(page) == before


@on_fast_and_session
def test_a_double_click_on_the_form_open_at_login_is_one_commit(shop: Members) -> None:
    """Both clicks carry the cookie of before; the second gets the stored answer."""
    visitor = shop.visitor().walk("cart")
    token = visitor.token("address")
    login(visitor, "ann")
    clicks = [shop.copy(visitor), shop.copy(visitor)]
    for click in clicks:
        assert_moved(click.post("address", ANSWERS["address"], token), "html", "/delivery")
    assert visitor.see("delivery")["rev"] == 2
    assert [entry for entry in shop.ran if entry == ("POST", "address")] == [("POST", "address")]


@on_fast_and_session
def test_a_form_sent_before_the_login_and_again_after_it_has_one_effect(shop: Members) -> None:
    """The answer was lost, the visitor logged in, and sends again: the stored answer."""
    visitor = shop.visitor().walk("cart")
    token = visitor.token("address")
    assert_moved(visitor.post("address", ANSWERS["address"], token), "html", "/delivery")
    login(visitor, "ann")
    assert_moved(visitor.post("address", ANSWERS["address"], token), "html", "/delivery")
    assert visitor.see("delivery")["rev"] == 2


@on_fast
def test_two_first_requests_after_a_login_take_the_flow_along_once(shop: Members) -> None:
    """Two tabs are opened at once after the login: both show the flow."""
    visitor = shop.visitor().walk("cart", "address")
    login(visitor, "ann")
    tabs = [shop.copy(visitor) for _ in range(4)]
    answers = at_once(*(lambda tab=tab: tab.open("delivery") for tab in tabs))
    assert statuses(answers) == {200: 4}
    assert len({seen(answer)["id"] for answer in answers}) == 1


@on_fast
def test_a_request_while_another_one_takes_the_flow_along_finds_it(
    shop: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the flow along between two looks at the store."""
    visitor = shop.visitor().walk("cart", "address")
    login(visitor, "ann")
    other = shop.copy(visitor)
    records = shop.app.extensions["fsm"].store.records
    read, looks = records.read, []

    def read_slowly(address: Any) -> Any:
        found = read(address)
        looks.append(address)
        if len(looks) == 1:
            with shop.app.app_context():
                other.see("delivery")
        return found

    monkeypatch.setattr(records, "read", read_slowly)
    response = visitor.open("delivery")
    assert (response.status_code, other.see("delivery")["rev"]) == (200, 2)


@on_fast
def test_a_flow_that_another_request_has_leased_comes_along_later(
    members: Callable[..., Members], kind: str
) -> None:
    """A transition with once=True is being made at the login: come back in a moment, or wait."""
    from flask_fsm.stores import FlowLocator

    shop = members(kind, FSM_LOCK_TIMEOUT=0.1)
    visitor = shop.visitor().walk("cart")
    store, id = shop.app.extensions["fsm"].store, visitor.see("address")["id"]
    with shop.app.app_context():
        at = store.mapper.address(FlowLocator(shop.fsm.machine), id)
    there = store.records.read(at).version
    store.records.acquire_lease(at, there, "elsewhere", NOW, NOW + 60)
    login(visitor, "ann")
    response = shop.copy(visitor).open("address", "json")
    assert response.status_code == 200 or "Retry-After" in response.headers
    store.records.release_lease(at, there, "elsewhere")
    assert visitor.see("address")["rev"] == 1


@on_fast
def test_a_blank_form_does_not_replace_what_the_user_has(shop: Members) -> None:
    """At login the user's own flow is shown, and the blank form changes nothing."""
    shop.member("ann").walk("cart", "address")
    visitor = shop.visitor()
    token = visitor.token("cart")
    login(visitor, "ann")
    assert_refused(visitor.post("cart", {"item": "a rug"}, token, "json"), "json", 409)
    after = visitor.see("delivery")
    assert (after["rev"], after["data"]["cart"]) == (2, ANSWERS["cart"])


# -- two flows at a login -------------------------------------------------------------------


def two_flows(shop: Members, *, newer: str) -> tuple[Visitor, dict[str, Any], dict[str, Any]]:
    """A visitor with a flow, about to log in as a user with a flow; and what both show."""
    visitor, laptop = shop.visitor(), shop.member("ann")
    for name in ("users", "session") if newer == "session" else ("session", "users"):
        (laptop if name == "users" else visitor).walk("cart", "address")
        shop.clock.tick(60)
    return visitor, visitor.see("delivery"), laptop.see("delivery")


@on_served
@pytest.mark.parametrize("newer", ["session", "users"])
def test_of_two_flows_the_newest_is_kept(shop: Members, newer: str) -> None:
    """After a login the flow that was moved last is the user's, on all devices."""
    visitor, mine, theirs = two_flows(shop, newer=newer)
    old = shop.copy(visitor)
    login(visitor, "ann")
    after = visitor.see("delivery")
    assert (after["id"] == theirs["id"], after["id"] == mine["id"]) == (newer == "users", False)
    assert shop.member("ann").see("delivery")["id"] == after["id"]
    assert_lost(old, "delivery")


@on_fast
@pytest.mark.parametrize("newer", ["session", "users"])
def test_on_login_conflict_decides_which_is_kept(shop: Members, newer: str) -> None:
    """The function gets both snapshots, the session's first, and returns one."""
    asked: list[tuple[str, str, str | None]] = []

    @shop.fsm.on_login_conflict
    def older(session: Any, users: Any) -> Any:
        asked.append((session.id, users.id, users.subject))
        return users if newer == "session" else session

    visitor, mine, theirs = two_flows(shop, newer=newer)
    login(visitor, "ann")
    after = visitor.see("delivery")
    assert (after["id"] == theirs["id"]) == (newer == "session")
    assert asked == [(mine["id"], theirs["id"], "ann")]


@on_memory
def test_the_form_of_the_flow_that_lost_is_409(shop: Members) -> None:
    """A form of the session's flow does not move the user's own one, at the same rev."""
    visitor, _, theirs = two_flows(shop, newer="users")
    token = visitor.token("delivery")
    login(visitor, "ann")
    assert_refused(visitor.post("delivery", {"when": "x"}, token, "json"), "json", 409)
    assert visitor.see("delivery") == theirs


@on_memory
def test_the_form_of_the_users_flow_that_lost_is_409(shop: Members) -> None:
    """The user's other device is at the flow that came with the login, not at its own."""
    laptop = shop.member("ann").walk("cart", "address")
    token = laptop.token("delivery")
    shop.clock.tick(60)
    visitor = shop.visitor().walk("cart", "address")
    login(visitor, "ann")
    visitor.see("delivery")
    assert_refused(laptop.post("delivery", {"when": "x"}, token, "json"), "json", 409)
    assert laptop.see("delivery") == visitor.see("delivery")


@on_served
def test_the_history_comes_along_once(shop: Members) -> None:
    """After a login the run has its whole history, and the log has each entry once."""
    visitor = shop.visitor().walk("cart", "address")
    login(visitor, "ann")
    visitor.walk("delivery")
    steps = [("cart", "address"), ("address", "delivery"), ("delivery", "payment")]
    with shop.app.test_request_context("/cart"):
        session["user"] = "ann"
        assert [entry[:2] for entry in shop.fsm.history] == steps
    with shop.app.app_context():
        logged = list(shop.fsm.log())
    assert [(entry.source, entry.target) for entry in logged] == steps
    assert len({entry.flow for entry in logged}) == 1


# -- logging out, and others in the same browser --------------------------------------------


@on_fast_and_session
def test_after_a_logout_nobody_in_that_browser_sees_the_flow(shop: Members, kind: str) -> None:
    """Neither without a login nor as another user, by a page or by the form that is open."""
    visitor = shop.member("ann").walk("cart", "address")
    token = visitor.token("delivery")
    logout(visitor)
    for user in (None, "bob"):
        browser = shop.copy(visitor)
        if user is not None:
            login(browser, user)
        late = shop.copy(browser)
        response = late.post("delivery", ANSWERS["delivery"], token, "json")
        assert response.status_code in (409, 410)
        assert "Elm Street" not in response.text
        assert_lost(browser, "delivery")
        assert "Elm Street" not in browser.open("cart").text
    if kind != "session":
        assert shop.member("ann").see("delivery")["rev"] == 2


@on_fast_and_session
def test_a_browser_that_changes_from_one_user_to_another_changes_flows(
    shop: Members, kind: str
) -> None:
    """Without a logout between, too, the second user sees nothing of the first one's."""
    visitor = shop.member("ann").walk("cart", "address")
    token = visitor.token("delivery")
    login(visitor, "bob")
    response = shop.copy(visitor).post("delivery", ANSWERS["delivery"], token, "json")
    assert response.status_code in (409, 410)
    assert_lost(visitor, "delivery")
    visitor.walk("cart")
    if kind != "session":
        login(visitor, "ann")
        assert visitor.see("delivery")["rev"] == 2
        login(visitor, "bob")
        assert visitor.see("address")["rev"] == 1


NEXT_USER = "walk cart address; login ann; logout; login bob"
BACK = "login ann; walk cart address; logout; see cart; login ann"
RESET = "login ann; walk cart address; reset; logout; walk cart; login ann"


@table(
    "script, page, rev",
    ("answer lost", FAST_AND_SESSION, "walk cart address; login ann; lose delivery", "delivery", 2),
    ("next user", FAST_AND_SESSION, NEXT_USER, "delivery", None),
    ("back after the next user", FAST, f"{NEXT_USER}; lost delivery; login ann", "delivery", 2),
    ("back after a logout", FAST, BACK, "delivery", 2),
    ("nothing to come back to", ["session"], BACK, "address", None),
    ("newer", FAST, f"{BACK}; see delivery; logout; wait 60; walk cart; login ann", "address", 1),
    ("newer than a reset", FAST, RESET, "address", 1),
)
def test_which_flow_a_browser_has_after_logins_and_logouts(
    shop: Members, script: str, page: str, rev: int | None
) -> None:
    """The user's, or what was begun later without a login; None: neither, and nothing is seen."""
    visitor = shop.visitor()
    play(shop, visitor, script)
    if rev is None:
        assert_lost(visitor, page)
    else:
        assert visitor.see(page)["rev"] == rev
        visitor.walk(page)


@on_both
def test_a_view_may_log_in_and_move_on(shop: Members, kind: str) -> None:
    """The login is a step of the flow itself."""

    def log_in(page: str) -> None:
        if page == "address":
            session["user"] = "ann"

    shop.before_advance = log_in
    visitor = shop.visitor().walk("cart", "address")
    assert visitor.see("delivery")["rev"] == 2
    if kind != "session":
        assert shop.member("ann").see("delivery")["rev"] == 2


@on_both
def test_a_view_may_log_out_and_move_on(shop: Members, kind: str) -> None:
    """The step is the user's, and the browser sees nothing of it."""

    def log_out(page: str) -> None:
        if page == "address":
            del session["user"]

    shop.before_advance = log_out
    visitor = shop.member("ann").walk("cart", "address")
    assert_lost(visitor, "delivery")
    if kind != "session":
        assert shop.member("ann").see("delivery")["rev"] == 2


# -- time -----------------------------------------------------------------------------------


@on_fast
def test_a_users_flow_that_has_expired_begins_anew(
    members: Callable[..., Members], kind: str
) -> None:
    """The browser that had it is told; another one of the user begins without more ado."""
    shop = members(kind, FSM_FLOW_LIFETIME=float(DAY))
    laptop = shop.member("ann").walk("cart", "address")
    token = laptop.token("delivery")
    shop.clock.tick(DAY + 1)
    assert_refused(shop.copy(laptop).post("delivery", {}, token, "json"), "json", 410, "expired")
    response = laptop.open("delivery")
    assert (response.status_code, response.location) == (303, "/cart")
    assert len(notices(laptop.open("cart"))) == 1
    phone = shop.member("ann")
    assert phone.see("cart")["rev"] == 0
    phone.walk("cart")
    assert laptop.see("address")["rev"] == 1


@on_fast_and_session
def test_an_expired_flow_is_not_taken_along(members: Callable[..., Members], kind: str) -> None:
    """Who logs in after the flow has expired begins anew, and no open form revives it."""
    shop = members(kind, FSM_FLOW_LIFETIME=float(DAY))
    visitor = shop.visitor().walk("cart", "address")
    token = visitor.token("delivery")
    shop.clock.tick(DAY + 1)
    login(visitor, "ann")
    late = shop.copy(visitor).post("delivery", ANSWERS["delivery"], token, "json")
    assert_refused(late, "json", 410)
    assert_lost(visitor, "delivery")


@on_fast
def test_the_sessions_flow_is_kept_if_the_users_has_expired(
    members: Callable[..., Members], kind: str
) -> None:
    """What has expired is not there to be chosen, whatever on_login_conflict says."""
    shop = members(kind, FSM_FLOW_LIFETIME=float(DAY))
    shop.fsm.on_login_conflict(lambda session, users: users)
    shop.member("ann").walk("cart", "address", "delivery")
    shop.clock.tick(DAY + 1)
    visitor = shop.visitor().walk("cart")
    login(visitor, "ann")
    assert visitor.see("address")["rev"] == 1


# -- orders: a subject by a URL argument ----------------------------------------------------


class Orders:
    """An app whose flows belong to orders, by their numbers in the URLs."""

    def __init__(self, store: str) -> None:
        self.app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": store})
        self.fsm = FlaskFSM(self.app, Machine("orders", [("items", "ship"), ("ship", "sent")]))
        fsm = self.fsm

        @fsm.subject
        def order(number: int) -> int:
            return number

        for name in ("items", "ship", "sent"):

            @self.app.route(f"/<int:number>/{name}", methods=["GET", "POST"], endpoint=name)
            @fsm.check()
            def view(number: int, name: str = name) -> Any:
                return fsm.advance(data=typed()) if request.method == "POST" else show(name, fsm)

        @self.app.get("/where")
        def where() -> str:
            return fsm.current

        prepared(self.app, fsm)


@on_fast
def test_everybody_at_an_order_shares_its_flow(address: Store, kind: str) -> None:
    """Two browsers without any login continue the flow of one order."""
    app = Orders(address(kind)).app
    one, two = Visitor(app), Visitor(app)
    assert_moved(one.send("7/items", {"item": "a lamp"}), "html", "/7/ship")
    assert two.see("7/ship")["data"] == {"items": {"item": "a lamp"}}
    assert_moved(two.send("7/ship"), "html", "/7/sent")
    assert one.see("7/sent")["finished"]
    assert two.see("8/items")["rev"] == 0


@on_memory
def test_one_browser_goes_on_with_several_orders_in_turn(address: Store, kind: str) -> None:
    """The orders of one browser are apart, whichever was opened last."""
    visitor = Visitor(Orders(address(kind)).app)
    for step, page in enumerate(("items", "ship")):
        for number in (7, 8, 9):
            response = visitor.send(f"{number}/{page}", {"n": str(number)})
            assert response.status_code == 303, response.text
            assert response.location.startswith(f"/{number}/")
            after = visitor.see(response.location.lstrip("/"))
            assert (after["rev"], after["data"][page]) == (step + 1, {"n": str(number)})


@on_memory
def test_the_first_forms_of_two_orders_are_open_side_by_side(address: Store, kind: str) -> None:
    """Two tabs with two orders that nobody has begun: both forms are taken."""
    visitor = Visitor(Orders(address(kind)).app)
    tokens = {number: visitor.token(f"{number}/items") for number in (7, 8)}
    for number in (7, 8):
        response = visitor.post(f"{number}/items", {}, tokens[number])
        assert_moved(response, "html", f"/{number}/ship")


@on_memory
def test_the_token_of_one_order_is_no_good_for_another(address: Store, kind: str) -> None:
    """Both are at the same page and rev."""
    visitor = Visitor(Orders(address(kind)).app)
    for number in (7, 8):
        visitor.send(f"{number}/items")
    token = visitor.token("7/ship")
    assert_refused(visitor.post("8/ship", {}, token, "json"), "json", 409, "other_flow")


def test_where_the_order_is_not_named_there_is_no_flow(address: Store) -> None:
    """A view without the argument can't tell whose flow is meant: 404, and no fault of a page."""
    assert Visitor(Orders("memory://").app).open("where").status_code == 404


# -- what set-up refuses --------------------------------------------------------------------


def set_up_of(machine: Machine, subject: Callable[..., Any] | None, store: str) -> str:
    """What setting up an app with this machine and subject says."""
    app = Flask("faulty")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL=store)
    fsm = FlaskFSM(app, machine)
    if subject is not None:
        fsm.subject(subject)
    for name in machine.states:
        rule = f"/<order_id>/{name}"
        app.add_url_rule(rule, name, fsm.check()(lambda order_id: "page"), methods=["GET", "POST"])
    with pytest.raises(DefinitionError) as caught:
        app.test_client().get("/7/a")
    return str(caught.value)


@pytest.mark.parametrize("many", [True, "order_id"])
def test_many_flows_need_a_server(many: Any) -> None:
    """In the session there is one flow of a machine; set-up names the key of the config."""
    text = set_up_of(Machine("m", [("a", "b")], many=many), None, "session")
    assert f"many={many!r}" in text
    assert "FSM_STORE_URL" in text


def test_once_needs_a_server() -> None:
    """In the session there are no leases; set-up names the edge."""
    text = set_up_of(Machine("m", [Transition("a", "b", once=True)]), None, "session")
    assert "once=True" in text
    assert "'a', 'b'" in text


def test_a_subject_by_url_arguments_needs_a_server() -> None:
    """In the session a subject can only be the user; set-up names the argument."""
    text = set_up_of(Machine("m", [("a", "b")]), lambda order_id: order_id, "session")
    assert "order_id" in text
    assert "only the user can be the subject" in text


def test_all_that_needs_a_server_is_said_at_once() -> None:
    """One error names every fault."""
    machine = Machine("m", [Transition("a", "b", once=True)], many=True)
    text = set_up_of(machine, lambda order_id: order_id, "session")
    for part in ("once=True", "many=True", "order_id"):
        assert part in text


def test_a_page_without_the_argument_of_the_subject_is_a_fault() -> None:
    """A page that can't say whose flow it shows would always be a 404."""
    assert "number" in set_up_of(Machine("m", [("a", "b")]), lambda number: number, "memory://")


@pytest.mark.parametrize("function", [None, "user", 7])
def test_a_subject_that_is_no_function_is_refused(function: Any) -> None:
    """`@fsm.subject` takes a function; so does on_login_conflict."""
    fsm = FlaskFSM(Machine("m", [("a", "b")]))
    for decorate in (fsm.subject, fsm.on_login_conflict):
        with pytest.raises(DefinitionError):
            decorate(function)


@pytest.mark.parametrize("value", ["", True, False, 1.5, b"ann", [], {}, ("ann",)], ids=repr)
@pytest.mark.parametrize("kind", ["session", "memory://"])
def test_a_subject_that_names_nobody_is_an_error_of_the_app(kind: str, value: Any) -> None:
    """What is no text, number or UUID is refused by what it is, and nothing is shown."""
    shop = Members({"FSM_STORE_URL": kind}, subject=lambda: value)
    with pytest.raises(ConfigError, match="subject"):
        shop.visitor().open("cart")
    assert shop.ran == []


def test_the_error_of_a_wrong_subject_does_not_name_it() -> None:
    """It goes to the log, which must not say who was there: a user's `repr` often has the email."""

    class User:
        def __repr__(self) -> str:
            return "<User ada@example.com>"

    shop = Members({"FSM_STORE_URL": "memory://"}, subject=User)
    with pytest.raises(ConfigError, match="User") as caught:
        shop.visitor().open("cart")
    assert "ada@example.com" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [(7, "7"), (0, "0"), (UUID(int=5), str(UUID(int=5)))],
    ids=["number", "zero", "uuid"],
)
def test_a_subject_is_the_same_as_its_text(one: Any, other: Any) -> None:
    """A number and its digits are the same user."""
    now = [one]
    shop = Members({"FSM_STORE_URL": "memory://"}, subject=lambda: now[0])
    shop.visitor().walk("cart")
    now[0] = other
    assert shop.visitor().see("address")["rev"] == 1


@pytest.mark.parametrize("user", ["é|\x00\n", "x" * 5_000, "\ud800 "])
@on_fast
def test_a_user_may_be_called_anything(address: Store, kind: str, user: str) -> None:
    """Odd names, long ones and such that no encoding knows are names of users too."""
    now: list[str | None] = [user]
    shop = Members({"FSM_STORE_URL": address(kind)}, subject=lambda: now[0])
    shop.visitor().walk("cart", "address")
    assert shop.visitor().see("delivery")["rev"] == 2
    now[0] = "ann"
    assert shop.visitor().see("cart")["rev"] == 0


def test_a_subject_may_be_a_proxy() -> None:
    """What Flask hands out is often a proxy of the value."""
    from werkzeug.local import LocalProxy

    shop = Members({"FSM_STORE_URL": "memory://"}, subject=lambda: LocalProxy(lambda: "ann"))
    shop.visitor().walk("cart")
    assert shop.visitor().see("address")["rev"] == 1


# -- keys that change -----------------------------------------------------------------------


@on_served
def test_a_users_flow_outlives_the_key_of_the_app(shop: Members) -> None:
    """A new SECRET_KEY, with the old one as a fallback and then without: the flow goes on."""
    laptop = shop.member("ann").walk("cart", "address")
    before = laptop.see("delivery")
    shop.app.config["SECRET_KEY"] = "a new key"
    shop.app.config["SECRET_KEY_FALLBACKS"] = [SECRET]
    assert laptop.see("delivery") == before
    assert shop.member("ann").see("delivery") == before
    shop.app.config["SECRET_KEY_FALLBACKS"] = []
    phone = shop.member("ann")
    after = phone.see("delivery")
    assert {**after, "id": ""} == {**before, "id": ""}
    assert phone.see("delivery")["id"] == after["id"]
    phone.walk("delivery")
    assert shop.member("ann").see("payment") == phone.see("payment")


@on_fast
def test_a_users_flow_is_sealed_anew_by_a_commit(shop: Members) -> None:
    """After a commit under the new key the old one is not needed: the id stays the same."""
    shop.member("ann").walk("cart")
    shop.app.config["SECRET_KEY"] = "a new key"
    shop.app.config["SECRET_KEY_FALLBACKS"] = [SECRET]
    before = shop.member("ann").walk("address").see("delivery")
    shop.app.config["SECRET_KEY_FALLBACKS"] = []
    assert shop.member("ann").see("delivery") == before


@on_fast
def test_a_new_key_without_fallback_costs_the_open_forms_only(shop: Members) -> None:
    """The user logs in again and finds the flow; the form of before is no form of this site."""
    laptop = shop.member("ann").walk("cart", "address")
    token = laptop.token("delivery")
    shop.app.config["SECRET_KEY"] = "a new key"
    login(laptop, "ann")
    assert_refused(laptop.post("delivery", {}, token, "json"), "json", 400, "bad_token")
    laptop.walk("delivery")
    assert laptop.see("payment")["rev"] == 3


# -- several machines -----------------------------------------------------------------------


class Two(Members):
    """A shop with a second machine, whose pages have the endpoints `sign` and `signed`."""

    def __init__(self, store: str, own: Callable[..., Any] | None = None) -> None:
        app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": store})
        self.app = app
        self.fsm = FlaskFSM(app, Machine("first", [("cart", "address")]))
        self.fsm.subject(lambda: session.get("user"))
        second = self.second = self.fsm.add(Machine("second", [("sign", "signed")]))
        if own is not None:
            second.subject(own)
        for pages, names in ((self.fsm, ("cart", "address")), (second, ("sign", "signed"))):
            for name in names:

                @app.route(f"/{name}", methods=["GET", "POST"], endpoint=name)
                @pages.check()
                def view(pages: Any = pages, name: str = name) -> Any:
                    if request.method == "POST":
                        return pages.advance(data=typed())
                    return show(name, pages)

        @app.post("/login/<user>")
        def login(user: str) -> str:
            session["user"] = user
            return "in"

        prepared(app, self.fsm)


@on_fast
def test_added_machines_go_by_the_subject_of_the_first(address: Store, kind: str) -> None:
    """A user has a flow of each machine, and a login takes both along."""
    shop = Two(address(kind))
    visitor = shop.visitor()
    visitor.send("cart")
    visitor.send("sign")
    login(visitor, "ann")
    assert visitor.see("signed")["rev"] == 1
    assert visitor.see("address")["rev"] == 1
    phone = shop.member("ann")
    assert (phone.see("address")["rev"], phone.see("signed")["rev"]) == (1, 1)


def test_added_machines_go_by_the_on_login_conflict_of_the_first() -> None:
    """It is asked for the flows of each machine."""
    shop = Two("memory://")
    shop.fsm.on_login_conflict(lambda session, users: users)
    phone, visitor = shop.member("ann"), shop.visitor()
    for each in (phone, visitor):
        each.send("sign", {"by": "phone" if each is phone else "visitor"})
    login(visitor, "ann")
    assert visitor.see("signed")["data"] == {"sign": {"by": "phone"}}


def test_an_added_machine_may_have_a_subject_of_its_own() -> None:
    """Its flows belong to somebody else than those of the first."""
    shop = Two("memory://", own=lambda: "all")
    ann, bob = shop.member("ann"), shop.member("bob")
    ann.send("sign")
    ann.send("cart")
    assert bob.see("signed")["rev"] == 1
    assert bob.see("cart")["rev"] == 0


# -- what is stored -------------------------------------------------------------------------


def dump(shop: Any) -> list[str]:
    """Every row, or key and value, that the store of an app holds, as text."""
    url = shop.app.config["FSM_STORE_URL"]
    if url == "memory://":
        cells = shop.app.extensions["fsm"].store.records._cells
        # The process keeps the id as it is: its memory has the secret key as well.
        return [
            f"{at!r} {cell.record._replace(sealed='')!r} {cell.rows!r}"
            for at, cell in cells.items()
        ]
    return list(_dump_redis(url) if url.startswith("redis") else _dump_sql(url))


def _dump_redis(url: str) -> Iterator[str]:
    import redis

    with redis.Redis.from_url(url, decode_responses=True) as client:
        for key in client.keys("*"):
            kind = client.type(key)
            read = {
                "hash": client.hgetall,
                "stream": client.xrange,
                "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
                "string": client.get,
            }
            yield f"{key} {read[kind](key)!r}"


def _dump_sql(url: str) -> Iterator[str]:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    try:
        metadata = sa.MetaData()
        metadata.reflect(engine)
        with engine.connect() as connection:
            for table in metadata.tables.values():
                for row in connection.execute(sa.select(table)):
                    yield f"{table.name} {tuple(row)!r}"
    finally:
        engine.dispose()


@on_served
def test_what_is_only_looked_at_is_not_stored(shop: Members) -> None:
    """A GET, a HEAD, and a form that is refused leave nothing in the store."""
    visitor = shop.visitor()
    for page in ("cart", "address", "done"):
        visitor.open(page)
        visitor.open(page, "json")
        visitor.client.head(f"/{page}")
        visitor.client.options(f"/{page}")
    token = visitor.token("cart")
    assert visitor.post("address", {}, None).status_code == 409
    assert visitor.post("cart", {}, "x").status_code == 400
    assert visitor.post("cart", {"to": "moon"}, token).status_code == 400
    assert visitor.post("cart", {"to": "done"}, token).status_code == 409
    assert visitor.post("done", {}, token).status_code == 409
    assert shop.visitor().post("cart", {}, token).status_code == 410
    login(visitor, "ann")
    visitor.see("cart")
    logout(visitor)
    visitor.see("cart")
    assert dump(shop) == []


@on_served
def test_nothing_that_is_stored_opens_a_flow(shop: Members) -> None:
    """No id, cookie or token is found in a dump of the store; the SHA-256 of the id is."""
    visitor = shop.visitor().walk("cart")
    texts = [visitor.cookie, visitor.token("address"), shop.app.secret_key]
    ids = [visitor.see("address")["id"]]
    login(visitor, "ann")
    ids.append(visitor.see("address")["id"])
    visitor.walk("address", "delivery", "payment", "review")
    visitor.walk("cart")  # the next run
    ids.append(visitor.see("address")["id"])
    texts.append(visitor.cookie)
    nobody = shop.visitor().walk("cart")
    ids.append(nobody.see("address")["id"])
    texts += [nobody.cookie, nobody.token("address")]
    bob = shop.member("bob").walk("cart")
    ids.append(bob.see("address")["id"])
    restart(bob)
    bob.see("cart")
    found = "\n".join(dump(shop))
    for text in [*texts, *ids, *(id[:22] for id in ids)]:
        assert text not in found
    for text in texts[:1]:
        assert all(part not in found for part in text.split(".") if len(part) > 8)
    for named in (ids[0], ids[3], ids[4]):
        assert hashlib.sha256(named.encode()).hexdigest() in found


@on_fast
def test_the_id_that_a_login_gave_is_not_stored_in_the_clear(shop: Members) -> None:
    """Of a user's flow the dump holds a sealed id, which differs each time it is sealed."""
    visitor = shop.member("ann").walk("cart")
    first = dump(shop)
    visitor.walk("address")
    id = visitor.see("delivery")["id"][:22]
    assert id not in "\n".join([*first, *dump(shop)])


@on_both
def test_the_answer_does_not_depend_on_whether_a_login_was_made_twice(shop: Members) -> None:
    """A second login of the same user changes nothing, not even the id."""
    visitor = shop.member("ann").walk("cart")
    before = visitor.see("address")
    login(visitor, "ann")
    assert visitor.see("address") == before


def test_a_subject_may_end_the_request() -> None:
    """What the function answers by itself, such as a redirect to a login, is the answer."""
    from flask import abort

    shop = Members({"FSM_STORE_URL": "memory://"}, subject=lambda: abort(redirect("/login", 302)))
    response = shop.visitor().open("cart")
    assert (response.status_code, response.location) == (302, "/login")


@on_fast_and_session
def test_a_login_within_a_guarded_view_takes_the_flow_along_at_once(shop: Members) -> None:
    """So that nobody who logs in after a logout finds it, whatever the login's view has read."""

    @shop.app.post("/guarded-login/<user>")
    def guarded_login(user: str) -> str:
        from flask import session

        found = shop.fsm.current
        session["user"] = user
        return found

    visitor = shop.visitor().walk("cart", "address")
    assert visitor.client.post("/guarded-login/ann").text == "delivery"
    logout(visitor)
    login(visitor, "bob")
    assert_lost(visitor, "delivery")


@on_both
def test_machines_of_one_user_do_not_wait_for_each_other(
    members: Callable[..., Members], kind: str
) -> None:
    """A page that two machines guard takes a form, although both flows are the same user's."""
    shop = members(kind, FSM_LOCK_TIMEOUT=0.5)
    other = shop.fsm.add(Machine("other", [("both", "after")]))
    run: list[str] = []

    @shop.app.route("/both", methods=["GET", "POST"])
    @other.check()
    @shop.fsm.requires("address")
    def both() -> Any:
        run.append(other.current)
        return other.advance(data={})

    shop.app.add_url_rule("/after", "after", other.check()(lambda: "after"))
    visitor = shop.member("ann").walk("cart")
    assert_moved(visitor.post("both"), "html", "/after")
    assert run == ["both"]
