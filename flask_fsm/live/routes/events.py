"""Events: streams of server-sent events (WHATWG HTML), of flows and of the app's own views."""

from __future__ import annotations

from functools import partial

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
        # Without access to the socket, the server itself decides about chunks and keep-alive.
        ours = has_socket(request.environ)
        chunked = ours and request.environ["SERVER_PROTOCOL"] != "HTTP/1.0"
        make = partial(StreamTransport, chunked=chunked)
        transport = connect(state, bound, service, engine, make, since)
    except Problem as problem:
        return problem.response()
    greeting = transport.wrap(retry_bytes(service.config.sse_retry))
    connection = {"Connection": "close"} if ours else {}
    if chunked:
        connection["Transfer-Encoding"] = "chunked"
    headers = {**STREAM_HEADERS, **connection}
    return upgrade_response(200, headers, transport, engine, greeting)


def watch_stream(response: Response) -> None:
    """End a stream of the app's own views when its client disconnects or this process ends."""
    stream = response.response
    if isinstance(stream, SSEStream):
        end_silence(socket_of(request.environ), stream.heartbeat * SILENCE)
        service: Service = app_state().live
        service.threads.track(stream)
