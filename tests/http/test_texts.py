"""Texts of an app that are no `str`: lazy translations of Flask-Babel, and Markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.support import LazyProxy
from flask import Flask, abort, render_template_string, request
from flask_babel import Babel, lazy_gettext
from flask_wtf import FlaskForm
from markupsafe import Markup
from wtforms import StringField

from flask_fsm import (
    FlaskFSM,
    FSMError,
    GuardRefused,
    Machine,
    Reason,
    StaleFlow,
    Transition,
    ValidationFailed,
)
from flask_fsm.live.client.actions import Frame, Job
from flask_fsm.live.client.session import ClientSession
from flask_fsm.live.client.subscriber import Subscriber
from flask_fsm.live.protocol.sse import event_bytes
from flask_fsm.runtime.app_state import app_state, unwrap
from flask_fsm.texts import OwnText

from ..apps import SECRET

LATE = lazy_gettext("It is too late.")
SHORT = lazy_gettext("This is too short.")
GERMAN = {"It is too late.": "Es ist zu spät.", "This is too short.": "Das ist zu kurz."}
BOLD = Markup("It is <b>far</b> too late.")

REFUSALS: dict[str, tuple[Callable[[], Exception], str]] = {
    "a validator's message": (lambda: ValidationFailed(LATE), "Es ist zu spät."),
    "a field's message": (lambda: ValidationFailed({"name": SHORT}), "Das ist zu kurz."),
    "a list of a field's messages": (
        lambda: ValidationFailed({"name": [SHORT, LATE]}),
        "Das ist zu kurz.",
    ),
    "field=": (lambda: ValidationFailed(SHORT, field="name"), "Das ist zu kurz."),
    "messages=": (lambda: ValidationFailed(messages=[SHORT, LATE]), "Es ist zu spät."),
    "fields=": (lambda: ValidationFailed(fields={"name": (SHORT,)}), "Das ist zu kurz."),
    "a ValueError": (lambda: ValueError(LATE), "Es ist zu spät."),
    "a proxy of Babel": (
        lambda: ValidationFailed(LazyProxy(lambda: str(LATE))),
        "Es ist zu spät.",
    ),
}
ASKING = {"json": {"Accept": "application/json"}, "html": {}, "htmx": {"HX-Request": "true"}}


def catalogue(folder: Path) -> Path:
    """Write the app's German translations."""
    messages = Catalog("de")
    for english, german in GERMAN.items():
        messages.add(english, german)
    path = folder / "translations" / "de" / "LC_MESSAGES" / "messages.mo"
    path.parent.mkdir(parents=True)
    made = BytesIO()
    write_mo(made, messages)
    path.write_bytes(made.getvalue())
    return folder / "translations"


class NameForm(FlaskForm):
    class Meta:
        csrf = False

    name = StringField("Name")


