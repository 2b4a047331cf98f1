"""Helpers shared by the forms of this app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_wtf import FlaskForm
from wtforms import SelectChoice


class Form(FlaskForm):  # type: ignore[misc]  # Flask-WTF has no types
    """A form with a CSRF token. `_form.html` shows its messages beside the fields."""


def choices(labels: Mapping[str, str]) -> list[Any]:
    """Build the choices of a select field from a mapping of values to labels."""
    return [SelectChoice(value, label) for value, label in labels.items()]
