"""Events without Flask: handlers, edges that have an event, what is said, and the definition."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

import pytest

from flask_fsm import (
    DefinitionError,
    DuplicateEvent,
    DuplicateState,
    Event,
    EventStatus,
    FlowFinished,
    FSMError,
    GuardRefused,
    InvalidTransition,
    Machine,
    State,
    Transition,
    UnknownState,
    ValidationFailed,
)
from flask_fsm.core.flow_base import Sent


def change(flow: Any, data: Any) -> None:
    flow.transition("yellow", data)


def nothing(flow: Any, data: Any) -> None:
    pass


def light(*events: Event) -> Machine:
    """green -> yellow -> red -> green; `stop` leads from green to yellow."""
    return Machine(
        "light",
        [
            Transition("green", "yellow", event="stop"),
            ("yellow", "red"),
            Transition("red", "green", event="go"),
        ],
        states=[State("green", events=events), State("yellow"), State("red")],
    )


# -- statuses -------------------------------------------------------------------------------------


def test_statuses() -> None:
    """The statuses are integers, those of the protocol."""
    assert {each.name: int(each) for each in EventStatus} == {
        "OK": 200,
        "NewContent": 201,
        "NoContent": 202,
        "SuccessfulStateChange": 203,
        "Error": 400,
        "Unauthorized": 401,
        "InvalidEvent": 402,
        "InvalidPayload": 403,
        "ServerRuntimeError": 405,
    }
    assert EventStatus.OK == 200
    assert EventStatus(405) is EventStatus.ServerRuntimeError


# -- definitions ----------------------------------------------------------------------------------


def test_an_event_is_registered() -> None:
    """`@state.event(name)` registers a handler, and leaves the function as it was."""
    state = State("a")

    def handler(flow: Any, data: Any) -> None:
        pass

    assert state.event("go")(handler) is handler
    assert state.events["go"].handler is handler
    assert repr(state.events["go"]) == "Event('go')"
    assert list(State("b", events=[Event("x", handler), Event("y", handler)]).events) == ["x", "y"]


@pytest.mark.parametrize("name", ["", None, 5, ["a"], b"a", "a" * 1_000])
def test_names(name: Any) -> None:
    """An event's name is a text like that of a state."""
    with pytest.raises(DefinitionError):
        Event(name, nothing)
    with pytest.raises(DefinitionError):
        State("a").event(name)(nothing)


def test_handlers_are_functions() -> None:
    """A handler must be callable, and an event an Event."""
    with pytest.raises(DefinitionError):
        Event("go", "no function")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError):
        State("a").event("go")(None)  # type: ignore[type-var]
    with pytest.raises(DefinitionError):
        State("a", events=["go"])  # type: ignore[list-item]


class Called:
    """A handler that is not a function."""

    def __call__(self, flow: Any, data: Any) -> None:
        pass

    def with_self(self, flow: Any, data: Any) -> None:
        pass


@pytest.mark.parametrize(
    "handler",
    [
        nothing,
        lambda *both: None,
        lambda flow, data=None, more=1: None,
        Called(),
        Called().with_self,
        partial(lambda more, flow, data: None, 1),
        max,  # it can't say what it takes
        wraps(lambda flow, data, more: None)(lambda *both: None),
    ],
)
def test_handlers_take_a_flow_and_data(handler: Any) -> None:
    """Whatever can be called with these two is a handler."""
    assert State("a").event("go")(handler) is handler


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda flow: None,
        lambda flow, data, more: None,
        lambda *, flow, data: None,
        Called.with_self,
        Called,
    ],
)
def test_handlers_that_take_something_else(handler: Any) -> None:
    """The error is raised where the handler is registered, not at the first event."""
    with pytest.raises(DefinitionError, match=r"'go' is called with two arguments, handler\(flow"):
        State("a").event("go")(handler)
    with pytest.raises(DefinitionError):
        Event("go", handler)


