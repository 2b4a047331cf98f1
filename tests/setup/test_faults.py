"""Faults of an app's set-up: all of them in one error, before the first view runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask

from flask_fsm import DefinitionError, FlaskFSM, Machine, State, UnknownState

from ..apps import SECRET

LINE = [("a", "b"), ("b", "c"), ("c", "d")]


def new_app() -> Flask:
    app = Flask("faulty")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    return app


def fault_of(app: Flask, page: str = "/free") -> DefinitionError:
    """The error with which the app's first request fails."""
    with pytest.raises(DefinitionError) as caught:
        app.test_client().get(page)
    return caught.value


def guarded(app: Flask | Blueprint, fsm: Any, name: str, **check: Any) -> None:
    app.add_url_rule(f"/{name}", name, fsm.check(**check)(lambda: ran.append(name) or name))


def bare(app: Flask | Blueprint, name: str) -> None:
    app.add_url_rule(f"/{name}", name, lambda: ran.append(name) or name)


ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def test_all_faults_are_in_one_error_that_names_each() -> None:
    """Unknown names, missing edges, a page without state and one without guard, all at once."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("line", LINE))
    bare(app, "free")
    guarded(app, fsm, "a", to=["b", "nowhere"])
    guarded(app, fsm, "b", accept=["somewhere"])
    guarded(app, fsm, "c", accept=["a"], to=["a"])
    guarded(app, fsm, "stranger")
    app.add_url_rule("/ajax", "ajax", fsm.requires("elsewhere")(lambda: "x"))
    bare(app, "d")
    error = fault_of(app)
    assert ran == []
    assert len(error.faults) == 7
    for name in (
        "nowhere",
        "somewhere",
        "'a' -> 'c'",
        "'c' -> 'a'",
        "stranger",
        "elsewhere",
        "'d'",
    ):
        assert name in str(error), name
    assert sum(isinstance(fault, UnknownState) for fault in error.faults) == 4


@pytest.mark.parametrize(
    ("label", "add"),
    [
        ("nowhere", lambda app, fsm: guarded(app, fsm, "a", to=["nowhere"])),
        ("nowhere", lambda app, fsm: guarded(app, fsm, "b", accept=["nowhere"])),
        ("no edge 'a' -> 'c'", lambda app, fsm: guarded(app, fsm, "a", to=["c"])),
        ("no edge 'c' -> 'a'", lambda app, fsm: guarded(app, fsm, "a", accept=["c"])),
        ("is not a state", lambda app, fsm: guarded(app, fsm, "stranger")),
        ("is not a state", lambda app, fsm: guarded(app, fsm, "x", state="stranger")),
        ("isn't guarded", lambda app, fsm: bare(app, "c")),
    ],
)
def test_each_fault_is_found_whatever_page_is_asked_first(
    label: str, add: Callable[[Flask, FlaskFSM], None]
) -> None:
    """Even a request of a page that has nothing to do with it tells of the fault."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("line", LINE))
    bare(app, "free")
    add(app, fsm)
    error = fault_of(app)
    assert label in str(error)
    assert ran == []
    assert label in str(fault_of(app, "/a"))
    assert ran == []


@pytest.mark.parametrize("order", ["init first", "init last", "blueprint"])
def test_faults_are_found_in_any_order_of_the_parts(order: str) -> None:
    """init_app may come before or after the routes, which may be in a blueprint."""
    app = new_app()
    fsm = FlaskFSM(Machine("line", [("pages.a", "pages.b")]))
    if order == "init first":
        fsm.init_app(app)
    pages = Blueprint("pages", __name__)
    bare(pages, "free")
    guarded(pages, fsm, "a", to=["nowhere"])
    if order != "blueprint":
        bare(pages, "b")
    app.register_blueprint(pages)
    if order != "init first":
        fsm.init_app(app)
    error = fault_of(app)
    assert "nowhere" in str(error)
    assert ("isn't guarded" in str(error)) == (order != "blueprint")
    assert ran == []


def test_a_guard_that_is_hidden_by_a_decorator_is_a_fault() -> None:
    """A decorator without functools.wraps hides the guard, so the page counts as not guarded."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("line", [("a", "b")]))
    bare(app, "free")
    guarded(app, fsm, "a")
    inner = fsm.check()(lambda: "b")
    app.add_url_rule("/b", "b", lambda: inner())
    error = fault_of(app)
    assert "'b'" in str(error)
    assert "functools.wraps" in str(error)


def test_a_page_that_says_it_is_not_guarded_is_no_fault() -> None:
    """State(guarded=False) means it."""
    app = new_app()
    FlaskFSM(app, Machine("line", [("a", "b")], states=[State("a", guarded=False), "b"]))
    bare(app, "a")
    bare(app, "free")
    assert app.test_client().get("/free").text == "free"
    assert app.test_client().get("/a").text == "a"


def test_the_faults_of_two_machines_are_in_one_error() -> None:
    """Every machine of the app is looked at."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("one", [("a", "b")]))
    other = fsm.add(Machine("two", [("x", "y")]))
    guarded(app, fsm, "a", to=["nowhere"])
    guarded(app, other, "x", to=["elsewhere"])
    error = fault_of(app, "/a")
    assert "nowhere" in str(error)
    assert "elsewhere" in str(error)
    assert "'one'" in str(error)
    assert "'two'" in str(error)


def test_accept_and_to_narrow_and_never_widen() -> None:
    """An edge left out by either side is closed: to a POST, and to why_not."""
    app = new_app()
    fsm = FlaskFSM(
        app, Machine("narrow", [("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")])
    )
    for name, check in {
        "a": {"to": ["b", "c"]},
        "b": {},
        "c": {"accept": []},
        "d": {"accept": ["b"]},
    }.items():
        from flask import request

        @app.route(f"/{name}", methods=["GET", "POST"], endpoint=name)
        @fsm.check(**check)  # type: ignore[arg-type]
        def view(name: str = name) -> object:
            if request.method == "POST":
                return fsm.advance()
            return {way: fsm.can_transition(way) for way in "abcd"}

    client = app.test_client()
    assert client.get("/a").json == {"a": False, "b": True, "c": False, "d": False}
    assert client.post("/a", data={"to": "c"}).status_code == 409
    assert client.post("/a", data={"to": "d"}).status_code == 409
    assert client.post("/a").location == "/b"
    assert client.post("/b").location == "/d"


def test_faults_of_a_machine_built_from_decorators_are_told_too() -> None:
    """A name in a decorator that is no view makes an error at set-up, too."""
    app = new_app()
    fsm = FlaskFSM(app)
    bare(app, "free")
    guarded(app, fsm, "a", to=["b"])
    guarded(app, fsm, "b", accept=["a", "typo"])
    error = fault_of(app)
    assert "typo" in str(error)


def test_rules_registered_after_the_first_request_are_an_error() -> None:
    """Registration ends when the machine is first used."""
    app = new_app()
    machine = Machine("line", [("a", "b")])
    fsm = FlaskFSM(app, machine)
    guarded(app, fsm, "a")
    guarded(app, fsm, "b")
    machine.states["b"].validator(lambda flow, data: None)
    app.test_client().get("/a")
    with pytest.raises(DefinitionError, match="already in use"):
        machine.states["b"].validator(lambda flow, data: None)
