"""The messages that channels deliver to their listeners."""

from __future__ import annotations

import secrets
from typing import Any

__all__ = ["Message", "SignedMessage", "UniqueMessage", "fresh_id"]


class Message:
    """A message of a channel.

    Args:
        type: The name of the kind of message; the `event:` of a stream of server-sent events.
        payload: Any value. A stream of server-sent events sends text unchanged, others as JSON.
        latest: A key. Of the messages with this key that wait in a full queue, only the newest is
            kept. By default each message is kept.
    """

    __slots__ = ("_payload", "_type", "latest")

    def __init__(self, type: str, payload: Any = None, *, latest: str | None = None) -> None:
        self._type = type
        self._payload = payload
        self.latest: str | None = latest

    @property
    def type(self) -> str:
        return self._type

    @property
    def payload(self) -> Any:
        return self._payload

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type!r}>"


class SignedMessage(Message):
    """A message with a sender.

    Args:
        sender_id: The id of the listener that sent it.
        type, payload, latest: As of a `Message`.
    """

    __slots__ = ("_sender_id",)

    def __init__(
        self, sender_id: str, type: str, payload: Any = None, *, latest: str | None = None
    ) -> None:
        super().__init__(type, payload, latest=latest)
        self._sender_id = sender_id

    @property
    def sender_id(self) -> str:
        return self._sender_id


class UniqueMessage(Message):
    """A copy of a message that has an id.

    Args:
        message: The message to copy.
        sender_id: The id of the listener that sent it; by default that of `message`, if any.
        message_id: The id; by default 128 random bits as text.
    """

    __slots__ = ("_id", "_sender_id")

    def __init__(
        self, message: Message, sender_id: str | None = None, message_id: str | None = None
    ) -> None:
        super().__init__(message.type, message.payload, latest=message.latest)
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


def fresh_id() -> str:
    """Return an id of 128 random bits."""
    return secrets.token_urlsafe(16)
