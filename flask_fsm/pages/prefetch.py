"""Prefetch: whether a GET is a visit, or a browser or a script only looks ahead."""

from __future__ import annotations

from typing import Final

from flask import Request

__all__ = ["looks_ahead"]

# Of browsers, Turbo and older libraries. The extension `preload` of htmx sends HX-Preloaded.
HEADERS: Final = ("Sec-Purpose", "X-Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
PURPOSES: Final = ("prefetch", "prerender", "preview")


def looks_ahead(request: Request) -> bool:
    """Return whether a request is no visit yet: HEAD, OPTIONS, or a prefetch."""
    headers = request.headers
    return (
        request.method != "GET"
        or headers.get("HX-Preloaded", "").lower() == "true"
        or any(purpose in headers.get(name, "").lower() for name in HEADERS for purpose in PURPOSES)
    )
