"""Frames as docs/asyncapi.json describes them: what a test sees of a server is checked by it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft7Validator

__all__ = ["DOCUMENT", "checked", "document", "refused", "validator"]

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "asyncapi.json"


@functools.cache
def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    found: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return found


@functools.cache
def validator(schema: str) -> Draft7Validator:
    """Return what checks JSON by one of the document's schemas."""
    return Draft7Validator(
        {
            "$ref": f"#/components/schemas/{schema}",
            "components": {"schemas": document()["components"]["schemas"]},
        }
    )


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON.")


def checked(text: str | bytes, schema: str = "ServerFrame") -> dict[str, Any]:
    """Return the frame that a server sent; raises ValueError or ValidationError if it is none.

    `schema` is that of the document by which it is checked.
    """
    if isinstance(text, bytes):
        text = text.decode()
    frame: dict[str, Any] = json.loads(text, parse_constant=no_constant)
    validator(schema).validate(frame)
    return frame


def refused(text: str | bytes) -> dict[str, Any]:
    """Return the frame by which a server refused an event, checked as such."""
    return checked(text, "ErrorFrame")
