"""Events: streams of server-sent events (WHATWG HTML), of flows and of the app's own views."""

from __future__ import annotations

from flask import Response, request
from flask.typing import ResponseReturnValue

from ...runtime.app_state import app_state
from ..channels.stream import SILENCE, SSEStream
from ..protocol.sse import STREAM_HEADERS, retry_bytes
from ..server.handoff import end_silence, has_socket, socket_of
from ..server.transport import StreamTransport
from ..service import Service
from .connect import connect, find_endpoint, select_engine
from .problem import Problem
from .upgrade import upgrade_response

__all__ = ["events", "watch_stream"]


def events(machine: str) -> ResponseReturnValue:
    """Open a stream of server-sent events of the flow of this session.

    What came after the id in `Last-Event-ID`, or `?since=`, is replayed first.
    """
    try:
        state, bound, service = find_endpoint(machine)
        if request.method == "HEAD":
            return Response(headers=STREAM_HEADERS)
        engine = select_engine(service)
        since = request.headers.get("Last-Event-ID") or request.args.get("since")
        transport = connect(state, bound, service, engine, StreamTransport, since)
    except Problem as problem:
        return problem.response()
    greeting = retry_bytes(service.config.sse_retry)
    # Without access to the socket, the server decides about keep-alive itself.
    connection = {"Connection": "close"} if has_socket(request.environ) else {}
    return upgrade_response(200, {**STREAM_HEADERS, **connection}, transport, engine, greeting)


def watch_stream(response: Response) -> None:
    """End a stream of the app's own views when its client disconnects or this process ends."""
    stream = response.response
    if isinstance(stream, SSEStream):
        end_silence(socket_of(request.environ), stream.heartbeat * SILENCE)
        service: Service = app_state().live
        service.threads.track(stream)
