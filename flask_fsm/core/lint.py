"""Faults of a graph that can be found before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..errors import Code, DefinitionError, Unreachable
from .names import is_name
from .ways import EVERYWHERE

__all__ = ["ANYTHING", "graph_faults", "option_faults"]

ANYTHING: Final = ""
"""In a malformed edge, what is no name: it might have been any. It is no valid name itself."""


def _reached(starts: Iterable[str], ways: Mapping[str, Iterable[str]]) -> set[str]:
    seen = set(starts)
    todo = list(seen)
    while todo:
        for state in ways.get(todo.pop(), ()):
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return seen


def _reached_surely(
    starts: list[str], ways: Mapping[str, Iterable[str]], all_states: set[str]
) -> set[str]:
    """Return what is reached from `starts` and ANYTHING: all states if they lead to ANYTHING."""
    seen = _reached(starts, ways)
    return all_states if ANYTHING in seen else seen | _reached([ANYTHING], ways)


def graph_faults(
    states: Sequence[str],
    edges: Iterable[tuple[str, str]],
    initial: str,
    finals: Iterable[str],
    malformed: Iterable[tuple[str, str]] = (),
    closed: str | None = None,
) -> list[DefinitionError]:
    """Return a fault for each unreachable state, final state with an edge out, and dead end.

    Edges may name a state that is not among `states`, which is another fault: as it may stand for
    any of them, it counts as reached, and as leading to an end. The `malformed` edges are other
    faults too, and cause none here. EVERYWHERE is not a state, but may stand between states.
    `closed` is a state that was given an empty list of targets, or None.
    """
    known = {*states, EVERYWHERE}
    unknown: set[str] = set()
    ahead: dict[str, list[str]] = {}
    predecessors: dict[str, list[str]] = {}
    for source, target in edges:
        ahead.setdefault(source, []).append(target)
        predecessors.setdefault(target, []).append(source)
        unknown |= {source, target} - known
    certain = set(ahead)
    open_ends: set[str] = set()
    for source, target in malformed:
        open_ends |= {source, target} - known - {ANYTHING}
        ahead.setdefault(source, []).append(target)
        predecessors.setdefault(target, []).append(source)
    faults: list[DefinitionError] = []
    reachable = known
    if initial in known:
        reachable = _reached_surely([initial, *unknown], ahead, known)
    # Elsewhere, such as in state-machine-framework, an empty list leads everywhere.
    hint = (
        ""
        if closed is None
        else f" (targets=[], as of {closed!r}, leads nowhere; without targets it leads anywhere.)"
    )
    faults += [
        Unreachable(
            f"state {state!r} can't be reached from the initial state {initial!r}: add an edge "
            f"to it, or remove it.{hint}",
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
        if state in certain
    ]
    if ends:
        finishing = _reached_surely([*ends, *unknown, *open_ends], predecessors, known)
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


def option_faults(reset: object, scope: object, many: object) -> list[DefinitionError]:
    """Return a fault for each of these options of a machine that has no valid value."""
    texts = []
    if reset not in ("auto", "manual"):
        texts.append(f'reset must be "auto" or "manual", not {reset!r}.')
    if not isinstance(many, bool) and not is_name(many):
        texts.append(f"many must be True, False or the name of a URL argument, not {many!r}.")
    if scope not in ("subject", "connection"):
        texts.append(f'scope must be "subject" or "connection", not {scope!r}.')
    elif scope == "connection" and many:
        texts.append('scope="connection" gives each websocket one flow: remove many=.')
    return [DefinitionError(text) for text in texts]
