"""A developer's mistake is the developer's to see: raised, or 500 and logged; never a refusal."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask, request
from wtforms import (
    DecimalField,
    FloatField,
    Form,
    RadioField,
    SelectField,
    SelectMultipleField,
    TimeField,
)

from flask_fsm import FlaskFSM, FSMError, InvalidData, Machine, State, Transition, UnknownTarget
from flask_fsm.testing import LiveServer

from ..apps import SECRET, Visitor

Answer = Callable[[FlaskFSM], Any]
LINE = [("a", "b"), ("a", "waiting"), ("b", "done"), ("waiting", "done")]


def make(
    answer: Answer, testing: bool = False, debug: bool = False, **options: Any
) -> tuple[FlaskFSM, Visitor]:
    """An app whose page `a` answers a POST by `answer`; `waiting` is a state without a page."""
    app = Flask("mistaken")
    app.config.update(SECRET_KEY=SECRET, TESTING=testing, **options)
    app.debug = debug
    machine = Machine("m", LINE, states=["a", "b", State("waiting", guarded=False), "done"])
    fsm = FlaskFSM(app, machine)

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> Any:
        return answer(fsm) if request.method == "POST" else {"answers": repr(fsm.answers())}

    for name in ("b", "done"):

        @app.route(f"/{name}", methods=["GET", "POST"], endpoint=name)
        @fsm.check()
        def view(name: str = name) -> Any:
            return fsm.advance() if request.method == "POST" else name

    @app.post("/elsewhere")
    def elsewhere() -> Any:
        return answer(fsm) or "moved"

    return fsm, Visitor(app)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


MISTAKES: dict[str, tuple[Answer, str]] = {
    "a misspelt target": (lambda fsm: fsm.advance("doen"), "Did you mean 'done'?"),
    "a target that is nothing like a state": (
        lambda fsm: fsm.advance("quux"),
        "Correct the name in the view",
    ),
    "a misspelt target of transition": (
        lambda fsm: fsm.transition("doen"),
        "Did you mean 'done'?",
    ),
    "a misspelt target of the flow": (
        lambda fsm: fsm.flow.transition("doen"),
        "Did you mean 'done'?",
    ),
    "answers in place of the target": (lambda fsm: fsm.advance({"x": 1}), "data="),
    "answers as the target of transition": (lambda fsm: fsm.transition({"x": 1}), "data="),
    "answers as the target of the flow": (lambda fsm: fsm.flow.transition({"x": 1}), "data="),
    "a number as target": (lambda fsm: fsm.advance(7), "must be a str"),
    "an edge that the machine lacks": (lambda fsm: fsm.advance("done"), "add the edge"),
    "such an edge of transition": (lambda fsm: fsm.transition("done"), "add the edge"),
    "a state without a page": (lambda fsm: fsm.advance("waiting"), "fsm.transition('waiting')"),
    "an object as answer": (lambda fsm: fsm.advance("b", {"x": object()}), "'x' can't be stored"),
    "a set as answer": (lambda fsm: fsm.advance("b", {"x": [{1}]}), "convert other values"),
    "a member as answer": (lambda fsm: fsm.advance("b", {"x": Colour.RED}), "Colour can't"),
    "a number as a key": (lambda fsm: fsm.advance("b", {"x": {1: 2}}), "not a str"),
    "a text as answers": (lambda fsm: fsm.advance("b", "text"), "mapping of fields"),
    "a set as answer of transition": (lambda fsm: fsm.transition("b", {"x": {1}}), "'x' can't"),
}
each_mistake = pytest.mark.parametrize(("answer", "remedy"), MISTAKES.values(), ids=MISTAKES)


@each_mistake
def test_a_mistake_in_the_code_is_a_500_and_logged_with_its_remedy(
    answer: Answer, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In production the visitor sees a 500, the developer the error, and the flow stays."""
    _, visitor = make(answer)
    response = visitor.post("a", {"name": "Ada"})
    assert response.status_code == 500
    assert remedy not in response.text
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], FSMError)
    assert remedy in str(record.exc_info[1])
    assert visitor.open("a").status_code == 200
    assert visitor.open("b").location == "/a"


@each_mistake
@pytest.mark.parametrize("mode", ["testing", "debug"])
def test_a_mistake_in_the_code_is_raised_as_it_is_in_a_test_and_when_debugging(
    answer: Answer, remedy: str, mode: str
) -> None:
    """A test of the app fails with the error itself, which names what is wrong."""
    _, visitor = make(answer, testing=mode == "testing", debug=mode == "debug")
    with pytest.raises(FSMError) as caught:
        visitor.post("a", {"name": "Ada"})
    assert remedy in str(caught.value)


