"""What the developer of an app holds: one machine's decorators, and its flow in this request."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
)

from flask import Response, has_app_context, has_request_context, request

from ..binding.declaration import Check, Declaration, Subject
from ..core.flow import Flow, Progress, Result
from ..core.history import History
from ..core.machine import Machine
from ..errors import Code, ConfigError, DefinitionError, Reason
from ..reports.funnel import Funnel, LogEntry
from ..runtime.state import app_state
from ..runtime.transaction import transaction
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import Token
from .advance import advance
from .decisions import PageRequest, page_requests
from .guard import guarded, names
from .resume_link import resume_link
from .urls import FlowURLs

if TYPE_CHECKING:
    from wtforms import BaseForm

__all__ = ["FlowSummary", "MachineViews", "delegated", "describe"]

View = TypeVar("View", bound=Callable[..., Any])
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")


class FlowSummary(NamedTuple):
    """One of a subject's flows. `started` and `updated` are in whole seconds since 1970."""

    key: str
    """What tells it apart from the subject's other flows of the machine."""
    state: str
    rev: int
    started: int
    updated: int
    finished: bool
    url: str | None
    """The address of its current page, if it has one."""


class MachineViews:
    """One machine in an app: `check` for its views, and the flow of the current request.

    It holds the definition only. What belongs to an app is found through the current app, what
    belongs to a visitor through the request.
    """

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        """What binding reads: the definition, and what was registered for it."""

    @property
    def name(self) -> str:
        """The name of the machine."""
        return self.declaration.name

    @property
    def machine(self) -> Machine:
        """The machine as the current app uses it, or as it was defined outside of an app."""
        if has_app_context():
            return app_state().bound[self.name].machine
        machine = self.declaration.machine
        if machine is None:
            raise DefinitionError(
                "The machine is built from the decorators of an app's views: ask for it within "
                "an app context."
            )
        return machine

    def __repr__(self) -> str:
        return describe(self, type(self).__name__)

    # -- whose flow ---------------------------------------------------------------------

    def subject(self, function: F) -> F:
        """Say whose flow a request means: `function` returns a user's id, an order's number, None.

        None is whoever has the session. Its parameters are URL arguments of the pages. Machines
        that were added go by the first one's, unless they have one of their own. A session that
        gets a subject takes its flow along, under a new id; whoever loses it never sees that again.
        """
        if not callable(function):
            raise DefinitionError(f"subject() takes a function, not {function!r}.")
        self.declaration.subject = Subject(function)
        return function

    def on_login_conflict(self, function: F) -> F:
        """Decide between two flows after a login: `(session's snapshot, user's) -> one of both`.

        By default the one that was moved last is kept.
        """
        if not callable(function):
            raise DefinitionError(f"on_login_conflict() takes a function, not {function!r}.")
        self.declaration.choose = function
        return function

    # -- decorators ---------------------------------------------------------------------

    def check(
        self,
        accept: Iterable[str] | None = None,
        to: Iterable[str] | None = None,
        state: str | None = None,
    ) -> Callable[[View], View]:
        """Guard the view of a page.

        `accept` names the pages from which it may be reached and `to` those it may lead to; both
        narrow the machine. `state` is the state that the view shows, by default its endpoint.
        Names without a dot are looked up in the view's blueprint first.
        """
        if callable(accept):
            raise DefinitionError(
                f"The view {getattr(accept, '__name__', accept)!r} is decorated with @fsm.check: "
                f"write @fsm.check(), with brackets."
            )
        return guarded(Check(self.declaration, self, names(accept), names(to), state))

    def requires(self, state: str) -> Callable[[View], View]:
        """Guard a view that is no page of its own: it runs while the page `state` may be opened."""
        return guarded(Check(self.declaration, self, required=state))

    # -- the flow of this request -------------------------------------------------------

    def _page_request(self) -> PageRequest:
        try:
            found = page_requests().of
        except RuntimeError as error:
            raise ConfigError(
                f"There is no request, so there is no flow of machine {self.name!r}. In a shell "
                f"or a test, use app.test_request_context(), or machine.flow() without Flask."
            ) from error
        page_request = found.get(self.name)
        if page_request is None:
            state = app_state()
            page_request = found[self.name] = PageRequest(
                state, state.bound[self.name], None, request.view_args or {}
            )
            page_request.work.load()
        return page_request

    def _unloaded(self) -> UnitOfWork:
        """Return the run of this request, or one that has not looked for its flow."""
        page_request = page_requests().of.get(self.name)
        if page_request is not None and page_request.work.loaded:
            return page_request.work
        state = app_state()
        return UnitOfWork(state, state.bound[self.name], request.view_args or {})

    def _state(self, name: str) -> str:
        return self._page_request().bound.resolve(name, request.endpoint)

    @property
    def flow(self) -> Flow:
        """The flow of this request's visitor."""
        return self._page_request().flow

    @property
    def current(self) -> str:
        """The name of the state that the flow is at."""
        return self.flow.current

    @property
    def history(self) -> History:
        """The entries of this run; `("a", "b") in fsm.history` asks for an edge."""
        return self.flow.history

    @property
    def status(self) -> str:
        """One line `a -> b` for each entry of the history."""
        return "\n".join(f"{entry.source} -> {entry.target}" for entry in self.history)

    def progress(self) -> Progress:
        """Return the pages done, this page, and the pages ahead as far as the answers tell."""
        page_request = self._page_request()
        return page_request.flow.progress(page_request.page)

    def can_transition(self, to: str) -> bool:
        """Tell whether this page may lead to `to` now."""
        return not self.why_not(to)

    def why_not(self, to: str) -> list[Reason]:
        """Return every reason why this page may not lead to `to` now."""
        page_request = self._page_request()
        return page_request.flow.why_not(self._state(to), source=page_request.source)

    def has_not_skipped(self, to: str) -> bool:
        """Tell whether every transition declared before the one to `to` was taken in this run."""
        page_request = self._page_request()
        return page_request.flow.has_not_skipped(self._state(to), source=page_request.source)

    def complete(self, state: str) -> bool:
        """Tell whether arriving at `state` ends the run."""
        return self._page_request().bound.machine.complete(self._state(state))

    def answers(self, page: str | None = None) -> dict[str, Any] | None:
        """Return what was answered on `page` (by default this one), kept or draft, or None."""
        page_request = self._page_request()
        return page_request.flow.answers(page_request.source if page is None else self._state(page))

    def url_for(self, /, state: str | None = None, **url_args: Any) -> str:
        """Return the URL of a page (by default the current one), with the path's URL arguments."""
        page_request = self._page_request()
        name = page_request.flow.current if state is None else self._state(state)
        if name not in page_request.bound.pages:
            raise DefinitionError(
                f"{name!r} is no page of machine {self.name!r}.", target=name, code=Code.NOT_A_PAGE
            )
        return page_request.urls.url(name, url_args)

    def token(self) -> Token:
        """Return the token of this rendering; `{{ fsm.token() }}` is the hidden field with it."""
        return self._page_request().token()

    # -- flows beside that of this request ----------------------------------------------

    def flows(self) -> list[FlowSummary]:
        """Return the flows that this request's subject has of the machine, newest first."""
        work = self._unloaded()
        urls = FlowURLs(work)
        return [
            FlowSummary(
                key,
                snapshot.state,
                snapshot.rev,
                snapshot.started,
                snapshot.updated,
                snapshot.finished,
                urls.url_or_none(snapshot, key),
            )
            for key, snapshot in work.owner_flows()
        ]

    def resume_link(self, flow: Flow | None = None, *, expires: float | timedelta = 3600.0) -> str:
        """Return an address that continues this request's flow on another device, once.

        It holds for `expires`, a timedelta or seconds. Opening it asks, and only the answer moves
        the flow, for mail scanners open links too. The flow gets a new id. Nobody's flow leaves the
        device where it was; a subject's opens for that subject only, and stays on all its devices.
        """
        work = self._page_request().work
        if flow is not None and flow.id != work.flow.id:
            raise ConfigError(
                "resume_link() takes the flow of this request: ask within a view that has it."
            )
        seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
        return resume_link(work, seconds)

    def log(
        self,
        machine: Machine | str | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
    ) -> Iterator[LogEntry]:
        """Return the history of all runs of a machine, also of those that are over, oldest first.

        `machine` is by default this one; `since` and `until` are times, or seconds since 1970.
        """
        store = app_state().require_record_store("fsm.log()")
        return store.log(self._named(machine), _seconds(since), _seconds(until))

    def funnel(
        self,
        machine: Machine | str | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
    ) -> Funnel:
        """Return for each page how many runs reached and left it, where to, and how long it took.

        The arguments are those of `log`.
        """
        store = app_state().require_record_store("fsm.funnel()")
        return store.funnel(self._named(machine), _seconds(since), _seconds(until))

    def _named(self, machine: Machine | str | None) -> Machine:
        """Return a machine as the app uses it, by default this one."""
        bound = app_state().bound
        name = self.name if machine is None else getattr(machine, "name", machine)
        if name not in bound:
            raise ConfigError(
                f"This app has no machine {name!r}. It has {', '.join(map(repr, bound))}."
            )
        return bound[str(name)].machine

    # -- moving -------------------------------------------------------------------------

    def advance(
        self,
        /,
        to: str | None = None,
        data: Mapping[str, Any] | None = None,
        form: BaseForm | None = None,
        *,
        fast_forward: bool = False,
        **url_args: Any,
    ) -> Response | None:
        """Leave this page for `to` and return the answer that sends the visitor there.

        Without `to`, the request says where to, or there is only one way on. The answers, `data` or
        those of `form`, are kept under this page. If a rule refuses and a form is given, its
        messages are put into `form.errors` and None is returned; with `data` the refusal is raised.
        After an edit, `resume` walks the old path on as far as its rules hold. `url_args` are URL
        arguments of the next page; those not given come from this request.
        """
        return advance(self._page_request(), to, data, form, fast_forward, url_args)

    def transition(self, to: str, data: Mapping[str, Any] | None = None) -> Result:
        """Make a transition from this page and return its result; the view answers itself."""
        page_request = self._page_request()
        target = self._state(to)
        page = page_request.bound.pages.get(target)
        args = None if page is None else page.args(request.view_args or {})
        # If the form comes again, its sender is led to where the flow has gone.
        return page_request.transition(
            target,
            data,
            page_request.source,
            args,
            location=lambda flow: page_request.urls.current_url(),
        )

    @contextmanager
    def transaction(self, session: Any = None) -> Iterator[Any]:
        """Let the transition of the block commit together with what `session` does, or not at all.

        `session` is an SQLAlchemy session of the database that keeps the flows; with None a new one
        is opened and closed. It is committed at the end of the block, and hooks run after that. If
        the block raises, or makes no transition, it is rolled back. Raises ConfigError where flows
        are not kept in that database.
        """
        store = self._page_request().state.require_record_store("fsm.transaction()")
        with transaction(store, session) as joined:
            yield joined

    def reset(self) -> None:
        """Begin a new run; nothing brings back the one before."""
        self._page_request().reset()


def describe(views: MachineViews, kind: str) -> str:
    """Return the `repr` of a machine's views, as those of a `kind`."""
    if not has_request_context():
        return f"<{kind} {views.declaration.machine or 'built from decorators'!r}>"
    flow = views.flow
    history = [(entry.source, entry.target) for entry in flow.history]
    return f"<{kind} {views.name!r} at {flow.current!r}, history={history}>"


class HasDefault(Protocol):
    """An object that has the views of a default machine."""

    @property
    def default(self) -> MachineViews: ...


def delegated(
    method: Callable[Concatenate[MachineViews, P], R],
) -> Callable[Concatenate[HasDefault, P], R]:
    """Return a method of the same signature and documentation that calls the default machine's."""

    @functools.wraps(method)
    def call(self: HasDefault, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.default, *args, **kwargs)

    return call


def _seconds(moment: datetime | float | None) -> int | None:
    """Return a time as whole seconds since 1970, rounded up; one without zone is UTC."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return ceil(moment)
