"""Memento: what a rollback of the caller's transaction restores of a unit of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..core.snapshot import Snapshot
from ..stores.base import Version
from .lease import Lease
from .locate import SessionFlow
from .stored_flow import StoredFlow

__all__ = ["Memento", "Restorable"]


class Restorable(Protocol):
    """What a rollback restores: a unit of work."""

    session_flow: SessionFlow
    version: Version | None
    persisted: Snapshot
    lease: Lease | None
    flow: StoredFlow
    notifications: list[Callable[[], None]]


class Memento:
    """The state of a unit of work, to which a rollback of the caller's transaction returns it."""

    __slots__ = (
        "_lease",
        "_notification_count",
        "_persisted",
        "_previous",
        "_sent",
        "_sent_count",
        "_snapshot",
        "_text",
        "_version",
        "_work",
    )

    def __init__(self, work: Restorable) -> None:
        self._work = work
        self._text = work.session_flow.text
        self._previous = work.session_flow.previous
        self._version = work.version
        self._persisted = work.persisted
        self._lease = work.lease
        self._snapshot = work.flow.snapshot
        self._sent = work.flow.sent
        self._sent_count = len(self._sent or ())
        self._notification_count = len(work.notifications)

    def restore(self) -> None:
        """Restore the state, and withdraw what has been sent since in the current event."""
        work = self._work
        if self._sent is not None:
            del self._sent[self._sent_count :]
        del work.notifications[self._notification_count :]
        work.session_flow.keep(self._text)
        work.session_flow.set_previous(self._previous)
        work.version, work.persisted, work.lease = self._version, self._persisted, self._lease
        work.flow.set_snapshot(self._snapshot)
