"""The funnel of a machine: how many runs reached each page, left it, and where they went.

`funnel_of` counts the entries of a history; `arrange` takes what a database has counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

__all__ = ["Funnel", "LogEntry", "Stop", "arrange", "funnel_of", "median_of"]


class LogEntry(NamedTuple):
    """One transition in the history of a store, which outlives the run.

    `flow` identifies the run, but does not give access to it. `at` is in whole seconds since
    1970. `stayed` is how many seconds the run was on `source` before it left, or None if it
    passed through within one commit.
    """

    flow: str
    machine: str
    source: str
    target: str
    event: str | None
    at: int
    rev: int
    stayed: int | None


class Stop(NamedTuple):
    """What happened on one page. A run counts once, however often it was there.

    `reached` and `left` are numbers of runs; `to` maps the next pages to numbers of
    runs, largest first.
    `median` is in seconds, over all stays on the page that ended, or None if none did.
    """

    page: str
    reached: int
    left: int
    to: Mapping[str, int]
    median: float | None


class Funnel(NamedTuple):
    """How far the runs of a machine came.

    `stops` are in the order of the machine's states; pages that it no longer has come last.
    """

    machine: str
    runs: int
    stops: tuple[Stop, ...]


def funnel_of(
    machine_name: str, states: Sequence[str], initial: str, entries: Iterable[LogEntry]
) -> Funnel:
    """Count entries in one pass. Those of one flow must be adjacent.

    Memory grows with pages, edges and different lengths of stay, not with runs. A run reached the
    pages that its entries name, and the initial one if its entry of rev 1 is among them.
    """
    runs = 0
    reached: Counter[str] = Counter()
    left: Counter[str] = Counter()
    went: Counter[tuple[str, str]] = Counter()
    stays: dict[str, Counter[int]] = {}
    for _, of_flow in groupby(entries, lambda entry: entry.flow):
        runs += 1
        ways: set[tuple[str, str]] = set()
        seen: set[str] = set()
        for entry in of_flow:
            ways.add((entry.source, entry.target))
            if entry.rev == 1:
                seen.add(initial)
            if entry.stayed is not None:
                stays.setdefault(entry.source, Counter())[entry.stayed] += 1
        sources = {source for source, _ in ways}
        reached.update(seen | sources | {target for _, target in ways})
        left.update(sources)
        went.update(ways)
    medians = {page: median_of(lengths) for page, lengths in stays.items()}
    return arrange(machine_name, states, runs, reached, left, went, medians)


def median_of(counted: Mapping[int, int]) -> float | None:
    """Return the median of numbers, given as number -> frequency, or None if there are none."""
    total = sum(counted.values())
    low: int | None = None
    upto = 0
    for number in sorted(counted):
        upto += counted[number]
        if low is None and 2 * upto >= total > 0:
            low = number
        if low is not None and 2 * upto > total:
            return (low + number) / 2
    return None


def arrange(
    machine_name: str,
    states: Iterable[str],
    runs: int,
    reached: Mapping[str, int],
    left: Mapping[str, int],
    went: Mapping[tuple[str, str], int],
    medians: Mapping[str, float | None],
) -> Funnel:
    """Return counts in the order of `states`, then other pages by name."""
    order = {state: place for place, state in enumerate(states)}
    for page in sorted(reached.keys() - order.keys()):
        order[page] = len(order)
    to: dict[str, dict[str, int]] = {page: {} for page in order}
    for (source, target), number in sorted(
        went.items(), key=lambda item: (-item[1], order[item[0][1]])
    ):
        if number:
            to[source][target] = number
    stops = (
        Stop(page, reached.get(page, 0), left.get(page, 0), to[page], medians.get(page))
        for page in order
    )
    return Funnel(machine_name, runs, tuple(stops))
