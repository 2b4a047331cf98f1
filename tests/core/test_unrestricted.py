"""States that lead to every state: the same answers as with listed edges, at less cost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from flask_fsm import DefinitionError, Machine, Snapshot, State, ValidationFailed
from flask_fsm.core.ways import Limits

NAMES = ["a", "b", "c", "d", "e"]
LIMITS = [
    Limits(),
    Limits(to={"b": {"a", "e"}}),
    Limits(accept={"c": {"a"}, "e": {"b", "d"}}),
    Limits(to={"a": {"c", "d"}, "d": set()}, accept={"c": {"a", "e"}, "a": set()}),
    Limits(to={"x": {"a"}, "a": {"x", "b"}}, accept={"y": {"a"}, "b": {"a", "z"}}),
]


def unrestricted(**options: Any) -> Machine:
    states = [State(name) for name in NAMES[:-1]]
    return Machine("m", states=[*states, State("e", targets=["a"])], **options)


def listed(**options: Any) -> Machine:
    """The same edges, one by one."""
    pairs = [("e", "a"), *((one, other) for one in NAMES[:-1] for other in NAMES)]
    return Machine("m", pairs, states=NAMES, **options)


def same(rule: Any) -> Any:
    return rule


def answers(machine: Machine) -> dict[str, Any]:
    """Everything that a machine says of its edges."""
    return {
        "ways": {source: list(ways) for source, ways in machine.ways.items()},
        "values": {s: [e.target for e in ways.values()] for s, ways in machine.ways.items()},
        "has": [(one, two, two in machine.ways[one]) for one in NAMES for two in [*NAMES, "x"]],
        "count": (len(machine.edges), {source: len(ways) for source, ways in machine.ways.items()}),
        "edges": [(e.source, e.target, e.number, e.code, e.final) for e in machine.edges],
        "by number": [machine.edges[number].target for number in range(len(machine.edges))],
        "some": [edge.target for edge in machine.edges[2:-1:3]],
        "out": [machine.exhausted(name, (1 << len(machine.edges)) - 2) for name in NAMES],
        "ends": (machine.initial, machine.finals, repr(machine)),
    }


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("options", [{}, {"repeat": False}, {"ordered": True}])
def test_an_unrestricted_state_answers_as_if_its_edges_were_listed(
    limits: Limits, options: dict[str, Any]
) -> None:
    """Also in an app whose views leave some edges out."""
    one, other = unrestricted(**options), listed(**options)
    assert answers(one) == answers(other)
    assert answers(one.restricted(limits, same)) == answers(other.restricted(limits, same))


@pytest.mark.parametrize("options", [{}, {"repeat": False}])
def test_a_run_over_unrestricted_states_is_stored_and_read_as_any_other(
    options: dict[str, Any],
) -> None:
    one, other = unrestricted(**options).flow(), listed(**options).flow()
    for target in ("c", "e", "a", "a", "d", "b"):
        results = [flow.transition(target, data={"n": 1}) for flow in (one, other)]
        assert repr(results[0]) == repr(results[1])
        assert one.events == other.events == ()
        assert one.progress() == other.progress()
    for flow in (one, other):
        again = Snapshot.decode(flow.snapshot.encode(flow.machine), flow.machine)
        assert flow.machine.flow(again).history == flow.history
    assert [*one.history] == [*other.history]
    assert one.why_not("a") == other.why_not("a")
    assert one.why_not("x")[0].code == other.why_not("x")[0].code == "unknown_state"


def test_the_rules_of_a_machine_a_state_and_one_edge_run_on_an_unrestricted_state() -> None:
    machine = unrestricted()
    ran: list[str] = []
    machine.hook(lambda flow, result: ran.append("machine"))
    machine.states["b"].hook(lambda flow, result: ran.append("state"))
    machine.transition("a", "b").hook(lambda flow, result: ran.append("edge"))

    @machine.transition("b", "c").validator
    def never(flow: Any, data: Any) -> None:
        raise ValidationFailed("No.")

    for one in (machine.restricted(Limits(accept={"d": {"a"}}), same), machine):
        ran.clear()
        flow = one.flow()
        flow.transition("b")
        assert ran == ["machine", "state", "edge"]
        with pytest.raises(ValidationFailed):
            flow.transition("c")
        flow.transition("a")
        assert ran[3:] == ["machine"]
        with pytest.raises(DefinitionError, match="already in use"):
            one.transition("a", "c").guard(lambda flow: False)
    with pytest.raises(DefinitionError, match=r"State\(targets=\.\.\.\)"):
        machine.to_dict()


def test_a_graph_of_unrestricted_states_has_the_same_faults() -> None:
    """They reach every state, and are an end's way in; an end itself leads nowhere."""
    with pytest.raises(DefinitionError) as caught:
        Machine("m", states=[State("a", ["b"]), State("b", ["a"]), State("c")])
    assert [fault.code for fault in caught.value.faults] == ["unreachable"]
    machine = Machine("m", states=["a", "b", "c"], final=["c"])
    assert [len(ways) for ways in machine.ways.values()] == [3, 3, 0]
    assert Machine.from_dict(machine.to_dict()).digest == machine.digest
    assert machine.digest != Machine("m", states=["a", "b", "c"]).digest


# -- how the work grows ---------------------------------------------------------------------------


def chain(count: int) -> Machine:
    return Machine("m", [(f"s{number}", f"s{number + 1}") for number in range(count - 1)])


def targets(count: int) -> Machine:
    states = [State(f"s{number}", [f"s{number + 1}"]) for number in range(count - 1)]
    return Machine("m", states=[*states, State(f"s{count - 1}", [])])


def free(count: int) -> Machine:
    return Machine("m", states=[State(f"s{number}") for number in range(count)])


def narrowed(count: int) -> Machine:
    """As in an app in which each page accepts only the one before it."""
    accept = {f"s{number + 1}": {f"s{number}"} for number in range(count - 1)}
    return free(count).restricted(Limits(accept=accept), same)


def use(make: Callable[[int], Machine], count: int) -> None:
    """Define a machine, and take it through all that a run and a deploy ask of it."""
    machine = make(count)
    flow = machine.flow()
    for number in range(1, 6):
        flow.transition(f"s{number}", data={"n": number})
        flow.progress()
    assert len(machine.flow(Snapshot.decode(flow.snapshot.encode(machine), machine)).history) == 5
    assert machine.digest
    assert repr(machine)
    assert Machine.from_dict(machine.to_dict()).states.keys() == machine.states.keys()


def work(make: Callable[[int], Machine], count: int) -> int:
    """The number of calls of functions, in Python and in C."""
    calls = 0

    def count_call(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        use(make, count)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("make", [chain, targets, free, narrowed])
def test_twice_as_many_states_are_twice_the_work(make: Callable[[int], Machine]) -> None:
    """A square would be four times as much."""
    work(make, 50)  # what happens only once
    assert work(make, 400) < 2.4 * work(make, 200)


def test_an_edge_of_an_unrestricted_state_is_made_when_it_is_asked_for() -> None:
    machine = free(2000)
    flow = machine.flow()
    flow.transition("s7")
    flow.transition("s1999")
    assert len(machine.edges) == 4_000_000
    assert [(e.source, e.target) for e in machine.existing_edges()] == [
        ("s0", "s7"),
        ("s7", "s1999"),
    ]
    assert machine.edges[-1].source == machine.edges[-1].target == "s1999"
