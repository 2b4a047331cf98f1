"""Links that continue a flow on another device: opening one asks, a POST moves the flow, once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import request, session
from werkzeug.routing import BaseConverter
from werkzeug.test import TestResponse

from flask_fsm import ConfigError, FlaskFSM, Machine

from ..apps import (
    ANSWERS,
    ASKING,
    SECRET,
    TO_REVIEW,
    Shop,
    Visitor,
    assert_moved,
    assert_private,
    assert_refused,
    fields_in,
    flask_app,
    notices,
    seen,
    show,
    typed,
)
from .test_many import Many
from .test_races import at_once, statuses
from .test_subjects import (
    Members,
    Orders,
    Store,
    address,
    assert_lost,
    dump,
    login,
    logout,
    prepared,
    restart,
)

__all__ = ["address"]  # a fixture

FAST = ["memory://", "sqlite", "redis"]

on_fast = pytest.mark.parametrize("kind", FAST)
on_served = pytest.mark.parametrize("kind", [*FAST, "postgres"])
# What no store has a part in is tested on one.
on_memory = pytest.mark.parametrize("kind", ["memory://"])


def linking(shop: Any) -> Any:
    """Let an app tell the link of a request's flow."""

    @shop.app.get("/link")
    def link() -> str:
        made: str = shop.fsm.resume_link(expires=float(request.args.get("expires", 3600)))
        return made

    return shop


@pytest.fixture
def members(address: Store) -> Callable[..., Members]:
    """A maker of shops with members and links on a kind of store."""

    def make(kind: str, **config: Any) -> Members:
        made: Members = linking(Members({**config, "FSM_STORE_URL": address(kind)}))
        return made

    return make


def link_of(visitor: Visitor, key: str | None = None, expires: float = 3600) -> str:
    """The path of a link to the flow of this browser."""
    query = f"expires={expires}" + ("" if key is None else f"&flow={key}")
    response = visitor.open(f"link?{query}")
    assert response.status_code == 200, response.text
    parts = urlsplit(response.text)
    assert (parts.scheme, parts.netloc, parts.query) == ("http", "localhost", "")
    return parts.path.removeprefix("/")


def assert_asks(response: TestResponse) -> None:
    """The page asks whether to go on here."""
    assert response.status_code == 200, response.text
    assert re.search(r'<form[^>]*method="post"', response.text)
    assert 'type="submit"' in response.text
    assert_private(response)


def confirmed(visitor: Visitor, link: str, location: str, **options: Any) -> None:
    """Open a link, and send its form."""
    assert_asks(visitor.open(link))
    response = visitor.post(link, **options)
    assert (response.status_code, response.location) == (303, location), response.text
    assert_private(response)


def assert_over(response: TestResponse, words: str) -> None:
    """The link is good no more; the page says why, and where one may start."""
    assert response.status_code == 410, response.text
    assert words in response.text
    assert 'href="/cart"' in response.text
    assert "Traceback" not in response.text
    assert_private(response)


# -- asking ---------------------------------------------------------------------------------


@on_served
def test_opening_a_link_asks_and_changes_nothing(
    members: Callable[..., Members], kind: str
) -> None:
    """However often mail scanners and people open it, the flow stays where it is."""
    shop = members(kind)
    laptop = shop.visitor().walk("cart", "address")
    before, link = laptop.see("delivery"), link_of(laptop)
    stored = dump(shop)
    for phone in (shop.visitor(), shop.member("bob"), laptop):
        for _ in range(2):
            assert_asks(phone.open(link))
            head = phone.client.head(f"/{link}")
            assert (head.status_code, head.data) == (200, b"")
            phone.client.options(f"/{link}")
    for asking in ASKING:
        assert shop.visitor().open(link, asking).status_code == 200
    for method in ("PUT", "DELETE", "PATCH"):
        assert shop.visitor().client.open(f"/{link}", method=method).status_code == 405
    assert dump(shop) == stored
    assert laptop.see("delivery") == before
    confirmed(shop.visitor(), link, "/delivery")


