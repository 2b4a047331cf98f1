"""Faults of a graph that can be found before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import Code, DefinitionError, Unreachable

__all__ = ["graph_faults"]


def _reached(starts: Iterable[str], ways: Mapping[str, Iterable[str]]) -> set[str]:
    seen = set(starts)
    todo = list(seen)
    while todo:
        for state in ways.get(todo.pop(), ()):
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return seen


def graph_faults(
    states: Sequence[str],
    edges: Iterable[tuple[str, str]],
    initial: str,
    finals: Iterable[str],
) -> list[DefinitionError]:
    """Return a fault for each unreachable state, final state with an edge out, and dead end.

    Edges may name a state that is not among `states`, which is another fault: as it may stand for
    any of them, it counts as reached, and as leading to an end.
    """
    known = set(states)
    unknown: set[str] = set()
    ahead: dict[str, list[str]] = {}
    predecessors: dict[str, list[str]] = {}
    for source, target in edges:
        ahead.setdefault(source, []).append(target)
        predecessors.setdefault(target, []).append(source)
        unknown |= {source, target} - known
    faults: list[DefinitionError] = []
    reachable = _reached([initial, *unknown], ahead) if initial in known else known
    faults += [
        Unreachable(
            f"state {state!r} can't be reached from the initial state {initial!r}: add an edge "
            f"to it, or remove it.",
            target=state,
        )
        for state in states
        if state not in reachable
    ]
    ends = [state for state in finals if state in known]
    faults += [
        DefinitionError(
            f"state {state!r} is final but has an edge to {ahead[state][0]!r}: remove the edge, "
            f"or take the state out of `final`.",
            source=state,
            target=ahead[state][0],
            code=Code.FINAL_WITH_WAY_OUT,
        )
        for state in ends
        if state in ahead
    ]
    if ends:
        finishing = _reached([*ends, *unknown], predecessors)
        faults += [
            DefinitionError(
                f"no final state can be reached from state {state!r}: add an edge, or list it in "
                f"`final`.",
                source=state,
                code=Code.DEAD_END,
            )
            for state in states
            if state not in finishing
        ]
    return faults
