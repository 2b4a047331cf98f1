"""Clients of an app's live routes."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from .live_connections import PATIENCE, Frame, LiveSocket, LiveStream
from .visitor import Visitor

__all__ = ["LOOPBACK", "LiveClient", "LiveReply"]

LOOPBACK: Final = "127.0.0.1"


class LiveReply(NamedTuple):
    """The response to a plain HTTP request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class LiveClient:
    """A client of a served app: websockets, event streams and HTTP, with one set of cookies.

    Args:
        url: Where the app is served, such as `LiveServer(app).url`.
        visitor: A visitor whose session it shares: the cookie is read from and written to that one.
        cookies: Cookies of its own, names to values.
        origin: Sent with websockets, streams and events as a browser does; by default none, as a
            program does.
        headers: Sent with every request.
        timeout: How many seconds it waits for the server, unless a call says otherwise.
        url_prefix: The app's FSM_URL_PREFIX.
    """

    def __init__(
        self,
        url: str,
        *,
        visitor: Visitor | None = None,
        cookies: Mapping[str, str] | None = None,
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE,
        url_prefix: str = "/fsm",
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self.host: str = parts.hostname or LOOPBACK
        self.port: int = parts.port or 80
        self.visitor = visitor
        self.cookies: dict[str, str] = dict(cookies or {})
        self.origin = origin
        self.headers: dict[str, str] = dict(headers or {})
        self.timeout = timeout
        self.url_prefix = url_prefix

    # -- cookies ------------------------------------------------------------------------

    @property
    def cookie_header(self) -> dict[str, str]:
        """The Cookie header with this client's cookies; empty without any."""
        found = dict(self.cookies)
        if self.visitor is not None and (value := self.visitor.session_cookie) is not None:
            found[self.visitor.app.config["SESSION_COOKIE_NAME"]] = value
        text = "; ".join(f"{name}={value}" for name, value in found.items())
        return {"Cookie": text} if text else {}

    def keep_cookies(self, lines: Iterable[str]) -> None:
        """Take the Set-Cookie lines of a response."""
        for line in lines:
            for name, morsel in SimpleCookie(line).items():
                visitor = self.visitor
                if visitor is not None and name == visitor.app.config["SESSION_COOKIE_NAME"]:
                    visitor.session_cookie = morsel.value or None
                elif morsel.value:
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)

    def _headers(self, headers: Mapping[str, str] | None, *, origin: bool = True) -> dict[str, str]:
        sent = {} if self.origin is None or not origin else {"Origin": self.origin}
        return {**self.cookie_header, **self.headers, **sent, **(headers or {})}

    def _path(self, machine: str, what: str, **query: Any) -> str:
        pairs = [
            (name, each)
            for name, value in query.items()
            for each in (value if isinstance(value, (list, tuple)) else [value])
            if each is not None
        ]
        path = f"{self.url_prefix}/{machine}/{what}"
        return f"{path}?{urlencode(pairs)}" if pairs else path

    # -- HTTP ---------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> LiveReply:
        """Send any request, on a new connection.

        Args:
            method: Such as `GET`.
            path: With its query.
            body: What is sent.
            headers: Sent beside the cookies.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.request(method, path, body, self._headers(headers, origin=False))
            response = connection.getresponse()
            reply = LiveReply(response.status, response.headers, response.read())
        finally:
            connection.close()
        self.keep_cookies(reply.headers.get_all("Set-Cookie") or ())
        return reply

    def get(self, path: str, **query: Any) -> LiveReply:
        """Get a page, as JSON where it has a choice."""
        url_path = f"{path}?{urlencode(query, doseq=True)}" if query else path
        return self.request("GET", url_path, headers={"Accept": "application/json"})

    def post(self, path: str, **fields: str) -> LiveReply:
        """Post a form, and get JSON where there is a choice."""
        kind = "application/x-www-form-urlencoded"
        headers = {"Accept": "application/json", "Content-Type": kind}
        return self.request("POST", path, urlencode(fields).encode(), headers)

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
        """Post an event by plain HTTP.

        Args:
            machine: The machine's name.
            event: The event's name.
            data: The data for the handler: any JSON value.
            flow: The key of the flow, for a machine with `many=True`.
            headers: Sent beside the cookies.
            more: More of the client frame, such as `ref` and `rev`.
        """
        body = json.dumps({"event": event, "data": data, **more}).encode()
        given = self._headers({"Content-Type": "application/json", **(headers or {})})
        return self.request("POST", self._path(machine, "event", flow=flow), body, given)

    def state(self, machine: str, *, flow: str | None = None) -> Frame:
        """Return the state frame that plain HTTP answers with.

        Raises:
            AssertionError: It answered with something else.
        """
        reply = self.get(self._path(machine, "state", flow=flow))
        assert reply.status == 200, (reply.status, reply.body)
        found: Frame = reply.json
        return found

    # -- websockets and streams ---------------------------------------------------------

    def websocket(
        self,
        machine: str,
        *,
        path: str | None = None,
        groups: Iterable[str] = (),
        since: str | None = None,
        flow: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> LiveSocket:
        """Open a websocket.

        Args:
            machine: The machine's name.
            path: The path of the websocket, if `FlaskFSM(websocket=...)` sets one.
            groups: The groups to join.
            since: The id of the last message that was received, to be sent what came after it.
            flow: The key of the flow, for a machine with `many=True`.
            headers: Sent with the handshake.
            options: More of those of `websockets.sync.client.connect`.

        Raises:
            RuntimeError: The package `websockets` is not installed.
            websockets.exceptions.InvalidStatus: The server refuses, and says why.
        """
        try:
            from websockets.sync.client import connect
        except ImportError as error:
            raise RuntimeError(
                "LiveClient.websocket() needs the extra 'testing': pip install "
                f"'flask-fsm[testing]', or in a clone pip install '.[testing]' ({error})."
            ) from error
        query = {"group_id": list(groups), "since": since, "flow": flow}
        url_path = self._path(machine, "ws", **query)
        if path is not None:
            url_path = path + url_path[len(self._path(machine, "ws")) :]
        # A socket of our own, so that no proxy of the environment is used.
        near = socket.create_connection((self.host, self.port), self.timeout)
        given = {
            "open_timeout": self.timeout,
            "close_timeout": self.timeout,
            "max_size": None,
            **options,
        }
        opened = connect(
            f"ws://{self.host}:{self.port}{url_path}",
            sock=near,
            additional_headers=self._headers(headers),
            **given,
        )
        connection = opened.__enter__()  # LiveSocket.close() exits it
        assert connection.response is not None
        self.keep_cookies(connection.response.headers.get_all("Set-Cookie"))
        return LiveSocket(connection, self.timeout)

    def events(
        self,
        machine: str,
        *,
        groups: Iterable[str] = (),
        since: str | None = None,
        last_id: str | None = None,
        flow: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> LiveStream:
        """Open a stream of server-sent events.

        Args:
            machine: The machine's name.
            groups: The groups to join.
            since: The id of the last message that was received, to be sent what came after it.
            last_id: The same, as a browser sends it that connects again.
            flow: The key of the flow, for a machine with `many=True`.
            headers: Sent with the request.
        """
        query = {"group_id": list(groups), "since": since, "flow": flow}
        last = {} if last_id is None else {"Last-Event-ID": last_id}
        given = self._headers({"Accept": "text/event-stream", **last, **(headers or {})})
        address = (self.host, self.port)
        stream = LiveStream(
            address, self._path(machine, "events", **query), given, timeout=self.timeout
        )
        self.keep_cookies(stream.headers.get_all("Set-Cookie") or ())
        return stream
