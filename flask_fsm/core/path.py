"""The path: the pages from the initial one to the current, as linked nodes, loops cut.

A node is a plain tuple that points to the node before it, so that a step adds one node whatever
the length, and every snapshot of a flow shares what it has in common with the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, overload

from .answers import load_answers

__all__ = ["Node", "Path", "cut_path", "drop_draft", "nodes_back", "root"]

# (before, state, args, answers, depth, barrier, closed); args and answers are JSON text or None.
# Nodes whose depth is below the barrier of the last one can't be reopened, nor can closed ones.
Node: TypeAlias = tuple["Node | None", str, str | None, str | None, int, int, bool]


def root(state: str, args: str | None = None) -> Node:
    """Return the node with which a path begins."""
    return (None, state, args, None, 0, 0, False)


def nodes_back(tip: Node) -> Iterator[Node]:
    """Walk from the last node of a path to its first."""
    node: Node | None = tip
    while node is not None:
        yield node
        node = node[0]


def cut_path(
    tip: Node, node: Node, target: str, answers: str | None, drafts: dict[str, str], loop: bool
) -> tuple[list[Node], dict[str, str], Node | None]:
    """Cut the path that ends in `tip`: at `node` for an edit, and at `target` for a `loop`.

    `answers` are those given on the page of `node`; `loop` says that `target` is on the path.
    Returns the nodes cut, the drafts then, and the old node of `target` if this is a loop.
    """
    cut: list[Node] = []
    fresh: dict[str, str] = {}
    later: Node | None = tip
    while later is not node and later is not None:
        cut.append(later)
        if later[3] is not None:
            fresh[later[1]] = later[3]
        if later[1] == target:
            loop = False
        later = later[0]
    while loop and later is not None:
        cut.append(later)
        kept = answers if later is node else later[3]
        if kept is not None:
            fresh[later[1]] = kept
        loop = later[1] != target
        later = later[0]
    if fresh:
        drafts = {**drafts, **fresh}
    if later is not node:
        return cut, drafts, cut[-1]
    if answers is not None and node[1] in drafts:
        drafts = drop_draft(drafts, node[1])
    return cut, drafts, None


def drop_draft(drafts: dict[str, str], page: str) -> dict[str, str]:
    """Return the drafts of all pages but one."""
    return {other: text for other, text in drafts.items() if other != page}


class Path(Sequence[str]):
    """The names of the pages on a path, initial one first; equal to a tuple or list of them."""

    __slots__ = ("_tip",)

    def __init__(self, tip: Node) -> None:
        self._tip = tip

    def __iter__(self) -> Iterator[str]:
        return reversed([node[1] for node in nodes_back(self._tip)])

    def __len__(self) -> int:
        return self._tip[4] + 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return tuple(self)[index]

    def __contains__(self, state: object) -> bool:
        return any(node[1] == state for node in nodes_back(self._tip))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (Path, tuple, list)):
            return tuple(self) == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Path({' -> '.join(self)})"

    def args(self, state: str) -> dict[str, Any]:
        """Return the URL arguments with which the page `state` of this path was reached."""
        for node in nodes_back(self._tip):
            if node[1] == state:
                return load_answers(node[2]) if node[2] else {}
        raise KeyError(f"The page {state!r} is not on this path: {' -> '.join(self)}.")
