"""Side-by-side timing: interleaved rounds in one process, medians of paired ratios."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

Round = Callable[[], Callable[[], object]]
"""Prepares one round outside the clock, and returns what is timed."""


def interleaved(subjects: Mapping[str, Round], rounds: int) -> dict[str, list[float]]:
    """Time every subject once per round, so that a busy machine slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, prepare in subjects.items():
            run = prepare()
            gc.collect()
            gc.disable()
            start = perf_counter()
            run()
            took = perf_counter() - start
            gc.enable()
            if number:  # the first round warms up
                seconds[name].append(took)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of the rounds."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
