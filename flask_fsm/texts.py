"""Texts for people, as rules and apps give them: `str`, Markup, or a lazy translation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from markupsafe import Markup, escape

__all__ = [
    "NOT_ACCEPTED",
    "LazyText",
    "Text",
    "as_text",
    "as_texts",
    "is_text",
    "join_texts",
    "without_empty",
]

NOT_ACCEPTED: Final = "These answers were not accepted."
"""The message of a rule that refuses answers without saying why."""


class LazyText(Protocol):
    """A text that becomes a `str` when it is shown, such as Flask-Babel's `lazy_gettext` makes."""

    def __len__(self) -> int: ...
    def __mod__(self, other: Any, /) -> Any: ...


Text = str | LazyText


def is_text(value: object) -> bool:
    """Return whether `value` is one text: a `str`, or lazy, which has the methods of one."""
    return isinstance(value, str) or (
        hasattr(value, "splitlines") and not isinstance(value, (bytes, bytearray))
    )


def as_text(text: object) -> str:
    """Return a text as a `str`: Markup as it is, a lazy one in the language of the request."""
    # What a lazy text says of itself as HTML is not used: Flask-Babel's would not be escaped.
    return text if isinstance(text, str) else str(text)


def as_texts(given: Text | Iterable[Text]) -> list[str]:
    """Return one text, or several, as a list."""
    # A lazy text can be iterated too, letter by letter.
    if isinstance(given, Iterable) and not is_text(given):
        return [as_text(text) for text in given]
    return [as_text(given)]


def without_empty(given: Text | Iterable[Text]) -> list[str]:
    """Return one text, or several, as a list without empty ones."""
    return [text for text in as_texts(given) if text]


def join_texts(separator: str, texts: Iterable[str]) -> str:
    """Join texts; if one of them is Markup, escape the others, so that the result is Markup."""
    parts = list(texts)
    if any(isinstance(part, Markup) for part in parts):
        return escape(separator).join(parts)
    return separator.join(parts)
