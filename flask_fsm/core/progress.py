"""Progress: which pages of a run are done, and which lie ahead."""

from __future__ import annotations

from typing import NamedTuple

from .decision import holds
from .flow_base import FlowBase

__all__ = ["Progress", "progress_of"]


class Progress(NamedTuple):
    """For a progress bar: the pages `done`, the `current` one, and those `ahead`.

    `open_ended` says that more may follow: the answers so far don't tell where the way leads.
    """

    done: tuple[str, ...]
    current: str
    ahead: tuple[str, ...]
    open_ended: bool

    @property
    def pages(self) -> tuple[str, ...]:
        """All pages of the bar, in order."""
        return (*self.done, self.current, *self.ahead)


def progress_of(flow: FlowBase, page: str | None) -> Progress:
    """Return the progress of `flow` as seen from `page`, by default from the current one."""
    path = tuple(flow.path)
    at = path.index(page) if page in path else len(path) - 1
    ahead: list[str] = list(path[at + 1 :])
    seen = set(path)
    state = path[-1]
    open_ended = False
    with flow.judged_by({**flow.drafts, **flow.data}) as data:
        while not flow.finished and not flow.machine.complete(state):
            ways = [edge for edge in flow.machine.ways[state].values() if edge.target not in seen]
            if len(ways) > 1:
                ways = [e for e in ways if holds(flow, e)] if state in data else []
            if len(ways) != 1:
                open_ended = any(t not in seen for t in flow.machine.ways[state])
                break
            state = ways[0].target
            seen.add(state)
            ahead.append(state)
    return Progress(path[:at], path[at], tuple(ahead), open_ended)
