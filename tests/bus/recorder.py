"""A receiver that keeps what it gets and can be waited for, and threads that race."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Barrier, Condition, Thread
from typing import Any, Final

from flask_fsm.bus import Position

from ..clients import PATIENCE

GAP: Final = "(gap)"


class Recorder:
    """Keeps positions and payloads; a gap is a payload too."""

    def __init__(self) -> None:
        self.log: list[tuple[Position, str]] = []
        self._changed = Condition()

    def receive(self, position: Position, payload: str) -> None:
        with self._changed:
            self.log.append((position, payload))
            self._changed.notify_all()

    def gap(self, position: Position) -> None:
        self.receive(position, GAP)

    @property
    def payloads(self) -> list[str]:
        return [payload for _, payload in self.log]

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` is true of what has arrived."""
        with self._changed:
            assert self._changed.wait_for(ready, PATIENCE), self.payloads[-10:]

    def until_payload(self, payload: str) -> list[str]:
        """Wait for a payload, and return all that have arrived."""
        self.until(lambda: payload in self.payloads)
        return self.payloads

    def until_count(self, count: int) -> list[str]:
        """Wait for a number of payloads, and return all that have arrived."""
        self.until(lambda: len(self.log) >= count)
        return self.payloads


def numbers(positions: list[tuple[Position, str]]) -> list[int]:
    """Return the offsets, which are of one epoch."""
    assert len({position.epoch for position, _ in positions}) <= 1
    return [position.offset for position, _ in positions]


def run_at_once(*work: Callable[[], Any]) -> None:
    """Run functions in threads that begin together, and raise what one of them raises."""
    barrier = Barrier(len(work))
    failures: list[BaseException] = []

    def run(function: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE)
            function()
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=run, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "They wait for each other."
    if failures:
        raise failures[0]


def wait_until(ready: Callable[[], bool]) -> None:
    """Wait until `ready` is true."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)
