"""A reader of text/event-stream, after the WHATWG's HTML standard, section 9.2.6, but strict.

Where the standard lets a reader ignore what it does not know, this one raises ValueError.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Event", "Parsed", "parse"]


class Event(NamedTuple):
    """An event as a browser dispatches it."""

    type: str
    data: str
    last_id: str


class Parsed(NamedTuple):
    """What a stream said: its events, the reconnection times in it, and its comments."""

    events: list[Event]
    retries: list[int]
    comments: list[str]


def lines_of(text: str) -> list[str]:
    """Split at CR LF, LF and CR; what comes after the last end of a line is an error."""
    lines, line, after_return = [], "", False
    for char in text:
        if char == "\n" and after_return:
            after_return = False
            continue
        after_return = char == "\r"
        if char in "\r\n":
            lines.append(line)
            line = ""
        else:
            line += char
    if line:
        raise ValueError(f"The stream ends within a line: {line!r}")
    return lines


def parse(stream: bytes) -> Parsed:
    """Return what a whole stream says; raises ValueError where it is faulty."""
    found = Parsed([], [], [])
    kind, data, last_id, pending = "", "", "", False
    for line in lines_of(stream.decode("utf-8").removeprefix("\ufeff")):
        if not line:
            if data:
                found.events.append(Event(kind or "message", data.removesuffix("\n"), last_id))
            kind, data, pending = "", "", False
            continue
        if line.startswith(":"):
            found.comments.append(line[1:])
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        pending = True
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            found.retries.append(int(value))
        else:
            raise ValueError(f"This line says nothing: {line!r}")
    if pending:
        raise ValueError("The stream ends within an event.")
    return found
