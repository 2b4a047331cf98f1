"""What the developer of an app holds: `fsm.live`, with its groups and flows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from threading import current_thread, main_thread
from typing import Any, TypeVar

from flask import current_app, has_request_context

from ..core.event import EventStatus, check_status
from ..core.flow import Flow
from ..errors import Code, ConfigError, DefinitionError, DuplicateEndpoint, FSMError, NotFound
from ..runtime.state import app_state
from ..runtime.unit_of_work import UnitOfWork
from .channels.app_channels import LiveChannel
from .client.presence import LONGEST_GROUP, is_group, members
from .protocol.frames import frames_of
from .service import Service

__all__ = ["Group", "Live", "LiveFlow"]

F = TypeVar("F", bound=Callable[..., Any])


def _service(what: str) -> Service:
    service: Service | None = app_state().live
    if service is None:
        raise ConfigError(f"{what} needs the live part of this app, and FSM_LIVE is False.")
    if not has_request_context() and current_thread() is main_thread():
        service.warn_of_script(what)
    return service


class Group:
    """Those who have joined a group, in whichever process."""

    def __init__(self, service: Service, name: str) -> None:
        self.name = name
        self._service = service

    @property
    def channel(self) -> LiveChannel:
        """The channel of the group, for listeners in this process."""
        return self._service.channels.get(self._service.group_channel(self.name))

    def broadcast(self, message: Any) -> None:
        """Tell all members a Message, or anything with a form in JSON."""
        self.channel.broadcast(message)

    def send(self, event: str, data: Any = None) -> None:
        """Let the flow of each member handle an event, each flow once."""
        self._service.ask(self.name, event, data)

    def members(self) -> list[dict[str, Any]]:
        """Return who is in the group: `member`, a name for the connection, and what is known."""
        return members(self._service.channels.bus, self._service.group_channel(self.name))


class LiveFlow:
    """A flow, by its id, as those who listen to it see it."""

    def __init__(self, service: Service, flow: Flow | str, subject: str | None, key: str) -> None:
        if not isinstance(flow, (Flow, str)):
            raise TypeError(f"fsm.live.flow() takes a flow or its id, not {flow!r}.")
        self._service = service
        self._flow = flow
        self.id = flow if isinstance(flow, str) else flow.id
        self._subject = subject if isinstance(flow, str) else flow.subject
        self._key = key

    def transmit(self, data: Any = None, status: int = EventStatus.OK) -> None:
        """Tell all sockets and streams of the flow something."""
        check_status(status)
        self._service.transmit(self._service.flow_channel(self.id), data, status)

    def send(self, event: str, data: Any = None) -> list[dict[str, Any]]:
        """Let the flow handle an event now, and return the frames that come of it.

        Raises what handling it raises; NotFound if there is no such flow. A flow that belongs to a
        subject is found by that, so `fsm.live.flow(id, subject=...)` names it.
        """
        state = app_state()
        machine = None if isinstance(self._flow, str) else self._flow.machine.name
        for name, bound in state.bound.items():
            if machine in (None, name) and bound.machine.scope == "subject":
                # What the app's handlers expect, though there is no browser.
                with current_app.test_request_context():
                    run = UnitOfWork.of_flow(state, bound, self.id, self._subject, self._key)
                    if run is not None:
                        return self._handled(run, event, data)
        if self._subject is None:
            who = "nobody has one of this id. One of a subject is found by flow(id, subject=...)"
        else:
            who = f"the subject {self._subject!r} has none of this id"
        raise NotFound(
            f"fsm.live.flow() can't find the flow {self.id!r}: {who}. One that was not moved yet "
            f"is not kept; and of the store 'session', a process knows those that it has moved.",
            flow=self.id,
            code=Code.NO_FLOW,
        )

    @staticmethod
    def _handled(run: UnitOfWork, event: str, data: Any) -> list[dict[str, Any]]:
        with run.lock():
            run.load()
            if run.missing_reason is not None:
                raise run.missing_reason
            sent = run.flow.handle(event, data)
        return [json.loads(frame) for frame in frames_of(run.bound.machine, sent)]


class Live:
    """The live side of an app's machines. It holds the definition only."""

    def __init__(self) -> None:
        self._authorizer: Callable[[str], Any] | None = None
        self._endpoints: dict[str, Callable[..., Any]] = {}
        self.opened = False
        """Whether an app has got the endpoints."""

    def authorize(self, function: F) -> F:
        """Say who may join a group: `(name) -> bool`, within the request that asks for it.

        A dict also allows it, and is what the group is told of the member. By default nobody may.
        """
        if not callable(function):
            raise DefinitionError(f"authorize() takes a function, not {function!r}.")
        self._authorizer = function
        return function

    def endpoint(self, path: str) -> Callable[[F], F]:
        """Answer a GET of `path`, which is that of the app's root, by a function of the headers.

        Register it before `init_app`. Raises DuplicateEndpoint if another one answers there.
        """
        if not isinstance(path, str) or not path.startswith("/"):
            raise DefinitionError(f"endpoint() takes a path that begins with '/', not {path!r}.")
        if "<" in path:
            raise DefinitionError(
                f"endpoint() takes a path without parameters, not {path!r}: its function gets the "
                f"headers and nothing else. What has parameters is a view of the app."
            )
        if self.opened:
            raise ConfigError(
                f"endpoint({path!r}) comes too late: init_app, or FlaskFSM(app, ...), has "
                f"registered the endpoints. Register it before, and call fsm.init_app(app) then."
            )
        if path in self._endpoints:
            raise DuplicateEndpoint(f"Another function answers at {path!r} already.")

        def register(function: F) -> F:
            if path in self._endpoints:
                raise DuplicateEndpoint(f"Another function answers at {path!r} already.")
            self._endpoints[path] = function
            return function

        return register

    def open(self) -> Mapping[str, Callable[..., Any]]:
        """Return what answers at which path; nothing is added to it from now on."""
        self.opened = True
        return self._endpoints

    def allows(self, group: str) -> Any:
        """Ask whether this request's client may join a group."""
        if self._authorizer is None:
            return False
        return current_app.ensure_sync(self._authorizer)(group)

    def group(self, name: str) -> Group:
        """Return a group by its name; raises FSMError if no group may be called that."""
        if not is_group(name):
            raise FSMError(
                f"A group has a printable name of at most {LONGEST_GROUP} characters, not "
                f"{name!r:.80}.",
                code=Code.BAD_GROUP,
            )
        return Group(_service("fsm.live.group()"), name)

    def channel(self, id: str) -> LiveChannel:
        """Return the channel of a group: what is broadcast on it reaches all processes."""
        return self.group(id).channel

    def flow(self, flow: Flow | str, *, subject: str | None = None, key: str = "") -> LiveFlow:
        """Return a flow, by itself or by its id.

        `subject` and `key` say whose it is, and which of several, where its id does not.
        """
        return LiveFlow(_service("fsm.live.flow()"), flow, subject, key)

    def close(self, subject: str) -> None:
        """End all sockets and streams of a subject, in all processes, with code 4401."""
        _service("fsm.live.close()").close_subject(str(subject))
