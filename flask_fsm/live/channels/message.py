"""The messages that channels deliver to their listeners."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final, Protocol

__all__ = [
    "Message",
    "MessageContract",
    "SignedMessage",
    "UniqueMessage",
    "bytes_of",
    "check_message",
    "fresh_id",
    "is_message",
]


class MessageContract(Protocol):
    """What a message must have: a type and a payload."""

    @property
    def type(self) -> str:
        """The name of the kind of message."""
        raise NotImplementedError

    @property
    def payload(self) -> Any:
        """Any value."""
        raise NotImplementedError


def is_message(message: Any) -> bool:
    """Return whether this is a message: ours, or another object with a type and a payload."""
    # Ours have a key. The payload of some is made when it is read, so those are not asked for it.
    return hasattr(message, "latest") or (hasattr(message, "type") and hasattr(message, "payload"))


def check_message(message: Any, call: str) -> None:
    """Raise TypeError if `message`, which was passed to `call`, is not a message."""
    if not is_message(message):
        raise TypeError(
            f"{call} takes a Message(type, payload), or another object with a type and a payload, "
            f"not {message!r:.80}."
        )


MISSING: Final[Any] = object()


def _one_of(name: str, value: Any, their_name: str, their_value: Any, default: Any) -> Any:
    """Return what was given under one of two names, or the default."""
    given = [each for each in (value, their_value) if each is not MISSING]
    if len(given) > 1 or (not given and default is MISSING):
        how = "both" if given else "neither"
        raise TypeError(f"A message needs {name} or {their_name}, which are the same, not {how}.")
    return given[0] if given else default


class Message:
    """A message of a channel.

    Args:
        type: The name of the kind of message; the `event:` of a stream of server-sent events.
        payload: Any value. A stream of server-sent events sends text unchanged, others as JSON.
        msg_type, msg_payload: The same, under the names that eric-sse has for them.
        latest: A key. Of the messages with this key that wait in a full queue, only the newest is
            kept. By default each message is kept.

    Raises:
        TypeError: The type is missing, or one of both is given twice.
    """

    __slots__ = ("_payload", "_queued_bytes", "_type", "latest")

    def __init__(
        self,
        type: str = MISSING,
        payload: Any = MISSING,
        *,
        msg_type: str = MISSING,
        msg_payload: Any = MISSING,
        latest: str | None = None,
    ) -> None:
        self._type: str = _one_of("type", type, "msg_type", msg_type, MISSING)
        self._payload = _one_of("payload", payload, "msg_payload", msg_payload, None)
        self._queued_bytes: int | None = None
        self.latest: str | None = latest

    @property
    def type(self) -> str:
        return self._type

    @property
    def payload(self) -> Any:
        return self._payload

    @property
    def queued_bytes(self) -> int:
        """About how many bytes it takes while it waits; measured once."""
        if self._queued_bytes is None:
            self._queued_bytes = bytes_of(self._payload)
        return self._queued_bytes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type!r}>"


class SignedMessage(Message):
    """A message with a sender.

    Args:
        sender_id: The id of the listener that sent it.
        type, payload, msg_type, msg_payload, latest: As of a `Message`.
    """

    __slots__ = ("_sender_id",)

    def __init__(
        self,
        sender_id: str,
        type: str = MISSING,
        payload: Any = MISSING,
        *,
        msg_type: str = MISSING,
        msg_payload: Any = MISSING,
        latest: str | None = None,
    ) -> None:
        super().__init__(type, payload, msg_type=msg_type, msg_payload=msg_payload, latest=latest)
        self._sender_id = sender_id

    @property
    def sender_id(self) -> str:
        return self._sender_id


class UniqueMessage(Message):
    """A copy of a message that has an id.

    Args:
        message: The message to copy: a `Message`, or any object with a type and a payload.
        sender_id: The id of the listener that sent it; by default that of `message`, if any.
        message_id: The id; by default 128 random bits as text.
    """

    __slots__ = ("_id", "_sender_id")

    def __init__(
        self,
        message: MessageContract,
        sender_id: str | None = None,
        message_id: str | None = None,
    ) -> None:
        super().__init__(message.type, message.payload, latest=getattr(message, "latest", None))
        self._sender_id: str | None = sender_id
        if sender_id is None and isinstance(message, SignedMessage | UniqueMessage):
            self._sender_id = message.sender_id
        self._id = fresh_id() if message_id is None else message_id

    @property
    def id(self) -> str:
        return self._id

    @property
    def sender_id(self) -> str | None:
        return self._sender_id


def bytes_of(value: Any) -> int:
    """Return about how many bytes a value takes, with what it contains."""
    found, level, seen = 0, [value], set[int]()
    while level:
        within: list[Iterable[Any]] = []
        for each in level:
            if id(each) in seen:
                continue
            seen.add(id(each))
            found += sys.getsizeof(each, 64)
            if isinstance(each, Mapping):
                within += [each.keys(), each.values()]
            elif isinstance(each, (list, tuple, set, frozenset)):
                within.append(each)
        level = list(chain.from_iterable(within))
    return found


def fresh_id() -> str:
    """Return an id of 128 random bits."""
    return secrets.token_urlsafe(16)
