"""App guards: what an app puts before its pages, and the live endpoints do not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from flask import Flask
from flask.views import MethodView, View

from .declaration import layers_of

__all__ = ["app_guards"]

PACKAGE: Final = __name__.partition(".")[0]


def app_guards(app: Flask, endpoints: Iterable[str], *, by_url: bool) -> tuple[str, ...]:
    """Return what may refuse a client of a machine's pages, apart from the machine.

    These are decorators of its views, and functions that run before the requests of a blueprint.
    Those that run before each request of the app run at the machine's live endpoints, too.

    Args:
        app: The app, with all its views.
        endpoints: Those of the machine's views.
        by_url: Whether the subject of the machine's flows comes from the URL, so that anybody could
            ask for the flow of anybody.

    Returns:
        A description of each, for developers.
    """
    found = dict.fromkeys(
        guard
        for endpoint in endpoints
        for guard in (*_decorators(app, endpoint), *_functions_of_blueprints(app, endpoint))
    )
    return (*found, "the subject from the URL") if by_url else tuple(found)


def _decorators(app: Flask, endpoint: str) -> Iterator[str]:
    view = app.view_functions[endpoint]
    for decorator in _decorators_of(view):
        yield f"the decorator {decorator} of view {endpoint!r}"
    view_class = getattr(view, "view_class", None)
    if view_class is not None:
        yield from _guards_of_class(view_class, endpoint)


def _decorators_of(function: Callable[..., Any]) -> Iterator[str]:
    *layers, _function = layers_of(function)
    return (_name(layer) for layer in layers if not _is_ours(layer))


def _guards_of_class(view_class: type, endpoint: str) -> Iterator[str]:
    """Find decorators of a class's methods, and each `dispatch_request` around another one."""
    names = ["dispatch_request"]
    if issubclass(view_class, MethodView):
        names += sorted(method.lower() for method in view_class.methods or ())
    for name in names:
        method = getattr(view_class, name, None)
        for decorator in () if method is None else _decorators_of(method):
            yield f"the decorator {decorator} of method {name!r} of view {endpoint!r}"
    around = [
        each for each in view_class.__mro__ if "dispatch_request" in vars(each) and each is not View
    ]
    for each in around[:-1]:  # the last one is the view, or that of MethodView
        yield f"{each.__qualname__}.dispatch_request(), which runs before view {endpoint!r}"


def _functions_of_blueprints(app: Flask, endpoint: str) -> Iterator[str]:
    parts = endpoint.split(".")[:-1]
    for number in range(len(parts)):
        blueprint = ".".join(parts[: number + 1])
        for function in app.before_request_funcs.get(blueprint, ()):
            if not _is_ours(function):
                yield f"{_name(function)}(), which runs before requests of blueprint {blueprint!r}"


def _is_ours(function: Callable[..., Any]) -> bool:
    module = getattr(function, "__globals__", {}).get("__name__", "")
    return str(module).partition(".")[0] == PACKAGE


def _name(function: Any) -> str:
    """Return the name of a function; of one that a decorator has made, the decorator's name."""
    code = getattr(function, "__code__", None)
    name: str = getattr(code, "co_qualname", "") or type(function).__qualname__
    return name.partition(".<locals>")[0]
