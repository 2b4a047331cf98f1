"""Answers: the data of a page as JSON text, and back.

Besides JSON values, date, datetime, Decimal and UUID are supported. A value that would be read
back differently is refused, and the error names its field. Snapshots hold the text, since no view
can change it by accident.
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

__all__ = ["as_dict", "dump_answers", "load_answers"]

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
# In JSON, `|` occurs only inside strings, where it can be escaped: so it can separate fields.
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def _plain(value: Any, field: str, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or kind is int or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise _refused(field, f"{value!r} is not a valid JSON number")
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
        return {TAG + key: item for key, item in plain.items()} if _is_tagged(plain) else plain
    if kind in _WRITE:
        name, write = _WRITE[kind]
        return {TAG: [name, write(value)]}
    raise _refused(field, f"a {kind.__module__}.{kind.__qualname__} can't be stored")


def _is_tagged(data: dict[str, Any]) -> bool:
    return len(data) == 1 and next(iter(data)).startswith(TAG)


def _refused(field: str, why: str) -> InvalidData:
    text = (
        f"The answer {field!r} can't be stored: {why}. Use JSON values, date, datetime, Decimal or "
        f"UUID; convert other values to one of these (for a file, store it and keep its name)."
    )
    return InvalidData(text, field=field.partition(".")[0].partition("[")[0])


def as_dict(data: object) -> dict[str, Any]:
    """Return a copy of `data` as a dict, or raise InvalidData if it is not a mapping."""
    if not isinstance(data, Mapping):
        raise InvalidData(
            f"Answers must be a mapping of fields to values, not a {type(data).__name__}."
        )
    return dict(data)


def dump_answers(data: Mapping[str, Any]) -> str:
    """Return `data` as JSON text without `|`, or raise InvalidData, which names the field."""
    plain = as_dict(data)
    if not plain:
        return "{}"
    try:
        text = _encode(_plain(plain, "", 0))
    except ValueError as error:
        raise InvalidData(f"The answers can't be stored: {error}.") from error
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate: stores refuse it
            text = json.dumps(json.loads(text), separators=(",", ":"))
    return text.replace("|", "\\u007c") if "|" in text else text


def _revive(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and pairs[0][0].startswith(TAG):
        key, value = pairs[0]
        if key != TAG:
            return {key[len(TAG) :]: value}
        name, text = value
        if type(text) is not str:
            raise ValueError(f"a {name} is not a string")
        return _READ[name](text)
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a valid JSON number")


# `dump_answers` writes no space around a value, so the value must be the whole text.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_revive, parse_constant=_refuse_constant
).raw_decode
_decode_plain: Final = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


def load_answers(text: str) -> dict[str, Any]:
    """Return the data that `dump_answers` wrote, or raise SnapshotError."""
    try:
        data, end = _decode(text) if TAG in text else _decode_plain(text)
        if end != len(text):
            raise ValueError("there is extra data after their end")
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise SnapshotError(f"Stored answers can't be read: {error}.") from error
    if type(data) is not dict:
        raise SnapshotError(f"Stored answers are a {type(data).__name__}, not an object.")
    return data
