"""Reasons why an edge can't be taken, and the errors with these reasons."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..errors import (
    Code,
    DuplicateTransition,
    FlowFinished,
    FSMError,
    InvalidTransition,
    Reason,
    RuleError,
    SkippedTransition,
    StaleFlow,
    UnknownTarget,
)
from ..texts import _
from .definition import Definition
from .flow_base import FlowBase
from .names import plain
from .path import Node
from .rules import has_name, unwrapped
from .state import Edge

__all__ = [
    "add_context",
    "allowed_states",
    "circular_error",
    "edge_by_name",
    "error_context",
    "error_of",
    "error_of_edge",
    "error_of_edit",
    "error_of_event",
    "error_of_move",
    "reason_no_edge",
    "reason_to_skip",
    "reason_unknown",
    "rule_error",
    "rule_title",
]

_ERRORS: Final[dict[str, type[FSMError]]] = {
    kind.default_code: kind
    for kind in (InvalidTransition, DuplicateTransition, SkippedTransition, FlowFinished)
}


def allowed_states(flow: FlowBase) -> tuple[str, ...]:
    """Return the states to which the flow may go from where it is, also during an edit."""
    return tuple(flow.machine.ways[flow.snapshot.state])


def reason_unknown(machine: Definition, target: object) -> Reason:
    """Return the reason that there is no state `target`."""
    if not isinstance(target, str):  # shown by its type only, since it may hold answers
        text = (
            f"The name of a state of machine {machine.name!r} must be a str, not a "
            f"{type(target).__name__}. Answers are given as data=."
        )
    else:
        near = next(iter(difflib.get_close_matches(target, machine.states, 1)), None)
        hint = "" if near is None else f" Did you mean {near!r}?"
        text = f"Machine {machine.name!r} has no state {target!r}.{hint}"
    return Reason(UnknownTarget.default_code, text)


def reason_no_edge(machine: Definition, here: str, target: str) -> Reason:
    """Return the reason that no edge leads from `here` to `target`."""
    ways = ", ".join(map(repr, machine.ways[here])) or "nowhere"
    return Reason(
        InvalidTransition.default_code,
        f"Machine {machine.name!r} has no edge {here!r} -> {target!r}; {here!r} leads to {ways}.",
    )


def reason_to_skip(machine: Definition, edge: Edge, taken: int) -> Reason | None:
    """Return why a run that took the edges `taken` (bits) may not take this one, or None."""
    if not machine.repeat and taken >> edge.number & 1:
        text = _("%(step)s has already been taken in this run.", step=_step(edge))
        return Reason(DuplicateTransition.default_code, str(text))
    missing = machine.missing_before(edge, taken)
    if missing:
        first = machine.edges[(missing & -missing).bit_length() - 1]
        text = _(
            "%(first)s comes before %(step)s and has not been taken in this run.",
            first=_step(first),
            step=_step(edge),
        )
        return Reason(SkippedTransition.default_code, str(text))
    return None


def _step(edge: Edge) -> str:
    return f"{edge.source!r} -> {edge.target!r}"


def error_of_move(flow: FlowBase, target: str) -> FSMError:
    """Return the error of moving a flow while a rule judges it, or after the end of its run."""
    flow.require_unjudged()
    return FlowFinished(
        _(
            "This run of %(machine)s has ended at %(state)s; start again to go to %(target)s.",
            machine=repr(flow.machine.name),
            state=repr(flow.current),
            target=repr(target),
        ),
        flow=flow.id,
        source=flow.current,
        target=target,
    )


def edge_by_name(flow: FlowBase, here: str, target: str) -> Edge:
    """Return the edge to a `target` that is named by a member of a `(str, Enum)`.

    Raises InvalidTransition if there is no such edge, UnknownTarget if there is no such state.
    """
    exact = plain(target)
    edge = flow.machine.ways[here].get(exact) if isinstance(exact, str) else None
    if edge is None:
        raise error_of_edge(flow, here, exact) from None
    return edge


def error_of_edge(flow: FlowBase, here: str, target: str) -> FSMError:
    """Return the error of an edge that does not exist, or of a `target` that is not a state."""
    if isinstance(target, str) and target in flow.machine.states:
        return error_of(flow, reason_no_edge(flow.machine, here, target), here, target)
    reason = reason_unknown(flow.machine, target)
    return UnknownTarget(reason.text, **error_context(flow, here, target))


def error_of_edit(flow: FlowBase, source: str, target: str | None, node: Node | None) -> StaleFlow:
    """Return the error of editing a page that is closed, or not on the path (`node` is None)."""
    return StaleFlow(
        _(
            "%(page)s is not on the path of this run, which is at %(state)s.",
            page=repr(source),
            state=repr(flow.current),
        )
        if node is None
        else _("%(page)s is closed and can no longer be edited.", page=repr(source)),
        flow=flow.id,
        source=source,
        target=target,
        allowed=allowed_states(flow),
        code=Code.NOT_ON_PATH if node is None else Code.CLOSED,
    )


def error_of_event(flow: FlowBase, event: str) -> InvalidTransition:
    """Return the error of an event that the current state does not have."""
    names = flow.events
    return InvalidTransition(
        f"State {flow.current!r} does not have an event {event!r}; its events are "
        f"{', '.join(map(repr, names)) or 'none'}.",
        flow=flow.id,
        source=flow.current,
        allowed=allowed_states(flow),
        code=Code.NO_EVENT,
    )


def error_context(flow: FlowBase, source: str, target: str) -> dict[str, Any]:
    """Return the attributes by which an error identifies its edge."""
    return {
        "flow": flow.id,
        "source": source,
        "target": target,
        "allowed": allowed_states(flow),
    }


def error_of(
    flow: FlowBase, reason: Reason, source: str, target: str, reasons: Iterable[Reason] = ()
) -> FSMError:
    """Return the error for `reason`."""
    kind = _ERRORS.get(reason.code, InvalidTransition)
    return kind(
        reason.text, code=reason.code, reasons=reasons, **error_context(flow, source, target)
    )


def add_context(flow: FlowBase, error: FSMError, edge: Edge) -> FSMError:
    """Set what is missing of the flow and the edge on an error that a rule raised; return it."""
    for name, value in error_context(flow, edge.source, edge.target).items():
        if not getattr(error, name):
            setattr(error, name, value)
    return error


def rule_error(
    flow: FlowBase, kind: str, rule: Callable[..., Any], edge: Edge, error: Exception
) -> RuleError:
    """Return the error of a rule that raised an exception other than a refusal."""
    return RuleError(
        f"{rule_title(kind, rule)} of {edge.source!r} -> {edge.target!r} in machine "
        f"{flow.machine.name!r} raised {error!r}. To refuse, raise ValidationFailed.",
        **error_context(flow, edge.source, edge.target),
    )


def circular_error(
    flow: FlowBase, kind: str, rule: Callable[..., Any], edge: Edge, other: Edge
) -> RuleError:
    """Return the error of a rule that asks whether `other` can be taken, which waits for it."""
    return RuleError(
        f"{rule_title(kind, rule)} of {_step(edge)} in machine {flow.machine.name!r} asks "
        f"whether {_step(other)} can be taken, and that depends on its own answer: let it look at "
        f"flow.data or flow.context, and not ask about this edge.",
        **error_context(flow, edge.source, edge.target),
        code=Code.CIRCULAR,
    )


def rule_title(kind: str, rule: Callable[..., Any]) -> str:
    """Return what messages call a rule, at the beginning of a sentence."""
    if has_name(rule):
        return f"The {kind} {unwrapped(rule).__name__!r}"
    return f"An unnamed {kind}"
