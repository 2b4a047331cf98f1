"""State, Transition and Machine: the definition, checked when it is made, then immutable."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import (
    DefinitionError,
    DuplicateEvent,
    DuplicateState,
    DuplicateTransition,
    RuleCrashed,
    UnknownState,
)
from .lint import faults_of_graph
from .path import Node, root
from .rules import KINDS, Function, Rule, Ruled, Wrap, compile_rules, only_sync, rule_name

if TYPE_CHECKING:
    from .flow import Clock, Flow
    from .snapshot import Snapshot

__all__ = ["Back", "Edge", "Machine", "State", "Transition", "TransitionLike"]

Back = Literal["preserve", "discard", "invalidate"]
BACK_POLICIES: tuple[Back, ...] = ("preserve", "discard", "invalidate")
ANY = "*"


class State(Ruled):
    """A named node. It is a page if an app has an endpoint for it.

    `targets` names the states it leads to; None adds no edges in a machine that lists
    transitions, and leads anywhere in one that lists none. `guarded=False` says that its view is
    meant to go without `check`. The rules run when the state is entered.
    """

    __slots__ = ("guarded", "name", "targets")

    def __init__(
        self,
        name: str,
        targets: Iterable[str] | None = None,
        *,
        guarded: bool = True,
        when: Function | Iterable[Function] | None = None,
        pre_transition: Iterable[Function] = (),
        validators: Iterable[Function] = (),
        hooks: Iterable[Function] = (),
    ) -> None:
        self.name = name
        self.targets = None if targets is None else tuple(targets)
        self.guarded = guarded
        self._begin(when, pre_transition, validators, hooks)

    def __repr__(self) -> str:
        return f"State({self.name!r})"


class Transition(Ruled):
    """An edge `source -> target`; `source` may be a list, or `"*"`: all but finals and target.

    `event` is the name by which a client may ask for it. `when` holds guards. `visit=True` lets a
    GET of the target take it. `back` says what becomes of the page that was left: it may be
    reopened and edited (`"preserve"`), it is closed (`"discard"`), it and all before it are closed
    (`"invalidate"`). The rules run when the edge is taken.
    """

    __slots__ = ("back", "event", "source", "target", "visit")

    def __init__(
        self,
        source: str | Iterable[str],
        target: str,
        event: str | None = None,
        when: Function | Iterable[Function] | None = None,
        validators: Iterable[Function] = (),
        hooks: Iterable[Function] = (),
        visit: bool = False,
        back: Back = "preserve",
        pre_transition: Iterable[Function] = (),
    ) -> None:
        self.source = source if isinstance(source, str) else tuple(source)
        self.target = target
        self.event = event
        self.visit = visit
        self.back: Back = back
        self._begin(when, pre_transition, validators, hooks)

    def __repr__(self) -> str:
        return f"Transition({self.source!r}, {self.target!r})"


TransitionLike = Transition | tuple[str | Sequence[str], str]


class Edge:
    """One way from one state to one other: a `Transition` after its sources are spelled out.

    `number` counts the machine's edges in the order of declaration; `code` counts those out of
    the source from 1, and the codec writes it. `final` says whether it ends the run, or is None if
    `Machine.ends` has to be asked.
    """

    __slots__ = (
        "back",
        "code",
        "event",
        "final",
        "guards",
        "hooks",
        "judged",
        "number",
        "pre_transitions",
        "source",
        "target",
        "transition",
        "validators",
        "visit",
    )

    def __init__(self, source: str, transition: Transition, number: int) -> None:
        self.source = source
        self.target = transition.target
        self.event = transition.event
        self.visit = transition.visit
        self.back = transition.back
        self.transition = transition
        self.number = number
        self.code = 0
        self.final: bool | None = None
        self.guards: tuple[Function, ...] = ()
        self.pre_transitions: tuple[Function, ...] = ()
        self.validators: tuple[Function, ...] = ()
        self.hooks: tuple[Function, ...] = ()
        self.judged = False

    def __repr__(self) -> str:
        return f"Edge({self.source!r}, {self.target!r})"


class Machine(Ruled):
    """Which states there are and which edges lead between them.

    `transitions` holds `Transition` objects or `(source, target)` tuples; `states` names or
    `State` objects, and if it is given it must name them all. `initial` is by default the first
    state given, else the first source; `final` by default the states with no way out.
    `repeat=False`: an edge may be taken once per run. `ordered=True`: every transition declared
    before one must have been taken in the run. `reset="auto"`: after the end, the initial page
    starts a new run; `"manual"`: only a reset does. `complete(name)` says whether arriving at a
    state ends the run; by default the final states do.

    Every fault of the definition is reported in one `DefinitionError`.
    """

    __slots__ = (
        "_compiled",
        "_complete",
        "_out",
        "counted",
        "digest",
        "edges",
        "events",
        "finals",
        "initial",
        "name",
        "names",
        "numbers",
        "ordered",
        "repeat",
        "reset",
        "root",
        "states",
        "transitions",
        "ways",
    )

    name: str
    states: Mapping[str, State]
    transitions: tuple[Transition, ...]
    edges: tuple[Edge, ...]
    ways: dict[str, dict[str, Edge]]
    initial: str
    finals: frozenset[str]
    repeat: bool
    ordered: bool
    reset: Literal["auto", "manual"]
    root: Node
    digest: str
    names: tuple[str, ...]
    numbers: dict[str, int]
    events: tuple[str, ...]
    counted: bool
    _compiled: bool
    _complete: Callable[[str], bool] | None
    _out: dict[str, int]

    def __init__(
        self,
        name: str,
        transitions: Iterable[TransitionLike] = (),
        *,
        states: Iterable[str | State] = (),
        initial: str | None = None,
        final: Iterable[str] | None = None,
        repeat: bool = True,
        ordered: bool = False,
        reset: Literal["auto", "manual"] = "auto",
        complete: Callable[[str], bool] | None = None,
    ) -> None:
        self._begin(None, (), (), ())
        faults: list[DefinitionError] = []
        listed = tuple(t if isinstance(t, Transition) else Transition(*t) for t in transitions)
        known = _collect_states(states, listed, initial, faults)
        finals = None if final is None else tuple(final)
        edges = _spell_out(known, listed, finals, faults)
        first = initial if initial is not None else next(iter(known), None)
        if finals is None:
            sources = {edge.source for edge in edges}
            finals = tuple(state for state in known if state not in sources)
        for what, state in [("initial", first), *(("final", state) for state in finals)]:
            if state is not None and state not in known:
                faults.append(UnknownState(f"{what} names the unknown state {state!r}."))
        if first is None:
            faults.append(
                DefinitionError(
                    "there is no initial state: list transitions or states.", code="no_initial"
                )
            )
        elif not any(isinstance(fault, UnknownState) for fault in faults):
            pairs = [(edge.source, edge.target) for edge in edges]
            faults += faults_of_graph(tuple(known), pairs, first, finals)
        if reset not in ("auto", "manual"):
            faults.append(DefinitionError(f'reset is "auto" or "manual", not {reset!r}.'))
        if faults:
            raise DefinitionError.of(f"Machine {name!r}", faults)
        assert first is not None
        self._set(
            name=name,
            states=MappingProxyType(known),
            transitions=listed,
            initial=first,
            finals=frozenset(finals),
            repeat=repeat,
            ordered=ordered,
            reset=reset,
            root=root(first),
            _complete=complete,
            _compiled=False,
            counted=ordered or not repeat,
        )
        self._lay(edges)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r} is immutable: define another machine.")

    def _lay(self, edges: Sequence[Edge]) -> None:
        """Index `edges`, so that a decision is a look-up whatever the size of the machine."""
        ways: dict[str, dict[str, Edge]] = {name: {} for name in self.states}
        out = dict.fromkeys(self.states, 0)
        for number, edge in enumerate(edges):
            edge.number = number
            ways[edge.source][edge.target] = edge
            edge.code = len(ways[edge.source])
            if self.repeat and self._complete is None:
                edge.final = edge.target in self.finals
            if self.counted:
                out[edge.source] |= 1 << number
        names = tuple(self.states)
        shape = [
            names,
            [(edge.source, edge.target, edge.event) for edge in edges],
            self.initial,
            self.repeat,
            self.ordered,
        ]
        digest = hashlib.blake2b(json.dumps(shape).encode(), digest_size=6).digest()
        self._set(
            edges=tuple(edges),
            ways=ways,
            _out=out,
            names=names,
            numbers={name: number for number, name in enumerate(names)},
            events=tuple(dict.fromkeys(edge.event for edge in edges if edge.event is not None)),
            digest=base64.urlsafe_b64encode(digest).decode(),
        )

    def __repr__(self) -> str:
        return f"Machine({self.name!r}, {len(self.states)} states, {len(self.edges)} edges)"

    def seal(self, wrap: Wrap = only_sync) -> Machine:
        """End the registration of rules and fix the order in which each edge runs its own."""
        if not self._compiled:
            self._compile(wrap)
        return self

    def narrowed(self, keep: Callable[[Edge], bool], wrap: Wrap) -> Machine:
        """This machine with only the edges that `keep` accepts, its rules wrapped for an app."""
        narrow = Machine.__new__(Machine)
        for name in (*Ruled.__slots__, *Machine.__slots__):
            object.__setattr__(narrow, name, getattr(self, name))
        narrow._lay([Edge(e.source, e.transition, 0) for e in self.edges if keep(e)])
        narrow._compile(wrap)
        self._end_registration()
        return narrow

    def _compile(self, wrap: Wrap) -> None:
        for edge in self.edges:
            rules = compile_rules(wrap, self, self.states[edge.target], edge.transition)
            edge.guards, edge.pre_transitions, edge.validators, edge.hooks = rules
            edge.judged = bool(edge.pre_transitions or edge.validators)
        self._set(_compiled=True)
        self._end_registration()

    def _end_registration(self) -> None:
        for owner in (self, *self.states.values(), *(edge.transition for edge in self.edges)):
            owner._seal()

    def transition(self, source: str, target: str) -> Transition:
        """Return the declared transition behind the edge `source -> target`, to add rules to it."""
        try:
            return self.ways[source][target].transition
        except KeyError:
            raise UnknownState(
                f"Machine {self.name!r} has no edge {source!r} -> {target!r}.",
                source=source,
                target=target,
            ) from None

    def complete(self, state: str) -> bool:
        """Tell whether arriving at `state` ends the run."""
        if self._complete is None:
            return state in self.finals
        try:
            return bool(self._complete(state))
        except Exception as error:
            raise RuleCrashed(
                f"Machine {self.name!r}: complete({state!r}) raised {error!r}.", target=state
            ) from error

    def exhausted(self, state: str, taken: int) -> bool:
        """Tell whether every way out of `state` is among the `taken` edges of a run."""
        out = self._out[state]
        return not self.repeat and taken & out == out

    def ends(self, state: str, taken: int) -> bool:
        """Tell whether arriving at `state`, after the `taken` edges of a run, ends it."""
        return self.complete(state) or self.exhausted(state, taken)

    def flow(
        self,
        snapshot: Snapshot | None = None,
        *,
        subject: str | None = None,
        context: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> Flow:
        """Begin a flow, or go on from `snapshot`. `clock` returns seconds since 1970."""
        from .flow import Flow

        return Flow(self.seal(), snapshot, subject=subject, context=context, clock=clock)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as JSON-able data; rules stand in it by their qualified names."""
        named: dict[str, Function] = {}
        for edge in self.edges:
            if edge.transition not in self.transitions and any(edge.transition._rules.values()):
                raise DefinitionError(
                    f"to_dict(): {edge!r} has rules but comes from State(targets=...): list it as "
                    f"a Transition.",
                    source=edge.source,
                    target=edge.target,
                )
        data: dict[str, Any] = {
            "name": self.name,
            "states": [
                _dump(state, ("targets", "guarded"), named) for state in self.states.values()
            ],
            "transitions": [
                {
                    "source": transition.source
                    if isinstance(transition.source, str)
                    else list(transition.source),
                    "target": transition.target,
                    **_dump(transition, ("event", "visit", "back"), named),
                }
                for transition in self.transitions
            ],
            "initial": self.initial,
            "final": [state for state in self.states if state in self.finals],
            "repeat": self.repeat,
            "ordered": self.ordered,
            "reset": self.reset,
            **_dump_rules(self, named),
        }
        if self._complete is not None:
            data["complete"] = _name(self._complete, named)
        return data

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, rules: Iterable[Function] | Mapping[str, Function] = ()
    ) -> Machine:
        """Make a machine from what `to_dict` returned, or from the same shape written by hand.

        `rules` holds the functions that the data names: a mapping, or functions by their
        qualified names. A rule that is named but not given is a `DefinitionError`.
        """
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
            machine = cls(name, transitions, states=states, **arguments)
        except DefinitionError as error:
            raise DefinitionError.of(f"Machine {name!r}", [*error.faults, *faults]) from None
        _load_rules(machine, data, given, faults)
        if faults:
            raise DefinitionError.of(f"Machine {name!r}", faults)
        return machine


