"""ClientSession: runs one client's events on its flow, each in a request context."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import unquote

from flask import Flask, Request
from werkzeug.exceptions import HTTPException

from ...binding.bound_machine import Bound
from ...core.event import EventStatus
from ...core.flow import Flow, Result
from ...core.flow_base import Sent
from ...core.snapshot import Snapshot
from ...errors import Code, FSMError, StaleFlow
from ...runtime.app_state import AppState
from ...runtime.listeners import Sender
from ...runtime.session_data import OWNER_KEY, SESSION_KEY, WAS_KEY
from ...runtime.unit_of_work import UnitOfWork
from ..admission import NotAdmitted
from ..channels.app_channels import LiveChannel
from ..protocol.close_codes import CloseCode
from ..protocol.frames import (
    ClientEvent,
    Envelope,
    EnvelopeKind,
    FrameKind,
    InvalidPayload,
    data_frame,
    parse,
    refusal,
    run_of,
    state_frame,
)
from ..service import Service
from .actions import Job
from .connection_flow import ConnectionFlow
from .context import event_context
from .failures import abort_frame, crash_frame, error_frame
from .subscriber import Subscriber

__all__ = ["ENDPOINTS", "ClientSession", "check_rev", "subject_of", "url_arguments"]

# The prefixes of the keys that a machine has in the session of Flask.
SESSION_KEYS: Final = (SESSION_KEY, OWNER_KEY, WAS_KEY)
ENDPOINTS: Final = "fsm."
"""The prefix of the endpoints of the extension's own blueprint."""


def url_arguments(bound: Bound, request: Request) -> dict[str, Any]:
    """Return the URL arguments that identify the flow: of the app's own route, and of the query.

    The routes of the extension name a machine, and nothing of its flow.
    """
    is_ours = (request.endpoint or "").startswith(ENDPOINTS)
    given: dict[str, Any] = {} if is_ours else request.view_args or {}
    found: dict[str, Any] = {}
    known = {name for page in bound.pages.values() for name in page.converters}
    for page in bound.pages.values():
        for name, converter in page.converters.items():
            if name in found or not (name in given or name in request.args):
                continue
            try:
                # The page's route may have another converter than this one.
                text = unquote(converter.to_url(given[name])) if name in given else None
                found[name] = converter.to_python(request.args[name] if text is None else text)
            except ValueError:
                continue  # no flow has such an argument
    many = bound.machine.many
    if isinstance(many, str) and many not in known and many in request.args:
        found[many] = request.args[many]
    return found | {name: value for name, value in given.items() if name not in known}


def check_rev(client_event: ClientEvent, flow: Flow) -> None:
    """Raise StaleFlow if the client sent its event at another rev than the flow has."""
    if client_event.rev is not None and client_event.rev != flow.rev:
        raise StaleFlow(
            f"The event was sent at rev {client_event.rev}, but the flow is at rev {flow.rev}.",
            flow=flow.id,
            source=flow.current,
            code=Code.STALE_REV,
        )


def subject_of(bound: Bound) -> str | None:
    """Return the subject as which a client joins groups if its connection has its own flow."""
    if bound.subject_of is None or bound.by_url:
        return None
    return bound.subject_of({})


FindRoom = Callable[[LiveChannel | None], int]


def any_number(channel: LiveChannel | None) -> int:
    """Return that a channel may have any number of clients."""
    return sys.maxsize


def untracked(channel: str, message: Envelope) -> Envelope:
    """Return a reply unchanged: a bus that delivers at once loses none."""
    return message


