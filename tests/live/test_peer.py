"""Peers without an engine: what they make of what their clients send, and of silence."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from flask_fsm.live.peer import BACKLOG, SocketPeer
from flask_fsm.live.stream import SILENCE
from flask_fsm.live.subscriber import Subscriber
from flask_fsm.live.websocket import WebSocket

from .rawsocket import framed


def peer_of(**config: Any) -> SocketPeer:
    """Return a websocket of nobody."""
    settings: Any = SimpleNamespace(message_rate=1_000, **config)
    talk: Any = SimpleNamespace(closing=0)
    nothing: Any = SimpleNamespace(groups={})
    subscriber = Subscriber(10, lambda: None, ids=False)
    return SocketPeer(WebSocket([], 1_000), settings, subscriber, talk, nothing)


def test_hearts_beat_at_their_own_times() -> None:
    """Clients that come at the same time do not get their signs of life at the same time."""
    begun = time.monotonic()
    firsts = [peer_of(heartbeat=8.0).first_beat() - begun for _ in range(400)]
    after = time.monotonic() - begun
    assert all(0 <= first <= 8 + after for first in firsts)
    assert all(any(second <= first < second + 1 for first in firsts) for second in range(8))


def test_silence_of_a_client_that_is_not_read() -> None:
    """Who has sent more than is done yet is not taken for dead, as its pongs wait behind that."""
    peer = peer_of()
    peer.received(framed(b"{}") * BACKLOG)
    assert not peer.reading
    for _ in range(3 * SILENCE):
        assert peer.beat()
        assert not peer.ended
    peer.jobs.clear()
    assert peer.reading
    for _ in range(SILENCE):
        peer.beat()
        assert not peer.ended
    peer.beat()
    assert peer.code == 1011
