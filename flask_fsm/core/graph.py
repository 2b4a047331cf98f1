"""The graph: turn the states and transitions of a definition into states by name and edges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import (
    DefinitionError,
    DuplicateEvent,
    DuplicateState,
    DuplicateTransition,
    UnknownState,
)
from .lint import ANYTHING
from .names import is_name, plain
from .state import ANY, BACK_POLICIES, Edge, State, Transition

__all__ = [
    "collect_states",
    "duplicate_events",
    "expand_edges",
    "list_transitions",
    "pairs_with_unknown",
]


Pairs = list[tuple[str, str]]


def list_transitions(
    given: Any, faults: list[DefinitionError]
) -> tuple[tuple[Transition, ...], Pairs]:
    """Return the given transitions, and source and target of each malformed one, a fault."""
    listed: list[Transition] = []
    malformed: Pairs = []
    if isinstance(given, str) or not isinstance(given, Iterable):
        faults.append(DefinitionError(f"transitions must be a list, not {given!r}."))
        return (), [(ANYTHING, ANYTHING)]
    for each in given:
        if isinstance(each, Transition):
            listed.append(each)
        elif isinstance(each, (tuple, list)) and len(each) == 2:
            try:
                listed.append(Transition(*each))
            except DefinitionError as error:
                faults += error.faults
                malformed += _guessed(each)
        else:
            faults.append(
                DefinitionError(
                    f"{each!r} is not a transition: use Transition(...) or a pair (source, target)."
                )
            )
            malformed += _guessed(each)
    return tuple(listed), malformed


def _guessed(malformed: object) -> Pairs:
    """Return sources and target that a malformed transition might have, as far as it names them."""
    parts = list(malformed) if isinstance(malformed, (tuple, list)) else []
    source, target = [*parts, ANYTHING, ANYTHING][:2]
    sources = list(source) if isinstance(source, (tuple, list)) else [source]
    after = _name_or_anything(target)
    return [(_name_or_anything(name), after) for name in sources or [ANYTHING]]


def _name_or_anything(given: Any) -> str:
    return str(plain(given)) if is_name(given) else ANYTHING


def collect_states(
    states: Iterable[str | State],
    transitions: Sequence[Transition],
    initial: str | State | None,
    faults: list[DefinitionError],
) -> dict[str, State]:
    """Return the states by name: the given ones, or if there are none, those in the transitions.

    An `initial` State is one of them, whether `states` has it or not.
    """
    known: dict[str, State] = {}
    before = len(faults)
    start = initial if isinstance(initial, State) else None
    initial = initial.name if isinstance(initial, State) else initial
    for given in states:
        try:
            state = given if isinstance(given, State) else State(given)
        except DefinitionError as error:
            faults += error.faults
            continue
        if state.name == ANY:
            faults.append(DefinitionError(f"{state.name!r} is not a valid state name."))
        elif state.name in known:
            faults.append(
                DuplicateState(f"state {state.name!r} is defined twice.", target=state.name)
            )
        else:
            known[state.name] = state
    joins = start is not None and (known or not transitions)
    if start is not None and joins and known.setdefault(start.name, start) is not start:
        faults.append(
            DuplicateState(
                f"initial is another {start!r} than that of states: give the same object, or "
                f"its name.",
                target=start.name,
            )
        )
    if known or len(faults) > before:
        return known
    ends = [
        ([t.source] if isinstance(t.source, str) else list(t.source), t.target) for t in transitions
    ]
    sources = [name for names, _ in ends for name in names if name != ANY]
    # The initial state comes first; a wildcard is not a state.
    names = [initial] if initial is not None and initial in sources else sources[:1]
    names += [name for names, target in ends for name in (*names, target) if name != ANY]
    for name in dict.fromkeys(names):
        known[name] = start if start is not None and start.name == name else State(name)
    return known


def expand_edges(
    known: Mapping[str, State],
    transitions: Sequence[Transition],
    finals: tuple[str, ...] | None,
    faults: list[DefinitionError],
) -> tuple[list[Edge], list[str]]:
    """Expand lists of sources, wildcards and `State.targets` into edges, one for each pair.

    Return also the unrestricted states, which lead to every state.
    """
    edges: dict[tuple[str, str], Edge] = {}
    declared: set[tuple[str, str]] = set()
    wildcards: list[tuple[str, Transition]] = []
    events: dict[tuple[str, str], str] = {}
    ends = set(finals or ())

    def add_edge(source: str, transition: Transition) -> None:
        edges[source, transition.target] = Edge(source, transition, 0)
        note_event(source, transition)

    def note_event(source: str, transition: Transition) -> None:
        if transition.event is not None:
            other = events.setdefault((source, transition.event), transition.target)
            if other != transition.target:
                faults.append(
                    DuplicateEvent(
                        f"event {transition.event!r} of state {source!r} leads to {other!r} and "
                        f"to {transition.target!r}: rename one of them.",
                        source=source,
                        target=transition.target,
                    )
                )

    def declare(transition: Transition) -> None:
        if transition.back not in BACK_POLICIES:
            faults.append(
                DefinitionError(f"{transition!r}: back must be one of {', '.join(BACK_POLICIES)}.")
            )
        sources = (transition.source,) if isinstance(transition.source, str) else transition.source
        unknown = [name for name in sources if name not in known and name != ANY]
        if transition.target not in known:
            unknown.append(transition.target)
        for name in dict.fromkeys(unknown):
            faults.append(
                UnknownState(
                    f"edge {transition.source!r} -> {transition.target!r} names the unknown "
                    f"state {name!r}: correct it, or add the state to `states`.",
                    target=name,
                )
            )
        for source in sources:
            pair = (source, transition.target)
            if source == ANY:
                if not unknown:
                    wildcards.append((source, transition))
            elif pair in declared:
                faults.append(
                    DefinitionError(
                        f"edge {source!r} -> {transition.target!r} is defined twice.",
                        source=source,
                        target=transition.target,
                        code=DuplicateTransition.default_code,
                    )
                )
            elif unknown:
                note_event(source, transition)  # the faults of its other parts are told too
            else:
                add_edge(source, transition)
            declared.add(pair)

    for transition in transitions:
        declare(transition)
    for state in known.values():
        for target in state.targets or ():
            declare(Transition(state.name, target))
    for _, transition in wildcards:
        for source in known:
            if source != transition.target and (source, transition.target) not in edges:
                add_edge(source, transition)
    if finals is None and wildcards:
        # A state that only wildcards lead out of is final, and gets no edges from them.
        own = {source for (source, _), e in edges.items() if e.transition.source != ANY}
        ends = {state for state in known if state not in own and _is_closed(known[state])}
    edges = {
        pair: edge
        for pair, edge in edges.items()
        if edge.transition.source != ANY or edge.source not in ends
    }
    unrestricted = [
        name
        for name, state in known.items()
        if not transitions and state.targets is None and name not in ends
    ]
    return list(edges.values()), unrestricted


def pairs_with_unknown(
    known: Mapping[str, State], transitions: Sequence[Transition]
) -> list[tuple[str, str]]:
    """Return source and target of each edge that names a state that is not known."""
    pairs = [
        (source, transition.target)
        for transition in transitions
        for source in (
            (transition.source,) if isinstance(transition.source, str) else transition.source
        )
        if source != ANY
    ]
    pairs += [(state.name, target) for state in known.values() for target in state.targets or ()]
    return [(one, other) for one, other in pairs if one not in known or other not in known]


def duplicate_events(edges: Iterable[Edge], states: Mapping[str, State]) -> list[DefinitionError]:
    """Return a fault for each edge whose event has a handler in its source."""
    return [
        DuplicateEvent(
            f"event {edge.event!r} of state {edge.source!r} has a handler, and an edge to "
            f"{edge.target!r}: rename one of them.",
            source=edge.source,
            target=edge.target,
        )
        for edge in edges
        if edge.event in states[edge.source].events
    ]


def _is_closed(state: State) -> bool:
    return not state.targets
