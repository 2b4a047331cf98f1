"""Origin: which sites' pages may open sockets and send events (RFC 6455 section 10.2).

Those of allowed sites may also read what they are answered (the Fetch standard's CORS).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from flask import Request, Response, request

from ..config import Config
from ..errors import ConfigError
from ..runtime.state import app_state

__all__ = ["add_cors_headers", "check_allowed", "has_no_origin", "is_allowed_origin", "site_of"]

SECURE: Final = ("https", "wss")
# Of https, http, or of what has pages too: browser extensions, programs with a web view.
ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[1-9][0-9]{0,4})?")
# How many seconds a browser remembers what it may send.
PREFLIGHT: Final = "600"
# How many characters of an origin are repeated to who asks, and in the log.
LONGEST_SITE: Final = 200


def check_allowed(config: Config) -> None:
    """Raise ConfigError if an allowed origin is none that a browser would name (RFC 6454)."""
    for origin in config.allowed_origins:
        scheme, _, rest = origin.partition("://")
        usual = rest.endswith({"https": ":443", "http": ":80"}.get(scheme, "no port"))
        if ORIGIN.fullmatch(origin) is None or usual:
            raise ConfigError(
                f"FSM_ALLOWED_ORIGINS can't have {origin!r}: an origin is a scheme, a host in "
                f"small letters (as xn--... if it has others than those of ASCII) and, if it is "
                f"not the usual one, a port, such as 'https://app.example' or "
                f"'http://localhost:8080'. There are no patterns."
            )


def add_cors_headers(response: Response) -> Response:
    """Let the pages of allowed origins read an answer, and ask whether they may send an event."""
    allowed = app_state().config.allowed_origins
    if allowed:
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
            if request.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = "GET, POST"
                response.headers["Access-Control-Allow-Headers"] = "Content-Type, Last-Event-ID"
                response.headers["Access-Control-Max-Age"] = PREFLIGHT
    return response


def is_allowed_origin(request: Request, config: Config) -> bool:
    """Tell whether a request comes from a page of this site, of an allowed one, or from a program.

    A browser names the origin of the page in each handshake and each POST; a program names none.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        site = request.headers.get("Sec-Fetch-Site")
        if site is not None:
            return site in ("same-origin", "none")
        return not config.require_origin
    if origin in config.allowed_origins:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or (request.scheme in SECURE) > (
        parts.scheme == "https"
    ):
        return False
    return _host(parts.netloc, parts.scheme) == _host(request.host, parts.scheme)


def has_no_origin(request: Request) -> bool:
    """Tell whether nothing says that the request is a page's."""
    return "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers


def site_of(request: Request) -> str:
    """Return of which site the page is that asks, for people to read."""
    return (request.headers.get("Origin") or "another site")[:LONGEST_SITE]


def _host(netloc: str, scheme: str) -> str:
    """Return host and port, without the port that goes without saying."""
    host = netloc.lower()
    return host.removesuffix(":443" if scheme == "https" else ":80")
