"""Declarations: what decorators and calls register for an app's machines, before binding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple
from uuid import UUID

from ..core.machine import Machine, MachineOptions
from ..core.rules import refuse_coroutine
from ..errors import Code, ConfigError, NotFound
from ..stores.base import Choose
from ..texts import _

__all__ = [
    "CHECK_ATTRIBUTE",
    "DEFAULT_NAME",
    "Check",
    "Declaration",
    "Declarations",
    "Subject",
    "checks_of",
    "layers_of",
    "mark_below",
    "mark_of",
    "missing_arguments",
]

DEFAULT_NAME: Final = "fsm"
"""The name of a machine that is given without one."""
VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# functools.wraps copies this attribute outwards; inner checks are found by `__wrapped__`.
CHECK_ATTRIBUTE: Final = "__fsm_check__"
MARK_ATTRIBUTE: Final = "__fsm_checked__"


def missing_arguments(names: Iterable[str]) -> NotFound:
    """Return the error for an address without the URL arguments that say whose flow is meant."""
    return NotFound(
        _(
            "This address does not say which flow is meant: it lacks %(names)s.",
            names=", ".join(names),
        ),
        code=Code.NO_KEY,
    )


class Subject:
    """The app's function that returns the subject of a request, and the URL arguments it takes."""

    __slots__ = ("_function", "arguments")

    def __init__(self, function: Callable[..., Any]) -> None:
        refuse_coroutine("subject()", function)
        self._function = function
        self.arguments: tuple[str, ...] = tuple(
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in VARIADIC
        )
        """The names of the URL arguments that the function takes."""

    def of_request(self, machine: str, url_args: Mapping[str, Any]) -> str | None:
        """Return the subject of a request with these URL arguments, or None if it has none.

        Raises NotFound if an argument is missing, ConfigError if the function returns another type.
        """
        missing = [name for name in self.arguments if name not in url_args]
        if missing:
            raise missing_arguments(missing)
        subject = self._function(**{name: url_args[name] for name in self.arguments})
        if subject is None:
            return None
        if isinstance(subject, str) and subject:
            return str(subject)
        if isinstance(subject, (int, UUID)) and not isinstance(subject, bool):
            return str(subject)
        # Not the value itself: the `repr` of a user would bring a subject into logs.
        kind = "an empty string" if subject == "" else f"a {type(subject).__qualname__}"
        raise ConfigError(
            f"The function of machine {machine!r} that finds the subject returned {kind}: return a "
            f"non-empty string, an integer, a UUID, or None for a flow that belongs to the session."
        )


class Declaration:
    """One machine of an app, with what is registered for it."""

    __slots__ = ("choose", "machine", "name", "options", "subject", "websocket")

    def __init__(
        self,
        machine: Machine | None,
        websocket: str | None,
        options: MachineOptions | None = None,
    ) -> None:
        self.machine: Machine | None = machine
        """The machine as it is defined; None if the decorators of the views define it."""
        self.options: MachineOptions = {} if options is None else options
        """The options of a machine that the decorators of the views define."""
        self.name: str = DEFAULT_NAME if machine is None else machine.name
        self.websocket: str | None = websocket
        """The path of its websocket; None for the usual one."""
        self.subject: Subject | None = None
        self.choose: Choose | None = None
        """Of two flows at a login, the one to keep: `(session's, subject's) -> one of both`."""

    def set_login_choice(self, function: Choose) -> None:
        """Set the function that chooses between two flows at a login."""
        refuse_coroutine("on_login_conflict()", function)
        self.choose = function


class Declarations:
    """The machines of one extension, in order; the first one's subject is the default for all."""

    def __init__(self, default: Declaration) -> None:
        self.default = default
        self._all = [default]

    def __iter__(self) -> Iterator[Declaration]:
        return iter(self._all)

    def add(self, declaration: Declaration) -> None:
        """Add another machine."""
        self._all.append(declaration)

    def subject_of(self, declaration: Declaration) -> Subject | None:
        """Return the subject function of a machine, or else that of the default machine."""
        return declaration.subject or self.default.subject

    def login_choice_of(self, declaration: Declaration) -> Choose | None:
        """Return the login conflict function of a machine, or else of the default machine."""
        return declaration.choose or self.default.choose


class Check(NamedTuple):
    """The arguments of a `check` decorator: its machine, `accept`, `to`, `state` and `free`."""

    declaration: Declaration
    views: object
    """What templates of the view get as `fsm`."""
    accept: tuple[str, ...] | None = None
    to: tuple[str, ...] | None = None
    state: str | None = None
    required: str | None = None
    free: tuple[str, ...] = ()


def layers_of(view: Callable[..., Any]) -> Iterator[Any]:
    """Return a view and what its decorators wrap, from the outermost to the innermost."""
    layer: Any = view
    while layer is not None:
        yield layer
        layer = getattr(layer, "__wrapped__", None)


def checks_of(view: Callable[..., Any]) -> Iterator[Check]:
    """Find the checks of a view, also between and below other decorators."""
    seen: list[Check] = []
    for layer in layers_of(view):
        check = getattr(layer, "__dict__", {}).get(CHECK_ATTRIBUTE)
        if isinstance(check, Check) and not any(check is other for other in seen):
            seen.append(check)
    return iter(seen)


def mark_below(view: Callable[..., Any], check: Check) -> None:
    """Mark what a guard wraps, to recognise it where Flask has registered it without the guard."""
    for layer in layers_of(view):
        with suppress(AttributeError, TypeError):  # not every callable takes attributes
            setattr(layer, MARK_ATTRIBUTE, check)


def mark_of(view: Callable[..., Any]) -> Check | None:
    """Return the last check that was put around a view, or around what it wraps."""
    return next(
        (
            check
            for layer in layers_of(view)
            if (check := getattr(layer, "__dict__", {}).get(MARK_ATTRIBUTE)) is not None
        ),
        None,
    )
