"""The funnel as a bar chart in SVG."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from .funnel import Funnel, Stop
from .text import fitting, human_time, printable, run_count, share, shortened, terminal_width

__all__ = ["as_svg"]

WIDTH: Final = 720
MARGIN: Final = 28
INNER: Final = WIDTH - 2 * MARGIN
LINE: Final = 32
BAR: Final = 22
COLUMNS: Final = 49
"""Number of letters of average width in a line of the narrow chart, whose letters are larger."""
NAME_COLUMNS: Final = 28
NAME_LINES: Final = 3
BETWEEN: Final = "\N{EM SPACE}"

# Without custom properties, which some viewers of SVG don't support. The class keeps the rules from
# affecting the page around the chart. On a narrow screen the chart is scaled down, so its letters
# are larger there.
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
    """Return the funnel as a bar chart, for a file or to be embedded in a page.

    It loads nothing, follows the reader's choice of light or dark, and contains a description in
    words for screen readers.
    """
    chart = _Chart()
    title = f"Funnel of {printable(funnel.machine)}"
    for line in _wrapped_lines(title, COLUMNS * 0.8, NAME_LINES):
        chart.down(38)
        chart.text(line, "heading")
    chart.down(LINE)
    chart.text(run_count(funnel.runs), "soft")
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
        self.y: int = MARGIN - 12

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
    for place, line in enumerate(_wrapped_lines(printable(stop.page), NAME_COLUMNS, NAME_LINES)):
        chart.down(LINE)
        chart.text(line, "name")
        if not place:
            reached = f"{stop.reached:,} \u00b7 {share(stop.reached, runs)}"
            chart.text(reached, "number", WIDTH - MARGIN)
    chart.down(10)
    whole = max(runs, 1)
    for kind, number in (("all", whole), ("reached", stop.reached), ("left", stop.left)):
        chart.bar(kind, MARGIN, INNER * number / whole, chart.y)
    chart.down(BAR - 4 + LINE)
    happened, median = " \u00b7 ".join(_happened(stop)), _median(stop)
    chart.text(happened, "soft")
    if median and _chart_width(f"{happened}  {median}") > COLUMNS:
        chart.down(LINE)
    chart.text(median, "soft number", WIDTH - MARGIN)
    for line in _filled_lines(_went(stop)):
        chart.down(LINE)
        chart.text(line, "soft")


def _happened(stop: Stop) -> Iterator[str]:
    """Yield how many runs left a page, stayed on it, or did not reach it."""
    if stop.left:
        yield f"{stop.left:,} left it ({share(stop.left, stop.reached)})"
    if stop.reached > stop.left:
        yield f"{stop.reached - stop.left:,} stayed"
    if not stop.reached:
        yield "not reached"


def _median(stop: Stop) -> str:
    return "" if stop.median is None else f"median {human_time(stop.median)}"


def _went(stop: Stop) -> Iterator[str]:
    """Yield how many runs went on to each page."""
    for target, number in stop.to.items():
        count = f"{number:,}"
        page = shortened(printable(target), COLUMNS - 4 - len(count), _chart_width)
        yield f"\u2192 {page} {count}"


def _in_words(funnel: Funnel) -> str:
    """Return the whole chart in words."""
    sentences = [f"{run_count(funnel.runs).capitalize()}."]
    for stop in funnel.stops:
        happened = [*_happened(stop), _median(stop)]
        if stop.reached:
            percent = share(stop.reached, funnel.runs)
            happened.insert(0, f"{stop.reached:,} reached it ({percent})")
        sentences.append(f"{printable(stop.page)}: {', '.join(filter(None, happened))}.")
        if stop.to:
            ways = (f"{number:,} to {printable(target)}" for target, number in stop.to.items())
            sentences.append(f"They went: {', '.join(ways)}.")
    return " ".join(sentences)


# -- the width of a text, without a font ----------------------------------------------------

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
"""The widths of letters that are not of usual width."""


def _chart_width(text: str) -> float:
    """Return the estimated width of a text in a chart, in letters of usual width."""
    return sum(WIDTHS.get(letter) or terminal_width(letter) for letter in text)


def _wrapped_lines(text: str, columns: float, limit: int) -> list[str]:
    """Break a text into at most `limit` lines, after a space or punctuation where possible."""
    text = shortened(text, columns * limit * 0.8, _chart_width)
    lines: list[str] = []
    while text:
        end = fitting(text, columns, _chart_width)
        if end < len(text):
            after = max(text.rfind(sign, 0, end) for sign in " _-./:") + 1
            end = after if after > end // 2 else end
        lines.append(text[:end].rstrip(" "))
        text = text[end:]
    return lines or [""]


def _filled_lines(parts: Iterable[str]) -> list[str]:
    """Put as many parts into each line as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and _chart_width(lines[-1] + BETWEEN + part) <= COLUMNS:
            lines[-1] += BETWEEN + part
        else:
            lines.append(part)
    return lines
