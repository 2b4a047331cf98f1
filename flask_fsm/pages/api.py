"""MachineViews: one machine's decorators for views, and its flow in the current request."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import (
    Any,
    Concatenate,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from flask import Response, has_app_context, request

from ..binding.declaration import Check, Subject
from ..core.flow import Flow, Progress, Result
from ..core.history import History
from ..core.machine import Machine
from ..errors import Code, ConfigError, DefinitionError, Reason
from ..runtime.app_state import app_state
from ..runtime.stored_flow import error_of_reading
from ..runtime.transaction import transaction
from ..security.tokens import Token
from .advance import WTForm, advance, own_answers
from .decisions import PageRequest, page_requests
from .description import describe
from .flow_reports import FlowReports
from .guard import guarded, names
from .resume_link import resume_link

__all__ = ["MachineViews", "delegated"]

View = TypeVar("View", bound=Callable[..., Any])
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")


class MachineViews(FlowReports):
    """One machine in an app: `check` for its views, and the flow of the current request.

    `fsm.add(machine)` returns one; `fsm` itself has the methods of the first. It holds the
    definition only, so that one object serves several apps: app and visitor are those of the
    current context.
    """

    @property
    def machine(self) -> Machine:
        """The machine as the current app uses it, or as it was defined outside of an app."""
        if has_app_context():
            return app_state().bound[self.name].machine
        machine = self.declaration.machine
        if machine is None:
            raise DefinitionError(
                "The machine is built from the decorators of an app's views: use it within "
                "an app context."
            )
        return machine

    def __repr__(self) -> str:
        return describe(self, type(self).__name__)

    # -- the subject --------------------------------------------------------------------

    def subject(self, function: F) -> F:
        """Register the function that returns the subject of a request.

        At a login the flow of the session becomes the user's, under a new id. After a logout the
        session has no access to it any more.

        Args:
            function: Returns the subject as a non-empty `str`, an `int` or a `UUID`; None for a
                flow that belongs to the session. Its parameters are URL arguments of the pages.
                That of the app's first machine holds for machines that register none.

        Returns:
            `function`, so that this works as a decorator.

        Raises:
            DefinitionError: `function` can't be called, or is async.
        """
        if not callable(function):
            raise DefinitionError(f"subject() takes a function, not {function!r}.")
        self.declaration.subject = Subject(function)
        return function

    def on_login_conflict(self, function: F) -> F:
        """Register the function that chooses between two flows at a login.

        Args:
            function: `(session's snapshot, user's snapshot) -> the one to keep`. By default the
                one that was moved last is kept.

        Returns:
            `function`, so that this works as a decorator.

        Raises:
            DefinitionError: `function` can't be called, or is async.
        """
        if not callable(function):
            raise DefinitionError(f"on_login_conflict() takes a function, not {function!r}.")
        self.declaration.set_login_choice(function)
        return function

    # -- decorators ---------------------------------------------------------------------

    def check(
        self,
        accept: Iterable[str] | None = None,
        to: Iterable[str] | None = None,
        state: str | None = None,
        free: Iterable[str] | None = None,
    ) -> Callable[[View], View]:
        """Return a decorator that guards the view of a page.

        Names without a dot are looked up in the view's blueprint first.

        Args:
            accept: The pages from which this one may be reached, or one name. By default all that
                the machine allows; a list can only restrict the machine.
            to: The pages to which this one may lead, likewise.
            state: The state that the view shows. By default the view's endpoint.
            free: The URL arguments that do not identify the page, such as a language, or one name:
                a visitor may change them. By default those in the machine's `free_args`.

        Raises:
            DefinitionError: `@fsm.check` is written without brackets. Names that the machine does
                not have are reported at the first request.
        """
        if callable(accept):
            raise DefinitionError(
                f"The view {getattr(accept, '__name__', accept)!r} is decorated with @fsm.check: "
                f"write @fsm.check(), with brackets."
            )
        return guarded(
            Check(self.declaration, self, names(accept), names(to), state, free=names(free) or ())
        )

    def requires(self, state: str) -> Callable[[View], View]:
        """Return a decorator for a view that is not a page itself, such as an upload.

        Args:
            state: The page that must be open, or the view does not run.
        """
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
        """The entries of this run; `("a", "b") in fsm.history` tests for an edge."""
        return self.flow.history

    @property
    def status(self) -> str:
        """One line `a -> b` for each entry of the history."""
        return "\n".join(f"{entry.source} -> {entry.target}" for entry in self.history)

    def progress(self) -> Progress:
        """Return the pages done, this page, and those ahead as far as answers determine them."""
        page_request = self._page_request()
        return page_request.flow.progress(page_request.page)

    def can_transition(self, to: str) -> bool:
        """Return whether this page may lead to the state `to` now."""
        return not self.why_not(to)

    def why_not(self, to: str) -> list[Reason]:
        """Return the reasons why this page may not lead to `to` now.

        Args:
            to: The name of a state.

        Returns:
            Every `Reason`, with a `code` and a `text`; an empty list if the transition is open.
        """
        page_request = self._page_request()
        return page_request.flow.why_not(self._state(to), source=page_request.source)

    def has_not_skipped(self, to: str) -> bool:
        """Return whether this run has made every transition declared before the one to `to`."""
        page_request = self._page_request()
        return page_request.flow.has_not_skipped(self._state(to), source=page_request.source)

    def complete(self, state: str) -> bool:
        """Return whether arriving at `state` ends the run."""
        return self._page_request().bound.machine.complete(self._state(state))

    def answers(self, page: str | None = None) -> dict[str, Any] | None:
        """Return the answers of a page, with which to fill its form.

        Args:
            page: The name of a state. By default this page.

        Returns:
            The committed answers, or a draft that an edit left; None if there are none.
        """
        page_request = self._page_request()
        return page_request.flow.answers(page_request.source if page is None else self._state(page))

    def url_for(
        self,
        /,
        state: str | None = None,
        *,
        url_args: Mapping[str, Any] | None = None,
        **more_url_args: Any,
    ) -> str:
        """Return the URL of a page.

        Args:
            state: The name of its state. By default the current one.
            url_args: URL arguments; by default those with which the page was reached.
            **more_url_args: The same as keywords, except for names that are parameters here.

        Raises:
            DefinitionError: No view shows the state.
            MissingArguments: The URL needs an argument that is not known.
        """
        page_request = self._page_request()
        name = page_request.flow.current if state is None else self._state(state)
        if name not in page_request.bound.pages:
            raise DefinitionError(
                f"{name!r} is not a page of machine {self.name!r}: no view shows it.",
                target=name,
                code=Code.NOT_A_PAGE,
            )
        return page_request.urls.url(name, merge_url_args(url_args, more_url_args))

    def token(self) -> Token:
        """Return a token for a form of this page; `{{ fsm.token() }}` is the hidden field.

        Returns:
            A `Token`, whose `value` is the text for JSON bodies and the header `X-FSM-Token`.
        """
        return self._page_request().token()

    # -- flows beside that of this request ----------------------------------------------

    def resume_link(self, flow: Flow | None = None, *, expires: float | timedelta = 3600.0) -> str:
        """Return a URL that continues this request's flow on another device, once.

        Opening it only asks; confirming moves the flow, since mail scanners open links too. The
        flow gets a new id. Without a subject it leaves this device; the link of a user's flow opens
        for that user only, and the flow stays on all of the user's devices.

        Args:
            flow: The flow of this request. None means the same.
            expires: How long the link is valid, in seconds or as a timedelta. By default an hour.

        Raises:
            ConfigError: `flow` is another one, or the flows are stored in the session.
            FSMError: Nothing has been committed yet (`not_begun`).
        """
        work = self._page_request().work
        if flow is not None and flow.id != work.flow.id:
            raise ConfigError(
                "resume_link() takes the flow of this request: call it in a view that has one."
            )
        seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
        return resume_link(work, seconds)

    # -- moving -------------------------------------------------------------------------

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
    ) -> Response | None:
        """Leave this page for `to` and return the response that sends the visitor there.

        Args:
            to: The next page. By default what the request names in its field `to`, or the only open
                edge.
            data: The answers to store for this page, and to give to its rules.
            form: A WTForms form whose data is stored instead, except for its password fields. If a
                rule refuses, its messages go into `form.errors`.
            fast_forward: Whether to repeat, after an edit, the steps of the old path as far as
                their rules allow it. By default the visitor repeats them.
            url_args: URL arguments of the next page; by default those of this request.
            **more_url_args: The same as keywords, except for names that are parameters here.

        Returns:
            The response; None if a rule has refused and a form was given.

        Raises:
            UnknownTarget: `to` is not a state.
            InvalidTransition: No edge leads to `to`, or several ways are open (`ambiguous`).
            GuardRefused: A guard has refused, and no form was given.
            ValidationFailed: A validator has refused, and no form was given.
            InvalidData: The answers hold a value that can't be stored.
            StaleFlow: Another request has committed first.
            MissingArguments: The URL of the next page needs another argument.
        """
        values = merge_url_args(url_args, more_url_args)
        return advance(self._page_request(), to, data, form, fast_forward, values)

    def transition(self, to: str, data: Mapping[str, Any] | None = None) -> Result:
        """Make a transition from this page; the view itself answers the request.

        Args:
            to: The name of the target state.
            data: The answers to store for this page. By default none.

        Raises:
            InvalidTransition, GuardRefused, ValidationFailed, StaleFlow: As for `advance`.
        """
        page_request = self._page_request()
        if page_request.work.read_only:
            raise error_of_reading("fsm.transition()")
        target = self._state(to)
        bound, tip = page_request.bound, page_request.flow.snapshot.tip
        values = {**bound.path_values(tip), **(request.view_args or {})}
        page = bound.pages.get(target)
        args = None if page is None else page.args(values)
        # If the form is sent again, redirect to where the flow has moved.
        return page_request.transition(
            target,
            None if data is None else own_answers(page_request, data, to),
            page_request.source,
            args,
            location=lambda flow: page_request.urls.current_url(),
        )

    @contextmanager
    def transaction(self, session: Any = None) -> Iterator[Any]:
        """Commit the block's transition and the changes of `session` together, or neither.

        The session is committed at the end of the block, and hooks run after that. If the block
        raises, or makes no transition that is still valid at its end, the session is rolled back. A
        rollback inside the block undoes the transition; if the view still returns its response,
        that becomes a 500.

        Args:
            session: An SQLAlchemy session of the database in which the flows are stored. By default
                a new one is opened, and closed after the block.

        Raises:
            ConfigError: The flows are not stored in that database, or `session` is inside
                `with session.begin():`.
            StoreUnavailable: The connection was lost. Nothing was committed; or, if it was lost
                during the commit, the outcome is unknown.
        """
        store = self._page_request().state.require_record_store("fsm.transaction()")
        with transaction(store, session) as joined:
            yield joined

    def reset(self) -> None:
        """Begin a new run. The old one can't be restored."""
        self._page_request().reset()


def merge_url_args(given: Mapping[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    """Return the URL arguments of a call: those of the mapping, and those given as keywords."""
    if given is None:
        return more
    if not isinstance(given, Mapping):
        raise TypeError(f"url_args= takes a mapping of names to values, not {given!r}.")
    return {**given, **more}


class HasDefault(Protocol):
    """An object that has the views of a default machine."""

    @property
    def default(self) -> MachineViews: ...


def delegated(
    method: Callable[Concatenate[MachineViews, P], R],
) -> Callable[[Callable[..., Any]], Callable[Concatenate[HasDefault, P], R]]:
    """Return a decorator that replaces a method by a call of the default machine's `method`.

    The result has the signature and documentation of `method`. A decorated method has a declared
    type for type checkers; that of an assigned attribute would only be inferred.
    """

    @functools.wraps(method)
    def call(self: HasDefault, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.default, *args, **kwargs)

    return lambda declared: call
