"""What was typed in a form that is refused is shown, and it can be sent again, or it is said why.

"Send again" submits all fields to the URL to which they were sent before.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from random import choices
from string import ascii_letters
from typing import Any
from urllib.parse import unquote

import pytest
from flask import jsonify, render_template_string, request
from itsdangerous import URLSafeTimedSerializer
from werkzeug.datastructures import MultiDict
from werkzeug.test import TestResponse
from wtforms import Form, StringField

from flask_fsm import FlaskFSM, Machine
from flask_fsm.testing import Visitor, frozen_clock
from flask_fsm.testing.html_forms import FormFields, forms_in

from ..apps import config_for, flask_app

PAGE = '<form method="post">{{ fsm.token() }}</form>'
DAY = 86_400.0
EDGES = [("start", "write"), ("write", "check"), ("check", "end")]
Fields = list[tuple[str, str]]


class Pages:
    """An app with the pages start, write, check and end; a POST keeps the form as it is."""

    def __init__(self, store: str = "memory://", rule: str = "", **machine: Any) -> None:
        self.app = flask_app({**config_for(store), "FSM_FLOW_LIFETIME": DAY})
        self.fsm = FlaskFSM(self.app, Machine("pages", EDGES, **machine))
        if store.startswith("sqlite"):
            with self.app.app_context():
                self.fsm.init_db()
        for name in ("start", "write", "check", "end"):
            view = self.fsm.check()(self.page)
            self.app.add_url_rule(f"/{name}{rule}", name, view, methods=["GET", "POST"])

    def page(self, **args: Any) -> Any:
        if request.method == "POST":
            return self.fsm.advance(data=request.form)
        return render_template_string(PAGE)

    def visitor(self, *pages: str, prefix: str = "", rest: str = "") -> Visitor:
        """A visitor who has sent these pages, and is on the next one."""
        visitor = Visitor(self.app)
        answer = visitor.open(f"{prefix}/start{rest}")
        for _ in pages:
            if answer.location:
                visitor.open(answer.location)
            answer = visitor.form().submit()
        if answer.location:
            visitor.open(answer.location)
        return visitor

    def kept(self, visitor: Visitor, page: str = "write") -> Any:
        """What is kept of a page, in the flow of a visitor."""
        with visitor.client:
            visitor.client.get(visitor.path)
            return self.fsm.flow.data.get(page)


def token(visitor: Visitor, url: str) -> str:
    """Open a page, and return the token of its form."""
    visitor.open(url)
    return str(visitor.form().values["fsm_token"][0])


def conflict(visitor: Visitor, url: str, fields: Fields, **options: Any) -> TestResponse:
    """Send a form that was opened before the latest step."""
    old = token(visitor, url)
    visitor.open(url)
    visitor.form().submit()
    return send(visitor, url, [*fields, ("fsm_token", old)], **options)


def send(visitor: Visitor, url: str, fields: Fields, **options: Any) -> TestResponse:
    return visitor.request("POST", url, data=MultiDict(fields), **options)


def send_again(response: TestResponse) -> FormFields | None:
    """The form "Send again" of a page; None if there is none."""
    called = [
        form for form in forms_in(response.text) if any("again" in b.text for b in form.buttons)
    ]
    assert len(called) <= 1
    return called[0] if called else None


def obstacle(response: TestResponse) -> str:
    """Why the page has no such form."""
    found = re.findall(r'<p class="fsm-obstacle">(.*?)</p>', response.text, re.S)
    return " ".join(" ".join(found).split())


def press(visitor: Visitor) -> TestResponse:
    """Press "Send again" on the page that is shown."""
    return visitor.submit(button="Send again")


def without_token(form: FormFields | None) -> Fields:
    """All that a form sends, in order, without its token."""
    assert form is not None
    pairs = [(control.name, value) for control in form.controls for value in control.values()]
    assert [name for name, _ in pairs].count("fsm_token") == 1
    return [pair for pair in pairs if pair[0] != "fsm_token"]


def letters(count: int) -> str:
    """A text that can't be compressed."""
    return "".join(choices(ascii_letters, k=count))


TYPED = [("words", "<b>mine</b>"), ("size", "s"), ("size", "m"), ("empty", "")]


