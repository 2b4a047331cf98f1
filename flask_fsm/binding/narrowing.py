"""Faults of a machine as the views of an app use it: what `accept` and `to` have cut off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from flask import Flask

from ..core.lint import graph_faults
from ..core.machine import Machine
from ..core.ways import Limits, arcs, narrowed
from ..errors import DefinitionError, Unreachable
from .bound_machine import Bound
from .view_faults import answers

__all__ = ["Listed", "narrowing_faults", "unintended_ends"]

SHOWN = 5
"""How many of the edges that are left out a message lists."""
Pair = tuple[str, str]
FORM_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class Listed(NamedTuple):
    """What `accept` or `to` (the `label`) of the check on a view lists for a state."""

    endpoint: str
    label: str
    state: str
    names: frozenset[str]

    def lacks(self, source: str, target: str) -> str | None:
        """Return the state that must be added so that this leaves the edge in the machine."""
        at, other = source, target
        if self.label == "accept":
            at, other = other, at
        return other if at == self.state and other not in self.names else None


def narrowing_faults(
    machine: Machine, limits: Limits, listed: Sequence[Listed]
) -> Iterator[DefinitionError]:
    """Find the states that can't be reached by the edges left, or from which no end can."""
    cut = _CutEdges(machine, limits)
    if not cut.first:
        return
    for fault in graph_faults(tuple(machine.states), cut.rest, machine.initial, machine.finals):
        if isinstance(fault, Unreachable):
            text = f"state {fault.target!r} can't be reached any more from {machine.initial!r}"
            direct = cut.into(fault.target or "")
        else:
            text = f"no final state can be reached any more from {fault.source!r}"
            direct = cut.out_of(fault.source or "")
        missed = direct or cut.first
        named = ", ".join(f"{source!r} -> {target!r}" for source, target in missed)
        yield type(fault)(
            f"machine {machine.name!r}: {text}, since its views leave out {named}: "
            f"{' and '.join(_remedies(missed, listed))}.",
            source=fault.source,
            target=fault.target,
            code=fault.code,
        )


class _CutEdges:
    """The edges that `limits` leave out of a machine, as pairs; of each kind the first few."""

    def __init__(self, machine: Machine, limits: Limits) -> None:
        self._before = machine.targets
        self._left = narrowed(machine.targets, limits)
        self._listed_into: dict[str, list[Pair]] = defaultdict(list)
        self._listed_out_of: dict[str, list[Pair]] = defaultdict(list)
        kept, cut = [], []
        for edge in machine.listed_edges:
            if limits.keep(edge.source, edge.target):
                kept.append(edge)
                continue
            pair = (edge.source, edge.target)
            cut.append(pair)
            self._listed_into[edge.target].append(pair)
            self._listed_out_of[edge.source].append(pair)
        self.rest: list[Pair] = list(arcs(kept, self._left))
        """The others, as `arcs`."""
        later = (pair for source in self._before for pair in self._unrestricted(source))
        self.first: tuple[Pair, ...] = tuple(islice(chain(cut, later), SHOWN))

    def _unrestricted(self, source: str) -> Iterator[Pair]:
        before, left = self._before.get(source, ()), self._left.get(source, ())
        if len(left) < len(before):
            yield from ((source, target) for target in before if target not in left)

    def into(self, target: str) -> tuple[Pair, ...]:
        """Return those that lead to a state."""
        later = (
            (source, target)
            for source, before in self._before.items()
            if target in before and target not in self._left[source]
        )
        return tuple(islice(chain(self._listed_into[target], later), SHOWN))

    def out_of(self, source: str) -> tuple[Pair, ...]:
        """Return those that lead out of a state."""
        later = self._unrestricted(source)
        return tuple(islice(chain(self._listed_out_of[source], later), SHOWN))


def _remedies(missed: Iterable[Pair], listed: Iterable[Listed]) -> Iterator[str]:
    """Say what to write in the checks of views so that they leave these edges in the machine."""
    pairs = list(missed)
    for each in listed:
        lacking = {name for pair in pairs if (name := each.lacks(*pair)) is not None}
        if lacking:
            names = sorted(each.names | lacking)
            yield f"in check() of the view {each.endpoint!r}, write {each.label}={names!r}"


def unintended_ends(app: Flask, bound: Bound) -> Iterator[str]:
    """Describe the ends that nobody has named as such, and whose view takes a form.

    A run ends where no edge leads on, so that an edge may have been forgotten.
    """
    machine = bound.machine
    if machine.names_its_ends:
        return
    for endpoint, state in bound.states.items():
        taken = [method for method in FORM_METHODS if answers(app, endpoint, method)]
        if taken and state in machine.finals and state != machine.initial:
            yield (
                f"view {endpoint!r}, machine {machine.name!r}: it takes {' and '.join(taken)}, but "
                f"no edge leads out of {state!r}, so a run ends there and each such request gets "
                f"410. Add the edge that is missing; if {state!r} is an end, list it in `final`, "
                f"or let the view take GET only."
            )
