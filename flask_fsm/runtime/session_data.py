"""The format of a machine's values in Flask's session: one text, or several by their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from ..stores.base import SESSION_KEY

__all__ = [
    "GONE_KEY",
    "MAX_FLOWS",
    "OWNER_KEY",
    "SESSION_KEY",
    "WAS_KEY",
    "find_machine",
    "has_session_data",
    "keep_pair",
    "owner_secret",
    "read_pairs",
]

OWNER_KEY: Final = "_fsmowner_"
WAS_KEY: Final = "_fsmwas_"
GONE_KEY: Final = "_fsmgone_"
MAX_FLOWS: Final = 8
"""For how many flows, the newest, the session carries a text. Others are found by their owner."""


def has_session_data(session: Mapping[str, Any], name: str) -> bool:
    """Return whether a session carries a flow of the machine `name`, or owns some."""
    return SESSION_KEY + name in session or OWNER_KEY + name in session


def read_pairs(session: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return the texts under a name in the session, by the keys of flows."""
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
    """Store a flow's `text` under a name in the session, by its key, or remove it if None.

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


def find_machine(session: Mapping[str, Any], names: Iterable[str], root: str) -> str | None:
    """Return which of the machines `names` has a flow in the session whose id begins with `root`.

    Ids are random, so only a text of that flow contains one.
    """
    for name in names:
        key = SESSION_KEY + name
        if any(
            root in str(text) for text in (*read_pairs(session, key).values(), session.get(key))
        ):
            return name
    return None


def owner_secret(session: Mapping[str, Any], name: str) -> str | None:
    """Return the secret that owns the flows of a session without a subject, if it owns some."""
    secret = session.get(OWNER_KEY + name)
    return secret if isinstance(secret, str) else None
