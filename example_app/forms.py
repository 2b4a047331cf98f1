"""What the forms of this app have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_wtf import FlaskForm
from wtforms import SelectChoice


class Form(FlaskForm):  # type: ignore[misc]  # Flask-WTF has no types
    """A form with a CSRF token. Its messages stand beside their fields: see `_form.html`."""


def choices(labels: Mapping[str, str]) -> list[Any]:
    """Offer each value under its label."""
    return [SelectChoice(value, label) for value, label in labels.items()]
