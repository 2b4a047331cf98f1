"""SSE: the text format of server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
from typing import Any, Final

from ...core.reply import dump_reply
from ...texts import is_text

__all__ = ["COMMENT", "STREAM_HEADERS", "event_bytes", "retry_bytes"]

COMMENT: Final = b": \n\n"
"""A heartbeat: a comment, which clients ignore."""
STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
"""The headers of the response: no cache, and no buffer of a proxy, may hold events back."""
LINE_END: Final = re.compile(r"\r\n|\r|\n")
UNSAFE: Final = re.compile(r"[\r\n\0]")


def retry_bytes(milliseconds: int) -> bytes:
    """Return the field that tells a client how long to wait before it reconnects."""
    return b"retry: %d\n\n" % milliseconds


def event_bytes(event: Any, data: Any, id: Any = None, retry: int | None = None) -> bytes:
    """Return one event of a text/event-stream.

    A payload that is not text is sent as JSON; raises TypeError if that is impossible. Characters
    that end a line are left out of `event` and `id`.
    """
    if not isinstance(data, str):
        data = str(data) if is_text(data) else dump_reply(data)
    text: str = data
    lines = [] if event is None else [f"event: {UNSAFE.sub('', str(event))}"]
    if retry is not None:
        lines.append(f"retry: {retry:d}")
    if id is not None:
        lines.append(f"id: {UNSAFE.sub('', str(id))}")
    if "\n" in text or "\r" in text:
        lines += [f"data: {line}" for line in LINE_END.split(text)]
    else:
        lines.append(f"data: {text}")
    block = "\n".join(lines) + "\n\n"
    try:
        return block.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which UTF-8 can't encode; two halves become one character.
        return block.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
