"""The public API of the live part: `fsm.live`, with its groups and flows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from flask import current_app, has_request_context
from simple_websocket import Server

from ..core.event import EventStatus, check_status, in_order
from ..core.flow import Flow
from ..core.machine import Machine
from ..errors import Code, ConfigError, DefinitionError, DuplicateEndpoint, FSMError, NotFound
from ..runtime.app_state import app_state
from ..runtime.other_flows import flow_by_id
from ..runtime.unit_of_work import UnitOfWork
from .admission import Admission, Decorator
from .channels.app_channels import LiveChannel
from .client.presence import LONGEST_GROUP, is_group, members
from .protocol.frames import frames_of
from .routes.websocket import serve
from .service import Service

__all__ = ["Group", "Live", "LiveFlow"]

F = TypeVar("F", bound=Callable[..., Any])


def _service(what: str) -> Service:
    service: Service | None = app_state().live
    if service is None:
        raise ConfigError(
            f"{what} needs live connections, which FSM_LIVE=False turns off: set it to True."
        )
    if not has_request_context() and threading.current_thread() is threading.main_thread():
        service.warn_of_script(what)
    return service


class Group:
    """A group of clients, connected to any process of the app. `fsm.live.group(name)` returns it.

    Args:
        service: The live part of the app.
        name: The name of the group, for example "room-7".
    """

    def __init__(self, service: Service, name: str) -> None:
        self.name = name
        self._service = service

    @property
    def channel(self) -> LiveChannel:
        """The channel of the group, for listeners in this process."""
        return self._service.channels.get(self._service.group_channel(self.name))

    def broadcast(self, message: Any) -> None:
        """Send a message to all members.

        Args:
            message: A Message, or any value that can be sent as JSON.

        Raises:
            TypeError: The value can't be sent as JSON.
        """
        self.channel.broadcast(message)

    def send(self, event: str, data: Any = None) -> None:
        """Have the flow of each member handle an event, each flow once.

        Args:
            event: The name of the event.
            data: Its data, any value that can be sent as JSON.

        Raises:
            TypeError: The name is not valid, or the data can't be sent as JSON.
        """
        self._service.send_to_members(self.name, event, data)

    def members(self) -> list[dict[str, Any]]:
        """Return the members of the group (its presence list).

        Returns:
            For each connection a dict with `member`, an id of the connection, and the fields of
            the dict that the function of `fsm.live.authorize` returned for it.

        Raises:
            StoreUnavailable: The bus can't be reached.
        """
        return members(self._service.channels.bus, self._service.group_channel(self.name))


class LiveFlow:
    """A flow and the clients that listen to it. `fsm.live.flow(...)` returns it.

    Args:
        service: The live part of the app.
        flow: The flow, or its id.
        subject: The subject of the flow, if the id is given.
        key: Which of several flows of the subject it is, if the machine has `many=`.

    Raises:
        TypeError: `flow` is neither a Flow nor a string.
    """

    def __init__(self, service: Service, flow: Flow | str, subject: str | None, key: str) -> None:
        if not isinstance(flow, (Flow, str)):
            raise TypeError(f"fsm.live.flow() takes a flow or its id, not {flow!r}.")
        self._service = service
        self._flow = flow
        self.id: str = flow if isinstance(flow, str) else flow.id
        self._subject = subject if isinstance(flow, str) else flow.subject
        self._key = key

    def transmit(self, *given: Any, data: Any = None, status: int = EventStatus.OK) -> None:
        """Send a data frame to all websockets and streams of the flow.

        As in a handler, an EventStatus may come first: `transmit(status, data)`.

        Args:
            data: Any value that can be sent as JSON.
            status: An EventStatus, or another number from 100 to 999.

        Raises:
            TypeError: The data can't be sent as JSON, or the status is not such a number.
        """
        data, status, _ = in_order(given, data, status)
        check_status(status)
        self._service.transmit(self._service.flow_channel(self.id), data, status)

    def send(self, event: str, data: Any = None) -> list[dict[str, Any]]:
        """Have the flow handle an event now.

        The store must be able to find the flow: one that belongs to a subject is found by the
        subject, so name it in `fsm.live.flow(id, subject=...)`.

        Args:
            event: The name of the event.
            data: The data that the handler gets.

        Returns:
            The frames of the event's transitions and data, in order.

        Raises:
            NotFound: There is no such flow.
            FSMError: A rule refuses the event, or the flow is busy, or has moved on.
            Exception: The handler's own exceptions are raised, too.
        """
        state = app_state()
        machine = None if isinstance(self._flow, str) else self._flow.machine.name
        for name, bound in state.bound.items():
            if machine in (None, name) and bound.machine.scope == "subject":
                # The app's handlers may expect a request, though no browser has sent one.
                with current_app.test_request_context():
                    work = flow_by_id(state, bound, self.id, self._subject, self._key)
                    if work is not None:
                        return self._handle(work, event, data)
        if self._subject is None:
            who = "no session has it. Find the flow of a subject by flow(id, subject=...)"
        else:
            who = "the subject that was given does not have it"
        raise NotFound(
            f"fsm.live.flow() can't find the flow {self.id!r}: {who}. A flow is not stored before "
            f"its first transition; and with the store 'session', a process only knows the flows "
            f"that it has moved.",
            flow=self.id,
            code=Code.NO_FLOW,
        )

    @staticmethod
    def _handle(work: UnitOfWork, event: str, data: Any) -> list[dict[str, Any]]:
        with work.lock():
            work.load()
            if work.missing_reason is not None:
                raise work.missing_reason
            sent = work.flow.handle(event, data)
        return [json.loads(frame) for frame in frames_of(work.bound.machine, sent)]


class Live:
    """The live side of the machines of an extension: `fsm.live`.

    It holds definitions only, and works in each app that the extension is initialized with. Its
    methods except `admit`, `authorize` and `endpoint` need an app context.
    """

    def __init__(self, default: str) -> None:
        self._default = default
        self._authorizer: Callable[[str], Any] | None = None
        self.admission: Admission = Admission()
        """Who may use the endpoints of the machines."""
        self._endpoints: dict[str, Callable[..., Any]] = {}
        self.registered: bool = False
        """Whether `init_app` has registered the endpoints, so that none can be added."""

    def authorize(self, function: F) -> F:
        """Register the function that decides who may join a group. By default nobody may.

        Args:
            function: `(name) -> bool | dict`, called within the request that asks to join the
                group. A dict allows it, too, and is the info on the member for members() and the
                group.

        Returns:
            The function, so that this can be used as a decorator.

        Raises:
            DefinitionError: `function` can't be called.
        """
        if not callable(function):
            raise DefinitionError(f"authorize() takes a function, not {function!r}.")
        self._authorizer = function
        return function

    @overload
    def admit(self, function: F, /) -> F: ...

    @overload
    def admit(self, /, *, machine: str) -> Callable[[F], F]: ...

    def admit(self, function: Any = None, /, *, machine: str | None = None) -> Any:
        """Register a function that decides who may use the endpoints of machines.

        It is asked at each endpoint, and again for each event of an open connection. Several
        functions must all return True.

        Args:
            function: `(machine, **url_args) -> bool | response`, sync or async: `machine` is the
                name; the URL arguments are those of the machine's pages, from the query, as far
                as the function takes them. It returns True, False (403) or a response that
                refuses, or calls `abort()`. A redirect is answered as 401.
            machine: The name of the only machine that it decides about. By default it decides
                about all machines of the extension.

        Returns:
            The function, so that this can be used as a decorator; with `machine`, a decorator.

        Raises:
            DefinitionError: `function` can't be called, or does not take the name of a machine.
        """

        def register(function: F) -> F:
            self.admission.add(function, machine)
            return function

        return register if function is None else register(function)

    @property
    def decorators(self) -> tuple[Decorator, ...]:
        """Decorators of views that guard the endpoints of all machines as they guard a view.

        As in Flask's `View.decorators`, the first one is the innermost:
        `fsm.live.decorators = [login_required]`. They are asked when the functions of `admit` are,
        and get the same URL arguments.
        """
        return self.admission.decorators

    @decorators.setter
    def decorators(self, decorators: Iterable[Decorator]) -> None:
        self.admission.decorators = decorators

    def endpoint(self, path: str) -> Callable[[F], F]:
        """Register a function that answers a GET of `path`, such as a health check.

        Args:
            path: A path that begins with "/" and has no parameters. It is relative to the root
                of the app, not to FSM_URL_PREFIX.

        Returns:
            A decorator for `(headers) -> response`, sync or async; `headers` are those of the
            request, and the response is anything that a view may return.

        Raises:
            DefinitionError: The path is not valid.
            ConfigError: `init_app` has been called already.
            DuplicateEndpoint: Another function is registered for this path.
        """
        if not isinstance(path, str) or not path.startswith("/"):
            raise DefinitionError(f"endpoint() takes a path that begins with '/', not {path!r}.")
        if "<" in path:
            raise DefinitionError(
                f"endpoint() takes a path without parameters, not {path!r}: its function gets the "
                f"headers and nothing else. For parameters, write a view of the app."
            )
        if self.registered:
            raise ConfigError(
                f"endpoint({path!r}) was called too late: init_app, or FlaskFSM(app, ...), has "
                f"registered the endpoints already. Call it first, then fsm.init_app(app)."
            )
        if path in self._endpoints:
            raise DuplicateEndpoint(f"Another function is already registered for {path!r}.")

        def register(function: F) -> F:
            if path in self._endpoints:
                raise DuplicateEndpoint(f"Another function is already registered for {path!r}.")
            self._endpoints[path] = function
            return function

        return register

    def registered_endpoints(self) -> Mapping[str, Callable[..., Any]]:
        """Return the functions by path for `init_app`, and end their registration."""
        self.registered = True
        return self._endpoints

    def allows(self, group: str) -> Any:
        """Return what the function of `authorize` answers for the client of this request."""
        if self._authorizer is None:
            return False
        return current_app.ensure_sync(self._authorizer)(group)

    def serve(self, ws: Server, machine: Machine | str | None = None) -> bool:
        """Serve the protocol on a websocket of flask-sock, in a route of the app.

        The URL arguments of the route are those of the flow. Call it as the last step of the view:
        the connection is served after the view has returned, by the engine that serves the
        machine's own endpoint, and the view can't use the websocket any more.

        Args:
            ws: The websocket that flask-sock passes to the view.
            machine: The machine, or its name. By default the first machine of the extension.

        Returns:
            Whether the connection is served. If not, it was refused, as the machine's own endpoint
            would have refused it, and is closed with 4401, 4403, 4404 or 4429, by the status of
            HTTP; with 1008 for another status below 500, or else with 1013.

        Raises:
            ConfigError: The app has no such machine, or FSM_LIVE is False.
            TypeError: `machine` is neither a Machine nor a string.
            simple_websocket.ConnectionClosed: The client has gone, or the view has closed the
                websocket or had it served already.
        """
        _service("fsm.live.serve()")
        return serve(ws, self._machine_name(machine))

    def _machine_name(self, machine: Machine | str | None) -> str:
        """Return the name of one of the app's machines."""
        if machine is None:
            return self._default
        names = list(app_state().bound)
        name = machine.name if isinstance(machine, Machine) else machine
        if not isinstance(name, str):
            raise TypeError(f"fsm.live.serve() takes a Machine or its name, not {machine!r}.")
        if name not in names:
            raise ConfigError(
                f"fsm.live.serve() found no machine {name!r} in this app, which has "
                f"{', '.join(map(repr, names))}: add it with fsm.add()."
            )
        return name

    def group(self, name: str) -> Group:
        """Return a group.

        Args:
            name: A printable name of 1 to 128 characters.

        Raises:
            FSMError: The name is not valid (code `bad_group`).
            ConfigError: FSM_LIVE is False.
        """
        if not is_group(name):
            raise FSMError(
                f"A group name must be 1 to {LONGEST_GROUP} printable characters, not "
                f"{name!r:.80}.",
                code=Code.BAD_GROUP,
            )
        return Group(_service("fsm.live.group()"), name)

    def channel(self, id: str) -> LiveChannel:
        """Return the channel of a group, whose broadcasts reach the members in all processes.

        Args:
            id: The name of the group.

        Raises:
            FSMError: The name is not valid (code `bad_group`).
            ConfigError: FSM_LIVE is False.
        """
        return self.group(id).channel

    def flow(self, flow: Flow | str, *, subject: str | None = None, key: str = "") -> LiveFlow:
        """Return a flow with its clients.

        Args:
            flow: The flow, or its id.
            subject: The subject of the flow with this id, if it has one.
            key: Which of the subject's flows it is, for a machine with `many=`.

        Raises:
            TypeError: `flow` is neither a Flow nor a string.
            ConfigError: FSM_LIVE is False.
        """
        return LiveFlow(_service("fsm.live.flow()"), flow, subject, key)

    def close(self, subject: str) -> None:
        """Close all websockets and streams of a subject, in all processes, with code 4401.

        Args:
            subject: The subject, as the function of `fsm.subject` returns it.

        Raises:
            ConfigError: FSM_LIVE is False.
        """
        _service("fsm.live.close()").close_subject(str(subject))
