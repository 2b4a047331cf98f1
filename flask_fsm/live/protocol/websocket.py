"""WebSocket: the server's side of RFC 6455, bytes in and bytes out; wsproto knows the frames."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import LocalProtocolError, generate_accept_token

__all__ = ["VERSION", "Handshake", "WebSocket"]

VERSION: Final = "13"
TOO_LARGE: Final = 1009
# RFC 6455 section 5.5: a control frame holds 125 bytes, two of them are the code.
LONGEST_REASON: Final = 123
# Bytes: below this, compression makes a message hardly smaller.
WORTHWHILE: Final = 512
# What a sender leaves out at the end of a compressed message.
END_OF_PACKED: Final = b"\0\0\xff\xff"
# Bytes that are unpacked at once, so that few of them can't become many before they are counted.
BITE: Final = 4_096
# The first two bytes of a frame (RFC 6455 section 5.2; RFC 7692 section 6): a whole text message,
# and a compressed one; masked, up to 125.
FINAL_TEXT: Final = 0x81
PACKED_TEXT: Final = 0xC1
PLAIN: Final = (FINAL_TEXT,)
PACKED_OR_NOT: Final = (FINAL_TEXT, PACKED_TEXT)
MASKED: Final = 0x80
SHORT: Final = 0x80 | 125
LENGTH: Final = 0x7F
# How many bytes the length takes, if the second byte does not say it itself.
WIDE: Final = {126: 2, 127: 8}
KEY: Final = 4


class Boundary:
    """Knows whether a stream of frames is between two of them (RFC 6455 section 5.2)."""

    __slots__ = ("_ahead", "_head")

    def __init__(self) -> None:
        self._head = b""
        """The beginning of a frame whose length is not known yet."""
        self._ahead = 0
        """How many bytes are still to come of a frame whose length is known."""

    @property
    def reached(self) -> bool:
        return not self._ahead and not self._head

    def follow(self, data: bytes) -> None:
        """Count the next bytes of the stream."""
        data = self._head + data
        end, at = len(data), self._ahead
        while at + 2 <= end:
            size = data[at + 1] & LENGTH
            begin = at + 2
            if size in WIDE:
                begin += WIDE[size]
                if begin > end:
                    break
                size = int.from_bytes(data[at + 2 : begin])
            at = begin + (KEY if data[at + 1] & MASKED else 0) + size
        self._head, self._ahead = data[at:], max(at - end, 0)


class Deflate(PerMessageDeflate):
    """Compression (RFC 7692) of each message by itself, and of long ones only.

    A context kept between messages would take 300 KiB of each connection.
    """

    def __init__(self) -> None:
        super().__init__(client_no_context_takeover=True, server_no_context_takeover=True)

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,
    ) -> tuple[RsvBits, bytes]:
        if fin and len(data) < WORTHWHILE and opcode is not Opcode.CONTINUATION:
            return rsv, data
        return super().frame_outbound(proto, opcode, rsv, data, fin)


def unpacked(data: bytes, limit: int) -> bytes:
    """Return the content of a compressed message (RFC 7692 section 7.2.2); zlib.error over limit.

    The message does not refer to those before it, as `Deflate` demands of clients.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(data + END_OF_PACKED, limit + 1)
    if len(content) > limit:
        raise zlib.error(f"The message has more than {limit} bytes.")
    return content


class Handshake:
    """What a client asks for when it opens a websocket, and the answer; ValueError if it can't be.

    `key`, `version`, `extensions` are the values of the Sec-WebSocket-* headers.
    """

    def __init__(self, key: str | None, version: str | None, extensions: str | None) -> None:
        if version != VERSION:
            raise ValueError(f"Sec-WebSocket-Version is {VERSION}.")
        try:
            valid = key is not None and len(base64.b64decode(key, validate=True)) == 16
        except (binascii.Error, ValueError):
            valid = False
        if key is None or not valid:
            raise ValueError("Sec-WebSocket-Key is 16 bytes in base64.")
        self.headers: dict[str, str] = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": generate_accept_token(key.encode()).decode(),
        }
        self.extensions: list[Extension] = []
        for offer in (extensions or "").split(","):
            if offer.partition(";")[0].strip() == "permessage-deflate":
                deflate = Deflate()
                accepted = deflate.accept(offer)
                if accepted is not None and accepted is not False:
                    said = accepted if isinstance(accepted, str) else ""
                    self.headers["Sec-WebSocket-Extensions"] = "; ".join(
                        filter(None, ["permessage-deflate", said.strip()])
                    )
                    self.extensions.append(deflate)
                    break


