"""The floors: what a minimal flow written by hand for one app costs.

`BareFlow` moves a state along guarded edges and calls hooks. `FullFlow` also counts revisions,
writes a history and returns a result, as every transition of flask_fsm does. Neither keeps a path,
answers or drafts, isolates a failing hook, or can be decided without being made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Refused(Exception):
    """There is no such edge, or a guard refused."""


class Edge:
    __slots__ = ("event", "guards", "hooks", "source", "target")

    def __init__(
        self,
        source: str,
        target: str,
        guards: Iterable[Callable[..., bool]] = (),
        hooks: Iterable[Callable[..., None]] = (),
        event: str | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.guards = tuple(guards)
        self.hooks = tuple(hooks)
        self.event = event


Ways = Mapping[tuple[str, str], Edge]


class BareFlow:
    """A current state, and nothing else."""

    __slots__ = ("state", "ways")

    def __init__(self, ways: Ways, state: str) -> None:
        self.ways = ways
        self.state = state

    def transition(self, target: str, data: dict[str, Any] | None = None) -> None:
        edge = self.ways.get((self.state, target))
        if edge is None:
            raise Refused(f"no edge {self.state} -> {target}")
        for guard in edge.guards:
            if not guard(self):
                raise Refused(f"{self.state} -> {target}")
        self.state = target
        for hook in edge.hooks:
            hook(self, data)


class Entry(NamedTuple):
    source: str
    target: str
    event: str | None
    at: int
    rev: int


class Result:
    __slots__ = ("data", "edge", "rev")

    def __init__(self, edge: Edge, data: dict[str, Any] | None, rev: int) -> None:
        self.edge = edge
        self.data = data
        self.rev = rev


class FullFlow:
    """A current state with its revision, its history and its answers."""

    __slots__ = ("data", "history", "rev", "state", "ways")

    def __init__(self, ways: Ways, state: str) -> None:
        self.ways = ways
        self.state = state
        self.rev = 0
        self.history: list[Entry] = []
        self.data: dict[str, Any] = {}

    def transition(self, target: str, data: dict[str, Any] | None = None) -> Result:
        source = self.state
        edge = self.ways.get((source, target))
        if edge is None:
            raise Refused(f"no edge {source} -> {target}")
        for guard in edge.guards:
            if not guard(self):
                raise Refused(f"{source} -> {target}")
        if data is not None:
            self.data[source] = data
        self.state = target
        self.rev += 1
        self.history.append(Entry(source, target, edge.event, int(time.time()), self.rev))
        result = Result(edge, data, self.rev)
        for hook in edge.hooks:
            hook(self, result)
        return result

    def dump(self) -> str:
        return json.dumps(
            {"state": self.state, "rev": self.rev, "data": self.data, "history": self.history}
        )

    @classmethod
    def load(cls, ways: Ways, text: str) -> FullFlow:
        record = json.loads(text)
        flow = cls(ways, record["state"])
        flow.rev = record["rev"]
        flow.data = record["data"]
        flow.history = [Entry(*entry) for entry in record["history"]]
        return flow
