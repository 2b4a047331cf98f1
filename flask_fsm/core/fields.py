"""Fields: what a flow consists of, as `Snapshot` shows it and the codec writes it."""

from __future__ import annotations

from typing import NamedTuple

from .history import Log
from .path import Node

__all__ = ["Fields", "Receipt"]


class Receipt(NamedTuple):
    """The submission that made the last commit: its token's nonce and its body's digest."""

    nonce: str
    digest: str


class Fields(NamedTuple):
    """The fields of a flow, in the order in which `Flow.step` unpacks them.

    `tip` is the last node of the path. `draft_texts` holds answers as JSON text, by page.
    `started` and `updated` are in whole seconds since 1970. `taken` holds the bits of the edges
    taken in this run, if the machine tracks edges, else 0.
    """

    id: str
    subject: str | None
    rev: int
    tip: Node
    log: Log
    draft_texts: dict[str, str]
    started: int
    updated: int
    taken: int
    finished: bool
    receipt: Receipt | None
