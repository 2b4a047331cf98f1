"""Locates the flow of a request: its owner, its key, and the text that the session carries."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from flask import current_app, request

from ..binding.bound_machine import FLOW_ARGUMENT, Bound
from ..binding.declaration import missing_arguments
from ..errors import Code, FSMError, NotFound
from ..stores.base import FlowLocator, LoadResult, digest, root_id
from ..stores.expiry import flow_gone
from ..texts import _
from .session_data import (
    GONE_KEY,
    OWNER_KEY,
    SESSION_KEY,
    WAS_KEY,
    keep_pair,
    owner_secret,
    read_pairs,
)

__all__ = [
    "PreviousId",
    "SessionFlow",
    "find_key",
    "find_owner",
    "needs_key",
    "no_such_flow",
    "sends_session",
    "session_flow",
]

KEY: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
LONGEST_KEY: Final = 200


class PreviousId(NamedTuple):
    """The id that a flow had before its session logged in.

    Args:
        id: The previous id.
        root: The root of the id since the login, to check that this belongs to the same flow.
    """

    id: str
    root: str


class SessionFlow:
    """One flow of a session: its locator, and the text that the session carries for it.

    For a store on a server that is an id, for the store `session` the whole snapshot.

    Args:
        session: Flask's session.
        name: Name of the machine.
        locator: Identifies the flow.
        slot: The key under which the session carries it.
        several: Whether the session may carry several flows of the machine.
    """

    __slots__ = (
        "_gone_key",
        "_name",
        "_session",
        "_several",
        "_slot",
        "_text_key",
        "_was_key",
        "locator",
    )

    def __init__(
        self,
        session: MutableMapping[str, Any],
        name: str,
        locator: FlowLocator,
        slot: str,
        several: bool,
    ) -> None:
        self.locator: FlowLocator = locator
        self._session = session
        self._name = name
        self._slot = slot
        self._several = several
        self._text_key = SESSION_KEY + name
        self._was_key = WAS_KEY + name
        self._gone_key = GONE_KEY + name

    @property
    def text(self) -> str | None:
        """The text that the session carries for the flow; a store finds the flow by it."""
        if self._several:
            return read_pairs(self._session, self._text_key).get(self._slot)
        return self._session.get(self._text_key)

    def keep(self, text: str | None, *, committed: bool = False) -> None:
        """Store `text` in the session, or remove it if None.

        If there are too many, a committed flow that can be found by its owner is dropped first.
        """
        if self._several:
            secret = self.locator.secret
            if text is not None and secret not in (None, owner_secret(self._session, self._name)):
                self._session[OWNER_KEY + self._name] = secret
            first = committed and self.locator.owned
            keep_pair(self._session, self._text_key, self._slot, text, first)
        elif text is None:
            self._session.pop(self._text_key, None)
        elif self._session.get(self._text_key) != text:
            # Only a change is written: a session that was written to is signed and sent again.
            self._session[self._text_key] = text

    def keep_result(self, found: LoadResult) -> None:
        """Store a load's `session_value` in the session; after a login also the previous id."""
        if found.previous_id is not None and found.snapshot is not None:
            self.set_previous(PreviousId(found.previous_id, root_id(found.snapshot.id)))
        if found.missing_reason is None:
            self.keep(found.session_value)

    @property
    def previous(self) -> PreviousId | None:
        """The id that the flow had before a login, until the next commit."""
        if self._was_key not in self._session:
            return None
        text = read_pairs(self._session, self._was_key).get(self._slot)
        if text is None:
            return None
        id, _, root = text.partition(" ")
        return PreviousId(id, root)

    def set_previous(self, previous: PreviousId | None) -> None:
        """Store in the session the id that the flow had before a login; None removes it."""
        if previous is not None or self._was_key in self._session:
            text = None if previous is None else " ".join(previous)
            keep_pair(self._session, self._was_key, self._slot, text)

    def why_gone(self, id: str) -> str | None:
        """Return the code that says why the session has given up the flow `id`, if it has."""
        root, _, code = read_pairs(self._session, self._gone_key).get(self._slot, "").partition(" ")
        return code if root == root_id(id) else None

    def set_gone(self, id: str, code: str) -> None:
        """Store in the session why it gives up the flow `id`, until the next commit."""
        keep_pair(self._session, self._gone_key, self._slot, f"{root_id(id)} {code}")

    def clear_past(self) -> None:
        """Remove from the session, after a commit, what it had stored of flows before."""
        for key in (self._was_key, self._gone_key):
            if key in self._session:
                keep_pair(self._session, key, self._slot, None)


def find_owner(
    bound: Bound, url_args: Mapping[str, Any], session: Mapping[str, Any]
) -> FlowLocator:
    """Return the locator of a request's flow, without a key: by its subject or its session."""
    machine = bound.machine
    subject = None if bound.subject_of is None else bound.subject_of(url_args)
    secret: str | None = None
    if machine.many and subject is None:
        # A new secret is stored with the first flow.
        secret = owner_secret(session, bound.name) or secrets.token_urlsafe(16)
    return FlowLocator(machine, subject, secret)


def needs_key(bound: Bound) -> bool:
    """Return whether the URL lacks the key of a flow, so that it asks for a new flow."""
    return bound.machine.many is True and FLOW_ARGUMENT not in request.args


def find_key(bound: Bound, url_args: Mapping[str, Any], subject: str | None) -> str:
    """Return the key of the flow that a request means; a new random one if its URL lacks it."""
    many = bound.machine.many
    if many is False:
        return ""
    if many is True:
        key = request.args.get(FLOW_ARGUMENT)
        if key is None:
            return secrets.token_urlsafe(9)
        if KEY.fullmatch(key) is None:
            raise no_such_flow(bound, subject)
        return key
    if many not in url_args:
        raise missing_arguments([many])
    key = quote(bound.text_of(many, url_args[many]), safe="")
    return key if len(key) <= LONGEST_KEY else digest(key)


def session_flow(
    bound: Bound, session: MutableMapping[str, Any], locator: FlowLocator
) -> SessionFlow:
    """Return a flow with its place in the session."""
    slot = locator.key
    if bound.by_url and locator.subject is not None:
        slot = f"{digest(locator.subject)[:16]} {slot}"
    return SessionFlow(session, bound.name, locator, slot, bool(bound.machine.many) or bound.by_url)


def no_such_flow(bound: Bound, subject: str | None) -> FSMError:
    """Return the error of a flow that does not exist or belongs to another owner.

    The URL of a first page gets its key by a redirect that also sets a cookie. If the browser sends
    none, the visitor is told that cookies are needed, and not that a page is missing.
    """
    is_first = bound.states.get(request.endpoint or "") == bound.machine.initial
    if subject is None and is_first and not sends_session():
        return flow_gone(None, Code.NO_SESSION)
    return NotFound(_("There is no such page."), code=Code.NO_FLOW)


def sends_session() -> bool:
    """Return whether the client has sent a session cookie with this request."""
    return current_app.session_interface.get_cookie_name(current_app) in request.cookies
