"""The store `session`: the whole snapshot travels in Flask's signed session cookie.

The cache of this process decides which snapshot is the newest, and refuses a cookie that is older:
such a replay changes nothing. The cookie brings the flow to a process that has not cached it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from flask import Flask, current_app, session
from flask.sessions import SecureCookieSessionInterface, SessionMixin

from ..core.machine import Machine
from ..core.snapshot import Receipt, Snapshot
from ..errors import Code, FlowGone, SnapshotError, SnapshotTooLarge, StaleFlow
from .base import (
    SESSION_KEY,
    Choose,
    CommitResult,
    FlowLocator,
    LoadResult,
    StoredReply,
    SubmissionQuery,
    Version,
)
from .cache import FlowCache
from .expiry import flow_gone
from .records.errors import snapshot_too_large

__all__ = ["COOKIE_LIMIT", "SessionStore"]

# Name and value together: browsers drop more than 4,096 bytes (RFC 6265 section 6.1), and
# Werkzeug warns past 4,093.
COOKIE_LIMIT: Final = 4_093
# Bytes of the timestamp, the signature, their separators, and the marker of compression.
SIGNED: Final = 48


class SessionStore:
    """Keeps flows in the session cookie only, and the newest snapshots in the cache.

    Args:
        cache: The flows that this process knows.
        history_limit: FSM_HISTORY_LIMIT, in entries; None for no bound.
        max_size: FSM_MAX_SNAPSHOT_SIZE in bytes, for sessions that are kept on a server.
    """

    def __init__(self, cache: FlowCache, history_limit: int | None, max_size: int) -> None:
        self._cache = cache
        self._history_limit = history_limit
        self._max_size = max_size

    def lock_name(self, locator: FlowLocator, session_value: str | None) -> str | None:
        fields = session_value.split("|", 2) if isinstance(session_value, str) else ()
        return fields[1] if len(fields) == 3 else None

    def load(
        self, locator: FlowLocator, session_value: str | None, expired_before: float, choose: Choose
    ) -> LoadResult:
        if session_value is None:
            return LoadResult()
        id = self.lock_name(locator, session_value)
        try:
            if id is None:
                raise SnapshotError("The session carries no flow of the store 'session'.")
            newest = self._cache.newest(id)
            if newest is None or newest[1] != session_value:
                newest = self._cache.adopt(
                    Snapshot.decode(session_value, locator.machine), session_value
                )
        except FlowGone as error:
            return self._moved(locator, id or "") or LoadResult(missing_reason=error)
        except SnapshotError as error:
            return LoadResult(missing_reason=error)
        snapshot, text = newest
        mine = snapshot.subject == locator.subject
        if not mine and snapshot.subject is not None:
            return LoadResult()  # of another user, who had this session before
        if snapshot.updated < expired_before:
            return LoadResult(
                version=_version(snapshot), missing_reason=flow_gone(snapshot.id, Code.EXPIRED)
            )
        return (
            LoadResult(snapshot, text, _version(snapshot))
            if mine
            else self._taken_along(locator, snapshot)
        )

    def _taken_along(self, locator: FlowLocator, old: Snapshot) -> LoadResult:
        """After a login, give the session's flow to its subject, under a new id."""
        new = old.with_id(secrets.token_urlsafe(16), locator.subject)
        try:
            self._cache.write_tombstone(_version(old), moved_to=new.id)
        except StaleFlow:
            return self._moved(locator, old.id) or LoadResult(
                missing_reason=flow_gone(old.id, Code.MOVED)
            )
        text = self.session_value(locator, new)
        return LoadResult(*self._cache.adopt(new, text), _version(new), previous_id=old.id)

    def _moved(self, locator: FlowLocator, id: str) -> LoadResult | None:
        """Return the subject's flow, for a request that was sent before the login."""
        moved_to = self._cache.moved_to(id)
        newest = None if moved_to is None else self._cache.newest(moved_to)
        if newest is None or newest[0].subject != locator.subject:
            return None
        return LoadResult(*newest, _version(newest[0]), previous_id=id)

    def session_value(self, locator: FlowLocator, snapshot: Snapshot) -> str:
        return snapshot.encode(locator.machine)

    def session_value_of(self, locator: FlowLocator, id: str) -> str | None:
        try:
            newest = self._cache.newest(id)
        except FlowGone:
            return None
        if newest is None or not newest[1].partition("|")[0].endswith(locator.machine.digest):
            return None
        return newest[1]

    def write_tombstone(
        self,
        locator: FlowLocator,
        version: Version | None,
        old: Snapshot,
        receipt: Receipt | None = None,
        location: str | None = None,
        *,
        lease: str = "",
        within: Any = None,
    ) -> Version:
        self._cache.write_tombstone(version or _version(old), receipt, location)
        return version or _version(old)

    def stored_reply(self, locator: FlowLocator, query: SubmissionQuery) -> StoredReply | None:
        return self._cache.stored_reply(query.id, query.nonce)

    def commit(
        self,
        locator: FlowLocator,
        version: Version | None,
        new: Snapshot,
        location: str | None,
        *,
        lease: str = "",
        within: Any = None,
    ) -> CommitResult:
        machine = locator.machine
        new = new.with_packed_history(machine, self._history_limit)
        text = new.encode(machine)
        self._check_cookie(machine, new, text)
        self._cache.compare_and_swap(version or Version(new.id, 0), new, text, location)
        return CommitResult(new, text, _version(new))

    def _check_cookie(self, machine: Machine, snapshot: Snapshot, text: str) -> None:
        """Raise SnapshotTooLarge if the session cookie would exceed the size that browsers keep."""
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        interface = app.session_interface
        if not isinstance(interface, SecureCookieSessionInterface):
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > self._max_size:
                raise snapshot_too_large(snapshot, size, self._max_size)
            return
        name = interface.get_cookie_name(app)
        key = SESSION_KEY + machine.name
        carrier: SessionMixin = session._get_current_object()  # type: ignore[attr-defined]
        others = {other: carrier[other] for other in carrier if other != key}
        bound = _bound(others) if others else 2
        if bound is not None and text.isascii():
            # Every character may need a backslash; then base64 makes four bytes of three.
            bound += len(key) + 2 * len(text)
            if len(name) + SIGNED + bound * 4 // 3 <= COOKIE_LIMIT:
                return
        serializer = interface.get_signing_serializer(app)
        assert serializer is not None
        size = len(name) + len(serializer.dumps({**others, key: text}))
        if size > COOKIE_LIMIT:
            rest = len(name) + len(serializer.dumps(others)) if others else 0
            raise SnapshotTooLarge(
                f"With this step the session cookie would take {size} bytes, but browsers drop "
                f"more than {COOKIE_LIMIT} ({rest} of them are not this flow's). Store less in its "
                f"answers, lower FSM_HISTORY_LIMIT, or use a store on the server: FSM_STORE_URL, "
                f"or Flask-Session.",
                size=size,
                limit=COOKIE_LIMIT,
                flow=snapshot.id,
                target=snapshot.state,
            )


def _version(snapshot: Snapshot) -> Version:
    return Version(snapshot.id, snapshot.rev)


def _bound(value: Any) -> int | None:
    """Return an upper bound of the bytes that `value` takes as JSON, or None if none is cheap."""
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