class WebSocket:
    """The server's side after the handshake. It belongs to one thread: that is its only writer."""

    __slots__ = (
        "_begun",
        "_boundary",
        "_connection",
        "_fragments",
        "_limit",
        "_packed",
        "_parts",
        "_plain",
        "_size",
        "closed",
        "received_code",
        "rest",
    )

    def __init__(self, extensions: list[Extension], limit: int) -> None:
        self._connection = Connection(ConnectionType.SERVER, extensions)
        self._packed = bool(extensions)
        self._plain = True
        """Whether wsproto is between two messages."""
        self._boundary = Boundary()
        """Of the frames that wsproto is given."""
        self._limit = limit
        self.rest = b""
        """Bytes that wait for the next call of `receive`."""
        self._begun = False
        """Whether a message has begun whose last part is still to come."""
        self._parts: list[str | bytes] = []
        self._fragments = 0
        """How many frames the last call of `receive` took that did not end a message."""
        self._size = 0
        self.closed = False
        """Whether a close frame was sent, so that nothing may follow."""
        self.received_code: int | None = None
        """The code of the client's close frame, once it has come."""

    def receive(self, data: bytes, most: int) -> tuple[list[str | bytes], bytes, int]:
        """Take bytes of the client; return whole messages, bytes to send, and what else there was.

        That is how many frames came besides: signs of life, and parts of messages. After about
        `most` of all these the rest of the bytes waits for the next call. A message over the limit
        ends the connection with 1009, a broken frame with 1002 or 1007.
        """
        messages: list[str | bytes] = []
        data, self.rest = self.rest + data, b""
        if not data:
            return messages, data, 0
        if self._plain and not self.closed:
            data = self._read_plain(data, messages, most)
            if not data:
                return messages, b"", 0
            if len(messages) >= most:
                self.rest = data
                return messages, b"", 0
            self._plain = False
        out: list[bytes] = []
        signs = 0
        self._fragments = 0
        for start in range(0, len(data), BITE):
            if self.received_code is not None or self._size < 0:
                break
            if len(messages) + signs + self._fragments >= most:
                self.rest = data[start:]
                break
            bite = data[start : start + BITE]
            self._boundary.follow(bite)
            self._connection.receive_data(bite)
            signs += self._read(messages, out)
        self._plain = self._boundary.reached and not self.rest and not self._begun
        return messages, b"".join(out), signs + self._fragments

    def _read_plain(self, data: bytes, messages: list[str | bytes], most: int) -> bytes:
        """Take whole messages of one short frame, as nearly all are; return what is left.

        wsproto takes all others. It must not have begun a frame or a message.
        """
        start, end = 0, len(data)
        firsts = PACKED_OR_NOT if self._packed else PLAIN
        while end - start >= 6 and data[start] in firsts and MASKED <= data[start + 1] <= SHORT:
            size = data[start + 1] - MASKED
            after = start + 6 + size
            if after > end or size > self._limit or len(messages) >= most:
                break
            key = data[start + 2 : start + 6]
            masked = int.from_bytes(data[start + 6 : after])
            mask = int.from_bytes((key * (size // 4 + 1))[:size])
            content = (masked ^ mask).to_bytes(size)
            try:
                if data[start] == PACKED_TEXT:
                    content = unpacked(content, self._limit)
                messages.append(content.decode())
            except (UnicodeDecodeError, zlib.error):
                break  # wsproto says what is to be said
            start = after
        return data[start:]

    def _read(self, messages: list[str | bytes], out: list[bytes]) -> int:
        signs = 0
        for event in self._connection.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                if self._add(event):
                    messages.append(self._whole(isinstance(event, TextMessage)))
                elif self._size < 0:
                    out.append(self.close(TOO_LARGE, f"A message has at most {self._limit} bytes."))
                    break
            elif isinstance(event, Ping):
                signs += 1
                if not self.closed:
                    out.append(self._connection.send(event.response()))
            elif isinstance(event, Pong):
                signs += 1
            elif isinstance(event, CloseConnection):
                self.received_code = int(event.code)
                if not self.closed:
                    self.closed = True
                    out.append(self._answered(event))
        return signs

    def _add(self, event: TextMessage | BytesMessage) -> bool:
        """Take a part of a message; tell whether it is whole. A size below 0: it is too large."""
        if self.closed:
            return False
        self._begun = not event.message_finished
        self._size += len(event.data.encode() if isinstance(event, TextMessage) else event.data)
        if self._size > self._limit:
            self._parts, self._size = [], -1
            return False
        if event.data:  # of empty parts there may be any number
            self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
        if event.frame_finished and not event.message_finished:
            self._fragments += 1
        return event.message_finished

    def _whole(self, text: bool) -> str | bytes:
        parts, self._parts, self._size = self._parts, [], 0
        if text:
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes))

    def _answered(self, event: CloseConnection) -> bytes:
        try:
            return self._connection.send(event.response())
        except LocalProtocolError:
            return b""

    def text(self, text: str) -> bytes:
        """Return the frame of a text message."""
        if self.closed:
            return b""
        data = text.encode()
        size = len(data)
        if size <= SHORT - MASKED:
            return bytes((FINAL_TEXT, size)) + data
        if size < WORTHWHILE:
            return bytes((FINAL_TEXT, 126, size >> 8, size & 255)) + data
        return self._connection.send(TextMessage(data=text))

    def binary(self, data: bytes) -> bytes:
        """Return the frame of a binary message."""
        return b"" if self.closed else self._connection.send(BytesMessage(data=data))

    def ping(self) -> bytes:
        """Return a ping, which the other side answers."""
        return b"" if self.closed else self._connection.send(Ping())

    def close(self, code: int, reason: str = "") -> bytes:
        """Return the frame that ends the connection; nothing follows it."""
        if self.closed:
            return b""
        self.closed = True
        if self._connection.state is not ConnectionState.OPEN:
            return b""
        return self._connection.send(CloseConnection(code=code, reason=reason[:LONGEST_REASON]))
