"""What Flask's session carries for one machine: the text of one flow, or of several by their keys.

For a store on a server the text is an id; for the store `session` it is the whole snapshot.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from ..stores.base import SESSION_KEY, FlowLocator, LoadResult, root_id

__all__ = [
    "MAX_FLOWS",
    "OWNER_KEY",
    "SESSION_KEY",
    "WAS_KEY",
    "PreviousId",
    "SessionData",
    "SessionFlow",
    "has_session_data",
]

OWNER_KEY: Final = "_fsmowner_"
WAS_KEY: Final = "_fsmwas_"
MAX_FLOWS: Final = 8
"""Of how many flows the session carries a text: the newest. Their owner finds the others."""


def has_session_data(session: Mapping[str, Any], name: str) -> bool:
    """Return whether a session carries a flow of the machine `name`, or owns some."""
    return SESSION_KEY + name in session or OWNER_KEY + name in session


class PreviousId(NamedTuple):
    """The id that a flow had before its session logged in.

    Args:
        id: The previous id.
        root: The root of the id since the login, to tell whether this is about the same flow.
    """

    id: str
    root: str


class SessionData:
    """Reads and writes what the session carries for the machine `name` of several flows."""

    __slots__ = ("_secret", "name", "session")

    def __init__(self, session: MutableMapping[str, Any], name: str) -> None:
        self.session = session
        self.name = name
        self._secret: str | None = None

    # Pairs in a list, as Flask sorts the keys of a dict.

    def pairs(self, prefix: str) -> dict[str, str]:
        """Return what lies under a key of the session, by the keys of flows."""
        found = self.session.get(prefix + self.name)
        pairs = {}
        for pair in found if isinstance(found, list) else ():
            match pair:
                case [str(key), str(text)]:
                    pairs[key] = text
        return pairs

    def keep_pair(self, prefix: str, key: str, text: str | None, first: bool = False) -> None:
        """Carry `text` for the flow with this key, or nothing if it is None.

        With `first` it is the first to be dropped if there are more than MAX_FLOWS.
        """
        pairs = self.pairs(prefix)
        if pairs.get(key) == text:
            return
        pairs.pop(key, None)
        if text is not None:
            pairs = {key: text, **pairs} if first else {**pairs, key: text}
        newest = [[key, text] for key, text in pairs.items()][-MAX_FLOWS:]
        if newest:
            self.session[prefix + self.name] = newest
        else:
            self.session.pop(prefix + self.name, None)

    # -- the owner of several flows -----------------------------------------------------

    @property
    def has_secret(self) -> bool:
        """Whether the session owns flows, without a subject."""
        return isinstance(self.session.get(OWNER_KEY + self.name), str)

    @property
    def secret(self) -> str:
        """The secret that owns the flows of a session; a new one is kept with the first flow."""
        kept = self.session.get(OWNER_KEY + self.name)
        if isinstance(kept, str):
            return kept
        if self._secret is None:
            self._secret = secrets.token_urlsafe(16)
        return self._secret

    def keep_secret(self) -> None:
        """Keep the secret that was made in this request, if one was."""
        if self._secret is not None:
            self.session[OWNER_KEY + self.name] = self._secret

    def forget_secret(self) -> None:
        """Remove the secret: the session owns no flows any more."""
        self.session.pop(OWNER_KEY + self.name, None)
        self._secret = None


class SessionFlow:
    """One flow of a session: which it is, and what the session carries of it.

    Args:
        data: The session's data of the machine.
        locator: Which flow.
        slot: The key under which the session carries it.
        several: Whether the session may carry several flows of the machine.
    """

    __slots__ = ("_data", "_session", "_several", "_slot", "_text_key", "_was_key", "locator")

    def __init__(self, data: SessionData, locator: FlowLocator, slot: str, several: bool) -> None:
        self.locator = locator
        self._data = data
        self._session = data.session
        self._slot = slot
        self._several = several
        self._text_key = SESSION_KEY + data.name
        self._was_key = WAS_KEY + data.name

    @property
    def text(self) -> str | None:
        """What the session carries of the flow, by which a store finds it."""
        if self._several:
            return self._data.pairs(SESSION_KEY).get(self._slot)
        return self._session.get(self._text_key)

    def keep(self, text: str | None, *, committed: bool = False) -> None:
        """Carry `text`, or nothing if it is None.

        After a commit, one that its owner finds is the first of several to be dropped.
        """
        if self._several:
            if text is not None:
                self._data.keep_secret()
            self._data.keep_pair(SESSION_KEY, self._slot, text, committed and self.locator.owned)
        elif text is None:
            self._session.pop(self._text_key, None)
        elif self._session.get(self._text_key) != text:
            # Only a change is written: a session that was written to is signed and sent again.
            self._session[self._text_key] = text

    def keep_result(self, found: LoadResult) -> None:
        """Carry what a store has found; after a login also the previous id."""
        if found.previous_id is not None and found.snapshot is not None:
            self.set_previous(PreviousId(found.previous_id, root_id(found.snapshot.id)))
        if found.missing_reason is None:
            self.keep(found.session_value)

    @property
    def previous(self) -> PreviousId | None:
        """The id that the flow had before a login, until the next commit."""
        if self._was_key not in self._session:
            return None
        text = self._data.pairs(WAS_KEY).get(self._slot)
        if text is None:
            return None
        id, _, root = text.partition(" ")
        return PreviousId(id, root)

    def set_previous(self, previous: PreviousId | None) -> None:
        """Carry the id that the flow had before a login, or none."""
        if previous is not None or self._was_key in self._session:
            text = None if previous is None else " ".join(previous)
            self._data.keep_pair(WAS_KEY, self._slot, text)
