"""What visitors read of the package, in the language of the request."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po
from flask import Flask, render_template_string, request
from flask_babel import Babel
from flask_wtf import FlaskForm
from jinja2 import Environment, nodes
from wtforms import StringField

import flask_fsm
from flask_fsm import FlaskFSM, Machine, StaleFlow, Transition, texts
from flask_fsm.runtime.app_state import app_state

from ..apps import SECRET, Visitor, token_in

PACKAGE = Path(flask_fsm.__file__).parent
TRANSLATIONS = PACKAGE / "translations"
TEMPLATE = TRANSLATIONS / "flask_fsm.pot"
LANGUAGES = ("de", "fr")
EVERY_LANGUAGE = pytest.mark.parametrize("language", LANGUAGES)
PLACEHOLDER = re.compile(r"%\(\w+\)s")


def ids(catalog: Catalog) -> set[str]:
    return {message.id for message in catalog if message.id}


def own_catalogue(language: str) -> Catalog:
    path = TRANSLATIONS / language / "LC_MESSAGES" / "flask_fsm.po"
    with path.open("rb") as file:
        return read_po(file, locale=language)


def closed(flow: object) -> bool:
    return False


def picky(flow: object, data: Any) -> None:
    if data.get("name") == "bad":
        raise ValueError


class NameForm(FlaskForm):
    class Meta:
        csrf = False

    name = StringField("Name")


def site(language: str | None = "de", **config: Any) -> tuple[Visitor, FlaskFSM]:
    """Pages a, b, c in a row, whose visitors ask for `language`; without Flask-Babel if None."""
    app = Flask("translations")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, **config)
    if language is not None:
        Babel(app, locale_selector=lambda: language)
    machine = Machine(
        "m",
        [
            Transition("a", "b", validators=[picky]),
            Transition("b", "c", back="discard"),
            Transition("b", "never", when=closed),
            Transition("b", "also", when=lambda flow: False),
        ],
    )
    machine.states["a"].event("go")(lambda flow, data: flow.transition("b", data=data))
    fsm = FlaskFSM(app, machine)

    def view() -> Any:
        if request.method == "POST":
            form = NameForm() if "form" in request.args else None
            data = None if form else {"name": request.form.get("name", "")}
            answer = fsm.advance(data=data, form=form)
            if answer is not None:
                return answer
            return str(form.errors)
        return render_template_string(
            "{% for text in get_flashed_messages() %}<p>{{ text }}</p>{% endfor %}{{ fsm.token() }}"
        )

    for page in ("a", "b", "c", "never", "also"):
        app.add_url_rule(f"/{page}", page, fsm.check()(view), methods=["GET", "POST"])
    return Visitor(app), fsm


def problems(visitor: Visitor, fsm: FlaskFSM) -> Iterator[tuple[int, Any]]:
    """Answer each kind of refusal, with its status."""
    client = visitor.client
    token = token_in(client.get("/a").text)
    yield 400, client.post("/a", data={"fsm_token": "x"})
    yield 409, client.post("/b")
    yield 422, client.post("/a", data={"name": "bad", "fsm_token": token})
    yield 404, client.get("/fsm/m/resume/nonsense")
    assert client.post("/a", data={"fsm_token": token}).status_code == 303
    yield 409, client.post("/a", data={"name": "two", "street": "Elm", "fsm_token": token})
    yield 409, client.post("/b", data={"to": "never"})
    yield 409, client.post("/b", data={"to": "also"})
    second = token_in(client.get("/b").text)
    fresh = visitor.app.test_client()
    yield 410, fresh.post("/a", data={"fsm_token": token})
    assert client.post("/b", data={"to": "c", "fsm_token": second}).status_code == 303
    yield 410, client.post("/b", data={"name": "late", "fsm_token": second})


@EVERY_LANGUAGE
def test_every_page_of_a_refusal_is_in_the_language_of_the_request(language: str) -> None:
    """Nothing on it is English, and it says so to browsers and screen readers."""
    english = {text for text in ids(own_catalogue(language)) if not PLACEHOLDER.search(text)}
    english = {text for text in english if len(text) > 12}
    for status, answer in problems(*site(language)):
        assert answer.status_code == status
        page = " ".join(re.sub(r"&#39;", "'", answer.text).split())
        assert f'<html lang="{language}">' in page, page
        assert [text for text in english if text in page] == []


def test_without_flask_babel_the_pages_are_english() -> None:
    """The package needs no Flask-Babel, nor an app that uses it."""
    statuses = []
    for status, answer in problems(*site(None)):
        statuses.append(status)
        assert answer.status_code == status
        assert '<html lang="en">' in answer.text
        assert "können" not in answer.text
    assert set(statuses) == {400, 404, 409, 410, 422}


def test_a_language_without_a_catalogue_is_english_and_says_so() -> None:
    for _, answer in problems(*site("nl")):
        assert '<html lang="en">' in answer.text


def test_a_language_of_a_region_has_the_catalogue_of_the_language() -> None:
    visitor, _ = site("de_AT")
    assert '<html lang="de">' in visitor.client.post("/b").text


@EVERY_LANGUAGE
def test_a_problem_document_is_translated_but_its_codes_are_not(language: str) -> None:
    visitor, _ = site(language)
    catalogue = own_catalogue(language)
    answer = visitor.client.post("/b", headers={"Accept": "application/json"}).json
    assert answer["reason"] == "not_on_path"
    english = "This page is not open: continue with the current page first."
    assert answer["detail"] == catalogue[english].string
    assert answer["title"] == catalogue["This step is not open"].string
    assert answer["reasons"][0]["text"] == answer["detail"]


@EVERY_LANGUAGE
def test_a_notice_is_translated(language: str) -> None:
    visitor, _ = site(language)
    page = visitor.client.get("/b", follow_redirects=True).text
    english = "That page is not open now; please continue here."
    assert own_catalogue(language)[english].string in page.replace("&#39;", "'")


@EVERY_LANGUAGE
def test_messages_of_our_own_rules_are_translated(language: str) -> None:
    """A rule that refuses and says nothing: in a form, and as an answer to an event."""
    visitor, _ = site(language)
    message = str(own_catalogue(language)["These answers were not accepted."].string)
    visitor.client.get("/a")
    assert message in visitor.client.post("/a?form=1", data={"name": "bad"}).text
    body = {"event": "go", "data": {"name": "bad"}}
    answer = visitor.client.post("/fsm/m/event", json=body).json
    assert message in json.dumps(answer, ensure_ascii=False)


def test_visitors_of_one_app_read_each_their_own_language() -> None:
    visitor, _ = site(None)
    Babel(visitor.app, locale_selector=lambda: request.accept_languages.best_match(LANGUAGES))
    for language in (*LANGUAGES, *LANGUAGES):
        page = visitor.client.post("/b", headers={"Accept-Language": language}).text
        assert f'<html lang="{language}">' in page


@pytest.mark.parametrize(
    ("language", "time"),
    [("de", "30. November 2026"), ("fr", "30 novembre 2026"), (None, "2026-11-30")],
)
def test_a_time_is_shown_as_in_the_language_of_the_request(language: str | None, time: str) -> None:
    """When the flow of a resume link was changed last."""
    visitor, fsm = site(language, FSM_STORE_URL="memory://")
    visitor.app.add_url_rule("/link", "link", lambda: fsm.resume_link())
    app_state_of(visitor).clock = lambda: 1_796_029_500
    visitor.client.get("/a")
    assert visitor.client.post("/a").status_code == 303
    other = visitor.app.test_client()
    page = other.get(visitor.client.get("/link").text.removeprefix("http://localhost"))
    assert page.status_code == 200
    assert time in page.text.replace("\N{NO-BREAK SPACE}", " ")


def app_state_of(visitor: Visitor) -> Any:
    with visitor.app.app_context():
        return app_state()


def test_an_app_adds_a_language_and_changes_a_text(tmp_path: Path) -> None:
    """In a catalogue of this package's name, beside those of its own texts."""
    for language, text in {"it": "Questa pagina non c'è.", "de": "Keine Seite."}.items():
        messages = Catalog(language)
        messages.add("There is no such page.", text)
        path = tmp_path / language / "LC_MESSAGES" / "flask_fsm.mo"
        path.parent.mkdir(parents=True)
        made = BytesIO()
        write_mo(made, messages)
        path.write_bytes(made.getvalue())
    for language, text in {
        "it": "Questa pagina non c'è.",
        "de": "Keine Seite.",
        "fr": own_catalogue("fr")["There is no such page."].string,
    }.items():
        visitor, _ = site(language, BABEL_TRANSLATION_DIRECTORIES=str(tmp_path))
        asking = {"Accept": "application/json"}
        answer = visitor.client.get("/fsm/m/resume/nonsense", headers=asking)
        assert answer.json["detail"] == text


