"""Observer: what is told of a flow after its commit. The runtime knows no more of its guests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ..core.flow import Flow
from ..core.result import Result
from ..core.snapshot import Snapshot

__all__ = ["CommitListener", "Sender"]


class Sender(NamedTuple):
    """The socket whose event is being handled, and what it called that event."""

    id: str
    ref: Any
    mark: Callable[[str, Any], Any]
    """Returns a message that answers it as it is to be sent to all who listen to a channel."""


class CommitListener(Protocol):
    """Hears what was committed. What it raises is logged and undoes nothing."""

    def moved(
        self, flow: Flow, result: Result, status: int, reply: Any, sender: Sender | None
    ) -> None:
        """The flow has made a transition; `status` and `reply` are for its clients."""
        ...

    def transmitted(self, flow: Flow, data: Any, status: int, sender: Sender | None) -> None:
        """A handler has said something without moving the flow."""
        ...

    def replaced(self, previous: Snapshot, flow: Flow) -> None:
        """The run was given up; `flow` is the blank one in its place."""
        ...

    def moved_away(self, key: str) -> None:
        """The flow with this `channel_key` goes on under another id: a login, or a link."""
        ...
