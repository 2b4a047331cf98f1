"""Faults of an app's set-up: all of them in one error, before the first view runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    edges = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    fsm = FlaskFSM(app, Machine("narrow", edges))
    for name, check in {
        "a": {"to": ["b", "c"]},
        "b": {"to": "c"},
        "c": {"accept": ["b"]},
        "d": {"accept": ["b", "c"]},
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
    assert client.post("/b", data={"to": "d"}).status_code == 409
    assert client.post("/b").location == "/c"


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


# -- what accept and to leave out -----------------------------------------------------------------

BRANCH = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]


@pytest.mark.parametrize(
    ("checks", "told"),
    [
        ({"a": {"to": ["b"]}}, ["state 'c' can't be reached any more", "'a' -> 'c'"]),
        ({"c": {"accept": []}}, ["state 'c' can't be reached any more", "'a' -> 'c'"]),
        ({"a": {"to": []}}, ["'b'", "'c'", "'d'"]),
        ({"d": {"accept": ["b"]}}, ["no final state can be reached any more from 'c'"]),
        ({"c": {"to": []}}, ["no final state can be reached any more from 'c'", "'c' -> 'd'"]),
        ({"d": {"accept": []}}, ["state 'd' can't be reached any more", "from 'a'", "from 'b'"]),
    ],
)
def test_a_page_or_an_end_that_accept_and_to_have_cut_off_is_a_fault(
    checks: dict[str, dict[str, Any]], told: list[str]
) -> None:
    """The message names the state and the edges that are left out."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("branch", BRANCH))
    for name in "abcd":
        guarded(app, fsm, name, **checks.get(name, {}))
    error = fault_of(app, "/a")
    assert all(text in str(error) for text in told), str(error)
    assert {fault.code for fault in error.faults} <= {"unreachable", "dead_end"}


@pytest.mark.parametrize(
    ("checks", "told"),
    [
        ({"a": {"to": ["b"]}}, "in check() of the view 'a', write to=['b', 'c']."),
        ({"c": {"accept": []}}, "in check() of the view 'c', write accept=['a']."),
        ({"d": {"accept": ["b"]}}, "in check() of the view 'd', write accept=['b', 'c']."),
        (
            {"a": {"to": ["b"]}, "c": {"accept": []}},
            "in check() of the view 'a', write to=['b', 'c'] and "
            "in check() of the view 'c', write accept=['a'].",
        ),
    ],
)
def test_what_accept_and_to_have_cut_off_is_told_with_the_view_and_what_to_write_there(
    checks: dict[str, dict[str, Any]], told: str
) -> None:
    """Written so, the app has no fault."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("branch", BRANCH))
    for name in "abcd":
        guarded(app, fsm, name, **checks.get(name, {}))
    assert told in str(fault_of(app, "/a"))


def test_two_narrowings_that_only_together_cut_a_page_off_are_a_fault() -> None:
    """Each alone leaves a way."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]))
    checks: dict[str, dict[str, Any]] = {"a": {"to": ["b"]}, "c": {"accept": ["a"]}}
    for name in "abcd":
        guarded(app, fsm, name, **checks.get(name, {}))
    assert "state 'c' can't be reached any more" in str(fault_of(app, "/a"))


def test_an_edge_that_is_left_out_and_not_needed_is_no_fault() -> None:
    """Narrowing is what accept and to are for."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]))
    for name in "abcd":
        guarded(app, fsm, name, **({"to": ["b"]} if name == "a" else {}))
    assert app.test_client().get("/a").status_code == 200


def test_the_faults_of_a_machine_hide_none_of_another() -> None:
    """Of one built from decorators, and of one that grows by register_state."""
    app = new_app()
    growing = Machine("growing")
    growing.register_state(State("x", ["gone"]))
    fsm = FlaskFSM(app)
    other = fsm.add(growing)
    third = fsm.add(Machine("three", [("p", "q")]))
    guarded(app, fsm, "a", to=["b"])
    guarded(app, fsm, "b", accept=["typo"])
    guarded(app, other, "x")
    guarded(app, third, "p", to=["elsewhere"])
    error = fault_of(app, "/a")
    for text in ("typo", "gone", "elsewhere"):
        assert text in str(error), text


# -- ends that nobody has named -------------------------------------------------------------------


def forgetful(methods: Sequence[str] = ("GET", "POST"), **options: Any) -> Flask:
    """An app whose page c takes forms, and leads nowhere."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("a", "b"), ("b", "c")], **options))
    for name in "abc":
        view = fsm.check(state=name)(lambda: "a page")
        taken = methods if name == "c" else ["GET", "POST"]
        app.add_url_rule(f"/{name}", name, view, methods=taken)
    return app


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        (["GET", "PUT"], "PUT"),
        (["GET", "PATCH"], "PATCH"),
        (["GET", "DELETE"], "DELETE"),
        (["GET", "PUT", "POST"], "POST and PUT"),
    ],
)
def test_an_end_whose_view_takes_any_method_that_writes_is_told(
    methods: list[str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As each such request would be a 410."""
    client = forgetful(methods).test_client()
    assert client.get("/a").status_code == 200
    assert f"takes {told}, but no edge leads out of 'c'" in caplog.text


def test_an_end_whose_view_takes_posts_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten edge made it an end, and each POST would be a 410."""
    client = forgetful().test_client()
    for _ in range(2):
        assert client.get("/a").status_code == 200
    assert caplog.text.count("takes POST, but no edge leads out of 'c'") == 1
    assert "'shop'" in caplog.text


@pytest.mark.parametrize("options", [{"final": ["c"]}, {"complete": lambda state: state == "c"}])
def test_an_end_that_was_named_is_told_nothing(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is what the developer wants."""
    assert forgetful(**options).test_client().get("/a").status_code == 200
    assert "no edge leads out of" not in caplog.text


def test_an_end_that_shows_a_page_only_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """No form is lost there."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("line", LINE))
    for name in "abcd":
        guarded(app, fsm, name)
    assert app.test_client().get("/a").status_code == 200
    assert "no edge leads out of" not in caplog.text
