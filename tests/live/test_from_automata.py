"""Code of automata-ws, whose imports alone have changed: `flow` stands where `automata` stood.

The machines are those of its README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from flask_fsm import (
    DefinitionError,
    DuplicateState,
    Event,
    EventStatus,
    FlaskFSM,
    Flow,
    Machine,
    State,
    Transition,
)
from flask_fsm.signals import transitioned
from flask_fsm.testing import LiveClient, LiveServer

Frame = dict[str, Any]


def readme_machine() -> Machine:
    """The README's machine, handler by handler."""
    red_light = State("red_light")
    green_light = State(name="green", targets=["yellow"])
    yellow = State("yellow")

    @red_light.event("change_to_green")
    async def to_green(automata: Any, data: Any) -> None:
        await automata.transition("green", EventStatus.OK)

    @green_light.event("change_to_yellow")
    async def to_yellow(automata: Any, data: Any) -> None:
        await automata.transition("yellow", EventStatus.OK, data)

    @green_light.event("data")
    async def some_data(automata: Any, data: Any) -> None:
        await automata.transmit(EventStatus.NewContent, {"got": data})

    @green_light.event("status")
    async def status(automata: Any, data: Any) -> None:
        await automata.transmit(EventStatus.NoContent)

    @green_light.event("skip")
    async def skip(automata: Any, data: Any) -> None:
        await automata.transition("red_light", EventStatus.OK)

    @green_light.event("ping")
    def ping(automata: Any, data: Any) -> None:
        automata.transmit(EventStatus.OK, "pong")

    @yellow.event("again")
    async def again(automata: Any, data: Any) -> Any:
        return await automata.transition("yellow", EventStatus.SuccessfulStateChange, data=[data])

    my_machine = Machine(name="myMachine", initial=red_light, scope="connection")
    my_machine.register_state(red_light)
    my_machine.register_state(green_light)
    my_machine.register_state(yellow)
    return my_machine


SCRIPT: list[tuple[str, Any]] = [
    ("change_to_green", None),
    ("data", {"a": 1}),
    ("status", None),
    ("ping", "x"),
    ("skip", None),
    ("change_to_yellow", "text"),
    ("again", 5),
]
ANSWERS: list[Frame] = [
    {"state": "green", "status": 200, "data": None, "rev": 1},
    {"status": 201, "data": {"got": {"a": 1}}},
    {"status": 202, "data": None},
    {"status": 200, "data": "pong"},
    {"status": 400},
    {"state": "yellow", "status": 200, "data": "text", "rev": 2},
    {"state": "yellow", "status": 203, "data": [5], "rev": 3},
]


@pytest.fixture(scope="module")
def app() -> Flask:
    app = Flask("ported")
    app.secret_key = "a key"
    FlaskFSM(app, readme_machine(), websocket="/")
    return app


@pytest.fixture(scope="module")
def client(app: Flask) -> Iterator[LiveClient]:
    with LiveServer(app) as server:
        yield LiveClient(server.url)


def told(frame: Frame, wanted: Frame) -> Frame:
    """Return the part of a frame that the README names, and in an answer to `skip` its status."""
    return {name: frame[name] for name in wanted}


def test_the_handlers_of_the_readme(client: LiveClient) -> None:
    """They run as they stand, with await and the status first, and clients get their frames."""
    with client.websocket("myMachine", path="/") as socket:
        assert socket.receive()["state"] == "red_light"
        for (event, data), wanted in zip(SCRIPT, ANSWERS, strict=True):
            frame = socket.ask(event, data)
            assert told(frame, wanted) == wanted
            assert ("state" in frame) == ("state" in wanted)


@pytest.mark.parametrize("data", ["text", {"a": 1}, [1], 0, None])
def test_data_may_be_left_out_of_a_frame(client: LiveClient, data: Any) -> None:
    """An event without data is handled as one with null; with data it gets that."""
    with client.websocket("myMachine") as socket:
        socket.receive()
        socket.send_text('{"event": "change_to_green"}')
        assert socket.receive()["state"] == "green"
        socket.send_text('{"event": "data", "ref": 1}')
        assert socket.receive() == {"status": 201, "data": {"got": None}, "ref": 1}
        socket.send_text(json.dumps({"event": "data", "data": data}))
        assert socket.receive()["data"] == {"got": data}


# -- without a socket -----------------------------------------------------------------------------


