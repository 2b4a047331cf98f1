"""Faults of views that would show only later: bare views, pages without a GET, missing views."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flask import Flask

from ..core.ways import EVERYWHERE, arcs
from ..errors import DefinitionError
from .bound_machine import Bound
from .declaration import Check, Declarations, layers_of, mark_of

__all__ = [
    "answers",
    "async_fault",
    "bare_views",
    "is_async_view",
    "pages_without_get",
    "states_without_view",
]


def bare_views(
    app: Flask, declarations: Declarations, views: Mapping[str, Iterable[Check]]
) -> dict[str, DefinitionError]:
    """Return a fault for each endpoint whose view has its guard above the route.

    `views` has the checks that are found on each view that is registered.
    """
    declared = set(declarations)
    found = {id(check) for checks in views.values() for check in checks}
    faults = {}
    for endpoint, view in app.view_functions.items():
        check = mark_of(view)
        if check is not None and check.declaration in declared and id(check) not in found:
            name = "check" if check.required is None else "requires"
            faults[endpoint] = DefinitionError(
                f"view {endpoint!r}, machine {check.declaration.name!r}: its decorator {name}() "
                f"stands above the route, so Flask has registered the bare view, which nothing "
                f"guards: put {name}() below @app.route(...), directly on the view."
            )
    return faults


def answers(app: Flask, endpoint: str, method: str) -> bool:
    """Return whether an endpoint answers requests of a method, such as GET."""
    return any(method in (rule.methods or ()) for rule in app.url_map.iter_rules(endpoint))


def pages_without_get(app: Flask, bound: Bound) -> Iterator[DefinitionError]:
    """Find the guarded pages to which no visitor can be sent, since none of their views shows them.

    Of several views of a page, the one that answers a GET is its endpoint.
    """
    for page in bound.pages.values():
        if page.endpoint in bound.states and not answers(app, page.endpoint, "GET"):
            yield DefinitionError(
                f"view {page.endpoint!r}, machine {bound.name!r}: it is the page of {page.state!r} "
                f"but does not answer GET, so a redirect to it would be a 405: allow GET, or guard "
                f"another view with check(state={page.state!r}) that shows the page.",
                source=page.state,
            )


def states_without_view(bound: Bound) -> Iterator[DefinitionError]:
    """Find the states that a page leads to and that no view shows, unless that is on purpose.

    It is on purpose if the state has `guarded=False` or events, or if an event leads to it.
    """
    machine = bound.machine
    shown = set(bound.states.values())
    missed: dict[str, str] = {}
    listed = [edge for edge in machine.listed_edges if edge.source in shown and edge.event is None]
    unrestricted = {name: each for name, each in machine.targets.items() if name in shown}
    everywhere = ""
    """The first page that leads to every state."""
    for source, name in arcs(listed, unrestricted):
        if name == EVERYWHERE:
            everywhere = everywhere or source
            continue
        target = machine.states[name]
        if name not in bound.pages and target.guarded and not target.events:
            missed.setdefault(name, everywhere if source == EVERYWHERE else source)
    for name, source in missed.items():
        yield DefinitionError(
            f"state {name!r}, machine {machine.name!r}: the page {source!r} leads to it, but no "
            f"view shows it, so advance() can't go there: guard a view with check(state={name!r}), "
            f"or, if it is to have none, say so by State({name!r}, guarded=False).",
            source=source,
            target=name,
        )


def async_fault(app: Flask, functions: Iterable[Callable[..., Any]]) -> DefinitionError | None:
    """Return the fault of async rules and views that the app can't run, or None.

    `functions` are the rules, handlers and views that are async.
    """
    runs_them_itself = (
        type(app).ensure_sync is not Flask.ensure_sync
        or type(app).async_to_sync is not Flask.async_to_sync
    )
    if runs_them_itself or importlib.util.find_spec("asgiref") is not None:
        return None
    names = [getattr(function, "__qualname__", None) or repr(function) for function in functions]
    if not names:
        return None
    return DefinitionError(
        f"{', '.join(map(repr, dict.fromkeys(names)))}: async code, which Flask runs with the "
        f"package asgiref. That is not installed: pip install 'flask[async]'."
    )


def is_async_view(view: Callable[..., Any]) -> bool:
    """Return whether a view, or one of the methods of its class, is async."""
    view_class = getattr(view, "view_class", None)
    methods = [
        getattr(view_class, name.lower(), None)
        for name in ("dispatch_request", *(getattr(view_class, "methods", None) or ()))
    ]
    return any(map(inspect.iscoroutinefunction, (*layers_of(view), *methods)))