class Site:
    """An app in German with the pages a and b, between which one rule refuses as it is told."""

    def __init__(self, folder: Path) -> None:
        self.app = Flask("texts")
        self.app.config.update(
            SECRET_KEY=SECRET,
            TESTING=True,
            BABEL_TRANSLATION_DIRECTORIES=str(catalogue(folder)),
        )
        Babel(self.app, locale_selector=lambda: request.accept_languages.best_match(["en", "de"]))
        self.refuse: Callable[[], Exception] | None = None
        self.guard: Callable[[], Any] = lambda: True
        edge = Transition(
            "a",
            "b",
            event="go",
            visit=True,
            when=lambda flow: self.guard(),
            validators=[self.validate],
        )
        machine = Machine("m", [edge, ("b", "c")])
        machine.states["a"].event("say")(lambda flow, data: flow.transmit({"text": LATE}))
        machine.states["a"].event("stop")(lambda flow, data: self.stop())
        self.fsm = FlaskFSM(self.app, machine)
        for page in ("a", "b", "c"):
            self.app.add_url_rule(
                f"/{page}", page, self.fsm.check()(self.view), methods=["GET", "POST"]
            )
        self.client = self.app.test_client()

    def validate(self, flow: object, data: object) -> None:
        if self.refuse is not None:
            raise self.refuse()

    def stop(self) -> None:
        raise GuardRefused(LATE)

    def view(self) -> Any:
        form = NameForm() if "form" in request.args else None
        if request.method == "POST":
            answer = self.fsm.advance(form=form, data=None if form else {"name": "x"})
            if answer is not None:
                return answer
        return render_template_string(
            "{% for text in get_flashed_messages() %}<p>{{ text }}</p>{% endfor %}"
            "{% if form %}{{ form.errors }}{% endif %}",
            form=form,
        )

    def post(self, path: str = "/a", asking: str = "html", language: str = "de") -> Any:
        headers = {"Accept-Language": language, **ASKING[asking]}
        return self.client.post(path, data={"name": "x"}, headers=headers)

    def say(self, event: str, language: str = "de") -> dict[str, Any]:
        """Send an event over a socket, and return the frame that answers it."""
        headers = {"Accept-Language": language}
        with self.app.test_request_context("/fsm/m/ws", headers=headers):
            state = app_state()
            subscriber = Subscriber(100, ids=False)
            session = ClientSession(
                self.app, state, state.bound["m"], unwrap(request), subscriber, []
            )
            session.open(None)
            while subscriber.take() is not None:
                pass
        try:
            session.handle(Job(json.dumps({"event": event, "data": None, "ref": 1})))
            out = subscriber.take()
            assert isinstance(out, Frame)
            answer: dict[str, Any] = json.loads(out.text)
            return answer
        finally:
            subscriber.leave()
            session.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
@pytest.mark.parametrize("what", REFUSALS)
def test_a_visitor_reads_the_translation_of_what_a_validator_says(
    site: Site, what: str, asking: str
) -> None:
    site.refuse, text = REFUSALS[what]
    answer = site.post(asking=asking)
    assert answer.status_code == 422
    shown = json.dumps(answer.json, ensure_ascii=False) if asking == "json" else answer.text
    assert text in shown
    english = next(key for key, value in GERMAN.items() if value == text)
    assert english in site.post(language="en").text


@pytest.mark.parametrize("what", REFUSALS)
def test_a_form_shows_the_translation(site: Site, what: str) -> None:
    site.refuse, text = REFUSALS[what]
    answer = site.post("/a?form=1")
    assert answer.status_code == 200
    assert text in answer.text


def test_a_lazy_text_is_one_message_and_not_its_letters(site: Site) -> None:
    site.refuse = lambda: ValidationFailed({"name": SHORT, "town": [LATE, SHORT]})
    answer = site.post(asking="json")
    assert answer.json["fields"] == {
        "name": ["Das ist zu kurz."],
        "town": ["Es ist zu spät.", "Das ist zu kurz."],
    }
    assert site.say("go")["data"]["fields"]["name"] == ["Das ist zu kurz."]


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_a_guard_gives_a_lazy_reason(site: Site, asking: str) -> None:
    def refuse() -> bool:
        raise GuardRefused(LATE)

    site.guard = refuse
    answer = site.post(asking=asking)
    assert answer.status_code == 409
    assert "Es ist zu spät." in (answer.json["detail"] if asking == "json" else answer.text)


def test_reasons_may_be_lazy(site: Site) -> None:
    def refuse() -> bool:
        raise GuardRefused(LATE, reasons=[Reason("hour", LATE), Reason("size", SHORT)])

    site.guard = refuse
    assert [reason["text"] for reason in site.post(asking="json").json["reasons"]] == [
        "Es ist zu spät.",
        "Das ist zu kurz.",
    ]
    assert [reason["text"] for reason in site.say("go")["data"]["reasons"]] == [
        "Es ist zu spät.",
        "Das ist zu kurz.",
    ]


def test_the_notice_of_a_visit_that_was_refused_may_be_lazy(site: Site) -> None:
    def refuse() -> bool:
        raise GuardRefused(LATE)

    site.guard = refuse
    answer = site.client.get("/b", headers={"Accept-Language": "de"}, follow_redirects=True)
    assert "Es ist zu spät." in answer.text


