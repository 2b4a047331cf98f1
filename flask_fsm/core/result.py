"""Result: a transition that was decided; and what an event's handler sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .history import Entry, LogItem, entry_of
from .path import Node
from .snapshot import Snapshot
from .state import Edge

__all__ = ["Result", "Sent"]


class Result(NamedTuple):
    """A decided transition.

    Attributes:
        snapshot: What the flow becomes.
        previous: What it was when this was decided.
        edge: The edge that is taken; `source`, `target` and `event` are its own.
        data: The answers stored under the source, or None if none were given.
        cut: The nodes that were cut off the path by an edit or a loop, last one first, or None.
        rev: The revision of `snapshot`.
        finished: Whether this ends the run.
        entry: The entry of the history.
    """

    snapshot: Snapshot
    previous: Snapshot
    edge: Edge
    data: Mapping[str, Any] | None
    cut: list[Node] | None

    @property
    def source(self) -> str:
        return self.edge.source

    @property
    def target(self) -> str:
        return self.edge.target

    @property
    def event(self) -> str | None:
        return self.edge.event

    @property
    def rev(self) -> int:
        return self.snapshot.rev

    @property
    def finished(self) -> bool:
        return self.snapshot.finished

    @property
    def entry(self) -> Entry:
        item = self.snapshot.log
        assert isinstance(item, LogItem)
        return entry_of(item)

    def __repr__(self) -> str:
        return f"Result({self.source!r} -> {self.target!r}, rev={self.rev})"


class Sent(NamedTuple):
    """What the handler of an event sent: data, and the transition, if it made one."""

    status: int
    data: Any
    result: Result | None