def test_logs_and_tracebacks_are_english() -> None:
    visitor, _ = site("de")
    with visitor.app.test_request_context():
        error = StaleFlow(texts.OwnText("This link has expired."))
    assert error.message == "Dieser Link ist abgelaufen."
    assert str(error) == "This link has expired."
    assert "expired" in repr(error)
    assert "expired" in logging.Formatter().formatException((type(error), error, None))


def test_outside_of_a_request_a_text_is_english_where_the_app_can_select_no_language() -> None:
    """A command or a task has no request to ask."""
    visitor, _ = site(None)
    Babel(visitor.app, locale_selector=lambda: request.accept_languages.best_match(LANGUAGES))
    assert texts.translate("There is no such page.") == "There is no such page."
    with visitor.app.app_context():
        assert app_state() is not None
        assert texts.translate("There is no such page.") == "There is no such page."


# -- the catalogues -------------------------------------------------------------------------


def test_the_template_has_every_text_and_no_other(tmp_path: Path) -> None:
    """If this fails: make translations, and fill in what is new."""
    root = PACKAGE.parent
    makefile = (root / "Makefile").read_text()
    assert "extract --mapping pyproject.toml --keywords fsm_gettext" in makefile
    extracted = tmp_path / "extracted.pot"
    command = [sys.executable, "-m", "babel.messages.frontend", "--quiet", "extract"]
    options = ["--mapping", "pyproject.toml", "--keywords", "fsm_gettext", "--output", extracted]
    subprocess.run([*command, *options, "flask_fsm"], cwd=root, check=True)
    with extracted.open("rb") as new, TEMPLATE.open("rb") as stored:
        assert ids(read_po(new)) == ids(read_po(stored))


