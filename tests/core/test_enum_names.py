"""Names that are given as members of an enumeration."""

from __future__ import annotations

import json
from enum import Enum, StrEnum, auto
from typing import Any

import pytest

from flask_fsm import Machine, Snapshot, State, Transition, UnknownTarget


class Upper(str, Enum):  # noqa: UP042
    """Hashes by its names, and not as its values do."""

    CART = "cart"
    ADDRESS = "address"
    DONE = "done"
    NEXT = "next"


class Lower(StrEnum):
    """Hashes as its values do, since its names are the same."""

    cart = auto()
    address = auto()
    done = auto()
    next = auto()


class Named(StrEnum):
    """Hashes by its names, and is written as its values."""

    CART = "cart"
    ADDRESS = "address"
    DONE = "done"
    NEXT = "next"


every_kind = pytest.mark.parametrize("kind", [Upper, Named, Lower])


def members(kind: Any) -> list[Any]:
    return list(kind)


def texts(value: Any) -> Any:
    """Check that all texts within are exact ones, and return them."""
    if isinstance(value, dict):
        return {texts(key): texts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [texts(item) for item in value]
    assert not isinstance(value, str) or type(value) is str, repr(value)
    return value


def shop(kind: Any) -> Machine:
    cart, address, done, event = members(kind)
    return Machine(
        "shop",
        [Transition(cart, address, event), Transition([cart, address], done)],
        states=[State(cart), State(address, events=()), done],
        initial=cart,
        final=[done],
        repeat=False,
    )


@every_kind
def test_names_of_a_definition_are_plain_texts(kind: Any) -> None:
    """Wherever they come out."""
    machine = shop(kind)
    seen = texts(
        [
            list(machine.states),
            machine.initial,
            machine.finals,
            {source: list(ways) for source, ways in machine.ways.items()},
            [(edge.source, edge.target, edge.event) for edge in machine.edges],
            [(t.source, t.target) for t in machine.transitions],
            machine.events,
            [state.name for state in machine.states.values()],
        ]
    )
    assert seen[0] == ["cart", "address", "done"]
    plain = Machine(
        "shop",
        [Transition("cart", "address", "next"), Transition(["cart", "address"], "done")],
        states=["cart", "address", "done"],
        repeat=False,
    )
    assert machine.digest == plain.digest
    assert json.loads(json.dumps(machine.to_dict())) == plain.to_dict()


@every_kind
def test_a_flow_takes_members_and_gives_plain_texts(kind: Any) -> None:
    """In its snapshot, its history, its data and its errors."""
    cart, address, done, _event = members(kind)
    machine = shop(kind)
    flow = machine.flow()
    assert flow.can_transition(address)
    assert flow.why_not(address, source=cart) == []
    assert flow.has_not_skipped(address)
    assert flow.is_open(cart)
    flow.transition(address, {"x": 1}, source=cart)
    texts([flow.current, list(flow.path), flow.data, [list(entry) for entry in flow.history]])
    assert flow.answers(cart) == {"x": 1}
    assert flow.is_on_path(address)
    assert flow.is_open(cart)
    assert (cart, address) in flow.history
    assert flow.progress(cart).current == "cart"
    flow.transition(address, {"x": 2}, source=cart)
    text = flow.snapshot.encode(machine)
    assert Snapshot.decode(text, machine).path == ["cart", "address"]
    with pytest.raises(UnknownTarget) as caught:
        flow.transition(Upper.NEXT if kind is not Upper else Named.NEXT)
    texts([caught.value.target, caught.value.source, caught.value.allowed])
    result = flow.transition(done)
    texts([result.source, result.target, flow.snapshot.state])
    assert (flow.finished, machine.complete(done)) == (True, True)


@every_kind
def test_events_and_rules_are_found_by_members(kind: Any) -> None:
    """The name of an event, too."""
    cart, address, _, event = members(kind)
    machine = shop(kind)
    asked = []
    machine.states[cart].event(Upper.DONE)(lambda flow, data: asked.append(data))
    machine.states[address].guard(lambda flow: True)
    machine.transition(cart, address).validator(lambda flow, data: asked.append("checked"))
    flow = machine.flow()
    texts(flow.events)
    flow.send(Upper.DONE, 7)
    result = flow.send(event)
    assert result is not None
    texts([result.target, result.event])
    assert asked == [7, "checked"]


@every_kind
def test_targets_registered_states_and_migrations_take_members(kind: Any) -> None:
    """And a machine may list a whole enumeration as its states."""
    cart, address, done, _ = members(kind)
    machine = Machine("m")
    machine.register_state(State(cart, address))
    machine.register_state(State(address, [done]))
    machine.register_state(State(done, []))
    flow = machine.flow()
    flow.transition(address)
    texts(list(flow.path))
    assert list(Machine("all", states=kind).states) == ["cart", "address", "done", "next"]
    new = Machine("m", [("cart", "where"), ("where", "done")])
    new.migrate({address: "where"})
    text = flow.snapshot.encode(machine)
    assert Snapshot.decode(text, new).path == ["cart", "where"]
    back = Machine("m", [(cart, address), (address, done)])
    back.migrate(lambda name: {"where": address}.get(name, name))
    again = Snapshot.decode(new.flow(Snapshot.decode(text, new)).snapshot.encode(new), back)
    texts(list(again.path))


@every_kind
def test_complete_is_asked_with_plain_texts(kind: Any) -> None:
    """Whatever it was given."""
    cart, address, done, _ = members(kind)
    asked: list[Any] = []

    def complete(state: str) -> bool:
        asked.append(state)
        return state == "done"

    machine = Machine("m", [(cart, address), (address, done)], complete=complete)
    assert machine.complete(done)
    machine.flow().transition(address)
    texts(asked)
