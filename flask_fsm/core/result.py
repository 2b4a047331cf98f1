"""Result: a transition that was decided."""

from __future__ import annotations

from typing import Any, Final

from .history import Entry, entry_of
from .snapshot import Snapshot
from .state import Edge

__all__ = ["Result"]

_new: Final = tuple.__new__


class Result(tuple[Any, ...]):
    """A decided transition: what the flow becomes, and from what.

    `snapshot` and `previous`; `source`, `target`, `event`; `data`, what was kept under the source,
    or None; `entry`; `edge`; `finished`.
    """

    __slots__ = ()

    @property
    def snapshot(self) -> Snapshot:
        return _new(Snapshot, self[0])

    @property
    def previous(self) -> Snapshot:
        return _new(Snapshot, self[1])

    @property
    def edge(self) -> Edge:
        return self[2]  # type: ignore[no-any-return]

    @property
    def data(self) -> dict[str, Any] | None:
        return self[3]  # type: ignore[no-any-return]

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
        return self[0][2]  # type: ignore[no-any-return]

    @property
    def finished(self) -> bool:
        return self[0][9]  # type: ignore[no-any-return]

    @property
    def entry(self) -> Entry:
        return entry_of(self[0][4])

    def __repr__(self) -> str:
        return f"Result({self.source!r} -> {self.target!r}, rev={self.rev})"
