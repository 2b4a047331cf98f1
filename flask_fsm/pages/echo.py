"""What was typed, as a conflict page may show it and send it again."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Any, Final

from flask import current_app, request

from ..config import Config
from ..problem import Resend

__all__ = ["resend_form", "typed_fields"]

MAX_SHOWN: Final = 100
SECRETS: Final = (
    "*password*",
    "*passwd*",
    "*pwd*",
    "*secret*",
    "*token*",
    "*card*",
    "*cvc*",
    "*cvv*",
    "*iban*",
    "*ssn*",
    "pin",
    "*_pin",
    "*otp*",
)
_DIGITS: Final = re.compile(r"[\d -]{13,23}", re.ASCII)
# A checksum is one tenth of all numbers, so only what is as long as a card's number counts.
CARD_LENGTHS: Final = range(13, 20)


def csrf_field() -> str:
    """Return the name of Flask-WTF's hidden field."""
    name: str = current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")
    return name


def typed_fields(config: Config) -> list[tuple[str, str]]:
    """List the fields of this request's form, without secrets, tokens and card numbers."""
    own = {config.token_field, csrf_field()}
    pairs: Iterable[tuple[str, Any]] = request.form.items(multi=True)
    if not request.form and request.is_json:
        body = request.get_json(silent=True)
        pairs = body.items() if isinstance(body, dict) else ()
    return [
        (name, value if isinstance(value, str) else str(value))
        for name, value in pairs
        if name not in own
        and not any(
            fnmatch.fnmatch(name.lower(), p.lower()) for p in (*SECRETS, *config.echo_exclude)
        )
        and not _is_card_number(value)
    ][:MAX_SHOWN]


def _is_card_number(value: Any) -> bool:
    """Tell whether a text could be the number of a payment card (ISO/IEC 7812, Luhn)."""
    text = str(value).strip()
    if not _DIGITS.fullmatch(text):
        return False
    digits = [int(character) for character in text if character.isdigit()]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return len(digits) in CARD_LENGTHS and (sum(digits[-1::-2]) + doubled) % 10 == 0


def resend_form(config: Config, typed: Iterable[tuple[str, str]], token: str) -> Resend | None:
    """Return the form that sends `typed` again, or None if it came from another site."""
    # A button under what another site typed would lend it this visitor's hand.
    if request.headers.get("Sec-Fetch-Site") == "cross-site" or request.is_json:
        return None
    fields = [*typed, (config.token_field, token)]
    if csrf_field() in request.form or "csrf" in current_app.extensions:
        from flask_wtf.csrf import generate_csrf

        fields.append((csrf_field(), generate_csrf()))
    return Resend(request.script_root + request.full_path.rstrip("?"), fields)
