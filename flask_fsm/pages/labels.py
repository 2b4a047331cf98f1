"""Labels of the fields and choices of a WTForms form, for the page of a refusal.

A form that is refused as out of date never reaches its view, which alone knows its class. So this
uses the class that the page has rendered before, or has passed to `advance()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ..texts import _, as_text, is_text

__all__ = ["field_labels", "without_buttons"]

# What WTForms puts between the names of a form and its fields, and around the number of an entry.
_PARTS: Final = re.compile(r"[-_;:/.](?=\d)|(?<=\d)[-_;:/.]|[-;:/.]")


def field_labels(
    forms: Sequence[type], typed: Iterable[tuple[str, str]], omitted: Iterable[str]
) -> dict[str | tuple[str, str], str]:
    """Return the labels of fields by name, and those of their chosen values by name and value.

    Only the class of a form is used: a choice that is set on one form may be for its visitor alone.
    """
    labels: dict[str | tuple[str, str], str] = {}
    if not forms:
        return labels
    for name, value in (*typed, *((name, "") for name in omitted)):
        field, label = _field(forms, name)
        if label:
            labels[name] = label
        chosen = None if field is None else _choice(field, value)
        if chosen:
            labels[name, value] = chosen
    return labels


def without_buttons(
    forms: Sequence[type], typed: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the names and values of `typed` without the submit buttons of the forms."""
    if not forms:
        return list(typed)
    from wtforms import SubmitField

    return [(name, value) for name, value in typed if not _is(_field(forms, name)[0], SubmitField)]


def _field(forms: Iterable[type], name: str) -> tuple[Any, str | None]:
    """Find a field by its name in the HTML, and its label; None if no form has it."""
    found = (_field_of(form, name) for form in forms)
    return next((each for each in found if each[0] is not None), (None, None))


def _field_of(form: type, name: str) -> tuple[Any, str | None]:
    """Find a field of one form; its name has prefixes of forms and numbers of entries."""
    fields = _fields(form)
    if name in fields:
        return fields[name], _label(fields[name]) or _title(name)
    parts = _PARTS.split(name)
    for start, part in enumerate(parts):  # a form's prefix may come before it
        field, rest = fields.get(part), parts[start + 1 :]
        label = None if field is None else _label(field) or _title(part)
        while field is not None and rest:
            inner, part = _inner(field), rest.pop(0)
            if isinstance(inner, type):
                field = _fields(inner).get(part)
                label = None if field is None else _label(field) or _title(part)
            else:  # a list, whose entries have numbers
                field = inner if part.isdigit() else None
                label = None if field is None else _label(field) or label
        if field is not None:
            return field, label
    return None, None


def _title(name: str) -> str:
    """Return the label that WTForms makes of the name of a field without one."""
    return name.replace("_", " ").title()


def _is(field: Any, *kinds: type) -> bool:
    """Return whether a definition is of a field of one of these classes."""
    kind = getattr(field, "field_class", None)
    return isinstance(kind, type) and issubclass(kind, kinds)


def _fields(form: type) -> dict[str, Any]:
    from wtforms.fields.core import UnboundField

    found = ((name, getattr(form, name, None)) for name in dir(form) if not name.startswith("_"))
    return {field.name or name: field for name, field in found if isinstance(field, UnboundField)}


def _inner(field: Any) -> Any:
    """Return the form of a FormField, or the field of a FieldList; None of any other field."""
    from wtforms import FieldList, FormField

    for kind, option in ((FormField, "form_class"), (FieldList, "unbound_field")):
        if _is(field, kind):
            return field.kwargs.get(option, field.args[0] if field.args else None)
    return None


def _label(field: Any) -> str | None:
    """Return the label that a definition gives its field, or None."""
    position = 0 if _inner(field) is None else 1
    given = field.args[position] if len(field.args) > position else None
    label = field.kwargs.get("label", given)
    return as_text(label) if is_text(label) else None


def _choice(field: Any, value: str) -> str | None:
    """Return the label of a value of a field with choices, or of a check box; else None."""
    from wtforms import BooleanField, RadioField, SelectField, SelectMultipleField

    if _is(field, BooleanField):
        unset = field.kwargs.get("false_values") or field.field_class.false_values
        return str(_("No") if value in unset else _("Yes"))
    if not _is(field, RadioField, SelectField, SelectMultipleField):
        return None
    choices = field.kwargs.get("choices", field.args[3] if len(field.args) > 3 else None)
    labels = (label for offered, label in _choices(choices) if str(offered) == value)
    return next((as_text(label) for label in labels if is_text(label)), None)


def _choices(choices: Any) -> Iterator[tuple[Any, Any]]:
    """Iterate over the values and labels of choices, in groups or not; a function is not called."""
    if isinstance(choices, Mapping):
        for value, label in choices.items():
            if is_text(label):
                yield value, label
            else:  # the choices of a group
                yield from _choices(label)
    elif isinstance(choices, (list, tuple)):
        for choice in choices:
            if isinstance(choice, (list, tuple)):
                yield tuple(choice[:2]) if len(choice) > 1 else (choice, None)
            else:  # a SelectChoice, or a value that is its own label
                yield getattr(choice, "value", choice), getattr(choice, "label", None)
