"""The store `session`: the whole snapshot travels in Flask's signed session.

The head of a flow decides, and the cookie brings the flow to a process that has no head of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Flask, current_app, session
from flask.sessions import SecureCookieSessionInterface, SessionMixin

from ..core.machine import Machine
from ..core.snapshot import Receipt, Snapshot
from ..errors import SnapshotError, SnapshotTooLarge
from .base import Loaded
from .heads import Heads
from .memory import check_size

__all__ = ["SESSION_KEY", "SessionStore"]

SESSION_KEY: Final = "_fsm_"
# Name and value together: browsers drop more than 4,096 bytes (RFC 6265 section 6.1), and
# Werkzeug warns past 4,093.
COOKIE_LIMIT: Final = 4_093
# Timestamp, signature and their separators, and the marks of compression.
SIGNED: Final = 48


class SessionStore:
    """Keeps no flow but in the session, and remembers the heads of the newest."""

    def __init__(self, heads: Heads, history_limit: int | None, max_size: int) -> None:
        self._heads = heads
        self._history_limit = history_limit
        self._max_size = max_size

    def identify(self, carried: str) -> str | None:
        fields = carried.split("|", 2) if isinstance(carried, str) else ()
        return fields[1] if len(fields) == 3 else None

    def load(self, machine: Machine, carried: str) -> Loaded:
        id = self.identify(carried)
        if id is None:
            raise SnapshotError("The session carries no flow of the store 'session'.")
        found = self._heads.newest(id)
        if found is not None and found[1] == carried:
            return Loaded(*found)
        snapshot = Snapshot.decode(carried, machine)
        return Loaded(*self._heads.adopt(snapshot, carried))

    def carry(self, machine: Machine, snapshot: Snapshot) -> str:
        return snapshot.encode(machine)

    def bury(
        self, old: Snapshot, receipt: Receipt | None = None, location: str | None = None
    ) -> None:
        self._heads.bury(old, receipt, location)

    def commit(self, machine: Machine, old: Snapshot, new: Snapshot, location: str | None) -> str:
        new = new.compacted(machine, self._history_limit)
        text = new.encode(machine)
        self._check_cookie(machine, new, text)
        self._heads.swap(old, new, text, location)
        return text

    def _check_cookie(self, machine: Machine, snapshot: Snapshot, text: str) -> None:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        interface = app.session_interface
        if not isinstance(interface, SecureCookieSessionInterface):
            check_size(snapshot, len(text.encode("utf-8", "surrogatepass")), self._max_size)
            return
        name = interface.get_cookie_name(app)
        key = SESSION_KEY + machine.name
        carrier: SessionMixin = session._get_current_object()  # type: ignore[attr-defined]
        others = {other: carrier[other] for other in carrier if other != key}
        bound = _bound(others) if others else 2
        if bound is not None and text.isascii():
            # Every character may need a backslash; then base64 makes four of three.
            bound += len(key) + 2 * len(text)
            if len(name) + SIGNED + bound * 4 // 3 <= COOKIE_LIMIT:
                return
        serializer = interface.get_signing_serializer(app)
        assert serializer is not None
        size = len(name) + len(serializer.dumps({**others, key: text}))
        if size > COOKIE_LIMIT:
            rest = len(name) + len(serializer.dumps(others)) if others else 0
            raise SnapshotTooLarge(
                f"With this step the session cookie would take {size} bytes, and browsers drop "
                f"more than {COOKIE_LIMIT} ({rest} of them are not this flow's). Keep less in its "
                f"answers, lower FSM_HISTORY_LIMIT, or use a store on the server: FSM_STORE_URL, "
                f"or Flask-Session.",
                size=size,
                limit=COOKIE_LIMIT,
                flow=snapshot.id,
                target=snapshot.state,
            )


def _bound(value: Any) -> int | None:
    """Return how many bytes `value` takes at most as JSON, or None if that isn't cheap to say."""
    if type(value) is str:
        return 6 * len(value) + 3
    if value is None or type(value) in (bool, int):
        return len(str(value)) + 3
    if isinstance(value, Mapping):
        parts = [part for item in value.items() for part in item]
    elif type(value) in (list, tuple):
        parts = list(value)
    else:
        return None
    sizes = [_bound(part) for part in parts]
    return None if None in sizes else sum(size for size in sizes if size is not None) + 10
