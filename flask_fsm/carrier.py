"""What Flask's session carries for one machine: the text of a store, or one for each key."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from typing import Any, Final

__all__ = ["MAX_KEYS", "SESSION_KEY", "Carrier"]

SESSION_KEY: Final = "_fsm_"
OWNER_KEY: Final = "_fsmowner_"
WAS_KEY: Final = "_fsmwas_"
# Of a machine with many flows the session remembers the newest; their owner finds the others.
MAX_KEYS: Final = 8


class Carrier:
    """Reads and writes the session for the machine `name`."""

    __slots__ = ("_many", "_name", "_secret", "_session")

    def __init__(self, session: MutableMapping[str, Any], name: str, many: bool) -> None:
        self._session = session
        self._name = name
        self._many = many
        self._secret: str | None = None

    def text(self, key: str) -> str | None:
        """Return what the session carries of the flow with this key."""
        carried = self._session.get(SESSION_KEY + self._name)
        if not self._many:
            return carried
        text = carried.get(key) if isinstance(carried, dict) else None
        return text if isinstance(text, str) else None

    def keep(self, key: str, text: str | None) -> None:
        """Let the session carry `text`, or nothing, of the flow with this key."""
        name = SESSION_KEY + self._name
        if not self._many:
            if text is None:
                self._session.pop(name, None)
            else:
                self._session[name] = text
            return
        carried = self._session.get(name)
        kept = dict(carried) if isinstance(carried, dict) else {}
        kept.pop(key, None)
        if text is not None:
            kept[key] = text
            while len(kept) > MAX_KEYS:
                del kept[next(iter(kept))]
        self._session[name] = kept
        if self._secret is not None:
            self._session[OWNER_KEY + self._name] = self._secret

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

    @property
    def was(self) -> str | None:
        """The id that the flow had before the session logged in."""
        was = self._session.get(WAS_KEY + self._name)
        return was if isinstance(was, str) else None

    @was.setter
    def was(self, id: str | None) -> None:
        if id is not None:
            self._session[WAS_KEY + self._name] = id
        elif WAS_KEY + self._name in self._session:
            del self._session[WAS_KEY + self._name]
