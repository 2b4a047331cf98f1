"""Sign-out: when a session's user changes, the connections of the old user are closed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from flask import current_app, request, session

from ...binding.bound_machine import Bound
from ...runtime.app_state import AppState, app_state, unwrap
from ..service import Service
from .session import subject_of

__all__ = ["close_after_signout"]

log: Final = logging.getLogger("flask_fsm")
# Keys of this package and of Flask, which do not identify the user of a session.
OURS: Final = ("_fsm", "_flashes")


def close_after_signout(candidates: Sequence[Bound]) -> None:
    """After a sign-out, or a sign-in as another user, close the old user's connections.

    The cookie of the request still identifies the old user.
    """
    try:
        if _has_changed():
            _close(app_state(), candidates)
    except Exception:  # the app's function failed; the response is sent anyway
        log.exception("The connections of a session whose user has changed were not closed.")


def _app_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in values if not name.startswith(OURS)}


def _has_changed() -> bool:
    app = unwrap(current_app)
    before = app.session_interface.open_session(app, unwrap(request))
    return before is not None and _app_keys(before) != _app_keys(session)


def _close(state: AppState, candidates: Sequence[Bound]) -> None:
    now = [subject_of(bound) for bound in candidates]
    app = unwrap(current_app)
    # A new context, so that the app does not find this request's user in a cache.
    with app.app_context(), app.request_context(request.environ):
        before = [subject_of(bound) for bound in candidates]
    service: Service = state.live
    for subject in _replaced(before, now):
        service.close_subject(subject)


def _replaced(before: list[str | None], now: list[str | None]) -> Iterator[str]:
    seen: set[str] = set()
    for old, new in zip(before, now, strict=True):
        if old is not None and old != new and old not in seen:
            seen.add(old)
            yield old
