"""The funnel of a machine: how many runs reached each page, left it, and where they went.

`funnel_of` counts the entries of a history, `arrange` takes what a database has counted. The rest
shows a funnel: `as_table` in a terminal, `as_json` to programs, `as_svg` as a bar chart.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Final, NamedTuple

__all__ = [
    "Funnel",
    "LogEntry",
    "Stop",
    "arrange",
    "as_json",
    "as_svg",
    "as_table",
    "funnel_of",
    "human_time",
    "median_of",
]


class LogEntry(NamedTuple):
    """One transition as the history of a store keeps it, after its run is over too.

    `flow` names the run, and can't open it. `at` is in whole seconds since 1970. `stayed` is how
    many seconds the run was on `source` before it left, or None if it only passed.
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
    """What happened on one page: a run counts once, however often it came by.

    `reached` and `left` are numbers of runs; `to` says how many of them went where, most first.
    `median` is in seconds, over all stays on the page that ended, or None if none did.
    """

    page: str
    reached: int
    left: int
    to: Mapping[str, int]
    median: float | None


class Funnel(NamedTuple):
    """How far the runs of a machine came. `stops` are in the order in which it names its states.

    Names that the machine does not know (any more) stand behind.
    """

    machine: str
    runs: int
    stops: tuple[Stop, ...]


# -- counting -------------------------------------------------------------------------------


def funnel_of(
    machine_name: str, states: Sequence[str], initial: str, entries: Iterable[LogEntry]
) -> Funnel:
    """Count entries in one pass. Those of one flow must be adjacent.

    It keeps numbers per page, per way and per length of stay, but none per run. A run reached the
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
    """Return the median of numbers that are given as number -> how often; None if there is none."""
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
    """Put what was counted into the order of `states`, unknown names behind in that of the text."""
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


# -- words and numbers ----------------------------------------------------------------------

UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""What no XML may contain, what moves a terminal's cursor, and what turns the text around it."""
ELLIPSIS: Final = "\u2026"


