"""WebSocket: the server's side of RFC 6455 without I/O, bytes in and bytes out, by wsproto.

simple-websocket makes the opening handshake, and this continues with its wsproto connection.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError

from .close_codes import CloseCode

__all__ = ["WebSocket", "acceptable_offer"]

# An offer of compression (RFC 7692, section 7). A context that is kept between messages would take
# 300 KiB for each connection.
DEFLATE: Final = "permessage-deflate"
NO_CONTEXT: Final = ("client_no_context_takeover", "server_no_context_takeover")
# The sizes of a window that zlib can have, of the sizes in RFC 7692.
CLIENT_BITS: Final = re.compile(r'"?([89]|1[0-5])"?')
SERVER_BITS: Final = re.compile(r'"?(9|1[0-5])"?')
# Bytes of a close reason: a control frame holds 125, two of them for the code (section 5.5).
LONGEST_REASON: Final = 123
# Bytes of a message below which compression hardly makes it smaller.
MIN_COMPRESSED: Final = 512
# The end of a compressed message, which its sender leaves out (RFC 7692 section 7.2.1).
DEFLATE_TAIL: Final = b"\0\0\xff\xff"
# Bytes that are decompressed at once, so that the limit stops a decompression bomb early.
SLICE: Final = 4_096
# Parts of a message that are kept apart: each takes much more memory than its few bytes.
MAX_PARTS: Final = 256
# The first two bytes of a frame (RFC 6455 section 5.2, RFC 7692 section 6): a whole text message,
# the same compressed; masked, with a length of up to 125.
FINAL_TEXT: Final = 0x81
COMPRESSED_TEXT: Final = 0xC1
PLAIN: Final = (FINAL_TEXT,)
PLAIN_OR_COMPRESSED: Final = (FINAL_TEXT, COMPRESSED_TEXT)
MASKED: Final = 0x80
SHORT: Final = 0x80 | 125
LENGTH: Final = 0x7F
# Bytes of an extended length, by the value of the second byte.
EXTENDED: Final = {126: 2, 127: 8}
MASK_SIZE: Final = 4


class Boundary:
    """Tracks whether the stream of bytes is at the end of a frame (RFC 6455 section 5.2)."""

    __slots__ = ("_ahead", "_head", "_known")

    def __init__(self, *, known: bool = True) -> None:
        """`known` is whether the stream is at the end of a frame now; else it is never known."""
        self._known = known
        self._head = b""
        """The first bytes of a frame whose length is not known yet."""
        self._ahead = 0
        """Bytes that are still missing of a frame whose length is known."""

    @property
    def reached(self) -> bool:
        return self._known and not self._ahead and not self._head

    def follow(self, data: bytes) -> None:
        """Count the next bytes of the stream."""
        if not self._known:
            return
        data = self._head + data
        end, at = len(data), self._ahead
        while at + 2 <= end:
            size = data[at + 1] & LENGTH
            begin = at + 2
            if size in EXTENDED:
                begin += EXTENDED[size]
                if begin > end:
                    break
                size = int.from_bytes(data[at + 2 : begin])
            at = begin + (MASK_SIZE if data[at + 1] & MASKED else 0) + size
        self._head, self._ahead = data[at:], max(at - end, 0)


def acceptable_offer(header: str | None) -> str | None:
    """Return the first offer of Sec-WebSocket-Extensions that can be accepted, without a context.

    simple-websocket accepts it as it is. None if there is none; such offers are declined.
    """
    for offer in (header or "").split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name != DEFLATE:
            continue
        pairs = [parameter.partition("=") for parameter in parameters]
        given = {key.strip(): value.strip() if sign else None for key, sign, value in pairs}
        if len(given) == len(pairs) and all(map(_is_valid, given, given.values())):
            bits = given.get("server_max_window_bits")
            window = [] if bits is None else [f"server_max_window_bits={bits.strip(chr(34))}"]
            return "; ".join((DEFLATE, *NO_CONTEXT, *window))
    return None


def _is_valid(parameter: str, value: str | None) -> bool:
    """Return whether a parameter of an offer is valid, and can be accepted."""
    if parameter in NO_CONTEXT:
        return value is None
    if parameter == "client_max_window_bits":
        return value is None or CLIENT_BITS.fullmatch(value) is not None
    return (
        parameter == "server_max_window_bits"
        and value is not None
        and SERVER_BITS.fullmatch(value) is not None
    )


def decompress(data: bytes, limit: int) -> bytes:
    """Return a decompressed message (RFC 7692 section 7.2.2); zlib.error if it is over the limit.

    The message does not depend on those before it.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(data + DEFLATE_TAIL, limit + 1)
    if len(content) > limit:
        raise zlib.error(f"The message has more than {limit} bytes.")
    return content


