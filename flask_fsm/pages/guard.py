"""The decorators: `check` guards the view of a page, `requires` one that is not a page itself."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, Final, TypeVar, cast

from flask import Flask, Response, current_app, has_request_context, request, session
from werkzeug.exceptions import HTTPException

from ..binding.bound_machine import Bound
from ..binding.declaration import CHECK_ATTRIBUTE, Check, mark_below
from ..core.names import plain
from ..errors import (
    Code,
    DefinitionError,
    FlowBusy,
    FSMError,
    InvalidToken,
    RuleError,
    StaleFlow,
    StoreUnavailable,
)
from ..responses import Refusal, RefusalContext
from ..runtime.app_state import AppState, app_state, unwrap
from ..runtime.session_data import has_session_data
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import TokenContent
from ..stores.session import COOKIE_LIMIT
from .decisions import SERVED, PageRequest, PageRequests, keep_private, page_requests
from .mistakes import expose_mistake
from .notices import unnamed_flow
from .submission import SAFE_METHODS, UNREAD, read_body, sent_tokens, token_text

__all__ = [
    "after_request",
    "answer_error",
    "check_session_cookie",
    "guarded",
    "mark_served",
    "names",
    "remember_forms",
]

View = TypeVar("View", bound=Callable[..., Any])
_NO_LOCK: Final = nullcontext()
log: Final = logging.getLogger("flask_fsm")


def names(given: Iterable[str] | None) -> tuple[str, ...] | None:
    """Read a list of names, or a single one."""
    if given is None:
        return None
    return (plain(given),) if isinstance(given, str) else tuple(map(plain, given))


def guarded(check: Check) -> Callable[[View], View]:
    """Return the decorator that lets a view run only when the machine allows it."""

    def decorate(view: View) -> View:
        is_async = inspect.iscoroutinefunction(view)

        @functools.wraps(view)
        def guard(*args: Any, **kwargs: Any) -> Any:
            work = current_app.ensure_sync(view) if is_async else view
            return serve(check, work, args, kwargs)

        setattr(guard, CHECK_ATTRIBUTE, check)
        mark_below(view, check)
        return cast(View, guard)

    return decorate


def serve(
    check: Check,
    view: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Decide on the request, run the view if it may, and turn a refusal into a response."""
    state = app_state()
    machine = check.declaration.name
    requests = page_requests()
    page_request = requests.of.get(machine)
    if page_request is not None and page_request.active:
        # An inner guard of the same machine: this request holds the lock of the flow already.
        return _run_view(check, page_request, view, args, kwargs)
    bound = state.bound.get(machine)
    if bound is None:
        raise DefinitionError(
            f"Machine {machine!r} was added after the first request: call fsm.add() before."
        )
    page_request = requests.of[machine] = PageRequest(state, bound, None, kwargs)
    page_request.active = True
    keep_private(requests)
    outer, requests.owner = requests.owner, check.views
    asking, lock = page_request.request, page_request.work.lock
    unsafe = asking.method not in SAFE_METHODS
    try:
        if unsafe and not requests.has_body:
            read_body(asking)  # before the lock, for which others may wait
            requests.has_body = True
        with lock(token_text(asking, state.config.token_field)) if unsafe else _NO_LOCK:
            page_request.work.load()
            try:
                answer = _run_view(check, page_request, view, args, kwargs)
            finally:
                page_request.work.release_lease()
            requests.view_answered = outer is None and unsafe
            return answer
    except FSMError as error:
        return _answer_to(error, check, page_request)
    finally:
        page_request.active = False
        if outer is not None:
            requests.owner = outer


def _answer_to(error: FSMError, check: Check, page_request: PageRequest) -> Response:
    """Return the stored response if an error is of a repeated submission; else raise a refusal.

    Raises the error itself if it is a mistake in the app's code.
    """
    if error.code == Code.NO_FLOW and check.required is None:
        content = _lost_form(page_request)
        if content is not None:
            page_request.page = _state_of(check, page_request)
            error = unnamed_flow(page_request.work, content)
    match error:
        case FlowBusy():
            with suppress(FlowBusy):
                page_request.work.load()
            if page_request.page is None and check.required is None:
                page_request.page = _state_of(check, page_request)
        case StoreUnavailable():
            page_request.state.outages.log(error)
        case StaleFlow():
            answer = page_request.replay() if error.code == Code.LOST_RACE else None
            if answer is not None:
                return answer
        case RuleError():
            if isinstance(error.__cause__, HTTPException):  # abort() in a rule is an answer
                raise error.__cause__ from None
            raise error
        case _:
            if expose_mistake(error, page_request.request, page_request):
                raise error
            if error.code in UNREAD:
                with suppress(FSMError):
                    page_request.work.load()
    raise page_request.refuse(error) from error


def _lost_form(page_request: PageRequest) -> TokenContent | None:
    """Return a valid token of a form whose URL names a flow that the session does not have.

    None if there is none, or if a user has logged in. The answer depends on the token alone, so
    that nobody can tell whether somebody else has such a flow.
    """
    work, request = page_request.work, page_request.request
    if request.method in SAFE_METHODS or not work.is_anonymous:
        return None
    with suppress(InvalidToken):
        tokens = page_request.state.tokens(work.app)
        contents = map(tokens.read, sent_tokens(page_request.state.config, request))
        return next((found for found in contents if found.state in work.bound.pages), None)
    return None


