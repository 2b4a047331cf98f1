"""One ring of states in every library: each edge has one guard and one hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import state_machine_framework as framework
import statemachine
import transitions

from flask_fsm.core.machine import Machine, Transition

from .floor import BareFlow, Edge, FullFlow

Walk = Callable[[int], object]
"""Makes so many transitions around the ring."""


def guard(*_: Any) -> bool:
    return True


def hook(*_: Any) -> None:
    pass


def around(size: int) -> list[str]:
    """Return the targets of one lap from state 0."""
    return [f"s{number % size}" for number in range(1, size + 1)]


def pairs(size: int) -> list[tuple[str, str]]:
    lap = around(size)
    return list(zip([lap[-1], *lap[:-1]], lap, strict=True))


def walker(transition: Callable[[str], object], size: int) -> Walk:
    lap = around(size)

    def walk(steps: int) -> None:
        for _ in range(steps // size):
            for target in lap:
                transition(target)

    return walk


def ring(size: int, **options: Any) -> Machine:
    edges = [Transition(a, b, when=guard, hooks=[hook]) for a, b in pairs(size)]
    return Machine("ring", edges, **options)


def ours(size: int) -> Callable[[], Walk]:
    machine = ring(size)
    return lambda: walker(machine.flow().transition, size)


def floor(kind: type[BareFlow] | type[FullFlow], size: int) -> Callable[[], Walk]:
    ways = {pair: Edge(*pair, guards=[guard], hooks=[hook]) for pair in pairs(size)}
    return lambda: walker(kind(ways, "s0").transition, size)


def pytransitions(size: int) -> Callable[[], Walk]:
    """Without queue and with a model of its own: the fastest way that its manual shows."""

    class Model:
        pass

    def start() -> Walk:
        model: Any = Model()
        machine = transitions.Machine(
            model, states=around(size), initial="s0", auto_transitions=False, send_event=False
        )
        for source, target in pairs(size):
            machine.add_transition("on", source, target, conditions=guard, after=hook)

        def walk(steps: int) -> None:
            on = model.on
            for _ in range(steps):
                on()

        return walk

    return start


def python_statemachine(size: int) -> Callable[[], Walk]:
    states = {name: statemachine.State(initial=name == "s0") for name in around(size)}
    event: Any = None
    for source, target in pairs(size):
        edge = states[source].to(states[target], cond="guard", after="hook")
        event = edge if event is None else event | edge
    kind: Any = type(
        "Ring",
        (statemachine.StateMachine,),
        {**states, "on": event, "guard": lambda self: True, "hook": lambda self: None},
    )

    def start() -> Walk:
        machine = kind()

        def walk(steps: int) -> None:
            on = machine.on
            for _ in range(steps):
                on()

        return walk

    return start


class Orders(framework.ORMAdapter):
    """Rows in a dict: the framework needs an ORM, and this is the fastest one there can be."""

    def __init__(self) -> None:
        self.row: Any = None

    def create(self, model_cls: type, **data: Any) -> Any:
        self.row = model_cls()
        self.row.__dict__.update(data)
        return self.row

    def get(self, model_cls: type, **filters: Any) -> Any:
        return self.row

    def filter(self, model_cls: type, **filters: Any) -> list[Any]:
        return [self.row]

    def update(self, model_cls: type, filters: dict[str, Any], **updates: Any) -> int:
        self.row.__dict__.update(updates)
        return 1

    def delete(self, model_cls: type, **filters: Any) -> int:
        return 0


def state_machine_framework(size: int) -> Callable[[], Walk]:
    class Order:
        pass

    class Orderly(framework.StateMachine):
        pass

    Orderly.register(Order, state_field="status", identifier_field="number")
    states: dict[str, Any] = {}
    for name in around(size):
        states[name] = type(
            name, (framework.State,), {"_state_machine": Orderly, "model_states": {Order: name}}
        )
        framework.validator(states[name])(guard_of_framework)
        framework.hook(states[name])(hook_of_framework)
    for source, target in pairs(size):
        states[source].allowed_transitions = [states[target]]

    def start() -> Walk:
        adapter = Orders()
        adapter.create(Order, number="1", status="s0")
        machine = Orderly({"Order": {"number": "1"}}, orm_adapter=adapter)
        current = states["s0"]

        def transition(target: str) -> None:
            nonlocal current
            machine.perform_transition(current, states[target])
            current = states[target]

        return walker(transition, size)

    return start


def guard_of_framework(state: Any, data: Any, context: Any) -> None:
    pass


def hook_of_framework(state: Any, instances: Any, context: Any) -> None:
    pass


def everyone(size: int) -> dict[str, Callable[[], Walk]]:
    return {
        "flask_fsm": ours(size),
        "bare floor": floor(BareFlow, size),
        "full floor": floor(FullFlow, size),
        "pytransitions": pytransitions(size),
        "python-statemachine": python_statemachine(size),
        "state-machine-framework": state_machine_framework(size),
    }