# -- where it is sent to --------------------------------------------------------------------


def test_with_many_flows_the_form_is_sent_to_its_own_flow() -> None:
    """The key stays in the URL, once, and all fields go."""
    pages = Pages(many=True)
    visitor = pages.visitor("start")
    url = visitor.path
    assert "?flow=" in url
    refused = conflict(visitor, url, TYPED)
    assert refused.status_code == 409
    form = send_again(refused)
    assert form is not None
    assert form.action is None
    assert without_token(form) == TYPED
    assert press(visitor).location == url.replace("write", "check")


@pytest.mark.parametrize("argument", ["what%3F", "100%2525", "a%20b", "%C3%BC", "x%26y=%23z"])
def test_with_arguments_of_any_kind_the_form_is_sent_to_the_same_url(argument: str) -> None:
    """The page has no URL of its own making in it, so none can be wrong; htmx gets the very one."""
    pages = Pages(rule="/<name>")
    visitor = pages.visitor("start", rest=f"/{argument}")
    url = f"/write/{argument}"
    for headers in ({}, {"HX-Request": "true"}):
        refused = conflict(visitor, f"{url}?a=%26&b=%3F", TYPED, headers=headers)
        assert refused.status_code == 409
        form = send_again(refused)
        assert form is not None
        if headers:
            assert form.action is not None
            path, _, query = form.action.partition("?")
            assert unquote(path) == unquote(url)
            assert query == "a=%26&b=%3F"
            assert send(visitor, form.action, TYPED).status_code == 409  # there is such a page
        else:
            assert form.action is None


def test_under_a_mount_htmx_sends_to_the_mount() -> None:
    """The app is mounted at /shop, and the action says so."""
    pages = Pages()
    pages.app.config["APPLICATION_ROOT"] = "/shop"
    visitor = pages.visitor("start")
    assert visitor.path == "/shop/write"
    refused = conflict(visitor, "/shop/write", TYPED, headers={"HX-Request": "true"})
    assert refused.status_code == 409
    form = send_again(refused)
    assert form is not None
    assert form.action == "/shop/write"


def test_a_page_whose_form_has_a_url_of_its_own_sends_there_again() -> None:
    """GET and POST are two endpoints of one state."""
    pages = Pages()
    for url in ("/save", "/keep"):
        pages.app.add_url_rule(
            url, url[1:], pages.fsm.check(state="write")(pages.page), methods=["POST"]
        )
    visitor = pages.visitor("start")
    old = token(visitor, "/write")
    visitor.open("/write")
    visitor.form().submit()
    refused = send(visitor, "/keep", [*TYPED, ("fsm_token", old)])
    assert refused.status_code == 409
    assert visitor.form(button="Send again").submit().location == "/check"
    assert visitor.path == "/keep"
    assert pages.kept(visitor)["words"] == "<b>mine</b>"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_what_a_script_sent_by_another_method_is_not_offered_as_a_form(method: str) -> None:
    """A form can only post; the page says that it can't be sent again from there."""
    pages = Pages()
    pages.app.add_url_rule(
        "/put",
        "put",
        pages.fsm.check(state="write")(pages.page),
        methods=["PUT", "PATCH", "DELETE"],
    )
    visitor = pages.visitor("start")
    old = token(visitor, "/write")
    visitor.form().submit()
    refused = visitor.request(method, "/put", data={"words": "mine", "fsm_token": old})
    assert refused.status_code == 409
    assert "mine" in refused.text
    assert send_again(refused) is None
    assert "be sent again" in obstacle(refused)


# -- what is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [99, 100, 101, 130, 1000])
def test_all_fields_go_however_many_are_shown(count: int) -> None:
    """A hundred are shown, and the page says how many more there are."""
    fields = [(f"field_{number}", f"value {number}") for number in range(count)]
    pages = Pages()
    visitor = pages.visitor("start")
    refused = conflict(visitor, "/write", fields)
    assert refused.status_code == 409
    assert refused.text.count("<dd>") == min(count, 100)
    assert (f"({count - 100})" in refused.text) is (count > 100)
    assert without_token(send_again(refused)) == fields
    assert press(visitor).location == "/check"
    assert pages.kept(visitor) == dict(fields)


