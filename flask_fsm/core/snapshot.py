"""Snapshot: a flow as immutable data, and the text that it is stored as.

The text is made of fields between `|`: version and digest of the machine, id, subject, the numbers
(rev, started, seconds until updated, taken edges, finished), the receipt of the last commit, the
history, the number of pages, then for each page of the path its name, URL arguments and answers,
and for each draft its page and answers. Before its name stand `-` if the page is closed, and `!`
if all before it are. States of the path are written by name and those of the
history by number, so that a flow outlives a change of the definition and only its history does not.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import Code, SnapshotError, SnapshotTooLarge
from .answers import load_answers
from .history import Archive, Entry, History, Log, Mark, Packed, entered, fresh_entries, pack
from .migration import StoredPage, migrated
from .path import Node, Path, nodes_back

if TYPE_CHECKING:
    from .machine import Machine

__all__ = [
    "NO_DRAFTS",
    "Entry",
    "Receipt",
    "Snapshot",
    "blank",
    "data_before",
    "edges_on",
    "leave_node",
    "successor",
]

VERSION = "1"
CLOSED = "-"
BARRIER = "!"
MAX_TEXT = 1 << 20
NAMELESS = "-" * 22
NO_DRAFTS: Final[dict[str, str]] = {}

_ID = re.compile(r"[\w-]{22}(~[1-9]\d{0,8})?", re.ASCII)
_NUMBERS = re.compile(
    r"(\d{1,15}),(\d{1,12}),(\d{1,12}),((?:0|[1-9a-f][0-9a-f]*)),([01])", re.ASCII
)
_RECEIPT = re.compile(r"[\w-]{1,64},[\w-]{1,64}", re.ASCII)
_HISTORY = re.compile(r"(\d{1,9})(?:~(\d{1,9})~(\d{1,12})~(\d{1,15}))?~([\w-]*)", re.ASCII)
_COUNT = re.compile(r"[1-9]\d{0,8}", re.ASCII)


class Receipt(NamedTuple):
    """Of the submission that made the last commit: its token's nonce and its body's digest."""

    nonce: str
    digest: str


class Snapshot(tuple[Any, ...]):
    """A flow as plain, immutable data.

    `id`, `subject`, `rev`, `state`, `path`, `history`, `data` (answers of the pages on the path
    before the current one), `drafts` (all other answers), `started` and `updated` (whole seconds
    since 1970), `taken` (edges of this run, as bits, where the machine counts them), `finished`,
    and the `receipt` of the last commit.
    """

    __slots__ = ()

    id: str = property(itemgetter(0))  # type: ignore[assignment]
    subject: str | None = property(itemgetter(1))  # type: ignore[assignment]
    rev: int = property(itemgetter(2))  # type: ignore[assignment]
    tip: Node = property(itemgetter(3))  # type: ignore[assignment]
    log: Log = property(itemgetter(4))  # type: ignore[assignment]
    started: int = property(itemgetter(6))  # type: ignore[assignment]
    updated: int = property(itemgetter(7))  # type: ignore[assignment]
    taken: int = property(itemgetter(8))  # type: ignore[assignment]
    finished: bool = property(itemgetter(9))  # type: ignore[assignment]
    receipt: Receipt | None = property(itemgetter(10))  # type: ignore[assignment]

    @classmethod
    def of(
        cls,
        id: str,
        subject: str | None,
        rev: int,
        tip: Node,
        log: Log,
        drafts: dict[str, str],
        started: int,
        updated: int,
        taken: int,
        finished: bool,
        receipt: Receipt | None,
    ) -> Snapshot:
        fields = (
            id, subject, rev, tip, log, drafts, started, updated, taken, finished, receipt
        )  # fmt: skip
        return tuple.__new__(cls, fields)

    def _replaced(self, index: int, value: Any) -> Snapshot:
        return tuple.__new__(Snapshot, (*self[:index], value, *self[index + 1 :]))

    @property
    def state(self) -> str:
        return self.tip[1]

    @property
    def path(self) -> Path:
        return Path(self.tip)

    @property
    def history(self) -> History:
        return History(self.log)

    @property
    def data(self) -> dict[str, Any]:
        return data_before(self.tip)

    @property
    def drafts(self) -> dict[str, Any]:
        return {page: load_answers(text) for page, text in self[5].items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return self._comparable() == other._comparable()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.id, self.rev))

    def _comparable(self) -> tuple[Any, ...]:
        # A nested tuple of a long path can't be compared as it is: the recursion is too deep.
        pages = [node[1:] for node in nodes_back(self.tip)]
        return (*self[:3], pages, self.history.entries, *self[5:])

    def __repr__(self) -> str:
        return (
            f"Snapshot(id={self.id!r}, rev={self.rev}, state={self.state!r}, "
            f"path={self.path!r}, finished={self.finished})"
        )

    def beginning_at(self, tip: Node) -> Snapshot:
        """Return this blank snapshot with another first node: the page with its URL arguments."""
        return self._replaced(3, tip)

    def with_receipt(self, receipt: Receipt | None) -> Snapshot:
        """Return this snapshot with the receipt of the submission that made it."""
        return self._replaced(10, receipt)

    def with_id(self, id: str, subject: str | None) -> Snapshot:
        """Return this snapshot under another id, as that of `subject`."""
        return self._replaced(0, id + self.id[22:])._replaced(1, subject)

    @property
    def new_entries(self) -> list[Entry]:
        """The entries that were made since the snapshot was loaded."""
        return fresh_entries(self.log)

    @property
    def entered_at(self) -> int:
        """When the page was entered that was the current one as the snapshot was loaded."""
        return entered(self.log, self.started)

    def with_lazy_history(self, read: Callable[[], Sequence[Entry]]) -> Snapshot:
        """Return this snapshot with its history kept elsewhere, where `read` finds it."""
        return self._replaced(4, Archive(read, self.updated))

    def to_record(self, machine: Machine) -> str:
        """Return the text of this snapshot without its id and its history."""
        return self._replaced(0, NAMELESS + self.id[22:])._replaced(4, None).encode(machine)

    @classmethod
    def from_record(
        cls, text: str, machine: Machine, id: str, read: Callable[[], Sequence[Entry]]
    ) -> Snapshot:
        """Read what `to_record` returned, with the random part of `id`; or raise SnapshotError."""
        found = cls.decode(text, machine)
        return found._replaced(0, id[:22] + found.id[22:]).with_lazy_history(read)

    def with_packed_history(self, machine: Machine, limit: int | None = None) -> Snapshot:
        """Return this snapshot with its history as text, at most `limit` entries of it."""
        first = Mark(machine.initial, self.started, 0)
        return self._replaced(4, pack(machine, self.log, first, limit))

    def encode(self, machine: Machine) -> str:
        """Return the text that `Snapshot.decode` reads with the same machine."""
        id, subject, rev, tip, log, drafts, started, updated, taken, finished, receipt = self
        first = Mark(machine.initial, started, 0)
        packed = pack(machine, log, first)
        base = ""
        if packed.first != first:
            state, at, before = packed.first
            base = f"{machine.numbers[state]}~{at}~{before}~"
        fields = [
            VERSION + machine.digest,
            id,
            "" if subject is None else _quoted(subject),
            f"{rev},{started},{updated - started},{taken:x},{finished:d}",
            "" if receipt is None else ",".join(receipt),
            f"{packed.length}~{base}{packed.text}",
            str(tip[4] + 1),
        ]
        for _, state, args, answers, depth, barrier, closed in reversed([*nodes_back(tip)]):
            signs = (CLOSED if closed else "") + (BARRIER if depth and barrier == depth else "")
            fields += (signs + _name(state), args or "", answers or "")
        for page, text in drafts.items():
            fields += (_name(page), text)
        text = "|".join(fields)
        if len(text) > MAX_TEXT:
            raise SnapshotTooLarge(
                f"The flow would take {len(text)} characters, and {MAX_TEXT} can be read again: "
                f"keep less in its answers.",
                size=len(text),
                limit=MAX_TEXT,
                flow=id,
                target=tip[1],
            )
        return text

    @classmethod
    def decode(cls, text: str, machine: Machine) -> Snapshot:
        """Read a text, or raise SnapshotError.

        After a change of the definition the history is dropped (it is written in the numbers of
        the old one), and a state that is gone is an error whose code is `"definition"`.
        """
        try:
            return _decode(text, machine)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise SnapshotError(
                f"The stored flow of machine {machine.name!r} can't be read: {error}."
            ) from error


def blank(
    machine: Machine, now: int, *, id: str | None = None, subject: str | None = None
) -> Snapshot:
    """Return the snapshot of a run that has not begun. A new id has 128 random bits."""
    id = secrets.token_urlsafe(16) if id is None else id
    return Snapshot.of(id, subject, 0, machine.root, None, NO_DRAFTS, now, now, 0, False, None)


def successor(id: str) -> str:
    """Return the id of the run after `id`: the same random part, counted on."""
    start, _, number = id.partition("~")
    return f"{start}~{int(number or 0) + 1}"


def _name(state: str) -> str:
    """Return a state's name without `|`; one that could be taken for more is JSON text."""
    return _quoted(state) if "|" in state or state[0] in f'"{CLOSED}{BARRIER}' else state


