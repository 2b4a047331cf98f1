"""Snapshot: a flow as immutable data."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from .answers import load_answers
from .codec import decode, encode
from .definition import Definition
from .fields import Fields, Receipt
from .history import (
    Archive,
    Checkpoint,
    Entry,
    History,
    archived,
    entered_at,
    new_entries_of,
    pack,
)
from .path import Node, Page, Path, data_before, linked, pages_of

__all__ = ["NAMELESS", "NO_DRAFTS", "Receipt", "Snapshot", "blank", "successor"]

NAMELESS: Final = "-" * 22
"""Stands for the random part of an id, in a text that is stored beside its id."""
NO_DRAFTS: Final[dict[str, str]] = {}


class Snapshot(Fields):
    """A flow as plain, immutable data, as `flow.snapshot` returns it.

    Attributes:
        id: The id of the run.
        subject: Whose flow it is, or None.
        rev: The number of commits so far.
        state: The name of the current state.
        path: The pages from the initial to the current one, a `Path`.
        history: The transitions made, a `History`.
        data: The answers of the pages on the path before the current one, by page.
        drafts: All other answers, by page.
        started: When the run began, in whole seconds since 1970.
        updated: When it last changed, in whole seconds since 1970.
        taken: The bits of the edges taken in this run, if the machine tracks edges, else 0.
        finished: Whether the run has ended.
        receipt: The submission that made the last commit, or None.
        cut_back: Whether the path was cut back when this was loaded, since the definition has
            changed and no longer allows the whole path.
    """

    __slots__ = ()
    cut_back: ClassVar[bool] = False

    @property
    def state(self) -> str:
        """The name of the current state."""
        return self.tip.state

    @property
    def path(self) -> Path:
        """The pages from the initial to the current one."""
        return Path(self.tip)

    @property
    def history(self) -> History:
        """The transitions made, oldest first."""
        return History(self.log)

    @property
    def data(self) -> dict[str, Any]:
        """A copy of the answers of the pages on the path before the current one, by page."""
        return data_before(self.tip)

    @property
    def drafts(self) -> dict[str, Any]:
        """A copy of all other answers, by page."""
        return {page: load_answers(text) for page, text in self.draft_texts.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return self._comparable() == other._comparable()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.id, self.rev))

    def _comparable(self) -> tuple[Any, ...]:
        return (
            self.id,
            self.subject,
            self.rev,
            pages_of(self.tip),
            tuple(self.history.entries),
            self.draft_texts,
            self.started,
            self.updated,
            self.taken,
            self.finished,
            self.receipt,
        )

    def __copy__(self) -> Snapshot:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Snapshot:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the machine, which is passed to `machine.flow(snapshot)` again."""
        return _restored, (type(self), *self._comparable())

    def __repr__(self) -> str:
        return (
            f"Snapshot(id={self.id!r}, rev={self.rev}, state={self.state!r}, "
            f"path={self.path!r}, finished={self.finished})"
        )

    def beginning_at(self, tip: Node) -> Snapshot:
        """Return this blank snapshot with another first node: the page with its URL arguments."""
        return self._replace(tip=tip)

    def with_receipt(self, receipt: Receipt | None) -> Snapshot:
        """Return this snapshot with the receipt of the submission that made it."""
        return self._replace(receipt=receipt)

    def with_id(self, id: str, subject: str | None) -> Snapshot:
        """Return this snapshot under another id, as that of `subject`."""
        return self._replace(id=id + self.id[22:], subject=subject)

    @property
    def new_entries(self) -> list[Entry]:
        """The entries that were made since the snapshot was loaded."""
        return new_entries_of(self.log)

    @property
    def entered_at(self) -> int:
        """When the run entered the page that was current when the snapshot was loaded."""
        return entered_at(self.log, self.started)

    def with_lazy_history(self, read: Callable[[], Sequence[Entry]]) -> Snapshot:
        """Return this snapshot with its history stored elsewhere, from where `read` loads it."""
        return self._replace(log=Archive(read, self.updated))

    def with_packed_history(self, machine: Definition, limit: int | None = None) -> Snapshot:
        """Return this snapshot with its history as text, at most the newest `limit` entries."""
        first = Checkpoint(machine.initial, self.started, 0)
        return self._replace(log=pack(machine, self.log, first, limit))

    def to_record(self, machine: Definition) -> str:
        """Return the text of this snapshot without its id and its history."""
        return encode(self._replace(id=NAMELESS + self.id[22:], log=None), machine)

    @classmethod
    def from_record(
        cls, text: str, machine: Definition, id: str, read: Callable[[], Sequence[Entry]]
    ) -> Snapshot:
        """Read what `to_record` returned, with the random part of `id`; or raise SnapshotError."""
        found = cls.decode(text, machine)
        return found._replace(id=id[:22] + found.id[22:], log=Archive(read, found.updated))

    def encode(self, machine: Definition) -> str:
        """Return this snapshot as text.

        Args:
            machine: The machine of the flow.

        Returns:
            The text, which `Snapshot.decode` reads with the same machine.

        Raises:
            SnapshotTooLarge: The text would be longer than 1 MiB.
        """
        return encode(self, machine)

    @classmethod
    def decode(cls, text: str, machine: Definition) -> Snapshot:
        """Read the text of a snapshot.

        After a change of the definition the history is dropped, states are renamed by
        `Machine.migrate`, and the path of a run that has not ended is cut back to the longest part
        that the definition allows; answers of the other pages become drafts.

        Args:
            text: What `encode` returned.
            machine: The machine of the flow.

        Returns:
            The snapshot.

        Raises:
            SnapshotError: The text is damaged; or, with the code `"definition"`, the machine no
                longer has the first page of the path, or a page of a run that has ended.
        """
        fields, is_cut = decode(text, machine)
        if is_cut:
            cls = CutBack
        return cls._make(fields)


class CutBack(Snapshot):
    """A snapshot whose path was cut back when it was loaded. The next step makes a plain one."""

    __slots__ = ()
    cut_back = True


def _restored(
    kind: type[Snapshot],
    id: str,
    subject: str | None,
    rev: int,
    pages: Sequence[Page],
    entries: Sequence[Entry],
    *rest: Any,
) -> Snapshot:
    """Return a pickled snapshot."""
    return kind(id, subject, rev, linked(pages), archived(entries), *rest)


def blank(
    machine: Definition, now: int, *, id: str | None = None, subject: str | None = None
) -> Snapshot:
    """Return the snapshot of a run that has not begun. A new id has 128 random bits."""
    new = secrets.token_urlsafe(16) if id is None else id
    return Snapshot(new, subject, 0, machine.root, None, NO_DRAFTS, now, now, 0, False, None)


def successor(id: str) -> str:
    """Return the id of the run after `id`: the same random part, and the next number."""
    start, _, number = id.partition("~")
    return f"{start}~{int(number or 0) + 1}"
