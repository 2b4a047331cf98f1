"""Faults of a machine as the views of an app use it: what `accept` and `to` have cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from flask import Flask

from ..core.lint import graph_faults
from ..core.machine import Edge, Machine
from ..errors import DefinitionError, Unreachable
from .bound_machine import Bound
from .view_faults import answers

__all__ = ["Listed", "narrowing_faults", "unintended_ends"]

SHOWN = 5
"""How many of the edges that are left out a message lists."""
FORM_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class Listed(NamedTuple):
    """What `accept` or `to` (the `label`) of the check on a view lists for a state."""

    endpoint: str
    label: str
    state: str
    names: frozenset[str]

    def lacks(self, edge: Edge) -> str | None:
        """Return the state that must be added so that this leaves `edge` in the machine."""
        at, other = edge.source, edge.target
        if self.label == "accept":
            at, other = other, at
        return other if at == self.state and other not in self.names else None


def narrowing_faults(
    machine: Machine, keep: Callable[[Edge], bool], listed: Sequence[Listed]
) -> Iterator[DefinitionError]:
    """Find the states that can't be reached by the edges to keep, or from which no end can."""
    cut = [edge for edge in machine.edges if not keep(edge)]
    if not cut:
        return
    kept = [(edge.source, edge.target) for edge in machine.edges if keep(edge)]
    for fault in graph_faults(tuple(machine.states), kept, machine.initial, machine.finals):
        if isinstance(fault, Unreachable):
            text = f"state {fault.target!r} can't be reached any more from {machine.initial!r}"
            direct = [edge for edge in cut if edge.target == fault.target]
        else:
            text = f"no final state can be reached any more from {fault.source!r}"
            direct = [edge for edge in cut if edge.source == fault.source]
        missed = (direct or cut)[:SHOWN]
        named = ", ".join(f"{edge.source!r} -> {edge.target!r}" for edge in missed)
        yield type(fault)(
            f"machine {machine.name!r}: {text}, since its views leave out {named}: "
            f"{' and '.join(_remedies(missed, listed))}.",
            source=fault.source,
            target=fault.target,
            code=fault.code,
        )


def _remedies(missed: Iterable[Edge], listed: Iterable[Listed]) -> Iterator[str]:
    """Say what to write in the checks of views so that they leave these edges in the machine."""
    edges = list(missed)
    for each in listed:
        lacking = {name for edge in edges if (name := each.lacks(edge)) is not None}
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
