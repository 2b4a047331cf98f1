"""Websockets and event streams, as a test sees them."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = ["PATIENCE", "Frame", "LiveEvent", "LiveSocket", "LiveStream"]

PATIENCE: Final = 10.0
NOT_SENT: Final[Any] = object()

Frame = dict[str, Any]


class _Frames:
    """Base class of clients that receive frames."""

    timeout: float
    frames: list[Frame]
    """All frames so far."""

    def receive(self, timeout: float | None = None) -> Frame:
        """Return the next frame."""
        raise NotImplementedError

    def until(
        self,
        ready: Callable[[Frame], bool] | None = None,
        /,
        *,
        timeout: float | None = None,
        **fields: Any,
    ) -> list[Frame]:
        """Return the frames up to and including the first one that matches.

        Args:
            ready: Returns whether a frame matches.
            timeout: How many seconds there are for all of them.
            fields: What the frame says, such as `ref=1` or `state="green"`.

        Raises:
            TimeoutError: No such frame came in time.
        """
        deadline = monotonic() + (self.timeout if timeout is None else timeout)
        found: list[Frame] = []
        while True:
            found.append(self.receive(max(deadline - monotonic(), 0)))
            frame = found[-1]
            if all(name in frame and frame[name] == value for name, value in fields.items()) and (
                ready is None or ready(frame)
            ):
                return found


class LiveSocket(_Frames):
    """A websocket of a `LiveClient`, and a context manager that closes it."""

    def __init__(self, connection: ClientConnection, timeout: float = PATIENCE) -> None:
        self.connection = connection
        """The connection of the package `websockets`."""
        self.timeout = timeout
        self.frames: list[Frame] = []

    @property
    def headers(self) -> Any:
        """The headers of the handshake's response."""
        assert self.connection.response is not None
        return self.connection.response.headers

    def decode(self, text: str | bytes) -> Frame:
        """Return the frame that a message holds."""
        frame: Frame = json.loads(text)
        return frame

    def receive(self, timeout: float | None = None) -> Frame:
        """Return the next frame.

        Args:
            timeout: How many seconds to wait; by default as long as the client does.

        Raises:
            TimeoutError: None came in time.
            websockets.exceptions.ConnectionClosed: The connection is closed, and says why.
        """
        frame = self.decode(self.connection.recv(self.timeout if timeout is None else timeout))
        self.frames.append(frame)
        return frame

    def send(self, event: str, data: Any = None, *, ref: Any = NOT_SENT, **more: Any) -> None:
        """Send an event.

        Args:
            event: The event's name.
            data: The data for the handler: any JSON value.
            ref: Echoed in the frames that answer.
            more: More of the client frame, such as `rev`.
        """
        frame = {"event": event, "data": data, **more}
        if ref is not NOT_SENT:
            frame["ref"] = ref
        self.send_text(json.dumps(frame))

    def send_text(self, message: str | bytes) -> None:
        """Send any message, whether it is a frame or not."""
        self.connection.send(message)

    def ask(self, event: str, data: Any = None, **more: Any) -> Frame:
        """Send an event, and return the next frame."""
        self.send(event, data, **more)
        return self.receive()

    def closed(self, timeout: float | None = None) -> int:
        """Read on until the server closes, and return the code of its close frame.

        1006: the connection ended without one. Raises TimeoutError if it does not end.
        """
        from websockets.exceptions import ConnectionClosed

        deadline = monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            try:
                self.receive(max(deadline - monotonic(), 0))
            except ConnectionClosed as error:
                return 1006 if error.rcvd is None else int(error.rcvd.code)

    def cut(self) -> None:
        """Break the connection without a close frame, as a network does."""
        self.connection.socket.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LiveEvent(NamedTuple):
    """A server-sent event: its type, its data as text, and the id that a reconnection sends."""

    type: str
    data: str
    id: str


class LiveStream(_Frames):
    """An event stream of a `LiveClient`, and a context manager that closes it.

    `status` is 200, or the status of a refusal, whose `body()` says why.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        headers: Mapping[str, str],
        timeout: float = PATIENCE,
    ) -> None:
        self.timeout = timeout
        self.frames: list[Frame] = []
        self.last_id: str = ""
        self._events: Queue[LiveEvent | None] = Queue()
        self._connection = http.client.HTTPConnection(*address, timeout=timeout)
        self._connection.request("GET", path, headers=dict(headers))
        # Kept, since the response takes it over.
        self._socket = self._connection.sock
        self._response = self._connection.getresponse()
        self.status: int = self._response.status
        self.headers: http.client.HTTPMessage = self._response.headers
        self._thread: Thread | None = None
        if self._response.headers.get_content_type() == "text/event-stream":
            self._socket.settimeout(None)
            self._thread = Thread(target=self._read, daemon=True)
            self._thread.start()

    def body(self) -> bytes:
        """Return the body of a response that is no stream."""
        return self._response.read()

    def event(self, timeout: float | None = None) -> LiveEvent:
        """Return the next event.

        Raises:
            TimeoutError: None came in time.
            EOFError: The stream is over.
        """
        try:
            found = self._events.get(timeout=self.timeout if timeout is None else timeout)
        except Empty:
            raise TimeoutError("No event came in time.") from None
        if found is None:
            self._events.put(None)
            raise EOFError("The stream is over.")
        return found

    def receive(self, timeout: float | None = None) -> Frame:
        """Return the frame of the next event.

        Raises:
            TimeoutError: None came in time.
            EOFError: The stream is over.
        """
        frame: Frame = json.loads(self.event(timeout).data)
        self.frames.append(frame)
        return frame

    def _read(self) -> None:
        """Put the events of the response into the queue, until it ends."""
        type, data = "", list[str]()
        with suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            while line := self._response.readline():
                text = line.decode("utf-8").rstrip("\r\n")
                if not text:
                    if data:
                        event = LiveEvent(type or "message", "\n".join(data), self.last_id)
                        self._events.put(event)
                    type, data = "", []
                    continue
                name, _, value = text.partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    type = value
                elif name == "data":
                    data.append(value)
                elif name == "id":
                    self.last_id = value
        self._events.put(None)

    def close(self) -> None:
        """End the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
