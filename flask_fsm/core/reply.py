"""Replies: values as JSON for clients."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ..texts import is_text
from .answers import encodable

__all__ = ["dump_reply"]


def _plain(value: Any) -> Any:
    """Return a date, Decimal, UUID or lazy translation as a string."""
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)) or is_text(value):
        return str(value)
    raise TypeError(f"{value!r} has no representation in JSON")


# Not escaped: a letter that takes two bytes in UTF-8 would take six.
_encoder: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain
)


def dump_reply(value: Any) -> str:
    """Return a value as JSON, or raise TypeError.

    Dates, Decimals, UUIDs and lazy translations become strings.
    """
    try:
        text = _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{value!r:.80} can't be sent to clients: {error}.") from error
    return text if text.isascii() else encodable(text)
