"""The history: append-only entries for people and audits; no decision reads it.

(Which pages may be reopened, by the back policies of edges, is up to the path: core/path.)

Entries made since the flow was loaded are linked items. Those loaded remain text until they are
read, and a commit appends to that text.

The text has for each entry one number in base 32, least digit first, `A`-`Z` `a`-`f` for the last
digit and the next 32 of the URL-safe alphabet for those before it. The number is
`gap * (ways + 1) + code`: seconds since the entry before, number of edges out of the state it led
to, and the edge's place among these from 1. Code 0 is followed by three more numbers: source,
target, steps of rev. So a usual entry takes two characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias, overload

from ..errors import SnapshotError
from .definition import Definition
from .state import Edge
from .ways import in_order

__all__ = [
    "Archive",
    "Checkpoint",
    "Entry",
    "History",
    "Log",
    "LogItem",
    "Packed",
    "archived",
    "entered_at",
    "entries_of",
    "entry_of",
    "length_of",
    "new_entries_of",
    "pack",
]


class Entry(NamedTuple):
    """A transition that was made.

    Attributes:
        source: The state that was left.
        target: The state that was entered.
        event: The event of the edge, or None.
        at: The time, in whole seconds since 1970.
        rev: The revision of the flow since then.
    """

    source: str
    target: str
    event: str | None
    at: int
    rev: int


class Checkpoint(NamedTuple):
    """The state, time and rev to which the text of the next entry is relative."""

    state: str
    at: int
    rev: int


class LogItem(NamedTuple):
    """An entry made in this process, linked to the log before it."""

    parent: Log
    edge: Edge
    at: int
    rev: int


class Packed(NamedTuple):
    """Entries as text, from the checkpoint `first` to the checkpoint `last`."""

    machine: Definition
    text: str
    length: int
    first: Checkpoint
    last: Checkpoint


class Archive(NamedTuple):
    """Entries that a store keeps apart from the snapshot, read on demand.

    `at` is the time of the last of them, in whole seconds since 1970.
    """

    read: Callable[[], Sequence[Entry]]
    at: int


Log: TypeAlias = LogItem | Packed | Archive | None

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_VALUE = {character: value for value, character in enumerate(ALPHABET)}


def _digits(number: int) -> str:
    text = ""
    while number > 31:
        text += ALPHABET[32 + (number & 31)]
        number >>= 5
    return text + ALPHABET[number]


_SHORT = [_digits(number) for number in range(4096)]


def _write(number: int) -> str:
    return _SHORT[number] if number < 4096 else _digits(number)


def _numbers(text: str) -> Iterator[int]:
    number = shift = 0
    for character in text:
        value = _VALUE[character]
        if value < 32:
            yield number | value << shift
            number = shift = 0
        else:
            number |= (value - 32) << shift
            shift += 5
            if shift > 60:
                raise ValueError("a number is too long")
    if shift:
        raise ValueError("the last number is incomplete")


def entry_of(item: LogItem) -> Entry:
    """Return the history entry for an item of the log."""
    edge = item.edge
    return Entry(edge.source, edge.target, edge.event, item.at, item.rev)


def _unpacked(log: Log) -> tuple[Packed | Archive | None, list[LogItem]]:
    fresh = []
    while isinstance(log, LogItem):
        fresh.append(log)
        log = log.parent
    fresh.reverse()
    return log, fresh


def length_of(log: Log) -> int:
    """Return the number of entries of `log`, without decoding those that are text."""
    base, fresh = _unpacked(log)
    before = base.length if isinstance(base, Packed) else len(base.read()) if base else 0
    return len(fresh) + before


def new_entries_of(log: Log) -> list[Entry]:
    """Return the entries made since the log was loaded, oldest first."""
    _, fresh = _unpacked(log)
    return [entry_of(item) for item in fresh]


def entered_at(log: Log, started: int) -> int:
    """Return the time of the last entry that was loaded, or `started` if there is none."""
    base, _ = _unpacked(log)
    return base.at if isinstance(base, Archive) else base.last.at if base else started


def _encode(
    machine: Definition, first: Checkpoint, entries: Sequence[Entry]
) -> tuple[str, Checkpoint]:
    ways, numbers = machine.ways, machine.numbers
    state, at, rev = first
    parts = []
    for entry in entries:
        out = ways[state]
        edge = out.get(entry.target)
        base = (entry.at - at) * (len(out) + 1)
        if entry.source == state and edge is not None and entry.rev == rev + 1:
            parts.append(_write(base + edge.code))
        else:
            parts += (
                _write(base),
                _write(numbers[entry.source]),
                _write(numbers[entry.target]),
                _write(entry.rev - rev),
            )
        state, at, rev = entry.target, entry.at, entry.rev
    return "".join(parts), Checkpoint(state, at, rev)


def pack(machine: Definition, log: Log, first: Checkpoint, limit: int | None = None) -> Packed:
    """Return `log` as text, at most the newest `limit` entries of it.

    `first` is where a complete log begins. Beyond the limit a quarter is dropped at once, so that
    the rest is not encoded again at every step.
    """
    if type(log) is Packed and log.machine is machine and (limit is None or log.length <= limit):
        return log
    base, fresh = _unpacked(log)
    if isinstance(base, Packed) and base.machine is machine:
        packed = base
        entries = [entry_of(node) for node in fresh]
    else:
        # An archive may have states that the definition no longer has.
        entries = [
            entry
            for entry in entries_of(log)
            if entry.source in machine.numbers and entry.target in machine.numbers
        ]
        first = base.first if isinstance(base, Packed) else first
        packed = Packed(machine, "", 0, first, first)
    count = packed.length + len(entries)
    if limit is not None and count > limit:
        entries = entries_of(log)
        kept = limit if limit < 4 else limit - limit // 4
        cut = len(entries) - kept
        before = entries[cut - 1]
        entries = entries[cut:]
        first = Checkpoint(before.target, before.at, before.rev)
        packed = Packed(machine, "", 0, first, first)
        count = kept
    text, last = _encode(machine, packed.last, entries)
    return Packed(machine, packed.text + text, count, packed.first, last)


def _decode(packed: Packed) -> list[Entry]:
    machine = packed.machine
    ways, names = machine.ways, machine.names
    out_of: dict[str, Sequence[Edge]] = {}
    state, at, rev = packed.first
    entries = []
    try:
        numbers = _numbers(packed.text)
        for number in numbers:
            out = out_of.get(state)
            if out is None:
                out = out_of[state] = in_order(ways[state])
            gap, code = divmod(number, len(out) + 1)
            at += gap
            if code:
                edge = out[code - 1]
                source, target, event, rev = state, edge.target, edge.event, rev + 1
            else:
                source, target = names[next(numbers)], names[next(numbers)]
                rev += next(numbers)
                taken = ways[source].get(target)
                event = taken.event if taken else None
            entries.append(Entry(source, target, event, at, rev))
            state = target
    except (LookupError, ValueError, StopIteration) as error:
        raise SnapshotError(f"The stored history can't be read: {error!r}.") from error
    if (state, at, rev) != packed.last or len(entries) != packed.length:
        raise SnapshotError("The stored history does not lead to the stored state.")
    return entries


def entries_of(log: Log) -> list[Entry]:
    """Return the entries of `log`, oldest first."""
    base, fresh = _unpacked(log)
    before = _decode(base) if isinstance(base, Packed) else list(base.read()) if base else []
    return before + [entry_of(node) for node in fresh]


class History(Sequence[Entry]):
    """The transitions made in a run, oldest first, as a sequence of `Entry`.

    `("a", "b") in history` is whether an edge was taken. It equals lists and tuples of the same
    entries.
    """

    __slots__ = ("_entries", "_log")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._entries: list[Entry] | None = None

    @property
    def entries(self) -> list[Entry]:
        if self._entries is None:
            self._entries = entries_of(self._log)
        return self._entries

    def __len__(self) -> int:
        return length_of(self._log)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return self.entries[index]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __contains__(self, item: object) -> bool:
        if isinstance(item, tuple) and len(item) == 2:
            return any((entry.source, entry.target) == item for entry in self.entries)
        return item in self.entries

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (History, list, tuple)):
            return self.entries == list[Any](other)
        return NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __copy__(self) -> History:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> History:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _history_of, (tuple(self.entries),)

    def __repr__(self) -> str:
        return f"History({self.entries!r})"


def archived(entries: Sequence[Entry]) -> Log:
    """Return a log of these entries, without a machine."""
    return Archive(lambda: entries, entries[-1].at) if entries else None


def _history_of(entries: Sequence[Entry]) -> History:
    """Return a pickled history."""
    return History(archived(entries))
