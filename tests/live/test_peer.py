"""Peers without an engine: what they make of what their clients send, and of silence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flask_fsm.live.peer import BACKLOG, SocketPeer
from flask_fsm.live.stream import SILENCE
from flask_fsm.live.subscriber import Subscriber
from flask_fsm.live.websocket import WebSocket

from .rawsocket import framed


def test_silence_of_a_client_that_is_not_read() -> None:
    """Who has sent more than is done yet is not taken for dead, as its pongs wait behind that."""
    config: Any = SimpleNamespace(message_rate=1_000)
    talk: Any = SimpleNamespace(closing=0)
    nothing: Any = SimpleNamespace(groups={})
    subscriber = Subscriber(10, lambda: None, ids=False)
    peer = SocketPeer(WebSocket([], 1_000), config, subscriber, talk, nothing)
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
