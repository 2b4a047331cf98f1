"""A clock of an app that a test sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask

from ..runtime.app_state import EXTENSION, AppState

__all__ = ["FrozenClock", "frozen_clock", "state_of"]


def state_of(app: Flask) -> AppState:
    """Return the extension's state of an app; raises LookupError."""
    state = app.extensions.get(EXTENSION)
    if not isinstance(state, AppState):
        raise LookupError(f"The app {app.name!r} has no FlaskFSM: call fsm.init_app(app).")
    return state


class FrozenClock:
    """The clock of an app within `frozen_clock`: it moves only when the test sets it."""

    def __init__(self, now: float) -> None:
        self.now: float = now
        """Seconds since 1970, which may be set."""

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float = 1) -> float:
        """Move it by that many seconds (negative: back), and return the new time."""
        self.now += seconds
        return self.now


@contextmanager
def frozen_clock(app: Flask, at: float | None = None) -> Iterator[FrozenClock]:
    """Freeze the app's clock and yield it: flows get their times from it, and expire by it.

    It is the clock of flows, leases and resume links, but not of live heartbeats, nor of a server:
    Redis expires keys by its own clock. A connection that is already open keeps its clock.

    Args:
        app: The app, after `init_app`.
        at: Seconds since 1970; by default now.

    Raises:
        LookupError: The app has no FlaskFSM.
    """
    state = state_of(app)
    before = state.clock
    state.clock = clock = FrozenClock(time.time() if at is None else at)
    try:
        yield clock
    finally:
        state.clock = before
