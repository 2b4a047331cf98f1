"""The words of refusals and notices: each says what is the case, and nothing that is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, render_template_string, request
from werkzeug.test import TestResponse
from wtforms import FieldList, FormField, RadioField, SelectField, StringField
from wtforms import Form as WTForm
from wtforms.fields.choices import SelectChoice

from flask_fsm import FlaskFSM, Machine, Transition
from flask_fsm.testing import frozen_clock

from ..apps import (
    ANSWERS,
    TO_REVIEW,
    Shop,
    Visitor,
    config_for,
    flask_app,
    notices,
    show,
)


def heading(response: TestResponse) -> str:
    """The heading of a page."""
    found = re.search(r"<h1>(.*?)</h1>", response.text)
    assert found, response.text
    return found[1]


def words(response: TestResponse) -> str:
    """What a page says, without its tags and line breaks."""
    return re.sub(r"<[^>]*>|\s+", " ", response.text)


def closing_app(
    back: str = "discard", store: str = "session", lifetime: int | None = None, **options: Any
) -> Flask:
    """An app with a -> b -> c -> d, whose edge from `a` closes that page."""
    app = flask_app({**config_for(store), "FSM_FLOW_LIFETIME": lifetime})
    fsm = FlaskFSM(
        app, Machine("m", [Transition("a", "b", back=back), ("b", "c"), ("c", "d")], **options)
    )
    for page in "abcd":

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            return fsm.advance() if request.method == "POST" else show(page, fsm)

    @app.route("/endpoint")
    @fsm.requires("b")
    def endpoint() -> str:
        return "open"

    @app.post("/again")
    def again() -> str:
        fsm.reset()
        return "anew"

    return app


# -- pages that are not open ----------------------------------------------------------------


def test_a_closed_page_is_said_to_be_closed() -> None:
    """By the notice after a GET, to a program, and by the page that answers its form."""
    visitor = Visitor(closing_app())
    stale = visitor.token("a")
    visitor.post("a")
    assert visitor.open("a").location == "/b"
    assert notices(visitor.open("b")) == [
        "That page is closed and can no longer be changed; please continue here."
    ]
    told = visitor.open("a", "json").json
    assert (told["reason"], told["title"]) == ("closed", "This step is closed")
    assert heading(visitor.post("a", {}, stale)) == "This page was out of date"  # an old form
    fresh = visitor.token("b")
    refused = visitor.post("a", {}, None)
    assert (refused.status_code, "not open yet" in refused.text) == (409, False)
    assert visitor.post("b", {}, fresh).location == "/c"


@pytest.mark.parametrize("reset", ["auto", "manual"])
def test_after_the_end_a_page_is_said_to_be_completed_or_closed(reset: str) -> None:
    """No page of a run that has ended is "not open yet", and none comes first."""
    visitor = Visitor(closing_app("preserve", reset=reset))
    for page in "abc":
        visitor.post(page)
    for page in "bc" if reset == "auto" else "abc":
        assert visitor.open(page).location == "/d"
        assert notices(visitor.open("d")) == ["This has already been completed."]
        told = visitor.open(page, "json").json
        assert (told["reason"], told["title"]) == ("closed", "This step is closed")
        assert "first" not in told["detail"]
        assert heading(visitor.post(page)) == "This has already been completed"
    assert heading(visitor.open("endpoint")) == "This step is closed"


def test_a_page_of_the_other_branch_after_the_end_is_completed_too(visitor: Visitor) -> None:
    """It was never opened in this run, and will not be."""
    visitor.walk(*TO_REVIEW, "review")
    assert visitor.open("pickup").location == "/done"
    assert notices(visitor.open("done")) == ["This has already been completed."]


def test_a_page_that_is_skipped_to_is_not_out_of_date(visitor: Visitor) -> None:
    """To skip ahead is no conflict: neither a GET nor a POST says that it is old."""
    skipping = visitor.open("review", "json")
    assert skipping.json["title"] == "This step is not open"
    assert skipping.json["reason"] == "not_on_path"
    assert visitor.open("review").location == "/cart"
    assert notices(visitor.open("cart")) == ["That page is not open now; please continue here."]
    posted = visitor.post("review")
    assert (posted.status_code, heading(posted)) == (409, "This step is not open")
    assert "moved on" not in words(posted)


def test_a_conflict_names_its_own_cause(visitor: Visitor) -> None:
    """Another page's form, another run's, and one that was sent before: each in its words."""
    first = visitor.token("cart")
    visitor.post("cart", {"item": "a lamp"}, first)
    again = visitor.post("cart", {"item": "a rug"}, first)
    assert heading(again) == "This form has already been sent"
    assert "those count" in words(again)
    misplaced = visitor.post("cart", {}, visitor.token("address"))
    assert heading(misplaced) == "This form belongs to another page"
    visitor.walk("address", "delivery", "payment", "review")
    old = visitor.token("cart")
    visitor.walk("cart")
    assert heading(visitor.post("cart", {}, old)) == "This page was out of date"
    for response in (again, misplaced):
        assert "moved on" not in words(response)


def test_an_edge_that_is_not_there_is_not_said_to_open_later(visitor: Visitor) -> None:
    """A step that can't be taken is not possible now; nothing is promised."""
    visitor.walk("cart", "address")
    refused = visitor.post("delivery", {"to": "cart"})
    assert heading(refused) == "This step is not possible now"
    assert "yet" not in words(refused)