@on_memory
def test_opening_a_link_gives_no_cookie_that_opens_the_flow(
    members: Callable[..., Members], kind: str
) -> None:
    """Who has only opened it, and not confirmed, has nothing."""
    shop = members(kind)
    link = link_of(shop.visitor().walk("cart", "address"))
    phone = shop.visitor()
    response = phone.open(link)
    assert "Elm Street" not in response.text
    assert_lost(phone, "delivery")


# -- confirming -----------------------------------------------------------------------------


@on_fast
def test_a_confirmed_link_continues_the_flow_there(
    members: Callable[..., Members], kind: str
) -> None:
    """The other browser has the answers and the path, under a new id, and moves on."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart", "address"), shop.visitor()
    before = laptop.see("delivery")
    confirmed(phone, link_of(laptop), "/delivery")
    after = phone.see("delivery")
    assert after["id"] != before["id"]
    assert {**after, "id": ""} == {**before, "id": ""}
    phone.walk("delivery", "payment", "review")
    assert phone.see("done")["finished"]


@on_fast
def test_the_first_browser_has_lost_the_flow(members: Callable[..., Members], kind: str) -> None:
    """Its open form is 410 and says where the flow is, its pages lead to a new beginning."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart", "address"), shop.visitor()
    token = laptop.token("delivery")
    confirmed(phone, link_of(laptop), "/delivery")
    by_form = shop.copy(laptop)
    assert_over(by_form.post("delivery", ANSWERS["delivery"], token), "elsewhere")
    response = shop.copy(laptop).post("delivery", ANSWERS["delivery"], token, "json")
    assert_refused(response, "json", 410, "moved")
    assert "elsewhere" in response.json["detail"]
    response = laptop.open("delivery")
    assert (response.status_code, response.location) == (303, "/cart")
    assert notices(laptop.open("cart")) == ["This form is no longer open. Please start again."]
    laptop.walk("cart")
    assert (laptop.see("address")["rev"], phone.see("delivery")["rev"]) == (1, 2)


@on_fast
def test_the_history_goes_along_once(members: Callable[..., Members], kind: str) -> None:
    """The log of all runs has each entry once, also after the way there and back."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart", "address"), shop.visitor()
    confirmed(phone, link_of(laptop), "/delivery")
    phone.walk("delivery")
    confirmed(laptop, link_of(phone), "/payment")
    laptop.walk("payment")
    with shop.app.app_context():
        logged = [(entry.source, entry.target) for entry in shop.fsm.log()]
    assert logged == [
        ("cart", "address"),
        ("address", "delivery"),
        ("delivery", "payment"),
        ("payment", "review"),
    ]


@on_fast
def test_a_link_made_before_further_steps_still_works(
    members: Callable[..., Members], kind: str
) -> None:
    """It leads to the flow as it is when the link is used."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(laptop)
    laptop.walk("address", "delivery")
    confirmed(phone, link, "/payment")
    assert phone.see("payment")["rev"] == 3


@on_memory
def test_a_link_to_a_finished_flow_leads_to_its_last_page(
    members: Callable[..., Members], kind: str
) -> None:
    """A receipt may be looked at on another device."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk(*TO_REVIEW), shop.visitor()
    link = link_of(laptop)
    laptop.walk("review")
    confirmed(phone, link, "/done")
    assert phone.see("done")["finished"]


@on_fast
def test_the_other_browser_leaves_what_it_had(members: Callable[..., Members], kind: str) -> None:
    """It had a flow of its own, with an open form: now it has the one of the link."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart", "address"), shop.visitor().walk("cart")
    token = phone.token("address")
    confirmed(phone, link_of(laptop), "/delivery", data={"keep": "linked"})
    assert phone.see("delivery")["rev"] == 2
    response = phone.post("address", ANSWERS["address"], token, "json")
    assert_refused(response, "json", 409)
    assert phone.see("delivery")["rev"] == 2