def test_an_event_by_http_is_a_connection_of_its_own(app: Flask) -> None:
    """Each begins in the initial state, and is answered as a new websocket would be."""
    visitor = app.test_client()
    wanted = {"state": "red_light", "events": ["change_to_green"], "status": 200, "data": None}
    assert visitor.get("/fsm/myMachine/state").get_json() == {**wanted, "rev": 0}
    for _ in range(2):
        reply = visitor.post("/fsm/myMachine/event", json={"event": "change_to_green"})
        assert reply.status_code == 200
        frame = reply.get_json()
        assert (frame["state"], frame["rev"], frame["status"]) == ("green", 1, 200)
    reply = visitor.post("/fsm/myMachine/event", json={"event": "ping", "data": 1, "ref": "r"})
    assert (reply.status_code, reply.get_json()["status"]) == (409, 402)
    assert reply.get_json()["ref"] == "r"
    late = visitor.post("/fsm/myMachine/event", json={"event": "change_to_green", "rev": 1})
    assert late.get_json()["data"]["reason"] == "stale_rev"
    assert visitor.get_cookie("session") is None


def test_hooks_and_signals_by_http_are_those_of_a_socket() -> None:
    """A hook that moves on is told in its order, and receivers of signals hear of both."""
    machine = Machine("ring", [Transition("a", "b", event="go"), ("b", "c")], scope="connection")

    @machine.states["b"].hook
    def on(flow: Flow, result: Any) -> None:
        flow.transition("c", "any data")

    app = Flask("ring")
    app.secret_key = "a key"
    FlaskFSM(app, machine)
    heard = []

    def hear(app: Flask, result: Any, **facts: Any) -> None:
        heard.append(result.target)

    with transitioned.connected_to(hear):
        reply = app.test_client().post("/fsm/ring/event", json={"event": "go"}).get_json()
    assert [(frame["state"], frame["data"]) for frame in reply["frames"]] == [
        ("b", None),
        ("c", "any data"),
    ]
    assert heard == ["b", "c"]


def test_a_reply_that_is_no_json_by_http_changes_nothing() -> None:
    """It is answered by 405, as on a socket."""
    state = State("a", events=[Event("odd", lambda flow, data: flow.transmit(object()))])
    app = Flask("odd")
    app.secret_key = "a key"
    FlaskFSM(app, Machine("odd", states=[state], scope="connection"))
    reply = app.test_client().post("/fsm/odd/event", json={"event": "odd"})
    assert (reply.status_code, reply.get_json()["status"]) == (500, 405)


@pytest.mark.parametrize("data", ["text", [1], 5, {"a": 1}])
def test_without_an_app_any_data_is_sent_too(data: Any) -> None:
    """A machine of connections behaves in a plain flow as on a socket."""

    def go(flow: Flow, given: Any) -> None:
        flow.transition("b", given)

    machine = Machine("m", states=[State("a", events=[Event("go", go)]), "b"], scope="connection")
    flow = machine.flow()
    (sent,) = flow.handle("go", data)
    assert (sent.data, sent.status, flow.current) == (data, 200, "b")
    assert flow.data == ({"a": data} if isinstance(data, dict) else {})


# -- the two orders -------------------------------------------------------------------------------


def calls(flow: Flow) -> dict[str, Any]:
    """Return the ways to call, each with what it is to send: data and status."""
    new: Any = EventStatus.NewContent
    return {
        "data": lambda: flow.transition("b", {"x": 1}),
        "data by name": lambda: flow.transition("b", data={"x": 1}),
        "ours": lambda: flow.transition("b", {"x": 1}, status=new),
        "theirs": lambda: flow.transition("b", new, {"x": 1}),
        "theirs, data by name": lambda: flow.transition("b", new, data={"x": 1}),
        "theirs, no data": lambda: flow.transition("b", new),
        "theirs, text": lambda: flow.transition("b", new, "text"),
    }


@pytest.mark.parametrize("scope", ["subject", "connection"])
@pytest.mark.parametrize("store", ["session", "memory://", None])
@pytest.mark.parametrize("name", list(calls(Machine("m", states=["a"]).flow())))
def test_the_two_orders(name: str, store: str | None, scope: Any) -> None:
    """Both orders send the same, in stored flows, in those of connections, and without an app."""

    def go(flow: Flow, data: Any) -> None:
        calls(flow)[name]()

    machine = Machine("m", states=[State("a", events=[Event("go", go)]), "b"], scope=scope)
    if store is None:
        (sent,) = machine.flow().handle("go")
        got = sent.data, sent.status
    else:
        app = Flask("orders")
        app.config.update(SECRET_KEY="a key", FSM_STORE_URL=store)
        FlaskFSM(app, machine)
        visitor = app.test_client()
        visitor.get("/fsm/m/state")
        frame = visitor.post("/fsm/m/event", json={"event": "go"}).get_json()
        assert frame.get("state") == "b", frame
        got = frame["data"], frame["status"]
    data = {"theirs, no data": None, "theirs, text": "text"}.get(name, {"x": 1})
    assert got == (data, 201 if name.startswith(("theirs", "ours")) else 200)