@pytest.mark.parametrize(
    "fields",
    [
        [(f"field_{number}", "x") for number in range(1001)],
        [("words", "x" * 300_000)],
        [("x" * 300_000, "words")],
    ],
    ids=["many", "long", "long name"],
)
def test_a_form_that_is_too_large_says_so(fields: Fields) -> None:
    """It is not sent again in part: there is no button, and the reason."""
    visitor = Pages().visitor("start")
    refused = conflict(visitor, "/write", fields)
    assert refused.status_code == 409
    assert send_again(refused) is None
    assert "too large" in obstacle(refused)
    assert len(refused.text) < 10_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("password", "hush-hush"),
        ("card", "4111 1111 1111 1111"),
        ("note", "4111 1111 1111 1111"),
        ("photo", (io.BytesIO(b"x"), "x.png")),
    ],
)
def test_a_form_with_something_that_is_not_shown_is_not_sent_without_it(
    field: str, value: Any
) -> None:
    """There is no button, and the page names what keeps it back; the rest is shown."""
    visitor = Pages().visitor("start")
    refused = conflict(visitor, "/write", [("town", "Vienna"), (field, value)])
    assert refused.status_code == 409
    assert "Vienna" in refused.text
    assert send_again(refused) is None
    assert f"enter or choose them again: {field}." in refused.text
    assert "be sent again" in obstacle(refused)


def test_a_password_that_was_left_empty_keeps_nothing_back() -> None:
    """There is no secret in it."""
    fields = [("town", "Vienna"), ("password", "")]
    refused = conflict(Pages().visitor("start"), "/write", fields)
    assert without_token(send_again(refused)) == fields


def test_a_file_field_that_was_left_empty_goes_along() -> None:
    """The form is sent as multipart, with the empty field, which a view may expect."""
    visitor = Pages().visitor("start")
    fields: Any = [("town", "Vienna"), ("photo", (io.BytesIO(b""), ""))]
    refused = conflict(visitor, "/write", fields, content_type="multipart/form-data")
    assert refused.status_code == 409
    assert 'enctype="multipart/form-data"' in refused.text
    assert '<input type="file" name="photo" hidden>' in refused.text
    assert without_token(send_again(refused)) == [("town", "Vienna")]


@pytest.mark.parametrize("field", [("", "x"), ("nul", "a\0b")])
def test_what_a_browser_would_not_send_as_it_was_is_not_offered(field: tuple[str, str]) -> None:
    """A field without a name, or the character NUL."""
    visitor = Pages().visitor("start")
    refused = conflict(visitor, "/write", [("town", "Vienna"), field])
    assert refused.status_code == 409
    assert send_again(refused) is None
    assert obstacle(refused)


def test_json_has_no_button() -> None:
    """What a script sent as JSON is shown to a browser, without a form that would send less."""
    visitor = Pages().visitor("start")
    old = token(visitor, "/write")
    visitor.form().submit()
    refused = visitor.request(
        "POST",
        "/write",
        json={"town": "Vienna", "fsm_token": old},
        headers={"Accept": "text/html"},
    )
    assert refused.status_code == 409
    assert "Vienna" in refused.text
    assert send_again(refused) is None
    assert obstacle(refused)


# -- tokens of others -----------------------------------------------------------------------


