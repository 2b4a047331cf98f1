"""Doors: the routes by which sockets, streams and programs come to a flow."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from ...binding.bound_machine import Bound
from ...core.event import EventStatus
from ...core.flow import Flow
from ...errors import Code, DuplicateEndpoint, FSMError, NotFound, StoreUnavailable
from ...refusal import Refusal, RefusalContext
from ...runtime.state import AppState, app_state, unwrap
from ...runtime.unit_of_work import UnitOfWork
from ...security.origin import has_no_origin, is_allowed_origin, site_of
from ...stores import RecordStore
from ..channels.stream import SILENCE, SSEStream
from ..client.presence import LONGEST_GROUP, Membership, is_group
from ..client.session import (
    Conversation,
    check_rev,
    crash,
    subject_of,
    unhandled,
    url_arguments,
)
from ..client.subscriber import Subscriber
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
from ..protocol.websocket import VERSION, Handshake, WebSocket
from ..server.engine import Engine, Wake
from ..server.gunicorn import threads
from ..server.handoff import Handed, end_silence, has_socket, socket_of
from ..server.transport import Peer, SocketPeer, StreamPeer
from ..service import Service

__all__ = [
    "ENDPOINT",
    "answering",
    "check_endpoints",
    "events",
    "health",
    "let_go",
    "no_websocket",
    "send_event",
    "show_state",
    "watch_streams",
    "websocket",
]

log: Final = logging.getLogger("flask_fsm")
ENDPOINT: Final = "fsm.endpoint."
# Where the environ of a request keeps what lets go of a client that is not going to be served.
OPENING: Final = "flask_fsm.opening"
MAX_GROUPS: Final = 16
# Seconds that an answer waits until what it tells of is on its way to other processes.
FLUSH: Final = 0.5
STREAM: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
# Of these an answer that is no document of HTTP has none.
OF_BODIES: Final = ("content-type", "content-length")


class Refused(Exception):
    """A door stays closed."""

    def __init__(self, error: FSMError, **headers: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @classmethod
    def of(cls, status: int, reason: Code, text: str, **headers: str) -> Refused:
        """Say with which status, and why."""
        error = FSMError(text, code=reason)
        error.status = status
        return cls(error, **headers)

    def answer(self) -> Response:
        """Return the problem document, which is that of pages too: who asks here is a program."""
        status = self.error.status
        document = Refusal.of(self.error, RefusalContext()).to_dict()
        document["title"] = HTTPStatus(status).phrase
        response: Response = current_app.response_class(
            dumps(document), status, content_type="application/problem+json"
        )
        if self.error.retry_after is not None:
            response.headers["Retry-After"] = str(self.error.retry_after)
        response.headers.update(self.headers)
        # A client goes by it whether it comes back, and how.
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Cookie")
        return response


def refused(error: FSMError) -> Refused:
    """Return how a door says an error, as a page would: raises it again if it is the app's."""
    if isinstance(error, StoreUnavailable):
        log.error("%s", error, exc_info=error)
    elif error.status >= 500:
        raise error
    return Refused(error)


# -- sockets and streams --------------------------------------------------------------------------


