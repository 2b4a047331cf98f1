"""The `repr` of a machine in an app: its states and transitions, and in a request its flow."""

from __future__ import annotations

from itertools import islice
from typing import Final, Protocol

from flask import has_request_context

from ..binding.declaration import Declaration
from ..core.definition import Definition
from ..core.flow import Flow
from ..errors import FSMError

__all__ = ["describe"]

SHOWN: Final = 1000
"""How many transitions are listed, since unrestricted states may have millions."""


class Views(Protocol):
    """The views of a machine."""

    declaration: Declaration

    @property
    def machine(self) -> Definition:
        """The machine as the current app uses it, or as it was defined outside of an app."""
        ...

    @property
    def flow(self) -> Flow:
        """The flow of this request's visitor."""
        ...


def describe(views: Views, kind: str) -> str:
    """Return the `repr` of a machine's views, as those of a `kind`; it raises no exception."""
    parts = [kind, repr(views.declaration.name)]
    machine: Definition | None
    try:
        machine = views.machine
    except FSMError:  # outside of an app, or the app's views and the machine do not fit
        machine = views.declaration.machine
    if machine is None:
        parts.append("built from decorators")
    else:
        parts.append(f"states={list(machine.states)}")
        shown = [str((edge.source, edge.target)) for edge in islice(machine.edges, SHOWN)]
        if len(machine.edges) > SHOWN:
            shown.append(f"and {len(machine.edges) - SHOWN} more")
        parts.append(f"transitions=[{', '.join(shown)}]")
    if has_request_context():
        try:
            flow = views.flow
        except Exception as error:  # a store or a function of the app may fail in any way
            parts.append(f"flow unknown: {type(error).__name__}")
        else:
            history = [(entry.source, entry.target) for entry in flow.history]
            parts += [f"at {flow.current!r}", f"history={history}"]
    return f"<{' '.join(parts)}>"
