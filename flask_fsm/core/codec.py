"""The text that a snapshot is stored as.

It consists of fields separated by `|`: version and digest of the machine, id, subject, the numbers
(rev, started, seconds from started to updated, taken edges, finished), the receipt of the last
commit, the history, the number of pages; then name, URL arguments and answers of each page of the
path; then page and answers of each draft. A page's name is preceded by `-` if the page is closed,
and by `!` if all pages before it are. The path is written in names of states and the history in
their numbers, so that after a change of the definition a flow loses its history, but keeps as much
of its path as the new definition allows.
"""

from __future__ import annotations

import json
import re
from typing import Final

from ..errors import Code, RuleError, SnapshotError, SnapshotTooLarge
from .answers import load_answers
from .definition import Definition
from .fields import Fields, Receipt
from .history import Checkpoint, Packed, pack
from .migration import StoredPage, cut_back, migrate_path
from .path import Node, nodes_back

__all__ = ["MAX_TEXT", "decode", "encode"]

VERSION: Final = "1"
CLOSED: Final = "-"
BARRIER: Final = "!"
MISREAD: Final = ('"', CLOSED, BARRIER)
MAX_TEXT: Final = 1 << 20

_ID = re.compile(r"[\w-]{22}(~[1-9]\d{0,8})?", re.ASCII)
_NUMBERS = re.compile(
    r"(\d{1,15}),(\d{1,12}),(\d{1,12}),((?:0|[1-9a-f][0-9a-f]*)),([01])", re.ASCII
)
_RECEIPT = re.compile(r"([\w-]{1,64}),([\w-]{1,64})", re.ASCII)
_HISTORY = re.compile(r"(\d{1,9})(?:~(\d{1,9})~(\d{1,12})~(\d{1,15}))?~([\w-]*)", re.ASCII)
_COUNT = re.compile(r"[1-9]\d{0,8}", re.ASCII)


def encode(flow: Fields, machine: Definition) -> str:
    """Return the text that `decode` reads with the same machine, or raise SnapshotTooLarge."""
    tip = flow.tip
    begin = Checkpoint(machine.initial, flow.started, 0)
    packed = pack(machine, flow.log, begin)
    first = packed.first
    base = ""
    if first != begin:
        base = f"{machine.numbers[first.state]}~{first.at}~{first.rev}~"
    parts = [
        VERSION + machine.digest,
        flow.id,
        "" if flow.subject is None else _quoted(flow.subject),
        f"{flow.rev},{flow.started},{flow.updated - flow.started},{flow.taken:x},{flow.finished:d}",
        "" if flow.receipt is None else ",".join(flow.receipt),
        f"{packed.length}~{base}{packed.text}",
        str(tip.depth + 1),
    ]
    for node in reversed([*nodes_back(tip)]):
        depth = node.depth
        signs = CLOSED if node.closed else ""
        if depth and node.barrier == depth:
            signs += BARRIER
        parts += (signs + _name(node.state), node.args or "", node.answers or "")
    for page, text in flow.draft_texts.items():
        parts += (_name(page), text)
    text = "|".join(parts)
    if len(text) > MAX_TEXT:
        raise SnapshotTooLarge(
            f"The flow would take {len(text)} characters, but at most {MAX_TEXT} can be read "
            f"back: store less in its answers.",
            size=len(text),
            limit=MAX_TEXT,
            flow=flow.id,
            target=tip.state,
        )
    return text


def decode(text: str, machine: Definition) -> tuple[Fields, bool]:
    """Read what `encode` returned, and return also whether its path was cut back.

    After a change of the definition the history is dropped (it refers to states by the numbers of
    the old one), and the path of a run that has not ended is cut back to the longest part that the
    new one allows. It is an error with the code `"definition"` if the first page no longer exists,
    or if the run has ended and any of its pages no longer exists.

    Raises SnapshotError if the text can't be read.
    """
    try:
        return _decode(text, machine)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise SnapshotError(
            f"The stored flow of machine {machine.name!r} can't be read: {error}."
        ) from error


