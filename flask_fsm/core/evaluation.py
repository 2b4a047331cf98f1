"""Evaluation: run the rules of an edge, and turn refusals into errors and reasons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from ..errors import Code, FlowFinished, FSMError, GuardRefused, Reason, StaleFlow, ValidationFailed
from ..texts import as_text, join_texts
from .answers import as_dict
from .flow_base import FlowBase, Result
from .path import Node
from .reasons import (
    add_context,
    error_context,
    error_of_edit,
    error_of_move,
    reason_no_edge,
    reason_to_skip,
    reason_unknown,
    rule_error,
    rule_title,
)
from .state import Edge

__all__ = [
    "guards_allow",
    "judge",
    "node_to_edit",
    "reasons_against",
    "refuse",
    "require_sync_result",
    "run_hooks",
]

logger: Final = logging.getLogger("flask_fsm")


def node_to_edit(flow: FlowBase, source: str, target: str | None) -> Node:
    """Return the node of a page to edit, or raise StaleFlow if it is closed or not on the path."""
    node = flow.node_of(source)
    if node is not None and flow.can_reopen(node):
        return node
    raise error_of_edit(flow, source, target, node)


def judge(
    flow: FlowBase, edge: Edge, node: Node, data: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Run pre_transition rules, guards and validators; return the data, with what rules added."""
    given = {} if data is None else as_dict(data)
    flow.begin_judging(node, None if data is None else given)
    try:
        for rule in edge.pre_transitions:
            try:
                require_sync_result(rule(flow, given))
            except FSMError as error:
                raise add_context(flow, error, edge) from None
            except Exception as error:
                raise rule_error(flow, "pre_transition", rule, edge, error) from error
            if given:
                flow.begin_judging(node, given)
        reasons = _reasons_of_guards(flow, edge)
        if reasons:
            raise _refused(flow, edge, reasons)
        if edge.validators:
            _validate(flow, edge, given)
    finally:
        flow.end_judging()
    return None if data is None and not given else given


def refuse(flow: FlowBase, edge: Edge, error: Exception) -> NoReturn:
    """Raise GuardRefused with every reason: all guards run again, as they are pure."""
    reasons = _reasons_of_guards(flow, edge)
    if not reasons:  # an impure guard, which accepted the second time
        step = f"{edge.source!r} -> {edge.target!r}"
        text = f"A guard refused {step}, then accepted it: guards must be pure."
        reasons = [Reason(GuardRefused.default_code, text)]
    cause = None if isinstance(error, GuardRefused) else error
    raise _refused(flow, edge, reasons) from cause


def _refused(flow: FlowBase, edge: Edge, reasons: list[Reason]) -> GuardRefused:
    text, code = reasons[0].text, reasons[0].code
    return GuardRefused(
        text, code=code, reasons=reasons, **error_context(flow, edge.source, edge.target)
    )


def _validate(flow: FlowBase, edge: Edge, data: dict[str, Any]) -> None:
    """Run all validators, and raise one ValidationFailed with all their messages."""
    messages: list[str] = []
    fields: dict[str, list[str]] = {}
    for rule in edge.validators:
        try:
            require_sync_result(rule(flow, data))
        except ValidationFailed as error:
            messages += error.messages
            for name, texts in error.fields.items():
                fields.setdefault(name, []).extend(texts)
        except ValueError as error:
            # Its only argument, since str(error) would make plain text of Markup.
            text = as_text(error.args[0]) if len(error.args) == 1 else str(error)
            messages.append(text or f"{rule_title(rule)} refused.")
        except FSMError as error:
            raise add_context(flow, error, edge) from None
        except Exception as error:
            raise rule_error(flow, "validator", rule, edge, error) from error
    if messages or fields:
        of_fields = (join_texts(": ", (name, text)) for name, t in fields.items() for text in t)
        texts = [*messages, *of_fields]
        raise ValidationFailed(
            join_texts(" ", texts),
            messages=messages,
            fields=fields,
            **error_context(flow, edge.source, edge.target),
            reasons=[Reason(ValidationFailed.default_code, text) for text in texts],
        )


def _reasons_of_guards(flow: FlowBase, edge: Edge) -> list[Reason]:
    """Run all guards and return the reasons of those that refuse. An exception is a refusal."""
    reasons: list[Reason] = []
    for guard in edge.guards:
        code = GuardRefused.default_code
        try:
            if require_sync_result(guard(flow)):
                continue
        except GuardRefused as error:
            if error.message:
                reasons += error.reasons
                continue
        except Exception:
            code = Code.GUARD_RAISED
            logger.exception(
                "The guard %s raised an exception, so %s -> %s of machine %r is refused.",
                rule_title(guard), edge.source, edge.target, flow.machine.name,
            )  # fmt: skip
        about = as_text(guard.__doc__ or "").strip()
        reasons.append(Reason(code, about.splitlines()[0] if about else _refusal(guard, edge)))
    return reasons


def reasons_against(
    flow: FlowBase, to: str, data: Mapping[str, Any] | None, source: str | None
) -> list[Reason]:
    """Return every reason why `to` can't be taken now."""
    machine = flow.machine
    if flow.is_judged:
        raise error_of_move(flow, to)
    if flow.finished:
        return [Reason(FlowFinished.default_code, f"This run has ended at {flow.current!r}.")]
    try:
        node = node_to_edit(flow, source or flow.current, to)
    except StaleFlow as error:
        return [Reason(error.code, error.message)]
    if to not in machine.states:
        return [reason_unknown(machine, to)]
    edge = machine.ways[node.state].get(to)
    if edge is None:
        return [reason_no_edge(machine, node.state, to)]
    reasons = []
    skip = reason_to_skip(machine, edge, flow.taken_before(node)) if machine.tracks_edges else None
    if skip is not None:
        reasons.append(skip)
    given = {} if data is None else dict(data)
    flow.begin_judging(node, None if data is None else given)
    try:
        reasons += _reasons_of_guards(flow, edge)
        if data is not None:
            _validate(flow, edge, given)
    except FSMError as error:
        reasons += error.reasons
    finally:
        flow.end_judging()
    return reasons


def guards_allow(flow: FlowBase, edge: Edge) -> bool:
    """Return whether all guards accept; exceptions count as refusals and are not logged."""
    try:
        return all(require_sync_result(guard(flow)) for guard in edge.guards)
    except Exception:
        return False


def run_hooks(flow: FlowBase, result: Result) -> None:
    """Run the hooks of a transition. Exceptions are logged and do not affect it."""
    for rule in result.edge.hooks:
        try:
            answer = rule(flow, result)
            if answer is not None:
                require_sync_result(answer)
        except Exception:
            logger.exception(
                "The hook %s failed after %s -> %s of machine %r; the commit remains.",
                rule_title(rule), result.source, result.target, flow.machine.name,
            )  # fmt: skip


def require_sync_result(answer: object) -> object:
    """Return the result of a rule; an un-awaited coroutine is truthy, so it raises TypeError."""
    if hasattr(answer, "__await__"):
        if hasattr(answer, "close"):
            answer.close()
        raise TypeError("it returned an awaitable: define it with `async def`")
    return answer


def _refusal(guard: Callable[..., Any], edge: Edge) -> str:
    """Return a message for a guard without a docstring; a lambda has no name to show."""
    if getattr(guard, "__name__", "<lambda>") == "<lambda>":
        return "This step is not possible with the answers so far."
    return f"{rule_title(guard)} does not allow {edge.source!r} -> {edge.target!r}."
