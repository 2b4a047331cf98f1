"""Advance: from a form's answers to a committed transition, and the redirect to the next page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol

from flask import Response, g
from werkzeug.datastructures import MultiDict

from ..binding.bound_machine import Page
from ..core.answers import as_dict
from ..core.flow import Flow
from ..core.reasons import allowed_states, reason_unknown
from ..errors import (
    Code,
    GuardRefused,
    InvalidData,
    InvalidTransition,
    NotAPage,
    Reason,
    SnapshotTooLarge,
    UnknownTarget,
    ValidationFailed,
)
from ..runtime.app_state import unwrap
from ..runtime.stored_flow import error_of_reading
from ..runtime.transaction import TRANSACTION, Transaction
from ..texts import _, join_texts
from .decisions import PageRequest
from .mistakes import was_sent
from .submission import csrf_field

__all__ = ["WTForm", "advance", "own_answers"]

TOO_LARGE: Final = _("This is more than can be stored here. Make it shorter, then send it again.")


# Written out, since a name that is imported from an optional package may be unknown to type
# checkers, and with it the type of every call.
class WTForm(Protocol):
    """A form of WTForms or Flask-WTF."""

    _fields: Any
    form_errors: Any


def advance(
    page_request: PageRequest,
    to: str | None,
    data: Mapping[str, Any] | None,
    form: WTForm | None,
    fast_forward: bool,
    url_args: Mapping[str, Any],
) -> Response | None:
    """Make the transition and return the redirect; None if a rule refused and `form` says why."""
    if page_request.work.read_only:
        raise error_of_reading("fsm.advance()")
    if data is not None:
        data = own_answers(page_request, data, to)
    elif form is not None:
        data = _without_target(page_request, answers_of(form), to)
    if form is not None:
        state, name = page_request.state, page_request.bound.name
        state.forms[name, page_request.source] = (type(form),)
    try:
        target, accepted = _target(page_request, to, data)
        page = page_request.bound.pages.get(target)
        if page is None:
            raise NotAPage(
                f"{target!r} is a state of machine {page_request.bound.name!r} but no page, so "
                f"advance() has nowhere to send the visitor: use fsm.transition({target!r}) and "
                f"return a response of your own.",
                source=page_request.source,
                target=target,
                allowed=allowed_states(page_request.flow),
            )
        return _make_transition(page_request, page, data, fast_forward, url_args, accepted)
    except (GuardRefused, ValidationFailed, SnapshotTooLarge) as error:
        is_mistake = isinstance(error, InvalidData) and error.is_server_error
        if form is None or is_mistake:
            raise
        page_request.deny(error)
        add_form_errors(form, error)
        return None


def _make_transition(
    page_request: PageRequest,
    page: Page,
    data: Mapping[str, Any] | None,
    fast_forward: bool,
    url_args: Mapping[str, Any],
    accepted: bool,
) -> Response:
    values = page.pick_args(url_args, page_request.request.view_args or {})
    extra = {name: value for name, value in url_args.items() if name not in page.arguments}
    # Built first, so that a missing argument is reported before anything is decided.
    url = page_request.bound.url(page, {**values, **extra}, page_request.work.locator.key)

    def location(flow: Flow) -> str:
        after = flow.current
        return (
            url
            if after == page.state or after not in page_request.bound.pages
            else page_request.urls.url(after)
        )

    page_request.transition(
        page.state,
        data,
        page_request.source,
        page.args(values),
        fast_forward=fast_forward,
        accepted=accepted,
        location=location,
    )
    response = page_request.success_response(location(page_request.flow))
    # As current_transaction(), without a further call.
    transaction: Transaction | None = unwrap(g).get(TRANSACTION)
    if transaction is not None:
        transaction.answered(response)
    return response


def _target(
    page_request: PageRequest, to: str | None, data: Mapping[str, Any] | None
) -> tuple[str, bool]:
    """Return the target, as the view or the client names it, or the only open one.

    Return also whether its guards were asked for that, and have accepted.
    """
    bound, source = page_request.bound, page_request.source
    if to is None and page_request.submission is not None:
        to = page_request.submission.to
    if to is not None:
        state = bound.resolve(to, page_request.request.endpoint)
        if state not in bound.machine.states:
            raise UnknownTarget(
                reason_unknown(bound.machine, to).text,
                source=source,
                target=to,
                allowed=allowed_states(page_request.flow),
            )
        return state, False
    ways = tuple(bound.machine.ways[source])
    if len(ways) == 1:
        return ways[0], False
    flow = page_request.flow
    context: dict[str, Any] = {
        "flow": flow.id,
        "source": source,
        "allowed": allowed_states(flow),
    }
    if not ways:
        raise InvalidTransition(f"No edge leads out of {source!r}.", **context)
    reasons: list[Reason] = []
    open_ways = []
    for way in ways:
        closed = [
            reason
            for reason in flow.why_not(way, data, source=source)
            if reason.code != ValidationFailed.default_code
        ]
        reasons += closed
        if not closed:
            open_ways.append(way)
    if len(open_ways) == 1:
        return open_ways[0], True
    if not open_ways:
        text = join_texts(" ", (reason.text for reason in reasons))
        raise GuardRefused(text, reasons=reasons, **context)
    raise InvalidTransition(
        f"Several edges can be taken from {source!r}: {', '.join(open_ways)}. Name one in "
        f"advance(), or send it in the form's field {page_request.state.config.to_field!r}.",
        code=Code.AMBIGUOUS,
        **context,
    )


def answers_of(form: WTForm) -> dict[str, Any]:
    """Return a form's data without the fields that are no answers.

    These are CSRF tokens, buttons, and passwords: an app keeps at most their hash.
    """
    return {name: _answer(field) for name, field in form._fields.items() if _is_answer(field)}


def _is_answer(field: Any) -> bool:
    from wtforms import PasswordField, SubmitField
    from wtforms.csrf.core import CSRFTokenField

    return not (
        isinstance(field, (SubmitField, CSRFTokenField, PasswordField))
        or getattr(field.widget, "input_type", None) == "password"
        or (field.render_kw or {}).get("type") == "password"
    )


def _answer(field: Any) -> Any:
    from wtforms import FieldList, FormField

    if isinstance(field, FormField):
        return answers_of(field.form)
    if isinstance(field, FieldList):
        return [_answer(entry) for entry in field.entries if _is_answer(entry)]
    return _by_value(field.data)


def _by_value(data: Any) -> Any:
    """Return a member of an Enum by its value, from which `coerce` makes the member again."""
    if isinstance(data, Enum):
        return data.value
    if type(data) is list:
        return [_by_value(item) for item in data]
    return data


def own_answers(page_request: PageRequest, data: object, to: str | None) -> dict[str, Any]:
    """Return `data` as a plain dict, without the fields that are no answers.

    These are tokens, and the field that names the page to go to if the view does not, by its `to`.
    A field that came several times becomes a list.
    """
    config = page_request.state.config
    if isinstance(data, MultiDict):
        plain = {name: values[0] if len(values) == 1 else values for name, values in data.lists()}
    else:
        if not isinstance(data, Mapping) and was_sent(page_request.request, data):
            raise InvalidData("Send an object of fields and values.")
        plain = as_dict(data)
    plain.pop(config.token_field, None)
    plain.pop(csrf_field(), None)
    return _without_target(page_request, plain, to)


def _without_target(
    page_request: PageRequest, answers: dict[str, Any], to: str | None
) -> dict[str, Any]:
    """Return `answers` without the posted field `to`, if it was read as the target.

    Where the view names the target, it is a field like any other.
    """
    submission, name = page_request.submission, page_request.state.config.to_field
    if to is None and name in answers and submission is not None and submission.sends_to:
        del answers[name]
    return answers


def add_form_errors(
    form: WTForm, error: GuardRefused | ValidationFailed | SnapshotTooLarge
) -> None:
    """Add a refusal's messages to the errors of the form's fields, or of the form."""
    if isinstance(error, ValidationFailed):
        messages, fields = list(error.messages), error.fields
    elif isinstance(error, SnapshotTooLarge):  # its own text is for the developer
        messages, fields = [str(TOO_LARGE)], {}
    else:
        messages, fields = [reason.text for reason in error.reasons], {}
    for path, texts in fields.items():
        field = _field(form, path.split("."))
        if field is None:
            messages += [join_texts(": ", (path, text)) for text in texts]
        elif hasattr(field, "form"):
            field.form.form_errors = [*field.form.form_errors, *texts]
        else:
            field.errors = [*field.errors, *texts]
    form.form_errors = [*form.form_errors, *messages]


def _field(form: Any, path: Sequence[str]) -> Any:
    """Find a field by its name, dotted where forms and lists enclose fields."""
    field = form._fields.get(path[0])
    for part in path[1:]:
        if hasattr(field, "entries"):
            entries = field.entries
            field = entries[int(part)] if part.isdigit() and int(part) < len(entries) else None
        else:
            field = field.form._fields.get(part) if hasattr(field, "form") else None
    return field