def _run_view(
    check: Check,
    page_request: PageRequest,
    view: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run the view if its page may be opened and its form accepted; decide once per request."""
    bound = page_request.bound
    if check.required is not None:
        page_request.judge_required(bound.resolve(check.required, page_request.request.endpoint))
        return view(*args, **kwargs)
    state = _state_of(check, page_request)
    if page_request.page is None:
        page_request.page = state
        answer = (
            page_request.judge_get()
            if page_request.request.method in SAFE_METHODS
            else page_request.judge_post()
        )
        if answer is not None:
            return answer
    elif state != page_request.page:  # a view calls the view of another page
        page_request.judge_required(state)
    return view(*args, **kwargs)


def _state_of(check: Check, page_request: PageRequest) -> str:
    """Return the state that a guarded view shows, also when another view calls it."""
    endpoint, bound = page_request.request.endpoint or "", page_request.bound
    endpoints = bound.guarded.get(id(check), ())
    if endpoint not in endpoints and len(endpoints) == 1:
        endpoint = endpoints[0]
    state = bound.states.get(endpoint)
    if state is None:
        raise DefinitionError(
            f"A view that machine {bound.name!r} guards was called for the endpoint {endpoint!r}, "
            f"for which it is not registered: redirect to its page instead, and register views "
            f"before the first request."
        )
    return state


def remember_forms(app: Flask, context: Mapping[str, Any], **_: Any) -> None:
    """Remember which forms a page renders: the page of a refusal shows the labels of their fields.

    This receives Flask's signal `before_render_template`.
    """
    if "wtforms" not in sys.modules or not has_request_context():
        return
    from wtforms.form import BaseForm

    kinds = tuple(dict.fromkeys(type(v) for v in context.values() if isinstance(v, BaseForm)))
    for name, page_request in page_requests().of.items() if kinds else ():
        forms, key = page_request.state.forms, (name, page_request.page or "")
        if not {*forms.get(key, ())} & {*kinds}:
            forms[key] = kinds


# -- requests whose views are not guarded -----------------------------------------------


def answer_error(error: FSMError) -> Any:
    """Answer an error of a view without a guard: a refusal as on a page, a fault as a 500."""
    loaded = [found for found in page_requests().of.values() if found.work.loaded]
    page_request = next(
        (found for found in loaded if found.flow.id == error.flow), loaded[0] if loaded else None
    )
    if isinstance(error, StoreUnavailable):
        app_state().outages.log(error)
    elif expose_mistake(error, unwrap(request), page_request):
        raise error
    refusal = (
        Refusal.of(error, RefusalContext()) if page_request is None else page_request.refuse(error)
    )
    return current_app.handle_http_exception(refusal)


def mark_served(app: Flask, **_: object) -> None:
    """Mark the request as one that Flask serves."""
    request.environ[SERVED] = True


def after_request(response: Response) -> Response:
    """Name flows before a stream, take them along after a login, and notify the listeners of both.

    The flows of a session pass to the user who has just logged in. At the session's next request
    it could be too late: if this user logs out before that and another one logs in, the flows
    would pass to the other one.
    """
    state = app_state()
    if response.is_streamed:
        # The response of an HTTPException counts as streamed, too, but its length is known.
        if "Content-Length" not in response.headers:
            _begin_stream(page_requests())
        for watch in state.stream_listeners:
            watch(response)
    if session.modified:
        followed = [b for b in state.bound.values() if b.subject_of is not None and not b.by_url]
        if followed:
            for follow in state.session_listeners:
                follow(followed)
            _take_along(state, followed)
    return response


def check_session_cookie(app: Flask, response: Response, **_: Any) -> None:
    """Report a session with a flow that browsers drop, because it has grown after the step.

    This receives Flask's signal `request_finished`: the cookie is made after all other functions.
    """
    for header in response.headers.getlist("Set-Cookie"):
        if len(header) > COOKIE_LIMIT:
            name = app.session_interface.get_cookie_name(app)
            size = len(header.partition(";")[0]) - 1
            if size > COOKIE_LIMIT and header.startswith(f"{name}="):
                _report_size(app, response, size)


def _report_size(app: Flask, response: Response, size: int) -> None:
    names = [name for name in app_state().bound if has_session_data(session, name)]
    if not names:
        return
    text = (
        f"The session cookie takes {size} bytes, but browsers drop cookies of more than "
        f"{COOKIE_LIMIT}, and with it the flow of {', '.join(map(repr, names))}: the session has "
        f"grown since the step. Store less in it, or keep it on the server, for example with "
        f"Flask-Session."
    )
    log.error("%s The request was %s %s.", text, request.method, request.endpoint)
    if app.debug:
        response.headers.clear()
        response.status_code = 500
        response.content_type = "text/plain; charset=utf-8"
        response.direct_passthrough = False
        response.set_data(text)


def _begin_stream(requests: PageRequests) -> None:
    """Before the headers are sent, name the flows of guarded pages in the session.

    So a template that is rendered later can make a token of a flow that the session knows.
    """
    for found in requests.of.values():
        if requests.private and found.work.loaded and not found.work.needs_key:
            found.work.remember()
    requests.streaming = True


def _take_along(state: AppState, followed: Iterable[Bound]) -> None:
    for bound in followed:
        if has_session_data(session, bound.name):
            try:
                UnitOfWork(state, bound, request.view_args or {}).take_along_at_login()
            except StoreUnavailable as error:
                state.outages.log(error)
            except Exception:  # the app's own function may raise anything; the response is sent
                log.exception("A session has logged in, but its flows could not be taken along.")