def _decode(text: str, machine: Definition) -> tuple[Fields, bool]:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ValueError(f"it is not a string of at most {MAX_TEXT} characters")
    prefix, id, subject, numbers, receipt, history, size, *rest = text.split("|")
    if prefix[:1] != VERSION:
        raise ValueError("its version is unknown")
    _matched(_ID, id, "id")
    rev, started, age, taken, finished = _matched(_NUMBERS, numbers, "numbers").groups()
    pages = 3 * int(_matched(_COUNT, size, "number of pages").group())
    if len(rest) < pages or (len(rest) - pages) % 2:
        raise ValueError("its list of pages is incomplete")
    same = prefix[1:] == machine.digest
    stored = zip(rest[:pages:3], rest[1:pages:3], rest[2:pages:3], strict=True)
    drafts: dict[str, str] = {}
    for page, answers in zip(rest[pages::2], rest[pages + 1 :: 2], strict=True):
        load_answers(answers)
        drafts[_unquoted(page)] = answers
    path = [_stored_page(*page) for page in stored]
    if not same and machine.migration is not None:
        path, drafts = migrate_path(path, drafts, machine.migration, machine.name)
    is_cut = False
    if not same and finished == "0":
        length = _allowed_length(path, machine, id)
        is_cut = length < len(path)
        if is_cut:
            path, drafts = cut_back(path, drafts, length, machine.initial)
    tip = _linked(path, machine, id)
    if drafts:
        drafts = {page: answers for page, answers in drafts.items() if page in machine.states}
    began = int(started)
    updated = began + int(age)
    last = Checkpoint(tip.state, updated, int(rev))
    fields = Fields(
        id,
        _unquoted(subject) if subject else None,
        int(rev),
        tip,
        _packed(history, machine, began, last) if same else Packed(machine, "", 0, last, last),
        drafts,
        began,
        updated,
        int(taken, 16) if same else machine.edges_on(tip),
        finished == "1",
        Receipt(*_matched(_RECEIPT, receipt, "receipt").groups()) if receipt else None,
    )
    return fields, is_cut


def _stored_page(text: str, args: str, answers: str) -> StoredPage:
    closed = closes_earlier = False
    if text[:1] == CLOSED:
        closed, text = True, text[1:]
    if text[:1] == BARRIER:
        closes_earlier, text = True, text[1:]
    if args:
        load_answers(args)
    if answers:
        load_answers(answers)
    return StoredPage(_unquoted(text), args, answers, closed, closes_earlier)


def _linked(path: list[StoredPage], machine: Definition, flow: str) -> Node:
    """Return the last node of a stored path.

    Of a run that has ended, its edges may be missing, and it may begin elsewhere than at the
    initial state: definitions change.
    """
    node: Node | None = None
    seen = set()
    for depth, page in enumerate(path):
        state = _known(page.name, machine, flow)
        if state in seen:
            raise ValueError("its path has a loop")
        seen.add(state)
        barrier = depth if page.closes_earlier else 0 if node is None else node.barrier
        node = Node(
            node, state, page.args or None, page.answers or None, depth, barrier, page.closed
        )
    assert node is not None
    if node.answers is not None or node.closed:
        raise ValueError("its current page has been left")
    return node


def _allowed_length(path: list[StoredPage], machine: Definition, flow: str) -> int:
    first, *_ = path
    _known(first.name, machine, flow)
    try:
        return machine.allowed_length([page.name for page in path])
    except RuleError as error:
        raise SnapshotError(str(error), flow=flow, code=Code.DEFINITION) from error.__cause__


def _packed(text: str, machine: Definition, started: int, last: Checkpoint) -> Packed:
    count, state, at, rev, entries = _matched(_HISTORY, text, "history").groups()
    first = (
        Checkpoint(machine.initial, started, 0)
        if state is None
        else Checkpoint(machine.names[int(state)], int(at), int(rev))
    )
    return Packed(machine, entries, int(count), first, last)


def _known(name: str, machine: Definition, flow: str) -> str:
    if name not in machine.states:
        raise SnapshotError(
            f"A stored flow of machine {machine.name!r} was at the state {name!r}, which the "
            f"definition no longer has: map it to its new name with machine.migrate(), keep the "
            f"state until the flows that use it have ended, or let them start again.",
            flow=flow,
            source=name,
            code=Code.DEFINITION,
        )
    return name


def _name(state: str) -> str:
    """Return a state's name without `|`; one that could be misread is written as JSON."""
    return _quoted(state) if "|" in state or state.startswith(MISREAD) else state


def _quoted(text: str) -> str:
    return json.dumps(text).replace("|", "\\u007c")


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    name = json.loads(text)
    if not isinstance(name, str):
        raise ValueError("a name is not a string")
    return name


def _matched(pattern: re.Pattern[str], text: str, what: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"its {what} is malformed")
    return match
