"""What a refusal's page shows: where the flow is, what was typed, and a form to send it again."""

from __future__ import annotations

from collections.abc import Callable

from flask import Request

from ..core.reasons import allowed_states
from ..errors import FlowBusy, FlowFinished, FSMError, StaleFlow, StoreUnavailable
from ..responses import RefusalContext, ResubmitForm
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import Token
from .redaction import SubmittedFields, identical_form, renewed_form, shown_fields
from .submission import SAFE_METHODS
from .urls import FlowURLs

__all__ = ["refusal_context"]


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
    if isinstance(error, StoreUnavailable) and unsafe:
        # The commit may have succeeded; sending the identical form again finds out.
        sent = shown_fields(config)
        return RefusalContext(work.bound.name, submitted=sent.fields, resubmit=identical_form(sent))
    if not work.loaded:
        return RefusalContext(machine=work.bound.name)
    flow, urls = work.flow, FlowURLs(work)
    typed = SubmittedFields([], [])
    resubmit: ResubmitForm | None = None
    if unsafe and isinstance(error, (StaleFlow, FlowBusy)):
        typed = shown_fields(config)
        if page is not None and not flow.finished and flow.is_open(page):
            # One that was not processed for being busy is still recognised if it is sent twice.
            resubmit = identical_form(typed) if isinstance(error, FlowBusy) else None
            resubmit = resubmit or renewed_form(config, urls.url(page), typed.fields, token().value)
    # After an end that only a reset undoes, the first page would lead back to the last.
    over = error.status == 410 and (not isinstance(error, FlowFinished) or machine.reset == "auto")
    return RefusalContext(
        machine=work.bound.name,
        state=flow.current,
        rev=flow.rev,
        allowed=allowed_states(flow),
        current_url=None if work.missing_reason is not None else urls.current_url(),
        start_url=urls.start_url() if over else None,
        submitted=typed.fields,
        omitted=typed.omitted,
        resubmit=resubmit,
    )
