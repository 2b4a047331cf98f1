"""Fields: what a flow consists of, as `Snapshot` shows it and the codec writes it."""

from __future__ import annotations

from typing import NamedTuple

from .history import Log
from .path import Node

__all__ = ["Fields", "Receipt", "Run"]


class Receipt(NamedTuple):
    """The submission that made the last commit: its token's nonce and its body's digest."""

    nonce: str
    digest: str


class Run(NamedTuple):
    """What stays the same during one run. `started` is in whole seconds since 1970."""

    id: str
    subject: str | None
    started: int


class Fields:
    """The fields of a flow. They don't change once a `Snapshot` or a `Flow` has them.

    `tip` is the last node of the path. `draft_texts` holds answers as JSON text, by page.
    `updated` is in whole seconds since 1970. `taken` holds the bits of the edges taken in this
    run, if the machine tracks edges, else 0.
    """

    # Not a named tuple: a step reads each field once, and slots are read several times faster.
    __slots__ = (
        "draft_texts",
        "finished",
        "log",
        "receipt",
        "rev",
        "run",
        "taken",
        "tip",
        "updated",
    )

    def __init__(
        self,
        run: Run,
        rev: int,
        tip: Node,
        log: Log,
        draft_texts: dict[str, str],
        updated: int,
        taken: int,
        finished: bool,
        receipt: Receipt | None,
    ) -> None:
        self.run = run
        self.rev = rev
        self.tip = tip
        self.log = log
        self.draft_texts = draft_texts
        self.updated = updated
        self.taken = taken
        self.finished = finished
        self.receipt = receipt

    def copy(self) -> Fields:
        """Return a copy, for the caller to change."""
        return Fields(
            self.run,
            self.rev,
            self.tip,
            self.log,
            self.draft_texts,
            self.updated,
            self.taken,
            self.finished,
            self.receipt,
        )
