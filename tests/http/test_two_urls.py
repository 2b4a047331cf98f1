"""A page whose form is sent to a URL of its own: every link is to the URL that can be opened."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, request

from flask_fsm import FlaskFSM, Machine, Transition
from flask_fsm.testing.html_forms import forms_in

from ..apps import (
    Visitor,
    assert_moved,
    assert_refused,
    config_for,
    flask_app,
    notices,
    prepare,
    show,
)

EDGES = [Transition("a", "b"), Transition("b", "c"), Transition("c", "d")]


def two_urls(store: str = "session", argument: str = "", **options: Any) -> Flask:
    """An app with a -> b -> c -> d; a page is shown at /a, and its form goes to /a/save."""
    app = flask_app(config_for(store))
    fsm = FlaskFSM(app, Machine("m", EDGES, **options))

    def view(**_: Any) -> Any:
        page = request.endpoint or ""
        if request.method != "POST":
            return show(page, fsm)
        app.config["SEEN"] = fsm.url_for("b")
        return fsm.advance(data={"x": request.form.get("x")})

    for page in "abcd":
        guard = fsm.check(state=page)(lambda **kwargs: view(**kwargs))
        # The URL of the form comes first: the order of the rules decides nothing.
        app.add_url_rule(f"{argument}/{page}/save", page, guard, methods=["POST"])
        app.add_url_rule(f"{argument}/{page}", page, guard, methods=["GET"])
    prepare(app, fsm)
    return app


@pytest.mark.parametrize("store", ["session", "memory://"])
@pytest.mark.parametrize("argument", ["", "/7"])
@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_a_step_leads_to_the_url_that_can_be_opened(store: str, argument: str, asking: str) -> None:
    """And so does the same form sent again, in each format; it was a 405 in a browser."""
    app = two_urls(store, "/<int:order>" if argument else "")
    visitor, at = Visitor(app), argument[1:] + "/" if argument else ""
    token = visitor.token(f"{at}a")
    for _ in range(2):
        moved = visitor.post(f"{at}a/save", {"x": "1"}, token, asking)
        assert_moved(moved, asking, f"{argument}/b", "b")
    assert app.config["SEEN"] == f"{argument}/b"
    assert visitor.open(f"{at}b").status_code == 200


@pytest.mark.parametrize("path", ["a", "b", "c", "d"])
def test_the_links_of_a_refusal_can_be_opened(path: str) -> None:
    """ "Go to the current page", "Go on in a new tab" and "Start again" lead to pages."""
    visitor = Visitor(two_urls())
    stale = visitor.token("a")
    visitor.post("a/save", {"x": "1"}, stale)
    visitor.post("b/save", {"x": "1"}, visitor.token("b"))
    refused = visitor.post(f"{path}/save", {"x": "2"}, stale)
    assert refused.status_code == 409
    links = [part.split('href="')[1].split('"')[0] for part in refused.text.split("<a ")[1:]]
    assert "/c" in links
    assert all(visitor.open(link[1:]).status_code == 200 for link in links), links
    told = visitor.post(f"{path}/save", {"x": "3"}, stale, "json")
    assert_refused(told, "json", 409)
    assert told.json["location"] == "/c"


def test_send_again_goes_to_the_url_of_the_form() -> None:
    """The form of a refusal goes where the first one went, and is taken there."""
    visitor = Visitor(two_urls())
    stale = visitor.token("a")
    visitor.post("a/save", {"x": "1"}, stale)
    refused = visitor.post("a/save", {"x": "2"}, stale)
    (again,) = forms_in(refused.text)
    fields = {name: values[0] for name, values in again.values().items()}
    assert "action=" not in refused.text.partition("<form")[2].partition(">")[0]
    assert visitor.post("a/save", fields).location == "/b"


def test_after_the_end_the_links_can_be_opened_too() -> None:
    """Of a run that is over: the result, and the first page."""
    visitor = Visitor(two_urls())
    stale = ""
    for page in "abc":
        stale = visitor.token(page)
        assert visitor.post(f"{page}/save", {"x": "1"}, stale).status_code == 303
    gone = visitor.post("c/save", {"x": "2"}, stale)
    assert gone.status_code == 410
    assert ('href="/d"' in gone.text, 'href="/a"' in gone.text) == (True, True)


def test_several_flows_of_a_page_with_two_urls_keep_their_keys() -> None:
    """With many=True, the key of the flow goes along to the URL that can be opened."""
    visitor = Visitor(two_urls("memory://", many=True))
    first = visitor.open("a").location
    assert first is not None
    assert first.startswith("/a?flow=")
    key = first.partition("=")[2]
    token = visitor.token(f"a?flow={key}")
    assert visitor.post(f"a/save?flow={key}", {}, token).location == f"/b?flow={key}"


def test_a_get_of_a_page_that_is_not_open_leads_to_one_that_is() -> None:
    """As it did before: a GET never asked for the URL of a form."""
    visitor = Visitor(two_urls())
    assert visitor.open("c").location == "/a"
    assert notices(visitor.open("a")) == ["That page is not open now; please continue here."]
