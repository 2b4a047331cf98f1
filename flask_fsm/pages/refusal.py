"""What a refusal's page shows: where the flow is, what was typed, and a form to send it again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from flask import Request

from ..core.reasons import allowed_states
from ..errors import (
    Code,
    FlowBusy,
    FlowFinished,
    FSMError,
    SnapshotTooLarge,
    StaleFlow,
    StoreUnavailable,
)
from ..responses import DEVELOPERS_CODES, Obstacle, RefusalContext, ResubmitForm, preferred_format
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import Token
from .labels import field_labels, without_buttons
from .redaction import SubmittedFields, shown_fields
from .resend import identical_form, renewed_form
from .submission import SAFE_METHODS, UNREAD
from .urls import FlowURLs

__all__ = ["log_for_developers", "refusal_context"]

log: Final = logging.getLogger("flask_fsm")

LONG: Final = 40
"""Number of characters of an answer that may be made shorter to make room."""


def log_for_developers(error: FSMError, request: Request) -> None:
    """Log a message that visitors do not see, if it is not logged elsewhere."""
    # The name of a state that is unknown is what a client has sent, and may be an answer.
    if error.code in DEVELOPERS_CODES - {Code.UNKNOWN_STATE, Code.BAD_SNAPSHOT, Code.DEFINITION}:
        clients_own = error.code in (Code.NO_EDGE, Code.TAKEN, Code.SKIPPED)
        level = logging.INFO if clients_own else logging.WARNING
        log.log(level, "%s %s was refused: %s", request.method, request.endpoint, error)


def refusal_context(
    error: FSMError,
    request: Request,
    work: UnitOfWork,
    page: str | None,
    token: Callable[[], Token],
) -> RefusalContext:
    """Return what the conflict page and its like show of a request that was refused on `page`."""
    machine, config = work.bound.machine, work.state.config
    unsafe = request.method not in SAFE_METHODS
    typed, again = SubmittedFields([], []), None
    # Whatever the refusal, what was typed is not lost.
    if unsafe and error.code not in UNREAD:
        typed = shown_fields(config)
        again = _form_to_send_again(error, request, work, page, typed, token)
    forms = work.state.forms.get((work.bound.name, page or ""), ())
    context = RefusalContext(
        machine=work.bound.name,
        submitted=without_buttons(forms, typed.fields),
        omitted=typed.omitted,
        labels=field_labels(forms, typed.fields, typed.omitted),
        unshown=typed.unshown,
        resubmit=again if isinstance(again, ResubmitForm) else None,
        obstacle=None if isinstance(again, ResubmitForm) else again,
    )
    if unsafe and isinstance(error, StoreUnavailable):
        return context
    urls = FlowURLs(work)
    # After an end that only a reset undoes, the first page would lead back to the last.
    over = error.status == 410 and (not isinstance(error, FlowFinished) or machine.reset == "auto")
    context = replace(context, start_url=urls.start_url() if over else None)
    if not work.loaded:
        return context
    if isinstance(error, FlowFinished):
        # On the initial page, the form above is of the next run; the rest is of the finished one.
        work.show_persisted()
    return replace(
        context,
        state=work.flow.current,
        rev=work.flow.rev,
        allowed=allowed_states(work.flow),
        page_url=(
            urls.state_url_or_none(page)
            if unsafe and page is not None and _is_open(work, page)
            else None
        ),
        current_url=None if work.missing_reason is not None else urls.current_url(),
    )


def _form_to_send_again(
    error: FSMError,
    request: Request,
    work: UnitOfWork,
    page: str | None,
    typed: SubmittedFields,
    token: Callable[[], Token],
) -> ResubmitForm | Obstacle | None:
    """Return the form that sends again what was `typed`, or why there is none.

    None if the page would not take it.
    """
    config = work.state.config
    if isinstance(error, StoreUnavailable):
        # The commit may have succeeded; sending the identical form again finds out.
        return identical_form(config, typed)
    if not _may_be_sent_again(error, request, work, page):
        return None
    if isinstance(error, FlowBusy):
        # It was not processed, and is still recognised if it is sent twice.
        return identical_form(config, typed)
    form = renewed_form(config, typed, lambda: token().value)
    if isinstance(error, SnapshotTooLarge) and isinstance(form, ResubmitForm):
        long = [name for name, text in typed.fields if len(text) > LONG]
        return replace(form, editable=long) if long else None
    return form


def _may_be_sent_again(
    error: FSMError, request: Request, work: UnitOfWork, page: str | None
) -> bool:
    """Return whether the form can be taken if it is sent to its page again, with a new token."""
    if page is None or not work.loaded or preferred_format(request) == "json":
        return False
    return _is_open(work, page) and (
        error.status == 410 or isinstance(error, (StaleFlow, FlowBusy, SnapshotTooLarge))
    )


def _is_open(work: UnitOfWork, page: str) -> bool:
    """Return whether the page may be opened under the URL that it has in this request."""
    if work.missing_reason is not None and work.bound.machine.many is True:
        return False  # the key in the URL is that of a flow that is gone
    # In place of a flow that is gone there is a blank one, in which the first page is open.
    return not work.flow.finished and work.flow.is_open(page)