def test_an_event_twice() -> None:
    """A state has one handler of an event, however it is registered."""
    with pytest.raises(DuplicateEvent):
        State("a", events=[Event("go", nothing), Event("go", change)])
    state = State("a", events=[Event("go", nothing)])
    late = state.event("other")
    state.event("other")(nothing)
    for register in (lambda: state.event("go"), lambda: late(change)):
        with pytest.raises(DuplicateEvent) as caught:
            register()
        assert caught.value.source == "a"
    assert state.events["other"].handler is nothing


def test_an_event_of_a_handler_and_of_an_edge() -> None:
    """A handler and an edge out of its state can't both have an event; of other states they can."""
    with pytest.raises(DuplicateEvent):
        light(Event("stop", nothing)).flow()
    light(Event("go", nothing)).flow()


def test_two_edges_with_one_event() -> None:
    """One event of a state leads one way."""
    with pytest.raises(DefinitionError):
        Machine("m", [Transition("a", "b", event="go"), Transition("a", "c", event="go")])
    Machine("m", [Transition("a", "b", event="go"), Transition("b", "a", event="go")]).flow()


def test_events_that_come_too_late() -> None:
    """Once the machine is in use, neither events nor states are registered."""
    machine = light()
    machine.flow()
    with pytest.raises(DefinitionError):
        machine.states["green"].event("ping")(nothing)
    with pytest.raises(DefinitionError):
        machine.register_state(State("blue"))


# -- register_state -------------------------------------------------------------------------------


def test_states_are_registered() -> None:
    """A machine may begin empty; the first state registered is the initial one."""
    machine = Machine("m")
    green = machine.register_state(State("green", ["yellow"]))
    machine.register_state(State("yellow", ["green"]))
    green.event("next")(change)
    flow = machine.flow()
    assert (flow.current, flow.events) == ("green", ("next",))
    assert list(machine.states) == ["green", "yellow"]
    flow.send("next")
    assert flow.current == "yellow"


def test_registering_more() -> None:
    """States are added to those that there are; what they lead to may come later."""
    machine = Machine("m", [("a", "b")])
    machine.register_state(State("c", ["a", "d"]))
    machine.register_state(State("d", []))
    assert machine.initial == "a"
    assert machine.finals == {"b", "d"}


def test_a_machine_without_states() -> None:
    """Using an empty machine raises an error that names what is missing."""
    with pytest.raises(DefinitionError) as caught:
        Machine("m").flow()
    assert "no initial state" in str(caught.value)


def test_a_target_that_never_came() -> None:
    """A target that was not registered until the machine is used is an unknown state."""
    machine = Machine("m")
    machine.register_state(State("a", ["b"]))
    with pytest.raises(UnknownState):
        machine.flow()


def test_a_state_twice() -> None:
    """A state is registered once."""
    machine = Machine("m")
    machine.register_state(State("a"))
    with pytest.raises(DuplicateState):
        machine.register_state(State("a"))
    with pytest.raises(DefinitionError):
        machine.register_state("b")  # type: ignore[arg-type]
    assert list(machine.states) == ["a"]


def test_undefined_targets() -> None:
    """In a machine that lists no transitions, a state without targets leads anywhere."""
    machine = Machine("m")
    for name in "abc":
        machine.register_state(State(name))
    flow = machine.flow()
    for name in "bacbbcaa":
        flow.transition(name)
        assert flow.current == name


def test_scopes() -> None:
    """A scope is one of two, and a flow for each connection has no key."""
    assert Machine("m", states=["a"]).scope == "subject"
    assert Machine("m", states=["a"], scope="connection").scope == "connection"
    with pytest.raises(DefinitionError):
        Machine("m", states=["a"], scope="none")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError):
        Machine("m", states=["a"], scope="connection", many=True)


# -- handling -------------------------------------------------------------------------------------


def test_a_handler_moves_the_flow() -> None:
    """A handler gets the flow and the data; `send` returns the last transition."""
    flow = light(Event("next", change)).flow()
    result = flow.send("next", {"by": "me"})
    assert result is not None
    assert (result.target, flow.current, flow.rev) == ("yellow", "yellow", 1)
    assert flow.data == {"green": {"by": "me"}}


