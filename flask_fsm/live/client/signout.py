"""Subjects: after a sign-out, or when another user signs in, the old one's sockets are closed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flask import Response, current_app, request, session

from ...binding.bound_machine import Bound
from ...runtime.state import AppState, app_state, unwrap
from ..service import Service

__all__ = ["close_after_change"]

log: Final = logging.getLogger("flask_fsm")
# What this package and Flask keep in a session says nothing of who has it.
OURS: Final = ("_fsm", "_flashes")


def close_after_change(response: Response) -> Response:
    """Close the sockets of whoever had this session until now, if somebody else has it, or nobody.

    The request's own cookie still says who that was.
    """
    if not session.modified:
        return response
    state = app_state()
    asked = [b for b in state.bound.values() if b.subject_of is not None and not b.by_url]
    if not asked:
        return response
    try:
        if _has_changed():
            _close(state, asked)
    except Exception:  # the app's own function may raise anything; the answer stands
        log.exception("The sockets of a session whose user has changed were not closed.")
    return response


def _of_the_app(carried: Mapping[str, Any]) -> dict[str, Any]:
    return {name: carried[name] for name in carried if not name.startswith(OURS)}


def _has_changed() -> bool:
    app = unwrap(current_app)
    before = app.session_interface.open_session(app, unwrap(request))
    return before is not None and _of_the_app(before) != _of_the_app(session)


def _close(state: AppState, asked: list[Bound]) -> None:
    now = [_subject(bound) for bound in asked]
    app = unwrap(current_app)
    # A context of its own, so that nothing remembers the user of this one.
    with app.app_context(), app.request_context(request.environ):
        before = [_subject(bound) for bound in asked]
    service: Service = state.live
    for gone in _gone(before, now):
        service.close_subject(gone)


def _subject(bound: Bound) -> str | None:
    return None if bound.subject_of is None else bound.subject_of({})


def _gone(before: list[str | None], now: list[str | None]) -> Iterator[str]:
    seen: set[str] = set()
    for old, new in zip(before, now, strict=True):
        if old is not None and old != new and old not in seen:
            seen.add(old)
            yield old
