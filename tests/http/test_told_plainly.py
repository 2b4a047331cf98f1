"""What a refusal tells: the visitor in words of theirs, in HTML as in JSON; the log the rest."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

import pytest
from flask import Flask, jsonify, request
from flask.testing import FlaskClient
from werkzeug.test import TestResponse
from wtforms import BooleanField, FieldList, Form, FormField, StringField, SubmitField

from flask_fsm import FlaskFSM, Machine, Transition

from ..apps import ASKING, Visitor, assert_refused, config_for, flask_app, show

JSON = {"Accept": "application/json"}
FORM = "application/x-www-form-urlencoded"
LONG = " ".join(map(str, range(4000)))
BOUNDARY = "multipart/form-data; boundary=b"


def page_text(response: TestResponse) -> str:
    """What a page says, without its tags and line breaks."""
    return re.sub(r"<[^>]*>|\s+", " ", response.text)


def app_of(machine: Machine, view: Any = None, **config: Any) -> tuple[Flask, FlaskFSM]:
    """An app with a page for each state of a machine."""
    app = flask_app({**config_for("session"), **config})
    fsm = FlaskFSM(app, machine)

    for state in machine.states:

        @app.route(f"/{state}", methods=["GET", "POST"], endpoint=state)
        @fsm.check()
        def page(state: str = state) -> Any:
            if request.method == "GET":
                return show(state, fsm)
            return fsm.advance(data=request.form.to_dict()) if view is None else view(fsm)

    return app, fsm


# -- what a client wants --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "kind", "wanted"),
    [
        ("*/*", "text/json", "json"),
        ("*/*", "text/json; charset=utf-8", "json"),
        ("*/*", "application/vnd.shop+json", "json"),
        (None, "text/json", "json"),
        ("application/json;q=0", "application/json", "html"),
        ("application/json;q=0, */*", "application/json", "html"),
        ("application/json; charset=utf-8; q=0.0", "text/json", "html"),
        ("text/html;q=0, */*", "application/json", "json"),
        ("text/html;q=0, application/json;q=0", "application/json", "json"),
        ("text/html", "text/json", "html"),
        ("text/json", FORM, "json"),
        ("application/vnd.shop+json", FORM, "json"),
        ("*/*", "text/jsonp", "html"),
    ],
)
def test_a_refusal_has_the_format_that_the_client_can_read(
    accept: str | None, kind: str, wanted: str
) -> None:
    """A body of JSON, by whatever name, is answered in JSON; what `q=0` refuses is not sent."""
    app, _ = app_of(Machine("m", [("a", "b"), ("b", "c")]))
    headers = {} if accept is None else {"Accept": accept}
    refused = app.test_client().post("/b", data=b"{}", content_type=kind, headers=headers)
    assert_refused(refused, wanted, 409, "not_on_path")


# -- the detail -----------------------------------------------------------------------------


def is_rule(flow: Any) -> bool:
    return False


is_rule.__name__ = "is_rule_of_the_developer"
WAYS = [("a", "b"), ("a", "c")]


@pytest.mark.parametrize(
    ("machine", "data", "status", "reason", "told", "logged"),
    [
        (Machine("m", [("a", "b")]), {"x": LONG}, 413, "too_large", "stored here", "FSM_"),
        (Machine("m", WAYS), {}, 409, "ambiguous", "several next steps", "advance()"),
        (Machine("m", [*WAYS, ("b", "d")]), {"to": "d"}, 409, "no_edge", "get there", "no edge"),
        (
            Machine("m", [Transition("a", "b", when=is_rule)]),
            {},
            409,
            "guard",
            "This step is not possible with the answers so far.",
            "is_rule_of_the_developer",
        ),
        (Machine("m", WAYS), {"to": "nowhere"}, 400, "unknown_state", "altered", None),
    ],
    ids=["too large", "ambiguous", "no edge", "guard", "unknown"],
)
def test_the_detail_is_for_the_visitor_and_the_log_for_the_developer(
    caplog: pytest.LogCaptureFixture,
    machine: Machine,
    data: dict[str, str],
    status: int,
    reason: str,
    told: str,
    logged: str | None,
) -> None:
    """An app that shows `detail` to its user shows what the page says; the remedy is in the log."""
    app, _ = app_of(machine)
    with caplog.at_level(logging.INFO, "flask_fsm"):
        refused = app.test_client().post("/a", data=data, headers=JSON)
    assert_refused(refused, "json", status, reason)
    detail = refused.json["detail"]  # type: ignore[index]
    assert told in detail
    assert not re.search(r"FSM_|advance\(|'\w+'|machine|developer", detail)
    page = app.test_client().post("/a", data=data)
    assert detail in page_text(page).replace("&#39;", "'")
    if logged is None:
        assert "nowhere" not in caplog.text  # it may be an answer
    else:
        assert logged in caplog.text


def test_a_form_without_its_token_is_told_to_the_visitor_and_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, _ = app_of(Machine("m", [("a", "b")]), FSM_REQUIRE_TOKEN=True)
    refused = app.test_client().post("/a", headers=JSON)
    assert_refused(refused, "json", 400, "no_token")
    assert "fsm.token" not in refused.json["detail"]  # type: ignore[index]
    assert "fsm.token()" in caplog.text


def test_an_answer_that_is_too_large_for_a_form_is_explained_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The visitor reads `form.errors`; how to make room is the developer's matter."""

    class Notes(Form):
        notes = StringField()

    def view(fsm: Any) -> Any:
        form = Notes(request.form)
        return fsm.advance(form=form) or jsonify(form.form_errors)

    app, _ = app_of(Machine("m", [("a", "b")]), view)
    assert "Make it shorter" in app.test_client().post("/a", data={"notes": LONG}).text
    assert "FSM_HISTORY_LIMIT" in caplog.text
    assert LONG[:99] not in caplog.text


