"""The example app without a browser: its pages, its ways, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, template_rendered

from example_app import create_app, machines
from example_app.ledger import Ledger
from flask_fsm import FlowFinished, InvalidTransition, Snapshot

from ..store_servers import KINDS
from .visitor import (
    ADDRESS,
    GIFT,
    PARCEL,
    PASSWORD,
    PICKUP,
    REVIEW,
    SIGNUP,
    Visitor,
)

ROOT = Path(__file__).parents[2]
PRESENT = {
    "": {"ink": "1"},
    "delivery": {"how": "pickup", "gift": "y"},
    "pickup": PICKUP["pickup"],
    "wrapping": GIFT["wrapping"],
    "payment": {"method": "shop", "email": "ada@example.com"},
    "review": REVIEW,
}
WAYS = pytest.mark.parametrize(
    "way",
    [
        pytest.param(PARCEL, id="parcel"),
        pytest.param(GIFT, id="gift by parcel"),
        pytest.param(PICKUP, id="pick-up"),
        pytest.param(PRESENT, id="gift picked up"),
    ],
)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {
        "SECRET_KEY": "a key for tests",
        "TESTING": True,
        "FSM_STORE_URL": "session",
        "LEDGER": tmp_path / "ledger",
    }


@pytest.fixture
def app(config: dict[str, Any]) -> Flask:
    return create_app(config)


@pytest.fixture
def visitor(app: Flask) -> Visitor:
    return Visitor(app)


@pytest.fixture
def ledger(app: Flask) -> Ledger:
    found: Ledger = app.extensions["example_ledger"]
    return found


@contextmanager
def rendered(app: Flask) -> Iterator[list[str | None]]:
    """The templates that were rendered meanwhile: each view here renders one."""
    names: list[str | None] = []

    def note(sender: Flask, template: Any, **_: Any) -> None:
        names.append(template.name)

    with template_rendered.connected_to(note, app):
        yield names


# -- the checkout -------------------------------------------------------------------------------


@WAYS
def test_every_page_shows_once_it_is_reached(
    app: Flask, ledger: Ledger, way: dict[str, dict[str, str]]
) -> None:
    """Each way through the checkout shows a page after the other, and ends in one order."""
    visitor = Visitor(app)
    names = list(way)
    for name, leads_to in zip(names, [*names[1:], "done"], strict=True):
        page = visitor.open(name)
        assert page.status_code == 200
        assert page.headers["Cache-Control"] == "no-store"
        answer = visitor.submit(way[name])
        assert (answer.status_code, answer.location) == (303, f"/checkout/{leads_to}")
    assert ledger.orders()[0]["checkout.review"]["number"] in visitor.open("done").text
    assert [name.removeprefix("checkout.") for name in ledger.orders()[0]] == [
        n or "cart" for n in names
    ]


@pytest.mark.parametrize(
    "path",
    [
        *(f"/checkout/{name}" for name in [*GIFT, "pickup", "done"] if name),
        *(f"/signup/{name}" for name in [*SIGNUP, "welcome"] if name),
        *(f"/poc/{name}" for name in "abc"),
    ],
)
def test_no_page_runs_before_its_time(app: Flask, path: str) -> None:
    """A deep link runs no view: it leads to the first page, which says so."""
    client = app.test_client()
    root = f"/{path.split('/')[1]}/"
    with rendered(app) as templates:
        answer = client.get(path)
    assert (answer.status_code, answer.location) == (303, root)
    assert templates == []
    assert 'role="status"' in client.get(root).text


@pytest.mark.parametrize("name", [name for name in [*GIFT, "pickup"] if name])
def test_no_form_is_taken_before_its_time(
    app: Flask, visitor: Visitor, ledger: Ledger, name: str
) -> None:
    """A form sent to a later page, with the first page's token or none, is refused unseen."""
    form = visitor.fields("", GIFT.get(name, PICKUP.get(name, {})))
    with rendered(app) as templates:
        with_token = visitor.post(name, form)
        form.pop("fsm_token")
        without = visitor.post(name, form)
    assert (with_token.status_code, without.status_code) == (409, 409)
    assert not [template for template in templates if not str(template).startswith("fsm/")]
    assert ledger.orders() == []


