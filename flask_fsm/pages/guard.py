"""The decorators: `check` guards the view of a page, `requires` one that is no page of its own."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from typing import Any, Final, NamedTuple, TypeVar, cast

from flask import current_app
from werkzeug.exceptions import HTTPException

from ..errors import (
    Code,
    DefinitionError,
    FlowBusy,
    FSMError,
    RuleError,
    StaleFlow,
    StoreUnavailable,
)
from ..runtime.state import app_state
from .decisions import PageRequest, page_requests
from .submission import SAFE_METHODS

__all__ = ["Check", "checks_of", "guarded"]

View = TypeVar("View", bound=Callable[..., Any])
_NO_TURN: Final = nullcontext()
log: Final = logging.getLogger("flask_fsm")
# Found again through the `__wrapped__` chain, and carried outwards by functools.wraps.
MARK: Final = "__fsm_check__"


class Check(NamedTuple):
    """What a decorator says: for which machine, from where, to where, as which state."""

    owner: Any
    accept: tuple[str, ...] | None = None
    to: tuple[str, ...] | None = None
    state: str | None = None
    required: str | None = None


def names(given: Iterable[str] | None) -> tuple[str, ...] | None:
    """Read a list of names, or a single one."""
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(given)


def guarded(check: Check, machine_name: Callable[[], str]) -> Callable[[View], View]:
    """Return the decorator that lets a view run only when the machine allows it."""

    def decorate(view: View) -> View:
        is_async = inspect.iscoroutinefunction(view)

        @functools.wraps(view)
        def guard(*args: Any, **kwargs: Any) -> Any:
            work = current_app.ensure_sync(view) if is_async else view
            return serve(check, machine_name(), work, args, kwargs)

        setattr(guard, MARK, check)
        return cast(View, guard)

    return decorate


def checks_of(view: Callable[..., Any]) -> Iterator[Check]:
    """Find the checks around a view, whatever other decorators lie between and above."""
    seen: list[Check] = []
    layer: Any = view
    while layer is not None:
        check = getattr(layer, "__dict__", {}).get(MARK)
        if isinstance(check, Check) and not any(check is other for other in seen):
            seen.append(check)
        layer = getattr(layer, "__wrapped__", None)
    return iter(seen)


def serve(
    check: Check,
    machine: str,
    view: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Judge the request, run the view if it may, and turn what is refused into an answer."""
    state = app_state()
    requests = page_requests()
    page_request = requests.of.get(machine)
    if page_request is not None and page_request.active:
        # An inner guard of the same machine: this request has its turn already.
        return _pass(check, page_request, view, args, kwargs)
    bound = state.bound.get(machine)
    if bound is None:
        raise DefinitionError(
            f"Machine {machine!r} was added after the first request: call fsm.add() before."
        )
    page_request = requests.of[machine] = PageRequest(state, bound, None, kwargs)
    page_request.active = True
    requests.keep_private()
    outer, requests.owner = requests.owner, check.owner
    try:
        with _NO_TURN if page_request.request.method in SAFE_METHODS else page_request.work.lock():
            page_request.work.load()
            try:
                return _pass(check, page_request, view, args, kwargs)
            finally:
                page_request.work.release_lease()
    except FlowBusy as error:
        with suppress(FlowBusy):
            page_request.work.load()
        raise page_request.refuse(error) from error
    except StoreUnavailable as error:
        log.error("%s", error, exc_info=error)
        raise page_request.refuse(error) from error
    except StaleFlow as error:
        answer = page_request.replay() if error.code == Code.LOST_RACE else None
        if answer is not None:
            return answer
        raise page_request.refuse(error) from error
    except RuleError as error:
        if isinstance(error.__cause__, HTTPException):  # abort() in a rule is an answer
            raise error.__cause__ from None
        raise
    except FSMError as error:
        if error.status >= 500:
            raise
        raise page_request.refuse(error) from error
    finally:
        page_request.active = False
        if outer is not None:
            requests.owner = outer


def _pass(
    check: Check,
    page_request: PageRequest,
    view: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run the view if its page may be opened and its form be taken, once for each request."""
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
            f"where it does not stand: redirect to its page instead. (Views must be registered "
            f"before the first request.)"
        )
    return state
