"""What Flask's session carries for one machine: the text of one flow, or of several by their keys.

For a store on a server the text is an id; for the store `session` it is the whole snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from ..stores.base import SESSION_KEY, FlowLocator, LoadResult, root_id

__all__ = [
    "MAX_FLOWS",
    "OWNER_KEY",
    "SESSION_KEY",
    "WAS_KEY",
    "PreviousId",
    "SessionFlow",
    "has_session_data",
    "owner_secret",
    "read_pairs",
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


def read_pairs(session: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return what lies under a name of the session, by the keys of flows."""
    found = session.get(name)
    pairs = {}
    for pair in found if isinstance(found, list) else ():
        match pair:
            case [str(key), str(text)]:
                pairs[key] = text
    return pairs


def keep_pair(
    session: MutableMapping[str, Any], name: str, key: str, text: str | None, first: bool = False
) -> None:
    """Carry `text` under a name of the session for the flow with this key; nothing for None.

    With `first` it is the first to be dropped if there are more than MAX_FLOWS.
    """
    pairs = read_pairs(session, name)
    if pairs.get(key) == text:
        return
    pairs.pop(key, None)
    if text is not None:
        pairs = {key: text, **pairs} if first else {**pairs, key: text}
    # A list, as Flask sorts the keys of a dict.
    newest = [[key, text] for key, text in pairs.items()][-MAX_FLOWS:]
    if newest:
        session[name] = newest
    else:
        session.pop(name, None)


def owner_secret(session: Mapping[str, Any], name: str) -> str | None:
    """Return the secret that owns the flows of a session without a subject, if it owns some."""
    secret = session.get(OWNER_KEY + name)
    return secret if isinstance(secret, str) else None


class SessionFlow:
    """One flow of a session: which it is, and what the session carries of it.

    Args:
        session: Flask's session.
        name: Name of the machine.
        locator: Which flow.
        slot: The key under which the session carries it.
        several: Whether the session may carry several flows of the machine.
    """

    __slots__ = ("_name", "_session", "_several", "_slot", "_text_key", "_was_key", "locator")

    def __init__(
        self,
        session: MutableMapping[str, Any],
        name: str,
        locator: FlowLocator,
        slot: str,
        several: bool,
    ) -> None:
        self.locator = locator
        self._session = session
        self._name = name
        self._slot = slot
        self._several = several
        self._text_key = SESSION_KEY + name
        self._was_key = WAS_KEY + name

    @property
    def text(self) -> str | None:
        """What the session carries of the flow, by which a store finds it."""
        if self._several:
            return read_pairs(self._session, self._text_key).get(self._slot)
        return self._session.get(self._text_key)

    def keep(self, text: str | None, *, committed: bool = False) -> None:
        """Carry `text`, or nothing if it is None.

        After a commit, one that its owner finds is the first of several to be dropped.
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
        text = read_pairs(self._session, self._was_key).get(self._slot)
        if text is None:
            return None
        id, _, root = text.partition(" ")
        return PreviousId(id, root)

    def set_previous(self, previous: PreviousId | None) -> None:
        """Carry the id that the flow had before a login, or none."""
        if previous is not None or self._was_key in self._session:
            text = None if previous is None else " ".join(previous)
            keep_pair(self._session, self._was_key, self._slot, text)
