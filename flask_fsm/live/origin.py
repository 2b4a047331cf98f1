"""Origin: which sites' pages may open sockets and send events (RFC 6455 section 10.2)."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Request

from ..config import Config

__all__ = ["is_welcome"]

SECURE = ("https", "wss")


def is_welcome(request: Request, config: Config) -> bool:
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


def _host(netloc: str, scheme: str) -> str:
    """Return host and port, without the port that goes without saying."""
    host = netloc.lower()
    return host.removesuffix(":443" if scheme == "https" else ":80")
