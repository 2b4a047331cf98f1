"""Definition: the states and edges of a machine, indexed for quick look-ups."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NoReturn, Self

from ..errors import RuleError, UnknownState
from .event import Handler
from .migration import Migration
from .names import plain
from .path import Node, nodes_back
from .rules import CompiledRules, RuleOwner, end_registration
from .state import Edge, State, Transition
from .ways import Edges, OpenWays, Targets, arcs, bits_of

__all__ = ["DERIVED", "Definition"]

# What follows from the states, so that register_state changes it too.
DERIVED: Final = frozenset(
    (
        "_entry_rules",
        "_faults",
        "_out",
        "digest",
        "dotted",
        "edges",
        "events",
        "finals",
        "initial",
        "listed_edges",
        "made",
        "names",
        "numbers",
        "once_sources",
        "root",
        "targets",
        "ways",
    )
)


class Definition(RuleOwner):
    """The read-only part of a machine, which flows, snapshots and rules use.

    `Machine` adds its construction, the registration of rules, and its serialization.
    """

    __slots__ = (
        "_entry_rules",
        "_events_of",
        "_out",
        "completion",
        "digest",
        "dotted",
        "edges",
        "events",
        "finals",
        "free_args",
        "handlers",
        "initial",
        "listed_edges",
        "made",
        "many",
        "migration",
        "name",
        "names",
        "numbers",
        "once_sources",
        "ordered",
        "repeat",
        "reset",
        "root",
        "scope",
        "states",
        "targets",
        "tracks_edges",
        "transitions",
        "ways",
    )

    name: str
    states: Mapping[str, State]
    transitions: tuple[Transition, ...]
    edges: Sequence[Edge]
    ways: dict[str, Mapping[str, Edge]]
    """The edges by source and target."""
    made: dict[str, dict[str, Edge]]
    """Those of `ways` that exist; an edge of an unrestricted state is made when it is read."""
    targets: dict[str, Targets]
    """Where each unrestricted state leads to."""
    initial: str
    finals: frozenset[str]
    free_args: tuple[str, ...]
    repeat: bool
    ordered: bool
    reset: Literal["auto", "manual"]
    many: bool | str
    scope: Literal["subject", "connection"]
    completion: Callable[[str], bool] | None
    migration: Migration | None
    handlers: dict[str, dict[str, Handler]]
    root: Node
    digest: str
    dotted: bool
    """Whether names of states have dots, as those of pages in a blueprint."""
    names: tuple[str, ...]
    numbers: dict[str, int]
    once_sources: frozenset[str]
    """The states out of which an edge with `once=True` leads."""
    events: tuple[str, ...]
    tracks_edges: bool
    _entry_rules: dict[str, CompiledRules]
    """For edges that are made later: the rules of the machine and of each state."""
    _events_of: dict[str, tuple[str, ...]]
    listed_edges: tuple[Edge, ...]
    _out: dict[str, int]
    """The bits of the edges out of states, as far as anybody has asked for them."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r} is immutable: define another machine.")

    def __copy__(self) -> Self:
        """Return the machine itself, which is immutable once it is in use."""
        if not self._sealed:
            raise TypeError(
                f"{self!r} can't be copied before its first use: make each machine by a function, "
                f"or by Machine.from_dict(machine.to_dict(), rules=...)."
            )
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} can't be pickled, since its rules are functions: import the machine where "
            f"it is needed, or store machine.to_dict()."
        )

    def __repr__(self) -> str:
        return f"Machine({self.name!r}, {len(self.states)} states, {len(self.edges)} edges)"

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _set_edges(self, edges: Sequence[Edge], targets: dict[str, Targets]) -> None:
        """Index the edges, so that a decision is a look-up whatever the size of the machine.

        Args:
            edges: All but those of the unrestricted states.
            targets: Where each unrestricted state leads to; their edges come after the others.
        """
        made: dict[str, dict[str, Edge]] = {name: {} for name in self.states}
        for number, edge in enumerate(edges):
            edge.number = number
            made[edge.source][edge.target] = edge
            edge.code = len(made[edge.source])
            self._set_end(edge)
        first = len(edges)
        ways: dict[str, Mapping[str, Edge]] = {**made}
        unrestricted = []
        for source, each in targets.items():
            out = OpenWays(source, each, first, made[source], self._complete_edge)
            ways[source] = out
            unrestricted.append(out)
            first += len(each)
        names = tuple(self.states)
        shape = [
            names,
            [(edge.source, edge.target, edge.event) for edge in edges],
            self.initial,
            self.repeat,
            self.ordered,
        ]
        if targets:
            shape.append(list(arcs((), targets)))
        digest = hashlib.blake2b(json.dumps(shape).encode(), digest_size=6).digest()
        self._set(
            edges=Edges(edges, unrestricted) if unrestricted else tuple(edges),
            listed_edges=tuple(edges),
            ways=ways,
            made=made,
            targets=targets,
            once_sources=frozenset(edge.source for edge in edges if edge.once),
            _entry_rules={},
            _out={},
            names=names,
            dotted=any("." in name for name in names),
            numbers={name: number for number, name in enumerate(names)},
            events=tuple(dict.fromkeys(edge.event for edge in edges if edge.event is not None)),
            digest=base64.urlsafe_b64encode(digest).decode(),
        )

    def _set_end(self, edge: Edge) -> None:
        if self.repeat and self.completion is None:
            edge.final = edge.target in self.finals

    def _complete_edge(self, edge: Edge) -> None:
        """Complete an edge of an unrestricted state, which has no rules of its own."""
        self._set_end(edge)
        if edge.target in self._entry_rules:
            edge.set_rules(self._entry_rules[edge.target])
        if self._sealed:
            end_registration(edge.transition)

    def existing_edges(self) -> Iterator[Edge]:
        """Return the edges that exist; those made later have no event, lease or own rules."""
        yield from self.listed_edges
        for source in self.targets:
            yield from tuple(self.made[source].values())

    def transition(self, source: str, target: str) -> Transition:
        """Return the declared transition of an edge, to add rules to it.

        Args:
            source: The state that the edge leads out of.
            target: The state that it leads to.

        Returns:
            The transition; one with several sources serves several edges.

        Raises:
            UnknownState: There is no such edge.
        """
        try:
            return self.ways[plain(source)][plain(target)].transition
        except KeyError:
            raise UnknownState(
                f"Machine {self.name!r} has no edge {source!r} -> {target!r}.",
                source=source,
                target=target,
            ) from None

    def complete(self, state: str) -> bool:
        """Return whether arriving at `state` ends the run, whatever edges were taken before.

        Raises:
            RuleError: The function given as `complete` raised an exception.
        """
        if self.completion is None:
            return state in self.finals or plain(state) in self.finals
        try:
            return bool(self.completion(plain(state)))
        except Exception as error:
            raise RuleError(
                f"Machine {self.name!r}: complete({state!r}) raised {error!r}.", target=state
            ) from error

    def exhausted(self, state: str, taken: int) -> bool:
        """Return whether every edge out of `state` is among the `taken` ones of a run (bits)."""
        if self.repeat:
            return False
        out = self._out.get(state)
        if out is None:
            out = self._out[state] = bits_of(self.ways[state])
        return taken & out == out

    def ends(self, state: str, taken: int) -> bool:
        """Return whether arriving at `state`, after the `taken` edges of a run (bits), ends it."""
        return self.complete(state) or self.exhausted(state, taken)

    def missing_before(self, edge: Edge, taken: int) -> int:
        """Return the bits of the edges that come before `edge`, if ordered, and are not `taken`."""
        return ~taken & ((1 << edge.number) - 1) if self.ordered else 0

    def allowed_length(self, states: Sequence[str]) -> int:
        """Return how many of `states`, from the first, can be the path of a run that has not ended.

        It is 0 if a run does not begin with the first of them, which must be known.
        """
        if states[0] != self.initial:
            return 0
        taken = 0
        for length, (source, target) in enumerate(pairwise(states), 1):
            edge = self.ways[source].get(target)
            if edge is None or self.missing_before(edge, taken):
                return length
            taken |= 1 << edge.number
            if self.ends(target, taken):
                return length
        return len(states)

    def edges_on(self, tip: Node, start: Node | None = None) -> int:
        """Return the bits of the edges between the pages of a path, or of those after `start`."""
        taken = 0
        if self.tracks_edges:
            for node in nodes_back(tip):
                if node is start or node.parent is None:
                    break
                edge = self.ways[node.parent.state].get(node.state)
                if edge is not None:
                    taken |= 1 << edge.number
        return taken

    def events_of(self, state: str, finished: bool = False) -> tuple[str, ...]:
        """Return the events that a client may send in `state`: those of handlers and of edges.

        When the run is `finished` no edge can be taken, so only those of handlers remain.
        """
        return tuple(self.handlers[state]) if finished else self._events_of[state]