def _quoted(text: str) -> str:
    return json.dumps(text).replace("|", "\\u007c")


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    name = json.loads(text)
    if not isinstance(name, str):
        raise ValueError("a name is no text")
    return name


def _matched(pattern: re.Pattern[str], text: str, what: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"its {what} is malformed")
    return match


def _known(name: str, machine: Machine, flow: str) -> str:
    if name not in machine.states:
        raise SnapshotError(
            f"A stored flow of machine {machine.name!r} is at the state {name!r}, which the "
            f"definition no longer has: say by machine.migrate() what it is called now, keep the "
            f"state until the flows that know it have ended, or let them start again.",
            flow=flow,
            source=name,
            code=Code.DEFINITION,
        )
    return name


def _decode(text: str, machine: Machine) -> Snapshot:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ValueError(f"it is no text of up to {MAX_TEXT} characters")
    head, id, subject, numbers, receipt, history, size, *rest = text.split("|")
    if head[:1] != VERSION:
        raise ValueError("its version is unknown")
    _matched(_ID, id, "id")
    rev, started, age, taken, finished = _matched(_NUMBERS, numbers, "numbers").groups()
    pages = 3 * int(_matched(_COUNT, size, "number of pages")[0])
    if len(rest) < pages or (len(rest) - pages) % 2:
        raise ValueError("its pages are cut off")
    same = head[1:] == machine.digest
    fields = zip(rest[:pages:3], rest[1:pages:3], rest[2:pages:3], strict=True)
    drafts: dict[str, str] = {}
    for page, answers in zip(rest[pages::2], rest[pages + 1 :: 2], strict=True):
        load_answers(answers)
        drafts[_unquoted(page)] = answers
    path = [_stored_page(*field) for field in fields]
    if not same and machine.migration is not None:
        path, drafts = migrated(path, drafts, machine.migration, machine.name)
    tip = _laid(path, machine, id)
    if drafts:
        drafts = {page: answers for page, answers in drafts.items() if page in machine.states}
    updated = int(started) + int(age)
    last = Mark(tip[1], updated, int(rev))
    log = _decode_log(history, machine, int(started), last) if same else None
    return Snapshot.of(
        id,
        _unquoted(subject) if subject else None,
        int(rev),
        tip,
        log or Packed(machine, "", 0, last, last),
        drafts,
        int(started),
        updated,
        int(taken, 16) if same else edges_on(tip, machine),
        finished == "1",
        Receipt(*_matched(_RECEIPT, receipt, "receipt")[0].split(",")) if receipt else None,
    )


