"""Transports without an engine: what they make of the bytes of their clients, and of silence."""

from __future__ import annotations

import time
import tracemalloc
from itertools import cycle, pairwise
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Opcode
from wsproto.connection import Connection, ConnectionType

from flask_fsm.live.channels.stream import SILENCE
from flask_fsm.live.client.subscriber import Subscriber
from flask_fsm.live.protocol.websocket import Boundary, WebSocket
from flask_fsm.live.server.lifecycle import HEARTBEAT_SLOTS, first_heartbeat, next_heartbeat
from flask_fsm.live.server.transport import BACKLOG, MAX_UNWRITTEN, WebSocketTransport

from .rawsocket import framed


def transport_of(**config: Any) -> WebSocketTransport:
    """Return the transport of a websocket without a client."""
    settings: Any = SimpleNamespace(message_rate=1_000, **config)
    talk: Any = SimpleNamespace(closing=0)
    nothing: Any = SimpleNamespace(groups={})
    subscriber = Subscriber(10, ids=False)
    return WebSocketTransport(
        WebSocket(Connection(ConnectionType.SERVER), 1_000), settings, subscriber, talk, nothing
    )


def test_heartbeats_are_spread_over_time() -> None:
    """Clients that connect at the same time do not get their heartbeats at the same time."""
    begun = time.monotonic()
    firsts = [first_heartbeat(8.0) - begun for _ in range(400)]
    after = time.monotonic() - begun
    assert all(0 <= first <= 8 + 8 / HEARTBEAT_SLOTS + after for first in firsts)
    assert all(any(second <= first < second + 1 for first in firsts) for second in range(8))
    assert (
        len({round(begun + first, 6) for first in firsts}) <= HEARTBEAT_SLOTS + 1
    )  # some together


def test_the_next_heartbeat_is_one_period_later() -> None:
    """However late the one before was, all are sent in the same few slots."""
    first = first_heartbeat(0.64)
    time.sleep(max(first - time.monotonic(), 0) + 0.002)
    late = time.monotonic() - first
    assert first + 0.64 - 1e-6 <= next_heartbeat(0.64) <= first + 0.64 + late + 0.01 + 1e-6


def test_silence_of_a_client_that_is_slow_to_read() -> None:
    """A client that is sent a large message slowly is not read meanwhile, and not gone either."""
    transport = transport_of()
    transport.unwritten = MAX_UNWRITTEN
    assert not transport.reading
    for _ in range(3 * SILENCE):
        assert transport.heartbeat()
        assert not transport.ended
    transport.unwritten = 0
    assert transport.reading


def test_silence_of_a_client_that_is_not_read() -> None:
    """A client whose events wait does not count as gone, since its pongs wait behind them."""
    transport = transport_of()
    transport.received(framed(b"{}") * BACKLOG)
    assert not transport.reading
    for _ in range(3 * SILENCE):
        assert transport.heartbeat()
        assert not transport.ended
    transport.jobs.clear()
    assert transport.reading
    for _ in range(SILENCE):
        transport.heartbeat()
        assert not transport.ended
    transport.heartbeat()
    assert transport.code == 1011


# -- frames, in whichever pieces they come --------------------------------------------------------

LONG = "x" * 300
# A frame whose mask looks like the beginning of another frame.
MASK = b"\x81\x85\x03\x04"
MISLEADING = b"\x81\x8a" + MASK + bytes(a ^ b for a, b in zip(b"hello, all", cycle(MASK)))


def frames_of(kind: str) -> tuple[bytes, list[str]]:
    """Return the bytes of something that a client may send, and the messages in it."""
    ping, pong, begin, end = Opcode.PING, Opcode.PONG, 0x01, 0x80
    return {
        "text": (framed(b"hello, all"), ["hello, all"]),
        "masked": (MISLEADING, ["hello, all"]),
        "empty": (framed(b""), [""]),
        "long": (framed(LONG.encode()), [LONG]),
        "pong": (framed(b"", opcode=pong), []),
        "ping": (framed(b"are you there?", opcode=ping), []),
        "parts": (
            bytes([begin])
            + framed(b"two ")[1:]
            + framed(b"", opcode=pong)
            # The second part: the frame of a continuation, which is the last.
            + bytes([end])
            + framed(b"parts")[1:],
            ["two parts"],
        ),
    }[kind]


@given(
    st.lists(
        st.sampled_from(["text", "masked", "empty", "long", "pong", "ping", "parts"]),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.integers(0, 1_000), max_size=12),
)
@example(["pong", "masked", "text"], [2, 8])
def test_frames_in_pieces(kinds: list[str], cuts: list[int]) -> None:
    """Wherever the network cuts what a client sends, its messages are the same."""
    parts = [frames_of(kind) for kind in kinds]
    data = b"".join(part for part, _ in parts)
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    socket, found = WebSocket(Connection(ConnectionType.SERVER), 1_000), []
    for start, end in pairwise(places):
        messages, _, _ = socket.receive(data[start:end], 100)
        found += messages
    assert found == [message for _, messages in parts for message in messages]
    assert not socket.closed


def test_short_frames_after_others() -> None:
    """The short way goes on once wsproto has read a whole message, and only then."""
    socket, boundary = WebSocket(Connection(ConnectionType.SERVER), 1_000), Boundary()
    socket.receive(framed(LONG.encode())[:100], 8)
    assert not socket._plain
    socket.receive(framed(LONG.encode())[100:], 8)
    assert socket._plain
    for size in (0, 125, 126, 65_535, 65_536):
        data = framed(b"x" * size)
        for at in (1, 3, 9, 13, size):
            if 0 < at < len(data):
                boundary.follow(data[:at])
                assert not boundary.reached
                boundary.follow(data[at:])
            else:
                boundary.follow(data)
            assert boundary.reached


def test_a_message_in_tiny_fragments_takes_no_more_memory_than_it_has_bytes() -> None:
    """Within the limit of a message, however a client cuts it, and the message comes whole."""
    limit = 15_000
    socket, begin, go_on = (
        WebSocket(Connection(ConnectionType.SERVER), limit),
        b"\x01\x83",
        b"\x00\x83",
    )
    character = bytes(4) + "漢".encode()
    tracemalloc.start()
    begun, _ = tracemalloc.get_traced_memory()
    for number in range(limit // 3 - 1):
        messages, _, _ = socket.receive((go_on if number else begin) + character, 100)
        assert messages == []
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held - begun < 3 * limit
    messages, _, _ = socket.receive(b"\x80\x83" + character, 100)
    assert messages == ["漢" * (limit // 3)]
