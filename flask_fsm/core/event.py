"""Events: what clients may send to a state, and the functions that handle it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from ..errors import DefinitionError
from .names import is_name, plain

__all__ = ["SAME", "Event", "EventStatus", "Handler", "check_status", "in_order"]

Handler = Callable[..., Any]


class EventStatus(IntEnum):
    """The outcome of an event, as clients get it. From 400 on it was refused, or failed."""

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
    """A name that clients may send to a state, and the function that handles it.

    Args:
        name: The name, of 1 to 255 characters.
        handler: Called as `handler(flow, data)`, sync or async. It may move the flow by
            `flow.transition`, reply by `flow.transmit`, or both, or neither; a value that it
            returns, unless None, is transmitted with status 200.

    Raises:
        DefinitionError: The name is not valid, or the handler can't be called like that.
    """

    __slots__ = ("handler", "name")

    def __init__(self, name: str, handler: Handler) -> None:
        if not is_name(name):
            raise DefinitionError(f"{name!r} is not a valid event name.")
        if not callable(handler):
            raise DefinitionError(
                f"The handler of event {name!r} is {handler!r}, which is not callable."
            )
        check_arguments(name, handler)
        self.name: str = plain(name)
        self.handler: Handler = handler

    def __repr__(self) -> str:
        return f"Event({self.name!r})"


def check_arguments(name: str, handler: Handler) -> None:
    """Raise DefinitionError if a handler can't be called with a flow and data."""
    if hasattr(handler, "__wrapped__") or hasattr(handler, "__signature__"):
        return  # the signature is that of the decorated function, not of the decorator
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # some functions written in C have no signature
    try:
        signature.bind(None, None)
    except TypeError:
        called = getattr(handler, "__qualname__", repr(handler))
        raise DefinitionError(
            f"The handler of event {name!r} is called with two arguments, handler(flow, data), but "
            f"{called}{signature} does not take them."
        ) from None


class Same:
    """The type of SAME, which stands for "not given" where None is a value."""

    def __repr__(self) -> str:
        return "the data"


SAME: Final = Same()


def check_status(status: object) -> None:
    """Raise TypeError unless `status` is a number that can be sent to clients, 100 to 999."""
    if status.__class__ is EventStatus:
        return
    if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 999:
        raise TypeError(
            f"The status must be a number such as EventStatus.OK (200), not {status!r:.80}."
        )


def in_order(given: tuple[Any, ...], data: Any, status: int) -> tuple[Any, int, bool]:
    """Return data and status from the arguments of transition() or transmit().

    The positional ones are `(data, status)`, or as in automata-ws `(status, data)`, which an
    EventStatus in the first place tells; the last value is whether they were. Raises TypeError.
    """
    status_first = next(iter(given), None).__class__ is EventStatus
    names = ("status", "data") if status_first else ("data", "status")
    named = dict(zip(names, given, strict=False))
    if len(given) > 2 or ("data" in named and data is not None):
        raise TypeError(
            f"Give data and status once, as (data, status=...) or as (status, data) with an "
            f"EventStatus, not as {(*given, *([] if data is None else [data]))!r:.80}."
        )
    return named.get("data", data), named.get("status", status), status_first