# -- 410 ------------------------------------------------------------------------------------


def test_a_form_of_an_expired_run_says_that_time_has_passed(shop: Callable[..., Shop]) -> None:
    """After FSM_FLOW_LIFETIME the page says so, and not that something else might have been."""
    made = Shop({**shop("session").app.config, "FSM_FLOW_LIFETIME": 60})
    with frozen_clock(made.app) as clock:
        visitor = made.visitor().walk("cart")
        token = visitor.token("address")
        clock.tick(61)
        gone = visitor.post("address", ANSWERS["address"], token)
    assert (gone.status_code, heading(gone)) == (410, "This has expired")
    assert "for a long time" in words(gone)
    assert "another tab" not in words(gone)


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_a_form_of_a_run_reset_in_another_tab_says_so(store: str) -> None:
    """Who has started again in another tab is told that, and not of time or cookies."""
    visitor = Visitor(closing_app(store=store))
    visitor.post("a")
    token = visitor.token("b")
    in_flight = Visitor(visitor.client.application)
    in_flight.cookie = visitor.cookie
    assert visitor.post("again").text == "anew"
    conflict = visitor.post("b", {}, token)  # the session has the new run
    assert (conflict.status_code, "started again" in words(conflict)) == (409, True)
    gone = in_flight.post("b", {}, token)  # it still names the old one
    assert (gone.status_code, heading(gone)) == (410, "You have started again")
    assert "another tab" in words(gone)
    assert "so long" not in words(gone)


def test_a_form_without_its_cookie_says_that_cookies_are_needed(
    visitor: Visitor, stored: Shop
) -> None:
    """A browser that keeps no cookie is told what it has to keep."""
    token = visitor.token("cart")
    for asking in ("html", "json"):
        visitor.drop_cookie()
        gone = visitor.post("cart", {"item": "a lamp"}, token, asking)
        assert gone.status_code == 410
        said = words(gone) if asking == "html" else gone.json["detail"]
        assert "cookies" in said
        title = heading(gone) if asking == "html" else gone.json["title"]
        assert title == "Cookies are needed"


# -- the labels of fields -------------------------------------------------------------------


class Parcel(WTForm):
    """The inner form of an order."""

    weight = StringField("Weight in kg")
    insured = StringField()