def test_an_order_sent_three_times_is_one(visitor: Visitor, ledger: Ledger) -> None:
    """The last form sent three times makes one order, and leads to the same end page."""
    visitor.walk(PARCEL, to="review")
    form = visitor.form_of("review")
    answers = [form.submit(REVIEW) for _ in range(3)]
    assert [(answer.status_code, answer.location) for answer in answers] == [
        (303, "/checkout/done")
    ] * 3
    assert len(ledger.orders()) == 1


def test_the_next_order_is_another_one(visitor: Visitor, ledger: Ledger) -> None:
    """After the end the cart is blank, and the whole way can be gone again."""
    visitor.walk(PARCEL)
    page = visitor.open("")
    assert page.status_code == 200
    assert 'value="2"' not in page.text
    visitor.walk(PICKUP)
    assert [order["checkout.delivery"]["how"] for order in ledger.orders()] == ["parcel", "pickup"]
    assert len({order["checkout.review"]["number"] for order in ledger.orders()}) == 2


def test_a_changed_branch_leaves_nothing_in_the_order(visitor: Visitor, ledger: Ledger) -> None:
    """A gift parcel changed into a plain pick-up: the order has no address and no paper."""
    visitor.walk(GIFT, to="review")
    plain = {**PICKUP["delivery"], "gift": None}
    assert visitor.send("delivery", plain).location == "/checkout/pickup"
    for name in ("address", "wrapping"):
        assert visitor.open(name).location == "/checkout/pickup"
    visitor.walk({name: PICKUP[name] for name in ("pickup", "payment", "review")})
    assert [name.split(".")[1] for name in ledger.orders()[0]] == [
        "cart",
        "delivery",
        "pickup",
        "payment",
        "review",
    ]


def test_a_refused_form_comes_back_with_its_words(visitor: Visitor) -> None:
    """What is wrong is told and what was typed is kept, escaped; the flow stays."""
    visitor.walk(PARCEL, to="address")
    answer = visitor.send("address", {**ADDRESS, "name": "<i>Ada</i>", "postcode": "x"})
    assert answer.status_code == 422
    assert "Enter four or five digits." in answer.text
    assert "&lt;i&gt;Ada&lt;/i&gt;" in answer.text
    assert "<i>Ada" not in answer.text
    assert visitor.open("payment").location == "/checkout/address"


@pytest.mark.parametrize(
    ("name", "answers", "message"),
    [
        ("", {}, "Your cart is empty. Add at least one item."),
        ("", {"notebook": "-1"}, "Enter a number from 0 to 9."),
        ("delivery", {"how": "drone"}, "Not a valid choice"),
        ("payment", {"method": "shop", "email": "a@b.cd"}, "only if you pick up your order"),
        ("review", {}, "Agree to the terms to place the order."),
    ],
)
def test_what_a_form_or_a_rule_refuses_is_told(
    visitor: Visitor, name: str, answers: dict[str, str], message: str
) -> None:
    """Each refusal is a sentence on the page that was sent."""
    visitor.walk(PARCEL, to=name)
    answer = visitor.send(name, answers)
    assert answer.status_code == 422
    assert message in answer.text


# -- what comes from elsewhere ------------------------------------------------------------------


@pytest.mark.parametrize("root", ["/checkout/", "/signup/", "/poc/"])
def test_a_form_from_elsewhere_is_refused(app: Flask, root: str) -> None:
    """Without the token against forgery no form is taken, on no set of pages."""
    visitor = Visitor(app, root)
    form = visitor.fields("", {**PARCEL[""], **SIGNUP[""], "to": "a"})
    taken = form.pop("csrf_token")
    assert taken
    assert visitor.post("", form).status_code == 400
    assert visitor.post("", {**form, "csrf_token": "x" + taken}).status_code == 400
    later = {"/checkout/": "delivery", "/signup/": "profile", "/poc/": "a"}[root]
    assert visitor.open(later).location == root


