"""Real servers for the live tests, and clients of them: sockets, streams by curl, and HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self
from urllib.parse import urlencode

from flask_fsm.testing import LiveClient, LiveReply, LiveSocket

from ..app_servers import AppServer, Development, Gunicorn
from ..clients import LOOPBACK, PATIENCE
from .apps import VARIABLE
from .eventstream import Event, parse
from .frames import checked

__all__ = ["APP", "ENGINES", "Browser", "Site", "Sites", "Socket", "Stream", "until"]

APP: Final = "tests.live.apps:create_app()"
# What serves sockets in each kind of site: the loop and threads behind gunicorn's threads,
# gunicorn's greenlets, and werkzeug's development server.
ENGINES: Final = ("loop", "threads", "gevent", "werkzeug")


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


class Browser(LiveClient):
    """A client of the package's own, with cookies, whose frames are checked by the schemas.

    Its streams are read by another program, curl.
    """

    def __init__(
        self, port: int, *, origin: str | None = None, cookies: Mapping[str, str] | None = None
    ) -> None:
        """`origin` is sent with sockets and posts; None sends none, as a program does."""
        url = f"http://{LOOPBACK}:{port}"
        super().__init__(url, origin=origin, cookies=cookies, timeout=PATIENCE)

    def copy(self, **options: Any) -> Browser:
        """Return another browser with the same cookies."""
        return Browser(self.port, **{"cookies": self.cookies, "origin": self.origin, **options})

    def event(
        self,
        machine: str,
        event: str,
        data: Any = None,
        *,
        flow: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> LiveReply:
        """Post an event; a frame in the answer is checked. `more` is more of the client frame."""
        reply = super().event(machine, event, data, flow=flow, headers=headers, **more)
        kind = reply.headers["Content-Type"]
        if kind == "application/problem+json":
            checked(reply.body, "Problem")
        elif kind == "application/json":
            checked(reply.body, "Answer")
        return reply

    def state(self, machine: str, *, flow: str | None = None) -> dict[str, Any]:
        """Return the state frame that HTTP answers with."""
        return checked(json.dumps(super().state(machine, flow=flow)), "StateFrame")

    def websocket(self, machine: str = "traffic", **options: Any) -> Socket:
        """Open a websocket whose frames are checked."""
        return Socket(super().websocket(machine, **options).connection, PATIENCE)

    def curl_events(
        self,
        machine: str = "traffic",
        *,
        groups: Iterable[str] = (),
        since: str | None = None,
        last_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Stream:
        """Open a stream of server-sent events by curl."""
        given = {**self.cookie_header, **(headers or {})}
        if last_id is not None:
            given["Last-Event-ID"] = last_id
        if self.origin is not None:
            given["Origin"] = self.origin
        pairs = [("group_id", group) for group in groups]
        pairs += [] if since is None else [("since", since)]
        pairs += (query or {}).items()
        end = f"?{urlencode(pairs)}" if pairs else ""
        stream = Stream(f"{self.url}/fsm/{machine}/events{end}", given)
        self.keep_cookies(stream.all_of("set-cookie"))
        return stream


class Socket(LiveSocket):
    """A websocket, all of whose frames are checked."""

    def decode(self, text: str | bytes) -> dict[str, Any]:
        return checked(text)

    def until(self, ref: Any, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the frames up to the one that echoes `ref`, that one included."""
        return super().until(ref=ref, timeout=timeout)

    def silent(self, event: str = "ping") -> None:
        """Check that nothing waits: the next frame is the answer to an event sent now."""
        frame = self.ask(event, ref="is anything there?")
        assert frame.get("ref") == "is anything there?", frame


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

    def receive(self, timeout: float = PATIENCE) -> dict[str, Any]:
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