@on_fast
def test_a_flow_goes_there_and_back(members: Callable[..., Members], kind: str) -> None:
    """Each new link works, and each old one has been used."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    first = link_of(laptop)
    confirmed(phone, first, "/address")
    phone.walk("address")
    second = link_of(phone)
    confirmed(laptop, second, "/delivery")
    assert laptop.see("delivery")["rev"] == 2
    for link in (first, second):
        assert_over(phone.post(link), "used")


@on_memory
def test_a_link_may_be_opened_where_the_flow_is(members: Callable[..., Members], kind: str) -> None:
    """Whoever opens the own link in the same browser just goes on."""
    shop = members(kind)
    laptop = shop.visitor().walk("cart")
    confirmed(laptop, link_of(laptop), "/address")
    laptop.walk("address")
    assert laptop.see("delivery")["rev"] == 2


# -- a link that a stranger sent -------------------------------------------------------------


def own_flow(shop: Members, who: str) -> Visitor:
    """A visitor, or a member, who is at the address."""
    return (shop.visitor() if who == "visitor" else shop.member("bob")).walk("cart")


on_whose = pytest.mark.parametrize("who", ["visitor", "member"])


@on_whose
@on_fast
def test_the_page_of_a_link_says_what_it_would_end_and_begin(
    members: Callable[..., Members], kind: str, who: str
) -> None:
    """It names the pages and the times of both flows, but no answers, and tells nobody the link."""
    shop = members(kind)
    victim = own_flow(shop, who)
    shop.clock.tick(3600)
    link = link_of(shop.visitor().walk("cart", "address"))
    page = victim.open(link)
    assert_asks(page)
    assert "at the page “Delivery”, last changed on 2027-01-15 09:00 UTC" in page.text
    assert "at the page “Address”, last changed on 2027-01-15 08:00 UTC" in page.text
    assert "If you did not ask for this link, do not use it" in page.text
    assert "Elm Street" not in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert victim.see("address")["rev"] == 1


@on_whose
@on_fast
def test_a_link_replaces_no_flow_unless_the_visitor_says_so(
    members: Callable[..., Members], kind: str, who: str
) -> None:
    """A click on a confirmation that does not choose asks again; both flows stay as they are."""
    shop = members(kind)
    victim, stranger = own_flow(shop, who), shop.visitor().walk("cart", "address")
    link = link_of(stranger)
    for data in ({}, {"keep": "both"}):
        asked = victim.post(link, data)
        assert asked.status_code == 409
        assert 'value="linked"' in asked.text
        assert victim.see("address")["rev"] == 1
    kept = victim.post(link, {"keep": "own"})
    assert (kept.status_code, kept.location) == (303, "/address")
    assert (victim.see("address")["rev"], stranger.see("delivery")["rev"]) == (1, 2)
    confirmed(shop.visitor(), link, "/delivery")


@on_whose
@on_memory
def test_an_app_may_forbid_that_a_link_replaces_a_flow(
    members: Callable[..., Members], kind: str, who: str
) -> None:
    """`on_login_conflict` decides: if it keeps the user's flow, the link is not taken."""
    shop = members(kind)
    shop.fsm.on_login_conflict(lambda session, users: users)
    victim = own_flow(shop, who)
    link = link_of(shop.visitor().walk("cart", "address"))
    page = victim.open(link)
    assert "It is kept, so the link" in page.text
    assert 'value="linked"' not in page.text
    response = victim.post(link, {"keep": "linked"})
    assert (response.status_code, response.location) == (303, "/address")
    assert victim.see("address")["rev"] == 1


@on_memory
def test_an_app_may_let_a_link_replace_a_flow(members: Callable[..., Members], kind: str) -> None:
    """If `on_login_conflict` keeps the session's flow, the one of the link is; unless refused."""
    shop = members(kind)
    shop.fsm.on_login_conflict(lambda session, users: session)
    bob = shop.member("bob").walk("cart")
    link = link_of(shop.visitor().walk("cart", "address"))
    assert bob.post(link, {"keep": "own"}).location == "/address"
    confirmed(bob, link, "/delivery")


@on_memory
def test_a_finished_flow_is_nothing_that_a_link_would_end(
    members: Callable[..., Members], kind: str
) -> None:
    """Nor is a page that was only opened: the link asks as on a device that has nothing."""
    shop = members(kind)
    done, fresh = shop.visitor().walk(*TO_REVIEW, "review"), shop.visitor()
    fresh.open("cart")
    for phone in (done, fresh):
        confirmed(phone, link_of(shop.visitor().walk("cart")), "/address")


