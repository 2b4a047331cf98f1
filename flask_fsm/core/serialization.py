"""Serialization: a definition as JSON-able data, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from ..errors import DefinitionError
from .definition import Definition
from .event import Event
from .graph import list_transitions
from .migration import Renamed
from .rules import KINDS, RULE_KEYS, Function, Rule, RuleOwner, rule_name, rules_of, set_rules
from .state import State, Transition

__all__ = ["LoadedDefinition", "dump_machine", "load_definition"]

P = TypeVar("P", State, Transition)
OPTIONS = ("initial", "final", "repeat", "ordered", "reset", "many", "scope", "free_args")
MACHINE_KEYS = ("name", "states", "transitions", *OPTIONS, "complete", "migrate")
STATE_KEYS = ("name", "targets", "guarded")
TRANSITION_KEYS = ("source", "target", "event", "visit", "once", "back")
DEFAULTS: Final[dict[str, Any]] = {
    "targets": None,
    "guarded": True,
    "event": None,
    "visit": False,
    "once": False,
    "back": "preserve",
}


class LoadedDefinition(NamedTuple):
    """A parsed definition; `faults` are those that don't prevent building a machine from it."""

    name: str
    states: list[str | State]
    transitions: list[Transition]
    options: dict[str, Any]
    rules: dict[str, list[Rule]]
    migration: Mapping[str, str | None] | Function | None
    faults: list[DefinitionError]


def dump_machine(machine: Definition) -> dict[str, Any]:
    """Return the definition of `machine` as JSON-able data."""
    named: dict[str, Function] = {}
    listed = set(map(id, machine.transitions))
    for edge in machine.existing_edges():
        if id(edge.transition) not in listed and any(rules_of(edge.transition).values()):
            raise DefinitionError(
                f"to_dict(): {edge!r} has rules but comes from State(targets=...): define it "
                f"as a Transition.",
                source=edge.source,
                target=edge.target,
            )
    data: dict[str, Any] = {
        "name": machine.name,
        "states": [_dump(state, STATE_KEYS, named) for state in machine.states.values()],
        "transitions": [
            _dump(transition, TRANSITION_KEYS, named) for transition in machine.transitions
        ],
        "initial": machine.initial,
        "final": [state for state in machine.states if state in machine.finals],
        "repeat": machine.repeat,
        "ordered": machine.ordered,
        "reset": machine.reset,
        "many": machine.many,
        "scope": machine.scope,
        "free_args": list(machine.free_args),
        **_dump_rules(machine, named),
    }
    if machine.completion is not None:
        data["complete"] = _name(machine.completion, named)
    if isinstance(machine.migration, Renamed):
        data["migrate"] = dict(machine.migration.names)
    elif machine.migration is not None:
        data["migrate"] = _name(machine.migration, named)
    return data


