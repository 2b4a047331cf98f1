"""Websocket: serves the protocol on a websocket of flask-sock, and answers a plain GET of it."""

from __future__ import annotations

import logging
from typing import Any, Final

from flask import after_this_request, current_app, request
from flask.typing import ResponseReturnValue
from simple_websocket import ConnectionClosed, Server
from wsproto.connection import ConnectionState

from ...errors import Code
from ...runtime.app_state import unwrap
from ..protocol.close_codes import CloseCode
from ..protocol.websocket import WebSocket
from ..server.handoff import hang_up, has_socket, socket_of
from ..server.handshake import ReaderSocket
from ..server.transport import WebSocketTransport
from .connect import check_connection, connect, find_endpoint, select_engine
from .problem import Problem
from .sock import CONTEXT_FREE, VERSION, Opening, refuse, set_server_options
from .upgrade import UpgradeResponse, upgrade_response

__all__ = ["explain_websocket", "serve", "websocket"]

log: Final = logging.getLogger("flask_fsm")


def websocket(ws: Server, machine: str) -> None:
    """Open a websocket on the flow of this session (RFC 6455); raises Problem if it is refused."""
    opening = Opening.take(request.environ)
    _begin(ws, machine, packed=opening is not None and opening.offer is not None)


def serve(ws: Server, machine: str) -> bool:
    """Serve the protocol on a websocket of a route of the app, or close it if it is refused.

    Return whether it is served.
    """
    if not ws.connected:
        raise ConnectionClosed
    options = set_server_options(unwrap(current_app))
    if not isinstance(ws.sock, ReaderSocket):
        log.warning(
            "A websocket was asked to reconnect, since SOCK_SERVER_OPTIONS was set after the "
            "first request. Set it before."
        )
        ws.close(CloseCode.SERVICE_RESTART)
        return False
    options.serving.add(request.endpoint)
    try:
        # Not what is known of the endpoint now: the handshake may have come before.
        _begin(ws, machine, packed=bool(request.environ.get(CONTEXT_FREE)))
    except Problem as problem:
        refuse(ws, problem.error.status, problem.error.message)
        return False
    return True


def _begin(ws: Server, machine: str, *, packed: bool) -> None:
    """Have an engine serve a websocket as soon as the view has returned; raises Problem."""
    state, bound, service = find_endpoint(machine)
    _check_socket()
    engine = select_engine(service)
    socket = WebSocket(ws.ws.connection, service.config.max_message_size, packed=packed)

    def make(*parts: Any) -> WebSocketTransport:
        return WebSocketTransport(socket, *parts)

    transport = connect(state, bound, service, engine, make, request.args.get("since"))
    first_bytes = ws.sock.stop()
    if first_bytes is None or ws.ws.connection.state is not ConnectionState.OPEN:
        engine.release(transport)
        hang_up(request.environ)
        raise ConnectionClosed
    ws.connected = False  # for the view and flask-sock: nothing else may write
    response: UpgradeResponse
    if isinstance(ws.sock, ReaderSocket):
        ws.sock.release(socket_of(request.environ))
        if ws.sock.was_read:
            transport.resume(ws.input_buffer, ws.incoming_message)
        response = upgrade_response(101, {}, transport, engine, head_sent=True)
    else:
        head, _, frames = first_bytes.decode("latin-1").partition("\r\n\r\n")
        headers = [line.partition(": ") for line in head.split("\r\n")[1:]]
        response = upgrade_response(
            101,
            {name: value for name, _, value in headers},
            transport,
            engine,
            frames.encode("latin-1"),
        )
    # Unless the view has failed meanwhile.
    after_this_request(lambda current: current if response.is_released else response)


def _check_socket() -> None:
    if not has_socket(request.environ):
        raise Problem.of(501, Code.NO_SOCKET, "This server does not support websockets.")


def explain_websocket(machine: str) -> ResponseReturnValue:
    """Answer a plain GET with why no websocket can be opened here, or with 426 if one can.

    A browser does not tell its page why a handshake failed, so fsm.js asks here
    (RFC 9110, section 15.5.22).
    """
    try:
        # This request opens nothing, and browsers send no Origin with a GET of their own site.
        state, bound, service = find_endpoint(machine, opens=False)
        _check_socket()
        engine = select_engine(service)
        check_connection(state, bound, service, engine)
    except Problem as problem:
        return problem.response()
    # With scope="connection" neither a stream nor a POST can replace the websocket.
    reason = Code.BAD_HANDSHAKE if bound.machine.scope == "subject" else Code.WEBSOCKET_ONLY
    text = f"This is the address of the websocket of {machine!r}: connect with a websocket client."
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return Problem.of(426, reason, text, Sec_WebSocket_Version=VERSION, **upgrade).response()