def _stored_page(text: str, args: str, answers: str) -> StoredPage:
    closed = fenced = False
    if text[:1] == CLOSED:
        closed, text = True, text[1:]
    if text[:1] == BARRIER:
        fenced, text = True, text[1:]
    if args:
        load_answers(args)
    if answers:
        load_answers(answers)
    return StoredPage(_unquoted(text), args, answers, closed, fenced)


def _laid(path: list[StoredPage], machine: Machine, flow: str) -> Node:
    # Its edges need not be there, nor need it begin at the initial state: definitions change.
    node: Node | None = None
    seen = set()
    for depth, (name, args, answers, closed, fenced) in enumerate(path):
        state = _known(name, machine, flow)
        if state in seen:
            raise ValueError("its path has a loop")
        seen.add(state)
        barrier = depth if fenced else 0 if node is None else node[5]
        node = (node, state, args or None, answers or None, depth, barrier, closed)
    assert node is not None
    if node[3] is not None or node[6]:
        raise ValueError("its current page has been left")
    return node


def edges_on(tip: Node, machine: Machine, start: Node | None = None) -> int:
    """Return the bits of the edges between the pages of a path, or of those after `start`."""
    taken = 0
    for node in nodes_back(tip):
        if node is start:
            break
        edge = None if node[0] is None else machine.ways[node[0][1]].get(node[1])
        if edge is not None and machine.tracks_edges:
            taken |= 1 << edge.number
    return taken


def data_before(node: Node) -> dict[str, Any]:
    """Return the answers of the pages before `node` on its path, by page."""
    pages = [(before[1], before[3]) for before in nodes_back(node) if before is not node]
    return {state: load_answers(text) for state, text in reversed(pages) if text is not None}


def leave_node(node: Node, back: str, answers: str | None) -> Node:
    """Return `node` as it stands on the path once it was left by an edge with that back policy."""
    before, state, args, _, depth, barrier, _ = node
    return (before, state, args, answers, depth, barrier, back != "preserve")


def _decode_log(text: str, machine: Machine, started: int, last: Mark) -> Packed:
    count, state, at, rev, entries = _matched(_HISTORY, text, "history").groups()
    first = (
        Mark(machine.initial, started, 0)
        if state is None
        else Mark(machine.names[int(state)], int(at), int(rev))
    )
    return Packed(machine, entries, int(count), first, last)