@pytest.mark.parametrize(
    "call",
    [
        lambda flow: flow.transition("b", EventStatus.OK, {}, 5),
        lambda flow: flow.transition("b", {"x": 1}, data={"x": 2}),
        lambda flow: flow.transition("b", EventStatus.OK, "one", data="two"),
        lambda flow: flow.transmit("one", data="two"),
        lambda flow: flow.transmit(EventStatus.OK, "one", "two"),
    ],
)
def test_data_that_is_given_twice(call: Any) -> None:
    """It is an error that names both orders, and nothing moves."""
    machine = Machine("m", states=[State("a", events=[Event("go", lambda f, d: call(f))]), "b"])
    flow = machine.flow()
    with pytest.raises(TypeError, match=r"\(status, data\)"):
        flow.handle("go")
    assert flow.rev == 0


def test_a_status_may_be_the_value_of_a_handler() -> None:
    """What a handler returns is data, also if it is an EventStatus."""
    machine = Machine(
        "m", states=[State("a", events=[Event("go", lambda f, d: EventStatus.Error)])]
    )
    (sent,) = machine.flow().handle("go")
    assert (sent.data, sent.status) == (400, 200)


def test_what_is_returned_is_sent_once() -> None:
    """`return flow.transmit(...)` sends once, awaited or not."""

    async def awaited(flow: Flow, data: Any) -> Any:
        return await flow.transmit("once")

    for handler in (lambda flow, data: flow.transmit("once"), awaited):
        app = Flask("once")
        app.secret_key = "a key"
        state = State("a", events=[Event("go", handler)])
        FlaskFSM(app, Machine("once", states=[state]))
        visitor = app.test_client()
        visitor.get("/fsm/once/state")
        reply = visitor.post("/fsm/once/event", json={"event": "go"}).get_json()
        assert reply == {"status": 200, "data": "once"}


def test_a_hook_may_return_what_it_did() -> None:
    """A hook that returns its transition is not taken for one that was not awaited."""
    machine = Machine("m", [("a", "b"), ("b", "c")])
    machine.states["b"].hook(lambda flow, result: flow.transition("c"))
    flow = machine.flow()
    flow.transition("b")
    assert flow.current == "c"


# -- initial ---------------------------------------------------------------------------------------


def test_the_initial_state_may_be_a_state() -> None:
    """It is one of the machine's, with its handlers, however the states are given."""
    green = State("green", events=[Event("go", lambda flow, data: "went")])
    machines = [
        Machine("m", initial=green, states=["red", green]),
        Machine("m", initial=green, states=["red"]),
        Machine("m", [("red", "green"), ("green", "red")], initial=green),
    ]
    grown = Machine("m", initial=green)
    grown.register_state(State("red"))
    grown.register_state(green)
    for machine in (*machines, grown):
        flow = machine.flow()
        assert flow.current == "green"
        assert [sent.data for sent in flow.handle("go")] == ["went"]
        assert set(machine.states) == {"red", "green"}


def test_another_initial_state_of_the_same_name() -> None:
    """Two states of one name are a fault, as elsewhere."""
    with pytest.raises(DuplicateState, match="initial"):
        Machine("m", initial=State("a"), states=[State("a"), "b"])
    grown = Machine("m", initial=State("a"))
    with pytest.raises(DefinitionError):
        grown.register_state(State("a"))


def test_an_empty_list_of_targets_is_not_none() -> None:
    """Where it cuts the machine in two, the error says that it is the opposite of no list."""
    with pytest.raises(DefinitionError, match=r"targets=\[\], as of 'a', leads nowhere"):
        Machine("m", states=[State("a", targets=[]), State("b")]).flow()
    with pytest.raises(DefinitionError) as caught:
        Machine("m", [("a", "b")], states=[State("a"), State("b", targets=[]), "c"]).flow()
    assert "targets=[]" not in str(caught.value)
    flow = Machine("m", states=[State("a"), State("b", targets=[])]).flow()
    flow.transition("b")
    assert flow.finished


def test_what_a_handler_keeps_lasts_as_long_as_its_connection() -> None:
    """flow.context is that of one websocket, as attributes of an automata were."""
    machine = Machine("keeper", scope="connection")
    state = machine.register_state(State("on"))

    @state.event("count")
    def count(flow: Flow, data: Any) -> int:
        flow.context["count"] = flow.context.get("count", 0) + 1
        return int(flow.context["count"])

    keeper = Flask("keeper")
    keeper.secret_key = "a key"
    FlaskFSM(keeper, machine)
    with LiveServer(keeper) as server, server.client().websocket("keeper") as one:
        one.receive()
        assert [one.ask("count")["data"] for _ in range(3)] == [1, 2, 3]
        with server.client().websocket("keeper") as other:
            other.receive()
            assert other.ask("count")["data"] == 1