@on_memory
def test_a_link_replaces_no_order_of_the_same_number(address: Store, kind: str) -> None:
    """With a flow for each order of a visitor, the own one of the same number is asked about."""
    shop = linking(Many(address(kind), "order_id"))
    shop.app.add_url_rule("/<order_id>/link", "l", lambda order_id: shop.fsm.resume_link())
    victim, stranger = shop.browser(), shop.browser()
    victim.began("7")
    stranger.began("7")
    stranger.go("7", "ship")
    link = urlsplit(stranger.open("7/link").text).path.lstrip("/")
    assert victim.post(link).status_code == 409
    assert victim.see("7/ship")["rev"] == 1
    assert victim.post(link, {"keep": "own"}).location == "/7/ship"
    assert victim.post(link, {"keep": "linked"}).location == "/7/pay"
    assert victim.see("7/pay")["rev"] == 2


# -- once, and for a time -------------------------------------------------------------------


@on_served
def test_a_link_that_was_used_is_410(members: Callable[..., Members], kind: str) -> None:
    """In the first browser and in any other; the one that used it may press the button again."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(laptop)
    confirmed(phone, link, "/address")
    for browser in (laptop, shop.visitor(), shop.member("bob")):
        assert_over(browser.open(link), "used")
        assert_over(browser.post(link), "used")
    assert_over(phone.open(link), "used")
    assert_moved(phone.post(link), "html", "/address")
    assert phone.see("address")["rev"] == 1


@on_fast
def test_of_two_links_to_a_flow_one_can_be_used(members: Callable[..., Members], kind: str) -> None:
    """With the flow gone to another device, every link to where it was is void."""
    shop = members(kind)
    laptop = shop.visitor().walk("cart")
    links = [link_of(laptop), link_of(laptop, expires=60)]
    confirmed(shop.visitor(), links[1], "/address")
    assert_over(shop.visitor().post(links[0]), "used")


@on_fast
def test_a_link_used_by_two_at_once_moves_the_flow_once(
    members: Callable[..., Members], kind: str
) -> None:
    """One of them has the flow, and the others are told that the link has been used."""
    shop = members(kind)
    link = link_of(shop.visitor().walk("cart"))
    phones = [shop.visitor() for _ in range(6)]
    answers = at_once(*(lambda phone=phone: phone.post(link) for phone in phones))
    assert statuses(answers) == {303: 1, 410: 5}
    owners = [phone for phone in phones if phone.open("address").status_code == 200]
    assert len(owners) == 1


@on_memory
def test_a_link_expires(members: Callable[..., Members], kind: str) -> None:
    """After its time it is 410, and the flow stays where it is."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(laptop, expires=60)
    shop.clock.tick(60)
    assert_asks(phone.open(link))
    shop.clock.tick(1)
    assert_over(phone.open(link), "short time")
    assert_over(phone.post(link), "short time")
    assert laptop.see("address")["rev"] == 1


@on_fast
def test_a_link_to_a_run_that_was_given_up_is_410(
    members: Callable[..., Members], kind: str
) -> None:
    """A reset makes every link to the run void."""
    shop = members(kind)
    laptop = shop.visitor().walk("cart")
    link = link_of(laptop)
    restart(laptop)
    laptop.walk("cart")
    assert_over(shop.visitor().open(link), "used")
    assert_over(shop.visitor().post(link), "used")
    assert laptop.see("address")["rev"] == 1


@on_fast
def test_a_link_to_a_flow_that_has_expired_is_410(
    members: Callable[..., Members], kind: str
) -> None:
    """A link that would last longer than the flow revives nothing."""
    shop = members(kind, FSM_FLOW_LIFETIME=100.0)
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(laptop)
    shop.clock.tick(101)
    assert phone.open(link).status_code == 410
    assert phone.post(link).status_code == 410
    assert phone.open("address").status_code == 303


# -- what is no link ------------------------------------------------------------------------


