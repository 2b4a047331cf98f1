"""Uses that are unusual but right: each once led to a fault, a hang, or an unguarded step."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, abort, request
from werkzeug.routing import BaseConverter

from flask_fsm import DefinitionError, FlaskFSM, GuardRefused, Machine, Transition


def new_app(wait: float = 1.0) -> Flask:
    app = Flask("odd")
    app.config.update(SECRET_KEY="a key", TESTING=True, FSM_LOCK_TIMEOUT=wait)
    return app


def page(fsm: Any, name: str, **url_args: Any) -> Callable[..., Any]:
    """A view that shows its name, and for a POST goes the only way on."""

    def view(**_: Any) -> Any:
        if request.method == "POST":
            return fsm.advance(data=request.form.to_dict(), **url_args)
        return f"{name} {fsm.token()}"

    view.__name__ = name
    return view


def add(app: Flask, fsm: Any, *names: str) -> None:
    for name in names:
        app.add_url_rule(f"/{name}", name, fsm.check()(page(fsm, name)), methods=["GET", "POST"])


def test_a_machine_keeps_its_rules_after_an_app_has_bound_it() -> None:
    """The definition still judges by its guards when it is used without the app."""
    machine = Machine("m", [Transition("a", "b", when=lambda flow: False)])
    app = new_app()
    add(app, FlaskFSM(app, machine), "a", "b")
    app.test_client().get("/a")
    with pytest.raises(GuardRefused):
        machine.flow().transition("b")


def test_an_edit_with_empty_answers_is_judged_on_them() -> None:
    """Guards see what will be kept, not what was kept before."""

    def ok(flow: Any) -> bool:
        return bool(flow.data["a"].get("ok"))

    flow = Machine("m", [Transition("a", "b", when=ok)], final=[]).flow()
    flow.transition("b", {"ok": True})
    with pytest.raises(GuardRefused):
        flow.transition("b", {}, source="a")


def test_an_answer_that_must_be_awaited_is_no_yes() -> None:
    """A lambda that returns a coroutine does not open an edge."""

    async def later(flow: Any) -> bool:
        return True

    flow = Machine("m", [Transition("a", "b", when=lambda flow: later(flow))]).flow()
    with pytest.raises(GuardRefused):
        flow.transition("b")


def test_an_async_callable_object_is_awaited_by_an_app() -> None:
    """A rule may be an object whose call is async; without an app it is a definition error."""

    class Never:
        async def __call__(self, flow: Any) -> bool:
            return False

    with pytest.raises(DefinitionError, match="async"):
        Machine("m", [Transition("a", "b", when=Never())]).flow()
    app = new_app()
    add(app, FlaskFSM(app, [Transition("a", "b", when=Never())]), "a", "b")
    assert app.test_client().post("/a").status_code == 409


def test_two_guards_of_one_machine_on_a_view_do_not_wait_for_each_other() -> None:
    """The request that has its turn passes an inner guard at once."""
    app = new_app(wait=0.2)
    fsm = FlaskFSM(app, [("a", "b"), ("b", "c")])
    add(app, fsm, "b", "c")
    both = fsm.requires("a")(fsm.check()(page(fsm, "a")))
    app.add_url_rule("/a", "a", both, methods=["GET", "POST"])
    client = app.test_client()
    client.get("/a")
    assert client.post("/a").location == "/b"
    assert client.post("/a").status_code == 409


def test_a_view_that_calls_a_view_of_a_closed_page_is_refused() -> None:
    """A guard stands around its view, whoever calls it and under whatever address."""
    app = new_app(wait=0.2)
    fsm = FlaskFSM(app, [("a", "b")])
    b = fsm.check()(lambda: "secret")
    app.add_url_rule("/b", "b", b, methods=["GET", "POST"])
    app.add_url_rule("/a", "a", fsm.check()(lambda: b()), methods=["GET", "POST"])
    app.add_url_rule("/home", "home", lambda: b())
    client = app.test_client()
    assert client.post("/a").status_code == 409
    assert (client.get("/home").status_code, client.get("/home").location) == (303, "/a")


def test_a_page_of_two_machines_takes_a_token_of_each() -> None:
    """Each machine finds its own token in the form."""
    app = new_app()
    one = FlaskFSM(app, Machine("one", [("a", "b")]))
    two = one.add(Machine("two", [("x", "y")]))

    def a() -> Any:
        return one.advance() if request.method == "POST" else one.token() + two.token()

    app.add_url_rule("/a", "a", one.check()(two.check(state="x")(a)), methods=["GET", "POST"])
    add(app, one, "b")
    client = app.test_client()
    tokens = [part.split('"')[0] for part in client.get("/a").text.split('value="')[1:]]
    assert len(set(tokens)) == 2
    assert client.post("/a", data={"fsm_token": tokens}).location == "/b"


def test_a_converter_may_make_anything() -> None:
    """URL arguments of the app's own converters lie on the path as their text."""

    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"

    class ColourConverter(BaseConverter):
        def to_python(self, value: str) -> Colour:
            return Colour(value)

        def to_url(self, value: Any) -> str:
            return str(value.value)

    app = new_app()
    app.url_map.converters["colour"] = ColourConverter
    fsm = FlaskFSM(app, [("a", "b")])
    for name in "ab":
        view = fsm.check()(page(fsm, name))
        app.add_url_rule(f"/{name}/<colour:c>", name, view, methods=["GET", "POST"])
    client = app.test_client()
    assert client.get("/a/red").status_code == 200
    assert client.post("/a/red").location == "/b/red"
    assert client.get("/b/red").status_code == 200
    assert client.get("/b/blue").status_code == 404


