"""Endpoints: the views of functions that an app has registered by `fsm.live.endpoint`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Flask, request
from werkzeug.routing import Rule

from ...errors import DuplicateEndpoint

__all__ = ["ENDPOINT", "check_endpoints", "view_of"]

ENDPOINT: Final = "fsm.endpoint."


def view_of(app: Flask, function: Callable[..., Any]) -> Callable[[], Any]:
    """Return a view that calls the function with the headers of the request."""

    def view() -> Any:
        return app.ensure_sync(function)(request.headers)

    return view


def check_endpoints(app: Flask) -> None:
    """Raise DuplicateEndpoint if a view of the app has the same path as a live endpoint."""
    rules = [rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())]
    taken = {(rule.rule, rule.host, rule.subdomain) for rule in rules if _is_ours(rule)}
    for rule in rules:
        theirs = not (_is_ours(rule) or rule.websocket)
        if theirs and (rule.rule, rule.host, rule.subdomain) in taken:
            raise DuplicateEndpoint(
                f"The view {rule.endpoint!r} answers at {rule.rule!r}, as does an endpoint of "
                f"fsm.live: give one of them another path."
            )


def _is_ours(rule: Rule) -> bool:
    """Return whether a rule leads to a function of `fsm.live.endpoint`."""
    return str(rule.endpoint).startswith(ENDPOINT)