class WebSocket:
    """The server's side after the handshake, for one thread at a time, its only writer.

    Args:
        connection: The connection of wsproto, after the handshake.
        limit: The largest size of a message, in bytes.
        packed: Whether the client may compress its messages, each on its own.
    """

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

    def __init__(self, connection: Connection, limit: int, *, packed: bool = False) -> None:
        self._connection = connection
        self._packed = packed
        self._plain = True
        """Whether wsproto is between two messages."""
        self._boundary = Boundary()
        """The boundary of the frames that wsproto reads."""
        self._limit = limit
        self.rest: bytes = b""
        """Bytes that wait for the next call of `receive`."""
        self._begun = False
        """Whether the last fragment of a message is still missing."""
        self._parts: list[str | bytes] = []
        self._fragments = 0
        """Number of frames in the last call of `receive` that did not end a message."""
        self._size = 0
        self.closed: bool = False
        """Whether a close frame was sent, after which nothing may follow."""
        self.received_code: int | None = None
        """The code of the client's close frame, once it has come."""

    def resume(self, begun: str | bytes | bytearray | None) -> None:
        """Continue after another reader, somewhere in the stream of bytes.

        `begun` are the first fragments of a message whose end it has not read.
        """
        self._boundary = Boundary(known=False)
        self._plain = False
        if begun is None:
            return
        self._begun = True
        if isinstance(begun, bytearray):
            # Whether these are a text, the next fragment tells.
            self._parts = [bytes(begun), begun.decode(errors="replace")]
        else:
            self._parts = [begun]
        self._size = len(begun.encode() if isinstance(begun, str) else begun)

    def receive(self, data: bytes, most: int) -> tuple[list[str | bytes], bytes, int]:
        """Take bytes of the client; return whole messages, bytes to send, and a number of frames.

        The number counts the other frames: pings, pongs and fragments. After about `most` of all
        these, the rest of the bytes waits for the next call. A message over the limit closes the
        connection with 1009, a malformed frame with 1002 or 1007.
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
        for start in range(0, len(data), SLICE):
            if self.received_code is not None or self._size < 0:
                break
            if len(messages) + signs + self._fragments >= most:
                self.rest = data[start:]
                break
            part = data[start : start + SLICE]
            self._boundary.follow(part)
            self._connection.receive_data(part)
            signs += self._read(messages, out)
        self._plain = self._boundary.reached and not self.rest and not self._begun
        return messages, b"".join(out), signs + self._fragments

    def _read_plain(self, data: bytes, messages: list[str | bytes], most: int) -> bytes:
        """Read messages of one short frame, as nearly all are; return the rest of the bytes.

        wsproto reads all others, much slower. It must not be inside a frame or a message.
        """
        start, end = 0, len(data)
        firsts = PLAIN_OR_COMPRESSED if self._packed else PLAIN
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
                if data[start] == COMPRESSED_TEXT:
                    content = decompress(content, self._limit)
                messages.append(content.decode())
            except (UnicodeDecodeError, zlib.error):
                break  # wsproto closes with the right code
            start = after
        return data[start:]

    def _read(self, messages: list[str | bytes], out: list[bytes]) -> int:
        signs = 0
        for event in self._connection.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                if self._add(event):
                    messages.append(self._whole(isinstance(event, TextMessage)))
                elif self._size < 0:
                    out.append(
                        self.close(
                            CloseCode.MESSAGE_TOO_BIG,
                            f"A message may have at most {self._limit} bytes.",
                        )
                    )
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
        """Add a fragment; return whether the message is whole. A size below 0 means too large."""
        if self.closed:
            return False
        self._begun = not event.message_finished
        self._size += len(event.data.encode() if isinstance(event, TextMessage) else event.data)
        if self._size > self._limit:
            self._parts, self._size = [], -1
            return False
        if event.data:  # a client may send any number of empty fragments
            self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
            if len(self._parts) >= MAX_PARTS:
                self._parts = [self._joined(isinstance(event, TextMessage))]
        if event.frame_finished and not event.message_finished:
            self._fragments += 1
        return event.message_finished

    def _whole(self, text: bool) -> str | bytes:
        whole = self._joined(text)
        self._parts, self._size = [], 0
        return whole

    def _joined(self, text: bool) -> str | bytes:
        if text:
            return "".join(part for part in self._parts if isinstance(part, str))
        return b"".join(part for part in self._parts if isinstance(part, bytes))

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
        if size < MIN_COMPRESSED:
            return bytes((FINAL_TEXT, 126, size >> 8, size & 255)) + data
        return self._connection.send(TextMessage(data=text))

    def binary(self, data: bytes) -> bytes:
        """Return the frame of a binary message."""
        return b"" if self.closed else self._connection.send(BytesMessage(data=data))

    def ping(self) -> bytes:
        """Return the frame of a ping, which the client answers by a pong."""
        return b"" if self.closed else self._connection.send(Ping())

    def close(self, code: int, reason: str = "") -> bytes:
        """Return the close frame, after which nothing may follow."""
        if self.closed:
            return b""
        self.closed = True
        if self._connection.state is not ConnectionState.OPEN:
            return b""
        return self._connection.send(CloseConnection(code=code, reason=reason[:LONGEST_REASON]))