def test_a_mistake_in_a_view_without_a_guard_is_seen_too() -> None:
    """Such a view names states as well; where the visitor is decides about its edges."""
    _, visitor = make(lambda fsm: fsm.transition("doen"), testing=True)
    with pytest.raises(UnknownTarget, match="Did you mean 'done'"):
        visitor.post("elsewhere")
    _, visitor = make(lambda fsm: fsm.transition("done"), testing=True)
    assert visitor.post("elsewhere").status_code == 409
    _, visitor = make(lambda fsm: fsm.advance("b", {"x": {1}}), testing=True)
    with pytest.raises(InvalidData):
        visitor.post("elsewhere")


@pytest.mark.parametrize("asking", ["html", "json"])
@pytest.mark.parametrize(
    ("sent", "status"),
    [({"to": "moon"}, 400), ({"to": "done"}, 409), ({"to": "waiting"}, 409), ({"to": "b"}, 303)],
)
@pytest.mark.parametrize("by", ["the field itself", "the view, which reads it", "another field"])
def test_what_the_client_has_named_stays_its_own_mistake(
    sent: dict[str, str], status: int, by: str, asking: str
) -> None:
    """Whether the view passes the client's name on, or leaves it to advance()."""

    def answer(fsm: FlaskFSM) -> Any:
        if by == "the field itself":
            return fsm.advance()
        return fsm.advance(request.form["to" if by == "the view, which reads it" else "way"])

    _, visitor = make(answer, testing=True)
    fields = {"way": sent["to"]} if by == "another field" else sent
    response = visitor.post("a", fields, None, asking)
    assert response.status_code == (200 if (status, asking) == (303, "json") else status)


@pytest.mark.parametrize("body", [{"to": {"x": 1}}, {"to": 7}, {"to": ["b"]}, {"to": True}])
def test_a_target_in_json_that_is_no_name_is_400(body: Any) -> None:
    """A program may send anything; that is no mistake of the app's."""
    _, visitor = make(lambda fsm: fsm.advance(request.get_json()["to"]), testing=True)
    assert visitor.client.post("/a", json=body).status_code == 400
    _, visitor = make(lambda fsm: fsm.advance(), testing=True)
    assert visitor.client.post("/a", json=body).status_code == 400


@pytest.mark.parametrize("body", [[1, 2], "text", 7, [{"x": 1}]])
def test_a_json_body_that_is_no_object_is_422_where_the_view_keeps_it(body: Any) -> None:
    """`data=request.get_json()` may be any JSON, as the client chooses."""
    _, visitor = make(lambda fsm: fsm.advance("b", data=request.get_json()), testing=True)
    assert visitor.client.post("/a", json=body).status_code == 422
    assert visitor.client.post("/a", json={"x": 1}).json["location"] == "/b"


def test_what_only_a_client_can_send_is_422() -> None:
    """NaN in JSON, and JSON that is nested too deeply."""
    _, visitor = make(lambda fsm: fsm.advance("b", data=request.get_json()), testing=True)
    for body in ('{"x": NaN}', '{"x": -Infinity}', '{{"x": {}1{}}}'.format("[" * 40, "]" * 40)):
        response = visitor.client.post(
            "/a", data=body, content_type="application/json", headers={"Accept": "application/json"}
        )
        assert response.status_code == 422
        assert list(response.json["fields"]) == ["x"]


# -- values that forms make -------------------------------------------------------------------


class Numbers(Form):
    price = FloatField()
    sum = DecimalField()


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "NaN"])
@pytest.mark.parametrize("field", ["price", "sum"])
def test_nan_and_infinity_that_a_visitor_types_are_errors_of_their_field(
    field: str, text: str
) -> None:
    """WTForms takes them for numbers; the view shows its form again, as for a wrong number."""

    def answer(fsm: FlaskFSM) -> Any:
        form = Numbers(request.form)
        assert form.validate()
        return fsm.advance("b", form=form) or ({"errors": form.errors}, 422)

    _, visitor = make(answer, testing=True)
    response = visitor.post("a", {"price": "1", "sum": "1", field: text})
    assert response.status_code == 422
    assert response.json == {"errors": {field: ["Enter a finite number."]}}
    assert visitor.post("a", {"price": "1", "sum": "1.50"}).location == "/b"


@pytest.mark.parametrize("value", [math.nan, math.inf, Decimal("NaN"), Decimal("-Infinity")])
def test_nan_and_infinity_without_a_form_are_422(value: Any) -> None:
    _, visitor = make(lambda fsm: fsm.advance("b", {"x": [value]}), testing=True)
    response = visitor.post("a", {}, None, "json")
    assert response.status_code == 422
    assert response.json["fields"] == {"x": ["Enter a finite number."]}


COLOURS = [colour.value for colour in Colour]


class Choices(Form):
    colour = SelectField(choices=COLOURS, coerce=Colour)
    frame = RadioField(choices=COLOURS, coerce=Colour)
    lids = SelectMultipleField(choices=COLOURS, coerce=Colour)
    at = TimeField()