R = TypeVar("R", bound=Ruled)
RULE_KEYS = ("when", "pre_transition", "validators", "hooks")


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


def _collect_states(
    states: Iterable[str | State],
    transitions: Sequence[Transition],
    initial: str | None,
    faults: list[DefinitionError],
) -> dict[str, State]:
    """Return the states by name: those given, or else those that the transitions name."""
    known: dict[str, State] = {}
    for given in states:
        state = given if isinstance(given, State) else State(given)
        if not isinstance(state.name, str) or not state.name or state.name == ANY:
            faults.append(DefinitionError(f"{state.name!r} is no name of a state."))
        elif state.name in known:
            faults.append(
                DuplicateState(f"state {state.name!r} is given twice.", target=state.name)
            )
        else:
            known[state.name] = state
    if known or faults:
        return known
    ends = [
        ([t.source] if isinstance(t.source, str) else list(t.source), t.target) for t in transitions
    ]
    sources = [name for names, _ in ends for name in names if name != ANY]
    # The initial state comes first; a wildcard names none.
    names = [initial] if initial in sources else sources[:1]
    names += [name for names, target in ends for name in (*names, target) if name != ANY]
    for name in dict.fromkeys(names):
        if isinstance(name, str) and name:
            known[name] = State(name)
        else:
            faults.append(DefinitionError(f"{name!r} is no name of a state."))
    return known


