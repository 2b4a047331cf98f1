"""The path: the pages from the initial to the current one, as linked nodes without loops.

The back policy of an edge is kept here: `leave_node` closes the page that is left by
`back="discard"`. For `back="invalidate"`, `Flow.step` (core/flow) sets the `barrier` of the new
node, which closes that page and all before it.

A node points to the node before it, so that a step adds one node however long the path is, and
the snapshots of a flow share the nodes they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from .answers import load_answers

__all__ = [
    "Node",
    "Page",
    "Path",
    "cut_path",
    "data_before",
    "drop_draft",
    "leave_node",
    "linked",
    "nodes_back",
    "pages_of",
    "root",
]


# Not a named tuple: a step reads nodes more often than it makes them; slots are read faster.
@dataclass(slots=True, eq=False)
class Node:
    """One page of a path. It never changes once made: other paths share the nodes before it.

    `args` (URL arguments) and `answers` are JSON text or None. `depth` counts the nodes before
    this one. A page can't be reopened if its node is `closed`, or if its depth is below the
    `barrier` of the last node of the path.
    """

    parent: Node | None
    state: str
    args: str | None
    answers: str | None
    depth: int
    barrier: int
    closed: bool


def root(state: str, args: str | None = None) -> Node:
    """Return the first node of a path."""
    return Node(None, state, args, None, 0, 0, False)


def nodes_back(tip: Node) -> Iterator[Node]:
    """Yield the nodes of a path from the last to the first."""
    node: Node | None = tip
    while node is not None:
        yield node
        node = node.parent


class Page(NamedTuple):
    """A node without its parent, as a snapshot is compared and pickled."""

    state: str
    args: str | None
    answers: str | None
    depth: int
    barrier: int
    closed: bool


def pages_of(tip: Node) -> tuple[Page, ...]:
    """Return the pages of a path, the last one first."""
    return tuple(
        Page(node.state, node.args, node.answers, node.depth, node.barrier, node.closed)
        for node in nodes_back(tip)
    )


def linked(pages: Sequence[Page]) -> Node:
    """Return the last node of the path whose pages `pages_of` has returned."""
    node: Node | None = None
    for page in reversed(pages):
        node = Node(node, *page)
    assert node is not None
    return node


def cut_path(
    tip: Node, node: Node, target: str, answers: str | None, drafts: dict[str, str], loop: bool
) -> tuple[list[Node], dict[str, str], Node | None]:
    """Cut the path that ends in `tip`: at `node` for an edit, and at `target` for a `loop`.

    `answers` are those given on the page of `node`; `loop` is whether `target` is on the path.
    Returns the nodes cut off, the drafts (with the answers of these), and the old node of `target`
    if this is a loop.
    """
    cut: list[Node] = []
    fresh: dict[str, str] = {}
    later: Node | None = tip
    while later is not node and later is not None:
        cut.append(later)
        if later.answers is not None:
            fresh[later.state] = later.answers
        if later.state == target:
            loop = False
        later = later.parent
    while loop and later is not None:
        cut.append(later)
        earlier = answers if later is node else later.answers
        if earlier is not None:
            fresh[later.state] = earlier
        loop = later.state != target
        later = later.parent
    if fresh:
        drafts = {**drafts, **fresh}
    if later is not node:
        return cut, drafts, cut[-1]
    if answers is not None and node.state in drafts:
        drafts = drop_draft(drafts, node.state)
    return cut, drafts, None


def drop_draft(drafts: dict[str, str], page: str) -> dict[str, str]:
    """Return the drafts without that of `page`."""
    return {other: text for other, text in drafts.items() if other != page}


def leave_node(node: Node, back: str, answers: str | None) -> Node:
    """Return `node` as it is left with `answers`, closed unless the back policy preserves it."""
    closed = back != "preserve"
    return Node(node.parent, node.state, node.args, answers, node.depth, node.barrier, closed)


def data_before(node: Node) -> dict[str, Any]:
    """Return the answers of the pages before `node` on its path, by page."""
    nodes = [before for before in nodes_back(node) if before.answers is not None]
    if nodes and nodes[0] is node:
        del nodes[0]
    return {before.state: load_answers(before.answers or "") for before in reversed(nodes)}


class Path(Sequence[str]):
    """The names of the pages on a path, the initial one first, as a sequence.

    It equals tuples and lists of the same names.
    """

    __slots__ = ("_tip",)

    def __init__(self, tip: Node) -> None:
        self._tip = tip

    def __iter__(self) -> Iterator[str]:
        return reversed([node.state for node in nodes_back(self._tip)])

    def __len__(self) -> int:
        return self._tip.depth + 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return tuple(self)[index]

    def __contains__(self, state: object) -> bool:
        return any(node.state == state for node in nodes_back(self._tip))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (Path, tuple, list)):
            return tuple(self) == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __copy__(self) -> Path:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Path:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _path_of, (pages_of(self._tip),)

    def __repr__(self) -> str:
        return f"Path({' -> '.join(self)})"

    def args(self, state: str) -> dict[str, Any]:
        """Return the URL arguments with which a page of this path was reached.

        Args:
            state: The name of the page.

        Returns:
            The arguments by name; empty if there are none.

        Raises:
            KeyError: The page is not on this path.
        """
        for node in nodes_back(self._tip):
            if node.state == state:
                return load_answers(node.args) if node.args else {}
        raise KeyError(f"The page {state!r} is not on this path: {' -> '.join(self)}.")


def _path_of(pages: Sequence[Page]) -> Path:
    """Return a pickled path."""
    return Path(linked(pages))