def test_choices_that_are_members_of_an_enum_are_kept_by_value_and_filled_in_again() -> None:
    """`coerce=Enum` makes members of what was typed, and of what was kept."""
    again: list[Choices] = []

    def answer(fsm: FlaskFSM) -> Any:
        form = Choices(request.form)
        result = fsm.advance("b", form=form)
        kept.append(fsm.flow.data["a"])
        again.append(Choices(data=fsm.answers("a")))
        return result

    kept: list[dict[str, Any]] = []
    _, visitor = make(answer, testing=True)
    typed = {"colour": "blue", "frame": "red", "lids": ["red", "blue"], "at": "07:30"}
    assert visitor.post("a", typed).location == "/b"
    assert kept == [{"colour": "blue", "frame": "red", "lids": ["red", "blue"], "at": time(7, 30)}]
    assert again[0].data == {
        "colour": Colour.BLUE,
        "frame": Colour.RED,
        "lids": [Colour.RED, Colour.BLUE],
        "at": time(7, 30),
    }


@pytest.mark.parametrize(
    "value",
    [
        time(),
        time(23, 59, 59, 999_999),
        timedelta(),
        timedelta(days=-3, microseconds=1),
        timedelta.max,
        timedelta.min,
        timedelta.resolution,
    ],
)
def test_times_and_durations_are_kept_as_they_are(value: Any) -> None:
    """In the cookie and back, with their type."""
    _fsm, visitor = make(lambda fsm: fsm.advance("b", {"x": value, "y": [value]}), testing=True)
    assert visitor.post("a").location == "/b"
    assert visitor.open("a").json == {"answers": repr({"x": value, "y": [value]})}


# -- moves while a page is only read ----------------------------------------------------------


@pytest.mark.parametrize("by", ["fsm", "flow"])
@pytest.mark.parametrize("page", ["a", "elsewhere"])
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("HEAD", {}),
        ("GET", {"Sec-Purpose": "prefetch"}),
        ("GET", {"X-Moz": "prefetch"}),
    ],
)
def test_a_move_while_a_page_is_only_read_is_an_error_of_the_app(
    method: str, headers: dict[str, str], page: str, by: str
) -> None:
    """Whichever call would move the flow, it stays where it is, and the error names visit=True."""
    app = Flask("eager")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("eager", [("a", "b")]))

    def move() -> str:
        (fsm if by == "fsm" else fsm.flow).transition("b")
        return "moved"

    app.add_url_rule("/a", "a", fsm.check()(move))
    app.add_url_rule("/b", "b", fsm.check()(lambda: "b"))
    app.add_url_rule("/elsewhere", "elsewhere", move, methods=["GET", "POST"])
    app.add_url_rule("/current", "current", lambda: fsm.current)
    visitor = Visitor(app)
    with pytest.raises(FSMError, match="visit=True") as caught:
        visitor.request(method, f"/{page}", headers=headers)
    assert caught.value.code == "get_advances"
    assert visitor.open("current").text == "a"
    assert visitor.post("elsewhere").text == "moved"
    assert visitor.open("current").text == "b"


@pytest.mark.parametrize("by", ["fsm", "flow"])
def test_a_hook_of_an_edge_that_a_get_takes_may_move_on(by: str) -> None:
    """The GET moves the flow by this edge, and by what follows from it."""
    app = Flask("tour")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    machine = Machine("tour", [Transition("hall", "room", visit=True), ("room", "attic")])
    fsm = FlaskFSM(app, machine)

    @machine.states["room"].hook
    def on(flow: Any, result: Any) -> None:
        (fsm if by == "fsm" else flow).transition("attic")

    for page in ("hall", "room", "attic"):
        app.add_url_rule(f"/{page}", page, fsm.check()(lambda: fsm.current))
    assert Visitor(app).open("room").text == "attic"


def test_the_handler_of_an_event_may_move_another_flow() -> None:
    """A websocket begins with a GET, but an event reads no page."""
    app = Flask("talk")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL="memory://")
    chat = Machine("chat", [("lobby", "table")], states=[State("lobby"), State("table")])
    fsm = FlaskFSM(app, chat)
    other = fsm.add(Machine("other", [("a", "b")]))

    @chat.states["lobby"].event("both")
    def both(flow: Any, data: Any) -> None:
        other.transition("b")
        flow.transmit(other.current)

    with LiveServer(app) as server, server.client().websocket("chat") as socket:
        socket.send("both", ref=1)
        assert socket.until(ref=1)[-1]["data"] == "b"


def test_a_script_may_move_a_flow_in_any_request_context() -> None:
    """Nothing is served there, and its method is a GET unless it is told otherwise."""
    app = Flask("script")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("script", [("a", "b"), ("b", "c")]))
    with app.test_request_context():
        fsm.transition("b")
        fsm.flow.transition("c")
        assert fsm.current == "c"
