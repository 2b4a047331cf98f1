"""Context: the request contexts in which the events of one client run."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, NamedTuple

from flask import Flask, Request, appcontext_tearing_down, request_tearing_down, session
from flask.ctx import RequestContext
from flask.globals import app_ctx
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from werkzeug.routing import Rule

from ...runtime.app_state import unwrap
from .actions import Job

__all__ = ["FreshContext", "HeldContext", "event_context"]

log: Final = logging.getLogger("flask_fsm")
# The keys of the handshake's environ to keep: they describe the client and its request.
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


class EventContext(RequestContext):
    """A request context like that of the handshake, whose URL need not be matched again."""

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

    def push(self) -> None:
        super().push()
        self._app_context = unwrap(app_ctx)

    def reuse(self, function: Callable[[Job], None], job: Job) -> None:
        """Call a function with a job in this context, then reset what belongs to one request."""
        app = self.app
        try:
            function(job)
        finally:
            try:
                # Without listeners, the two calls would take a third of the time of a short event.
                if app.teardown_request_funcs or request_tearing_down.receivers:
                    app.do_teardown_request()
            finally:
                try:
                    if app.teardown_appcontext_funcs or appcontext_tearing_down.receivers:
                        app.do_teardown_appcontext()
                finally:
                    self._app_context.g = app.app_ctx_globals_class()
                    # No response will follow that could use these.
                    self._after_request_functions.clear()
                    if "_flashes" in self.session:
                        del self.session["_flashes"]


class ConnectRequest(NamedTuple):
    """The parts of the connecting request that the contexts of a client's events reuse."""

    app: Flask
    environ: dict[str, Any]
    rule: Rule | None
    view_args: dict[str, Any] | None

    def context(self, session: SessionMixin | None) -> EventContext:
        environ = {**self.environ, "wsgi.input": io.BytesIO()}
        return EventContext(self.app, environ, session, self.rule, self.view_args)


class HeldContext:
    """One context that stays pushed between events, as pushing takes longer than most events.

    Each event gets a copy of its context variables (PEP 567). After each one the app's teardown
    functions run, and `g` is new. It needs a session in a signed cookie, which nothing else can
    change while this client is connected.
    """

    __slots__ = ("_context", "_request", "_session", "_variables")

    _variables: Context

    def __init__(self, request: ConnectRequest) -> None:
        self._request = request
        self._session: dict[str, Any] = {}
        self._context: EventContext | None = None

    def remember_session(self) -> None:
        """Use the content of the current request's session for all events."""
        self._session = dict(session)

    def run(self, function: Callable[[Job], None], job: Job) -> None:
        """Call a function with a job within the context; raises what a teardown function raises."""
        # The first event creates it, so that clients which only listen take no memory for it.
        context = self._context or self._push()
        self._variables.copy().run(context.reuse, function, job)

    def _push(self) -> EventContext:
        interface: Any = self._request.app.session_interface
        context = self._request.context(interface.session_class(self._session))
        self._variables = Context()
        self._variables.run(context.push)
        self._context = context
        return context

    def end(self) -> None:
        """Pop the context, which tears it down once more, and break its reference cycle."""
        context, self._context = self._context, None
        if context is not None:
            try:
                self._variables.run(context.pop)
            except Exception as error:
                log.error("Failed to tear down the app context of a connection.", exc_info=error)
            del self._variables


class FreshContext:
    """A new context for each event, whose session is opened each time, as it may have changed.

    The values under `names` in the session take part: no response stores them in the browser.
    """

    __slots__ = ("_names", "_request", "_values")

    def __init__(self, request: ConnectRequest, names: tuple[str, ...]) -> None:
        self._request = request
        self._names = names
        self._values: dict[str, Any] = {}

    def remember_session(self) -> None:
        """Keep the values under the names in the current session for the next event."""
        self._values = {name: session[name] for name in self._names if name in session}

    def run(self, function: Callable[[Job], None], job: Job) -> None:
        """Call a function with a job within a new context."""
        Context().run(self._run, function, job)

    def _run(self, function: Callable[[Job], None], job: Job) -> None:
        with self._request.context(None):
            session.update(self._values)
            try:
                function(job)
            finally:
                self.remember_session()

    def end(self) -> None:
        """Do nothing: no context is open between events."""


def event_context(
    app: Flask, request: Request, names: tuple[str, ...]
) -> HeldContext | FreshContext:
    """Return the contexts for the events of the client that sends this request.

    `names` are the keys of the session that take part in each event.
    """
    environ = {
        name: value
        for name, value in request.environ.items()
        if name in ENVIRON or name.startswith("HTTP_")
    }
    connect_request = ConnectRequest(app, environ, request.url_rule, request.view_args)
    if isinstance(app.session_interface, SecureCookieSessionInterface):
        return HeldContext(connect_request)
    return FreshContext(connect_request, names)
