"""Events: what a client may send to a state, and what a handler answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from ..errors import DefinitionError
from .names import is_name

__all__ = ["SAME", "Event", "EventStatus", "Handler", "check_status"]

Handler = Callable[..., Any]


class EventStatus(IntEnum):
    """How an event went. From 400 on it was refused, or failed."""

    OK = 200
    NewContent = 201
    NoContent = 202
    SuccessfulStateChange = 203
    Error = 400
    Unauthorized = 401
    InvalidEvent = 402
    InvalidPayload = 403
    ServerRuntimeError = 405


class Event:
    """A name that a client sends, and the handler `(flow, data)` that belongs to a state."""

    __slots__ = ("handler", "name")

    def __init__(self, name: str, handler: Handler) -> None:
        if not is_name(name):
            raise DefinitionError(f"{name!r} is no name of an event.")
        if not callable(handler):
            raise DefinitionError(f"The handler of event {name!r} is {handler!r}: not callable.")
        check_arguments(name, handler)
        self.name = name
        self.handler = handler

    def __repr__(self) -> str:
        return f"Event({self.name!r})"


def check_arguments(name: str, handler: Handler) -> None:
    """Raise DefinitionError if a handler can't be called with a flow and data."""
    if hasattr(handler, "__wrapped__") or hasattr(handler, "__signature__"):
        return  # that says what a decorated function takes, and a decorator may hand over more
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # some of those that are written in C can't say it
    try:
        signature.bind(None, None)
    except TypeError:
        called = getattr(handler, "__qualname__", repr(handler))
        raise DefinitionError(
            f"The handler of event {name!r} is called with two arguments, handler(flow, data), and "
            f"{called}{signature} does not take them."
        ) from None


class Same:
    """Stands for what is not given, where None would be a value."""

    def __repr__(self) -> str:
        return "the data"


SAME: Final = Same()


def check_status(status: object) -> None:
    """Raise TypeError unless this is a status that clients can be told."""
    if status.__class__ is EventStatus:
        return
    if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 999:
        raise TypeError(f"A status is a number such as EventStatus.OK (200), not {status!r:.80}.")
