"""Subscriber: what one socket or stream listens to, and what it is to be sent.

Whatever serves it, threads or a loop, pushes nothing itself: all that goes out lies in one queue.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ...bus import Position
from ...errors import QueueFull, UnknownListener
from ..channels.app_channels import FLOW, Delivered, Envelope, Gap, LiveChannel
from ..channels.listener import Connection, Listener, MessageQueue
from ..channels.message import Message
from ..protocol.frames import dumps, group_frame, stamped

__all__ = [
    "CLOSE_GOING",
    "CLOSE_OTHER_USER",
    "CLOSE_OVERLOAD",
    "Close",
    "Frame",
    "Job",
    "Subscriber",
]

CLOSE_GOING = 1012
CLOSE_OVERLOAD = 1013
CLOSE_OTHER_USER = 4401
# How many runs are remembered as over.
RUNS = 8


class Frame(NamedTuple):
    """A frame to write: the event of a stream that it is, its text, and the id up to it."""

    kind: str
    text: str
    id: str | None


class Close(NamedTuple):
    """Says that the connection ends, and why."""

    code: int


class Job(NamedTuple):
    """Something that the flow has to be asked for: an event to run, or None for its state."""

    text: str | bytes | None = None
    once: str = ""
    """What names it among all processes, if it is to be done by one of them only."""
    anew: bool = False
    """Whether the state is of interest only if the flow is another one by now."""


class Replayed(Delivered):
    """A message that a client has missed, of a bus that may lag behind the store.

    The client may have been shown a later state than the bus had, and no state may go back: so
    the states that were missed are told by the newest one alone.
    """

    __slots__ = ()


class Direct(Message):
    """A frame for this client only."""

    __slots__ = ("body", "gap", "ref", "shows")

    def __init__(
        self,
        kind: str,
        body: str,
        ref: Any = None,
        gap: bool = False,
        shows: tuple[str, int] | None = None,
    ) -> None:
        self._type = kind
        self._payload = self.latest = None
        self.body = body
        self.ref = ref
        self.gap = gap
        self.shows = shows


class Switch(Message):
    """Says that from here on another channel, at a position, is that of the flow."""

    __slots__ = ("channel", "position")

    def __init__(self, channel: LiveChannel, position: Position) -> None:
        super().__init__("switch", None)
        self.channel = channel
        self.position = position


class PatientQueue(MessageQueue):
    """A queue that tells of its overflow once, in place of raising at whoever pushes."""

    __slots__ = ("_size", "overflown")

    def __init__(self, limit: int, on_push: Callable[[], None]) -> None:
        super().__init__(limit, on_push)
        self._size = limit
        self.overflown = False

    def stretch(self) -> bool:
        """Take any number, unless too many wait already; tell whether `settle` is to end that."""
        if len(self._waiting) >= self._size:
            return False
        self.limit = sys.maxsize
        return True

    def settle(self) -> None:
        """Take no more than some messages beyond those that wait now."""
        self.limit = max(self._size, len(self._waiting) + self._size // 2)

    def push(self, message: Any) -> None:
        if self.overflown:
            return
        try:
            super().push(message)
        except QueueFull:
            self.overflow()

    def overflow(self) -> None:
        """Take nothing more, and call whoever serves this queue, who cuts the client."""
        self.overflown = True
        self.call()

    def clear(self) -> None:
        """Forget what waits, and take nothing more."""
        self.overflown = True
        while self.take() is not None:
            pass

    def call(self) -> None:
        """Call whoever serves this queue, without a message."""
        if self.on_push is not None:
            self.on_push()


class Subscriber:
    """Listens to the channel of a flow, of its subject and of groups, as one client."""

    __slots__ = (
        "_answered",
        "_awaited",
        "_channels",
        "_first",
        "_held",
        "_ids",
        "_next",
        "_over",
        "_places",
        "_positions",
        "_reached",
        "_sent",
        "_shown",
        "_shows",
        "_silent",
        "id",
        "listener",
        "queue",
    )

    def __init__(self, limit: int, on_push: Callable[[], None], *, ids: bool) -> None:
        self.id = secrets.token_urlsafe(16)
        self.queue = PatientQueue(limit, on_push)
        self.listener = Listener(self.id)
        self.listener.start()
        self._channels: list[LiveChannel] = []
        self._places: dict[str, int] = {}
        """Where a channel stands in the lists of channels, of positions and of their texts."""
        self._positions: list[Position] = []
        self._reached: list[str] = []
        self._silent: list[LiveChannel] = []
        # Answers to this client that were sent on its flow's channel and have not come yet.
        self._awaited: deque[tuple[str, Envelope]] = deque()
        self._sent = 0
        self._answered = 0
        # What comes before all that is queued, as a message may be queued while we still join.
        self._first: deque[Any] = deque()
        self._next: deque[LiveChannel] = deque()
        """The channels that have been switched to, except those that have been left by now."""
        self._held = False
        """Whether what is queued waits for the state, since messages are lost."""
        self._ids = ids
        self._shown: tuple[str, int] | None = None
        self._shows = ""
        """The state frame that was shown last."""
        self._over: tuple[str, ...] = ()
        """The runs that others have followed."""

    # -- joining ------------------------------------------------------------------------

    def join(self, channel: LiveChannel, *, silent: bool = False) -> None:
        """Listen to a channel from now on; one that is `silent` brings orders, and no frames."""
        channel.register_connection(Connection(self.listener, self.queue))
        if silent:
            self._silent.append(channel)
        else:
            self._places[channel.id] = len(self._channels)
            self._channels.append(channel)
            self._positions.append(channel.position)
            self._reached.append(str(channel.position))

    def catch_up(self, since: str) -> list[str]:
        """Put what came after the id `since` first; return the names of channels that lost some."""
        asked = since.split(",") if since else []
        lost = []
        for place, channel in enumerate(self._channels):
            position = Position.parse(asked[place]) if place < len(asked) else None
            missed = None if position is None else channel.bus.since(channel.id, position)
            if missed is None or position is None:
                lost.append(channel.id)
                continue
            self._reach(place, position)
            kind = Delivered if channel.bus.synchronous else Replayed
            self._first.extend(
                kind(channel.id, at, Envelope.decode(payload)) for at, payload in missed
            )
        return lost

    def switch(self, channel: LiveChannel) -> None:
        """Listen to another flow from now on; what it says before this call is not told."""
        channel.register_connection(Connection(self.listener, self.queue))
        self._next.append(channel)
        self.queue.push(Switch(channel, channel.position))

    def leave(self) -> None:
        """Listen to nothing any more."""
        self.listener.stop()
        for channel in {*self._channels, *self._silent, *self._next}:
            with suppress(UnknownListener):  # it was cut
                channel.remove_listener(self.listener.id)
        self._channels, self._silent = [], []
        self._places.clear()

    # -- saying -------------------------------------------------------------------------

    def say(self, frame: str, ref: Any = None, *, kind: str = "data") -> None:
        """Queue a frame for this client only."""
        self.queue.push(Direct(kind, frame, ref))

    def mark(self, channel: str, answer: Envelope) -> Envelope:
        """Number an answer that is about to be sent on a channel, and keep it until it comes.

        Should the channel lose it, it is told from here.
        """
        self._sent += 1
        marked = answer._replace(number=self._sent)
        self._awaited.append((channel, marked))
        if len(self._awaited) > self.queue.limit:
            self.queue.overflow()
        return marked

    @property
    def expecting(self) -> bool:
        """Whether such answers are still to come, so that what is said now would come before."""
        return self._sent > self._answered

    def _take_back(self) -> None:
        """Put the answers that will not come before all that is queued."""
        while self._awaited:
            _, answer = self._awaited.popleft()
            self._answered = answer.number
            self._first.append(answer)

    def greet(self, frame: str, run: str, rev: int, *, gap: bool = False) -> None:
        """Put the state frame of joining before all that is queued."""
        self._first.append(Direct("state", frame, None, gap, (run, rev)))

    def release(self) -> None:
        """Go on after a gap, now that the state is there, or can't be told."""
        if self._held:
            self._held = False
            self.queue.call()

    def show(self, frame: str, run: str, rev: int, *, gap: bool = False) -> None:
        """Queue a state frame for this client only, unless it has been shown that state."""
        self.queue.push(Direct("state", frame, None, gap, (run, rev)))

    def tell_gap(self, name: str) -> None:
        """Say first that messages of a group are lost."""
        channel = next(channel for channel in self._channels if channel.id == name)
        self._first.append(Gap(name, channel.position))

    # -- what goes out ------------------------------------------------------------------

    def _id_so_far(self) -> str | None:
        """Return the id of all that has gone out: the position in each channel."""
        return ",".join(self._reached) if self._ids else None

    def take(self) -> Frame | Close | Job | None:
        """Return what goes out next, or None if nothing waits."""
        queue, first = self.queue, self._first
        while not queue.overflown:
            message: Any
            if first:
                message = first.popleft()
            elif self._held:
                return None
            else:
                message = queue.take()
                if message is None:
                    return None
            out: Frame | Close | Job | None
            if isinstance(message, Delivered):
                out = self._delivered(message)
            elif isinstance(message, Direct):
                out = self._direct(message)
            elif isinstance(message, Envelope):
                out = self._returned(message)
            elif isinstance(message, Switch):
                self._switched(message)
                continue
            else:
                out = self._lost(message)
            if out is not None:
                return out
        return Close(CLOSE_OVERLOAD)

    def _direct(self, message: Direct) -> Frame | None:
        if message.shows is not None:
            body = message.body
            if not self._is_late(*message.shows):
                self._see(*message.shows, body)
            elif not message.gap:
                return None
            elif message.shows != self._shown:
                # It was read before a later state came with what had been missed.
                body = dumps({**json.loads(self._shows), "status": 200, "data": None})
            id = self._id_so_far()
            return Frame("state", stamped(body, message.ref, id, gap=message.gap), id)
        return Frame(message._type, stamped(message.body, message.ref), None)

    def _switched(self, message: Switch) -> None:
        old, self._channels[0] = self._channels[0], message.channel
        del self._places[old.id]
        self._places[message.channel.id] = 0
        while self._next[0] is not message.channel:
            self._next.popleft()  # never the last one: another thread may ask for it
        self._take_back()
        self._reach(0, message.position)
        with suppress(UnknownListener):
            old.remove_listener(self.listener.id)

    @property
    def flow_channel(self) -> str:
        """The channel of the flow; for a flow of this client's own, what stands for it."""
        if self._next:
            return self._next[-1].id
        first = self._channels[0].id if self._channels else ""
        return first if first.startswith(FLOW) else self.id

    def _reach(self, place: int, position: Position) -> None:
        self._positions[place] = position
        self._reached[place] = str(position)

    def _delivered(self, message: Delivered) -> Frame | Close | Job | None:
        kind, body, sender, ref, run, rev, number = message.envelope
        place = self._places.get(message.channel)
        if place is not None:
            (epoch, offset), seen = message.position, self._positions[place]
            if epoch == seen.epoch and offset <= seen.offset:
                return None
            self._positions[place] = message.position
            self._reached[place] = message.id
        elif kind == "anew":
            return Job(anew=True)
        elif kind in ("state", "data", "message"):
            return None  # of a flow that this client is about to switch to, or has left
        if number and sender == self.id:
            if number <= self._answered:
                return None  # it was told when the channel seemed to have lost it
            self._answered = number
            while self._awaited and self._awaited[0][1].number <= number:
                channel, answer = self._awaited.popleft()
                if channel != message.channel:  # of a run that was begun meanwhile
                    self._first.append(answer)
        if kind == "answer":
            return Frame("data", stamped(body, ref), None) if sender == self.id else None
        if kind == "state":
            if isinstance(message, Replayed):
                return None
            if self._is_late(run, rev):
                asked = sender == self.id and ref is not None
                return self._answer(body, ref) if asked else None
            self._see(run, rev, body)
        elif kind in ("replaced", "left", "close"):
            return Close(int(body))
        elif kind == "send":
            return Job(body, f"{message.channel} {message.id} {self.flow_channel}")
        id = self._id_so_far()
        name = "group" if kind == "message" else kind
        return Frame(name, stamped(body, ref if sender == self.id else None, id), id)

    def _returned(self, message: Envelope) -> Frame | None:
        """Tell an answer that the channel has lost."""
        kind, body, _, ref, run, rev, _ = message
        if kind == "state":
            if self._is_late(run, rev):
                return None if ref is None else self._answer(body, ref)
            self._see(run, rev, body)
            return Frame(kind, stamped(body, ref), None)
        return Frame("data", stamped(body, ref), None)

    def _is_late(self, run: str, rev: int) -> bool:
        """Tell whether a state is older than the one that was shown."""
        shown = self._shown
        if shown is None:
            return False
        return rev <= shown[1] if run == shown[0] else run in self._over

    def _see(self, run: str, rev: int, body: str) -> None:
        if self._shown is not None and self._shown[0] != run:
            self._over = (*self._over[1 - RUNS :], self._shown[0])
        self._shown = (run, rev)
        self._shows = body

    def _answer(self, body: str, ref: Any) -> Frame:
        """Answer an event whose state has been overtaken: by the later one that was shown."""
        late = json.loads(body)
        frame = {**json.loads(self._shows), "status": late["status"], "data": late["data"]}
        id = self._id_so_far()
        return Frame("state", stamped(dumps(frame), ref, id), id)

    def _lost(self, message: Any) -> Frame | Job | None:
        """Go on after a gap: the flow is asked for its state, a group is said to have lost some."""
        place = self._places.get(message.channel) if isinstance(message, Gap) else None
        if place is None:
            return None
        self._reach(place, message.position)
        if message.channel.startswith(FLOW):
            self._take_back()
            self._held = True
            return Job()
        return self._gap_of(place)

    def _gap_of(self, place: int) -> Frame:
        body = group_frame(self._channels[place].name, "gap", None)
        id = self._id_so_far()
        return Frame("group", stamped(body, None, id, gap=True), id)
