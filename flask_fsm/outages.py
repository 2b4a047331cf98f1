"""Logs that a server can't be reached: one line, at most one per second for one cause.

During an outage each request of every visitor fails alike.
"""

from __future__ import annotations

import logging
from math import inf
from time import monotonic
from typing import Final

from .errors import StoreUnavailable

__all__ = ["OutageLog", "describe"]

log: Final = logging.getLogger("flask_fsm")
INTERVAL: Final = 1.0
"""Seconds between two lines about one cause."""
MAX_CAUSES: Final = 100


class OutageLog:
    """Logs outages; of one cause only the first of each second, with the number left out."""

    def __init__(self) -> None:
        # By cause: when the last line was logged, and how many were left out since. A list is empty
        # while a thread has taken its item out; a lock could be one that gevent patches too late.
        self._logged: dict[str, list[tuple[float, int]]] = {}

    def log(self, error: StoreUnavailable) -> None:
        """Log an error and its cause, unless this was done within the last second."""
        cause = describe(error)
        now = monotonic()
        if len(self._logged) >= MAX_CAUSES:
            self._logged.clear()
        entries = self._logged.setdefault(cause, [(-inf, 0)])
        try:
            last, omitted = entries.pop()
        except IndexError:  # another thread is here
            return
        if now - last < INTERVAL:
            entries.append((last, omitted + 1))
            return
        entries.append((now, 0))
        more = f" ({omitted} more of these since the last line)" if omitted else ""
        log.error("%s%s", cause, more)


def describe(error: StoreUnavailable) -> str:
    """Return what an operator needs to know, in one line: what failed, and the driver's error."""
    cause = error.__cause__
    if cause is None:
        return f"A store or bus can't be used now: {error}"
    driver = getattr(cause, "orig", None) or cause
    module = type(driver).__module__.partition(".")[0]
    name = type(driver).__name__ if module == "builtins" else f"{module}.{type(driver).__name__}"
    return f"A store or bus can't be used now: {name}: {' '.join(str(driver).split())}"
