"""Admission: whether the app lets a client use the endpoints of a machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from flask import current_app, session
from werkzeug.exceptions import HTTPException

from ..binding.bound_machine import Bound
from ..errors import Code, DefinitionError, FSMError, NotFound
from ..texts import Text, _
from .protocol.close_codes import CloseCode

__all__ = ["Admission", "Decorator", "NotAdmitted", "no_such_machine"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
FLASHES: Final = "_flashes"
# An attribute of the response that a decorated view returns if its decorators let it run.
MARK: Final = "fsm_admitted"
VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class NotAdmitted(FSMError):
    """The app does not let this client use a machine."""

    default_code: ClassVar[str] = Code.NOT_ADMITTED
    status = 403
    response: Any = None
    """The app's own response, if it has given one."""

    @property
    def close_code(self) -> CloseCode:
        """The code with which an open connection of this client ends."""
        return CloseCode.SUBJECT_CHANGED if self.status == 401 else CloseCode.NOT_ADMITTED


class _Function:
    """A function of `fsm.live.admit`, and the machine that it decides about; None for all."""

    __slots__ = ("_function", "_name", "_required", "_takes", "machine")

    def __init__(self, function: Callable[..., Any], machine: str | None) -> None:
        if not callable(function):
            raise DefinitionError(f"admit() takes a function, not {function!r}.")
        self._function = function
        self._name: str = getattr(function, "__qualname__", repr(function))
        self.machine: str | None = machine
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters or parameters[0].kind in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise DefinitionError(
                f"The function {self._name} of fsm.live.admit must take the name of a machine: "
                f"def may(machine). More parameters are URL arguments: def may(machine, number)."
            )
        named = [each for each in parameters[1:] if each.kind not in VARIADIC]
        self._required = [each.name for each in named if each.default is each.empty]
        # None stands for all.
        self._takes: set[str] | None = {each.name for each in named}
        if parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            self._takes = None

    def ask(self, machine: str, url_args: Mapping[str, Any]) -> None:
        """Raise NotAdmitted unless the function returns True."""
        missing = [name for name in self._required if name not in url_args]
        if missing:
            raise NotFound(
                f"Whether a client may use machine {machine!r} depends on the URL argument "
                f"{', '.join(missing)}, which this address does not have.",
                code=Code.NO_KEY,
            )
        takes = url_args.keys() if self._takes is None else self._takes
        taken = {name: value for name, value in url_args.items() if name in takes}
        answer = current_app.ensure_sync(self._function)(machine, **taken)
        if answer is False:
            raise _refused(403)
        if answer is None or (isinstance(answer, (int, float)) and answer is not True):
            raise TypeError(
                f"The function {self._name} of fsm.live.admit returned {answer!r}: return True, "
                f"False or a response."
            )
        if answer is not True:
            raise _refused_by(current_app.make_response(answer))


class Admission:
    """What an extension says about who may use the endpoints of its machines.

    It holds definitions only, the same for each app that the extension is initialized with.
    """

    def __init__(self) -> None:
        self._functions: list[_Function] = []
        self._decorators: tuple[Decorator, ...] = ()
        self._view: Callable[..., Any] = _marked_response

    def add(self, function: Callable[..., Any], machine: str | None) -> None:
        """Register a function that decides about a machine; about each, if `machine` is None."""
        self._functions.append(_Function(function, machine))

    @property
    def decorators(self) -> tuple[Decorator, ...]:
        """Decorators of views that decide as they do around a view, the innermost first."""
        return self._decorators

    @decorators.setter
    def decorators(self, decorators: Iterable[Decorator]) -> None:
        given = tuple(decorators)
        view: Callable[..., Any] = _marked_response
        for decorator in given:
            view = decorator(view)
        self._decorators, self._view = given, view

    def is_declared(self, machine: str) -> bool:
        """Return whether the app has said who may use a machine."""
        return bool(self._decorators) or any(
            function.machine in (None, machine) for function in self._functions
        )

    def require_machines(self, names: Iterable[str]) -> None:
        """Raise DefinitionError if a function decides about a machine that is none of `names`."""
        unknown = {function.machine for function in self._functions} - {None, *names}
        if unknown:
            raise DefinitionError(
                f"fsm.live.admit names {', '.join(sorted(map(repr, unknown)))}, but the machines "
                f"of this app are {', '.join(map(repr, names))}."
            )

    def is_closed(self, bound: Bound) -> bool:
        """Return whether nobody is admitted, since the app guards the pages and not the endpoints.

        The endpoints know nothing of decorators above a page, nor of functions of its blueprint,
        which may be all that keeps strangers out.
        """
        return bool(bound.app_guards) and not self.is_declared(bound.name)

    def require_declared(self, bound: Bound) -> None:
        """Raise NotAdmitted if the endpoints of a machine are closed."""
        if self.is_closed(bound):
            raise _refused(403)

    def warning_of(self, bound: Bound) -> str:
        """Return what the developer of an app has to know of a machine that is closed."""
        return (
            f"machine {bound.name!r}: its websocket, stream, state and event answer 403, since "
            f"they know nothing of what else guards its pages: {'; '.join(bound.app_guards)}. Say "
            f"who may use them, by fsm.live.decorators = [...] or by a function of @fsm.live.admit "
            f"that returns True; or have FSM_LIVE name other machines only."
        )

    def check(self, bound: Bound, url_args: Mapping[str, Any]) -> None:
        """Raise NotAdmitted if the client of this request, or of this event, is refused.

        NotFound means the same where the app calls `abort(404)`. Other exceptions of the app's
        code pass through.
        """
        try:
            if self._decorators:
                self._check_decorators(url_args)
            for function in self._functions:
                if function.machine in (None, bound.name):
                    function.ask(bound.name, url_args)
        except HTTPException as error:
            raise _refused_by_abort(error) from error

    def _check_decorators(self, url_args: Mapping[str, Any]) -> None:
        before = list(session.get(FLASHES, ()))
        response = current_app.ensure_sync(self._view)(**url_args)
        if not getattr(response, MARK, False):
            if session.get(FLASHES, []) != before:
                # "Please log in" would be shown by the next page, whichever that is.
                session[FLASHES] = before
            raise _refused_by(current_app.make_response(response))


def _marked_response(**url_args: Any) -> Any:
    """Return a marked response; this is the view that the app's decorators are put around."""
    response = current_app.response_class()
    setattr(response, MARK, True)
    return response


def no_such_machine() -> NotFound:
    """Return the error of a machine that does not exist, or that a client may not know of."""
    return NotFound("There is no such machine.")


def _refused(status: int, text: Text | None = None) -> FSMError:
    if status == 404:
        return no_such_machine()
    if text is None:
        text = _("Log in to use this.") if status == 401 else _("You may not use this.")
    return NotAdmitted(text, status=status)


def _refused_by(response: Any) -> FSMError:
    """Return the refusal that a response of the app stands for.

    A response below 400, such as a redirect to a login page, becomes 401: a program would take it
    for the state.
    """
    status: int = response.status_code
    if status < 400:
        return _refused(401)
    error = NotAdmitted(_("You may not use this."), status=status)
    error.response = response
    return error


def _refused_by_abort(error: HTTPException) -> FSMError:
    if error.response is not None:
        return _refused_by(error.response)
    own = error.description if error.description != type(error).description else None
    return _refused(error.code or 403, own)
