"""FlaskFSM: the composition root."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    got_request_exception,
    has_request_context,
    request,
    session,
)

from .binding.bind import bind
from .binding.bound_machine import Bound
from .cli import fsm as commands
from .core.machine import Machine, TransitionLike
from .errors import (
    ConfigError,
    DefinitionError,
    DuplicateEndpoint,
    FSMError,
    StoreUnavailable,
)
from .live.api import Live
from .live.client.signout import close_after_change
from .live.routes.endpoints import ENDPOINT, check_endpoints, view_of
from .live.routes.events import events, watch_streams
from .live.routes.http import health, send_event, show_state
from .live.routes.upgrade import release_on_error
from .live.routes.websocket import explain_websocket, websocket
from .live.service import Service
from .pages.api import MachineViews
from .pages.decisions import page_requests
from .pages.resume_link import resume
from .refusal import Refusal, RefusalContext
from .runtime.session_data import has_session_data
from .runtime.state import EXTENSION, AppState, app_state
from .runtime.unit_of_work import UnitOfWork
from .security.origin import add_cors_headers
from .stores import RecordStore

__all__ = ["FlaskFSM"]

Definition = Machine | Iterable[TransitionLike]
log: Final = logging.getLogger("flask_fsm")


class FlaskFSM(MachineViews):
    """Guards the pages of an app by a machine.

    `FlaskFSM(machine)` and later `init_app(app)`, or `FlaskFSM(app, machine)`. A list of
    transitions will do for a machine; with none, it is built from the decorators of the views.
    `websocket` is the path of its websocket, by default `/fsm/<machine>/ws`.
    """

    def __init__(
        self,
        app: Flask | Definition | None = None,
        machine: Definition | None = None,
        *,
        store: Any = None,
        websocket: str | None = None,
    ) -> None:
        if app is not None and not isinstance(app, Flask):
            if machine is not None:
                raise ConfigError("FlaskFSM takes an app and a machine, or a machine alone.")
            app, machine = None, app
        if isinstance(machine, str):
            raise ConfigError(f"FlaskFSM takes a Machine or a list of edges, not {machine!r}.")
        if machine is not None and not isinstance(machine, Machine):
            machine = Machine("fsm", machine)
        super().__init__(machine, None, _path(websocket))
        self._surfaces: list[MachineViews] = [self]
        self.live = Live()
        if app is not None:
            self.init_app(app, store=store)
        elif store is not None:
            raise ConfigError(
                "A store belongs to an app: FlaskFSM(app, machine, store=...), or "
                "init_app(app, store=...)."
            )

    def add(self, machine: Machine, *, websocket: str | None = None) -> MachineViews:
        """Take another machine into the same apps, and return what its views are guarded with.

        `websocket` is the path of its websocket, by default `/fsm/<machine>/ws`.
        """
        if not isinstance(machine, Machine):
            raise ConfigError(f"add() takes a Machine, which has a name; not {machine!r}.")
        if any(surface.name == machine.name for surface in self._surfaces):
            raise DefinitionError(
                f"There is a machine {machine.name!r} already: give this one another name."
            )
        if websocket is not None and self.live._opened:
            raise ConfigError(
                f"add(..., websocket={websocket!r}) comes too late: init_app, or FlaskFSM(app, "
                f"...), has registered the websockets. Add this machine before, and call "
                f"fsm.init_app(app) then."
            )
        pages = MachineViews(machine, self, _path(websocket))
        self._surfaces.append(pages)
        return pages

    def init_app(self, app: Flask, *, store: Any = None) -> None:
        """Make the extension work in `app`, whose config holds SECRET_KEY and the FSM_* keys.

        `store` takes the place of FSM_STORE_URL: an SQLAlchemy engine or session, the object of
        Flask-SQLAlchemy(-Lite), or a client of Redis that the app has itself.
        """
        if EXTENSION in app.extensions:
            raise ConfigError(
                f"The app {app.name!r} has a FlaskFSM already: give it more machines by fsm.add()."
            )
        state = AppState.of(
            app,
            self,
            lambda: self._bind(app, state),
            store,
        )
        state.tokens(app)
        app.extensions[EXTENSION] = state
        app.url_value_preprocessor(_set_up)
        if FSMError not in app.error_handler_spec[None][None]:
            app.register_error_handler(FSMError, _answer_error)
        app.after_request(_claim_at_login)
        app.context_processor(_template_context)
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
            self._open_doors(app, state, blueprint)
        app.register_blueprint(blueprint)

    def _bind(self, app: Flask, state: AppState) -> dict[str, Bound]:
        """Bind the machines to the views that there are, none of which may hide an endpoint."""
        check_endpoints(app)
        for surface in self._surfaces:
            if state.live is not None and (surface.name == "static" or "/" in surface.name):
                raise ConfigError(
                    f"The machine {surface.name!r} can't be served to sockets and programs, since "
                    f"its name is a part of their addresses: give it one without '/', and not "
                    f"'static', or set FSM_LIVE to False."
                )
        return bind(app, self._surfaces, isinstance(state.store, RecordStore))

    def _open_doors(self, app: Flask, state: AppState, blueprint: Blueprint) -> None:
        """Let sockets, streams and programs in."""
        state.live = Service(state.config, lambda group: self.live.allows(group))
        state.listeners.append(state.live)
        app.after_request(close_after_change)
        app.after_request(watch_streams)
        got_request_exception.connect(release_on_error, app)
        blueprint.after_request(_let_read)
        sockets = [surface for surface in self._surfaces if surface._websocket is not None]
        paths = [surface._websocket for surface in sockets]
        for surface in sockets:
            if paths.count(surface._websocket) > 1:
                raise DuplicateEndpoint(
                    f"The websocket of machine {surface.name!r} and another one have the path "
                    f"{surface._websocket!r}: give each its own by websocket=."
                )
        blueprint.add_url_rule("/<machine>/ws", "websocket", websocket, websocket=True)
        blueprint.add_url_rule("/<machine>/ws", "no_websocket", explain_websocket)
        blueprint.add_url_rule("/<machine>/events", "events", events)
        blueprint.add_url_rule("/<machine>/state", "state", show_state)
        blueprint.add_url_rule("/<machine>/event", "event", send_event, methods=["POST"])
        blueprint.add_url_rule("/health", "health", health)
        for surface in sockets:
            app.add_url_rule(
                surface._websocket or "",
                f"fsm.websocket.{surface.name}",
                websocket,
                defaults={"machine": surface.name},
                websocket=True,
            )
        for path, function in self.live._open().items():
            app.add_url_rule(path, ENDPOINT + path, view_of(app, function), methods=["GET"])

    # -- the store ----------------------------------------------------------------------

    @property
    def metadata(self) -> Any:
        """The SQLAlchemy metadata of the store's tables, for migrations; within an app context."""
        records = app_state().require_record_store("fsm.metadata").records
        try:
            return records.metadata  # type: ignore[attr-defined]
        except AttributeError:
            raise ConfigError(
                "fsm.metadata: the flows are not kept in a database, so there are no tables."
            ) from None

    def init_db(self) -> None:
        """Make what the store needs on its server, unless it is there; within an app context.

        Several processes may do so at once. `flask fsm init-db` does the same.
        """
        app_state().require_record_store("fsm.init_db()").init()