def test_an_edge_moves_the_flow() -> None:
    """An edge with an event is taken without data, whatever is sent along."""
    flow = light().flow()
    assert flow.events == ("stop",)
    result = flow.send("stop", {"green": {"by": "me"}})
    assert result is not None
    assert flow.current == "yellow"
    assert flow.data.get("green") in (None, {})
    assert flow.events == ()


@pytest.mark.parametrize("event", ["go", "yellow", "nothing", "", "green -> yellow"])
def test_an_unknown_event(event: str) -> None:
    """An event of another state, a target, or a name of nothing is refused with what is known."""
    flow = light().flow()
    with pytest.raises(InvalidTransition) as caught:
        flow.send(event)
    assert (caught.value.code, caught.value.source) == ("no_event", "green")
    assert caught.value.allowed == ("yellow",)
    assert "'stop'" in caught.value.message
    assert flow.rev == 0


def test_handlers_before_edges() -> None:
    """The events of a state are those of its handlers, then those of its edges."""
    machine = light(Event("ping", nothing), Event("next", change))
    assert machine.flow().events == ("ping", "next", "stop")


def test_handle_returns_what_its_handler_sent_in_order() -> None:
    """What the handler transmitted, the transitions it made, and what it returned, last."""

    def talk(flow: Any, data: Any) -> str:
        flow.transmit("one", status=EventStatus.NewContent)
        flow.transition("yellow", {"a": 1})
        flow.transition("red", {"b": 2}, reply="two", status=EventStatus.SuccessfulStateChange)
        flow.transition("green", reply=None)
        return "three"

    flow = light(Event("talk", talk)).flow()
    sent = flow.handle("talk")
    assert all(isinstance(each, Sent) for each in sent)
    assert [(s.status, s.data, s.result and s.result.target) for s in sent] == [
        (201, "one", None),
        (200, {"a": 1}, "yellow"),
        (203, "two", "red"),
        (200, None, "green"),
        (200, "three", None),
    ]
    assert flow.rev == 3


@pytest.mark.parametrize("value", [0, "", False, [], {}])
def test_what_is_returned(value: Any) -> None:
    """Whatever a handler returns is transmitted with 200, but None."""
    flow = light(Event("say", lambda flow, data: value), Event("ping", nothing)).flow()
    assert flow.handle("say") == [Sent(200, value, None)]
    assert flow.handle("ping") == []
    assert flow.send("say") is None


def test_transmit_outside_of_a_handler_is_an_error() -> None:
    """The error names the way to transmit from elsewhere."""
    flow = light(Event("ping", nothing)).flow()
    for _ in range(2):
        with pytest.raises(FSMError) as caught:
            flow.transmit("x")
        assert caught.value.code == "no_client"
        flow.send("ping")
    flow.transition("yellow")  # nobody is told, and nothing is kept of it
    assert flow.current == "yellow"


def test_a_handler_that_raises() -> None:
    """What a handler raises reaches who sent the event; moves it made before stand."""

    def crash(flow: Any, data: Any) -> None:
        flow.transition("yellow")
        raise LookupError("no")

    flow = light(Event("crash", crash)).flow()
    with pytest.raises(LookupError):
        flow.send("crash")
    assert (flow.current, flow.rev) == ("yellow", 1)
    with pytest.raises(FSMError):
        flow.transmit("x")  # that handler is over


def test_events_within_events() -> None:
    """A handler may send another event; what that one's handler sends is returned to the first."""

    def outer(flow: Any, data: Any) -> None:
        flow.transmit("before")
        said.extend(flow.handle("inner"))
        flow.transmit("after")

    said: list[Sent] = []
    flow = light(Event("outer", outer), Event("inner", lambda flow, data: "inside")).flow()
    assert [each.data for each in flow.handle("outer")] == ["before", "after"]
    assert [each.data for each in said] == ["inside"]


