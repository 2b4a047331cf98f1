"""Progress: which pages of a run are done, and which lie ahead."""

from __future__ import annotations

from typing import NamedTuple

from .evaluation import guards_allow
from .flow_base import FlowBase

__all__ = ["Progress", "progress_of"]


class Progress(NamedTuple):
    """What a progress bar shows.

    Attributes:
        done: The pages before the current one.
        current: The current page.
        ahead: The pages that follow, as far as they are known.
        open_ended: Whether more may follow, which depends on answers yet to be given.
    """

    done: tuple[str, ...]
    current: str
    ahead: tuple[str, ...]
    open_ended: bool

    @property
    def pages(self) -> tuple[str, ...]:
        """All pages, in order."""
        return (*self.done, self.current, *self.ahead)


def progress_of(flow: FlowBase, page: str | None) -> Progress:
    """Return the progress of `flow` with `page` as the current one, if it is on the path."""
    path = tuple(flow.path)
    at = path.index(page) if page in path else len(path) - 1
    ahead: list[str] = list(path[at + 1 :])
    seen = set(path)
    state = path[-1]
    open_ended = False
    with flow.judged_by({**flow.drafts, **flow.data}) as data:
        while not flow.finished and not flow.machine.complete(state):
            ways = flow.machine.ways[state]
            unseen = targets = [target for target in ways if target not in seen]
            if len(unseen) > 1:
                targets = [t for t in unseen if state in data and guards_allow(flow, ways[t])]
            if len(targets) != 1:
                open_ended = bool(unseen)
                break
            state = targets[0]
            seen.add(state)
            ahead.append(state)
    return Progress(path[:at], path[at], tuple(ahead), open_ended)
