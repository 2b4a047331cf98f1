"""Answers: the data of a page as JSON text, and back.

Besides JSON values, date, datetime, time, timedelta, Decimal and UUID are supported. A value that
would be read back differently is refused, and the error names its field: as a mistake in the app's
code (500) if no client can send such a value, and as a refusal (422) if one can. Snapshots hold the
text, since no view can change it by accident.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from ..errors import InvalidData, SnapshotError
from ..texts import _

__all__ = ["PageData", "as_dict", "copy_answers", "dump_answers", "encodable", "load_answers"]

MAX_DEPTH: Final = 32
_NESTED: Final = frozenset((dict, list))
TAG: Final = "$"
MICROSECOND: Final = timedelta(microseconds=1)

FOLD: Final = "~1"
T = TypeVar("T", datetime, time)


def _write_time(value: datetime | time) -> str:
    """Write a datetime or a time: as ISO, with the name of its zone, and `~1` for its fold.

    Raises TypeError if its zone would be read back differently.
    """
    zone, fold = value.tzinfo, FOLD if value.fold else ""
    if zone is None:
        return value.isoformat() + fold
    # A zone of the standard library can have a name of its own, which ISO has no place for.
    if type(zone) is timezone and repr(zone) == repr(timezone(zone.utcoffset(None))):
        return value.isoformat() + fold
    if type(zone) is ZoneInfo and zone is _zone(zone.key):
        return f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]{fold}"
    raise TypeError(f"its time zone {zone!r} would be read back differently")


def _read_time(kind: type[T], text: str) -> T:
    """Read what `_write_time` has written of a `kind`."""
    plain, fold, rest = text.partition(FOLD)
    iso, bracket, key = plain.partition("[")
    value = kind.fromisoformat(iso)
    if bracket:
        zone = _zone(key[:-1])
        if value.tzinfo is not None or not key.endswith("]") or zone is None:
            raise ValueError(f"there is no time zone {key[:-1]!r}")
        value = value.replace(tzinfo=zone)
    if rest:
        raise ValueError("there is extra data after its end")
    return value.replace(fold=1) if fold else value


def _zone(key: str | None) -> ZoneInfo | None:
    """Return the time zone with this key, or None if there is none."""
    try:
        return None if key is None else ZoneInfo(key)
    except (OSError, ValueError, KeyError):
        return None


_WRITE: Final[dict[type, tuple[str, Callable[[Any], str]]]] = {
    datetime: ("datetime", _write_time),
    date: ("date", date.isoformat),
    time: ("time", _write_time),
    timedelta: ("timedelta", lambda value: str(value // MICROSECOND)),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
}
_READ: Final[dict[str, Callable[[str], Any]]] = {
    "datetime": lambda text: _read_time(datetime, text),
    "date": date.fromisoformat,
    "time": lambda text: _read_time(time, text),
    "timedelta": lambda text: timedelta(microseconds=int(text)),
    "decimal": Decimal,
    "uuid": UUID,
}
# In JSON, `|` occurs only inside strings, where it can be escaped: so it can separate fields.
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


class PageData(dict[str, Any]):
    """Data by page, in which a page of one of the `blueprints` is also found by its short name.

    The dict itself contains full names only.
    """

    __slots__ = ("_blueprints",)

    def __init__(self, data: Mapping[str, Any], blueprints: Sequence[str]) -> None:
        super().__init__(data)
        self._blueprints = blueprints

    def _full_name(self, page: Any) -> Any:
        if not super().__contains__(page) and isinstance(page, str) and "." not in page:
            for blueprint in self._blueprints:
                full = f"{blueprint}.{page}"
                if super().__contains__(full):
                    return full
        return page

    def __missing__(self, page: str) -> Any:
        full = self._full_name(page)
        if full == page:
            raise KeyError(page)
        return self[full]

    def __contains__(self, page: object) -> bool:
        return super().__contains__(self._full_name(page))

    def get(self, page: str, default: Any = None) -> Any:
        """Return the data of a page, or `default`."""
        return super().get(self._full_name(page), default)


def _plain(value: Any, field: str, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or kind is int or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise _not_finite(field)
        return value
    if depth > MAX_DEPTH:
        raise InvalidData(
            f"This is nested more than {MAX_DEPTH} levels deep.", field=_top_field(field)
        )
    if kind is list:
        return [_plain(item, f"{field}[{i}]", depth + 1) for i, item in enumerate(value)]
    if kind is dict or kind is PageData:
        for key in value:
            if type(key) is not str:
                raise _refused(field, f"its key {key!r} is a {type(key).__name__}, not a str")
        plain = {
            key: _plain(item, f"{field}.{key}" if field else key, depth + 1)
            for key, item in value.items()
        }
        return {TAG + key: item for key, item in plain.items()} if _is_tagged(plain) else plain
    if kind in _WRITE:
        if kind is Decimal and not value.is_finite():
            raise _not_finite(field)
        name, write = _WRITE[kind]
        try:
            return {TAG: [name, write(value)]}
        except TypeError as error:
            raise _refused(field, str(error)) from error
    raise _refused(field, f"a {kind.__module__}.{kind.__qualname__} can't be stored")


def _is_tagged(data: dict[str, Any]) -> bool:
    return len(data) == 1 and next(iter(data)).startswith(TAG)


def _refused(field: str, why: str) -> InvalidData:
    """Return the error of a value that the app's code gives, since no client can."""
    text = (
        f"The answer {field!r} can't be stored: {why}. Use JSON values, date, datetime, time, "
        f"timedelta, Decimal or UUID; convert other values to one of these (for a file, store it "
        f"and keep its name)."
    )
    return InvalidData(text, field=_top_field(field), status=500)


