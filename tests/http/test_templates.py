"""`fsm` in templates: in imported macros, and in pages that are streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, render_template, request, stream_template, stream_with_context
from jinja2 import DictLoader
from werkzeug.test import TestResponse

from flask_fsm import FlaskFSM, FSMError, Machine

from ..apps import FEW_STORES, SECRET, Visitor, assert_private, token_in

TEMPLATES = {
    "macros.html": "{% macro form() %}{% include 'form.html' %}{% endmacro %}",
    "import.html": "{% from 'macros.html' import form %}{{ form() }}",
    "import_all.html": "{% import 'macros.html' as macros %}{{ macros.form() }}",
    "include.html": "{% include 'form.html' %}",
    "form.html": "{{ fsm.name }} {{ fsm.current }} {{ fsm.token() }}",
    "child.html": "{% extends 'base.html' %}{% block form %}{{ fsm.token() }}{% endblock %}",
    "base.html": "{{ fsm.name }} {{ fsm.current }} {% block form scoped %}{% endblock %}",
}


def new_app(store: str = "session") -> Flask:
    app = Flask("templates")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL=store)
    app.jinja_loader = DictLoader(TEMPLATES)  # type: ignore[assignment]
    return app


def add(app: Flask, fsm: Any, render: Any, *pages: str, guard: bool = True) -> None:
    for page in pages:

        def view() -> Any:
            return fsm.advance() if request.method == "POST" else render()

        guarded = fsm.check()(view) if guard else view
        app.add_url_rule(f"/{page}", page, guarded, methods=["GET", "POST"])


@pytest.mark.parametrize("template", ["import", "import_all", "include", "form", "child"])
def test_the_machine_of_the_view_is_there_in_every_kind_of_template(template: str) -> None:
    """Imported macros, which have no context, see `fsm` too, each time that of the view."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("cart", "paid")]))
    other = fsm.add(Machine("other", [("x", "y")]))
    add(app, fsm, lambda: render_template(f"{template}.html"), "cart", "paid")
    add(app, other, lambda: render_template(f"{template}.html"), "x", "y")
    for _ in range(2):  # an imported template is kept from one request to the next
        visitor = Visitor(app)
        for machine, page, then in (("shop", "cart", "paid"), ("other", "x", "y")):
            shown = visitor.open(page).text
            assert shown.startswith(f"{machine} {page} <input")
            assert visitor.post(page, token=token_in(shown)).location == f"/{then}"


def test_a_template_that_is_rendered_by_the_environment_alone_has_it() -> None:
    """No context processor runs there: a mail's template, say, can link to the flow's page."""
    app = new_app()
    fsm = FlaskFSM(app, [("cart", "paid")])
    add(app, fsm, lambda: app.jinja_env.get_template("form.html").render(), "cart", "paid")
    assert Visitor(app).open("cart").text.startswith("fsm cart <input")


def test_a_variable_of_the_view_goes_before_it() -> None:
    """A template that is given another `fsm` gets that one."""
    app = new_app()
    fsm = FlaskFSM(app, [("cart", "paid")])
    mine = {"name": "mine", "current": "here", "token": lambda: "none"}
    add(app, fsm, lambda: render_template("form.html", fsm=mine), "cart", "paid")
    assert Visitor(app).open("cart").text == "mine here none"


# -- streamed pages ---------------------------------------------------------------------------


def stream_token(fsm: Any) -> Iterator[str]:
    yield "before "
    yield str(fsm.token())


def assert_posted(visitor: Visitor, shown: TestResponse) -> None:
    assert_private(shown)
    posted = visitor.post("cart", token=token_in(shown.text))
    assert posted.status_code == 303, posted.text
    assert posted.location == "/paid"


@pytest.mark.parametrize("store", FEW_STORES)
@pytest.mark.parametrize("template", ["import", "form", "child"])
def test_a_streamed_template_of_a_first_visit_has_a_token_that_counts(
    store: str, template: str
) -> None:
    """The cookie is sent before the template runs, so its form can be posted."""
    app = new_app(store)
    fsm = FlaskFSM(app, [("cart", "paid")])
    add(app, fsm, lambda: stream_template(f"{template}.html"), "cart", "paid")
    visitor = Visitor(app)
    assert_posted(visitor, visitor.open("cart"))


