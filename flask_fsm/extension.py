"""FlaskFSM: the composition root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack, cast, overload

from flask import (
    Blueprint,
    Flask,
    Response,
    before_render_template,
    got_request_exception,
    has_request_context,
    request,
    request_finished,
    request_started,
)
from flask_sock import Sock
from werkzeug.local import LocalProxy

from .binding.bind import bind
from .binding.bound_machine import Bound
from .binding.declaration import DEFAULT_NAME, Declaration, Declarations
from .cli import fsm as commands
from .config import Config
from .core.flow import Flow
from .core.history import History
from .core.machine import Machine, MachineOptions, TransitionLike
from .errors import (
    ConfigError,
    DefinitionError,
    DuplicateEndpoint,
    FSMError,
)
from .live.api import Live
from .live.client.signout import close_after_signout
from .live.routes.endpoints import ENDPOINT, check_endpoints, view_of
from .live.routes.events import events, watch_stream
from .live.routes.http import health, send_event, show_state
from .live.routes.sock import add_websocket, set_server_options
from .live.routes.upgrade import release_on_error
from .live.routes.websocket import explain_websocket, websocket
from .live.service import Service
from .pages.advance import WTForm
from .pages.api import MachineViews, delegated
from .pages.decisions import page_requests
from .pages.description import describe
from .pages.guard import (
    after_request,
    answer_error,
    check_session_cookie,
    mark_served,
    remember_forms,
)
from .pages.resume_link import resume
from .runtime.app_state import EXTENSION, AppState, app_state
from .security.origin import add_cors_headers
from .stores import RecordStore
from .texts import translate

__all__ = ["FlaskFSM"]

Definition = Machine | Iterable[TransitionLike]


class FlaskFSM:
    """Guards the pages of one app or several by a machine.

    Call `FlaskFSM(machine)` and later `init_app(app)`, or `FlaskFSM(app, machine)`.

    Args:
        app: The app, or the machine if it is the only argument.
        machine: A `Machine`, or its transitions as a list. By default the machine is built from
            the decorators of the app's views.
        store: As for `init_app`; allowed with an app only.
        websocket: The path of the machine's websocket. By default `/fsm/<machine>/ws`.
        sock: The app's `Sock` of flask-sock, by which the websockets get their routes. By default
            a new one.
        **options: The options of `Machine`, such as `repeat=False`, unless `machine` is one.

    Raises:
        ConfigError: An argument is of the wrong type, or see `init_app`.
        DefinitionError: The transitions don't make a machine.
    """

    def __init__(
        self,
        app: Flask | Definition | None = None,
        machine: Definition | None = None,
        *,
        store: Any = None,
        websocket: str | None = None,
        sock: Sock | None = None,
        **options: Unpack[MachineOptions],
    ) -> None:
        if app is not None and not isinstance(app, Flask):
            if machine is not None:
                raise ConfigError("FlaskFSM takes an app and a machine, or a machine alone.")
            app, machine = None, app
        if isinstance(machine, str):
            raise ConfigError(f"FlaskFSM takes a Machine or a list of edges, not {machine!r}.")
        unknown = options.keys() - MachineOptions.__annotations__
        if unknown:
            raise TypeError(f"FlaskFSM() has no option {', '.join(sorted(unknown))}.")
        if isinstance(machine, Machine) and options:
            raise ConfigError(
                f"Give {', '.join(options)} to the Machine {machine.name!r} itself: FlaskFSM takes "
                f"the options of a machine with a bare list of transitions, or none."
            )
        if machine is not None and not isinstance(machine, Machine):
            machine = Machine(DEFAULT_NAME, machine, **options)
        self._declarations = Declarations(Declaration(machine, _path(websocket), options))
        self.default: MachineViews = MachineViews(self._declarations.default)
        """The `MachineViews` of the first machine, to which `check`, `advance`, ... delegate."""
        if sock is not None and not isinstance(sock, Sock):
            raise ConfigError(f"sock= takes the app's Sock of flask-sock, not {sock!r}.")
        self._sock = sock
        self.live: Live = Live(self._declarations.default.name)
        if app is not None:
            self.init_app(app, store=store)
        elif store is not None:
            raise ConfigError(
                "store= needs an app: call FlaskFSM(app, machine, store=...), or "
                "init_app(app, store=...)."
            )

    def add(self, machine: Machine, *, websocket: str | None = None) -> MachineViews:
        """Add another machine to the same apps.

        Args:
            machine: The machine; its name is unique in the apps.
            websocket: The path of its websocket. By default `/fsm/<machine>/ws`. It can be set
                before `init_app` only.

        Returns:
            An object with `check`, `advance`, `flow` and so on for this machine.

        Raises:
            ConfigError: `machine` is not a Machine, or `websocket` is not a path or is set too
                late.
            DefinitionError: There is a machine of this name already.
        """
        if not isinstance(machine, Machine):
            raise ConfigError(f"add() takes a Machine, which has a name; not {machine!r}.")
        if any(declared.name == machine.name for declared in self._declarations):
            raise DefinitionError(
                f"There is already a machine {machine.name!r}: give this one another name."
            )
        if websocket is not None and self.live.registered:
            raise ConfigError(
                f"add(..., websocket={websocket!r}) was called too late: init_app, or "
                f"FlaskFSM(app, ...), has already registered the websockets. Add this machine "
                f"first, then call fsm.init_app(app)."
            )
        declaration = Declaration(machine, _path(websocket))
        self._declarations.add(declaration)
        return MachineViews(declaration)

    def init_app(self, app: Flask, *, store: Any = None) -> None:
        """Set up the extension in an app.

        Args:
            app: The app, whose config has SECRET_KEY and the FSM_* keys.
            store: What to use in place of FSM_STORE_URL: an SQLAlchemy engine or session, the
                object of Flask-SQLAlchemy(-Lite), or a Redis client. By default None.

        Raises:
            ConfigError: A key of the config or `store` can't be used, or the app has a FlaskFSM.
        """
        if EXTENSION in app.extensions:
            raise ConfigError(
                f"The app {app.name!r} already has a FlaskFSM: add more machines with fsm.add()."
            )
        state = AppState.of(
            app,
            self,
            lambda: self._bind(app, state),
            store,
        )
        state.tokens(app)
        app.extensions[EXTENSION] = state
        # Runs before the app's own functions at the first request.
        app.url_value_preprocessor(state.bind_once)
        if FSMError not in app.error_handler_spec[None][None]:
            app.register_error_handler(FSMError, answer_error)
        request_started.connect(mark_served, app)
        app.after_request(after_request)
        request_finished.connect(check_session_cookie, app)
        before_render_template.connect(remember_forms, app)
        # A global and no context processor, so that imported macros have it as well.
        app.jinja_env.globals["fsm"] = LocalProxy(self._views_for_template)
        app.jinja_env.globals["fsm_gettext"] = translate
        app.cli.add_command(commands)
        folder = Path(__file__).parent
        blueprint = Blueprint(
            "fsm",
            __name__,
            url_prefix=state.config.url_prefix,
            template_folder=str(folder / "templates"),
            static_folder=str(folder / "static" / "fsm"),
            static_url_path="/static",
        )
        blueprint.add_url_rule(
            "/<machine>/resume/<link>", "resume", resume, methods=["GET", "POST"]
        )
        if state.config.live:
            self._add_live_routes(app, state, blueprint)
        app.register_blueprint(blueprint)

    def _bind(self, app: Flask, state: AppState) -> dict[str, Bound]:
        """Bind the machines to the app's views, none of which may hide a live endpoint."""
        check_endpoints(app)
        if state.live is not None:
            set_server_options(app)
        for name in [declared.name for declared in self._declarations]:
            if state.live is not None and (name == "static" or "/" in name):
                raise ConfigError(
                    f"The machine {name!r} can't have live routes, since its name is part of their "
                    f"URLs: use a name without '/' other than 'static', or set FSM_LIVE to False."
                )
        if state.live is not None and "csrf" in app.extensions:
            # This route requires a content type and an Origin that no other site's page can send.
            app.extensions["csrf"].exempt(send_event)
        bound = bind(app, self._declarations, isinstance(state.store, RecordStore))
        return self._with_live_warnings(state, bound)

    def _with_live_warnings(self, state: AppState, bound: dict[str, Bound]) -> dict[str, Bound]:
        """Add what a developer has to know of the live endpoints of the machines."""
        live, admission = state.config.live, self.live.admission
        admission.require_machines(bound)
        if isinstance(live, tuple) and not bound.keys() >= set(live):
            raise ConfigError(
                f"The config key FSM_LIVE names {', '.join(sorted({*live} - bound.keys()))}, but "
                f"the machines of this app are {', '.join(bound)}."
            )
        served = bound if live is True else live or ()
        return {
            name: replace(one, warnings=(*one.warnings, admission.warning_of(one)))
            if name in served and admission.is_closed(one)
            else one
            for name, one in bound.items()
        }

    def _views_for_template(self) -> Any:
        """Return the `fsm` of templates: the machine that guards the view, or the app's first."""
        owner = page_requests().owner if has_request_context() else None
        return self if owner in (None, self.default) else owner

    def _add_live_routes(self, app: Flask, state: AppState, blueprint: Blueprint) -> None:
        """Add the routes of websockets, event streams and programs."""
        state.live = Service(
            state.config, lambda group: self.live.allows(group), self.live.admission, state.outages
        )
        state.listeners.append(state.live)
        state.session_listeners.append(close_after_signout)
        state.stream_listeners.append(watch_stream)
        got_request_exception.connect(release_on_error, app)
        blueprint.after_request(partial(_add_cors_headers, state.config))
        paths = {
            declared.name: declared.websocket
            for declared in self._declarations
            if declared.websocket is not None
        }
        for name, path in paths.items():
            if list(paths.values()).count(path) > 1:
                raise DuplicateEndpoint(
                    f"Two websockets have the path {path!r}, one of them that of machine {name!r}: "
                    f"set different paths with websocket=."
                )
        sock = self._sock or Sock()
        add_websocket(sock, blueprint, "/<machine>/ws", websocket, endpoint="websocket")
        blueprint.add_url_rule("/<machine>/ws", "no_websocket", explain_websocket)
        blueprint.add_url_rule("/<machine>/events", "events", events)
        blueprint.add_url_rule("/<machine>/state", "state", show_state)
        blueprint.add_url_rule("/<machine>/event", "event", send_event, methods=["POST"])
        blueprint.add_url_rule("/health", "health", health)
        for name, path in paths.items():
            endpoint, defaults = f"fsm.websocket.{name}", {"machine": name}
            add_websocket(sock, app, path, websocket, endpoint=endpoint, defaults=defaults)
        for path, function in self.live.registered_endpoints().items():
            app.add_url_rule(path, ENDPOINT + path, view_of(app, function), methods=["GET"])

    # -- the default machine ------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the machine."""
        return self.default.name

    @property
    def machine(self) -> Machine:
        """The machine as the current app uses it, or as it was defined outside of an app."""
        return self.default.machine

    @property
    def flow(self) -> Flow:
        """The flow of this request's visitor."""
        return self.default.flow

    @property
    def current(self) -> str:
        """The name of the state that the flow is at."""
        return self.default.current

    @property
    def history(self) -> History:
        """The entries of this run; `("a", "b") in fsm.history` tests for an edge."""
        return self.default.history

    @property
    def status(self) -> str:
        """One line `a -> b` for each entry of the history."""
        return self.default.status

    def __repr__(self) -> str:
        return describe(self.default, type(self).__name__)

    @delegated(MachineViews.subject)
    def subject(self) -> None: ...

    @delegated(MachineViews.on_login_conflict)
    def on_login_conflict(self) -> None: ...

    @delegated(MachineViews.check)
    def check(self) -> None: ...

    @delegated(MachineViews.requires)
    def requires(self) -> None: ...

    @delegated(MachineViews.progress)
    def progress(self) -> None: ...

    @delegated(MachineViews.can_transition)
    def can_transition(self) -> None: ...

    @delegated(MachineViews.why_not)
    def why_not(self) -> None: ...

    @delegated(MachineViews.has_not_skipped)
    def has_not_skipped(self) -> None: ...

    @delegated(MachineViews.complete)
    def complete(self) -> None: ...

    @delegated(MachineViews.answers)
    def answers(self) -> None: ...

    @delegated(MachineViews.url_for)
    def url_for(self) -> None: ...

    @delegated(MachineViews.token)
    def token(self) -> None: ...

    @delegated(MachineViews.flows)
    def flows(self) -> None: ...

    @delegated(MachineViews.resume_link)
    def resume_link(self) -> None: ...

    @delegated(MachineViews.log)
    def log(self) -> None: ...

    @delegated(MachineViews.funnel)
    def funnel(self) -> None: ...

    @overload
    def advance(
        self,
        /,
        to: str | None = None,
        data: Mapping[str, Any] | None = None,
        form: None = None,
        *,
        fast_forward: bool = False,
        url_args: Mapping[str, Any] | None = None,
        **more_url_args: Any,
    ) -> Response: ...

    @overload
    def advance(
        self,
        /,
        to: str | None = None,
        data: Mapping[str, Any] | None = None,
        form: WTForm | None = None,
        *,
        fast_forward: bool = False,
        url_args: Mapping[str, Any] | None = None,
        **more_url_args: Any,
    ) -> Response | None: ...

    # mypy would take the first of the overloads for all of them.
    @delegated(cast(Any, MachineViews.advance))
    def advance(self, *args: Any, **kwargs: Any) -> Any: ...

    @delegated(MachineViews.transition)
    def transition(self) -> None: ...

    @delegated(MachineViews.transaction)
    def transaction(self) -> None: ...

    @delegated(MachineViews.reset)
    def reset(self) -> None: ...

    # -- the store ----------------------------------------------------------------------

    @property
    def metadata(self) -> Any:
        """The SQLAlchemy metadata of the store's tables, for migrations; within an app context."""
        records = app_state().require_record_store("fsm.metadata").records
        try:
            return records.metadata  # type: ignore[attr-defined]
        except AttributeError:
            raise ConfigError(
                "fsm.metadata needs a store in a database: the store of this app has no tables."
            ) from None

    def init_db(self) -> None:
        """Create what the store needs on its server, unless it exists; within an app context.

        Several processes may do so at once. `flask fsm init-db` does the same.

        Raises:
            ConfigError: The flows are stored in the session.
        """
        app_state().require_record_store("fsm.init_db()").init()


def _path(path: str | None) -> str | None:
    if path is not None and not (isinstance(path, str) and path[:1] == "/" and "<" not in path):
        raise ConfigError(
            f"websocket= takes a path that begins with '/' and has no parameters, not {path!r}."
        )
    return path


def _add_cors_headers(config: Config, response: Response) -> Response:
    """Let pages of allowed origins read the live routes' responses and load the script."""
    return response if request.endpoint == "fsm.resume" else add_cors_headers(config, response)