def test_a_guards_docstring_may_be_lazy(tmp_path: Path) -> None:
    def closed(flow: object) -> bool:
        return False

    closed.__doc__ = LATE
    flow = Machine("m", [Transition("a", "b", when=closed)]).flow()
    assert flow.why_not("b") == [Reason("guard", "It is too late.")]


def test_a_socket_is_answered_in_the_language_of_its_client(site: Site) -> None:
    site.refuse = lambda: ValidationFailed(LATE)
    assert site.say("go")["data"]["messages"] == ["Es ist zu spät."]
    assert site.say("go", "en")["data"]["messages"] == ["It is too late."]
    assert site.say("stop")["data"]["message"] == "Es ist zu spät."
    assert site.say("say")["data"] == {"text": "Es ist zu spät."}


def test_an_event_over_http_is_answered_in_the_language_of_its_client(site: Site) -> None:
    site.client.get("/fsm/m/state")
    for event in ("stop", "say"):
        answer = site.client.post(
            "/fsm/m/event",
            json={"event": event, "data": None},
            headers={"Accept-Language": "de"},
        )
        assert "Es ist zu spät." in json.dumps(answer.json, ensure_ascii=False)


def test_an_app_may_abort_an_event_with_a_lazy_text(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.fsm.subject(lambda: abort(403, LATE))
    answer = site.client.post(
        "/fsm/m/event", json={"event": "go", "data": None}, headers={"Accept-Language": "de"}
    )
    assert answer.status_code == 403
    assert "zu sp" in answer.text


def test_a_message_of_an_event_stream_may_be_lazy() -> None:
    assert event_bytes("note", LATE) == b"event: note\ndata: It is too late.\n\n"
    assert b'{"text":"It is too late."}' in event_bytes("note", {"text": LATE})


# -- Markup ---------------------------------------------------------------------------------


def test_markup_of_the_app_stays_markup_and_other_texts_are_escaped(site: Site) -> None:
    site.refuse = lambda: ValidationFailed(BOLD)
    assert "It is <b>far</b> too late." in site.post().text
    site.refuse = lambda: ValidationFailed("<i>plain</i>")
    assert "&lt;i&gt;plain" in site.post().text
    site.refuse = lambda: ValueError(BOLD)
    assert "It is <b>far</b> too late." in site.post().text
    site.refuse = lambda: ValidationFailed({"<i>": BOLD})
    answer = site.post()
    assert "&lt;i&gt;: It is <b>far</b> too late." in answer.text
    site.refuse = None
    site.guard = lambda: (_ for _ in ()).throw(GuardRefused(BOLD))
    assert "It is <b>far</b> too late." in site.post().text
    assert site.post(asking="json").json["detail"] == "It is <b>far</b> too late."


def test_markup_that_is_put_into_a_text_of_the_package_stays_markup() -> None:
    """And what it is put into is escaped, with the other values."""
    text = OwnText("%(a)s < %(b)s", a=Markup("<b>a</b>"), b="<i>")
    assert str(text) == Markup("<b>a</b> &lt; &lt;i&gt;")
    assert isinstance(str(text), Markup)
    assert str(OwnText("%(a)s", a="<i>")) == "<i>"


def test_what_a_lazy_text_was_filled_with_is_escaped(site: Site) -> None:
    """Flask-Babel's own `__html__` would let it through as it is."""
    typed = lazy_gettext("%(name)s is taken.", name="<script>")
    site.refuse = lambda: ValidationFailed(typed)
    answer = site.post()
    assert "<script>" not in answer.text
    assert "&lt;script&gt; is taken." in answer.text


def test_errors_of_any_kind_take_lazy_texts_and_become_str() -> None:
    for error in (FSMError(LATE), StaleFlow(LATE), GuardRefused(LATE), ValidationFailed(LATE)):
        assert str(error) == "It is too late."
        assert type(error.message) is str
        assert type(error.reasons[0].text) is str