class ClientSession:
    """Runs the events of one websocket, and sends the states of its flow to one client."""

    __slots__ = (
        "_app",
        "_bound",
        "_context",
        "_groups",
        "_guarded",
        "_live",
        "_own",
        "_ref",
        "_state",
        "_subject",
        "_synchronous",
        "_url_args",
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
        self._live: Service = state.live
        self._bound = bound
        self._context = event_context(app, request, tuple(k + bound.name for k in SESSION_KEYS))
        self._url_args = url_arguments(bound, request)
        self.subscriber: Subscriber = subscriber
        self._groups = tuple(groups)
        self._synchronous = self._live.channels.bus.synchronous
        """Whether a published message is in the queue of this client when `publish` returns."""
        self._own: ConnectionFlow | None = None
        self._ref: Any = None
        """The `ref` of the event that is being handled."""
        self._guarded = self._live.admission.is_declared(bound.name)
        """Whether the app is asked about each event whether it still admits this client."""
        self._subject: str | None = None
        self.closing: int = 0
        """The code to close with once everything queued is written, or 0."""

    @property
    def inline_key(self) -> str:
        """The machine's name if its events need no store, so that the loop's thread runs them."""
        return "" if self._own is None or self._guarded else self._bound.name

    @property
    def flow_key(self) -> str:
        """Identifies the flow, whose events wait for each other."""
        return self.subscriber.flow_channel

    # -- connecting, within the request that asks for it --------------------------------

    def open(self, since: str | None, find_room: FindRoom = any_number) -> None:
        """Load the flow, subscribe to it, and queue the first frames for the client.

        `find_room` gets the channel of the flow, or None if the connection has its own, and
        returns how many clients the channel may have; it raises if there is no place for another.
        After a reconnect, the messages after the id `since` are replayed; where some are lost,
        the client is notified of a gap.
        """
        if self._bound.machine.scope == "connection":
            find_room(None)
            self._own = ConnectionFlow(self._app, self._state, self._bound.machine, self)
            # The flow has no subject, but the groups were authorized for this user.
            self._subject = subject_of(self._bound)
            self._subscribe()
            for name in self._replay(since):
                self.subscriber.send_gap(name)
            self.subscriber.first_state(*self._state_of(self._own.snapshot))
        else:
            work = UnitOfWork(self._state, self._bound, self._url_args)
            work.load()
            most = find_room(self._channel_of(work.flow))
            work.renew()
            channel = self._channel_of(work.flow)
            flow_channel = channel.id
            self.subscriber.join(channel, most=most)
            self._subject = work.locator.subject
            self._subscribe()
            work.load()  # again: a commit may have come before the subscription
            lost = self._replay(since)
            for name in lost:
                if name != flow_channel:
                    self.subscriber.send_gap(name)
            state = self._state_of(work.flow.snapshot)
            self.subscriber.first_state(*state, gap=flow_channel in lost)
        self._context.remember_session()

    def _channel_of(self, flow: Flow) -> LiveChannel:
        return self._live.channels.get(self._live.flow_channel(flow.id))

    def _replay(self, since: str | None) -> list[str]:
        """Queue the messages after the id `since`; return the channels that have lost some."""
        return [] if since is None else self.subscriber.replay_since(since)

    def _subscribe(self) -> None:
        """Subscribe to the channels of the subject and of the groups."""
        live = self._live
        if self._subject is not None:
            name = live.subject_channel(self._subject)
            self.subscriber.join(live.channels.get(name), silent=True)
        for group in self._groups:
            self.subscriber.join(live.channels.get(live.group_channel(group)))
            self.subscriber.join(live.channels.get(live.group_events_channel(group)), silent=True)

    def _state_of(self, snapshot: Snapshot) -> tuple[str, str, int]:
        """Return the state frame of a snapshot, with the run and the rev that identify it."""
        return state_frame(self._bound.machine, snapshot), run_of(snapshot), snapshot.rev

    # -- events, each in a request context ----------------------------------------------

    def handle(self, job: Job) -> None:
        """Run an event, or send the state again, in this thread; the frames are queued.

        The engine chooses the thread, see `inline_key`. Never raises.
        """
        try:
            live = self._live
            if job.once_key and not live.channels.bus.acquire_once(job.once_key, live.once_seconds):
                return
            if job.reads_missed:
                self.subscriber.read_missed()
            else:
                self._context.run(self._handle, job)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of the bus, or of a teardown function of the app
            frame = crash_frame(error, self._live, self._bound.name)
            if job.text is None:
                # The lost messages can't be replaced now, so let the client reconnect for them.
                self.closing = self.closing or CloseCode.SERVICE_RESTART
            else:
                self._reply(frame, self._ref)
        finally:
            self._ref = None
            if job.text is None and not self.closing:
                self.subscriber.unblock()

    def _handle(self, job: Job) -> None:
        if job.text is None:
            self._send_state_again(job.if_replaced)
        else:
            self._run_event(job.text)

    def _run_event(self, text: str | bytes) -> None:
        try:
            if isinstance(text, bytes):
                raise InvalidPayload("Send frames as text messages, not as binary ones.")
            client_event = parse(text)
        except InvalidPayload as error:
            self._reply(refusal(error), error.ref)
            return
        self._ref = client_event.ref
        flow: Flow | None = None
        try:
            if self._guarded:
                self._live.admission.check(self._bound, self._url_args)
            if self._own is not None:
                flow = self._own
                # However many frames the client's own event sends, that does not make it slow.
                lifted = self.subscriber.queue.lift_limit()
                try:
                    sent = self._send_to(flow, client_event)
                finally:
                    if lifted:
                        self.subscriber.queue.restore_limit()
            else:
                prepare_reply = untracked if self._synchronous else self.subscriber.track_reply
                sender = Sender(self.subscriber.id, client_event.ref, prepare_reply)
                work = UnitOfWork(self._state, self._bound, self._url_args, sender)
                with work.lock():
                    work.load()
                    if not self._still_has_flow(work):
                        return
                    flow = work.flow
                    sent = self._send_to(flow, client_event)
        except FSMError as error:
            frame = error_frame(error, flow, self._live, self._bound.name, client_event.event)
            self._reply(frame, client_event.ref)
            if isinstance(error, NotAdmitted):
                self.closing = error.close_code
        except HTTPException as error:
            # Without a flow, the app's function that finds the subject has called abort().
            frame = (
                self._crash_frame(error, client_event) if flow is not None else abort_frame(error)
            )
            self._reply(frame, client_event.ref)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # CancelledError, a timeout, SystemExit
            self._reply(self._crash_frame(error, client_event), client_event.ref)
        else:
            if not sent and client_event.ref is not None:
                self._reply(data_frame(None, EventStatus.NoContent), client_event.ref)

    def _crash_frame(self, error: BaseException, client_event: ClientEvent) -> str:
        return crash_frame(error, self._live, self._bound.name, client_event.event)

    def _reply(self, frame: str, ref: Any) -> None:
        """Send a frame to this client only, after its earlier replies on the flow's channel."""
        subscriber = self.subscriber
        if self._synchronous or not subscriber.has_pending_replies:
            subscriber.send(frame, ref)
        else:
            channel = subscriber.flow_channel
            reply = Envelope(EnvelopeKind.REPLY, frame, subscriber.id, ref)
            self._live.channels.publish(channel, subscriber.track_reply(channel, reply))

    def _send_to(self, flow: Flow, client_event: ClientEvent) -> list[Sent]:
        check_rev(client_event, flow)
        return flow.handle(client_event.event, client_event.data)

    def _still_has_flow(self, work: UnitOfWork) -> bool:
        """Return whether the flow is still this client's; if not, the connection will close.

        A subject may have another flow by now, started or reset on another device.
        """
        name = self._live.flow_channel(work.flow.id)
        if work.locator.subject != self._subject:
            self.closing = CloseCode.SUBJECT_CHANGED
        elif work.missing_reason is not None:
            self.closing = CloseCode.FLOW_GONE
        elif name != self.subscriber.flow_channel:
            if self._subject is None:
                self.closing = CloseCode.SERVICE_RESTART
            else:
                self._switch_flow(work, name)
        return not self.closing

    def _switch_flow(self, work: UnitOfWork, name: str) -> None:
        self.subscriber.switch_flow(self._live.channels.get(name))
        work.load()  # again: a commit may have come before the subscription
        self.subscriber.send_state(*self._state_of(work.flow.snapshot), gap=True)

    def _send_state_again(self, if_replaced: bool) -> None:
        if self._own is not None:
            return
        work = UnitOfWork(self._state, self._bound, self._url_args)
        work.load()
        before = self.subscriber.flow_channel
        if (
            self._still_has_flow(work)
            and before == self.subscriber.flow_channel
            and not if_replaced
        ):
            self.subscriber.first_state(*self._state_of(work.flow.snapshot), gap=True)

    def close(self) -> None:
        """Drop the flow and the context; no more events follow."""
        self._own = None
        self._context.end()

    # -- what the flow of this connection sends -----------------------------------------

    def moved(self, result: Result, status: int, reply: Any) -> None:
        """Send a transition of the connection's own flow."""
        frame = state_frame(self._bound.machine, result.snapshot, status, reply)
        self.subscriber.send(frame, self._ref, kind=FrameKind.STATE)

    def transmitted(self, data: Any, status: int) -> None:
        """Send the data of a handler."""
        self.subscriber.send(data_frame(data, status), self._ref)
