"""The funnel as a table for a terminal, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from .funnel import Funnel
from .text import human_time, printable, run_count, share, shortened, terminal_width

__all__ = ["as_json", "as_table"]


def as_json(funnel: Funnel) -> str:
    """Return the funnel as a JSON object with the names of its fields."""
    stops = [{**stop._asdict(), "to": dict(stop.to)} for stop in funnel.stops]
    return json.dumps({**funnel._asdict(), "stops": stops}, indent=2)


HEADINGS: Final = ("page", "reached", "", "left", "", "median", "went to", "")
LEFT_ALIGNED: Final = (0, 6)
NAME_COLUMNS: Final = 36
"""Maximum width of a name, in terminal columns; a longer one is shortened in its middle."""


def as_table(funnel: Funnel) -> str:
    """Return the funnel as lines of text whose columns are aligned.

    The percentage beside `reached` is of all runs, the one beside `left` of those that reached the
    page.
    """
    rows = [HEADINGS, *_rows(funnel)]
    widths = [max(map(terminal_width, column)) for column in zip(*rows, strict=True)]
    lines = [f"{printable(funnel.machine)}: {run_count(funnel.runs)}", ""]
    for row in rows:
        cells = []
        for place, (text, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - terminal_width(text))
            cells.append(text + gap if place in LEFT_ALIGNED else gap + text)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _rows(funnel: Funnel) -> Iterator[tuple[str, ...]]:
    def named(page: str) -> str:
        return shortened(printable(page), NAME_COLUMNS, terminal_width)

    for stop in funnel.stops:
        ways = [(named(target), f"{number:,}") for target, number in stop.to.items()]
        first, *others = ways or [("-", "")]
        yield (
            named(stop.page),
            f"{stop.reached:,}",
            share(stop.reached, funnel.runs),
            f"{stop.left:,}",
            share(stop.left, stop.reached),
            "-" if stop.median is None else human_time(stop.median),
            *first,
        )
        for other in others:
            yield ("",) * 6 + other
