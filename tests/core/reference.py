"""A plain model of a flow: lists and sets, copied at every step, as slow as it is obvious."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Rules:
    """A machine: its edges in order with their back policies, and its switches."""

    edges: dict[tuple[str, str], str]
    initial: str
    finals: frozenset[str]
    repeat: bool = True
    ordered: bool = False

    def out_of(self, state: str) -> list[tuple[str, str]]:
        return [edge for edge in self.edges if edge[0] == state]


@dataclass(frozen=True)
class Page:
    state: str
    answers: Any = None
    closed: bool = False


@dataclass(frozen=True)
class Run:
    rules: Rules
    path: tuple[Page, ...]
    drafts: dict[str, Any] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()
    taken: frozenset[tuple[str, str]] = frozenset()
    finished: bool = False

    @classmethod
    def of(cls, rules: Rules) -> Run:
        return cls(rules, (Page(rules.initial),))

    @property
    def states(self) -> list[str]:
        return [page.state for page in self.path]

    @property
    def data(self) -> dict[str, Any]:
        return {page.state: page.answers for page in self.path[:-1] if page.answers is not None}

    def may_open(self, state: str) -> bool:
        if state == self.path[-1].state:
            return True
        at = [page for page in self.path if page.state == state]
        return bool(at) and not at[0].closed and not self.finished

    def refusal(self, source: str, target: str) -> str | None:
        """Say why `source -> target` can't be taken, by the code of the error, or None."""
        edge = (source, target)
        if self.finished:
            return "finished"
        if not self.may_open(source):
            return "closed" if source in self.states else "not_on_path"
        if edge not in self.rules.edges:
            return "no_edge"
        taken = self.given_back(source)
        if not self.rules.repeat and edge in taken:
            return "taken"
        if self.rules.ordered:
            order = list(self.rules.edges)
            if not set(order[: order.index(edge)]) <= taken:
                return "skipped"
        return None

    def given_back(self, source: str) -> frozenset[tuple[str, str]]:
        after = self.states[self.states.index(source) :]
        return self.taken - set(itertools.pairwise(after))

    def moved(self, source: str, target: str, answers: Any = None) -> Run:
        """Take an edge that isn't refused."""
        edge, back = (source, target), self.rules.edges[source, target]
        at = self.states.index(source)
        drafts = dict(self.drafts)
        left = self.path[at]
        left = replace(left, answers=left.answers if answers is None else answers)
        if answers is not None:
            drafts.pop(source, None)
        path = [*self.path[:at], left]
        dropped = list(self.path[at + 1 :])
        if target in [page.state for page in path]:
            start = [page.state for page in path].index(target)
            dropped += path[start:]
            path = path[:start]
        elif back != "preserve":
            path[-1] = replace(left, closed=True)
        if back == "invalidate":
            path = [replace(page, closed=True) for page in path]
        drafts |= {page.state: page.answers for page in dropped if page.answers is not None}
        taken = self.given_back(source) | {edge}
        exhausted = not self.rules.repeat and set(self.rules.out_of(target)) <= taken
        finished = target in self.rules.finals or exhausted
        return Run(
            self.rules,
            (*path, Page(target)),
            {} if finished else drafts,
            (*self.history, edge),
            taken,
            finished,
        )