# -- too large to be read -------------------------------------------------------------------

PARTS = "".join(
    f'--b\r\nContent-Disposition: form-data; name="n{n}"\r\n\r\nx\r\n' for n in range(30)
)


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
@pytest.mark.parametrize(
    ("config", "body", "kind"),
    [
        ({"MAX_CONTENT_LENGTH": 900}, b"x" * 1000, "application/octet-stream"),
        ({"MAX_CONTENT_LENGTH": 900}, b"x=" + b"y" * 1000, FORM),
        ({"MAX_CONTENT_LENGTH": 900}, json.dumps({"x": "y" * 1000}).encode(), "application/json"),
        ({"MAX_FORM_MEMORY_SIZE": 9}, (PARTS + "--b--\r\n").encode(), BOUNDARY),
        ({"MAX_FORM_PARTS": 20}, (PARTS + "--b--\r\n").encode(), BOUNDARY),
    ],
    ids=["length", "length of a form", "length of json", "memory", "parts"],
)
def test_a_body_over_a_limit_of_the_app_is_told_in_our_words(
    config: dict[str, int], body: bytes, kind: str, asking: str
) -> None:
    """As JSON to a program, as a page that says how to get back to the form to a person."""
    app, _ = app_of(Machine("m", [("a", "b")]), **config)
    visitor = Visitor(app)
    token = visitor.token("a")
    headers = {**ASKING[asking], "X-FSM-Token": token}
    refused = visitor.request("POST", "/a", data=body, content_type=kind, headers=headers)
    assert_refused(refused, asking, 413, "body_too_large")
    if asking == "json":
        assert refused.json["state"] == "a"
        assert refused.json["location"] == "/a"
        assert "larger than this site can receive" in refused.json["detail"]
    else:
        assert "That is too large" in refused.text
        assert "Back button" in page_text(refused)
        assert "What you typed" not in refused.text
    assert visitor.open("b").location == "/a"
    # The form has not been used up.
    headers = {**ASKING["html"], "X-FSM-Token": token}
    assert visitor.request("POST", "/a", headers=headers).location == "/b"


def test_a_body_that_breaks_off_is_told_in_our_words() -> None:
    """The client has closed the connection before all of it came."""
    app, _ = app_of(Machine("m", [("a", "b")]))
    refused = app.test_client().post(
        "/a",
        content_type=FORM,
        headers=JSON,
        environ_overrides={"wsgi.input": io.BytesIO(b"x=y"), "CONTENT_LENGTH": "100"},
    )
    assert_refused(refused, "json", 400, "bad_body")


def test_an_app_that_has_a_page_of_its_own_for_413_keeps_it() -> None:
    app, _ = app_of(Machine("m", [("a", "b")]), MAX_CONTENT_LENGTH=10)
    app.register_error_handler(413, lambda error: ("ours", 413))
    assert app.test_client().post("/a", data={"x": "y" * 100}).text == "ours"


# -- labels ---------------------------------------------------------------------------------


class Inner(Form):
    second_line = StringField()


class Order(Form):
    """Fields without labels, check boxes, and a button."""

    plain = StringField()
    first_name = StringField()
    newsletter = BooleanField("Newsletter")
    terms = BooleanField(false_values=("off",))
    inner = FormField(Inner)
    lines = FieldList(StringField(), "Lines", min_entries=1)
    go = SubmitField("Go on")


