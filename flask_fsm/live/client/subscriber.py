"""Subscriber: the channels that one websocket or stream listens to, and what is sent next.

First comes what the client has missed (see replay), then what is queued for it (see outgoing). A
queue that a slow client leaves full overflows; server/lifecycle then cuts that client.

An engine pulls from the queue, whether it serves the client by a thread or in a loop.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections import deque
from contextlib import suppress
from typing import Any, Final

from ...bus import Position
from ...errors import UnknownListener
from ..channels.app_channels import FLOW, Delivered, Gap, LiveChannel
from ..channels.listener import Backlog, Connection, Listener
from ..protocol.close_codes import CloseCode
from ..protocol.frames import Envelope, EnvelopeKind, FrameKind, dumps, group_frame, stamped
from .actions import Close, Frame, Job
from .outgoing import ClientQueue, DirectMessage, SwitchFlow
from .replay import Missed, Replay, Replayed

__all__ = ["Subscriber"]

# How many ended runs are remembered, so that late states of theirs are dropped.
ENDED_RUNS: Final = 8
# Each access to a member of an enum takes a call on Python 3.11, so these are looked up once.
RECHECK: Final = EnvelopeKind.RECHECK
REPLY: Final = EnvelopeKind.REPLY
SEND_EVENT: Final = EnvelopeKind.SEND_EVENT
STATE: Final = EnvelopeKind.STATE
FOR_CLIENTS: Final = (EnvelopeKind.STATE, EnvelopeKind.DATA, EnvelopeKind.GROUP_MESSAGE)
READ_MISSED: Final = Job(reads_missed=True)
CLOSING: Final = (EnvelopeKind.REPLACED, EnvelopeKind.MOVED_AWAY, EnvelopeKind.CLOSE)
FRAME_KINDS: Final[dict[EnvelopeKind, FrameKind]] = {
    EnvelopeKind.STATE: FrameKind.STATE,
    EnvelopeKind.DATA: FrameKind.DATA,
    EnvelopeKind.GROUP_MESSAGE: FrameKind.GROUP,
}


class Subscriber:
    """Listens to the channels of a flow, of its subject and of groups, for one client."""

    __slots__ = (
        "_answered",
        "_backlog",
        "_blocked",
        "_channels",
        "_ended_runs",
        "_indexes",
        "_last_body",
        "_last_state",
        "_numbered",
        "_pending",
        "_pending_bytes",
        "_position_texts",
        "_positions",
        "_priority",
        "_replay",
        "_silent",
        "_switched_to",
        "_with_ids",
        "flow_channel",
        "id",
        "listener",
        "queue",
    )

    def __init__(
        self,
        limit: int,
        max_bytes: int = sys.maxsize,
        backlog: Backlog | None = None,
        *,
        ids: bool,
    ) -> None:
        self.id: str = secrets.token_urlsafe(16)
        self.flow_channel: str = self.id
        """The channel of the flow, or this client's id if the flow is its connection's own."""
        self._backlog = backlog
        self.queue: ClientQueue = ClientQueue(limit, max_bytes, backlog)
        self.listener: Listener = Listener(self.id)
        self.listener.start()
        self._channels: list[LiveChannel] = []
        self._indexes: dict[str, int] = {}
        """The index of each channel in the lists of channels, of positions and of their texts."""
        self._positions: list[Position] = []
        self._position_texts: list[str] = []
        self._silent: list[LiveChannel] = []
        # Replies that were published on the flow's channel and have not been delivered yet.
        # With each, the bytes of it that count in the backlog of the process.
        self._pending: deque[tuple[str, Envelope, int]] = deque()
        self._pending_bytes = 0
        self._numbered = 0
        self._answered = 0
        # Sent before the queue, which messages may enter while the client is still joining.
        self._priority: deque[Any] = deque()
        self._replay: Replay | None = None
        """What the client has missed, which is sent before all else."""
        self._switched_to: deque[LiveChannel] = deque()
        """The channels of the flows that the client has switched to, without those it has left."""
        self._blocked = False
        """Whether the queue waits for the current state, since messages are lost."""
        self._with_ids = ids
        self._last_state: tuple[str, int] | None = None
        self._last_body = ""
        """The last state frame that was sent."""
        self._ended_runs: tuple[str, ...] = ()

    # -- joining ------------------------------------------------------------------------

    def join(self, channel: LiveChannel, *, silent: bool = False, most: int = sys.maxsize) -> None:
        """Listen to a channel from now on; a `silent` one brings jobs only, no frames.

        Raises TooManyConnections if the channel has `most` listeners already.
        """
        channel.register_client(Connection(self.listener, self.queue, self.id), most)
        if silent:
            self._silent.append(channel)
        else:
            if not self._channels and channel.id.startswith(FLOW):
                self.flow_channel = channel.id
            self._indexes[channel.id] = len(self._channels)
            self._channels.append(channel)
            self._positions.append(channel.position)
            self._position_texts.append(str(channel.position))

    def replay_since(self, since: str) -> list[str]:
        """Replay, after a reconnect, what came after the id `since`, before all that is queued.

        `since` is the client's Last-Event-ID or `?since=`: a position in each channel. Return the
        names of the channels that have lost some of it.
        """
        texts = since.split(",") if since else []
        replay = Replay()
        lost = []
        for index, channel in enumerate(self._channels):
            position = Position.parse(texts[index]) if index < len(texts) else None
            if position is None or not replay.add(
                Missed(channel, position, self._positions[index])
            ):
                lost.append(channel.id)
            else:
                self._advance(index, position)
        if not replay.is_over:
            self._replay = replay
        return lost

    def switch_flow(self, channel: LiveChannel) -> None:
        """Follow another flow from now on; drop its messages from before this call."""
        channel.register_connection(Connection(self.listener, self.queue, self.id))
        self._switched_to.append(channel)
        self.flow_channel = channel.id
        self.queue.push(SwitchFlow(channel, channel.position))

    def leave(self) -> None:
        """Leave all channels, and drop all that waits for the client."""
        self.listener.stop()
        for channel in {*self._channels, *self._silent, *self._switched_to}:
            with suppress(UnknownListener):  # the channel has cut it
                channel.remove_listener(self.listener.id)
        self._channels, self._silent = [], []
        self._indexes.clear()
        self.queue.clear()
        self._priority.clear()
        while self._pending:
            self._next_pending()
        self._replay = None
        self._last_body = ""

    # -- frames for this client only ----------------------------------------------------

    def send(self, frame: str, ref: Any = None, *, kind: FrameKind = FrameKind.DATA) -> None:
        """Queue a frame."""
        self.queue.push(DirectMessage(kind, frame, ref))

    def send_state(self, frame: str, run: str, rev: int, *, gap: bool = False) -> None:
        """Queue a state frame; without a gap it is dropped if the client knows that state."""
        self.queue.push(DirectMessage(FrameKind.STATE, frame, None, gap, (run, rev)))

    def first_state(self, frame: str, run: str, rev: int, *, gap: bool = False) -> None:
        """Send a state frame before all that is queued, as when joining."""
        self._priority.append(DirectMessage(FrameKind.STATE, frame, None, gap, (run, rev)))

    def send_gap(self, name: str) -> None:
        """Notify the client, before all that is queued, that messages of a group are lost."""
        channel = next(channel for channel in self._channels if channel.id == name)
        self._priority.append(Gap(name, channel.position))

    def unblock(self) -> None:
        """Continue after a gap: the state is queued, or can't be."""
        if self._blocked:
            self._blocked = False
            self.queue.notify()

    def read_missed(self) -> None:
        """Read the next messages that the client has missed; may wait for the bus's server."""
        replay = self._replay
        if replay is not None:  # otherwise the client was cut meanwhile
            replay.read_on()
            self.queue.notify()

    def track_reply(self, channel: str, reply: Envelope) -> Envelope:
        """Number a reply before it is published on a channel, and keep it until its delivery.

        If the channel loses it, it is sent from here.
        """
        self._numbered += 1
        numbered = reply._replace(number=self._numbered)
        size = sys.getsizeof(reply.body)  # before the sum is read, as another thread discounts
        self._pending_bytes += size
        backlog = self._backlog
        is_long = backlog is not None and self._pending_bytes > backlog.share
        if (
            len(self._pending) >= self.queue.limit
            or self._pending_bytes > self.queue.max_bytes
            or (is_long and backlog is not None and backlog.is_full)
        ):
            self.queue.overflow()
        if is_long and backlog is not None:
            backlog.reserve(size)
        self._pending.append((channel, numbered, size if is_long else 0))
        return numbered

    def _next_pending(self) -> tuple[str, Envelope]:
        channel, reply, counted = self._pending.popleft()
        size = sys.getsizeof(reply.body)
        self._pending_bytes -= size
        if counted and self._backlog is not None:
            self._backlog.reserve(-counted)
        return channel, reply

    @property
    def has_pending_replies(self) -> bool:
        """Whether published replies are not delivered yet: what is queued now overtakes them."""
        return self._numbered > self._answered

    def _requeue_replies(self) -> None:
        """Put the replies that the channel has lost before all that is queued."""
        while self._pending:
            _, reply = self._next_pending()
            self._answered = reply.number
            self._priority.append(reply)

    # -- output -------------------------------------------------------------------------

    def take(self) -> Frame | Close | Job | None:
        """Return what the transport does next, or None if nothing waits.

        For a slow client, whose queue has overflowed, that is to close with TRY_AGAIN_LATER.
        """
        queue, priority = self.queue, self._priority
        while not queue.overflown:
            message: Any
            replay = self._replay
            if replay is not None:
                message = replay.take()
                if message is None:
                    if replay.is_over:
                        self._replay = None
                        continue
                    if replay.reading:
                        return None
                    replay.reading = True
                    return READ_MISSED
            elif priority:
                message = priority.popleft()
            elif self._blocked:
                return None
            else:
                message = queue.take()
                if message is None:
                    return None
            out: Frame | Close | Job | None
            if isinstance(message, Delivered):
                out = self._delivered(message)
            elif isinstance(message, DirectMessage):
                out = self._direct(message)
            elif isinstance(message, Envelope):
                out = self._lost_reply(message)
            elif isinstance(message, SwitchFlow):
                self._switched(message)
                continue
            else:
                out = self._on_gap(message)
            if out is not None:
                return out
        return Close(CloseCode.TRY_AGAIN_LATER)

    def _direct(self, message: DirectMessage) -> Frame | None:
        if message.state is None:
            return Frame(message.kind, stamped(message.body, message.ref), None)
        body = message.body
        if not self._is_outdated(*message.state):
            self._note_state(*message.state, body)
        elif not message.gap:
            return None
        elif message.state != self._last_state:
            # A later state was among the missed messages.
            body = dumps({**json.loads(self._last_body), "status": 200, "data": None})
        id = self._current_id()
        return Frame(FrameKind.STATE, stamped(body, message.ref, id, gap=message.gap), id)

    def _switched(self, message: SwitchFlow) -> None:
        old, self._channels[0] = self._channels[0], message.channel
        del self._indexes[old.id]
        self._indexes[message.channel.id] = 0
        while self._switched_to[0] is not message.channel:
            self._switched_to.popleft()
        self._requeue_replies()
        self._advance(0, message.position)
        with suppress(UnknownListener):
            old.remove_listener(self.listener.id)

    def _current_id(self) -> str | None:
        """Return the id of all that has been sent: the position in each channel."""
        return ",".join(self._position_texts) if self._with_ids else None

    def _advance(self, index: int, position: Position) -> None:
        self._positions[index] = position
        self._position_texts[index] = str(position)

    def _delivered(self, message: Delivered) -> Frame | Close | Job | None:
        kind, body, sender, ref, run, rev, number = message.envelope
        index = self._indexes.get(message.channel)
        if index is not None:
            (epoch, offset), last = message.position, self._positions[index]
            if epoch == last.epoch and offset <= last.offset:
                return None
            self._positions[index] = message.position
            self._position_texts[index] = message.id
        elif kind is RECHECK:
            return Job(if_replaced=True)
        elif kind in FOR_CLIENTS:
            return None  # of a flow that the client will switch to, or has left
        if number and sender == self.id:
            if number <= self._answered:
                return None  # already sent, when the channel seemed to have lost it
            self._answered = number
            while self._pending and self._pending[0][1].number <= number:
                channel, reply = self._next_pending()
                if channel != message.channel:  # of a run that has begun meanwhile
                    self._priority.append(reply)
        if kind is REPLY:
            return Frame(FrameKind.DATA, stamped(body, ref), None) if sender == self.id else None
        if kind is STATE:
            if isinstance(message, Replayed):
                return None
            if self._is_outdated(run, rev):
                is_answer = sender == self.id and ref is not None
                return self._overtaken_reply(body, ref) if is_answer else None
            self._note_state(run, rev, body)
        elif kind in CLOSING:
            return Close(int(body))
        elif kind is SEND_EVENT:
            return Job(body, f"{message.channel} {message.id} {self.flow_channel}")
        id = self._current_id()
        return Frame(FRAME_KINDS[kind], stamped(body, ref if sender == self.id else None, id), id)

    def _lost_reply(self, reply: Envelope) -> Frame | None:
        """Return the frame of a reply that the channel has lost."""
        kind, body, _, ref, run, rev, _ = reply
        if kind is STATE:
            if self._is_outdated(run, rev):
                return None if ref is None else self._overtaken_reply(body, ref)
            self._note_state(run, rev, body)
            return Frame(FrameKind.STATE, stamped(body, ref), None)
        return Frame(FrameKind.DATA, stamped(body, ref), None)

    def _is_outdated(self, run: str, rev: int) -> bool:
        """Return whether a state is not newer than the last one that was sent."""
        last = self._last_state
        if last is None:
            return False
        return rev <= last[1] if run == last[0] else run in self._ended_runs

    def _note_state(self, run: str, rev: int, body: str) -> None:
        last = self._last_state
        if last is not None and last[0] != run:
            self._ended_runs = (*self._ended_runs[1 - ENDED_RUNS :], last[0])
        self._last_state = (run, rev)
        self._last_body = body

    def _overtaken_reply(self, body: str, ref: Any) -> Frame:
        """Answer an event with the later state that was sent before its own state came."""
        reply = json.loads(body)
        frame = {**json.loads(self._last_body), "status": reply["status"], "data": reply["data"]}
        id = self._current_id()
        return Frame(FrameKind.STATE, stamped(dumps(frame), ref, id), id)

    def _on_gap(self, message: Any) -> Frame | Job | None:
        """Handle a gap: look up the flow's state, or notify the client of lost group messages."""
        index = self._indexes.get(message.channel) if isinstance(message, Gap) else None
        if index is None:
            return None
        self._advance(index, message.position)
        if message.channel.startswith(FLOW):
            self._requeue_replies()
            self._blocked = True
            return Job()
        body = group_frame(self._channels[index].name, "gap", None)
        id = self._current_id()
        return Frame(FrameKind.GROUP, stamped(body, None, id, gap=True), id)
