"""Same origin: which sites' pages may open websockets, send events and submit forms.

The Origin header (RFC 6454) of a websocket's handshake is checked as RFC 6455, section 10.2, asks
for. Sec-Fetch-Site is a header of Fetch Metadata. Pages of allowed origins may also read the
answers (CORS, in the Fetch standard).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from flask import Request, Response, request

from ..config import Config
from ..errors import ConfigError

__all__ = [
    "add_cors_headers",
    "check_allowed",
    "has_no_origin",
    "is_allowed_origin",
    "is_cross_site",
    "is_own_form",
    "site_of",
]

SECURE: Final = ("https", "wss")
# An origin of https, http, or another scheme with pages: browser extensions, apps' web views.
ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[1-9][0-9]{0,4})?")
# Seconds for which a browser caches the answer to a preflight request.
PREFLIGHT: Final = "600"
# Number of characters of an origin that are shown in an answer or in the log.
LONGEST_SITE: Final = 200


def check_allowed(config: Config) -> None:
    """Raise ConfigError unless each allowed origin is as browsers write it (RFC 6454)."""
    for origin in config.allowed_origins:
        scheme, _, rest = origin.partition("://")
        usual = rest.endswith({"https": ":443", "http": ":80"}.get(scheme, "no port"))
        if ORIGIN.fullmatch(origin) is None or usual:
            raise ConfigError(
                f"FSM_ALLOWED_ORIGINS can't contain {origin!r}: write a scheme, a host in lower "
                f"case (as xn--... if it is not ASCII) and, unless it is the default one, a port, "
                f"such as 'https://app.example' or 'http://localhost:8080'. Patterns are not "
                f"supported."
            )


def add_cors_headers(config: Config, response: Response) -> Response:
    """Add the headers by which pages of allowed origins may read an answer and send events."""
    allowed = config.allowed_origins
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
    """Return whether a request comes from a page of this site or an allowed one, or from a program.

    For websockets, streams and events. Browsers send the page's Origin with each handshake and each
    POST, so it decides; programs need not send it.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        site = request.headers.get("Sec-Fetch-Site")
        if site is not None:
            return site in ("same-origin", "none")
        return not config.require_origin
    return origin in config.allowed_origins or _is_origin_of(request, origin)


def is_own_form(request: Request) -> bool:
    """Return whether the form in a request was sent from a page of this origin.

    Sec-Fetch-Site decides where it is sent, since the Origin of one's own page is `null` under the
    Referrer-Policy `no-referrer`. Without both headers the browser is too old to tell.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is None or _is_origin_of(request, origin)


def is_cross_site(request: Request) -> bool:
    """Return whether the browser says that a page of another site has sent the request."""
    return request.headers.get("Sec-Fetch-Site") == "cross-site"


def has_no_origin(request: Request) -> bool:
    """Return whether no header says that the request comes from a page."""
    return "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers


def site_of(request: Request) -> str:
    """Return the site of the page that sent the request, for people to read."""
    return (request.headers.get("Origin") or "another site")[:LONGEST_SITE]


def _is_origin_of(request: Request, origin: str) -> bool:
    """Return whether `origin` has the scheme, host and port of the request's own URL (RFC 6454).

    The page may be https and this request http, behind a proxy that terminates TLS; not the
    reverse.
    """
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or (request.scheme in SECURE) > (
        parts.scheme == "https"
    ):
        return False
    return _host(parts.netloc, parts.scheme) == _host(request.host, parts.scheme)


def _host(netloc: str, scheme: str) -> str:
    """Return host and port, without the default port of the scheme."""
    host = netloc.lower()
    return host.removesuffix(":443" if scheme == "https" else ":80")