def test_a_browser_without_cookies_is_told_that_they_are_needed(app: Flask) -> None:
    """Its first form is refused for a missing CSRF cookie, and not only as too old."""
    refused = app.test_client().post("/checkout/", data={"ink": "1"})
    assert refused.status_code == 400
    assert "cookies" in refused.text


def test_no_page_lets_a_script_in(app: Flask) -> None:
    """Pages, pages that refuse and files come with a policy that allows files of the app only."""
    client = app.test_client()
    for path in ("/", "/checkout/", "/checkout/done", "/light/", "/nowhere", "/static/style.css"):
        with client.get(path) as answer:
            policy = answer.headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy
        allowed = {source for rule in policy for source in rule.split()[1:]}
        assert allowed == {"'none'", "'self'"}


# -- the sign-up --------------------------------------------------------------------------------


def test_a_sign_up_makes_one_member(app: Flask, ledger: Ledger) -> None:
    """Three pages make an account; sending the last one again makes no other."""
    visitor = Visitor(app, "/signup/")
    visitor.walk(SIGNUP, to="confirm")
    form = visitor.form_of("confirm")
    assert {form.submit(SIGNUP["confirm"]).location for _ in range(3)} == {"/signup/welcome"}
    assert "Welcome, Ada" in visitor.open("welcome").text
    assert [member["email"] for member in ledger.members()] == ["ada@example.com"]
    again = Visitor(app, "/signup/").send("", SIGNUP[""])
    assert again.status_code == 422
    assert "There is already an account with this email address." in again.text


def test_the_cookie_keeps_no_plain_password(app: Flask, ledger: Ledger) -> None:
    """The cookie can be read by whoever has it: it holds a hash of the password, and no more."""
    visitor = Visitor(app, "/signup/")
    serializer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    for name in SIGNUP:
        visitor.send(name, SIGNUP[name])
        kept = serializer.loads(visitor.session_cookie)
        flow = Snapshot.decode(kept["_fsm_signup"], machines.signup)
        told = json.dumps(kept, default=str) + repr(flow.data) + repr(flow)
        assert "ada@example.com" in told
        assert PASSWORD not in told
    assert PASSWORD not in repr(ledger.members())


def test_a_password_is_never_sent_back(app: Flask) -> None:
    """No page shows it: not the form refused, not the one reopened, not a conflict."""
    visitor = Visitor(app, "/signup/")
    stale = visitor.form_of("")
    refused = visitor.send("", {**SIGNUP[""], "email": "no address"})
    assert refused.status_code == 422
    visitor.send("", SIGNUP[""])
    conflict = stale.submit({**SIGNUP[""], "email": "eve@example.com"})
    assert conflict.status_code == 409
    assert "eve@example.com" in conflict.text
    for page in (refused, visitor.open(""), visitor.open("profile"), conflict):
        assert PASSWORD not in page.text


def test_two_machines_do_not_meet(app: Flask, ledger: Ledger) -> None:
    """A checkout and a sign-up in one session go on side by side."""
    shopper = Visitor(app)
    member = Visitor(app, "/signup/")
    member.client = shopper.client
    shopper.walk(PARCEL, to="payment")
    member.walk(SIGNUP)
    shopper.walk({name: PARCEL[name] for name in ("payment", "review")})
    assert len(ledger.orders()) == len(ledger.members()) == 1


# -- the proof of concept -----------------------------------------------------------------------


def test_the_proof_of_concept_has_its_four_ways() -> None:
    """The machine is index -> a -> b -> index and b -> c, each way once."""
    flow = machines.poc.flow()
    with pytest.raises(InvalidTransition):
        flow.transition("poc.b")
    for name in ("poc.a", "poc.b"):
        flow.transition(name)
    assert flow.can_transition("poc.c")
    assert flow.can_transition("poc.index")
    flow.transition("poc.c")
    assert flow.finished


def test_a_way_is_open_once() -> None:
    """Back at the index the way to A is used up, and the run is at its end."""
    flow = machines.poc.flow()
    for name in ("poc.a", "poc.b", "poc.index"):
        flow.transition(name)
    assert not flow.can_transition("poc.a")
    assert flow.finished
    with pytest.raises(FlowFinished):
        flow.transition("poc.a")