@pytest.mark.parametrize(("given", "status"), [("7", 303), ("-1", 404), ("x", 404)])
def test_a_url_argument_given_as_text_is_what_its_page_gets(given: str, status: int) -> None:
    """Text for an int page leads there and opens it; what its URL can't hold changes nothing."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b")])

    def a() -> Any:
        return fsm.advance("b", i=request.form["i"]) if request.method == "POST" else "a"

    app.add_url_rule("/a", "a", fsm.check()(a), methods=["GET", "POST"])
    app.add_url_rule("/b/<int:i>", "b", fsm.check()(lambda i: str(i)))
    client = app.test_client()
    answer = client.post("/a", data={"i": given})
    assert answer.status_code == status
    if status == 303:
        assert client.get(answer.location).text == "7"
    else:
        assert client.get("/a").status_code == 200


def test_abort_in_a_rule_is_an_answer() -> None:
    """A validator may answer as any Flask code does."""
    app = new_app()
    validators = [lambda flow, data: abort(403)]
    add(app, FlaskFSM(app, [Transition("a", "b", validators=validators)]), "a", "b")
    assert app.test_client().post("/a").status_code == 403


@pytest.mark.parametrize("by", ["flow", "fsm"])
def test_a_hook_may_move_the_flow_on(by: str) -> None:
    """A move made in a hook is committed like any other."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", [("a", "b"), ("b", "c")]))

    @fsm.default.declaration.machine.states["b"].hook  # type: ignore[union-attr]
    def on(flow: Any, result: Any) -> None:
        (flow if by == "flow" else fsm).transition("c")

    add(app, fsm, "a", "b", "c")
    client = app.test_client()
    assert client.post("/a").location == "/c"
    assert client.get("/c").status_code == 200


def test_a_flow_moved_in_a_view_is_committed() -> None:
    """What fsm.flow.transition says is what the next request finds."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b")])

    def a() -> str:
        if request.method == "POST":
            fsm.flow.transition("b")
        return fsm.current

    app.add_url_rule("/a", "a", fsm.check()(a), methods=["GET", "POST"])
    add(app, fsm, "b")
    client = app.test_client()
    assert client.post("/a").text == "b"
    assert client.get("/b").status_code == 200


@pytest.mark.parametrize("accept", ["application/json, text/plain, */*", "APPLICATION/JSON"])
def test_a_program_that_names_json_gets_json(accept: str) -> None:
    """Wildcards beside JSON, and capitals, do not make it a browser."""
    app = new_app()
    add(app, FlaskFSM(app, [("a", "b")]), "a", "b")
    answer = app.test_client().post("/b", headers={"Accept": accept})
    assert answer.content_type == "application/problem+json"


def test_asking_for_the_machine_early_freezes_nothing() -> None:
    """An app context before the routes are registered does no harm."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b")])
    with app.app_context():
        assert fsm.machine.initial == "a"
    add(app, fsm, "a", "b")
    assert app.test_client().get("/a").status_code == 200


def test_check_without_brackets_says_so() -> None:
    """The commonest slip is named."""
    with pytest.raises(DefinitionError, match="with brackets"):
        FlaskFSM([("a", "b")]).check(lambda: "a")  # type: ignore[arg-type]


def test_url_arguments_may_be_named_like_the_parameters_of_advance() -> None:
    """`url_args={...}` takes any name: to, data, form, fast_forward, and itself."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b"), ("b", "c")])
    names = ("to", "data", "form", "resume", "fast_forward", "url_args", "self", "state")
    values = {name: f"the-{name}" for name in names}
    rule = "/".join(f"<{name}>" for name in names)
    app.add_url_rule(
        "/a", "a", fsm.check()(page(fsm, "a", url_args=values)), methods=["GET", "POST"]
    )

    @app.get(f"/b/{rule}", endpoint="b")
    @fsm.check()
    def b(**url_args: str) -> Any:
        return {"seen": url_args, "link": fsm.url_for("b", url_args={"state": "other"})}

    add(app, fsm, "c")
    client = app.test_client()
    moved = client.post("/a")
    assert moved.status_code == 303
    url = "/b/" + "/".join(values.values())
    assert moved.location == url
    shown = client.get(url).get_json()
    assert shown == {"seen": values, "link": url.replace("the-state", "other")}


def test_url_args_that_are_no_mapping_are_an_error_that_says_so() -> None:
    """It is the developer's mistake: an argument of that name belongs into the mapping."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b")])
    app.add_url_rule("/a", "a", fsm.check()(page(fsm, "a", url_args="x")), methods=["GET", "POST"])
    add(app, fsm, "b")
    with pytest.raises(TypeError, match="url_args= takes a mapping"):
        app.test_client().post("/a")
