"""Ways: the edges out of states that lead to every state, each made when it is asked for.

Two thousand such states have four million edges, so that a machine which made them all would take
minutes and gigabytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import accumulate, chain
from typing import NamedTuple, overload

from .state import Edge, Transition

__all__ = [
    "EVERYWHERE",
    "Edges",
    "Limits",
    "OpenWays",
    "Targets",
    "arcs",
    "bits_of",
    "every_state",
    "in_order",
    "narrowed",
]

EVERYWHERE = "\0"
"""In `arcs`, what stands between sources and the targets that they share. Not a valid name."""


class Limits(NamedTuple):
    """The edges to leave in a machine.

    Attributes:
        to: The only targets of a source; other sources keep all of theirs.
        accept: The only sources of a target; other targets keep all of theirs.
    """

    to: Mapping[str, Set[str]] = {}
    accept: Mapping[str, Set[str]] = {}

    def keep(self, source: str, target: str) -> bool:
        """Return whether the edge from `source` to `target` is left in the machine."""
        return target in self.to.get(source, (target,)) and (
            source in self.accept.get(target, (source,))
        )


class Targets(Sequence[str]):
    """The states that an unrestricted state leads to, in the order of the machine's states.

    Args:
        names: All states of the machine.
        numbers: The place of each in `names`.
        shared: The places of those that other states lead to as well, which share this object.
        own: The places of the others.
    """

    __slots__ = ("_names", "_numbers", "own", "shared")

    def __init__(
        self,
        names: Sequence[str],
        numbers: Mapping[str, int],
        shared: Sequence[int],
        own: Sequence[int] = (),
    ) -> None:
        self._names = names
        self._numbers = numbers
        self.shared: Sequence[int] = shared
        self.own: Sequence[int] = own

    def __len__(self) -> int:
        return len(self.shared) + len(self.own)

    def __iter__(self) -> Iterator[str]:
        places: Iterable[int] = sorted((*self.shared, *self.own)) if self.own else self.shared
        return map(self._names.__getitem__, places)

    def place(self, name: str) -> int | None:
        """Return the index of a state, or None if it is not among these."""
        number = self._numbers.get(name)
        if number is None:
            return None
        before, others = bisect_left(self.shared, number), bisect_left(self.own, number)
        is_here = self.shared[before : before + 1], self.own[others : others + 1]
        return before + others if number in chain(*is_here) else None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.place(name) is not None

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(self)[index]
        index = range(len(self))[index]
        own = range(len(self.own))
        before = bisect_right(own, index, key=self._place_of_own)
        if before and self._place_of_own(before - 1) == index:
            return self._names[self.own[before - 1]]
        return self._names[self.shared[index - before]]

    def _place_of_own(self, own: int) -> int:
        return bisect_left(self.shared, self.own[own]) + own

    def own_names(self) -> Iterator[str]:
        """Return the states that are not shared."""
        return map(self._names.__getitem__, self.own)

    def shared_names(self) -> Iterator[str]:
        """Return the shared states."""
        return map(self._names.__getitem__, self.shared)

    def replaced(self, shared: Sequence[int], own: Iterable[str]) -> Targets:
        """Return other targets in the same machine."""
        places = sorted(self._numbers[name] for name in own)
        return Targets(self._names, self._numbers, shared, places)

    def unshared(self, names: Iterable[str]) -> list[int]:
        """Return the places of the shared states but for those of `names`."""
        left_out = {self._numbers.get(name) for name in names}
        return [number for number in self.shared if number not in left_out]


def every_state(names: Sequence[str], unrestricted: Iterable[str]) -> dict[str, Targets]:
    """Return the targets of unrestricted states: all states of the machine, `names`."""
    numbers = {name: number for number, name in enumerate(names)}
    shared = range(len(names))
    return {source: Targets(names, numbers, shared) for source in unrestricted}


def narrowed(targets: Mapping[str, Targets], limits: Limits) -> dict[str, Targets]:
    """Return the targets by source, without the edges that `limits` leave out."""
    named: dict[str, list[str]] = {}
    """By source, the targets that accept it by name."""
    for target, sources in limits.accept.items():
        for source in sources:
            named.setdefault(source, []).append(target)
    shared: dict[int, Sequence[int]] = {}
    result = {}
    for source, each in targets.items():
        if source in limits.to:
            rest: Sequence[int] = ()
            own: Iterable[str] = limits.to[source]
        else:
            key = id(each.shared)
            if key not in shared:
                shared[key] = each.unshared(limits.accept) if limits.accept else each.shared
            rest = shared[key]
            own = {*each.own_names(), *named.get(source, ())}
        kept = [name for name in own if name in each and limits.keep(source, name)]
        result[source] = each.replaced(rest, kept)
    return result


class OpenWays(Mapping[str, Edge]):
    """The edges out of an unrestricted state, by target.

    Args:
        source: The state.
        targets: Where it leads to.
        first: The number of the first edge in the machine.
        made: Receives the edges that are made.
        complete: Adds to a new edge what depends on the machine.
    """

    __slots__ = ("_complete", "_made", "first", "source", "targets")

    def __init__(
        self,
        source: str,
        targets: Targets,
        first: int,
        made: dict[str, Edge],
        complete: Callable[[Edge], None],
    ) -> None:
        self.source: str = source
        self.targets: Targets = targets
        self.first: int = first
        self._made = made
        self._complete = complete

    def __getitem__(self, target: str) -> Edge:
        edge = self._made.get(target)
        if edge is None:
            place = self.targets.place(target)
            if place is None:
                raise KeyError(target)
            edge = self._make(Transition(self.source, target), place)
        return edge

    def adopt(self, transition: Transition) -> None:
        """Make the edge of a transition that may have rules, if it is one of these."""
        place = self.targets.place(transition.target)
        if place is not None:
            self._make(transition, place)

    def _make(self, transition: Transition, place: int) -> Edge:
        edge = Edge(self.source, transition, self.first + place)
        edge.code = place + 1
        self._complete(edge)
        # Another thread may have made it meanwhile.
        return self._made.setdefault(edge.target, edge)

    def __contains__(self, target: object) -> bool:
        return target in self.targets

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"OpenWays({self.source!r}, {len(self)} targets)"


class Edges(Sequence[Edge]):
    """The edges of a machine or of some of its states, in the order of their numbers.

    Args:
        listed: Those that exist.
        ways: Those out of unrestricted states, which follow.
    """

    __slots__ = ("_ends", "_listed", "_ways")

    def __init__(self, listed: Sequence[Edge], ways: Sequence[OpenWays]) -> None:
        self._listed = listed
        self._ways = ways
        self._ends = list(accumulate(map(len, ways), initial=len(listed)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[Edge]:
        return chain(self._listed, *(ways.values() for ways in self._ways))

    @overload
    def __getitem__(self, index: int) -> Edge: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Edge]: ...
    def __getitem__(self, index: int | slice) -> Edge | Sequence[Edge]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        at = bisect_right(self._ends, index)
        if at == 0:
            return self._listed[index]
        ways = self._ways[at - 1]
        return ways[ways.targets[index - self._ends[at - 1]]]


def in_order(ways: Mapping[str, Edge]) -> Sequence[Edge]:
    """Return the edges out of a state as a sequence."""
    return Edges((), (ways,)) if isinstance(ways, OpenWays) else tuple(ways.values())


def bits_of(ways: Mapping[str, Edge]) -> int:
    """Return the bits of the edges out of a state."""
    if isinstance(ways, OpenWays):
        return ((1 << len(ways)) - 1) << ways.first
    return sum(1 << edge.number for edge in ways.values())


def arcs(edges: Iterable[Edge], targets: Mapping[str, Targets]) -> Iterator[tuple[str, str]]:
    """Yield what leads where, as pairs of names; shared targets are reached through EVERYWHERE.

    The sources that share any targets share the same ones; they follow the first of these sources.
    """
    for edge in edges:
        yield edge.source, edge.target
    is_first = True
    for source, each in targets.items():
        for target in each.own_names():
            yield source, target
        if each.shared:
            yield source, EVERYWHERE
            if is_first:
                for target in each.shared_names():
                    yield EVERYWHERE, target
            is_first = False
