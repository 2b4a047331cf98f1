"""Real servers for the live tests, and clients of them: sockets, streams by curl, and HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ..processes import LOOPBACK, PATIENCE, AppServer, Development, Gunicorn
from .apps import VARIABLE
from .eventstream import Event, parse
from .frames import checked

__all__ = ["APP", "ENGINES", "Browser", "Reply", "Site", "Sites", "Socket", "Stream", "until"]

APP: Final = "tests.live.apps:create_app()"
# What serves sockets in each kind of site: the loop and threads behind gunicorn's threads,
# gunicorn's greenlets, and werkzeug's development server.
ENGINES: Final = ("loop", "threads", "gevent", "werkzeug")
NOT_SENT: Final[Any] = object()


def until(true: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until something is true that nobody tells of."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"It was not so in {patience:g} s."
        time.sleep(0.02)


# -- servers ---------------------------------------------------------------------------------------


class Site:
    """A served app."""

    def __init__(
        self, engine: str, app: str = APP, *, workers: int = 1, threads: int = 32, **config: Any
    ) -> None:
        """`config` is the app's; what it says of FSM_LIVE_ENGINE goes before `engine`."""
        self.engine = engine
        chosen = {"loop": "loop", "threads": "threads"}.get(engine)
        given = config if chosen is None else {"FSM_LIVE_ENGINE": chosen, **config}
        env = {VARIABLE: json.dumps(given)}
        if engine == "werkzeug":
            self.server: AppServer = Development(app, env)
        else:
            options = ["--worker-class=gevent"] if engine == "gevent" else []
            self.server = Gunicorn(app, env, workers=workers, threads=threads, options=options)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def origin(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> str:
        """All that the server's processes wrote."""
        return self.server.log

    def browser(self, **options: Any) -> Browser:
        """Return a browser that has not been here before."""
        return Browser(self.port, **options)

    def terminate(self) -> None:
        """Ask the server to end."""
        self.server.terminate()

    def start(self) -> Self:
        self.server.start()
        return self

    def stop(self) -> None:
        self.server.stop()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


class Sites:
    """The sites of a run of the tests: one for all that ask for the same."""

    def __init__(self) -> None:
        self._made: dict[str, Site] = {}
        self._kept: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returned when it was called for the first time, such as a database."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def get(self, engine: str, app: str = APP, **options: Any) -> Site:
        """Return the site with these options, as `Site` takes them; it is started if need be."""
        name = json.dumps([engine, app, options], sort_keys=True)
        if name not in self._made:
            self._made[name] = Site(engine, app, **options).__enter__()
        return self._made[name]

    def stop(self) -> None:
        for site in self._made.values():
            site.stop()
        self._made.clear()


# -- clients ---------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """What HTTP was answered with."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Browser:
    """Keeps cookies, and opens sockets and streams with them.

    `origin` is sent with sockets and posts; None sends none, as a program does.
    """

    def __init__(
        self, port: int, *, origin: str | None = None, cookies: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self.origin = origin
        self.cookies = dict(cookies or {})

    def copy(self, **options: Any) -> Browser:
        """Return another browser with the same cookies."""
        return Browser(self.port, **{"cookies": self.cookies, "origin": self.origin, **options})

    @property
    def cookie(self) -> dict[str, str]:
        """The header that hands the cookies back."""
        text = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"Cookie": text} if text else {}

    def keep(self, lines: Iterable[str]) -> None:
        """Take the Set-Cookie lines of an answer."""
        for line in lines:
            for name, morsel in SimpleCookie(line).items():
                if morsel.value:
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)

    # -- HTTP ---------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request on a connection of its own."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {**self.cookie, **(headers or {})})
            response = connection.getresponse()
            reply = Reply(response.status, response.headers, response.read())
        finally:
            connection.close()
        self.keep(reply.headers.get_all("Set-Cookie") or ())
        return reply

    def get(self, path: str, **query: Any) -> Reply:
        """Get a page, as one who wants JSON."""
        asked = f"{path}?{urlencode(query, doseq=True)}" if query else path
        return self.ask("GET", asked, headers={"Accept": "application/json"})

    def post(self, path: str, **fields: str) -> Reply:
        """Post a form."""
        kind = "application/x-www-form-urlencoded"
        headers = {"Accept": "application/json", "Content-Type": kind}
        return self.ask("POST", path, urlencode(fields).encode(), headers)

    def event(
        self,
        machine: str,
        event: str,
        data: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        **more: Any,
    ) -> Reply:
        """Post an event; a frame in the answer is checked. `more` is more of the client frame."""
        body = json.dumps({"event": event, "data": data, **more}).encode()
        origin = {} if self.origin is None else {"Origin": self.origin}
        given = {"Content-Type": "application/json", **origin, **(headers or {})}
        reply = self.ask("POST", f"/fsm/{machine}/event{query}", body, given)
        kind = reply.headers["Content-Type"]
        if kind == "application/problem+json":
            checked(reply.body, "Problem")
        elif kind == "application/json":
            checked(reply.body, "Answer")
        return reply

    def state(self, machine: str) -> dict[str, Any]:
        """Return the state frame that HTTP answers with."""
        reply = self.get(f"/fsm/{machine}/state")
        assert reply.status == 200, reply.body
        return checked(reply.body, "StateFrame")

    # -- sockets and streams ------------------------------------------------------------

    def socket(
        self,
        machine: str = "traffic",
        *,
        path: str | None = None,
        groups: Iterable[str] = (),
        since: str | None = None,
        flow: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Socket:
        """Open a websocket; raises what `websockets` does if it is refused."""
        near = socket.create_connection((LOOPBACK, self.port), PATIENCE)
        asked = path or f"/fsm/{machine}/ws"
        opened = connect(
            f"ws://{LOOPBACK}:{self.port}{asked}{_query(groups, since, flow)}",
            sock=near,
            origin=self.origin,  # type: ignore[arg-type]
            additional_headers={**self.cookie, **(headers or {})},
            **{"max_size": None, "open_timeout": PATIENCE, "close_timeout": PATIENCE, **options},
        )
        connection = opened.__enter__()  # it is left by Socket.close()
        assert connection.response is not None
        self.keep(connection.response.headers.get_all("Set-Cookie"))
        return Socket(connection)

    def stream(
        self,
        machine: str = "traffic",
        *,
        groups: Iterable[str] = (),
        since: str | None = None,
        last_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Stream:
        """Open a stream of server-sent events by curl."""
        given = {**self.cookie, **(headers or {})}
        if last_id is not None:
            given["Last-Event-ID"] = last_id
        if self.origin is not None:
            given["Origin"] = self.origin
        query = _query(groups, since)
        stream = Stream(f"http://{LOOPBACK}:{self.port}/fsm/{machine}/events{query}", given)
        self.keep(stream.all_of("set-cookie"))
        return stream


def _query(groups: Iterable[str], since: str | None, flow: str | None = None) -> str:
    pairs = [("group_id", group) for group in groups]
    pairs += [] if since is None else [("since", since)]
    pairs += [] if flow is None else [("flow", flow)]
    return f"?{urlencode(pairs)}" if pairs else ""


class Socket:
    """A websocket, all of whose frames are checked."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[dict[str, Any]] = []
        """All frames so far."""

    @property
    def headers(self) -> Any:
        """The headers of the handshake's answer."""
        assert self.connection.response is not None
        return self.connection.response.headers

    def recv(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the next frame; raises TimeoutError or ConnectionClosed."""
        frame = checked(self.connection.recv(timeout))
        self.frames.append(frame)
        return frame

    def send(self, event: str, data: Any = None, *, ref: Any = NOT_SENT, **more: Any) -> None:
        """Send an event, with `ref` and whatever else if it is given."""
        frame = {"event": event, "data": data, **more}
        if ref is not NOT_SENT:
            frame["ref"] = ref
        self.raw(json.dumps(frame))

    def raw(self, message: str | bytes) -> None:
        """Send whatever."""
        self.connection.send(message)

    def ask(self, event: str, data: Any = None, **more: Any) -> dict[str, Any]:
        """Send an event, and return the next frame."""
        self.send(event, data, **more)
        return self.recv()

    def until(self, ref: Any, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the frames up to the one that echoes `ref`, that one included."""
        found = []
        while True:
            found.append(self.recv(timeout))
            if found[-1].get("ref") == ref:
                return found

    def silent(self, event: str = "ping") -> None:
        """Check that nothing waits: the next frame is the answer to an event sent now."""
        frame = self.ask(event, ref="is anything there?")
        assert frame.get("ref") == "is anything there?", frame

    def closed(self, timeout: float = PATIENCE) -> int:
        """Read to the end, and return the code of the server's close frame; 1006 if it has none."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.recv(deadline - time.monotonic())
            except ConnectionClosed as error:
                return 1006 if error.rcvd is None else int(error.rcvd.code)

    def cut(self) -> None:
        """Break the connection, as a network does."""
        self.connection.socket.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream:
    """A stream of server-sent events, read by `curl -N`; all its frames are checked."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """Open it, and wait for the head of the answer."""
        given = [part for each in headers.items() for part in ("--header", ": ".join(each))]
        self.process = subprocess.Popen(
            ["curl", "--no-buffer", "--silent", "--include", "--noproxy", "*", *given, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self.events: list[Event] = []
        """All events so far."""
        self.retries: list[int] = []
        self.comments = 0
        """How many comments there were so far."""
        self.rest = b""
        """What came last, or a body that is no stream."""
        self.last_id = ""
        self._read = 0
        self._head: bytes | None = None
        self._over = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        self._wait_for(lambda: self._head is not None or self._over, PATIENCE)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        pending = b""
        while chunk := os.read(output, 65_536):
            pending += chunk
            with self._more:
                if self._head is None and b"\r\n\r\n" in pending:
                    self._head, _, pending = pending.partition(b"\r\n\r\n")
                if self._head is not None:
                    whole, end, pending = pending.rpartition(b"\n\n")
                    self._take(whole + end)
                    self.rest = pending
                self._more.notify_all()
        with self._more:
            self._over = True
            self._more.notify_all()

    def _take(self, text: bytes) -> None:
        found = parse(text)
        for event in found.events:
            self.last_id = event.last_id or self.last_id
            self.events.append(event._replace(last_id=event.last_id))
        self.retries += found.retries
        self.comments += len(found.comments)

    def _wait_for(self, ready: Any, timeout: float) -> None:
        with self._more:
            if not self._more.wait_for(ready, timeout):
                raise TimeoutError(f"{self.events[self._read :]}, {self.rest!r}")

    # -- what was answered --------------------------------------------------------------

    @property
    def status(self) -> int:
        found = re.match(rb"HTTP/1\.1 (\d{3})", self._head or b"")
        return 0 if found is None else int(found[1])

    def all_of(self, header: str) -> list[str]:
        """Return the values of a header, its name in small letters."""
        lines = (self._head or b"").decode("latin-1").split("\r\n")[1:]
        pairs = [line.partition(":") for line in lines]
        return [value.strip() for name, _, value in pairs if name.lower() == header]

    def header(self, name: str) -> str | None:
        """Return the value of a header, its name in small letters."""
        found = self.all_of(name)
        return ", ".join(found) if found else None

    def event(self, timeout: float = PATIENCE) -> Event:
        """Return the next event; raises TimeoutError, or EOFError at the end."""
        self._wait_for(lambda: len(self.events) > self._read or self._over, timeout)
        if len(self.events) <= self._read:
            raise EOFError
        self._read += 1
        return self.events[self._read - 1]

    def recv(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the frame of the next event, after a look at whether name and id agree with it."""
        event = self.event(timeout)
        frame = checked(event.data)
        kind = "state" if "state" in frame else "group" if "group" in frame else "data"
        assert event.type == kind, event
        if "id" in frame:
            assert event.last_id == frame["id"], event
        return frame

    def commented(self, number: int, timeout: float = PATIENCE) -> None:
        """Wait until there were that many comments."""
        self._wait_for(lambda: self.comments >= number or self._over, timeout)
        assert self.comments >= number, "The stream is over."

    def ended(self, timeout: float = PATIENCE) -> bytes:
        """Wait for the end of the answer, and return what is left that was no event."""
        self._wait_for(lambda: self._over, timeout)
        return self.rest

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
