"""Sock: the websocket routes, which are routes of flask-sock, and the options of its sockets."""

from __future__ import annotations

import base64
import binascii
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, wraps
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Flask, Response, after_this_request, has_request_context, request
from flask.typing import ResponseReturnValue
from flask_sock import Sock
from simple_websocket import ConnectionClosed, ConnectionError, Server
from wsproto.events import RejectConnection
from wsproto.utilities import RemoteProtocolError

from ...errors import Code
from ..protocol.close_codes import CloseCode
from ..protocol.websocket import acceptable_offer
from ..server.handoff import hang_up
from ..server.handshake import HandshakeSocket, NoReader, reader_options
from .connect import hang_up_if_refused
from .problem import Problem

__all__ = ["CONTEXT_FREE", "VERSION", "Opening", "add_websocket", "refuse", "set_server_options"]

VERSION: Final = "13"
OPTIONS: Final = "SOCK_SERVER_OPTIONS"
# The keys of a request's environ: our opening, the socket, and the offered extensions.
OPENING: Final = "flask_fsm.opening"
SOCKET: Final = "werkzeug.socket"
EXTENSIONS: Final = "HTTP_SEC_WEBSOCKET_EXTENSIONS"
CONTEXT_FREE: Final = "flask_fsm.context_free"
"""The key of the environ of a route of the app, if compression without a context is accepted."""
# The close codes of refusals by the status of HTTP, where it is too late for a response.
REFUSED: Final[dict[int, int]] = {
    **{status: 4000 + status for status in (401, 403, 404, 429)},
    500: CloseCode.INTERNAL_ERROR,
}
# Bytes of a close reason (RFC 6455, section 5.5).
LONGEST_REASON: Final = 123


class Opening:
    """The opening of a websocket of ours: simple-websocket writes its answer to `socket`."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.offer: str | None = acceptable_offer(environ.get(EXTENSIONS))
        """The offer of compression that is accepted."""
        self._environ = environ
        self._before = {name: environ.get(name) for name in (SOCKET, EXTENSIONS)}
        environ.update({OPENING: self, SOCKET: HandshakeSocket(), EXTENSIONS: self.offer or ""})

    @classmethod
    def take(cls, environ: dict[str, Any]) -> Opening | None:
        """Return the opening of this request, if it is of ours, and restore its environ."""
        opening: Opening | None = environ.get(OPENING)
        if opening is not None:
            opening.end()
        return opening

    def end(self) -> None:
        """Restore the environ, once simple-websocket has used it."""
        self._environ.pop(OPENING, None)
        for name, value in self._before.items():
            if value is None:
                self._environ.pop(name, None)
            else:
                self._environ[name] = value


class ServerOptions(UserDict[str, Any]):
    """SOCK_SERVER_OPTIONS of an app, which are others while a websocket of ours is opened."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.serving: set[str | None] = set()
        """Endpoints of the app that have had an engine serve a websocket."""

    def _current(self) -> dict[str, Any]:
        rule = request.url_rule if has_request_context() else None
        if rule is None or not rule.websocket:
            return self.data
        if OPENING in request.environ:
            return {"thread_class": NoReader}
        serving = request.endpoint in self.serving
        if serving:
            # As for an endpoint of ours, no context of compression is kept.
            offer = acceptable_offer(request.environ.get(EXTENSIONS)) or ""
            request.environ.update({EXTENSIONS: offer, CONTEXT_FREE: bool(offer)})

        def opened(ws: Server) -> None:
            after_this_request(partial(_end_websocket, ws))

        return reader_options(self.data, opened, delayed=serving)

    def __getitem__(self, key: str) -> Any:
        return self._current()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._current()

    def __iter__(self) -> Iterator[str]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())


def set_server_options(app: Flask) -> ServerOptions:
    """Have the app's options of flask-sock answer by request, whenever the app has set them."""
    options = app.config.get(OPTIONS)
    if not isinstance(options, ServerOptions):
        app.config[OPTIONS] = options = ServerOptions(options or {})
    return options


def refuse(ws: Server, status: int, text: str) -> None:
    """Close a websocket of a route of the app, instead of a response with this status."""
    code = CloseCode.TRY_AGAIN_LATER if status >= 500 else CloseCode.POLICY_VIOLATION
    reason = str(text).encode()[:LONGEST_REASON].decode(errors="ignore")
    with suppress(ConnectionClosed, OSError):
        ws.close(REFUSED.get(status, code), reason)
    hang_up(request.environ)


def _end_websocket(ws: Server, response: Response) -> Response:
    """End the connection of a websocket whose view, or a decorator, has failed or called abort().

    The response would be written to the client, which expects frames. Werkzeug's server also waits
    for what a client sends after a view has returned, and takes it from simple-websocket.
    """
    if response.status_code >= 400:
        refuse(ws, response.status_code, HTTPStatus(response.status_code).phrase)
    elif ws.mode == "werkzeug" and not ws.sock.is_stopped:
        hang_up(request.environ)
    return response


class RefusingRoutes:
    """Adds routes of flask-sock to an app or a blueprint; a refused handshake gets a response."""

    def __init__(self, scaffold: Flask | Blueprint) -> None:
        self._scaffold = scaffold

    def route(self, rule: str, **options: Any) -> Callable[[Any], Any]:
        """Return a decorator that adds a view of flask-sock."""

        def add(view: Callable[..., ResponseReturnValue]) -> Callable[..., ResponseReturnValue]:
            self._scaffold.add_url_rule(rule, view_func=_refusing(view), **options)
            return view

        return add


def add_websocket(
    sock: Sock, scaffold: Flask | Blueprint, rule: str, serve: Callable[..., Any], **options: Any
) -> None:
    """Add a websocket to an app or a blueprint, as a route of flask-sock."""
    sock.route(rule, bp=RefusingRoutes(scaffold), **options)(serve)


def _refusing(view: Callable[..., ResponseReturnValue]) -> Callable[..., ResponseReturnValue]:
    @wraps(view)
    def websocket(**values: Any) -> ResponseReturnValue:
        after_this_request(hang_up_if_refused)
        opening = Opening(request.environ)
        try:
            _check_handshake()
            return view(**values)
        except Problem as problem:
            return problem.response()
        except (RemoteProtocolError, ConnectionError, UnicodeError) as error:
            return _bad_handshake(error)
        finally:
            opening.end()

    return websocket


def _check_handshake() -> None:
    """Raise Problem for what wsproto, which gets the headers only, does not check."""
    key = request.headers.get("Sec-WebSocket-Key", "")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    if request.method != "GET" or request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        text = "A websocket handshake must be a GET by HTTP/1.1."
    elif not valid and request.headers.get("Sec-WebSocket-Version") == VERSION:
        text = "Sec-WebSocket-Key must be 16 bytes in base64."
    else:
        return
    raise Problem.of(400, Code.BAD_HANDSHAKE, text, Sec_WebSocket_Version=VERSION)


def _bad_handshake(error: Exception) -> Response:
    """Return the response to a handshake that simple-websocket refuses."""
    hint = getattr(error, "event_hint", None)
    status = hint.status_code if isinstance(hint, RejectConnection) else 400
    text = str(error) or "This is not a websocket handshake."
    if request.headers.get("Sec-WebSocket-Version") != VERSION:
        status, text = 426, f"Sec-WebSocket-Version must be {VERSION}."
    return Problem.of(status, Code.BAD_HANDSHAKE, text, Sec_WebSocket_Version=VERSION).response()
