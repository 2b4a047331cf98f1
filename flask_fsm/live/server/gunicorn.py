"""Information about the gunicorn worker of this process, if it is one.

Gunicorn does not tell an app, but the worker's own handler of SIGTERM is a method of the worker.
"""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["is_ending", "threads"]


def _worker() -> Any:
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


def is_ending() -> bool:
    """Return whether the worker has been told to end; it waits for its threads before it does."""
    return getattr(_worker(), "alive", True) is False


def threads() -> int | None:
    """Return how many requests a threaded worker serves at once, or None for any other server."""
    worker = _worker()
    if type(worker).__name__ != "ThreadWorker":
        return None
    return int(worker.cfg.threads)
