"""HTTP: a flow's state and events by plain requests, for programs without a websocket."""

from __future__ import annotations

from typing import Any, Final

from flask import Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from ...binding.bound_machine import Bound
from ...core.event import EventStatus
from ...core.flow import Flow
from ...errors import Code, FSMError
from ...responses import is_json
from ...runtime.app_state import AppState, app_state, unwrap
from ...runtime.unit_of_work import UnitOfWork
from ..client.connection_flow import ConnectionFlow
from ..client.failures import crash_frame, error_frame
from ..client.session import check_rev, url_arguments
from ..protocol.frames import (
    InvalidPayload,
    data_frame,
    dumps,
    frames_of,
    listed,
    parse,
    refusal,
    stamped,
    state_frame,
)
from ..service import Service
from .connect import find_endpoint
from .problem import Problem, problem_of

__all__ = ["health", "send_event", "show_state"]

# Seconds that a response waits for its messages to be sent to other processes.
FLUSH_TIMEOUT: Final = 0.5


def _json_response(body: str, status: int = 200) -> Response:
    response: Response = current_app.response_class(body, status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.vary.add("Cookie")
    return response


def _unit_of_work(state: AppState, bound: Bound) -> UnitOfWork:
    return UnitOfWork(state, bound, url_arguments(bound, request))


def _flow_of_request(state: AppState, bound: Bound) -> ConnectionFlow:
    """Return the flow of a request that is a connection of its own, with scope="connection"."""
    return ConnectionFlow(unwrap(current_app), state, bound.machine)


def show_state(machine: str) -> ResponseReturnValue:
    """Answer with the state frame of the flow of this session."""
    try:
        state, bound, _ = find_endpoint(machine)
        if bound.machine.scope == "connection":
            flow: Flow = _flow_of_request(state, bound)
        else:
            work = _unit_of_work(state, bound)
            work.load()
            work.renew()
            flow = work.flow
    except Problem as problem:
        return problem.response()
    except FSMError as error:
        return problem_of(error).response()
    return _json_response(state_frame(bound.machine, flow.snapshot))


def send_event(machine: str) -> ResponseReturnValue:
    """Run an event on the flow of this session, and answer with the frames of its handler."""
    try:
        state, bound, service = find_endpoint(machine)
        if not is_json(request):
            # A form of another site can't send this type without a CORS preflight.
            raise Problem.of(415, Code.NOT_JSON, "Send an event as application/json.")
        body = _body(service.config.max_message_size)
    except Problem as problem:
        return problem.response()
    ref: Any = None
    event: str | None = None
    flow: Flow | None = None
    try:
        client_event = parse(body)
        ref, event = client_event.ref, client_event.event
        if bound.machine.scope == "connection":
            flow = _flow_of_request(state, bound)
            check_rev(client_event, flow)
            sent = flow.handle(client_event.event, client_event.data)
        else:
            work = _unit_of_work(state, bound)
            with work.lock():
                work.load()
                missing = work.missing_reason
                work.renew()
                if missing is not None:
                    raise missing  # the event was for the old flow; the next may be for the new
                flow = work.flow
                check_rev(client_event, flow)
                sent = flow.handle(client_event.event, client_event.data)
        # What is sent after this answer, perhaps by another process, must also arrive after it.
        service.channels.bus.flush(FLUSH_TIMEOUT)
    except InvalidPayload as error:
        return _json_response(stamped(refusal(error), error.ref), 400)
    except FSMError as error:
        frame = error_frame(error, flow, service, machine, event)
        answer = _json_response(stamped(frame, ref), error.status)
        if error.retry_after is not None:
            answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # abort(), CancelledError, a timeout, SystemExit
        if flow is None and isinstance(error, HTTPException):
            raise  # the app's function that finds the subject called abort(), as for a page
        return _json_response(stamped(crash_frame(error, service, machine, event), ref), 500)
    frames = frames_of(bound.machine, sent) or [data_frame(None, EventStatus.NoContent)]
    return _json_response(stamped(listed(frames), ref))


def _body(limit: int) -> bytes:
    if (request.content_length or 0) <= limit:
        body = request.stream.read(limit + 1)
        if len(body) <= limit:
            return body
    raise Problem.of(413, Code.TOO_LARGE, f"An event may have at most {limit} bytes.")


def health() -> ResponseReturnValue:
    """Answer that this process serves requests, with its number of live connections."""
    service: Service = app_state().live
    connections = len(service.loop) + len(service.threads)
    return _json_response(dumps({"status": "ok", "connections": connections}))