class Order(WTForm):
    """A form with labels that differ from the names of its fields."""

    city = StringField("Town")
    country = SelectField("Country", choices=[SelectChoice("AT", "Austria"), SelectChoice("DE")])
    speed = RadioField(choices={"1": "By <air>", "Slow": {"2": "By sea"}})
    shop = SelectField("Shop", choices=lambda: [SelectChoice("s1", "The shop of this visitor")])
    vat = StringField(label="VAT number of your GmbH")
    parcel = FormField(Parcel, "Parcel")
    notes = FieldList(StringField("Note"), "Notes", min_entries=1)
    pin = StringField("Your secret number")
    items = StringField()


def order_app() -> Visitor:
    """A visitor of an app whose first page has the form, with the prefix of some forms."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(app, Machine("m", [("a", "b"), ("b", "c")]))

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        form = Order(request.form, prefix=request.args.get("prefix", ""))
        if request.method == "POST" and (answer := fsm.advance(form=form)):
            return answer
        return render_template_string("{{ fsm.token() }}{{ form.city.label }}", form=form)

    for page in "bc":
        app.add_url_rule(f"/{page}", page, fsm.check()(lambda page=page: show(page, fsm)))
    return Visitor(app)


ORDER = {
    "city": "Vienna",
    "country": "AT",
    "speed": "1",
    "shop": "s1",
    "vat": "U1",
    "parcel-weight": "3",
    "parcel-insured": "no",
    "notes-0": "Ring twice",
    "pin": "4711",
    "items": "two",
    "own_field": "mine",
}


def typed_on(response: TestResponse) -> dict[str, str]:
    """The labels and values of what was typed, as a page shows them."""
    return dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", response.text, re.DOTALL))


@pytest.mark.parametrize("prefix", ["", "order-"])
def test_a_conflict_page_shows_the_labels_of_the_form_and_of_its_choices(prefix: str) -> None:
    """Town: Vienna and Country: Austria, not City and AT; a name only where there is no label."""
    visitor = order_app()
    sent = {prefix + name: value for name, value in ORDER.items()}
    stale = visitor.token("a")
    assert visitor.post(f"a?prefix={prefix}", sent, stale).location == "/b"
    conflict = visitor.post(f"a?prefix={prefix}", {**sent, f"{prefix}city": "Graz"}, stale)
    assert conflict.status_code == 409
    shown = {
        name: value for name, value in typed_on(conflict).items() if not name.startswith("Order")
    }
    assert shown == {
        "Town": "Graz",
        "Country": "Austria",
        "VAT number of your GmbH": "U1",
        "Shop": "s1",  # its choices may be of one visitor only
        "Weight in kg": "3",
        "Note": "Ring twice",
        "Speed": "By &lt;air&gt;",
        "Insured": "no",
        "Items": "two",
        **({} if prefix else {"Own field": "mine"}),
    }
    assert "again: Your secret number." in words(conflict)
    assert "4711" not in conflict.text


def test_labels_are_known_as_soon_as_the_form_was_shown() -> None:
    """No form of that page has been taken yet: it was only opened, and its cookie was lost."""
    visitor = order_app()
    token = visitor.token("a")
    visitor.drop_cookie()
    gone = visitor.post("a", {"city": "Vienna", "country": "AT"}, token)
    assert gone.status_code == 410
    assert typed_on(gone) == {"Town": "Vienna", "Country": "Austria"}


def test_a_template_without_a_request_may_show_a_form() -> None:
    """A mail or a report that a command renders is no page, and nothing is learned from it."""
    app = order_app().app
    with app.app_context():
        assert render_template_string("{{ form.city.name }}", form=Order()) == "city"
    assert app.extensions["fsm"].forms == {}


def test_a_page_whose_form_is_not_of_wtforms_shows_the_names_of_its_fields(
    visitor: Visitor,
) -> None:
    """Nothing is known of it but the names, which are shown as words."""
    stale = visitor.token("cart")
    visitor.post("cart", {"item_name": "a lamp"}, stale)
    conflict = visitor.post("cart", {"item_name": "a rug"}, stale)
    assert typed_on(conflict) == {"Item name": "a rug"}
