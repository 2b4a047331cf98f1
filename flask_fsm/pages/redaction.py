"""Redaction: which fields the page of a refusal may show. Passwords are left out."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

from flask import request

from ..config import Config
from .secrets import SecretValues, is_secret_name, password_names
from .submission import is_csrf_field, json_object

__all__ = ["SubmittedFields", "shown_fields"]

MAX_SHOWN: Final = 100
# What is more than that was not typed by hand, and would take too long to look at.
MAX_FIELDS: Final = 1000
MAX_LENGTH: Final = 1 << 18
_DIGITS: Final = re.compile(r"\d(?:[ ._/-]?\d){12,22}", re.ASCII)
# A checksum is one tenth of all numbers, so only what is as long as a card's number counts.
CARD_LENGTHS: Final = range(13, 20)


class SubmittedFields(NamedTuple):
    """The fields that may be shown, and the names of those that may not."""

    fields: list[tuple[str, str]]
    omitted: list[str]
    unshown: int = 0
    """How many fields are not shown since there are too many."""
    too_large: bool = False
    """Whether they are too many or too long to be looked at."""


def shown_fields(config: Config) -> SubmittedFields:
    """Sort the fields of this request's form; secrets, card numbers and files are left out."""
    body = request.form.items(multi=True) if request.form else json_object(request).items()
    answers = (
        (_text(name), value)
        for name, value in body
        if name != config.token_field and not is_csrf_field(name)
    )
    sent = list(islice(answers, MAX_FIELDS + 1))
    if len(sent) > MAX_FIELDS or _length(sent) > MAX_LENGTH:
        return SubmittedFields([], [], too_large=True)
    # The contents of nested values are unknown.
    nested = {name for name, value in sent if isinstance(value, (dict, list))}
    sent = [(name, "" if name in nested else value) for name, value in sent]
    passwords = password_names()
    secret = {name for name in dict(sent) if _is_secret(config, passwords, name)}
    secret_values = SecretValues(_text(value) for name, value in sent if name in secret)
    fields: list[tuple[str, str]] = []
    omitted = [name or "" for name, file in request.files.items(multi=True) if file.filename]
    for name, value in sent:
        text = _text(value)
        if name in nested or (
            text
            and (
                name in secret
                or text in secret_values  # a password typed again, under whatever name
                or _holds_card_number(text)
            )
        ):
            omitted.append(name)
        else:
            fields.append((name, text))
    unshown = max(0, len(fields) - MAX_SHOWN)
    return SubmittedFields(fields[:MAX_SHOWN], list(dict.fromkeys(omitted)), unshown)


def _length(sent: Iterable[tuple[str, Any]]) -> int:
    """Return the number of characters of names and values; what JSON nests is not shown."""
    return sum(len(name) + len(value) for name, value in sent if isinstance(value, str))


def _is_secret(config: Config, passwords: re.Pattern[str], name: str) -> bool:
    return (
        is_secret_name(name)
        or passwords.fullmatch(name) is not None
        or any(
            fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in config.redact_fields
        )
    )


def _text(value: Any) -> str:
    """Return what a page can show: text without half surrogate pairs."""
    return ("" if value is None else str(value)).encode("utf-8", "replace").decode()


def _holds_card_number(value: str) -> bool:
    """Return whether a text contains what could be a payment card's number (ISO/IEC 7812, Luhn)."""
    return any(_is_card_number(found[0]) for found in _DIGITS.finditer(value))


def _is_card_number(text: str) -> bool:
    digits = [int(character) for character in text if character.isdigit()]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return len(digits) in CARD_LENGTHS and (sum(digits[-1::-2]) + doubled) % 10 == 0
