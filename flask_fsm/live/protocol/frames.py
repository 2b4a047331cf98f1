"""The protocol: what clients send and what they are sent, as JSON.

A client frame is `{"event": name, "data": any}`, with `"ref"` and `"rev"` if it likes. A state
frame is `{"state", "events", "status", "data", "rev"}`, a data frame `{"status", "data"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isinf
from typing import Any, Final, NamedTuple

from ...core.definition import Definition
from ...core.event import EventStatus
from ...core.flow import Flow
from ...core.reply import dump_reply as dumps
from ...core.result import Sent
from ...core.snapshot import Snapshot
from ...errors import Code, FlowBusy, FSMError, InvalidTransition, StaleFlow, ValidationFailed

__all__ = [
    "ClientEvent",
    "InvalidPayload",
    "data_frame",
    "dumps",
    "frames_of",
    "group_frame",
    "listed",
    "parse",
    "refusal",
    "stamped",
    "state_frame",
]

KEYS: Final = frozenset({"event", "data", "ref", "rev"})
LONGEST_EVENT: Final = 255
LONGEST_REF: Final = 128
SPACE: Final = " \t\n\r"
# How many states' beginnings of a frame are kept, so that they are not encoded for each frame.
HEADS: Final = 1024


class ClientEvent(NamedTuple):
    """An event that a client has sent."""

    event: str
    data: Any
    ref: Any
    rev: int | None


class InvalidPayload(FSMError):
    """What a client sent is no frame; `ref` is what it called it, as far as that can be told."""

    default_code = Code.INVALID_PAYLOAD
    status = 400
    ref: Any = None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


# What Python reads beyond JSON (RFC 8259) is refused, and what it could not say again.
_decoder: Final = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _decoded(text: str) -> Any:
    # JSONDecoder.decode looks for the space by regular expressions, which takes twice as long.
    text = text.strip(SPACE)
    value, end = _decoder.raw_decode(text)
    if end < len(text):
        raise ValueError("More follows the JSON.")
    return value


def parse(text: str | bytes) -> ClientEvent:
    """Return the event that a client frame asks for; raises InvalidPayload."""
    try:
        frame = _decoded(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise InvalidPayload("A frame is a JSON object, and this is none.") from None
    if not isinstance(frame, dict):
        raise InvalidPayload('A frame is an object: {"event": name, "data": ...}.')
    ref = frame.get("ref")
    try:
        return _checked(frame, ref)
    except InvalidPayload as error:
        error.ref = ref if _is_ref(ref) else None
        raise


def _is_ref(ref: Any) -> bool:
    if isinstance(ref, str):
        return len(ref) <= LONGEST_REF
    return ref is None or (isinstance(ref, (int, float)) and abs(ref) < 2**63)


def _checked(frame: dict[str, Any], ref: Any) -> ClientEvent:
    if not frame.keys() <= KEYS:
        unknown = min(frame.keys() - KEYS)
        raise InvalidPayload(
            f"A frame has the keys event, data, ref and rev, not {unknown[:40]!r}."
        )
    event = frame.get("event")
    if not isinstance(event, str) or not 0 < len(event) <= LONGEST_EVENT:
        raise InvalidPayload('A frame names an event: {"event": name, "data": ...}.')
    if "data" not in frame:
        raise InvalidPayload('A frame has data, which may be null: {"event": ..., "data": null}.')
    if not _is_ref(ref):
        raise InvalidPayload(f"ref is a number or a text of at most {LONGEST_REF} characters.")
    rev = frame.get("rev")
    if rev is not None and (isinstance(rev, bool) or not isinstance(rev, int) or rev < 0):
        raise InvalidPayload("rev is a whole number, the one of the last state frame.")
    return ClientEvent(event, frame["data"], ref, rev)


# -- frames to clients, as JSON --------------------------------------------------------------------


def state_frame(
    machine: Definition, snapshot: Snapshot, status: int = EventStatus.OK, data: Any = None
) -> str:
    """Return the frame that tells where a flow is, and what a client may send there."""
    head = _head(snapshot.state, machine.events_of(snapshot.state, snapshot.finished))
    return f'{head},"status":{int(status)},"data":{dumps(data)},"rev":{snapshot.rev}}}'


@lru_cache(maxsize=HEADS)
def _head(state: str, events: tuple[str, ...]) -> str:
    return f'{{"state":{dumps(state)},"events":{dumps(events)}'


def data_frame(data: Any, status: int = EventStatus.OK) -> str:
    """Return the frame that tells something without a change of state."""
    return f'{{"status":{int(status)},"data":{dumps(data)}}}'


def frames_of(machine: Definition, sent: Iterable[Sent]) -> list[str]:
    """Return the frames of what a handler said, in order."""
    return [
        data_frame(data, status)
        if result is None
        else state_frame(machine, result.snapshot, status, data)
        for status, data, result in sent
    ]


def listed(frames: Sequence[str]) -> str:
    """Return the last of some frames; it lists all of them, if there are several."""
    last = frames[-1]
    return last if len(frames) == 1 else f'{last[:-1]},"frames":[{",".join(frames)}]}}'


def group_frame(group: str, type: str, payload: Any) -> str:
    """Return the frame of a message to a group."""
    return dumps({"status": EventStatus.OK, "data": payload, "group": group, "type": type})


def refusal(error: FSMError, flow: Flow | None = None) -> str:
    """Return the frame that answers an event which was refused."""
    data: dict[str, Any] = {"reason": error.reason, "message": error.message}
    if isinstance(error, ValidationFailed):
        data |= {"messages": error.messages, "fields": error.fields}
    if len(error.reasons) > 1:
        data["reasons"] = [reason._asdict() for reason in error.reasons]
    if flow is not None and isinstance(error, (StaleFlow, FlowBusy)):
        data |= {"state": flow.current, "rev": flow.rev}
    return data_frame(data, error_status(error))


def error_status(error: FSMError) -> EventStatus:
    """Return the status of the frame that answers an error."""
    if isinstance(error, InvalidPayload):
        return EventStatus.InvalidPayload
    if isinstance(error, InvalidTransition) and error.code == Code.NO_EVENT:
        return EventStatus.InvalidEvent
    return EventStatus.Error if error.status < 500 else EventStatus.ServerRuntimeError


def stamped(body: str, ref: Any = None, id: str | None = None, *, gap: bool = False) -> str:
    """Add what differs from client to client to a frame that was encoded once for all."""
    ends = "" if ref is None else f',"ref":{dumps(ref)}'
    if id is not None:
        ends += f',"id":"{id}"'
    if gap:
        ends += ',"gap":true'
    return f"{body[:-1]}{ends}}}" if ends else body
