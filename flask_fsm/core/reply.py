"""JSON as clients are sent it."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

__all__ = ["dump_reply"]


def _plain(value: Any) -> Any:
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    raise TypeError(f"{value!r} has no form in JSON")


_encoder: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)


def dump_reply(value: Any) -> str:
    """Return what clients are told, as JSON: dates, numbers and ids of Python as texts.

    Raises TypeError where there is no such form.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"Clients can't be told {value!r:.80}: {error}.") from error
