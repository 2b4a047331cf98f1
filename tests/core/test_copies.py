"""Copies and pickles of machines, flows and what they consist of."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from time import perf_counter
from typing import Any

import pytest

from flask_fsm import DefinitionError, Flow, Machine, Snapshot, State, Transition


def ring(**options: Any) -> Machine:
    """Three states around, with a rule that can't be pickled."""
    return Machine(
        "ring",
        [Transition("a", "b", when=lambda flow: True), ("b", "c"), ("c", "a")],
        final=[],
        **options,
    )


def walked() -> Flow:
    flow = ring().flow(context={"user": ["ada"]})
    flow.transition("b", {"x": [1]})
    flow.transition("c", {"y": 2})
    flow.transition("b", {"x": [3]}, source="a")
    return flow


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("duplicate", [copy, deepcopy])
def test_a_copy_of_a_flow_moves_apart(duplicate: Callable[[Any], Any]) -> None:
    """What it does reaches the original in nothing, and the other way round."""
    flow = walked()
    before, seen = flow.snapshot, dict(flow.data)
    other = duplicate(flow)
    assert other.snapshot == before
    other.transition("c", {"z": 1})
    assert flow.snapshot is before
    assert (flow.is_on_path("c"), flow.data, flow.current) == (False, seen, "b")
    flow.transition("c")
    flow.reset()
    assert (other.current, other.data["b"]) == ("c", {"z": 1})


def test_a_deep_copy_has_a_context_of_its_own_and_a_copy_shares_it() -> None:
    """As copies of anything else do."""
    flow = walked()
    assert copy(flow).context is flow.context
    deep = deepcopy(flow)
    deep.context["user"].append("bob")
    assert flow.context == {"user": ["ada"]}


@pytest.mark.parametrize("duplicate", [copy, deepcopy, pickled])
def test_a_snapshot_can_be_copied_and_pickled(duplicate: Callable[[Any], Any]) -> None:
    """Loaded or just made, with its path, its answers, its drafts and its history."""
    flow = walked()
    machine = flow.machine
    loaded = Snapshot.decode(flow.snapshot.encode(machine), machine)
    for snapshot in (flow.snapshot, loaded, ring().flow().snapshot):
        again = duplicate(snapshot)
        assert again == snapshot
        assert (again.path, again.history) == (snapshot.path, snapshot.history)
        assert again.encode(machine) == snapshot.encode(machine)
        moved = Flow(machine, again)
        moved.transition(next(iter(machine.ways[again.state])))
        assert moved.rev == snapshot.rev + 1
        assert duplicate(snapshot.path) == snapshot.path
        assert duplicate(snapshot.history) == snapshot.history


def test_a_long_run_can_be_copied_and_pickled() -> None:
    """Its path and its history are no recursion too deep."""
    names = [f"s{number}" for number in range(3000)]
    flow = Machine("long", list(itertools.pairwise(names))).flow()
    for name in names[1:]:
        flow.transition(name)
    for value in (flow.snapshot, flow.path, flow.history):
        assert pickled(value) == deepcopy(value) == copy(value) == value


def test_a_machine_in_use_is_its_own_copy() -> None:
    """It is immutable."""
    machine = ring()
    machine.flow()
    assert copy(machine) is deepcopy(machine) is machine
    assert deepcopy({"machine": [machine]})["machine"][0] is machine


def test_a_machine_that_is_not_in_use_says_what_to_do_instead_of_a_copy() -> None:
    """A rule that is registered on the copy would be the original's too."""
    machine = ring()
    for duplicate in (copy, deepcopy):
        with pytest.raises(TypeError, match=r"from_dict\(machine.to_dict"):
            duplicate(machine)
    assert machine.flow().current == "a"


def test_what_can_t_be_pickled_says_what_to_do_instead() -> None:
    """Functions are not data."""
    with pytest.raises(TypeError, match=r"machine\.to_dict\(\)"):
        pickle.dumps(ring())
    with pytest.raises(TypeError, match=r"machine\.flow\(snapshot\)"):
        pickle.dumps(walked())


@pytest.mark.parametrize("duplicate", [copy, deepcopy])
def test_a_copy_of_a_state_or_a_transition_has_rules_of_its_own(
    duplicate: Callable[[Any], Any],
) -> None:
    """What is registered on it is not registered on the original."""

    def refuses(flow: Flow) -> bool:
        return False

    state, edge = State("b", when=lambda flow: True), Transition("a", "b")
    state.event("press")(lambda flow, data: None)
    other_state, other_edge = duplicate(state), duplicate(edge)
    other_state.guard(refuses)
    other_edge.guard(refuses)
    other_state.event("pull")(lambda flow, data: None)
    assert set(state.events) == {"press"}
    machine = Machine("m", [edge], states=["a", state])
    machine.flow().transition("b")
    other = Machine("m", [other_edge], states=["a", other_state])
    assert not other.flow().can_transition("b")
    assert set(other.states["b"].events) == {"press", "pull"}


# -- many states ----------------------------------------------------------------------------------


def test_2000_states_are_registered_in_less_than_a_second() -> None:
    """Each costs the same, however many there are."""
    machine = Machine("big")
    start = perf_counter()
    for number in range(2000):
        machine.register_state(State(f"s{number}", [f"s{(number + 1) % 2000}"]))
        assert len(machine.states) == number + 1
    assert perf_counter() - start < 1
    assert machine.initial == "s0"
    assert len(machine.edges) == 2000
    flow = machine.flow()
    flow.transition("s1")
    with pytest.raises(DefinitionError, match="already in use"):
        machine.register_state(State("late"))


def test_what_depends_on_the_states_is_up_to_date_whenever_it_is_read() -> None:
    """Also between two registrations, and for a mapping that was read before."""
    machine = Machine("m", [("a", "b")])
    states = machine.states
    machine.register_state(State("c", "a"))
    assert list(states) == list(machine.states) == ["a", "b", "c"]
    assert list(machine.ways["c"]) == ["a"]
    assert machine.initial == "a"
    digest = machine.digest
    machine.register_state(State("d"))
    assert machine.digest != digest
    assert set(machine.ways) == {"a", "b", "c", "d"}
    assert not hasattr(machine, "nothing")