def test_a_page_of_two_machines_is_not_sent_again_with_one_token() -> None:
    """The token of the other machine would be out of date; the page says that there is no way."""
    app = flask_app(config_for("memory://"))
    one = FlaskFSM(app, Machine("one", [("a", "b"), ("b", "c")]))
    two = one.add(Machine("two", [("a", "b"), ("b", "c")]))

    def page() -> Any:
        if request.method == "POST":
            two.transition({"a": "b", "b": "c"}[request.endpoint or ""])
            return one.advance()
        return f'<form method="post">{one.token()}{two.token()}</form>'

    for name in "abc":
        view = one.check()(two.check()(page))
        app.add_url_rule(f"/{name}", name, view, methods=["GET", "POST"])
    visitor = Visitor(app)
    visitor.open("/a")
    tokens = visitor.form().values["fsm_token"]
    assert len(tokens) == 2
    assert visitor.form().submit().location == "/b"
    refused = send(visitor, "/a", [("words", "mine"), *(("fsm_token", text) for text in tokens)])
    again = send(visitor, "/a", [("words", "new"), *(("fsm_token", text) for text in tokens)])
    for response in (refused, again):
        assert response.status_code == 409
        assert send_again(response) is None
        assert "be sent again" in obstacle(response)
    assert "mine" in refused.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("csrf_token", "20261130190000##0123456789abcdef"),
        ("csrf_token", "not-of-flask-wtf"),
        ("_csrf_token", "0123456789abcdef"),
        ("csrfmiddlewaretoken", "0123456789abcdef"),
        ("authenticity_token", "0123456789abcdef"),
        ("_xsrf", "2|0123"),
    ],
)
def test_a_csrf_token_of_another_library_keeps_the_form_back(name: str, value: str) -> None:
    """We can't renew it, so there is no button that the app would refuse; nor is it shown."""
    refused = conflict(Pages().visitor("start"), "/write", [("town", "Vienna"), (name, value)])
    assert refused.status_code == 409
    assert "Vienna" in refused.text
    assert value not in refused.text
    assert send_again(refused) is None
    assert "be sent again" in obstacle(refused)


@pytest.mark.parametrize("field", ["csrf_token", "billing-csrf_token"])
@pytest.mark.parametrize("own_key", [False, True])
def test_the_token_of_flask_wtf_is_renewed(field: str, own_key: bool) -> None:
    """Also one that has expired, of a form with a prefix, or signed with a key of its own."""
    pages = Pages()
    key = "another key of sixteen" if own_key else pages.app.secret_key
    pages.app.config["WTF_CSRF_SECRET_KEY"] = key
    old = URLSafeTimedSerializer(str(key), salt="wtf-csrf-token").dumps("0" * 40)
    refused = conflict(Pages.visitor(pages, "start"), "/write", [("town", "Vienna"), (field, old)])
    form = send_again(refused)
    assert form is not None
    sent = dict(without_token(form))
    assert sent.keys() == {"town", field}
    assert sent[field] not in ("", old)


# -- refusals that are no conflicts ---------------------------------------------------------


def gone(how: str, pages: Pages, visitor: Visitor, url: str) -> TestResponse:
    """Send a form of a page whose flow has ended meanwhile."""
    visitor.open(url)
    old = visitor.form().token
    if how == "cookie":
        visitor.session_cookie = None
    elif how == "reset":
        visitor.request("POST", "/reset")
    elif how == "expired":
        with frozen_clock(pages.app) as clock:
            clock.tick(2 * DAY)
            return send(visitor, url, [*TYPED, ("fsm_token", old)])
    elif how == "ended":
        for page in ("start", "write", "check"):
            visitor.open(f"/{page}")
            visitor.form().submit()
    return send(visitor, url, [*TYPED, ("fsm_token", old)])


def resettable(store: str, folder: Path) -> Pages:
    pages = Pages(f"sqlite:///{folder}/flows" if store == "sqlite" else store)

    @pages.app.post("/reset")
    def reset() -> str:
        pages.fsm.reset()
        return "reset"

    return pages


@pytest.mark.parametrize("store", ["session", "memory://", "sqlite"])
@pytest.mark.parametrize("how", ["cookie", "reset", "expired", "ended"])
def test_what_was_typed_on_a_form_that_is_gone_is_shown(
    how: str, store: str, tmp_path: Path
) -> None:
    """Expired, reset or ended in another tab, or without its cookie: escaped, with a way on that
    leaves the page as it is."""
    pages = resettable(store, tmp_path)
    refused = gone(how, pages, pages.visitor("start"), "/write")
    assert refused.status_code == (409 if how == "reset" else 410)
    assert "&lt;b&gt;mine&lt;/b&gt;" in refused.text
    assert send_again(refused) is None  # another page comes first
    assert '<a href="/start" target="_blank" rel="noopener">' in refused.text


