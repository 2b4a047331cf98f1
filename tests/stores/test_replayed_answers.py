"""The JSON answer to a form that is sent again: its state, rev and location agree."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from flask import request

from flask_fsm import FlaskFSM, Machine

from ..apps import Visitor, config_for, flask_app, prepare, show

KINDS = ("session", "memory://", "sqlite", "postgres", "redis")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store of each kind."""
    kind: str = request.param
    if kind in ("session", "memory://"):
        return kind
    made: str = request.getfixturevalue("fresh_store")(kind)
    return made


def visitor_of(url: str, *, moves_on: bool, within: bool = False, fast: bool = False) -> Visitor:
    """A visitor of a -> b -> c -> d, where a hook may lead from b on to c."""
    machine = Machine("m", [("a", "b"), ("b", "c"), ("c", "d")])
    app = flask_app(config_for(url))
    fsm = FlaskFSM(app, machine)
    prepare(app, fsm)

    if moves_on:

        @machine.states["b"].hook
        def on(flow: Any, result: Any) -> None:
            flow.transition("c")

    for page in "abcd":

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> Any:
            if request.method == "GET":
                return show(page, fsm)
            if "reset" in request.form:
                fsm.reset()
                return "", 204
            with fsm.transaction() if within else nullcontext():
                return fsm.advance(fast_forward=fast)

    return Visitor(app)


def answers(visitor: Visitor, token: str, page: str = "a") -> list[Any]:
    """The JSON answers to a form that is sent twice."""
    return [visitor.post(page, {}, token, "json").json for _ in range(2)]


def test_a_form_that_is_sent_again_gets_the_answer_of_then(url: str) -> None:
    """Also after further steps: its state is the one of its location, and its rev is of then."""
    visitor = visitor_of(url, moves_on=False)
    token = visitor.token("a")
    first, again = answers(visitor, token)
    assert first == again == {"state": "b", "rev": 1, "location": "/b"}
    visitor.post("b", {}, visitor.token("b"))
    assert visitor.post("a", {}, token, "json").json == first
    assert visitor.post("a", {}, token).location == "/b"


def test_so_does_a_form_whose_hook_moves_on(url: str) -> None:
    """The answer leads to where the hook led, the first time and later."""
    visitor = visitor_of(url, moves_on=True)
    first, again = answers(visitor, visitor.token("a"))
    assert first == again == {"state": "c", "rev": 2, "location": "/c"}


def test_so_does_an_edit_that_is_fast_forwarded(url: str) -> None:
    """A commit of several steps answers with the state of the last one."""
    visitor = visitor_of(url, moves_on=False, fast=True)
    for page in "ab":
        visitor.post(page, {}, visitor.token(page))
    token = visitor.token("a")
    first, again = answers(visitor, token)
    assert first == again == {"state": "c", "rev": 3, "location": "/c"}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_within_a_transaction_the_answer_is_that_of_the_step(
    fresh_store: Callable[[str], str], kind: str
) -> None:
    """Hooks run when the answer has been made, so it leads to the page of the step each time."""
    visitor = visitor_of(fresh_store(kind), moves_on=True, within=True)
    token = visitor.token("a")
    first, again = answers(visitor, token)
    assert first == again == {"state": "b", "rev": 1, "location": "/b"}
    assert visitor.post("a", {}, token).location == "/b"
    assert visitor.see("c")["rev"] == 2


def test_a_form_that_has_begun_a_new_run_leads_to_its_first_page(url: str) -> None:
    """The answer to a reset that was lost: state and rev are those of the new run."""
    visitor = visitor_of(url, moves_on=False)
    visitor.post("a")
    token, old = visitor.token("b"), visitor.cookie
    for _ in range(2):
        visitor.cookie = old  # the answer was lost
        answer = visitor.post("b", {"reset": "yes"}, token, "json").json
    assert answer == {"state": "a", "rev": 0, "location": "/a"}
