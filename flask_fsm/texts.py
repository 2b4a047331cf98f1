"""Texts for people: `str`, Markup, or lazy translations; and the translation of our own texts.

Every text of this package that visitors read is marked, as `_("...")` here and in Python and as
`fsm_gettext("...")` in templates, so that `make translations` finds it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

from markupsafe import Markup, escape

__all__ = [
    "NOT_ACCEPTED",
    "LazyText",
    "OwnText",
    "Text",
    "_",
    "as_text",
    "as_texts",
    "is_text",
    "join_texts",
    "one_text",
    "show_time",
    "translate",
    "without_empty",
]

DOMAIN: Final = "flask_fsm"
"""The name of the catalogues: `<language>/LC_MESSAGES/flask_fsm.mo`."""
OWN_CATALOGUES: Final = str(Path(__file__).parent / "translations")


class LazyText(Protocol):
    """A text that becomes a `str` when it is shown, such as Flask-Babel's `lazy_gettext` makes."""

    def __len__(self) -> int: ...
    def __mod__(self, other: Any, /) -> Any: ...


class OwnText:
    """A text of this package: `str(text)` translates it into the language of the request.

    Args:
        english: The text, in the format of `%` if there are values.
        values: What is put in for `%(name)s`.
    """

    __slots__ = ("english", "values")

    def __init__(self, english: str, /, **values: object) -> None:
        self.english: str = english
        self.values: dict[str, object] = values

    def __str__(self) -> str:
        return translate(self.english, **self.values)

    def in_english(self) -> str:
        """Return the text for logs."""
        return _fill(self.english, self.values)


_ = OwnText
Text = str | LazyText | OwnText

NOT_ACCEPTED: Final = _("These answers were not accepted.")
"""The message of a rule that refuses answers without saying why."""


def translate(english: str, /, **values: object) -> str:
    """Return a text of this package in the language of the request, if the app uses Flask-Babel.

    It is `fsm_gettext` in templates.
    """
    babel = _flask_babel()
    if babel is None:
        return _fill(english, values)
    directories = babel.current_app.extensions["babel"].translation_directories
    try:
        text = _domain((OWN_CATALOGUES, *directories)).gettext(english)
    except RuntimeError:  # outside of a request, the app can't select a language
        text = english
    return _fill(text, values)


def show_time(moment: datetime) -> str:
    """Return a time as visitors read it: in their language and time zone, by Flask-Babel."""
    babel = _flask_babel()
    if babel is None:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    shown: str = babel.format_datetime(moment, "long")
    return shown


def _flask_babel() -> Any:
    """Return the module of Flask-Babel if the current app uses it, else None."""
    # An app that uses it has imported it; and by it this finds Flask, which the core works without.
    babel = sys.modules.get("flask_babel")
    if babel is None or not babel.current_app or "babel" not in babel.current_app.extensions:
        return None
    return babel


def _fill(text: str, values: Mapping[str, object]) -> str:
    if any(isinstance(value, Markup) for value in values.values()):
        return escape(text) % values
    return text % values if values else text


@lru_cache
def _domain(directories: tuple[str, ...]) -> Any:
    """Return the catalogues of this package, and those that an app has beside its own."""
    return sys.modules["flask_babel"].Domain(list(directories), DOMAIN)


def is_text(value: object) -> bool:
    """Return whether `value` is one text: a `str`, or lazy, which has the methods of one."""
    return isinstance(value, (str, OwnText)) or (
        hasattr(value, "splitlines") and not isinstance(value, (bytes, bytearray))
    )


def as_text(text: object) -> str:
    """Return a text as a `str`: Markup as it is, a lazy one in the language of the request."""
    # What a lazy text says of itself as HTML is not used: Flask-Babel's would not be escaped.
    return text if isinstance(text, str) else str(text)


def as_texts(given: object) -> list[str]:
    """Return one text, or several, as a list: those of a mapping or of lists within; of None, none.

    Rules may give anything, and visitors are never shown how Python writes it.
    """
    if given is None:
        return []
    if isinstance(given, Mapping):
        given = given.values()
    # A lazy text can be iterated too, letter by letter.
    if isinstance(given, (bytes, bytearray)):
        given = given.decode(errors="replace")
    if isinstance(given, Iterable) and not is_text(given):
        return [text for each in given for text in as_texts(each)]
    return [as_text(given)]


def without_empty(given: object) -> list[str]:
    """Return one text, or several, as a list without empty ones."""
    return [text for text in as_texts(given) if text]


def one_text(given: object) -> str:
    """Return one text, or several joined, as a `str`; of None, an empty one."""
    return given if isinstance(given, str) else join_texts(" ", without_empty(given))


def join_texts(separator: str, texts: Iterable[str]) -> str:
    """Join texts; if one of them is Markup, escape the others, so that the result is Markup."""
    parts = list(texts)
    if any(isinstance(part, Markup) for part in parts):
        return escape(separator).join(parts)
    return separator.join(parts)