def _spell_out(
    known: Mapping[str, State],
    transitions: Sequence[Transition],
    finals: tuple[str, ...] | None,
    faults: list[DefinitionError],
) -> list[Edge]:
    """Turn lists of sources, wildcards and `State.targets` into edges, each pair once."""
    edges: dict[tuple[str, str], Edge] = {}
    spread: list[tuple[str, Transition]] = []
    events: dict[tuple[str, str], str] = {}
    ends = set(finals or ())

    def lay(source: str, transition: Transition) -> None:
        pair = (source, transition.target)
        edges[pair] = Edge(source, transition, 0)
        if transition.event is not None:
            other = events.setdefault((source, transition.event), transition.target)
            if other != transition.target:
                faults.append(
                    DuplicateEvent(
                        f"event {transition.event!r} of state {source!r} leads to {other!r} and "
                        f"to {transition.target!r}: give one of them another name.",
                        source=source,
                        target=transition.target,
                    )
                )

    def declare(transition: Transition) -> None:
        if transition.back not in BACK_POLICIES:
            faults.append(
                DefinitionError(f"{transition!r}: back is one of {', '.join(BACK_POLICIES)}.")
            )
        sources = (transition.source,) if isinstance(transition.source, str) else transition.source
        for name in (*sources, transition.target):
            if name not in known and not (name == ANY and name in sources):
                faults.append(
                    UnknownState(
                        f"edge {transition.source!r} -> {transition.target!r} names the unknown "
                        f"state {name!r}: correct it, or add the state to `states`.",
                        target=name,
                    )
                )
                return
        for source in sources:
            if source == ANY:
                spread.append((source, transition))
            elif (source, transition.target) in edges:
                faults.append(
                    DefinitionError(
                        f"edge {source!r} -> {transition.target!r} is given twice.",
                        source=source,
                        target=transition.target,
                        code=DuplicateTransition.default_code,
                    )
                )
            else:
                lay(source, transition)

    for transition in transitions:
        declare(transition)
    for state in known.values():
        for target in state.targets or ():
            declare(Transition(state.name, target))
    for _, transition in spread:
        for source in known:
            if source != transition.target and (source, transition.target) not in edges:
                lay(source, transition)
    if finals is None and spread:
        # A final state is one that only wildcards lead out of: these do not count there.
        own = {source for (source, _), e in edges.items() if e.transition.source != ANY}
        ends = {state for state in known if state not in own and _is_closed(known[state])}
    edges = {
        pair: edge
        for pair, edge in edges.items()
        if edge.transition.source != ANY or pair[0] not in ends
    }
    if not transitions:
        for state in known.values():
            if state.targets is None and state.name not in ends:
                for target in known:
                    if (state.name, target) not in edges:
                        lay(state.name, Transition(state.name, target))
    return list(edges.values())


def _is_closed(state: State) -> bool:
    return not state.targets