@pytest.mark.parametrize("store", FEW_STORES)
def test_a_generator_of_a_first_visit_has_a_token_that_counts(store: str) -> None:
    """So has a response that the view streams by hand."""
    app = new_app(store)
    fsm = FlaskFSM(app, [("cart", "paid")])
    add(app, fsm, lambda: stream_with_context(stream_token(fsm)), "cart", "paid")
    visitor = Visitor(app)
    assert_posted(visitor, visitor.open("cart"))


@pytest.mark.parametrize("store", FEW_STORES)
def test_a_streamed_page_after_the_end_begins_a_run_whose_form_counts(store: str) -> None:
    """The blank run that follows a finished one is named in time, too."""
    app = new_app(store)
    fsm = FlaskFSM(app, [("cart", "paid")])
    add(app, fsm, lambda: stream_template("form.html"), "cart", "paid")
    visitor = Visitor(app)
    assert_posted(visitor, visitor.open("cart"))
    assert_posted(visitor, visitor.open("cart"))


@pytest.mark.parametrize("store", FEW_STORES)
def test_a_streamed_token_of_an_unguarded_page_is_an_error_while_it_is_rendered(store: str) -> None:
    """Its flow is known when the headers have gone: better no form than one whose POST is 410."""
    app = new_app(store)
    fsm = FlaskFSM(app, [("cart", "paid")])
    add(app, fsm, lambda: "page", "cart", "paid")
    app.add_url_rule("/box", "box", lambda: stream_with_context(stream_token(fsm)))
    with pytest.raises(FSMError, match=r"call fsm\.token\(\) in the view") as caught:
        _ = Visitor(app).open("box").text
    assert caught.value.code == "response_begun"


def test_a_streamed_token_of_another_machine_is_an_error_while_it_is_rendered() -> None:
    """The guard names the flow of its own machine; that of another one is named by the view."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("cart", "paid")]))
    other = fsm.add(Machine("other", [("x", "y")]))
    add(app, other, lambda: "page", "x", "y")
    add(app, fsm, lambda: stream_with_context(stream_token(other)), "cart", "paid")
    with pytest.raises(FSMError, match="machine 'other'"):
        _ = Visitor(app).open("cart").text


def test_an_unguarded_page_streams_the_token_that_its_view_has_made() -> None:
    """What the error advises works."""
    app = new_app()
    fsm = FlaskFSM(app, [("cart", "paid")])
    add(app, fsm, lambda: "page", "cart", "paid")

    @app.route("/box")
    def box() -> Any:
        fsm.token()
        return stream_with_context(stream_token(fsm))

    visitor = Visitor(app)
    shown = visitor.open("box")
    assert_posted(visitor, shown)


@pytest.mark.parametrize("store", FEW_STORES)
def test_a_move_at_the_end_of_a_stream_is_kept(store: str) -> None:
    """As one over a socket, it reaches the cookie of the session store at the next response."""
    app = new_app(store)
    fsm = FlaskFSM(app, [("cart", "paid")])

    def moving() -> Iterator[str]:
        yield "before "
        fsm.transition("paid")

    app.add_url_rule(
        "/cart", "cart", fsm.check()(lambda: stream_with_context(moving())), methods=["GET", "POST"]
    )
    add(app, fsm, lambda: fsm.current, "paid")
    visitor = Visitor(app)
    assert visitor.post("cart").text == "before "
    assert visitor.open("paid").text == "paid"


@pytest.mark.parametrize("store", FEW_STORES)
def test_a_refusal_names_no_flow(store: str) -> None:
    """Flask streams the pages of HTTP errors; a stranger's form stays 410 when it is sent again."""
    app = new_app(store)
    fsm = FlaskFSM(app, [("cart", "pay"), ("pay", "paid")])
    add(app, fsm, lambda: render_template("form.html"), "cart", "pay", "paid")
    visitor, stranger = Visitor(app), Visitor(app)
    visitor.post("cart", token=token_in(visitor.open("cart").text))
    # Not the form of the first page, which the page of the refusal lets begin a new run.
    token = token_in(visitor.open("pay").text)
    for _ in range(2):
        assert stranger.post("pay", token=token).status_code == 410
