"""Frames: what clients send and receive, as JSON, and the envelopes of frames on the bus.

A client frame is `{"event": name, "data": any}`; `data` may be left out, `"ref"` and `"rev"` added.
A state frame is `{"state", "events", "status", "data", "rev"}`, a data frame `{"status", "data"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from math import isinf
from typing import Any, ClassVar, Final, NamedTuple

from ...core.definition import Definition
from ...core.event import EventStatus
from ...core.flow import Flow
from ...core.flow_base import Sent
from ...core.reply import dump_reply as dumps
from ...core.snapshot import Snapshot
from ...errors import Code, FlowBusy, FSMError, InvalidTransition, StaleFlow, ValidationFailed

__all__ = [
    "ClientEvent",
    "Envelope",
    "EnvelopeKind",
    "FrameKind",
    "InvalidPayload",
    "data_frame",
    "dumps",
    "frames_of",
    "group_frame",
    "listed",
    "parse",
    "refusal",
    "run_of",
    "stamped",
    "state_frame",
]

KEYS: Final = frozenset({"event", "data", "ref", "rev"})
LONGEST_EVENT: Final = 255
LONGEST_REF: Final = 128
WHITESPACE: Final = " \t\n\r"
# Number of encoded starts of state frames that are cached.
CACHE_SIZE: Final = 1024


class ClientEvent(NamedTuple):
    """An event that a client has sent."""

    event: str
    data: Any
    ref: Any
    rev: int | None


class InvalidPayload(FSMError):
    """A client sent something that is not a valid frame; `ref` is the frame's own, if readable."""

    default_code: ClassVar[str] = Code.INVALID_PAYLOAD
    status = 400
    ref: Any = None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"{text} is too large for a number")
    return number


# Strict JSON (RFC 8259): Python would also read NaN, and 1e999 as infinity.
_decoder: Final = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _decoded(text: str) -> Any:
    # JSONDecoder.decode strips whitespace by regular expressions, which takes twice as long.
    text = text.strip(WHITESPACE)
    value, end = _decoder.raw_decode(text)
    if end < len(text):
        raise ValueError("Extra data after the JSON.")
    return value


def parse(text: str | bytes) -> ClientEvent:
    """Return the event in a client frame; raises InvalidPayload if the frame is malformed."""
    try:
        frame = _decoded(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise InvalidPayload("A frame must be a JSON object.") from None
    if not isinstance(frame, dict):
        raise InvalidPayload('A frame must be an object: {"event": name, "data": ...}.')
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
            f"A frame may have the keys event, data, ref and rev, not {unknown[:40]!r}."
        )
    event = frame.get("event")
    if not isinstance(event, str) or not 0 < len(event) <= LONGEST_EVENT:
        raise InvalidPayload('A frame must name an event: {"event": name, "data": ...}.')
    if not _is_ref(ref):
        raise InvalidPayload(
            f"ref must be a number or a string of at most {LONGEST_REF} characters."
        )
    rev = frame.get("rev")
    if rev is not None and (isinstance(rev, bool) or not isinstance(rev, int) or rev < 0):
        raise InvalidPayload("rev must be a whole number, the rev of the last state frame.")
    return ClientEvent(event, frame.get("data"), ref, rev)


# -- frames to clients, as JSON --------------------------------------------------------------------


def state_frame(
    machine: Definition, snapshot: Snapshot, status: int = EventStatus.OK, data: Any = None
) -> str:
    """Return the frame of a flow's state, with the names of the events that it handles."""
    beginning = _state_and_events(
        snapshot.state, machine.events_of(snapshot.state, snapshot.finished)
    )
    return f'{beginning},"status":{int(status)},"data":{dumps(data)},"rev":{snapshot.rev}}}'


@lru_cache(maxsize=CACHE_SIZE)
def _state_and_events(state: str, events: tuple[str, ...]) -> str:
    return f'{{"state":{dumps(state)},"events":{dumps(events)}'


def data_frame(data: Any, status: int = EventStatus.OK) -> str:
    """Return the frame of data that is sent without a change of state."""
    return f'{{"status":{int(status)},"data":{dumps(data)}}}'