@pytest.mark.parametrize("asking", ASKING)
def test_a_forged_link_is_404(address: Store, asking: str) -> None:
    """Whatever is changed, it is a page that is not there, and always the same one."""
    shop = linking(Members({"FSM_STORE_URL": address("sqlite")}))
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(laptop)
    start, _, signed = link.rpartition("/")
    other = linking(Members({"FSM_STORE_URL": "memory://"}))
    other.app.secret_key = "another key"
    strange = link_of(other.visitor().walk("cart")).rpartition("/")[2]
    changed = [
        signed[:place] + ("A" if signed[place] != "A" else "B") + signed[place + 1 :]
        for place in range(0, len(signed) - 1, 9)
    ]
    token = laptop.token("address")
    odd = ["x", ".", "..x", "%00", "%FF", "%F0%9F%92%A5", "x" * 5_000, signed + ".", signed[:-5]]
    texts = set()
    for text in [*changed, strange, token, *odd]:
        for response in (
            phone.open(f"{start}/{text}", asking),
            phone.post(f"{start}/{text}", asking=asking),
        ):
            assert response.status_code == 404, response.text
            assert response.headers["Cache-Control"] == "no-store"
            texts.add(response.text)
    assert len(texts) == 1
    assert laptop.see("address")["rev"] == 1


@on_memory
def test_a_link_of_another_machine_is_404(address: Store, kind: str) -> None:
    """The name of the machine in the address is not to be exchanged."""
    app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": address(kind)})
    fsm = FlaskFSM(app, Machine("first", [("a", "b")]))
    fsm.subject(lambda: session.get("user"))
    second = fsm.add(Machine("second", [("c", "d")]))
    for pages, names in ((fsm, "ab"), (second, "cd")):
        for name in names:

            @app.route(f"/{name}", methods=["GET", "POST"], endpoint=name)
            @pages.check()
            def view(pages: Any = pages, name: str = name) -> Any:
                return (
                    pages.advance(data=typed()) if request.method == "POST" else show(name, pages)
                )

    @app.get("/link")
    def link() -> str:
        return fsm.resume_link()

    @app.post("/login/<user>")
    def log_in(user: str) -> str:
        session["user"] = user
        return "in"

    prepared(app, fsm)
    for user in (None, "ann"):
        laptop, phone = Visitor(app), Visitor(app)
        for each in (laptop, phone) if user else ():
            login(each, user)
        laptop.send("a")
        laptop.send("c")
        path = link_of(laptop)
        assert "/first/" in path
        for name in ("second", "third", "%00"):
            for response in (
                phone.open(path.replace("/first/", f"/{name}/")),
                phone.post(path.replace("/first/", f"/{name}/")),
            ):
                assert response.status_code == 404, response.text
        confirmed(phone, path, "/b")


# -- from where it is confirmed -------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://evil.example/localhost"},
        {"Origin": "http://localhost:8080"},
        {"Origin": "http://localhost@evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
    ],
    ids=lambda headers: " ".join(f"{name[:3]}={value}" for name, value in headers.items()),
)
def test_a_post_from_another_site_moves_nothing(headers: dict[str, str]) -> None:
    """Nobody pushes a flow of theirs on a visitor, nor takes the visitor's by a form."""
    shop = linking(Members({"FSM_STORE_URL": "memory://"}))
    attacker, victim = shop.visitor().walk("cart"), shop.visitor().walk("cart", "address")
    before = victim.see("delivery")
    link = link_of(attacker)
    response = victim.post(link, headers=headers)
    assert response.status_code in (200, 403), response.text
    assert victim.see("delivery") == before
    assert attacker.see("address")["rev"] == 1
    confirmed(shop.visitor(), link, "/address")


