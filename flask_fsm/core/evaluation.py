"""Evaluation: run the rules of an edge, and turn refusals into errors and reasons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import dropwhile
from typing import Any, Final, NoReturn

from ..errors import (
    Code,
    FlowFinished,
    FSMError,
    GuardRefused,
    Reason,
    RuleError,
    StaleFlow,
    ValidationFailed,
)
from ..texts import _, join_texts
from .answers import as_dict, copy_answers
from .flow_base import CircularQuestion, FlowBase, Result, Sent
from .names import plain
from .path import Node
from .reasons import (
    add_context,
    circular_error,
    error_context,
    error_of_edit,
    reason_no_edge,
    reason_to_skip,
    reason_unknown,
    rule_error,
    rule_title,
)
from .rules import GUARD, HOOK, PRE_TRANSITION, VALIDATOR, doc_of
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

Guard = Callable[..., Any]
logger: Final = logging.getLogger("flask_fsm")


def node_to_edit(flow: FlowBase, source: str, target: str | None) -> Node:
    """Return the node of a page to edit, or raise StaleFlow if it is closed or not on the path."""
    node = flow.node_of(source)
    if node is not None and flow.can_reopen(node):
        return node
    raise error_of_edit(flow, source, target, node)


def judge(
    flow: FlowBase, edge: Edge, node: Node, data: Mapping[str, Any] | None, accepted: bool
) -> dict[str, Any] | None:
    """Run pre_transition rules, guards and validators; return the data, with what rules added.

    Guards that have `accepted` already are asked again only if a pre_transition may have changed
    what they see.
    """
    given = {} if data is None else as_dict(data)
    shown = None if data is None else given
    if edge.pre_transitions:
        given = copy_answers(given)  # what they change does not reach the caller
        shown = None if data is None else given
        for rule in edge.pre_transitions:
            _run_rule(flow, edge, node, PRE_TRANSITION, rule, given, shown)
            shown = given or shown
    if edge.pre_transitions or not accepted:
        with flow.judged(node, shown, GUARD, edge):
            reasons = _reasons_of_guards(flow, edge, edge.guards)
        if reasons:
            raise _refused(flow, edge, reasons)
    if edge.validators:
        _validate(flow, edge, node, given, shown is not None)
    return None if data is None and not given else given


def _run_rule(
    flow: FlowBase,
    edge: Edge,
    node: Node,
    kind: str,
    rule: Callable[..., Any],
    data: dict[str, Any],
    shown: dict[str, Any] | None,
) -> None:
    """Run a pre_transition rule or a validator; a ValueError counts as ValidationFailed."""
    try:
        with flow.judged(node, shown, kind, edge):
            require_sync_result(rule(flow, data))
    except ValueError as error:
        # Its only argument, since str(error) would make plain text of Markup.
        told = error.args[0] if len(error.args) == 1 else str(error)
        raise ValidationFailed(told, **error_context(flow, edge.source, edge.target)) from error
    except GuardRefused as error:
        if error.message:
            raise add_context(flow, error, edge) from None
        raise _refused(flow, edge, [_reason_of(kind, rule, edge, error.code)]) from None
    except FSMError as error:
        raise add_context(flow, error, edge) from None
    except CircularQuestion as error:
        raise circular_error(flow, kind, rule, edge, error.edge) from None
    except Exception as error:
        raise rule_error(flow, kind, rule, edge, error) from error


def _validate(flow: FlowBase, edge: Edge, node: Node, data: dict[str, Any], is_shown: bool) -> None:
    """Run all validators, and raise one ValidationFailed with all their messages.

    Each gets a copy of the data, so that it changes neither what is stored nor what others see.
    """
    messages: list[str] = []
    fields: dict[str, list[str]] = {}
    has_failed = False
    for rule in edge.validators:
        own = copy_answers(data)
        try:
            _run_rule(flow, edge, node, VALIDATOR, rule, own, own if is_shown else None)
        except ValidationFailed as error:
            has_failed = True
            messages += error.messages
            for name, texts in error.fields.items():
                fields.setdefault(name, []).extend(texts)
    if has_failed:
        of_fields = (join_texts(": ", (name, text)) for name, t in fields.items() for text in t)
        texts = [*messages, *of_fields]
        raise ValidationFailed(
            join_texts(" ", texts),
            messages=messages,
            fields=fields,
            **error_context(flow, edge.source, edge.target),
            reasons=[Reason(ValidationFailed.default_code, text) for text in texts],
        )


def refuse(flow: FlowBase, edge: Edge, guard: Guard, error: Exception) -> NoReturn:
    """Raise GuardRefused for a guard that refused; the guards after it are asked for theirs."""
    later = dropwhile(lambda other: other is not guard, edge.guards)
    next(later)
    reasons = [*_reasons_of(flow, edge, guard, error), *_reasons_of_guards(flow, edge, later)]
    cause = None if isinstance(error, GuardRefused) else error
    raise _refused(flow, edge, reasons) from cause


def _refused(flow: FlowBase, edge: Edge, reasons: list[Reason]) -> GuardRefused:
    text, code = reasons[0].text, reasons[0].code
    return GuardRefused(
        text, code=code, reasons=reasons, **error_context(flow, edge.source, edge.target)
    )


def _reasons_of_guards(flow: FlowBase, edge: Edge, guards: Iterable[Guard]) -> list[Reason]:
    """Run guards and return the reasons of those that refuse. An exception is a refusal."""
    reasons: list[Reason] = []
    for guard in guards:
        try:
            if not require_sync_result(guard(flow)):
                raise GuardRefused
        except Exception as error:
            reasons += _reasons_of(flow, edge, guard, error)
    return reasons


def _reasons_of(flow: FlowBase, edge: Edge, guard: Guard, error: Exception) -> Sequence[Reason]:
    """Return the reasons of a guard that refused; an unexpected exception is logged."""
    _raise_if_circular(flow, edge, guard, error)
    if isinstance(error, GuardRefused):
        return error.reasons if error.message else [_reason_of(GUARD, guard, edge, error.code)]
    logger.error(
        "%s raised an exception, so %s -> %s of machine %r is refused.",
        rule_title(GUARD, guard), edge.source, edge.target, flow.machine.name, exc_info=error,
    )  # fmt: skip
    return [_reason_of(GUARD, guard, edge, Code.GUARD_RAISED)]


def _raise_if_circular(flow: FlowBase, edge: Edge, guard: Guard, error: Exception) -> None:
    """Raise the error of a guard that asks what depends on its own answer: that is no refusal."""
    if isinstance(error, CircularQuestion):
        raise circular_error(flow, GUARD, guard, edge, error.edge) from None
    if _is_circular(error):
        raise error


def _is_circular(error: Exception) -> bool:
    return isinstance(error, RuleError) and error.code == Code.CIRCULAR


def _reason_of(kind: str, rule: Callable[..., Any], edge: Edge, code: str) -> Reason:
    """Return the reason of a rule that gave none: from its docstring, or words for visitors."""
    about = doc_of(rule)
    if about:
        return Reason(code, about.splitlines()[0])
    logger.info(
        "%s, which has no docstring to say why, refuses %r -> %r.",
        rule_title(kind, rule), edge.source, edge.target,
    )  # fmt: skip
    return Reason(code, str(_("This step is not possible with the answers so far.")))


def reasons_against(
    flow: FlowBase, to: str, data: Mapping[str, Any] | None, source: str | None
) -> list[Reason]:
    """Return every reason why `to` can't be taken now; a rule may ask too."""
    machine = flow.machine
    to, source = plain(to), plain(source)
    if flow.finished:
        text = _("This run has ended at %(state)s.", state=repr(flow.current))
        return [Reason(FlowFinished.default_code, str(text))]
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
    # Asked by a rule, about the page that it judges, this is about the same data.
    shown = flow.data_judged(node) if data is None else dict(data)
    with flow.judged(node, shown, GUARD, edge):
        reasons += _reasons_of_guards(flow, edge, edge.guards)
    if data is not None:
        try:
            _validate(flow, edge, node, dict(data), True)
        except FSMError as error:
            if _is_circular(error):
                raise
            reasons += error.reasons
    return reasons


def guards_allow(flow: FlowBase, edge: Edge) -> bool:
    """Return whether all guards accept; exceptions count as refusals and are not logged."""
    with flow.asking(GUARD, edge):
        for guard in edge.guards:
            try:
                if not require_sync_result(guard(flow)):
                    return False
            except Exception as error:
                _raise_if_circular(flow, edge, guard, error)
                return False
    return True


def run_hooks(flow: FlowBase, result: Result) -> None:
    """Run the hooks of a transition. Exceptions are logged and do not affect it."""
    for rule in result.edge.hooks:
        try:
            answer = rule(flow, result)
            if answer is not None:
                require_sync_result(answer)
        except Exception:
            logger.exception(
                "%s failed after %s -> %s of machine %r; the commit remains.",
                rule_title(HOOK, rule), result.source, result.target, flow.machine.name,
            )  # fmt: skip


def require_sync_result(answer: object) -> object:
    """Return the result of a rule; an un-awaited coroutine is truthy, so it raises TypeError."""
    if hasattr(answer, "__await__") and not isinstance(answer, (Result, Sent)):
        if hasattr(answer, "close"):
            answer.close()
        raise TypeError("it returned an awaitable: define it with `async def`")
    return answer