def human_time(seconds: float) -> str:
    """Say a number of seconds in at most two units, such as `1 min 20 s`."""
    if seconds < 10:
        return f"{max(seconds, 0):g} s"
    whole = int(seconds + 0.5)
    minutes = (whole + 30) // 60
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return _two_units(*divmod(whole, 60), "min", "s")
    if minutes < 1_440:
        return _two_units(*divmod(minutes, 60), "h", "min")
    return _two_units(*divmod((whole + 1_800) // 3_600, 24), "d", "h")


def _two_units(large: int, small: int, large_unit: str, small_unit: str) -> str:
    return f"{large:,} {large_unit}" + (f" {small} {small_unit}" if small else "")


def _share(part: int, whole: int) -> str:
    """Say a part in percent, so that 0% is none and 100% is all."""
    if not whole:
        return "0%"
    percent = round(100 * part / whole)
    if part and not percent:
        return "<1%"
    return ">99%" if percent == 100 and part < whole else f"{percent}%"


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number:,} runs" if number else "no runs"


def _shown(name: str) -> str:
    return UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", name)


def _cells(text: str) -> int:
    """Count the columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


# -- to programs, and in a terminal ---------------------------------------------------------


def as_json(funnel: Funnel) -> str:
    """Return the funnel as a JSON object with the names of its fields."""
    stops = [{**stop._asdict(), "to": dict(stop.to)} for stop in funnel.stops]
    return json.dumps({**funnel._asdict(), "stops": stops}, indent=2)


HEADINGS: Final = ("page", "reached", "", "left", "", "median", "went to", "")
TO_THE_LEFT: Final = (0, 6)
CELLS: Final = 36
"""How many columns of a terminal a name may take; in a longer one the middle is left out."""


def as_table(funnel: Funnel) -> str:
    """Return the funnel as lines of text whose columns are aligned.

    The share beside `reached` is of all runs, that beside `left` of those that reached the page.
    """
    rows = [HEADINGS, *_rows(funnel)]
    widths = [max(map(_cells, column)) for column in zip(*rows, strict=True)]
    lines = [f"{_shown(funnel.machine)}: {_runs(funnel.runs)}", ""]
    for row in rows:
        cells = []
        for place, (text, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - _cells(text))
            cells.append(text + gap if place in TO_THE_LEFT else gap + text)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _rows(funnel: Funnel) -> Iterator[tuple[str, ...]]:
    def named(page: str) -> str:
        return _shortened(_shown(page), CELLS, _cells)

    for stop in funnel.stops:
        ways = [(named(target), f"{number:,}") for target, number in stop.to.items()]
        first, *others = ways or [("-", "")]
        yield (
            named(stop.page),
            f"{stop.reached:,}",
            _share(stop.reached, funnel.runs),
            f"{stop.left:,}",
            _share(stop.left, stop.reached),
            "-" if stop.median is None else human_time(stop.median),
            *first,
        )
        for other in others:
            yield ("",) * 6 + other


# -- as a chart -----------------------------------------------------------------------------

WIDTH: Final = 720
MARGIN: Final = 28
INNER: Final = WIDTH - 2 * MARGIN
LINE: Final = 32
BAR: Final = 22
COLUMNS: Final = 49
"""How many letters of usual width a line holds where the chart is narrow and its letters large."""
NAME_COLUMNS: Final = 28
NAME_LINES: Final = 3
BETWEEN: Final = "\N{EM SPACE}"

# Plain rules without custom properties, which not all programs that show SVG know. The class keeps
# them from the page that the chart is a part of. Shown narrow, the whole is scaled down, so the
# letters are made larger; there is room for them.
STYLE: Final = """
.fsm-funnel { max-width: 100%; height: auto; color-scheme: light dark; }
.fsm-funnel text { font: 17px -apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, \
"Helvetica Neue", Arial, sans-serif; fill: #1d2126; }
.fsm-funnel .heading { font-size: 24px; font-weight: 650; }
.fsm-funnel .name { font-weight: 600; }
.fsm-funnel .number { font-variant-numeric: tabular-nums; text-anchor: end; }
.fsm-funnel .soft { fill: #565d66; }
.fsm-funnel .paper { fill: #ffffff; stroke: #d9dbd8; }
.fsm-funnel .all { fill: #ececea; }
.fsm-funnel .reached { fill: #86abdf; }
.fsm-funnel .left { fill: #1d4f91; }
@media (max-width: 560px) {
  .fsm-funnel text { font-size: 26px; }
  .fsm-funnel .heading { font-size: 32px; }
}
@media (prefers-color-scheme: dark) {
  .fsm-funnel text { fill: #e9eaec; }
  .fsm-funnel .soft { fill: #a5acb5; }
  .fsm-funnel .paper { fill: #1e2125; stroke: #363b42; }
  .fsm-funnel .all { fill: #2d3138; }
  .fsm-funnel .reached { fill: #4a6da3; }
  .fsm-funnel .left { fill: #9cc3ff; }
}
"""


def as_svg(funnel: Funnel) -> str:
    """Return the funnel as a bar chart, a file of its own that can also stand within a page.

    It needs nothing from elsewhere, follows the reader's choice of light or dark, and says the
    same in words to those who can't see it.
    """
    chart = _Chart()
    title = f"Funnel of {_shown(funnel.machine)}"
    for line in _broken(title, COLUMNS * 0.8, NAME_LINES):
        chart.down(38)
        chart.text(line, "heading")
    chart.down(LINE)
    chart.text(_runs(funnel.runs), "soft")
    chart.legend()
    for stop in funnel.stops:
        _draw(chart, stop, funnel.runs)
    height = chart.y + MARGIN
    name = "fsm-funnel-" + hashlib.sha256(funnel.machine.encode(errors="replace")).hexdigest()[:8]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="fsm-funnel" width="{WIDTH}"'
            f' height="{height}" viewBox="0 0 {WIDTH} {height}" role="img"'
            f' aria-labelledby="{name}-title" aria-describedby="{name}-desc">',
            f'<title id="{name}-title">{escape(title)}</title>',
            f'<desc id="{name}-desc">{escape(_in_words(funnel))}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}"'
            ' rx="12"/>',
            *chart.parts,
            "</svg>",
            "",
        ]
    )


class _Chart:
    """The parts of a chart, drawn from the top down."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = MARGIN - 12

    def down(self, distance: int) -> None:
        self.y += distance

    def text(self, text: str, kind: str, x: int = MARGIN) -> None:
        if text:
            self.parts.append(f'<text class="{kind}" x="{x}" y="{self.y}">{escape(text)}</text>')

    def bar(self, kind: str, x: int, length: float, y: int, height: int = BAR) -> None:
        if length > 0:
            self.parts.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{max(length, 2):.4g}"'
                f' height="{height}" rx="{min(4, length / 2):.2g}"/>'
            )

    def legend(self) -> None:
        for kind, word, x in (("reached", "reached it", 444), ("left", "left it", 610)):
            self.bar(kind, x - 24, 16, self.y - 14, 16)
            self.text(word, "soft", x)


def _draw(chart: _Chart, stop: Stop, runs: int) -> None:
    chart.down(20)
    for place, line in enumerate(_broken(_shown(stop.page), NAME_COLUMNS, NAME_LINES)):
        chart.down(LINE)
        chart.text(line, "name")
        if not place:
            reached = f"{stop.reached:,} \u00b7 {_share(stop.reached, runs)}"
            chart.text(reached, "number", WIDTH - MARGIN)
    chart.down(10)
    whole = max(runs, 1)
    for kind, number in (("all", whole), ("reached", stop.reached), ("left", stop.left)):
        chart.bar(kind, MARGIN, INNER * number / whole, chart.y)
    chart.down(BAR - 4 + LINE)
    happened, median = " \u00b7 ".join(_happened(stop)), _median(stop)
    chart.text(happened, "soft")
    if median and _columns(f"{happened}  {median}") > COLUMNS:
        chart.down(LINE)
    chart.text(median, "soft number", WIDTH - MARGIN)
    for line in _filled(_went(stop)):
        chart.down(LINE)
        chart.text(line, "soft")


def _happened(stop: Stop) -> Iterator[str]:
    """Say what came of the runs on a page."""
    if stop.left:
        yield f"{stop.left:,} left it ({_share(stop.left, stop.reached)})"
    if stop.reached > stop.left:
        yield f"{stop.reached - stop.left:,} stayed"
    if not stop.reached:
        yield "not reached"


def _median(stop: Stop) -> str:
    return "" if stop.median is None else f"median {human_time(stop.median)}"


def _went(stop: Stop) -> Iterator[str]:
    """Say how many runs went where."""
    for target, number in stop.to.items():
        count = f"{number:,}"
        yield f"\u2192 {_shortened(_shown(target), COLUMNS - 4 - len(count))} {count}"


def _in_words(funnel: Funnel) -> str:
    """Say the whole chart."""
    sentences = [f"{_runs(funnel.runs).capitalize()}."]
    for stop in funnel.stops:
        happened = [*_happened(stop), _median(stop)]
        if stop.reached:
            share = _share(stop.reached, funnel.runs)
            happened.insert(0, f"{stop.reached:,} reached it ({share})")
        sentences.append(f"{_shown(stop.page)}: {', '.join(filter(None, happened))}.")
        if stop.to:
            ways = (f"{number:,} to {_shown(target)}" for target, number in stop.to.items())
            sentences.append(f"They went: {', '.join(ways)}.")
    return " ".join(sentences)


# -- how wide a text is, without a font ------------------------------------------------------

WIDTHS: Final = {
    letter: width
    for width, letters in (
        (0.65, "fijlrtI!'()*,-./:;[\\]`{|} "),
        (1.35, "wABCDEGHKNOPQRSUVXYZ&_"),
        (1.05, "0123456789"),
        (1.75, "mMW@%"),
        (1.9, "\u2026\u2192\u2003"),
    )
    for letter in letters
}
"""Letters that are not of usual width."""


def _columns(text: str) -> float:
    """Guess the width of a text in a chart, in letters of usual width."""
    return sum(WIDTHS.get(letter) or _cells(letter) for letter in text)


def _fits(text: str, columns: float, measure: Callable[[str], float]) -> int:
    """Tell how many letters of `text` fit, at least one."""
    used = 0.0
    for place, letter in enumerate(text):
        used += measure(letter)
        if used > columns and place:
            return place
    return len(text)


def _shortened(text: str, columns: float, measure: Callable[[str], float] = _columns) -> str:
    """Leave out the middle of a text that is too long: names often differ in their last letters."""
    if measure(text) <= columns:
        return text
    half = (columns - measure(ELLIPSIS)) / 2
    first, last = _fits(text, half, measure), _fits(text[::-1], half, measure)
    return text[:first] + ELLIPSIS + text[-last:]


def _broken(text: str, columns: float, limit: int) -> list[str]:
    """Break a text into at most `limit` lines, after a space or a sign if there is one."""
    text = _shortened(text, columns * limit * 0.8)
    lines: list[str] = []
    while text:
        end = _fits(text, columns, _columns)
        if end < len(text):
            after = max(text.rfind(sign, 0, end) for sign in " _-./:") + 1
            end = after if after > end // 2 else end
        lines.append(text[:end].rstrip(" "))
        text = text[end:]
    return lines or [""]


def _filled(parts: Iterable[str]) -> list[str]:
    """Put as many parts into each line as it holds."""
    lines: list[str] = []
    for part in parts:
        if lines and _columns(lines[-1] + BETWEEN + part) <= COLUMNS:
            lines[-1] += BETWEEN + part
        else:
            lines.append(part)
    return lines