def test_a_post_from_the_http_page_of_an_https_site_moves_nothing() -> None:
    """Whoever is on the network can change a page that came by http."""
    shop = linking(Members({"FSM_STORE_URL": "memory://"}))
    owner, other = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(owner)
    insecure = {"Origin": "http://localhost"}
    other.client.post(f"/{link}", base_url="https://localhost", headers=insecure)
    assert owner.see("address")["rev"] == 1
    other.client.post(
        f"/{link}", base_url="https://localhost", headers={"Origin": "https://localhost"}
    )
    assert owner.open("address").status_code != 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Origin": "http://localhost"},
    ],
    ids=lambda headers: " ".join(f"{name[:3]}={value}" for name, value in headers.items()),
)
def test_a_post_from_the_page_of_the_link_moves_the_flow(headers: dict[str, str]) -> None:
    """What browsers old and new send from a page of this site."""
    shop = linking(Members({"FSM_STORE_URL": "memory://"}))
    link = link_of(shop.visitor().walk("cart"))
    confirmed(shop.visitor(), link, "/address", headers=headers)


@on_memory
def test_the_form_works_with_csrf_protect(members: Callable[..., Members], kind: str) -> None:
    """The page has Flask-WTF's token, without which a POST is refused."""
    from flask_wtf.csrf import CSRFProtect

    shop = members(kind, WTF_CSRF_CHECK_DEFAULT=False, WTF_CSRF_FIELD_NAME="csrf_field")
    CSRFProtect(shop.app)
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(laptop)
    shop.app.config["WTF_CSRF_CHECK_DEFAULT"] = True
    page = phone.open(link)
    assert_asks(page)
    assert phone.post(link).status_code == 400
    assert laptop.see("address")["rev"] == 1
    response = phone.post(link, {"csrf_field": fields_in(page.text)["csrf_field"]})
    assert (response.status_code, response.location) == (303, "/address")
    assert phone.see("address")["rev"] == 1


# -- users ----------------------------------------------------------------------------------


@on_fast
def test_a_link_to_a_users_flow_is_for_that_user(
    members: Callable[..., Members], kind: str
) -> None:
    """For everybody else it is 404, the same as a forged one, and changes nothing."""
    shop = members(kind)
    laptop = shop.member("ann").walk("cart", "address")
    link = link_of(laptop)
    before = laptop.see("delivery")
    forged = shop.visitor().open(link[:-3] + "xyz").text
    for browser in (shop.visitor(), shop.member("bob")):
        for response in (browser.open(link), browser.post(link)):
            assert response.status_code == 404
            assert response.text == forged
        assert browser.open("delivery").status_code == 303
    assert laptop.see("delivery") == before
    phone = shop.member("ann")
    confirmed(phone, link, "/delivery")
    assert phone.see("delivery")["rev"] == laptop.see("delivery")["rev"] == 2
    assert_over(phone.open(link), "used")
    assert_over(phone.post(link), "used")


@on_fast
def test_a_link_to_nobodys_flow_may_be_used_by_a_user(
    members: Callable[..., Members], kind: str
) -> None:
    """From then on it is that user's, on all devices; a logout leaves nothing."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart", "address"), shop.member("ann")
    confirmed(phone, link_of(laptop), "/delivery")
    assert phone.see("delivery")["rev"] == 2
    assert shop.member("ann").see("delivery")["rev"] == 2
    assert_lost(laptop, "delivery")
    logout(phone)
    assert_lost(phone, "delivery")


@on_fast
def test_a_user_who_confirms_a_link_goes_on_with_what_it_leads_to(
    members: Callable[..., Members], kind: str
) -> None:
    """Although the user has another flow, moved later: that was asked, and answered."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart", "address"), shop.member("ann")
    shop.clock.tick(60)
    phone.walk("cart")
    confirmed(phone, link_of(laptop), "/delivery", data={"keep": "linked"})
    assert phone.see("delivery")["rev"] == 2


@on_fast
def test_a_link_from_before_a_login_is_void(members: Callable[..., Members], kind: str) -> None:
    """The login has taken the flow along: the link leads nobody to what is the user's now."""
    shop = members(kind)
    laptop = shop.visitor().walk("cart")
    link = link_of(laptop)
    login(laptop, "ann")
    laptop.see("address")
    for browser in (shop.visitor(), shop.member("bob"), shop.member("ann")):
        assert browser.open(link).status_code in (404, 410)
        assert browser.post(link).status_code in (404, 410)
    assert laptop.see("address")["rev"] == 1


