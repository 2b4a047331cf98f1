"""The caller's database transaction, in which transitions take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Transaction"]


class Transaction:
    """Collects what is to be done after the caller's commit, or in case that there is none."""

    def __init__(self, session: Any, connect: Callable[[], Any]) -> None:
        self.session = session
        self._connect = connect
        self.failed = False
        """Whether a part of it has failed, so that it must not be committed."""
        self.moved = False
        """Whether a transition was made in it."""
        self._told: list[Callable[[], None]] = []
        self._undone: list[Callable[[], None]] = []

    @property
    def connection(self) -> Any:
        """The connection on which a store writes."""
        return self._connect()

    def join(
        self, tell: Callable[[], None], undo: Callable[[], None], *, moves: bool = True
    ) -> None:
        """Call `tell` after the commit, or `undo` if it fails; `moves`: there is one to make."""
        self.moved |= moves
        self._told.append(tell)
        self._undone.append(undo)

    def committed(self) -> None:
        """Tell of everything that was made, in order."""
        for tell in self._told:
            tell()

    def rolled_back(self) -> None:
        """Undo everything that was made, newest first."""
        for undo in reversed(self._undone):
            undo()
