"""Websocket: the handshake of RFC 6455, and the answer to a plain GET of the same address."""

from __future__ import annotations

from typing import Any

from flask import request
from flask.typing import ResponseReturnValue

from ...errors import Code, FSMError
from ...runtime.unit_of_work import UnitOfWork
from ..client.session import subject_of, url_arguments
from ..protocol.websocket import VERSION, Handshake, WebSocket
from ..server.handoff import has_socket
from ..server.transport import Transport, WebSocketTransport
from .connect import connect, find_endpoint, requested_groups, select_engine
from .problem import Problem, problem_of
from .room import room_finder
from .upgrade import upgrade_response

__all__ = ["explain_websocket", "websocket"]


def websocket(machine: str) -> ResponseReturnValue:
    """Open a websocket on the flow of this session (RFC 6455)."""
    try:
        state, bound, service = find_endpoint(machine)
        protocol = request.environ.get("SERVER_PROTOCOL")
        if request.method != "GET" or protocol == "HTTP/1.0":
            raise Problem.of(
                400, Code.BAD_HANDSHAKE, "A websocket handshake must be a GET by HTTP/1.1."
            )
        handshake = _handshake()
        _check_socket()
        engine = select_engine(service)

        def make(*parts: Any) -> Transport:
            socket = WebSocket(handshake.extensions, service.config.max_message_size)
            return WebSocketTransport(socket, *parts)

        transport = connect(state, bound, service, engine, make, request.args.get("since"))
        return upgrade_response(101, handshake.headers, transport, engine)
    except Problem as problem:
        return problem.response()


def _handshake() -> Handshake:
    version = request.headers.get("Sec-WebSocket-Version")
    try:
        return Handshake(
            request.headers.get("Sec-WebSocket-Key"),
            version,
            request.headers.get("Sec-WebSocket-Extensions"),
        )
    except ValueError as error:
        status = 400 if version == VERSION else 426
        raise Problem.of(
            status, Code.BAD_HANDSHAKE, str(error), Sec_WebSocket_Version=VERSION
        ) from None


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
        requested_groups(service)
        channel = None
        if bound.machine.scope == "subject":
            work = UnitOfWork(state, bound, url_arguments(bound, request))
            work.load()
            channel = service.channels.get(service.flow_channel(work.flow.id))
        else:
            subject_of(bound)
        room_finder(service, engine)(channel)
    except Problem as problem:
        return problem.response()
    except FSMError as error:
        return problem_of(error).response()
    # With scope="connection" neither a stream nor a POST can replace the websocket.
    reason = Code.BAD_HANDSHAKE if bound.machine.scope == "subject" else Code.WEBSOCKET_ONLY
    text = f"This is the address of the websocket of {machine!r}: connect with a websocket client."
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return Problem.of(426, reason, text, Sec_WebSocket_Version=VERSION, **upgrade).response()
