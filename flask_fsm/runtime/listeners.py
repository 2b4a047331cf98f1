"""Listeners: the interface of objects that are notified after each commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ..core.flow import Flow
from ..core.flow_base import Result
from ..core.snapshot import Snapshot

__all__ = ["CommitListener", "Sender"]


class Sender(NamedTuple):
    """The socket whose event is being handled.

    Args:
        id: Names the socket.
        ref: The client's name for the event, which its reply repeats.
        prepare_reply: Returns, for a channel and a reply, the message for the channel's listeners.
    """

    id: str
    ref: Any
    prepare_reply: Callable[[str, Any], Any]


class CommitListener(Protocol):
    """Is notified of commits. Its exceptions are logged and undo nothing."""

    def moved(
        self, flow: Flow, result: Result, status: int, reply: Any, sender: Sender | None
    ) -> None:
        """The flow has made a transition; `status` and `reply` are for its clients."""
        ...

    def transmitted(self, flow: Flow, data: Any, status: int, sender: Sender | None) -> None:
        """A handler has sent something without moving the flow."""
        ...

    def replaced(self, previous: Snapshot, flow: Flow) -> None:
        """The run was reset; `flow` is the blank one in its place."""
        ...

    def moved_away(self, key: str) -> None:
        """The flow with this `channel_key` continues under another id: a login, or a link."""
        ...