@pytest.mark.parametrize("prefix", ["", "p-", "p_q-"])
def test_what_was_typed_is_shown_as_the_form_shows_it(prefix: str) -> None:
    """Labels as WTForms makes them, a check box as Yes, and no button that nobody typed."""

    def view(fsm: Any) -> Any:
        return fsm.advance(form=Order(request.form))

    app, _ = app_of(Machine("m", [("a", "b"), ("b", "c")]), view)
    visitor = Visitor(app)
    app.add_url_rule("/form", "form", lambda: "")
    token = visitor.token("a")
    visitor.post("a", {}, token)
    made = Order(prefix=prefix)
    sent = {
        f"{prefix}plain": "one",
        f"{prefix}first_name": "Ada",
        f"{prefix}newsletter": "y",
        f"{prefix}terms": "off",
        f"{prefix}inner-second_line": "two",
        f"{prefix}lines-0": "three",
        f"{prefix}go": "Go on",
    }
    assert set(sent) == {
        field.name
        for entry in made
        for field in (
            [*entry.form] if hasattr(entry, "form") else getattr(entry, "entries", [entry])
        )
    }
    conflict = visitor.post("a", sent, token)
    assert conflict.status_code == 409
    shown = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", conflict.text, re.DOTALL)
    assert shown == [
        (made.plain.label.text, "one"),
        (made.first_name.label.text, "Ada"),
        ("Newsletter", "Yes"),
        ("Terms", "No"),
        (made.inner.form.second_line.label.text, "two"),
        ("Lines", "three"),
    ]


# -- a GET sends nothing --------------------------------------------------------------------


def test_a_first_page_without_cookies_does_not_speak_of_something_sent() -> None:
    """Nothing was sent, so nothing could not be accepted; cookies are needed all the same."""
    app, _ = app_of(Machine("m", [("a", "b")], many=True), FSM_STORE_URL="memory://")
    stranger: FlaskClient = app.test_client(use_cookies=False)
    opened = stranger.get("/a", follow_redirects=True)
    assert opened.status_code == 410
    assert "Cookies are needed" in opened.text
    assert "Allow cookies" in page_text(opened)
    assert not re.search("accepted|form|sent", page_text(opened).replace("format", ""))


def test_an_address_that_a_page_guards_does_not_speak_of_a_form_when_it_is_opened() -> None:
    """So too where the page of a `requires` is closed, not open, or gone."""
    app, fsm = app_of(Machine("m", [Transition("a", "b", back="discard"), ("b", "c")]))
    for page in "ac":
        view = fsm.requires(page)(lambda: "open")
        app.add_url_rule(f"/needs-{page}", f"needs_{page}", view)
    visitor = Visitor(app)
    visitor.post("a")
    for page, said in {"a": "is closed", "c": "is not open"}.items():
        refused = visitor.open(f"needs-{page}")
        assert refused.status_code == 409
        assert said in page_text(refused)
        assert not re.search("accepted|form ", page_text(refused))


# -- the field `to` -------------------------------------------------------------------------


def kept_after(advance: Any, sent: list[tuple[str, str]], **more: Any) -> tuple[str, Any]:
    """Where a form with these fields leads, and what is kept of it."""
    app, fsm = app_of(Machine("m", [("a", "b"), ("a", "Ghent")]), advance, **more)
    app.add_url_rule("/kept", "kept", lambda: jsonify(fsm.flow.data.get("a")))
    visitor = Visitor(app)
    body = "&".join(f"{name}={value}" for name, value in sent)
    answer = visitor.request("POST", "/a", data=body, content_type=FORM)
    return answer.location or answer.text, visitor.request("GET", "/kept").json


class Town(Form):
    to = StringField()
    town = StringField()


@pytest.mark.parametrize(
    "advance",
    [
        lambda fsm: fsm.advance(data=request.form),
        lambda fsm: fsm.advance(data=request.form.to_dict()),
        lambda fsm: fsm.advance(data=request.form.to_dict(flat=False)),
        lambda fsm: fsm.advance(form=Town(request.form)),
    ],
    ids=["form", "to_dict", "lists", "wtforms"],
)
@pytest.mark.parametrize("others", [[], [("to", "d")], [("to", "")]])
def test_a_field_that_named_the_next_page_is_no_answer_however_often_it_was_sent(
    advance: Any, others: list[tuple[str, str]]
) -> None:
    """The view gives no target, so all of `to` is about where to go."""
    location, kept = kept_after(advance, [("town", "x"), ("to", "b"), *others])
    assert location == "/b"
    assert kept in ({"town": "x"}, {"town": ["x"]})


@pytest.mark.parametrize("to", ["b", "Ghent", "Bruges", ""])
@pytest.mark.parametrize(
    "advance",
    [
        lambda fsm: fsm.advance("b", data=request.form),
        lambda fsm: fsm.advance("b", form=Town(request.form)),
        lambda fsm: fsm.transition("b", request.form) and ("", 303, {"Location": "/b"}),
    ],
    ids=["data", "wtforms", "transition"],
)
def test_an_answer_called_to_is_kept_whatever_it_says_where_the_view_names_the_page(
    advance: Any, to: str
) -> None:
    """A town that has the name of a state is a town."""
    assert kept_after(advance, [("to", to), ("town", "x")]) == ("/b", {"to": to, "town": "x"})
