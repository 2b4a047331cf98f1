"""Send again: a form that submits again what was typed, on the page of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flask import current_app, request
from itsdangerous import BadData, URLSafeTimedSerializer

from ..config import Config
from ..responses import Obstacle, ResubmitForm, preferred_format
from ..security.origin import is_cross_site
from .redaction import SubmittedFields
from .submission import FORM_TYPES, csrf_field, is_csrf_field, sent_tokens
from .urls import encoded_path

__all__ = ["identical_form", "renewed_form"]

FLASK_WTF_SALT: Final = "wtf-csrf-token"
"""The salt with which Flask-WTF signs its tokens."""


def identical_form(config: Config, typed: SubmittedFields) -> ResubmitForm | Obstacle:
    """Return a form identical to this request's, which is recognised as the same submission."""
    fields = list(request.form.items(multi=True))
    if config.token_field not in request.form:  # the token came in the header
        fields += [(config.token_field, text) for text in sent_tokens(config, request)]
    return _obstacle(typed) or _form(fields)


def renewed_form(
    config: Config, typed: SubmittedFields, token: Callable[[], str]
) -> ResubmitForm | Obstacle:
    """Return the form that sends what was typed again, with a new `token` of the page."""
    obstacle = _obstacle(typed)
    if obstacle is not None:
        return obstacle
    if len(set(sent_tokens(config, request))) > 1:
        return "other_machine"
    csrf = _renewed_csrf_fields()
    if csrf is None:
        return "csrf"
    fields = [
        (name, value)
        for name, value in request.form.items(multi=True)
        if name != config.token_field and not is_csrf_field(name)
    ]
    return _form([*fields, (config.token_field, token()), *csrf])


def _obstacle(typed: SubmittedFields) -> Obstacle | None:
    """Return why no form can send again what this request has sent; None if one can."""
    # Another site must not get this visitor to submit what it has filled in.
    if is_cross_site(request):
        return "cross_site"
    if request.method != "POST" or (request.mimetype not in FORM_TYPES and request.content_length):
        return "not_a_form"
    if typed.too_large:
        return "too_large"
    if typed.omitted:
        return "omitted"
    # A browser sends no field without a name, and alters the character NUL.
    if any(not name or "\0" in name + value for name, value in request.form.items(multi=True)):
        return "not_a_form"
    return None


def _form(fields: list[tuple[str, str]]) -> ResubmitForm:
    # A browser shows the page under the URL of the request, but htmx shows it in another one.
    action = encoded_path(request) if preferred_format(request) == "htmx" else ""
    return ResubmitForm(fields, [name or "" for name in request.files], action=action)


def _renewed_csrf_fields() -> list[tuple[str, str]] | None:
    """Return the CSRF fields of this request's form with new tokens, or None if that is impossible.

    Those of Flask-WTF can be renewed.
    """
    sent = [pair for pair in request.form.items(multi=True) if is_csrf_field(pair[0])]
    if not sent and "csrf" not in current_app.extensions:
        return []
    try:
        from flask_wtf.csrf import generate_csrf
    except ImportError:
        return None
    if not all(_is_of_flask_wtf(text) for _, text in sent):
        return None
    text: str = generate_csrf()
    return [(name, text) for name in dict(sent) or (csrf_field(),)]


def _is_of_flask_wtf(text: str) -> bool:
    key = current_app.config.get("WTF_CSRF_SECRET_KEY") or current_app.secret_key or ""
    try:
        URLSafeTimedSerializer(key, salt=FLASK_WTF_SALT).loads(text)
    except BadData:
        return False
    return True
