"""The message that all servers fan out."""

from __future__ import annotations

from typing import Any

MARK = "the message that is delivered"
"""Occurs once in each message, and nowhere else."""


def payload(number: int) -> dict[str, Any]:
    """Return the message of that number."""
    return {"number": number, "text": MARK, "order": "A-1042", "state": "payment", "items": [3, 1]}