def _not_finite(field: str) -> InvalidData:
    """Return the error of NaN or infinity, which a visitor can type where a number is asked."""
    return InvalidData(_("Enter a finite number."), field=_top_field(field))


def _top_field(field: str) -> str:
    return field.partition(".")[0].partition("[")[0]


def as_dict(data: object) -> dict[str, Any]:
    """Return a copy of `data` as a dict, or raise InvalidData (500) if it is not a mapping."""
    if not isinstance(data, Mapping):
        raise InvalidData(
            f"Answers must be a mapping of fields to values, not a {type(data).__name__}.",
            status=500,
        )
    return dict(data)


def copy_answers(value: Any, depth: int = 0) -> Any:
    """Return a copy of `value` that shares no list or dict with it; anything else is shared."""
    kind = type(value)
    if depth > MAX_DEPTH or kind not in _NESTED:
        return value
    # Most items are not nested, and need no call.
    if _NESTED.isdisjoint(map(type, value if kind is list else value.values())):
        return value.copy()
    if kind is list:
        return [copy_answers(i, depth + 1) if type(i) in _NESTED else i for i in value]
    return {
        key: copy_answers(item, depth + 1) if type(item) in _NESTED else item
        for key, item in value.items()
    }


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
        text = encodable(text)
    return text.replace("|", "\\u007c") if "|" in text else text


def encodable(text: str) -> str:
    """Return a JSON text that UTF-8 can encode: lone surrogates in it are escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(json.loads(text), separators=(",", ":"))
    return text


def _revive(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and pairs[0][0].startswith(TAG):
        key, value = pairs[0]
        if key != TAG:
            return {key[len(TAG) :]: value}
        try:
            name, text = value
            if type(text) is not str:
                raise TypeError
            return _READ[name](text)
        except (ValueError, TypeError, LookupError, ArithmeticError):
            # These errors quote the value, which would bring an answer into a log.
            raise ValueError("a value is not of the type that its tag names") from None
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
        raise SnapshotError(
            f"Stored answers can't be read: {error}. They are damaged, or were not written by "
            f"flask_fsm, and the visitor is told to start again."
        ) from error
    if type(data) is not dict:
        raise SnapshotError(f"Stored answers are a {type(data).__name__}, not an object.")
    return data
