"""Conversation: one client's events are run on its flow, each in a request context of its own."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from typing import Any, Final

from flask import Flask, Request, appcontext_tearing_down, request_tearing_down, session
from flask.ctx import RequestContext
from flask.globals import app_ctx
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from ...binding.bound_machine import Bound
from ...core.event import SAME, EventStatus, check_status
from ...core.flow import Flow, Result
from ...core.machine import Machine
from ...core.reply import dump_reply
from ...core.result import Sent
from ...core.snapshot import Snapshot
from ...errors import Code, FSMError, StaleFlow, StoreUnavailable, UnknownTarget
from ...runtime.listeners import Sender
from ...runtime.session_data import OWNER_KEY, SESSION_KEY, WAS_KEY
from ...runtime.state import AppState, unwrap
from ...runtime.unit_of_work import UnitOfWork, channel_key
from ...signals import emit, finished, transitioned
from ..channels.app_channels import FLOW, Envelope
from ..protocol.frames import ClientEvent, InvalidPayload, data_frame, parse, refusal, state_frame
from .subscriber import CLOSE_GOING, CLOSE_OTHER_USER, Job, Subscriber

__all__ = [
    "Conversation",
    "check_rev",
    "crash",
    "run_name",
    "subject_of",
    "unhandled",
    "url_arguments",
]

log: Final = logging.getLogger("flask_fsm")
KEPT: Final = (SESSION_KEY, OWNER_KEY, WAS_KEY)
CLOSE_GONE: Final = 4404
# Of the handshake, what says who asked for what; the rest belongs to the server.
ENVIRON: Final = frozenset(
    {
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "PATH_INFO",
        "QUERY_STRING",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "REMOTE_USER",
        "wsgi.url_scheme",
        "wsgi.version",
        "wsgi.multithread",
        "wsgi.multiprocess",
        "wsgi.run_once",
        "wsgi.errors",
    }
)


def run_name(snapshot: Snapshot) -> str:
    """Return what tells a run from those before it in the channel of their flow."""
    return snapshot.id.partition("~")[2]


def url_arguments(bound: Bound, arguments: Mapping[str, str]) -> dict[str, Any]:
    """Return the URL arguments that decide which flow is meant, as the query has them."""
    found: dict[str, Any] = {}
    for page in bound.pages.values():
        for name, converter in page.converters.items():
            if name in arguments and name not in found:
                try:
                    found[name] = converter.to_python(arguments[name])
                except ValueError:
                    continue  # then this address names no flow
    if isinstance(bound.machine.many, str) and bound.machine.many in arguments:
        found.setdefault(bound.machine.many, arguments[bound.machine.many])
    return found


def check_rev(asked: ClientEvent, flow: Flow) -> None:
    """Raise StaleFlow if a client asked at another rev than the flow is at."""
    if asked.rev is not None and asked.rev != flow.rev:
        raise StaleFlow(
            f"The event was sent at rev {asked.rev}, and the flow is at rev {flow.rev}.",
            flow=flow.id,
            source=flow.current,
            code=Code.STALE_REV,
        )


def crash(error: BaseException, machine: str, event: str | None = None) -> str:
    """Return the frame of an event that failed; what failed is for the log."""
    if isinstance(error, StoreUnavailable):
        log.error("%s", error, exc_info=error)
        return refusal(error)
    what = "Something after an event" if event is None else f"The handler of the event {event!r}"
    log.error("%s of machine %r failed.", what, machine, exc_info=error)
    return data_frame(
        {"reason": Code.CRASHED, "message": "This event could not be handled."},
        EventStatus.ServerRuntimeError,
    )


def subject_of(bound: Bound) -> str | None:
    """Return whose the groups are that a connection with a flow of its own joins."""
    if bound.subject_of is None or bound.by_url:
        return None
    return bound.subject_of({})


def unhandled(
    error: FSMError, flow: Flow | None, state: AppState, machine: str, event: str | None
) -> str:
    """Return the frame of an event that was refused, unless it failed."""
    if error.status >= 500:
        return crash(error, machine, event)
    if isinstance(error, UnknownTarget):
        # The client may have named it; but it may also be a slip of the handler.
        state.live.warn_of_target(machine, event or "", error)
    return refusal(error, flow)


def aborted(error: HTTPException) -> str:
    """Return the frame of an event whose flow this client may not have, as `abort()` has said."""
    status = EventStatus.Unauthorized if error.code in (401, 403) else EventStatus.Error
    return data_frame({"reason": Code.ABORTED, "message": error.description}, status)


def as_it_is(channel: str, message: Envelope) -> Envelope:
    """Return a message unmarked, since it can neither be late nor lost."""
    return message


class EventContext(RequestContext):
    """The context of an event: that of the handshake, whose address need not be matched again."""

    def __init__(
        self,
        app: Flask,
        environ: dict[str, Any],
        session: SessionMixin | None,
        rule: Rule | None,
        view_args: dict[str, Any] | None,
    ) -> None:
        super().__init__(app, environ, None, session)
        self.request.url_rule = rule
        self.request.view_args = view_args

    def match_request(self) -> None:
        pass


class HeldContext:
    """Keeps a context pushed from event to event, since to push it takes longer than most of them.

    Each event has a copy of its context variables (PEP 567). After each the app tears down what it
    does after a request, and `g` is a new one.
    """

    __slots__ = ("_app_context", "_context", "_session", "_variables")

    def __init__(self, context: EventContext) -> None:
        self._context = context
        self._variables = Context()
        self._variables.run(context.push)
        self._app_context = self._variables.run(unwrap, app_ctx)
        self._session = context.session

    def run(self, function: Callable[[Job], None], job: Job) -> None:
        """Call a function with a job within the context; raises what a teardown function raises."""
        self._variables.copy().run(self._run, function, job)

    def _run(self, function: Callable[[Job], None], job: Job) -> None:
        app = self._context.app
        try:
            function(job)
        finally:
            try:
                # Where nobody listens, this would be a third of what a short event takes.
                if app.teardown_request_funcs or request_tearing_down.receivers:
                    app.do_teardown_request()
            finally:
                try:
                    if app.teardown_appcontext_funcs or appcontext_tearing_down.receivers:
                        app.do_teardown_appcontext()
                finally:
                    self._app_context.g = app.app_ctx_globals_class()
                    # There is no answer that any of these could wait for.
                    self._context._after_request_functions.clear()
                    if "_flashes" in self._session:
                        del self._session["_flashes"]

    def end(self) -> None:
        """Pop the context, which tears down once more, and leaves no circle of references."""
        try:
            self._variables.run(self._context.pop)
        except Exception as error:
            log.error("A context of events could not be torn down.", exc_info=error)


class OwnFlow(Flow):
    """The flow of one connection: nothing keeps it, and its client is told of each move."""

    __slots__ = ("_conversation",)

    def __init__(self, machine: Machine, state: AppState, conversation: Conversation) -> None:
        super().__init__(machine, clock=state.clock)
        self._conversation = conversation

    def transition(
        self,
        to: str,
        data: Any = None,
        *,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result:
        # Nothing is kept, so what is no mapping can be said without being an answer.
        answers = data if isinstance(data, Mapping) else None
        said = data if reply is SAME else reply
        check_status(status)
        dump_reply(said)  # while it can still be refused
        result = self.step(to, answers, source=source)
        self.apply(result)
        if self._sent is not None:
            self._sent.append(Sent(status, said, result))
        self._conversation.moved(self, result, status, said)
        return result

    def transmit(self, data: Any = None, status: int = EventStatus.OK) -> None:
        super().transmit(data, status)
        self._conversation.transmitted(data, status)


class Conversation:
    """What one websocket or stream says to its flow, and is answered."""

    __slots__ = (
        "_app",
        "_bound",
        "_environ",
        "_groups",
        "_held",
        "_kept",
        "_own",
        "_prompt",
        "_ref",
        "_rule",
        "_session",
        "_session_is_kept",
        "_state",
        "_subject",
        "_url_args",
        "_view_args",
        "closing",
        "subscriber",
    )

    def __init__(
        self,
        app: Flask,
        state: AppState,
        bound: Bound,
        request: Request,
        subscriber: Subscriber,
        groups: Iterable[str],
    ) -> None:
        self._app = app
        self._state = state
        self._bound = bound
        self._rule = request.url_rule
        self._view_args = request.view_args
        self._environ = {
            name: value
            for name, value in request.environ.items()
            if name in ENVIRON or name.startswith("HTTP_")
        }
        self._url_args = url_arguments(bound, request.args)
        self.subscriber = subscriber
        self._groups = tuple(groups)
        self._prompt = state.live.channels.bus.synchronous
        """Whether what is published is queued for this client at once."""
        self._own: OwnFlow | None = None
        self._ref: Any = None
        self._subject: str | None = None
        self._session: dict[str, Any] = {}
        self._session_is_kept = False
        self._held: HeldContext | None = None
        self._kept: dict[str, Any] = {}
        self.closing = 0
        """The code to close with, once what waits is out."""

    @property
    def kind(self) -> str:
        """The machine, if the flow is this connection's own, so that handling takes no store."""
        return "" if self._own is None else self._bound.name

    # -- joining, within the request that asks for it ------------------------------------

    def open(self, since: str | None) -> None:
        """Find the flow, listen to it, and queue what the client is to know at first."""
        if self._bound.machine.scope == "connection":
            self._own = OwnFlow(self._bound.machine, self._state, self)
            # The flow is nobody's, but the groups were opened to this user.
            self._subject = subject_of(self._bound)
            self._listen_to_subject()
            self._listen_to_groups()
            for name in self._lost(since):
                self.subscriber.tell_gap(name)
            self.subscriber.greet(*self._frame(self._own.snapshot))
        else:
            run = UnitOfWork(self._state, self._bound, self._url_args)
            run.load()
            run.renew()
            key = channel_key(run.flow.id)
            channels = self._state.live.channels
            self.subscriber.join(channels.get(FLOW + key))
            self._subject = run.locator.subject
            self._listen_to_subject()
            self._listen_to_groups()
            run.load()  # what was committed before we listened
            lost = self._lost(since)
            for name in lost:
                if name != FLOW + key:
                    self.subscriber.tell_gap(name)
            snapshot = run.flow.snapshot
            self.subscriber.greet(*self._frame(snapshot), gap=FLOW + key in lost)
        if isinstance(self._app.session_interface, SecureCookieSessionInterface):
            # Nothing can change it behind this client's cookie; any other is opened each time.
            self._session = dict(session)
            self._session_is_kept = True
        else:
            self._keep()

    def _lost(self, since: str | None) -> list[str]:
        """Put first what came after the id `since`; return the channels that lost some of it."""
        return [] if since is None else self.subscriber.catch_up(since)

    def _listen_to_subject(self) -> None:
        live = self._state.live
        if self._subject is not None:
            name = live.subject_channel(self._subject)
            self.subscriber.join(live.channels.get(name), silent=True)

    def _listen_to_groups(self) -> None:
        live = self._state.live
        for group in self._groups:
            self.subscriber.join(live.channels.get(live.group_channel(group)))
            self.subscriber.join(live.channels.get(live.orders_channel(group)), silent=True)

    def _frame(self, snapshot: Snapshot) -> tuple[str, str, int]:
        """Return the frame of a state, and what tells that state from others: its run and rev."""
        return state_frame(self._bound.machine, snapshot), run_name(snapshot), snapshot.rev

    # -- events, each in a context of its own --------------------------------------------

    def do(self, job: Job) -> None:
        """Run an event, or show the state anew; the outcome is queued. Never raises."""
        try:
            live = self._state.live
            if job.once and not live.channels.bus.acquire_once(job.once, live.once_seconds):
                return
            if self._session_is_kept:
                # The first event makes it, so that those who only listen take no room for it.
                if self._held is None:
                    self._held = HeldContext(self._context())
                self._held.run(self._do, job)
            else:
                Context().run(self._do_anew, job)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of a teardown function of the app
            frame = crash(error, self._bound.name)
            if job.text is None:
                # What it has missed can't be told: it comes back, and is told then.
                self.closing = self.closing or CLOSE_GOING
            else:
                self._reply(frame, self._ref)
        finally:
            self._ref = None
            if job.text is None and not self.closing:
                self.subscriber.release()

    def _do_anew(self, job: Job) -> None:
        """Do it in a new context, whose session is opened."""
        with self._context():
            session.update(self._kept)
            try:
                self._do(job)
            finally:
                self._keep()

    def _do(self, job: Job) -> None:
        if job.text is None:
            self._show_again(job.anew)
        else:
            self._answer(job.text)

    def _context(self) -> EventContext:
        """Return the context in which an event is run: its request is that of the handshake."""
        own: SessionMixin | None = None
        interface = self._app.session_interface
        if self._session_is_kept and isinstance(interface, SecureCookieSessionInterface):
            own = interface.session_class(self._session)
        environ = {**self._environ, "wsgi.input": io.BytesIO()}
        return EventContext(self._app, environ, own, self._rule, self._view_args)

    def _keep(self) -> None:
        """Remember what the session says of flows, since no answer takes it to the browser."""
        names = (key + self._bound.name for key in KEPT)
        self._kept = {name: session[name] for name in names if name in session}

    def _answer(self, text: str | bytes) -> None:
        try:
            if isinstance(text, bytes):
                raise InvalidPayload("Frames are sent as text.")
            asked = parse(text)
        except InvalidPayload as error:
            self._reply(refusal(error), error.ref)
            return
        self._ref = asked.ref
        flow: Flow | None = None
        try:
            if self._own is not None:
                flow = self._own
                # What an event makes its own client hear is nothing that this is too slow for.
                stretched = self.subscriber.queue.stretch()
                try:
                    sent = self._handle(flow, asked)
                finally:
                    if stretched:
                        self.subscriber.queue.settle()
            else:
                mark = as_it_is if self._prompt else self.subscriber.mark
                sender = Sender(self.subscriber.id, asked.ref, mark)
                run = UnitOfWork(self._state, self._bound, self._url_args, sender)
                with run.lock():
                    run.load()
                    if not self._is_ours(run):
                        return
                    flow = run.flow
                    sent = self._handle(flow, asked)
        except FSMError as error:
            self._reply(
                unhandled(error, flow, self._state, self._bound.name, asked.event), asked.ref
            )
        except HTTPException as error:
            # Before there is a flow, whoever says whose it is has aborted, as for a page.
            frame = self._crash(error, asked) if flow is not None else aborted(error)
            self._reply(frame, asked.ref)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a task that was cancelled, a time that is over, an exit
            self._reply(self._crash(error, asked), asked.ref)
        else:
            if not sent and asked.ref is not None:
                self._reply(data_frame(None, EventStatus.NoContent), asked.ref)

    def _crash(self, error: BaseException, asked: ClientEvent) -> str:
        return crash(error, self._bound.name, asked.event)

    def _reply(self, frame: str, ref: Any) -> None:
        """Answer this client only, after what it has been answered on the channel of its flow."""
        subscriber = self.subscriber
        if self._prompt or not subscriber.expecting:
            subscriber.say(frame, ref)
        else:
            channel = subscriber.flow_channel
            envelope = subscriber.mark(channel, Envelope("answer", frame, subscriber.id, ref))
            self._state.live.channels.publish(channel, envelope)

    def _handle(self, flow: Flow, asked: ClientEvent) -> list[Sent]:
        check_rev(asked, flow)
        return flow.handle(asked.event, asked.data)

    def _is_ours(self, run: UnitOfWork) -> bool:
        """Tell whether the flow is still the client's; else the connection ends.

        A subject's flow may be another one by now: another device has begun it, or reset it.
        """
        name = self._state.live.flow_channel(run.flow.id)
        if run.locator.subject != self._subject:
            self.closing = CLOSE_OTHER_USER
        elif run.missing_reason is not None:
            self.closing = CLOSE_GONE
        elif name != self.subscriber.flow_channel:
            if self._subject is None:
                self.closing = CLOSE_GOING
            else:
                self._switch(run, name)
        return not self.closing

    def _switch(self, run: UnitOfWork, name: str) -> None:
        self.subscriber.switch(self._state.live.channels.get(name))
        run.load()  # what was committed before we listened
        snapshot = run.flow.snapshot
        self.subscriber.show(*self._frame(snapshot), gap=True)

    def _show_again(self, anew: bool) -> None:
        if self._own is not None:
            return
        run = UnitOfWork(self._state, self._bound, self._url_args)
        run.load()
        before = self.subscriber.flow_channel
        if self._is_ours(run) and before == self.subscriber.flow_channel and not anew:
            snapshot = run.flow.snapshot
            self.subscriber.greet(*self._frame(snapshot), gap=True)

    def leave(self) -> None:
        """Let go of the flow and of the context: nothing more is asked."""
        self._own = None
        if self._held is not None:
            self._held.end()
            self._held = None

    # -- what the flow of this connection says --------------------------------------------

    def moved(self, flow: Flow, result: Result, status: int, reply: Any) -> None:
        """Tell the client of a transition, run its hooks, and tell the app by its signals."""
        # First, as a hook may move on, and tell of that.
        frame = state_frame(self._bound.machine, result.snapshot, status, reply)
        self.subscriber.say(frame, self._ref, kind="state")
        flow.run_hooks(result)
        facts = {"machine": self._bound.name, "flow": flow, "result": result}
        emit(transitioned, self._app, **facts)
        if result.finished:
            emit(finished, self._app, **facts)

    def transmitted(self, data: Any, status: int) -> None:
        """Tell the client what a handler says."""
        self.subscriber.say(data_frame(data, status), self._ref)
