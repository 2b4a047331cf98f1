"""What Flask's session carries for one machine: the text of a store, or one for each flow."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

__all__ = ["MAX_FLOWS", "SESSION_KEY", "SessionData", "has_session_data"]

SESSION_KEY: Final = "_fsm_"
OWNER_KEY: Final = "_fsmowner_"
WAS_KEY: Final = "_fsmwas_"
# Of several flows the session remembers the newest; their owner finds the others.
MAX_FLOWS: Final = 8


def has_session_data(session: Mapping[str, Any], name: str) -> bool:
    """Tell whether a session has a flow of the machine `name`, or owns some."""
    return SESSION_KEY + name in session or OWNER_KEY + name in session


class SessionData:
    """Reads and writes the session for the machine `name`.

    `many` says that the session may have several flows of it, which are told apart by a key.
    """

    __slots__ = ("_many", "_name", "_secret", "_session")

    def __init__(self, session: MutableMapping[str, Any], name: str, many: bool) -> None:
        self._session = session
        self._name = name
        self._many = many
        self._secret: str | None = None

    # Pairs in a list, as Flask sorts the keys of a dict.

    def _pairs(self, name: str) -> dict[str, str]:
        carried = self._session.get(name + self._name)
        pairs = {}
        for pair in carried if isinstance(carried, list) else ():
            match pair:
                case [str(key), str(text)]:
                    pairs[key] = text
        return pairs

    def _keep_pair(self, name: str, key: str, text: str | None, first: bool = False) -> None:
        pairs = self._pairs(name)
        if pairs.get(key) == text:
            return
        pairs.pop(key, None)
        if text is not None:
            pairs = {key: text, **pairs} if first else {**pairs, key: text}
        newest = [[key, text] for key, text in pairs.items()][-MAX_FLOWS:]
        if newest:
            self._session[name + self._name] = newest
        else:
            self._session.pop(name + self._name, None)

    # -- flows --------------------------------------------------------------------------

    @property
    def texts(self) -> dict[str, str]:
        """What the session carries of several flows, by key."""
        return self._pairs(SESSION_KEY)

    def text(self, key: str) -> str | None:
        """Return what the session carries of the flow with this key."""
        if self._many:
            return self.texts.get(key)
        return self._session.get(SESSION_KEY + self._name)

    def set_text(self, key: str, text: str | None, *, first: bool = False) -> None:
        """Let the session carry `text`, or nothing, of the flow with this key.

        `first` says that its owner finds it without, so that it may be the first to go.
        """
        if self._secret is not None and text is not None:
            self._session[OWNER_KEY + self._name] = self._secret
        name = SESSION_KEY + self._name
        if self._many:
            self._keep_pair(SESSION_KEY, key, text, first)
        elif text is None:
            self._session.pop(name, None)
        elif self._session.get(name) != text:
            # Only a change is written: a session that was written to is signed and sent again.
            self._session[name] = text

    def previous_id(self, key: str) -> str | None:
        """Return what was kept of the id that the flow had before the session logged in."""
        return self._pairs(WAS_KEY).get(key)

    def set_previous_id(self, key: str, was: str | None) -> None:
        """Let the session carry what the flow was, or nothing."""
        self._keep_pair(WAS_KEY, key, was)

    # -- the owner of several flows -----------------------------------------------------

    @property
    def has_secret(self) -> bool:
        """Whether the session owns flows, without a subject."""
        return isinstance(self._session.get(OWNER_KEY + self._name), str)

    @property
    def secret(self) -> str:
        """What owns the flows of a session; a new one is kept with the first flow."""
        kept = self._session.get(OWNER_KEY + self._name)
        if isinstance(kept, str):
            return kept
        if self._secret is None:
            self._secret = secrets.token_urlsafe(16)
        return self._secret

    def forget_secret(self) -> None:
        """Let the session own no flows any more."""
        self._session.pop(OWNER_KEY + self._name, None)
        self._secret = None
