"""A clock that a test sets."""

from __future__ import annotations

START = 1_750_000_000


class Clock:
    """A clock that the test sets, in seconds since 1970."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