@on_memory
def test_a_link_to_an_order_leads_to_its_pages(address: Store, kind: str) -> None:
    """Where the subject is an order, the path says which."""
    orders = linking(Orders(address(kind)))
    orders.app.add_url_rule("/<int:number>/link", "l", lambda number: orders.fsm.resume_link())
    laptop, phone = Visitor(orders.app), Visitor(orders.app)
    laptop.send("7/items", {"item": "a lamp"})
    link = urlsplit(laptop.open("7/link").text).path.lstrip("/")
    confirmed(phone, link, "/7/ship")
    assert phone.see("7/ship")["rev"] == 1


@on_memory
def test_a_link_to_an_order_of_a_converter_leads_to_its_pages(address: Store, kind: str) -> None:
    """The subject function gets what the app's own converter makes of the URL, here too."""
    app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": address(kind)})

    class PairConverter(BaseConverter):
        def to_python(self, value: str) -> tuple[str, str]:
            return "order", value

        def to_url(self, value: tuple[str, str]) -> str:
            return value[1]

    app.url_map.converters["pair"] = PairConverter
    fsm = FlaskFSM(app, Machine("orders", [("a", "b"), ("b", "c")]))
    fsm.subject(lambda order: order[1])
    for name in "abc":

        @app.route(f"/<pair:order>/{name}", methods=["GET", "POST"], endpoint=name)
        @fsm.check()
        def view(order: tuple[str, str], name: str = name) -> Any:
            return fsm.advance(data=typed()) if request.method == "POST" else show(name, fsm)

    app.add_url_rule("/<pair:order>/link", "l", lambda order: fsm.resume_link())
    prepared(app, fsm)
    laptop, phone = Visitor(app), Visitor(app)
    laptop.send("7/a")
    link = urlsplit(laptop.open("7/link").text).path.lstrip("/")
    confirmed(phone, link, "/7/b")


# -- many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [True, "order_id"])
@on_served
def test_one_flow_of_many_goes_to_the_other_browser_and_back(
    address: Store, kind: str, many: Any
) -> None:
    """It takes its key along and leaves the others; each browser keeps the rest of its own."""
    shop = linking(Many(address(kind), many))
    if many is not True:
        shop.app.add_url_rule("/<order_id>/link", "l", lambda order_id: shop.fsm.resume_link())
    laptop, phone = shop.browser(), shop.browser()
    keys = [laptop.began("1"), laptop.began("2")]
    own = phone.began("3")

    def link(browser: Any) -> str:
        if many is True:
            return link_of(browser, keys[0])
        return urlsplit(browser.open(f"{keys[0]}/link").text).path.lstrip("/")

    first = link(laptop)
    confirmed(phone, first, f"/{phone.at('ship', keys[0])}")
    phone.go(keys[0], "ship")
    assert phone.see(phone.at("pay", keys[0]))["data"]["items"]["of"] == keys[0]
    assert phone.see(phone.at("ship", own))["rev"] == 1
    assert laptop.open(laptop.at("pay", keys[0])).status_code in (303, 404)
    assert laptop.see(laptop.at("ship", keys[1]))["rev"] == 1
    assert phone.open(phone.at("ship", keys[1])).status_code in (303, 404)
    assert shop.browser().post(first).status_code == 410
    confirmed(laptop, link(phone), f"/{laptop.at('pay', keys[0])}")
    laptop.go(keys[0], "pay")
    assert laptop.see(laptop.at("sent", keys[0]))["finished"]
    assert phone.open(phone.at("pay", keys[0])).status_code in (303, 404)


@on_fast
def test_a_link_makes_room_where_it_leads_to(address: Store, kind: str) -> None:
    """The other browser has as many flows as it may: its oldest goes, and not that of the link."""
    shop = linking(Many(address(kind), FSM_FLOWS_PER_SUBJECT=2))
    laptop, phone = shop.browser(), shop.browser()
    key = laptop.began()
    shop.clock.tick(60)
    own = [phone.began()]
    shop.clock.tick(60)
    own.append(phone.began())
    shop.clock.tick(60)
    confirmed(phone, link_of(laptop, key), f"/ship?flow={key}")
    assert {flow["key"] for flow in phone.mine()} == {own[1], key}


