"""The server's side of RFC 6455, by itself: another implementation speaks to it, in any pieces."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode
from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import PerMessageDeflate

from flask_fsm.live.protocol.websocket import WebSocket, acceptable_offer

from .rawsocket import framed, packed

LIMIT = 300
MOST = 8


def served(offer: str = "permessage-deflate") -> WebSocket:
    accepted = acceptable_offer(offer)
    deflate = PerMessageDeflate()
    if accepted is not None:
        deflate.accept(accepted)
    packed = accepted is not None
    return WebSocket(Connection(ConnectionType.SERVER, [deflate]), LIMIT, packed=packed)


def code_of(frame: bytes) -> int:
    assert frame[0] == 0x88, frame
    return int.from_bytes(frame[2:4])


def masked(frame: bytes, key: bytes) -> bytes:
    """Return a frame, whose mask was of zeros, with another one."""
    start = 6 + {126: 2, 127: 8}.get(frame[1] & 0x7F, 0)
    payload = bytes(byte ^ key[place % 4] for place, byte in enumerate(frame[start:]))
    return frame[: start - 4] + key + payload


def read(socket: WebSocket, pieces: list[bytes]) -> tuple[list[Any], bytes]:
    """Return all that comes of some pieces, and what is to be sent."""
    found, out = [], b""
    for piece in pieces:
        messages, said, _ = socket.receive(piece, MOST)
        found, out = found + messages, out + said
        while socket.rest:
            messages, said, _ = socket.receive(b"", MOST)
            found, out = found + messages, out + said
    return found, out


@st.composite
def in_pieces(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """Some texts, and the bytes of their messages as they might come."""
    texts = draw(st.lists(st.text(max_size=150), max_size=12))
    stream = b""
    for text in texts:
        make = draw(st.sampled_from([framed, packed]))
        stream += masked(make(text.encode()), draw(st.binary(min_size=4, max_size=4)))
        if draw(st.booleans()):
            stream += framed(b"", opcode=Opcode.PONG)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return texts, [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(in_pieces())
def test_messages_come_whole_and_in_order(sent: tuple[list[str], list[bytes]]) -> None:
    texts, pieces = sent
    fitting = [len(text.encode()) <= LIMIT for text in texts]
    found, out = read(served(), pieces)
    if all(fitting):
        assert (found, out) == (texts, b"")
    else:
        assert found == texts[: fitting.index(False)]
        assert code_of(out) == 1009


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("compress", [framed, packed])
def test_the_limit_is_that_of_what_was_meant(size: int, compress: Any) -> None:
    found, out = read(served(), [compress(b"x" * size)])
    if size == LIMIT:
        assert (found, out) == (["x" * size], b"")
    else:
        assert (found, code_of(out)) == ([], 1009)


@pytest.mark.parametrize("compress", [framed, packed])
def test_the_limit_is_one_of_bytes(compress: Any) -> None:
    """As for a POST, and whatever else the signs of a text take."""
    assert read(served(), [compress(("é" * 150).encode())])[0] == ["é" * 150]
    found, out = read(served(), [compress(("é" * 151).encode())])
    assert (found, code_of(out)) == ([], 1009)


@pytest.mark.parametrize("start", [b"part", b""])
@pytest.mark.parametrize("between", [b"", framed(b"", opcode=Opcode.PONG)])
def test_no_message_begins_within_another_one(start: bytes, between: bytes) -> None:
    """RFC 6455 section 5.4: between its parts there are control frames only."""
    begun = bytes([Opcode.TEXT]) + framed(start)[1:]
    found, out = read(served(), [begun, between, framed(b"another")])
    assert (found, code_of(out)) == ([], 1002)


def test_a_short_message_that_would_be_long_is_refused() -> None:
    bomb = packed(b"x" * 60_000)
    assert bomb[1] & 0x7F < 126
    assert code_of(read(served(), [bomb])[1]) == 1009


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (framed(b"\xff\xff"), 1007),
        (packed(b"\xff\xff"), 1007),
        (framed(b"\xff" * 9, packed=True), 1007),
        (framed(b"not masked")[:1] + b"\x0anot masked", 1002),
    ],
)
def test_what_is_no_message_ends_it(frame: bytes, code: int) -> None:
    found, out = read(served(), [framed(b"before"), frame, framed(b"after")])
    assert found == ["before"]
    assert code_of(out) == code
    assert len(out) == 2 + out[1]  # and that is all that is sent


def test_nothing_is_unpacked_that_was_not_agreed_upon() -> None:
    found, out = read(served(offer=""), [packed(b"small")])
    assert (found, code_of(out)) == ([], 1002)


def test_a_message_may_end_its_compression() -> None:
    """RFC 7692 section 7.2.3.4: the last block may say that it is."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = pack.compress(b"final") + pack.flush(zlib.Z_FINISH)
    text = json.dumps("next")
    found, _ = read(served(), [framed(data + b"\0", packed=True) + packed(text.encode())])
    assert found == ["final", text]


def test_long_messages_are_compressed_and_short_ones_are_not() -> None:
    socket = served()
    assert socket.text("x" * 125)[:2] == bytes([0x81, 125])
    assert socket.text("x" * 511)[:4] == bytes([0x81, 126, 1, 255])
    long = socket.text("x" * 10_000)
    assert long[0] == 0xC1
    assert len(long) < 100


CONTEXT_FREE = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, None),
        ("", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate", CONTEXT_FREE),
        ("permessage-deflate; client_max_window_bits", CONTEXT_FREE),
        ("permessage-deflate;client_max_window_bits=8", CONTEXT_FREE),
        ("permessage-deflate; server_no_context_takeover", CONTEXT_FREE),
        (
            'permessage-deflate; server_max_window_bits="10"',
            f"{CONTEXT_FREE}; server_max_window_bits=10",
        ),
        ("foo, permessage-deflate", CONTEXT_FREE),
        *(
            (f"permessage-deflate; {parameter}", None)
            for parameter in (
                "server_max_window_bits=8",
                "server_max_window_bits=abc",
                "server_max_window_bits",
                "server_max_window_bits=16",
                "client_max_window_bits=7",
                "client_max_window_bits=",
                "client_no_context_takeover=1",
                "unknown",
                "server_max_window_bits=\xff",
                "server_max_window_bits=10; server_max_window_bits=10",
                ";",
            )
        ),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            CONTEXT_FREE,
        ),
    ],
)
def test_of_the_offers_of_compression_the_first_acceptable_one_is_taken(
    header: str | None, accepted: str | None
) -> None:
    """RFC 7692 section 7.1: others are declined; no context is kept between messages."""
    assert acceptable_offer(header) == accepted
