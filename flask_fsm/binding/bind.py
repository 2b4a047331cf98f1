"""Binds machines to the guarded views of an app, or reports all faults at once."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from flask import Flask

from ..core.machine import Machine
from ..core.names import plain
from ..core.rules import is_async
from ..core.ways import Limits
from ..errors import Code, DefinitionError, UnknownState
from .app_guards import app_guards
from .bound_machine import FLOW_ARGUMENT, Bound, Page, newest, resolve
from .declaration import Check, Declaration, Declarations, Subject, checks_of
from .narrowing import Listed, narrowing_faults, unintended_ends
from .view_faults import (
    answers,
    async_fault,
    bare_views,
    is_async_view,
    pages_without_get,
    states_without_view,
)

__all__ = ["bind"]

Found = list[tuple[str, Check]]


def bind(app: Flask, declarations: Declarations, has_record_store: bool) -> dict[str, Bound]:
    """Return the machines bound to the views of `app`, by name.

    Args:
        app: The app, with all its views.
        declarations: The machines, and what the app has declared for each.
        has_record_store: Whether the store keeps flows apart from the session.

    Raises:
        DefinitionError: There are faults; it lists those of all machines.
    """
    views = {endpoint: tuple(checks_of(view)) for endpoint, view in app.view_functions.items()}
    bare = bare_views(app, declarations, views)
    faults: list[DefinitionError] = list(bare.values())
    bound: dict[str, Bound] = {}
    for declaration in declarations:
        name = declaration.name
        found = [
            (endpoint, check)
            for endpoint, checks in views.items()
            for check in checks
            if check.declaration is declaration
        ]
        if declaration.machine is None and bare:
            continue  # the views that are bare would define it
        subject = declarations.subject_of(declaration)
        try:
            machine = declaration.machine or _machine_of(declaration, found)
            one = _bind_one(app, machine, found, faults, bare.keys())
        except DefinitionError as error:  # of the machine itself, which its views can't mend
            faults.append(error)
            continue
        faults += _missing_support(one, subject, has_record_store)
        faults += _argument_faults(one, subject)
        faults += pages_without_get(app, one)
        warnings, missed = list(unintended_ends(app, one)), states_without_view(one)
        if app.debug:
            faults += missed
        else:
            warnings += map(str, missed)
        bound[name] = replace(
            one,
            subject_of=None if subject is None else functools.partial(subject.of_request, name),
            by_url=subject is not None and bool(subject.arguments),
            app_guards=app_guards(
                app,
                [endpoint for endpoint, check in found if check.required is None],
                by_url=subject is not None and bool(subject.arguments),
            ),
            choose=declarations.login_choice_of(declaration) or newest,
            warnings=tuple(warnings),
        )
    if faults:
        raise DefinitionError.of(f"The app {app.name!r}", faults)
    return bound


def _machine_of(declaration: Declaration, found: Found) -> Machine:
    """Build a machine from the `accept` and `to` of the decorators."""
    own = {endpoint: check for endpoint, check in found if check.required is None}
    states = {plain(check.state or endpoint): endpoint for endpoint, check in own.items()}

    def full(name: str, endpoint: str) -> str:
        dotted = f"{endpoint.rpartition('.')[0]}.{name}"
        return dotted if "." not in name and dotted in states else name

    edges: dict[tuple[str, str], None] = {}
    for endpoint, check in own.items():
        here = plain(check.state or endpoint)
        for target in check.to or ():
            edges[here, full(target, endpoint)] = None
        for source in check.accept or ():
            edges[full(source, endpoint), here] = None
    options = declaration.options.copy()
    options.setdefault("initial", next(iter(states), None))
    return Machine(declaration.name, edges, **options)


class _Views:
    """What the views of an app say of one machine; `add` takes in the checks one by one.

    Args:
        app: The app.
        machine: The machine as it is defined.
        faults: The faults, to which those of the checks are added.
    """

    def __init__(self, app: Flask, machine: Machine, faults: list[DefinitionError]) -> None:
        self._app = app
        self._machine = machine
        self._faults = faults
        self.states: dict[str, str] = {}
        """The state that each endpoint shows."""
        self.free: dict[str, frozenset[str]] = dict.fromkeys(
            machine.states, frozenset(machine.free_args)
        )
        """The free URL arguments of each state."""
        self._allowed: dict[str, dict[str, set[str]]] = {"accept": {}, "to": {}}
        """By argument of `check` and by state, the states that all its views allow."""
        self.listed: list[Listed] = []
        """Every `accept` and `to`, for the messages of faults."""
        self._misnamed: set[str] = set()
        """The states whose `accept` or `to` has a fault."""

    def fault(
        self, endpoint: str, text: str, kind: type[DefinitionError] = DefinitionError
    ) -> None:
        """Add the fault of a view."""
        self._faults.append(kind(f"view {endpoint!r}, machine {self._machine.name!r}: {text}"))

    def add(self, endpoint: str, check: Check) -> None:
        """Take in a check of the view of an endpoint."""
        machine = self._machine
        if check.required is not None:
            if resolve(machine, check.required, endpoint) not in machine.states:
                text = f"requires() names the unknown state {check.required!r}."
                self.fault(endpoint, text, UnknownState)
            return
        state = resolve(machine, check.state or endpoint, endpoint)
        if state not in machine.states:
            self.fault(
                endpoint,
                f"it is guarded, but {state!r} is not a state. Name the state in check(state=...), "
                f"or add it to the machine.",
                UnknownState,
            )
            return
        known = self.states.setdefault(endpoint, state)
        if known != state:
            self.fault(
                endpoint, f"it is guarded twice, as {known!r} and as {state!r}: keep one check()."
            )
        self._narrow(endpoint, state, "accept", check.accept)
        self._narrow(endpoint, state, "to", check.to)
        self.free[state] |= set(check.free)
        for name in sorted(set(check.free) - _arguments(self._app, endpoint)):
            self.fault(endpoint, f"free names {name!r}, which its route does not have.")

    def _narrow(
        self, endpoint: str, state: str, label: str, listed: tuple[str, ...] | None
    ) -> None:
        """Allow a state only the `listed` ones, by the `accept` or `to` of a view."""
        if listed is None:
            return
        machine, allowed = self._machine, self._allowed[label]
        full = {resolve(machine, name, endpoint) for name in listed}
        allowed[state] = allowed.get(state, full) & full
        self.listed.append(Listed(endpoint, label, state, frozenset(full)))
        before = len(self._faults)
        for name in sorted(full):
            source, target = (name, state) if label == "accept" else (state, name)
            if name not in machine.states:
                self.fault(endpoint, f"{label} names the unknown state {name!r}.", UnknownState)
            elif target not in machine.ways[source]:
                step = f"{source!r} -> {target!r}"
                self.fault(endpoint, f"{label} names {name!r}, but the machine has no edge {step}.")
        if len(self._faults) > before:
            self._misnamed.add(state)

    @property
    def limits(self) -> Limits:
        """The edges that the views leave in the machine."""
        return Limits(**self._allowed)

    @property
    def generous_limits(self) -> Limits:
        """Those edges, and those about which the views have a fault."""
        misnamed = self._misnamed
        return Limits(
            **{
                label: {at: names | misnamed for at, names in of.items() if at not in misnamed}
                for label, of in self._allowed.items()
            }
        )


def _bind_one(
    app: Flask,
    machine: Machine,
    found: Found,
    faults: list[DefinitionError],
    bare: Set[str],
) -> Bound:
    """Bind one machine, and add its faults; those of the endpoints in `bare` are known."""
    views = _Views(app, machine, faults)
    for endpoint, check in found:
        views.add(endpoint, check)
    unguarded = app.view_functions.keys() - views.states.keys() - bare
    for name, state in machine.states.items():
        if name in unguarded and state.guarded:
            views.fault(
                name,
                "it is a page but isn't guarded. Put @fsm.check() directly on the view (for a "
                "class: decorators = [fsm.check()]; other decorators need functools.wraps), or "
                "use State(guarded=False).",
            )
    faults += narrowing_faults(machine, views.generous_limits, views.listed)
    asyncs = [
        view
        for endpoint in dict.fromkeys(endpoint for endpoint, _ in found)
        if is_async_view(view := app.view_functions[endpoint])
    ]
    narrowed_machine = machine.restricted(views.limits, functools.partial(_run_on, app, asyncs))
    missing_extra = async_fault(app, asyncs)
    if missing_extra is not None:
        faults.append(missing_extra)
    guarded: dict[int, tuple[str, ...]] = {}
    for endpoint, check in found:
        guarded[id(check)] = (*guarded.get(id(check), ()), endpoint)
    pages = _pages(app, machine, views.states, views.free)
    return Bound(machine.name, narrowed_machine, pages, views.states, guarded)


def _missing_support(
    bound: Bound, subject: Subject | None, has_record_store: bool
) -> list[DefinitionError]:
    """Return the faults of what a machine needs: a store on a server; no pages with a scope."""
    machine = bound.machine
    arguments = () if subject is None else subject.arguments
    faults = []
    features = [
        f"Transition({edge.source!r}, {edge.target!r}, once=True)"
        for edge in machine.existing_edges()
        if edge.once
    ]
    if machine.many:
        features.append(f"many={machine.many!r}")
    if arguments:
        features.append(f"a subject by URL arguments ({', '.join(arguments)})")
    if not has_record_store:
        faults += [
            DefinitionError(
                f"machine {machine.name!r}: {each} needs a store on a server, but FSM_STORE_URL is "
                f"'session'. Set it to the URL of a database or of Redis."
                + (
                    " In the session, only the user can be the subject."
                    if "subject" in each
                    else ""
                ),
                code=Code.NEEDS_STORE,
            )
            for each in features
        ]
    if machine.scope == "connection":
        faults += [
            DefinitionError(
                f"view {endpoint!r}, machine {machine.name!r}: it is guarded, but with "
                f'scope="connection" each websocket has its own flow, and pages have none: '
                f"remove the decorator, or the scope.",
                source=state,
            )
            for endpoint, state in bound.states.items()
        ]
    return faults


def _argument_faults(bound: Bound, subject: Subject | None) -> list[DefinitionError]:
    """Return the faults of URL arguments: missing, misnamed, or free although a flow needs them."""
    machine, pages = bound.machine, bound.pages.values()
    needed = dict.fromkeys(() if subject is None else subject.arguments, "its subject")
    if isinstance(machine.many, str):
        needed[machine.many] = f"many={machine.many!r}"
    faults = [
        DefinitionError(
            f"view {page.endpoint!r}, machine {machine.name!r}: {why} depends on the URL argument "
            f"{argument!r}, which its route does not have.",
            source=page.state,
        )
        for page in pages
        for argument, why in needed.items()
        if argument not in page.arguments
    ]
    faults += [
        DefinitionError(
            f"view {page.endpoint!r}, machine {machine.name!r}: its route has the argument "
            f"{FLOW_ARGUMENT!r}, which is the query argument that names the flow where many=True: "
            f"rename it.",
            source=page.state,
        )
        for page in pages
        if machine.many is True and FLOW_ARGUMENT in page.arguments
    ]
    faults += [
        DefinitionError(
            f"machine {machine.name!r}: {argument!r} can't be a free argument, since {why} depends "
            f"on it."
        )
        for argument, why in needed.items()
        if any(argument in page.free for page in pages)
    ]
    faults += [
        DefinitionError(
            f"machine {machine.name!r}: free_args names {argument!r}, which the route of no page "
            f"has."
        )
        for argument in machine.free_args
        if not any(argument in page.arguments for page in pages)
    ]
    return faults


def _run_on(
    app: Flask, asyncs: list[Callable[..., Any]], rule: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function that runs an async rule as Flask runs async views; add it to `asyncs`."""
    if not is_async(rule):
        return rule
    asyncs.append(rule)
    function = rule if inspect.iscoroutinefunction(rule) else getattr(rule, "__call__")  # noqa: B004, B009

    alone = threading.RLock() if _shares_threads() else nullcontext()

    def run(*args: Any) -> Any:
        with alone:
            return wait(*args)

    def wait(*args: Any) -> Any:
        call = functools.partial(app.ensure_sync(function), *args)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return call()
        # Called by an async view, within a loop that can't run another one: so a thread runs it.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(contextvars.copy_context().run, call).result()

    return functools.update_wrapper(run, rule)


