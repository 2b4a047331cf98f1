"""Actions: what the transport of a client has to do next: write, close, or run a job."""

from __future__ import annotations

from typing import NamedTuple

from ..protocol.frames import FrameKind

__all__ = ["Close", "Frame", "Job"]


class Frame(NamedTuple):
    """Write a frame: its kind, its text, and the id of all messages up to it, if it has one."""

    kind: FrameKind
    text: str
    id: str | None


class Close(NamedTuple):
    """End the connection with a close code."""

    code: int


class Job(NamedTuple):
    """Have the client's session run an event, look up the state of its flow, or read on."""

    text: str | bytes | None = None
    """The frame of the event, or None to look up the state."""
    once_key: str = ""
    """The name of the job among all processes, if only one of them may run it."""
    if_replaced: bool = False
    """Whether to send the state only if another flow has taken the place of this one."""
    reads_missed: bool = False
    """Whether to read on what the client has missed, instead of the state."""
