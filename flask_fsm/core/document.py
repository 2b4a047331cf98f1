"""The document: a definition as JSON-able data, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DefinitionError
from .rules import KINDS, Function, Rule, Ruled, rule_name
from .state import State, Transition

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["dump_machine", "load_machine"]

R = TypeVar("R", bound=Ruled)
RULE_KEYS = ("when", "pre_transition", "validators", "hooks")


def dump_machine(machine: Machine) -> dict[str, Any]:
    """Return the definition of `machine` as JSON-able data."""
    named: dict[str, Function] = {}
    for edge in machine.edges:
        if edge.transition not in machine.transitions and any(edge.transition._rules.values()):
            raise DefinitionError(
                f"to_dict(): {edge!r} has rules but comes from State(targets=...): list it as "
                f"a Transition.",
                source=edge.source,
                target=edge.target,
            )
    data: dict[str, Any] = {
        "name": machine.name,
        "states": [
            _dump(state, ("targets", "guarded"), named) for state in machine.states.values()
        ],
        "transitions": [
            {
                "source": transition.source
                if isinstance(transition.source, str)
                else list(transition.source),
                "target": transition.target,
                **_dump(transition, ("event", "visit", "back"), named),
            }
            for transition in machine.transitions
        ],
        "initial": machine.initial,
        "final": [state for state in machine.states if state in machine.finals],
        "repeat": machine.repeat,
        "ordered": machine.ordered,
        "reset": machine.reset,
        **_dump_rules(machine, named),
    }
    if machine._complete is not None:
        data["complete"] = _name(machine._complete, named)
    return data


def load_machine(
    kind: type[Machine],
    data: Mapping[str, Any],
    rules: Iterable[Function] | Mapping[str, Function],
) -> Machine:
    """Make a machine from what `dump_machine` returned, or from the same shape written by hand."""
    given = (
        dict(rules)
        if isinstance(rules, Mapping)
        else {rule_name(function): function for function in rules}
    )
    faults: list[DefinitionError] = []
    try:
        complete = data.get("complete")
        arguments: dict[str, Any] = {
            key: data[key]
            for key in ("initial", "final", "repeat", "ordered", "reset")
            if key in data
        }
        if complete is not None:
            arguments["complete"] = _find(complete, given, faults)
        states = [
            state
            if isinstance(state, str)
            else _load_rules(
                State(state["name"], state.get("targets"), guarded=state.get("guarded", True)),
                state,
                given,
                faults,
            )
            for state in data.get("states", ())
        ]
        transitions = [
            _load_rules(
                Transition(
                    edge["source"],
                    edge["target"],
                    edge.get("event"),
                    visit=edge.get("visit", False),
                    back=edge.get("back", "preserve"),
                ),
                edge,
                given,
                faults,
            )
            if isinstance(edge, Mapping)
            else Transition(*edge)
            for edge in data.get("transitions", ())
        ]
        name = data["name"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DefinitionError(
            f"Machine.from_dict: the data has not the shape of to_dict(): {error!r}."
        ) from error
    try:
        machine = kind(name, transitions, states=states, **arguments)
    except DefinitionError as error:
        raise DefinitionError.of(f"Machine {name!r}", [*error.faults, *faults]) from None
    _load_rules(machine, data, given, faults)
    if faults:
        raise DefinitionError.of(f"Machine {name!r}", faults)
    return machine


def _name(function: Function, named: dict[str, Function]) -> str:
    name = rule_name(function)
    if named.setdefault(name, function) is not function or name.endswith("<lambda>"):
        raise DefinitionError(
            f"to_dict(): the rule {name!r} has no name of its own: define it by `def`, under a "
            f"name that no other rule has."
        )
    return name


def _dump_rules(owner: Ruled, named: dict[str, Function]) -> dict[str, list[Any]]:
    """Write down each rule as its name, or as its name and its order."""
    return {
        key: [
            [_name(rule.function, named), rule.order] if rule.order else _name(rule.function, named)
            for rule in owner._rules[kind]
        ]
        for kind, key in zip(KINDS, RULE_KEYS, strict=True)
        if owner._rules[kind]
    }


def _dump(
    owner: State | Transition, keys: Iterable[str], named: dict[str, Function]
) -> dict[str, Any]:
    """Write down what differs from the defaults."""
    data: dict[str, Any] = {"name": owner.name} if isinstance(owner, State) else {}
    for key in keys:
        value = getattr(owner, key)
        if value not in (None, "preserve") and value is not (key == "guarded"):
            data[key] = list(value) if isinstance(value, tuple) else value
    return data | _dump_rules(owner, named)


def _find(name: str, given: Mapping[str, Function], faults: list[DefinitionError]) -> Function:
    try:
        return given[name]
    except KeyError:
        faults.append(
            DefinitionError(f"the rule {name!r} is named but not given: pass it in `rules=`.")
        )
        return lambda *_: False


def _load_rules(
    owner: R, data: Mapping[str, Any], given: Mapping[str, Function], faults: list[DefinitionError]
) -> R:
    """Give `owner` the rules that `data` names."""
    for kind, key in zip(KINDS, RULE_KEYS, strict=True):
        rules = data.get(key, ())
        for rule in [rules] if isinstance(rules, str) else rules:
            name, order = (rule, 0) if isinstance(rule, str) else rule
            owner._rules[kind].append(Rule(order, _find(name, given, faults)))
    return owner
