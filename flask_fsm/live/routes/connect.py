"""Connect: checks a request for a live endpoint, and registers the client of a new connection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar

from flask import Response, after_this_request, current_app, request

from ...binding.bound_machine import Bound
from ...errors import Code, FSMError
from ...runtime.app_state import AppState, app_state, unwrap
from ...security.origin import has_no_origin, is_allowed_origin, site_of
from ...stores import RecordStore
from ...texts import _
from ..admission import no_such_machine
from ..client.presence import LONGEST_GROUP, Membership, is_group
from ..client.session import ENDPOINTS, ClientSession, url_arguments
from ..client.subscriber import Subscriber
from ..server.engine import Engine
from ..server.gunicorn import threads
from ..server.handoff import hang_up
from ..server.transport import Transport
from ..service import Service
from .problem import Problem, problem_of
from .room import client_address, full, room_finder

__all__ = [
    "check_connection",
    "connect",
    "find_endpoint",
    "hang_up_if_refused",
    "select_engine",
]

T = TypeVar("T", bound=Transport)
log: Final = logging.getLogger("flask_fsm")
MAX_GROUPS: Final = 16
# Characters of a connection's headers and query, which are kept as long as it is open.
MAX_HEADERS: Final = 32_768


def find_endpoint(name: str, *, opens: bool = True) -> tuple[AppState, Bound, Service]:
    """Return the state, the machine and the service of an endpoint, or raise Problem.

    The Origin of the request must be this site or be listed in FSM_ALLOWED_ORIGINS. A request
    without one is refused if FSM_REQUIRE_ORIGIN is set and `opens` is True. Then the app is asked
    whether it admits this client.
    """
    if request.headers.get("Upgrade", "").lower() == "websocket":
        after_this_request(hang_up_if_refused)
    state = app_state()
    bound = state.bound.get(name)
    live, is_ours = state.config.live, (request.endpoint or "").startswith(ENDPOINTS)
    if bound is None or (is_ours and live is not True and name not in (live or ())):
        raise Problem(no_such_machine())
    service: Service = state.live
    if not is_allowed_origin(request, state.config):
        if not has_no_origin(request):
            site = site_of(request)
            service.warn_of_site(site, request.host)
            raise Problem.of(
                403,
                Code.ORIGIN,
                f"Pages of {site} may not use {request.host}, unless the server lists their site "
                f"in FSM_ALLOWED_ORIGINS.",
            )
        if opens:
            text = "Requests without an Origin are refused, because FSM_REQUIRE_ORIGIN is set."
            raise Problem.of(403, Code.ORIGIN, text)
    on_server = isinstance(state.store, RecordStore) and state.config.store_url != "memory://"
    service.warn_of_processes(request.environ, on_server)
    try:
        if is_ours:  # a route of the app's own has the guards that the app gives it
            service.admission.require_declared(bound)
        service.admission.check(bound, url_arguments(bound, request))
    except FSMError as error:
        raise problem_of(error) from error
    return state, bound, service


def hang_up_if_refused(response: Response) -> Response:
    """End the connection of a websocket that is refused, by whomever."""
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers["Connection"] = "close"
        response.call_on_close(partial(hang_up, request.environ))
    return response


def select_engine(service: Service) -> Engine:
    """Return the engine that serves this request's socket; raises Problem if none can."""
    environ = request.environ
    engine = service.engine_for(environ)
    if engine is service.threads and (threads() == 1 or not environ.get("wsgi.multithread")):
        log.error(
            "A socket or stream was refused: this server has one thread, so nothing else would be "
            "served meanwhile. Run gunicorn with --threads or --worker-class gevent, or set "
            "FSM_LIVE_ENGINE to 'auto', which needs no thread where TLS is not the worker's."
        )
        raise Problem.of(503, Code.ONE_THREAD, "This server can't keep a connection open.")
    return engine


def _requested_groups(service: Service) -> dict[str, dict[str, Any]]:
    """Return the groups of `?group_id=`, each with the client's info for its members.

    Raises Problem if a name is invalid or the app does not authorize a group.
    """
    names = list(dict.fromkeys(request.args.getlist("group_id")))
    if len(names) > MAX_GROUPS:
        raise Problem.of(
            400, Code.TOO_MANY_GROUPS, f"A client may join at most {MAX_GROUPS} groups."
        )
    groups: dict[str, dict[str, Any]] = {}
    for name in names:
        if not is_group(name):
            raise Problem.of(
                400,
                Code.BAD_GROUP,
                f"A group name must have 1 to {LONGEST_GROUP} printable characters.",
            )
        allowed = service.authorize(name)
        if not allowed and not isinstance(allowed, Mapping):
            raise Problem.of(403, Code.GROUP, _("You may not join this group."))
        groups[name] = dict(allowed) if isinstance(allowed, Mapping) else {}
    return groups


def _check_headers() -> None:
    """Raise Problem if the headers of this request are too large to be kept."""
    kept = sum(
        len(value)
        for name, value in request.environ.items()
        if isinstance(value, str) and (name.startswith("HTTP_") or name == "QUERY_STRING")
    )
    if kept > MAX_HEADERS:
        text = f"The headers and the query of a connection may have {MAX_HEADERS} characters."
        raise Problem.of(431, Code.TOO_LARGE, text)


def open_session(
    state: AppState, bound: Bound, service: Service, engine: Engine, since: str | None
) -> tuple[ClientSession, Membership]:
    """Subscribe a client to its flow and groups; raises Problem.

    Return its session, and its membership in the groups, which it has not entered yet. `since` is
    the id after which missed messages are replayed.
    """
    _check_headers()
    groups = _requested_groups(service)
    config = service.config
    # A connection's own flow ends with it, but messages of its groups can be replayed.
    ids = bound.machine.scope == "subject" or bool(groups)
    subscriber = Subscriber(
        config.queue_size, config.queue_bytes, service.channels.backlog, ids=ids
    )
    try:
        session = ClientSession(
            unwrap(current_app), state, bound, unwrap(request), subscriber, groups
        )
        session.open(since, room_finder(service, engine))
    except BaseException as error:
        subscriber.leave()
        if isinstance(error, FSMError):
            raise problem_of(error) from error
        raise
    membership = Membership(
        service.channels,
        {service.group_channel(name): info for name, info in groups.items()},
        subscriber.id,
        config.presence_ttl,
    )
    return session, membership


def connect(
    state: AppState,
    bound: Bound,
    service: Service,
    engine: Engine,
    make: Callable[..., T],
    since: str | None,
) -> T:
    """Do the same for a client that is served, and return its transport, which `make` builds."""
    session, membership = open_session(state, bound, service, engine, since)
    transport = make(service.config, session.subscriber, session, membership)
    try:
        membership.enter()
    except BaseException as error:
        transport.release()
        if isinstance(error, FSMError):
            raise problem_of(error) from error
        raise
    if not engine.register(transport, client_address()):  # other clients connected at the same time
        transport.release()
        raise full()
    return transport


def check_connection(state: AppState, bound: Bound, service: Service, engine: Engine) -> None:
    """Raise Problem if a client could not connect now."""
    session = open_session(state, bound, service, engine, None)[0]
    session.subscriber.leave()
    session.close()
