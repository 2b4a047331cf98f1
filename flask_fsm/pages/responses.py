"""Responses of guarded pages: where to go on, in each format; notices, cookies, cache headers."""

from __future__ import annotations

from typing import Final

from flask import Flask, Request, Response, current_app, flash, jsonify
from flask.sessions import SecureCookieSessionInterface, SessionMixin

from ..core.snapshot import Snapshot
from ..refusal import preferred_format

__all__ = [
    "add_step_cookie",
    "flash_once",
    "htmx_redirect",
    "no_store",
    "see_other",
    "success_response",
]

FLASH_CATEGORY: Final = "fsm"
STEP_COOKIE: Final = "fsm_step"


def success_response(request: Request, location: str, stored: Snapshot) -> Response:
    """Return where the flow goes on, in the format that the client asks for."""
    wanted = preferred_format(request)
    if wanted == "htmx":
        return htmx_redirect(location)
    if wanted == "json":
        return jsonify(state=stored.state, rev=stored.rev, location=location)
    return see_other(location)


def see_other(location: str) -> Response:
    """Return a 303, after which a browser gets `location`."""
    response: Response = current_app.response_class(
        "", 303, content_type="text/html; charset=utf-8"
    )
    response.headers["Location"] = location
    return response


def htmx_redirect(location: str) -> Response:
    """Return a 204 that makes htmx open `location` as a page of its own."""
    response: Response = current_app.response_class(b"", 204)
    response.headers["HX-Redirect"] = location
    return response


def flash_once(session: SessionMixin, text: str) -> None:
    """Flash `text`, unless the same notice is waiting to be shown."""
    pending = session.get("_flashes") or ()
    if not any(tuple(item) == (FLASH_CATEGORY, text) for item in pending):
        flash(text, FLASH_CATEGORY)


def add_step_cookie(app: Flask, response: Response, rev: int) -> Response:
    """Set a cookie that changes with each step, for stores with which the session does not change.

    Chromium keeps pages for its Back button, `no-store` or not, until an HttpOnly cookie
    changes; the form on such a page would be out of date.
    """
    interface = app.session_interface
    flags = "; HttpOnly" if interface.get_cookie_httponly(app) else ""
    flags += "; Secure" if interface.get_cookie_secure(app) else ""
    path = interface.get_cookie_path(app)
    response.headers.add("Set-Cookie", f"{STEP_COOKIE}={rev}; Path={path}; SameSite=Lax{flags}")
    return response


def no_store(response: Response) -> Response:
    """Keep a response out of every cache."""
    response.headers["Cache-Control"] = "no-store"
    # Flask's own sessions add `Vary: Cookie` themselves, since this one has been read.
    if not isinstance(current_app.session_interface, SecureCookieSessionInterface):
        response.vary.add("Cookie")
    return response
