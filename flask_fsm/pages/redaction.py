"""Redaction: which fields a conflict page may show and send again. Passwords are left out."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from flask import current_app, request

from ..config import Config
from ..responses import ResubmitForm
from ..security.origin import is_cross_site
from .secrets import SecretValues, is_secret_name, password_names
from .submission import csrf_field, json_object

__all__ = ["SubmittedFields", "identical_form", "renewed_form", "shown_fields"]

MAX_SHOWN: Final = 100
_DIGITS: Final = re.compile(r"\d(?:[ ._/-]?\d){12,22}", re.ASCII)
# A checksum is one tenth of all numbers, so only what is as long as a card's number counts.
CARD_LENGTHS: Final = range(13, 20)


class SubmittedFields(NamedTuple):
    """The fields that may be shown and sent again, and the names of those that may not."""

    fields: list[tuple[str, str]]
    omitted: list[str]


def shown_fields(config: Config) -> SubmittedFields:
    """Sort the fields of this request's form; secrets, card numbers and files are left out."""
    own = {config.token_field, csrf_field()}
    body = request.form.items(multi=True) if request.form else json_object(request).items()
    sent = [(_text(name), value) for name, value in body if name not in own]
    passwords = password_names()
    secret = {name for name in dict(sent) if _is_secret(config, passwords, name)}
    secret_values = SecretValues(_text(value) for name, value in sent if name in secret)
    typed = SubmittedFields(
        [], [name or "" for name, file in request.files.items() if file.filename]
    )
    for name, value in sent:
        text = _text(value)
        if (
            isinstance(value, (dict, list))  # its contents are unknown
            or name in secret
            or text in secret_values  # a password typed again, under whatever name
            or _holds_card_number(text)
            or len(typed.fields) == MAX_SHOWN
        ):
            typed.omitted.append(name)
        else:
            typed.fields.append((name, text))
    return SubmittedFields(typed.fields, list(dict.fromkeys(typed.omitted))[:MAX_SHOWN])


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


def identical_form(typed: SubmittedFields) -> ResubmitForm | None:
    """Return a form identical to this request's, which is recognised as the same submission.

    None if it holds what a page may not show, or if another site sent it.
    """
    if typed.omitted or not request.form or is_cross_site(request):
        return None
    query = request.query_string.decode("ascii", "replace")
    action = f"{request.path}?{query}" if query else request.path
    return ResubmitForm(
        action, [(name or "", value) for name, value in request.form.items(multi=True)]
    )


def renewed_form(
    config: Config, action: str, typed: Iterable[tuple[str, str]], token: str
) -> ResubmitForm | None:
    """Return the form that sends `typed` to `action` again, or None if another site sent it."""
    # Another site must not get this visitor to submit what it has filled in.
    if is_cross_site(request) or request.is_json:
        return None
    fields = [*typed, (config.token_field, token)]
    if csrf_field() in request.form or "csrf" in current_app.extensions:
        from flask_wtf.csrf import generate_csrf

        fields.append((csrf_field(), generate_csrf()))
    query = request.query_string.decode("ascii", "replace")
    return ResubmitForm(f"{action}?{query}" if query else action, fields)
