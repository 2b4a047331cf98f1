"""Answers as text: what a page's data becomes in a snapshot, and back.

JSON, plus a form for date, datetime, Decimal and UUID. Whatever would come back as something
else is refused, naming the field. A text is immutable, so that no view can change what is stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ..errors import InvalidData, SnapshotError

__all__ = ["dump_answers", "load_answers", "mapping"]

MAX_DEPTH: Final = 32
TAG: Final = "$"

_WRITE: Final[dict[type, tuple[str, Callable[[Any], str]]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
}
_READ: Final[dict[str, Callable[[str], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "decimal": Decimal,
    "uuid": UUID,
}
# JSON knows `|` only inside strings, where an escape means the same: so it can part the fields.
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def _plain(value: Any, field: str, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or kind is int or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise _refused(field, f"{value!r} is no number that JSON can hold")
        return value
    if depth > MAX_DEPTH:
        raise _refused(field, f"it is nested more than {MAX_DEPTH} levels deep")
    if kind is list:
        return [_plain(item, f"{field}[{i}]", depth + 1) for i, item in enumerate(value)]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise _refused(field, f"its key {key!r} is a {type(key).__name__}, not a str")
        plain = {
            key: _plain(item, f"{field}.{key}" if field else key, depth + 1)
            for key, item in value.items()
        }
        return {TAG + key: item for key, item in plain.items()} if _is_marked(plain) else plain
    if kind in _WRITE:
        name, write = _WRITE[kind]
        return {TAG: [name, write(value)]}
    raise _refused(field, f"a {kind.__module__}.{kind.__qualname__} can't be kept")


def _is_marked(data: dict[str, Any]) -> bool:
    return len(data) == 1 and next(iter(data)).startswith(TAG)


def _refused(field: str, why: str) -> InvalidData:
    text = (
        f"The answer {field!r} can't be kept: {why}. Keep JSON values, date, datetime, Decimal or "
        f"UUID; turn anything else into one of these (of a file: its name in a storage)."
    )
    return InvalidData(text, field=field.partition(".")[0].partition("[")[0])


def mapping(data: object) -> dict[str, Any]:
    """Return a copy of `data` as a dict, or raise InvalidData if it is no mapping."""
    if not isinstance(data, Mapping):
        raise InvalidData(f"Answers are a mapping of field to value, not a {type(data).__name__}.")
    return dict(data)


def dump_answers(data: Mapping[str, Any]) -> str:
    """Return `data` as JSON text without `|`, or raise InvalidData naming the field."""
    plain = mapping(data)
    if not plain:
        return "{}"
    try:
        text = _encode(_plain(plain, "", 0))
    except ValueError as error:
        raise InvalidData(f"The answers can't be kept: {error}.") from error
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair: no store could write it
            text = json.dumps(json.loads(text), separators=(",", ":"))
    return text.replace("|", "\\u007c") if "|" in text else text


def _revive(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and pairs[0][0].startswith(TAG):
        key, value = pairs[0]
        if key != TAG:
            return {key[len(TAG) :]: value}
        name, text = value
        if type(text) is not str:
            raise ValueError(f"a {name} is no text")
        return _READ[name](text)
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number that JSON can hold")


# What `dump_answers` writes has no space around it, so that the whole text is one value.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_revive, parse_constant=_refuse_constant
).raw_decode
_decode_plain: Final = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


def load_answers(text: str) -> dict[str, Any]:
    """Return the data that `dump_answers` wrote, or raise SnapshotError."""
    try:
        data, end = _decode(text) if TAG in text else _decode_plain(text)
        if end != len(text):
            raise ValueError("something follows their end")
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise SnapshotError(f"Stored answers can't be read: {error}.") from error
    if type(data) is not dict:
        raise SnapshotError(f"Stored answers are a {type(data).__name__}, not an object.")
    return data