def _path(path: str | None) -> str | None:
    if path is not None and not (isinstance(path, str) and path[:1] == "/" and "<" not in path):
        raise ConfigError(
            f"websocket= takes a path that begins with '/' and has no parameters, not {path!r}."
        )
    return path


def _set_up(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Bind the machines to the views before anything of the app serves the first request."""
    if app_state().bind_once() and "csrf" in current_app.extensions:
        # That door asks for a type and an origin that no other site's page can send.
        current_app.extensions["csrf"].exempt(send_event)


def _let_read(response: Response) -> Response:
    """Let pages of allowed origins read what the doors answer, and the script that they need."""
    return response if request.endpoint == "fsm.resume" else add_cors_headers(response)


def _claim_at_login(response: Response) -> Response:
    """Let a session that has just got a subject take its flows along.

    If only its next visit did, the flows of who logs out before could pass to who logs in then.
    """
    if not session.modified:
        return response
    state = app_state()
    for bound in state.bound.values():
        if bound.subject_of is None or bound.by_url or not has_session_data(session, bound.name):
            continue
        try:
            UnitOfWork(state, bound, request.view_args or {}).take_along_at_login()
        except Exception:  # the app's own function may raise anything; the answer stands
            log.exception("The flow of a session that has logged in was not claimed.")
    return response


def _answer_error(error: FSMError) -> Any:
    """Answer for a view that isn't guarded: a refusal as on a page, a fault as a 500."""
    if isinstance(error, StoreUnavailable):
        log.error("%s", error, exc_info=error)
    elif error.status >= 500:
        raise error
    found = [
        page_request for page_request in page_requests().of.values() if page_request.work.loaded
    ]
    page_request = next((v for v in found if v.flow.id == error.flow), found[0] if found else None)
    refusal = (
        Refusal.of(error, RefusalContext()) if page_request is None else page_request.refuse(error)
    )
    return current_app.handle_http_exception(refusal)


def _template_context() -> dict[str, Any]:
    """Give templates `fsm`: the machine that guards the view, or the app's first."""
    owner = page_requests().owner if has_request_context() else None
    return {"fsm": owner or app_state().extension}
