"""A server that says what a test tells it to say, in place of the real one: it can cut, refuse,
delay, repeat and reorder, which a real server does not do on demand.

It takes connections and leaves them to the test: `websocket()`, `stream()` and `request()` wait for
the next one of their kind.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from ..clients import LOOPBACK, PATIENCE

SCRIPT: Final = Path(__file__).parents[2] / "flask_fsm" / "static" / "fsm" / "fsm.js"
PAGE: Final = b"""<!doctype html><link rel="icon" href="data:,"><script type="module">
import { connect } from "/fsm/static/fsm.js";
window.flow = connect("traffic", { groups: ["ops"] });
</script>"""


class Exchange:
    """A connection with a request, and what the test does with it."""

    def __init__(self, handler: Handler) -> None:
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.path = parts.path
        self.query = parse_qs(parts.query)
        self.headers = handler.headers
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.connection = handler.connection
        self.over = threading.Event()

    @property
    def since(self) -> str | None:
        """The id that the client wants to go on from."""
        return self.query["since"][0] if "since" in self.query else None

    def answer(self, status: int, body: Any, type: str = "application/json") -> None:
        """Answer the request, with JSON if the body is no bytes, and end the connection."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status} Scripted\r\nContent-Type: {type}\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        self.write(head.encode() + content)
        self.let_go()

    def write(self, data: bytes) -> None:
        self.connection.sendall(data)

    def cut(self) -> None:
        """Reset the connection, as a network that fails does."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.let_go()

    def let_go(self) -> None:
        """End the connection."""
        # The thread that reads holds the socket until it is woken.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
        self.over.set()


class Stream(Exchange):
    """An event stream."""

    def accept(self) -> Self:
        """Begin to answer."""
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
            b"Cache-Control: no-cache, no-transform\r\n\r\nretry: 3000\n\n"
        )
        return self

    def send(self, event: str, frame: Any) -> None:
        """Send an event with a frame, and with its id if it has one."""
        id = f"id: {frame['id']}\n" if isinstance(frame, dict) and "id" in frame else ""
        self.write(f"event: {event}\n{id}data: {json.dumps(frame)}\n\n".encode())


class Websocket(Exchange):
    """A websocket. What the client sends is read by `receive()`."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self.protocol = ServerProtocol()
        self.received: Queue[Any] = Queue()
        head = f"{handler.requestline}\r\n{handler.headers}".replace("\r\n", "\n")
        self.protocol.receive_data(head.replace("\n", "\r\n").encode())
        (request,) = self.protocol.events_received()
        assert isinstance(request, Request)
        self.request = request
        self.mutex = threading.Lock()

    def accept(self) -> Self:
        """Answer the handshake, and begin to read."""
        self.protocol.send_response(self.protocol.accept(self.request))
        self.write(b"".join(self.protocol.data_to_send()))
        threading.Thread(target=self.read, daemon=True).start()
        return self

    def read(self) -> None:
        """Keep what the client sends, and answer its close frame, until it is gone."""
        while not self.over.is_set():
            try:
                data = self.connection.recv(65_536)
            except OSError:
                data = b""
            with self.mutex, contextlib.suppress(OSError):
                if data:
                    self.protocol.receive_data(data)
                else:
                    self.protocol.receive_eof()
                self.write(b"".join(self.protocol.data_to_send()))
            for event in self.protocol.events_received():
                assert isinstance(event, Frame)
                if event.opcode is Opcode.TEXT:
                    self.received.put(json.loads(event.data))
                elif event.opcode is Opcode.CLOSE:
                    self.received.put(None)
                    data = b""
            if not data:
                break
        self.over.set()

    def receive(self) -> Any:
        """Wait for what the client sends next: an object, or None as it closes."""
        return self.received.get(timeout=PATIENCE)

    def send(self, *frames: Any) -> None:
        """Send frames: text as it is, all else as JSON."""
        with self.mutex:
            for frame in frames:
                text = frame if isinstance(frame, str) else json.dumps(frame)
                self.protocol.send_text(text.encode())
            self.write(b"".join(self.protocol.data_to_send()))

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame; the connection ends once the client has answered it."""
        with self.mutex:
            self.protocol.send_close(code, reason)
            self.write(b"".join(self.protocol.data_to_send()))


class Handler(BaseHTTPRequestHandler):
    """Reads a request, hands it to the test, and waits until that is done with it."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kept = self.server.fake_server
        path = urlsplit(self.path).path
        if path == "/fsm/static/fsm.js":
            Exchange(self).answer(200, SCRIPT.read_bytes(), "text/javascript")
        elif path == "/":
            Exchange(self).answer(200, PAGE, "text/html")
        elif self.headers.get("Upgrade", "").lower() == "websocket":
            self.leave(Websocket(self), kept.websockets)
        elif path.endswith("/events"):
            self.leave(Stream(self), kept.streams)
        elif path.endswith("/ws"):
            kept.say_why(Exchange(self))
        else:
            self.leave(Exchange(self), kept.requests)
        self.close_connection = True

    do_POST = do_GET

    def leave(self, exchange: Exchange, queue: Queue[Any]) -> None:
        """Leave it to the test, until that is done with it."""
        self.server.fake_server.open.append(exchange)
        queue.put(exchange)
        exchange.over.wait()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The listening socket; what a cut leaves behind is no error of this server."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fake_server: FakeServer) -> None:
        self.fake_server = fake_server
        super().__init__((LOOPBACK, 0), Handler)

    def shutdown_request(self, request: Any) -> None:
        # Without the shutdown of the base, which would turn a reset into an orderly end.
        self.close_request(request)

    def handle_error(self, *_: Any) -> None:
        pass


class FakeServer:
    """The server, as the test sees it."""

    def __init__(self) -> None:
        self.websockets: Queue[Any] = Queue()
        self.streams: Queue[Any] = Queue()
        self.requests: Queue[Any] = Queue()
        self.open: list[Exchange] = []
        self.why: tuple[int, Any] | None = None
        """What a GET without a handshake is answered where websockets are; None: nothing."""
        self.asked_why: list[Exchange] = []
        self._server = Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def websocket(self) -> Websocket:
        """Wait for the next websocket to be asked for."""
        found: Websocket = self.websockets.get(timeout=PATIENCE)
        return found

    def stream(self) -> Stream:
        """Wait for the next event stream to be asked for."""
        found: Stream = self.streams.get(timeout=PATIENCE)
        return found

    def request(self) -> Exchange:
        """Wait for the next other request."""
        found: Exchange = self.requests.get(timeout=PATIENCE)
        return found

    def say_why(self, exchange: Exchange) -> None:
        """Answer who wants to know why a websocket was not opened."""
        self.asked_why.append(exchange)
        if self.why is None:
            exchange.cut()
        else:
            exchange.answer(*self.why)

    def stop(self) -> None:
        """Cut what is open, and listen no more."""
        for exchange in self.open:
            exchange.let_go()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
