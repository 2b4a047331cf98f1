"""A websocket client that does what it is told and no more: it reads, and answers, only if asked.

`websockets` knows the frames, so that bytes which are none are an error.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import zlib
from typing import Any, Final, Self

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from ..clients import LOOPBACK, PATIENCE
from .frames import checked

__all__ = ["RawSocket", "framed", "packed"]

# Bytes; the kernel doubles it.
SMALL: Final = 32_768


def framed(payload: bytes, *, opcode: int = Opcode.TEXT, packed: bool = False) -> bytes:
    """Return a masked frame with a mask of zeros; `packed`: the payload is compressed."""
    frame = Frame(opcode=Opcode(opcode), data=payload)
    head = frame.serialize(mask=False)[: -len(payload) or None]
    first = head[0] | (0x40 if packed else 0)
    return bytes([first, head[1] | 0x80]) + head[2:] + bytes(4) + payload


def packed(payload: bytes) -> bytes:
    """Return a frame whose payload is compressed by itself."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = (pack.compress(payload) + pack.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return framed(small, packed=True)


class RawSocket:
    """A connection to `path`, after the handshake."""

    def __init__(
        self, port: int, path: str, *, deflate: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket: Any = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.socket.settimeout(PATIENCE)
        self.socket.connect((LOOPBACK, port))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=LOOPBACK)
        extensions = [ClientPerMessageDeflateFactory()] if deflate else []
        self.protocol = ClientProtocol(
            parse_uri(f"ws://{LOOPBACK}:{port}{path}"), extensions=extensions, max_size=None
        )
        self.protocol.send_request(self.protocol.connect())
        self.flush()
        self._events: list[Any] = []
        response = self._next()
        assert isinstance(response, Response)
        assert response.status_code == 101, response
        assert bool(deflate) == ("Sec-WebSocket-Extensions" in response.headers)

    def flush(self) -> None:
        """Send what the protocol wants to be sent."""
        for data in self.protocol.data_to_send():
            if data:
                self.socket.sendall(data)

    def say(self, event: str, data: Any = None, **more: Any) -> None:
        """Send an event, without compression."""
        frame = {"event": event, "data": data, **more}
        self.socket.sendall(framed(json.dumps(frame).encode()))

    def pour(self, data: bytes, most: int, patience: float = 1.0) -> int:
        """Send some bytes again and again, until the server takes no more or it is `most` bytes.

        Return how many bytes were taken.
        """
        taken = 0
        self.socket.settimeout(patience)
        try:
            while taken < most:
                taken += self.socket.send(data[taken % len(data) :])
        except TimeoutError:
            pass
        finally:
            self.socket.settimeout(PATIENCE)
        return taken

    def _next(self) -> Any:
        while not self._events:
            data = self.socket.recv(65_536)
            if not data:
                self.protocol.receive_eof()
                raise EOFError
            self.protocol.receive_data(data)
            error = self.protocol.parser_exc
            closing = self.protocol.close_rcvd is not None
            if error is not None and not closing:
                raise error
            self._events += self.protocol.events_received()
        return self._events.pop(0)

    def receive(self) -> Any:
        """Return the next frame, checked, or the code of the close frame; raises EOFError."""
        while True:
            frame = self._next()
            if frame.opcode is Opcode.CLOSE:
                return int.from_bytes(frame.data[:2])
            if frame.opcode is Opcode.TEXT:
                assert frame.fin
                return checked(bytes(frame.data))

    def until_closed(self) -> tuple[list[Any], int]:
        """Return all frames up to the close frame, and its code."""
        frames = []
        while not isinstance(frame := self.receive(), int):
            frames.append(frame)
        return frames, frame

    def close(self) -> None:
        """Go without a word."""
        with contextlib.suppress(OSError):
            self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
