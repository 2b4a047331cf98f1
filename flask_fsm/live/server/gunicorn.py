"""Worker: what can be known of the worker of gunicorn that this process is, if it is one.

Gunicorn tells an app nothing of it, but the worker's own handler of SIGTERM is a method of it.
"""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["is_ending", "threads"]


def _worker() -> Any:
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


def is_ending() -> bool:
    """Tell whether the worker has been told to end; it waits for its threads before it does."""
    return getattr(_worker(), "alive", True) is False


def threads() -> int | None:
    """Return how many requests a worker with threads serves at once; None: there is no such."""
    worker = _worker()
    if type(worker).__name__ != "ThreadWorker":
        return None
    return int(worker.cfg.threads)