def test_refusals_by_rules() -> None:
    """Guards and validators run for transitions of handlers, and for those by an edge's event."""

    def no(flow: Any) -> bool:
        return False

    def needs_key(flow: Any, data: Any) -> None:
        if not data.get("key"):
            raise ValidationFailed("A key is needed.", field="key")

    def enter(flow: Any, data: Any) -> None:
        flow.transition("office", data)

    machine = Machine(
        "m",
        [
            Transition("a", "vault", event="burgle", when=no),
            Transition("a", "office", event="walk_in", validators=[needs_key]),
        ],
        states=[State("a", events=[Event("enter", enter)]), "vault", "office"],
    )
    flow = machine.flow()
    with pytest.raises(GuardRefused):
        flow.send("burgle")
    for event, data in (("walk_in", {"key": 1}), ("enter", {}), ("enter", None)):
        with pytest.raises(ValidationFailed):
            flow.send(event, data)
    assert flow.rev == 0
    flow.send("enter", {"key": 1})
    assert flow.current == "office"


def test_after_the_end() -> None:
    """When a run has ended its edges are no events; handlers may still answer."""
    machine = Machine(
        "m",
        [Transition("a", "b", event="go")],
        states=["a", State("b", events=[Event("ping", lambda flow, data: "pong")])],
        final=["b"],
    )
    flow = machine.flow()
    flow.send("go")
    assert (flow.finished, flow.events) == (True, ("ping",))
    assert flow.handle("ping")[0].data == "pong"
    with pytest.raises(InvalidTransition):
        flow.send("go")
    with pytest.raises(FlowFinished):
        flow.transition("a")


def test_a_coroutine_needs_flask() -> None:
    """Without Flask nobody awaits a handler, so an async one is refused at the first use."""

    async def later(flow: Any, data: Any) -> None:
        pass

    with pytest.raises(DefinitionError):
        light(Event("later", later)).flow()


def test_rules_send_no_events() -> None:
    """A rule can't move the flow that it judges by sending it an event either."""

    def meddling(flow: Any) -> bool:
        flow.send("stop")
        return True

    machine = Machine(
        "m",
        [Transition("a", "b", when=meddling), Transition("a", "c", event="stop")],
    )
    flow = machine.flow()
    with pytest.raises(FSMError):
        flow.transition("b")
    assert flow.rev == 0


# -- the document ---------------------------------------------------------------------------------


def test_a_definition_as_data() -> None:
    """to_dict names the handlers, and from_dict finds them by their names."""
    machine = Machine(
        "m",
        [Transition("green", "yellow", event="stop")],
        states=[State("green", events=[Event("next", change), Event("ping", nothing)]), "yellow"],
        scope="connection",
    )
    data = machine.to_dict()
    assert data["scope"] == "connection"
    assert data["states"][0]["events"] == {"next": "change", "ping": "nothing"}
    again = Machine.from_dict(data, rules=[change, nothing])
    assert again.to_dict() == data
    assert again.digest == machine.digest
    flow = again.flow()
    assert flow.events == ("next", "ping", "stop")
    flow.send("next", {"a": 1})
    assert flow.data == {"green": {"a": 1}}


def test_a_definition_without_its_handlers() -> None:
    """from_dict names the handlers that it was not given."""
    data = light(Event("next", change)).to_dict()
    with pytest.raises(DefinitionError) as caught:
        Machine.from_dict(data)
    assert "change" in str(caught.value)


def test_a_handler_without_a_name() -> None:
    """A lambda can't be written down."""
    with pytest.raises(DefinitionError):
        light(Event("next", lambda flow, data: None)).to_dict()


@pytest.mark.parametrize("events", [["next"], "next", {"next": 5}, {"": "change"}, None])
def test_faulty_data(events: Any) -> None:
    """What to_dict would not write is a definition error, and nothing else."""
    data = light().to_dict()
    data["states"][0]["events"] = events
    with pytest.raises(DefinitionError):
        Machine.from_dict(data, rules=[change])