# -- what it says, and where it can't be made -----------------------------------------------


@on_fast
def test_a_link_says_nothing_that_opens_the_flow(
    members: Callable[..., Members], kind: str
) -> None:
    """Neither the id nor an answer is in it, also if decoded; and the store does not hold it."""
    from base64 import urlsafe_b64decode

    shop = members(kind)
    for laptop in (shop.visitor(), shop.member("ann")):
        laptop.walk("cart", "address")
        id = laptop.see("delivery")["id"]
        signed = link_of(laptop).rpartition("/")[2]
        payload = signed.lstrip(".").split(".")[0]
        text = urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode("latin-1")
        assert id[:22] not in signed + text
        assert "Elm" not in signed + text
        assert signed not in "\n".join(dump(shop))


@on_memory
def test_a_link_outlives_a_change_of_key(members: Callable[..., Members], kind: str) -> None:
    """With the old key as a fallback it works; without, it is no link of this site."""
    shop = members(kind)
    for user in (None, "ann"):
        for fallbacks, status in (([SECRET], 200), ([], 404)):
            shop.app.config.update(SECRET_KEY=SECRET, SECRET_KEY_FALLBACKS=None)
            laptop = shop.member(user)
            if not user or laptop.open("address").status_code == 303:
                laptop.walk("cart")
            link = link_of(laptop)
            shop.app.config.update(SECRET_KEY="a new key", SECRET_KEY_FALLBACKS=fallbacks)
            phone = shop.member(user)
            assert phone.open(link).status_code == status
            if status == 200:
                confirmed(phone, link, "/address")
                assert phone.see("address")["rev"] == 1
            else:
                assert phone.post(link).status_code == status


def test_the_links_lie_under_the_prefix() -> None:
    """FSM_URL_PREFIX moves them, too."""
    shop = linking(Members({"FSM_STORE_URL": "memory://", "FSM_URL_PREFIX": "/flows"}))
    link = link_of(shop.visitor().walk("cart"))
    assert link.startswith("flows/shop/resume/")
    confirmed(shop.visitor(), link, "/address")


def test_a_blank_flow_has_no_link() -> None:
    """There is nothing to continue, and the answer says so."""
    shop = linking(Members({"FSM_STORE_URL": "memory://"}))
    response = shop.visitor().open("link", "json")
    assert (response.status_code, response.json["reason"]) == (409, "not_begun")


def test_the_session_has_no_links() -> None:
    """Where flows live in the cookie, the error names the key of the config."""
    shop: Shop = linking(Shop({"SECRET_KEY": SECRET, "TESTING": True}))
    with pytest.raises(ConfigError, match="FSM_STORE_URL"):
        shop.visitor().walk("cart").open("link")


@on_fast
def test_a_link_is_confirmed_by_an_old_browser_whose_form_is_open(
    members: Callable[..., Members], kind: str
) -> None:
    """The phone had opened the link before the laptop went on: the newest state is continued."""
    shop = members(kind)
    laptop, phone = shop.visitor().walk("cart"), shop.visitor()
    link = link_of(laptop)
    assert_asks(phone.open(link))
    token = laptop.token("address")
    laptop.post("address", ANSWERS["address"], token)
    assert_moved(phone.post(link), "html", "/delivery")
    assert seen(phone.open("delivery"))["rev"] == 2
    # The first device sends its last form again, whose answer it never saw.
    response = laptop.post("address", ANSWERS["address"], token, "json")
    assert response.status_code in (200, 410)
    assert phone.see("delivery")["rev"] == 2


@on_fast
def test_the_answer_to_a_link_may_get_lost(members: Callable[..., Members], kind: str) -> None:
    """The flow has gone to a browser that has not heard of it: pressing again finds it."""
    shop = members(kind)
    link = link_of(shop.visitor().walk("cart"))
    phone = shop.visitor()
    assert phone.open(link).status_code == 200
    for _ in range(2):
        assert_moved(shop.copy(phone).post(link), "html", "/address")
    assert_moved(phone.post(link), "html", "/address")
    assert phone.see("address")["rev"] == 1
