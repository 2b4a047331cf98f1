"""The lease of a flow: the lock of `once=True`, held across processes while a view runs."""

from __future__ import annotations

import secrets
import time
from typing import Final

from ..core.snapshot import Snapshot
from ..errors import FlowBusy, StoreUnavailable
from ..stores.base import FlowLocator, Version
from .app_state import AppState

__all__ = ["Lease"]

POLL: Final = 0.05
"""Seconds between two attempts to acquire a lease that another request holds."""


class Lease:
    """The exclusive right to commit a flow, which `once=True` takes before the view runs.

    It ends with the commit, when it is released, or by itself after FSM_ONCE_LEASE seconds.
    """

    __slots__ = ("_locator", "_snapshot", "_state", "_store", "name")

    def __init__(self, state: AppState, locator: FlowLocator, snapshot: Snapshot) -> None:
        self._state = state
        self._store = state.require_record_store("once=True")
        self._locator = locator
        self._snapshot = snapshot
        self.name: str = secrets.token_urlsafe(12)
        """A random name by which the store recognises the holder."""

    def acquire(self, version: Version | None) -> Version:
        """Acquire the lease of the flow at `version`; return the version to be committed over.

        While another request holds it, wait up to FSM_LOCK_TIMEOUT seconds, then raise FlowBusy.
        Raises StaleFlow if the flow has moved on meanwhile.
        """
        state = self._state
        end = time.monotonic() + state.config.lock_timeout
        while True:
            until = int(state.clock() + state.config.once_lease)
            try:
                return self._store.acquire_lease(
                    self._locator, version, self._snapshot, self.name, until
                )
            except FlowBusy:
                if time.monotonic() + POLL > end:
                    raise
            time.sleep(POLL)

    def release(self, version: Version) -> None:
        """Release a lease that led to no commit; if the store can't be reached, it ends by itself.

        The response or the exception of the view is what matters, so this raises nothing then.
        """
        try:
            self._store.release_lease(self._locator, self._snapshot, version, self.name)
        except StoreUnavailable as error:
            self._state.outages.log(error)
