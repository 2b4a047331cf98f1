"""Failures: the frames that answer an event which was refused, aborted, or has crashed."""

from __future__ import annotations

import logging
from typing import Final

from werkzeug.exceptions import HTTPException

from ...core.event import EventStatus
from ...core.flow import Flow
from ...errors import Code, FSMError, StoreUnavailable, UnknownTarget
from ...texts import _
from ..protocol.frames import data_frame, refusal
from ..service import Service

__all__ = ["abort_frame", "crash_frame", "error_frame"]

log: Final = logging.getLogger("flask_fsm")


def crash_frame(error: BaseException, live: Service, machine: str, event: str | None = None) -> str:
    """Log the error, and return a frame for the client that reveals nothing of it."""
    if isinstance(error, StoreUnavailable):
        live.channels.outages.log(error)
        return refusal(error)
    what = "A job after an event" if event is None else f"The handler of the event {event!r}"
    log.error("%s of machine %r failed.", what, machine, exc_info=error)
    return data_frame(
        {"reason": Code.CRASHED, "message": str(_("This event could not be handled."))},
        EventStatus.ServerRuntimeError,
    )


def error_frame(
    error: FSMError, flow: Flow | None, live: Service, machine: str, event: str | None
) -> str:
    """Return the frame of an FSMError: of a refusal, or of a crash if its status is 5xx."""
    if error.is_server_error:
        return crash_frame(error, live, machine, event)
    if isinstance(error, UnknownTarget):
        # Either the client has named an unknown state, or the handler has a bug.
        live.warn_of_target(machine, event or "", error)
    return refusal(error, flow)


def abort_frame(error: HTTPException) -> str:
    """Return the frame of an `abort()` in the app's function that finds the subject."""
    status = EventStatus.Unauthorized if error.code in (401, 403) else EventStatus.Error
    return data_frame({"reason": Code.ABORTED, "message": error.description}, status)