@pytest.mark.parametrize(
    ("to", "leads_to"), [("c", "/poc/c"), ("index", "/poc/"), ("poc.c", "/poc/c")]
)
def test_the_field_to_chooses_the_way(app: Flask, to: str, leads_to: str) -> None:
    """On page B the field `to` says where it goes."""
    visitor = Visitor(app, "/poc/")
    visitor.post("?to=a", visitor.fields("", {}))
    visitor.send("a", {"to": "b"})
    assert "poc.index -&gt; poc.a\npoc.a -&gt; poc.b" in visitor.open("b").text
    assert visitor.send("b", {"to": to}).location == leads_to


@pytest.mark.parametrize(("to", "status"), [("nowhere", 400), ("c", 409), ("index", 409)])
def test_a_way_that_is_none_is_not_gone(app: Flask, to: str, status: int) -> None:
    """A `to` that is no page is a bad request; one to which no way leads is refused."""
    visitor = Visitor(app, "/poc/")
    assert visitor.send("", {"to": to}).status_code == status
    assert visitor.open("a").location == "/poc/"


def test_a_get_with_to_moves_nothing(app: Flask) -> None:
    """Opening `?to=a` shows the index."""
    visitor = Visitor(app, "/poc/")
    assert visitor.open("?to=a").status_code == 200
    assert visitor.open("a").location == "/poc/"


# -- the app as such ----------------------------------------------------------------------------


def test_two_apps_know_nothing_of_each_other(config: dict[str, Any], tmp_path: Path) -> None:
    """The factory called twice makes two shops: an order in one is none in the other."""
    first, second = (create_app({**config, "LEDGER": tmp_path / name}) for name in ("one", "two"))
    orders = [app.extensions["example_ledger"].orders for app in (first, second)]
    Visitor(first).walk(PARCEL)
    assert [len(placed()) for placed in orders] == [1, 0]
    Visitor(second).walk(PICKUP)
    assert [len(placed()) for placed in orders] == [1, 1]


@pytest.mark.parametrize("kind", ["session", "memory://", "sqlite", "postgres", "redis"])
def test_one_variable_chooses_the_store(
    config: dict[str, Any],
    fresh_store: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """FSM_STORE_URL in the environment is enough for the shop and the sign-up to work there."""
    del config["FSM_STORE_URL"]
    url = fresh_store(kind) if kind in KINDS else kind
    monkeypatch.setenv("FSM_STORE_URL", url)
    app = create_app(config)
    assert app.config["FSM_STORE_URL"] == url
    visitor, ledger = Visitor(app), app.extensions["example_ledger"]
    for way in (GIFT, PICKUP):
        visitor.walk(way, to="review")
        form = visitor.form_of("review")
        assert {form.submit(REVIEW).location for _ in range(3)} == {"/checkout/done"}
        number = ledger.orders()[-1]["checkout.review"]["number"]
        assert number in visitor.open("done").text
    Visitor(app, "/signup/").walk(SIGNUP)
    assert (len(ledger.orders()), len(ledger.members())) == (2, 1)


def test_the_key_comes_from_outside_or_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SECRET_KEY signs the sessions; without it a key does that is made once, for all workers."""
    monkeypatch.setattr(Flask, "auto_find_instance_path", lambda app: str(tmp_path / "instance"))
    monkeypatch.delenv("SECRET_KEY", raising=False)
    keys = {create_app().secret_key for _ in range(2)}
    assert keys == {(tmp_path / "instance" / "secret_key").read_text()}
    assert len(keys.pop()) == 64
    monkeypatch.setenv("SECRET_KEY", "from outside")
    assert create_app().secret_key == "from outside"


def test_flask_finds_the_app() -> None:
    """`flask --app example_app routes` starts the app, and lists the pages of all three sets."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "example_app", "routes"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error", "SECRET_KEY": "a key for tests"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for endpoint in ("checkout.cart", "checkout.done", "signup.account", "poc.index"):
        assert endpoint in done.stdout