@EVERY_LANGUAGE
def test_the_catalogues_are_complete(language: str) -> None:
    """Each text is translated, with the same values to put in, and none is a guess."""
    catalogue = own_catalogue(language)
    with TEMPLATE.open("rb") as file:
        assert ids(catalogue) == ids(read_po(file))
    for message in catalogue:
        assert message.string, message.id
        assert not message.fuzzy or not message.id, message.id
        found, wanted = (sorted(PLACEHOLDER.findall(t)) for t in (message.string, message.id))
        assert not message.id or found == wanted, message.id
    assert not catalogue.obsolete
    assert catalogue["en"].string == language


@EVERY_LANGUAGE
def test_the_compiled_catalogues_are_those_of_the_sources(language: str) -> None:
    """If this fails: make translations."""
    compiled_file = TRANSLATIONS / language / "LC_MESSAGES" / "flask_fsm.mo"
    with compiled_file.open("rb") as file:
        compiled = read_mo(file)
    source = own_catalogue(language)
    assert ids(compiled) == ids(source)
    assert all(compiled[id].string == source[id].string for id in ids(source))


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("templates/**/*.html")), ids=lambda p: p.name)
def test_no_text_of_a_template_is_left_unmarked(path: Path) -> None:
    """What stands in a template is markup; what people read is in fsm_gettext()."""
    source = Environment().parse(path.read_text())
    shown = "".join(data.data for data in source.find_all(nodes.TemplateData))
    without_markup = re.sub(r"<[^>]*>|&\w+;", " ", re.sub(r"<!doctype html>", "", shown))
    assert re.findall(r"[A-Za-z]{2,}[^<]*", without_markup) == []
