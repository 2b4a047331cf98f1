"""Blinker signals. The sender is the app; all arguments are keywords.

- `transitioned`, with `machine` (its name), `flow` and `result`: sent after a commit and its hooks.
- `finished`, with the same arguments: sent as well if the transition ended the run.
- `reset`, with `machine`, `flow` (the blank run) and `previous` (the snapshot it replaces).
- `denied`, with `machine`, `flow` and `error` (an FSMError): a request was refused or redirected.

Exceptions in receivers are logged and change nothing: the commit has been made.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from blinker import NamedSignal, Namespace

__all__ = ["denied", "finished", "reset", "transitioned"]

_signals: Final = Namespace()
log: Final = logging.getLogger("flask_fsm")

transitioned: Final = _signals.signal("fsm-transitioned")
finished: Final = _signals.signal("fsm-finished")
reset: Final = _signals.signal("fsm-reset")
denied: Final = _signals.signal("fsm-denied")


def emit(signal: NamedSignal, app: Any, **arguments: Any) -> None:
    """Send `signal` to each receiver. Exceptions are logged, and do not affect the others."""
    if not signal.receivers or signal.is_muted:
        return
    for receiver in signal.receivers_for(app):
        try:
            app.ensure_sync(receiver)(app, **arguments)
        except Exception:
            log.exception("A receiver of the signal %s failed.", signal.name)