class Opened(Response):
    """The answer that begins a connection: an engine goes on with the socket behind it."""

    _peer: Peer
    _engine: Engine
    _wake: Wake
    _greeting = b""
    _lost: weakref.finalize[[Engine, Peer], Opened]

    def begin(self, peer: Peer, engine: Engine, wake: Wake, greeting: bytes = b"") -> Opened:
        """Say who goes on, and what is sent first."""
        self._peer, self._engine, self._wake, self._greeting = peer, engine, wake, greeting
        # The app may put another answer in the place of this one, which nobody is told; or fail.
        self._lost = weakref.finalize(self, abandon, engine, peer)
        request.environ[OPENING] = self._lost
        return self

    def __call__(self, environ: Any, start_response: Any) -> Any:
        environ.pop(OPENING, None)
        self._lost.detach()
        if not has_socket(environ):
            self.response = Streamed(self._engine, self._peer, self._greeting)
            return super().__call__(environ, start_response)
        phrase = HTTPStatus(self.status_code).phrase
        lines = [f"HTTP/1.1 {self.status_code} {phrase}"]
        switched = self.status_code == HTTPStatus.SWITCHING_PROTOCOLS
        lines += [
            f"{name}: {value}"
            for name, value in self.headers
            if not (switched and name.lower() in OF_BODIES) and name.lower() != "content-length"
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self._greeting

        def serve(sock: Any) -> None:
            self._engine.serve(sock, self._peer, head, self._wake)

        # For the server's log; what it writes goes nowhere.
        start_response(f"{self.status_code} {phrase}", [("Connection", "close")])
        return Handed(environ, serve, lambda: self._engine.dismiss(self._peer))


@lru_cache(maxsize=8)
def opened_class(response_class: Any) -> type[Opened]:
    """Return a class of such answers that is also the app's own, or Flask would make it that."""
    if issubclass(Opened, response_class):
        return Opened
    return type("Opened", (Opened, response_class), {})


def opened(
    status: int,
    headers: Mapping[str, str],
    peer: Peer,
    engine: Engine,
    wake: Wake,
    greeting: bytes = b"",
) -> Opened:
    """Return the answer that begins a connection."""
    own: Any = current_app.response_class
    response = opened_class(own)(status=status, headers=dict(headers))
    return response.begin(peer, engine, wake, greeting)


def abandon(engine: Engine, peer: Peer) -> None:
    """Let go of a client that will not be served, whatever the garbage collector has come upon."""
    threading.Thread(
        target=engine.dismiss, args=(peer,), name="flask-fsm-abandon", daemon=True
    ).start()


def let_go(app: Flask, exception: BaseException) -> None:
    """Let go of a client whose answer is lost, since the app has failed after it was made."""
    # By itself it would be so with the next garbage collection: a traceback knows the answer.
    lost = request.environ.pop(OPENING, None)
    if lost is not None:
        lost()


class Streamed(Iterator[bytes]):
    """A stream as the server iterates over it, where it does not let us at its socket."""

    def __init__(self, engine: Engine, peer: Peer, greeting: bytes) -> None:
        self._engine = engine
        self._peer = peer
        self._greeting = greeting
        self._beat_at = peer.first_beat()

    def __next__(self) -> bytes:
        peer = self._peer
        if self._greeting:
            greeting, self._greeting = self._greeting, b""
            return greeting
        while True:
            while peer.jobs:
                peer.do(peer.jobs.popleft())
            out = b""
            if (now := time.monotonic()) >= self._beat_at:
                # Whatever else is said, since a beat also keeps the client in its groups.
                self._beat_at = peer.next_beat()
                out = peer.beat()
            if out := out + peer.outgoing():
                return out
            if peer.ended:
                raise StopIteration
            if not peer.jobs:
                peer.subscriber.queue.wait(self._beat_at - now)

    def close(self) -> None:
        self._engine.dismiss(self._peer)


def watch_streams(response: Response) -> Response:
    """Let the streams of the app's own views end, too, when client or process vanish."""
    stream = response.response
    if isinstance(stream, SSEStream):
        end_silence(socket_of(request.environ), stream.heartbeat * SILENCE)
        service: Service = app_state().live
        service.threads.accompany(stream)
    return response


def no_websocket(machine: str) -> ResponseReturnValue:
    """Say why a websocket can't be opened here, or that a handshake does it (RFC 9110, 15.5.22).

    A browser does not tell its page why a handshake was refused, so the page asks here.
    """
    try:
        # Nothing is opened here, and browsers name no Origin when they get something.
        state, bound, service = _found(machine, opens=False)
        _check_socket()
        _engine(service)
        _groups(service)
        if bound.machine.scope == "subject":
            UnitOfWork(state, bound, url_arguments(bound, request.args)).load()
        else:
            subject_of(bound)
    except Refused as closed:
        return closed.answer()
    except FSMError as error:
        return refused(error).answer()
    # Where each websocket has a flow of its own, no stream and no POST can take its place.
    reason = Code.BAD_HANDSHAKE if bound.machine.scope == "subject" else Code.WEBSOCKET_ONLY
    text = f"At this address is the websocket of {machine!r}, which a handshake opens."
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return Refused.of(426, reason, text, Sec_WebSocket_Version=VERSION, **upgrade).answer()


def _check_socket() -> None:
    if not has_socket(request.environ):
        raise Refused.of(501, Code.NO_SOCKET, "This server lets no websocket be opened.")


def websocket(machine: str) -> ResponseReturnValue:
    """Open a websocket on the flow of this session (RFC 6455)."""
    try:
        state, bound, service = _found(machine)
        protocol = request.environ.get("SERVER_PROTOCOL")
        if request.method != "GET" or protocol == "HTTP/1.0":
            raise Refused.of(400, Code.BAD_HANDSHAKE, "A handshake is a GET of HTTP/1.1.")
        try:
            shake = Handshake(
                request.headers.get("Sec-WebSocket-Key"),
                request.headers.get("Sec-WebSocket-Version"),
                request.headers.get("Sec-WebSocket-Extensions"),
            )
        except ValueError as error:
            version = request.headers.get("Sec-WebSocket-Version")
            status = 400 if version == VERSION else 426
            raise Refused.of(
                status, Code.BAD_HANDSHAKE, str(error), Sec_WebSocket_Version=VERSION
            ) from None
        _check_socket()
        engine = _engine(service)
        wake = Wake()

        def make(*parts: Any) -> Peer:
            socket = WebSocket(shake.extensions, service.config.max_message_size)
            return SocketPeer(socket, *parts)

        peer = _open(state, bound, service, engine, wake, make, request.args.get("since"))
        return opened(101, shake.headers, peer, engine, wake)
    except Refused as closed:
        return closed.answer()


def events(machine: str) -> ResponseReturnValue:
    """Open a stream of server-sent events of the flow of this session."""
    try:
        state, bound, service = _found(machine)
        if request.method == "HEAD":
            return Response(headers=STREAM)
        engine = _engine(service)
        wake = Wake()
        since = request.headers.get("Last-Event-ID") or request.args.get("since")
        peer = _open(state, bound, service, engine, wake, StreamPeer, since)
    except Refused as closed:
        return closed.answer()
    greeting = b"retry: %d\n\n" % service.config.sse_retry
    # Of a connection that is not ours the server says itself whether it goes on.
    ours = {"Connection": "close"} if has_socket(request.environ) else {}
    return opened(200, {**STREAM, **ours}, peer, engine, wake, greeting)


def _found(name: str, *, opens: bool = True) -> tuple[AppState, Bound, Service]:
    """Return what a door leads to; the door is closed to pages of other sites.

    FSM_REQUIRE_ORIGIN is for what `opens` or tells something.
    """
    state = app_state()
    bound = state.bound.get(name)
    if bound is None:
        raise Refused.of(404, Code.NOT_FOUND, "There is no such machine.")
    service: Service = state.live
    if not is_allowed_origin(request, state.config):
        if not has_no_origin(request):
            site = site_of(request)
            service.warn_of_site(site, request.host)
            raise Refused.of(
                403,
                Code.ORIGIN,
                f"Pages of {site} may not do that at {request.host}, unless the server's "
                f"FSM_ALLOWED_ORIGINS allows them.",
            )
        if opens:
            text = "A program sends no Origin, and may not do that where FSM_REQUIRE_ORIGIN is on."
            raise Refused.of(403, Code.ORIGIN, text)
    apart = isinstance(state.store, RecordStore) and state.config.store_url != "memory://"
    service.warn_of_processes(request.environ, apart)
    return state, bound, service


def _engine(service: Service) -> Engine:
    environ = request.environ
    engine = service.engine_for(environ)
    if engine is service.threads and (threads() == 1 or not environ.get("wsgi.multithread")):
        log.error(
            "A socket or stream was refused: this server has one thread, so nothing else would be "
            "served meanwhile. Run gunicorn with --threads or --worker-class gevent, or set "
            "FSM_LIVE_ENGINE to 'auto', which needs no thread where TLS is not the worker's."
        )
        raise Refused.of(503, Code.ONE_THREAD, "This server can't keep a connection open.")
    if engine.full:
        raise full()
    return engine


def full() -> Refused:
    """Return how a connection is refused that would be one too many."""
    text = "This server serves as many connections as it can."
    return Refused.of(503, Code.FULL, text, Retry_After="5")


def _groups(service: Service) -> dict[str, dict[str, Any]]:
    """Return the groups that are asked for, and what the app says of this client in each."""
    names = list(dict.fromkeys(request.args.getlist("group_id")))
    if len(names) > MAX_GROUPS:
        raise Refused.of(400, Code.TOO_MANY_GROUPS, f"A client joins at most {MAX_GROUPS} groups.")
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if not is_group(name):
            raise Refused.of(
                400, Code.BAD_GROUP, f"A group has a name of at most {LONGEST_GROUP} signs."
            )
        allowed = service.authorize(name)
        if not allowed and not isinstance(allowed, Mapping):
            raise Refused.of(403, Code.GROUP, "You may not join this group.")
        found[name] = dict(allowed) if isinstance(allowed, Mapping) else {}
    return found


def _open(
    state: AppState,
    bound: Bound,
    service: Service,
    engine: Engine,
    wake: Wake,
    make: Callable[..., Peer],
    since: str | None,
) -> Peer:
    groups = _groups(service)
    config = service.config
    # A flow of the connection's own is not come back to, but groups are.
    ids = bound.machine.scope == "subject" or bool(groups)
    subscriber = Subscriber(config.queue_size, wake, ids=ids)
    membership = Membership(
        service.channels,
        {service.group_channel(name): info for name, info in groups.items()},
        subscriber.id,
        config.presence_ttl,
    )
    try:
        conversation = Conversation(
            unwrap(current_app), state, bound, unwrap(request), subscriber, groups
        )
        conversation.open(since)
        membership.enter()
    except BaseException as error:
        subscriber.leave()
        membership.leave()
        if isinstance(error, FSMError):
            raise refused(error) from error
        raise
    peer = make(config, subscriber, conversation, membership)
    if not engine.admit(peer):  # others came at the same time
        peer.gone()
        raise full()
    return peer


# -- plain HTTP -----------------------------------------------------------------------------------


def _answer(body: str, status: int = 200) -> Response:
    response: Response = current_app.response_class(body, status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.vary.add("Cookie")
    return response


def _run(state: AppState, bound: Bound) -> UnitOfWork:
    if bound.machine.scope == "connection":
        raise NotFound("Each websocket of this machine has a flow of its own.")
    return UnitOfWork(state, bound, url_arguments(bound, request.args))


def show_state(machine: str) -> ResponseReturnValue:
    """Answer with the state frame of the flow of this session."""
    try:
        state, bound, _ = _found(machine)
        run = _run(state, bound)
        run.load()
        run.renew()
    except Refused as closed:
        return closed.answer()
    except FSMError as error:
        return refused(error).answer()
    return _answer(state_frame(bound.machine, run.flow.snapshot))


def send_event(machine: str) -> ResponseReturnValue:
    """Run an event on the flow of this session, and answer with what its handler said."""
    try:
        state, bound, service = _found(machine)
        if request.mimetype != "application/json":
            # A form of another site can't send this type without being asked (CORS).
            raise Refused.of(415, Code.NOT_JSON, "An event is sent as application/json.")
        limit = service.config.max_message_size
        if (request.content_length or 0) > limit:
            raise Refused.of(413, Code.TOO_LARGE, f"An event takes at most {limit} bytes.")
        body = request.stream.read(limit + 1)
        if len(body) > limit:
            raise Refused.of(413, Code.TOO_LARGE, f"An event takes at most {limit} bytes.")
    except Refused as closed:
        return closed.answer()
    ref: Any = None
    event: str | None = None
    flow: Flow | None = None
    try:
        asked = parse(body)
        ref, event = asked.ref, asked.event
        run = _run(state, bound)
        with run.lock():
            run.load()
            gone = run.missing_reason
            run.renew()
            if gone is not None:
                raise gone  # this was for the old flow; the next may be for the new one
            flow = run.flow
            check_rev(asked, flow)
            sent = flow.handle(asked.event, asked.data)
        # What is sent after this answer, perhaps to another process, is told after it, too.
        service.channels.bus.flush(FLUSH)
    except InvalidPayload as error:
        return _answer(stamped(refusal(error), error.ref), 400)
    except FSMError as error:
        answer = _answer(stamped(unhandled(error, flow, state, machine, event), ref), error.status)
        if error.retry_after is not None:
            answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    except KeyboardInterrupt:
        raise
    except HTTPException as error:
        if flow is None:
            raise  # whoever says whose flow it is has aborted, as for a page
        return _answer(stamped(crash(error, machine, event), ref), 500)
    except BaseException as error:  # a task that was cancelled, a time that is over, an exit
        return _answer(stamped(crash(error, machine, event), ref), 500)
    frames = frames_of(bound.machine, sent) or [data_frame(None, EventStatus.NoContent)]
    return _answer(stamped(listed(frames), ref))


def health() -> ResponseReturnValue:
    """Say that this process serves, and by how many connections."""
    service: Service = app_state().live
    return _answer(dumps({"status": "ok", "connections": len(service.loop) + len(service.threads)}))


def is_ours(rule: Rule) -> bool:
    """Tell whether a rule leads to an endpoint of `fsm.live`."""
    return str(rule.endpoint).startswith(ENDPOINT)


def check_endpoints(app: Flask) -> None:
    """Raise DuplicateEndpoint if a view of the app answers where an endpoint is to."""
    rules = [rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())]
    places = {(rule.rule, rule.host, rule.subdomain) for rule in rules if is_ours(rule)}
    for rule in rules:
        theirs = not (is_ours(rule) or rule.websocket)
        if theirs and (rule.rule, rule.host, rule.subdomain) in places:
            raise DuplicateEndpoint(
                f"The view {rule.endpoint!r} answers at {rule.rule!r}, as does an endpoint of "
                f"fsm.live: give one of them another path."
            )


def answering(app: Flask, function: Callable[..., Any]) -> Callable[[], Any]:
    """Return the view of a function that is given the headers of the request."""

    def answer() -> Any:
        return app.ensure_sync(function)(request.headers)

    return answer
