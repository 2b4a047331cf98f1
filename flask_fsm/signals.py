"""Blinker signals. The sender is the app; all arguments are keywords.

- `transitioned`: `machine` (name), `flow`, `result`. After the commit and its hooks.
- `finished`: the same, when the transition ended the run.
- `reset`: `machine`, `flow` (the blank run), `previous` (the snapshot that was left).
- `denied`: `machine`, `flow`, `error` (an FSMError). A request was refused or sent elsewhere.

A receiver that raises is logged: nothing after the commit can undo it.
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
    """Send `signal`, logging what a receiver raises."""
    if not signal.receivers:
        return
    try:
        signal.send(app, **arguments)
    except Exception:
        log.exception("A receiver of the signal %s failed.", signal.name)
