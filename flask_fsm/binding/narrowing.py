"""Faults of a machine as the views of an app use it: what `accept` and `to` have cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flask import Flask

from ..core.lint import graph_faults
from ..core.machine import Edge, Machine
from ..errors import DefinitionError, Unreachable
from .bound_machine import Bound
from .view_faults import answers

__all__ = ["narrowing_faults", "unintended_ends"]

SHOWN = 5
"""How many of the edges that are left out a message lists."""


def narrowing_faults(machine: Machine, keep: Callable[[Edge], bool]) -> Iterator[DefinitionError]:
    """Find the states that can't be reached by the edges to keep, or from which no end can."""
    kept = {(edge.source, edge.target) for edge in machine.edges if keep(edge)}
    cut = [
        f"{edge.source!r} -> {edge.target!r}"
        for edge in machine.edges
        if (edge.source, edge.target) not in kept
    ]
    if not cut:
        return
    named = ", ".join(cut[:SHOWN]) + (", ..." if len(cut) > SHOWN else "")
    remedy = f"`accept` and `to` of its views leave out {named}: allow what is needed."
    for fault in graph_faults(tuple(machine.states), kept, machine.initial, machine.finals):
        if isinstance(fault, Unreachable):
            text = f"state {fault.target!r} can't be reached any more from {machine.initial!r}"
        else:
            text = f"no final state can be reached any more from {fault.source!r}"
        yield type(fault)(
            f"machine {machine.name!r}: {text}, since {remedy}",
            source=fault.source,
            target=fault.target,
            code=fault.code,
        )


def unintended_ends(app: Flask, bound: Bound) -> Iterator[str]:
    """Describe the ends that nobody has named as such, and whose view takes a form.

    A run ends where no edge leads on, so that an edge may have been forgotten.
    """
    machine = bound.machine
    if machine.names_its_ends:
        return
    for endpoint, state in bound.states.items():
        is_end = state in machine.finals and state != machine.initial
        if is_end and answers(app, endpoint, "POST"):
            yield (
                f"view {endpoint!r}, machine {machine.name!r}: it takes POSTs, but no edge leads "
                f"out of {state!r}, so a run ends there and each POST gets 410. Add the edge that "
                f"is missing; if {state!r} is an end, list it in `final`, or let the view take no "
                f"POST."
            )
