"""How reports write numbers, times and names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

__all__ = [
    "ELLIPSIS",
    "fitting",
    "human_time",
    "printable",
    "run_count",
    "share",
    "shortened",
    "terminal_width",
]

UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Characters that XML forbids, that move a terminal's cursor, or change the text direction."""
ELLIPSIS: Final = "\u2026"


def human_time(seconds: float) -> str:
    """Return a number of seconds in at most two units, such as `1 min 20 s`."""
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


def share(part: int, whole: int) -> str:
    """Return a part in percent; 0% always means none, and 100% all."""
    if not whole:
        return "0%"
    percent = round(100 * part / whole)
    if part and not percent:
        return "<1%"
    return ">99%" if percent == 100 and part < whole else f"{percent}%"


def run_count(number: int) -> str:
    """Return a number of runs in words."""
    return "1 run" if number == 1 else f"{number:,} runs" if number else "no runs"


def printable(name: str) -> str:
    """Return a name with a replacement character for what can't be shown."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", name)


def terminal_width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def fitting(text: str, columns: float, measure: Callable[[str], float]) -> int:
    """Return how many letters of `text` fit into so many columns, at least one."""
    used = 0.0
    for place, letter in enumerate(text):
        used += measure(letter)
        if used > columns and place:
            return place
    return len(text)


def shortened(text: str, columns: float, measure: Callable[[str], float]) -> str:
    """Shorten a text in its middle, if it is too long: names often differ in their last letters."""
    if measure(text) <= columns:
        return text
    half = (columns - measure(ELLIPSIS)) / 2
    first, last = fitting(text, half, measure), fitting(text[::-1], half, measure)
    return text[:first] + ELLIPSIS + text[-last:]
