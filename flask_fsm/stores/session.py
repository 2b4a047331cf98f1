"""The store `session`: the whole snapshot travels in Flask's signed session.

The head of a flow decides, and the cookie brings the flow to a process that has no head of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from flask import Flask, current_app, session
from flask.sessions import SecureCookieSessionInterface, SessionMixin

from ..core.machine import Machine
from ..core.snapshot import Receipt, Snapshot
from ..errors import FlowGone, SnapshotError, SnapshotTooLarge, StaleFlow
from ..runtime.session_data import SESSION_KEY
from .base import Asked, Choose, Committed, Kept, Loaded, Place, Seen, gone
from .cache import Heads
from .records.store import check_size

__all__ = ["SessionStore"]

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

    def turn_of(self, place: Place, carried: str | None) -> str | None:
        fields = carried.split("|", 2) if isinstance(carried, str) else ()
        return fields[1] if len(fields) == 3 else None

    def load(self, place: Place, carried: str | None, oldest: float, choose: Choose) -> Loaded:
        if carried is None:
            return Loaded()
        id = self.turn_of(place, carried)
        try:
            if id is None:
                raise SnapshotError("The session carries no flow of the store 'session'.")
            newest = self._heads.newest(id)
            if newest is None or newest[1] != carried:
                newest = self._heads.adopt(Snapshot.decode(carried, place.machine), carried)
        except FlowGone as error:
            return self._moved(place, id or "") or Loaded(gone=error)
        except SnapshotError as error:
            return Loaded(gone=error)
        snapshot, text = newest
        mine = snapshot.subject == place.subject
        if not mine and snapshot.subject is not None:
            return Loaded()  # somebody else's, who was here before
        if snapshot.updated < oldest:
            return Loaded(seen=_seen(snapshot), gone=gone(snapshot.id, "expired"))
        return Loaded(snapshot, text, _seen(snapshot)) if mine else self._claimed(place, snapshot)

    def _claimed(self, place: Place, old: Snapshot) -> Loaded:
        """Let the flow of a session that has got a subject be that subject's, under a new id."""
        new = old.rekeyed(secrets.token_urlsafe(16), place.subject)
        try:
            self._heads.bury(_seen(old), moved_to=new.id)
        except StaleFlow:
            return self._moved(place, old.id) or Loaded(gone=gone(old.id, "moved"))
        text = self.carry(place, new)
        return Loaded(*self._heads.adopt(new, text), _seen(new), was=old.id)

    def _moved(self, place: Place, id: str) -> Loaded | None:
        """Return the flow as its subject has it, for a request that has not heard of the claim."""
        moved_to = self._heads.moved_to(id)
        newest = None if moved_to is None else self._heads.newest(moved_to)
        if newest is None or newest[0].subject != place.subject:
            return None
        return Loaded(*newest, _seen(newest[0]), was=id)

    def carry(self, place: Place, snapshot: Snapshot) -> str:
        return snapshot.encode(place.machine)

    def named(self, place: Place, id: str) -> str | None:
        try:
            newest = self._heads.newest(id)
        except FlowGone:
            return None
        if newest is None or not newest[1].partition("|")[0].endswith(place.machine.digest):
            return None
        return newest[1]

    def bury(
        self,
        place: Place,
        seen: Seen | None,
        old: Snapshot,
        receipt: Receipt | None = None,
        location: str | None = None,
        *,
        claim: str = "",
        within: Any = None,
    ) -> Seen:
        self._heads.bury(seen or _seen(old), receipt, location)
        return seen or _seen(old)

    def receipt(self, place: Place, asked: Asked) -> Kept | None:
        return self._heads.receipt(asked.id, asked.nonce)

    def commit(
        self,
        place: Place,
        seen: Seen | None,
        new: Snapshot,
        location: str | None,
        *,
        claim: str = "",
        within: Any = None,
    ) -> Committed:
        machine = place.machine
        new = new.compacted(machine, self._history_limit)
        text = new.encode(machine)
        self._check_cookie(machine, new, text)
        self._heads.swap(seen or Seen(new.id, 0), new, text, location)
        return Committed(new, text, _seen(new))

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


def _seen(snapshot: Snapshot) -> Seen:
    return Seen(snapshot.id, snapshot.rev)


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
