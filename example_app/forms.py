"""The one base of this app's forms."""

from __future__ import annotations

from flask_wtf import FlaskForm


class Form(FlaskForm):  # type: ignore[misc]  # Flask-WTF has no types
    """A form with a CSRF token. Its messages stand beside their fields: see `_form.html`."""