@pytest.mark.parametrize("store", ["session", "memory://", "sqlite"])
@pytest.mark.parametrize("how", ["cookie", "reset", "expired", "ended"])
def test_the_first_page_can_be_sent_again_to_start_anew(
    how: str, store: str, tmp_path: Path
) -> None:
    """The button begins a new run with what was typed."""
    pages = resettable(store, tmp_path)
    visitor = pages.visitor() if how != "reset" else pages.visitor("start")
    refused = gone(how, pages, visitor, "/start")
    if how == "expired" and refused.status_code == 303:
        return  # nothing had been committed, so nothing has expired
    assert refused.status_code in (409, 410), refused.text
    assert "&lt;b&gt;mine&lt;/b&gt;" in refused.text
    assert without_token(send_again(refused)) == TYPED
    assert press(visitor).location == "/write"
    assert pages.kept(visitor, "start") == {"words": "<b>mine</b>", "size": ["s", "m"], "empty": ""}


def test_passwords_are_not_shown_there_either() -> None:
    """Nor on any other refusal."""
    pages = resettable("memory://", Path())
    visitor = pages.visitor("start")
    typed = [("town", "Vienna"), ("password", "hush-hush")]
    old = token(visitor, "/write")
    bad = send(visitor, "/write", [*typed, ("fsm_token", "bad")])
    unknown = send(visitor, "/write", [*typed, ("to", "nowhere")])
    visitor.session_cookie = None
    lost = send(visitor, "/write", [*typed, ("fsm_token", old)])
    for status, response in ((400, bad), (400, unknown), (410, lost)):
        assert response.status_code == status
        assert "Vienna" in response.text
        assert "hush" not in response.text


def test_with_many_flows_a_form_without_its_flow_still_shows_what_was_typed() -> None:
    """Its URL names a flow that is gone, so it can't be sent there again."""
    pages = Pages(many=True)
    visitor = pages.visitor()
    url = visitor.path
    refused = send(visitor, f"{url.partition('=')[0]}=unknown", TYPED)
    assert refused.status_code in (404, 410)
    assert "&lt;b&gt;mine&lt;/b&gt;" in refused.text
    assert send_again(refused) is None


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_answers_that_are_too_large_can_be_made_shorter_and_sent_again(store: str) -> None:
    """The page has them in a field to change; the rest goes along."""
    words = "\r\n".join(letters(40) for _ in range(200))
    visitor = Pages.visitor(Small(store), "start")
    refused = send(visitor, "/write", [("words", words), ("town", "Vienna"), ("empty", "")])
    assert refused.status_code == 413
    assert "Vienna" in refused.text
    form = send_again(refused)
    assert form is not None
    assert dict(without_token(form)) == {
        "words": words,
        "town": "Vienna",
        "empty": "",
    }
    assert refused.text.count("<textarea") == 1
    again = visitor.submit({"words": "Elm Street"}, button="Send again")
    assert again.location == "/check"


class Small(Pages):
    """Pages whose flows are at most 4,000 bytes long."""

    def __init__(self, store: str) -> None:
        super().__init__(store)
        if store != "session":
            self.app = flask_app({**config_for(store), "FSM_MAX_SNAPSHOT_SIZE": 4000})
            self.fsm.init_app(self.app)
            for name in ("start", "write", "check", "end"):
                view = self.fsm.check()(self.page)
                self.app.add_url_rule(f"/{name}", name, view, methods=["GET", "POST"])


class Words(Form):
    words = StringField()


def test_with_a_form_of_wtforms_the_view_itself_tells_that_it_is_too_large() -> None:
    """The message is one of the form's, and nothing has moved."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(app, Machine("words", [("a", "b")]))

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> Any:
        form = Words(request.form)
        if request.method == "POST" and (answer := fsm.advance(form=form)):
            return answer
        return jsonify(errors=form.errors, words=len(form.words.data or ""), state=fsm.current)

    app.add_url_rule("/b", "b", fsm.check()(lambda: "b"))
    visitor = Visitor(app)
    visitor.open("/a")
    shown = visitor.request("POST", "/a", data={"words": letters(9000)}).get_json()
    assert shown["state"] == "a"
    assert shown["words"] == 9000
    (messages,) = shown["errors"].values()
    assert "shorter" in messages[0]
    assert "FSM_" not in messages[0]
    assert visitor.request("POST", "/a", data={"words": "x"}).location == "/b"