def _shares_threads() -> bool:
    """Return whether gevent runs many requests in one thread, which can run one event loop only."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _arguments(app: Flask, endpoint: str) -> frozenset[str]:
    """Return the names of the URL arguments of an endpoint."""
    return frozenset().union(*(rule.arguments for rule in app.url_map.iter_rules(endpoint)))


def _by_blueprint(endpoints: Iterable[str]) -> dict[str, str]:
    """Return the first endpoint of each blueprint by its name; nothing if there is only one."""
    found: dict[str, str] = {}
    for endpoint in endpoints:
        found.setdefault(endpoint.rpartition(".")[0], endpoint)
    return found if len(found) > 1 else {}


def _pages(
    app: Flask,
    machine: Machine,
    states: Mapping[str, str],
    free: Mapping[str, frozenset[str]],
) -> dict[str, Page]:
    """Return the page of each state: the endpoint of its name, or the first that answers GET."""
    shown: dict[str, list[str]] = {}
    for endpoint, state in states.items():
        shown.setdefault(state, []).append(endpoint)
    pages: dict[str, Page] = {}
    for state in machine.states:
        endpoints = shown.get(state, [])
        if state in app.view_functions and state not in states:
            endpoints = [*endpoints, state]
        if not endpoints:
            continue
        readable = [
            endpoint
            for endpoint in sorted(endpoints, key=lambda endpoint: endpoint != state)
            if answers(app, endpoint, "GET")
        ]
        endpoint = (readable or endpoints)[0]
        rules = tuple(app.url_map.iter_rules(endpoint))
        arguments = _arguments(app, endpoint)
        required = frozenset.intersection(
            *(frozenset(rule.arguments - (rule.defaults or {}).keys()) for rule in rules)
        )
        converters = {name: own for rule in rules for name, own in rule._converters.items()}
        pages[state] = Page(
            state,
            endpoint,
            arguments,
            required,
            converters,
            free[state] & arguments,
            _by_blueprint(readable),
        )
    return pages