def frames_of(machine: Definition, sent: Iterable[Sent]) -> list[str]:
    """Return the frames of the transitions and data of a handler, in order."""
    return [
        data_frame(data, status)
        if result is None
        else state_frame(machine, result.snapshot, status, data)
        for status, data, result in sent
    ]


def listed(frames: Sequence[str]) -> str:
    """Return the last frame; with several, it lists all of them under `frames`."""
    last = frames[-1]
    return last if len(frames) == 1 else f'{last[:-1]},"frames":[{",".join(frames)}]}}'


def group_frame(group: str, type: str, payload: Any) -> str:
    """Return the frame of a message of a group."""
    return dumps({"status": EventStatus.OK, "data": payload, "group": group, "type": type})


def refusal(error: FSMError, flow: Flow | None = None) -> str:
    """Return the frame that answers a refused event, with the reason and a message."""
    data: dict[str, Any] = {"reason": error.reason, "message": error.message}
    if isinstance(error, ValidationFailed):
        data |= {"messages": error.messages, "fields": error.fields}
    if len(error.reasons) > 1:
        data["reasons"] = [reason._asdict() for reason in error.reasons]
    if flow is not None and isinstance(error, (StaleFlow, FlowBusy)):
        data |= {"state": flow.current, "rev": flow.rev}
    return data_frame(data, error_status(error))


def error_status(error: FSMError) -> EventStatus:
    """Return the EventStatus of the frame that answers an error."""
    if isinstance(error, InvalidPayload):
        return EventStatus.InvalidPayload
    if isinstance(error, InvalidTransition) and error.code == Code.NO_EVENT:
        return EventStatus.InvalidEvent
    return EventStatus.ServerRuntimeError if error.is_server_error else EventStatus.Error


def stamped(body: str, ref: Any = None, id: str | None = None, *, gap: bool = False) -> str:
    """Add the fields of one client to a frame that was encoded once for all clients."""
    extra = "" if ref is None else f',"ref":{dumps(ref)}'
    if id is not None:
        extra += f',"id":"{id}"'
    if gap:
        extra += ',"gap":true'
    return f"{body[:-1]}{extra}}}" if extra else body


# -- envelopes on the bus --------------------------------------------------------------------------


class FrameKind(StrEnum):
    """The kind of a frame for a client; in an event stream, its `event:` field."""

    STATE = "state"
    DATA = "data"
    GROUP = "group"


class EnvelopeKind(StrEnum):
    """What the receiver does with an envelope."""

    STATE = "state"
    """Send a state frame to the flow's clients."""
    DATA = "data"
    """Send a data frame to the flow's clients."""
    GROUP_MESSAGE = "message"
    """Send a group frame to the group's members."""
    REPLY = "answer"
    """Send a frame to the client that has sent an event, and to no other."""
    RECHECK = "anew"
    """Look up the subject's flow: another one may have taken its place."""
    REPLACED = "replaced"
    """Close: the session has another flow now."""
    MOVED_AWAY = "left"
    """Close: the flow has moved to a user who logged in, or to another device."""
    CLOSE = "close"
    """Close the connections of a subject, after sign-out."""
    SEND_EVENT = "send"
    """Let the flows of the group's members handle an event."""


# By value, since calling the enum takes much longer.
KINDS: Final = {kind.value: kind for kind in EnvelopeKind}


class Envelope(NamedTuple):
    """A frame on the bus, with what its receivers need to know: a line of JSON, then the frame."""

    kind: EnvelopeKind
    body: str
    """The frame; of a kind that closes, the close code."""
    sender: str = ""
    """The id of the client whose event has caused it."""
    ref: Any = None
    """The `ref` of that event."""
    run: str = ""
    rev: int = 0
    number: int = 0
    """The number of the reply among those to its sender, or 0."""

    def encode(self) -> str:
        header = [self.kind, self.sender, self.ref, self.run, self.rev, self.number]
        return f"{dumps(header)}\n{self.body}"

    @classmethod
    def decode(cls, text: str) -> Envelope:
        header, _, body = text.partition("\n")
        kind, sender, ref, run, rev, number = json.loads(header)
        return cls(KINDS[kind], body, sender, ref, run, rev, number)


def run_of(snapshot: Snapshot) -> str:
    """Return the number of a flow's run as text, empty for the first: it orders states of runs."""
    return snapshot.id.partition("~")[2]