def load_definition(
    data: Mapping[str, Any], rules: Iterable[Function] | Mapping[str, Function]
) -> LoadedDefinition:
    """Read what `dump_machine` returned, or data of the same shape written by hand."""
    given = (
        dict(rules)
        if isinstance(rules, Mapping)
        else {rule_name(function): function for function in rules}
    )
    faults: list[DefinitionError] = []
    try:
        name = data["name"]
        faults += _unknown_keys("the machine", data, MACHINE_KEYS)
        own = _find_rules(data, given, faults)
        arguments = {key: data[key] for key in OPTIONS if key in data}
        if data.get("complete") is not None:
            arguments["complete"] = _find(data["complete"], given, faults)
        migration = data.get("migrate")
        if isinstance(migration, str):
            migration = _find(migration, given, faults)
        states = [
            state if isinstance(state, str) else _load(State, state, STATE_KEYS, given, faults)
            for state in _parts(data, "states")
        ]
        transitions = [
            _load(Transition, edge, TRANSITION_KEYS, given, faults)
            if isinstance(edge, Mapping)
            else edge
            for edge in _parts(data, "transitions")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DefinitionError(
            f"Machine.from_dict: the data does not have the shape of to_dict(): {error!r}."
        ) from error
    valid = [state for state in states if state is not None]
    edges = [edge for edge in transitions if edge is not None]
    if len(valid) < len(states) or len(edges) < len(transitions):
        list_transitions(edges, faults)  # for its faults
        raise DefinitionError.of(f"Machine {name!r}", faults)
    return LoadedDefinition(name, valid, edges, arguments, own, migration, faults)


def _parts(data: Mapping[str, Any], key: str) -> Iterable[Any]:
    parts: Iterable[Any] = data.get(key, ())
    if isinstance(parts, str):
        raise TypeError(f"{key} must be a list, not {parts!r}")
    return parts


def _load(
    kind: type[P],
    data: Mapping[str, Any],
    keys: Iterable[str],
    given: Mapping[str, Function],
    faults: list[DefinitionError],
) -> P | None:
    """Make the state or the transition that `data` describes; None if it is malformed."""
    arguments = {key: data[key] for key in keys if key in data}
    rules = _find_rules(data, given, faults)
    faults += _unknown_keys(
        repr(dict(data)), data, (*keys, "events") if kind is State else tuple(keys)
    )
    try:
        if kind is State and "events" in data:
            arguments["events"] = [
                Event(event, _find(name, given, faults)) for event, name in data["events"].items()
            ]
        part = kind(**arguments)
    except DefinitionError as error:
        faults += error.faults
        return None
    set_rules(part, rules)
    return part


def _unknown_keys(
    where: str, data: Mapping[str, Any], keys: Iterable[str]
) -> list[DefinitionError]:
    known = (*keys, *RULE_KEYS)
    return [
        DefinitionError(f"{where} has the unknown key {key!r}; the keys are {', '.join(known)}.")
        for key in data
        if key not in known
    ]


def _name(function: Function, named: dict[str, Function]) -> str:
    name = rule_name(function)
    if named.setdefault(name, function) is not function or name.endswith("<lambda>"):
        raise DefinitionError(
            f"to_dict(): the rule {name!r} does not have a unique name: define it with `def`, "
            f"under a name that no other rule has."
        )
    return name


def _dump_rules(owner: RuleOwner, named: dict[str, Function]) -> dict[str, list[Any]]:
    """Return each rule as its name, or as its name and its order."""
    rules = rules_of(owner)
    return {
        key: [
            [_name(rule.function, named), rule.order] if rule.order else _name(rule.function, named)
            for rule in rules[kind]
        ]
        for kind, key in zip(KINDS, RULE_KEYS, strict=True)
        if rules[kind]
    }


def _dump(
    owner: State | Transition, keys: Iterable[str], named: dict[str, Function]
) -> dict[str, Any]:
    """Return the attributes that differ from their defaults, and the rules."""
    data: dict[str, Any] = {}
    for key in keys:
        value = getattr(owner, key)
        if key not in DEFAULTS or value != DEFAULTS[key]:
            data[key] = list(value) if isinstance(value, tuple) else value
    if isinstance(owner, State) and owner.events:
        data["events"] = {name: _name(e.handler, named) for name, e in owner.events.items()}
    return data | _dump_rules(owner, named)


def _find(name: str, given: Mapping[str, Function], faults: list[DefinitionError]) -> Function:
    function = given.get(name)
    if callable(function):
        return function
    faults.append(
        DefinitionError(f"the rule {name!r} is {function!r}, which is not callable.")
        if name in given
        else DefinitionError(
            f"the rule {name!r} is named in the data but not given: pass it in rules=."
        )
    )
    return lambda *_: False


def _find_rules(
    data: Mapping[str, Any], given: Mapping[str, Function], faults: list[DefinitionError]
) -> dict[str, list[Rule]]:
    """Return the rules that `data` names, by their kinds."""
    found: dict[str, list[Rule]] = {}
    for kind, key in zip(KINDS, RULE_KEYS, strict=True):
        rules = data.get(key, ())
        found[kind] = []
        for rule in [rules] if isinstance(rules, str) else rules:
            name, order = (rule, 0) if isinstance(rule, str) else rule
            if not isinstance(order, (int, float)):
                faults.append(
                    DefinitionError(f"the order of rule {name!r} must be a number, not {order!r}.")
                )
                continue
            found[kind].append(Rule(order, _find(name, given, faults)))
    return found
