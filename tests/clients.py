"""HTTP clients of served apps: one at a time, many at the same moment, through failures.

They need nothing but the standard library: `python -m tests.clients` runs some of them in a
process of their own, which reads shots as lines of JSON and writes answers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

ROOT = Path(__file__).parent.parent
LOOPBACK = "127.0.0.1"
# Seconds. The machines that run these tests are shared, and slow at times.
PATIENCE = 60.0
JSON = "application/json"
HTML = "text/html"
# What a client sees of a worker that is killed.
BROKEN = (OSError, http.client.HTTPException)


# -- one client -----------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a client got: `json` is what the body says, `worker` the process that answered."""

    status: int
    json: Any
    location: str | None
    worker: int
    retry_after: str | None = None
    text: str = ""


class Client:
    """A browser: it keeps its connection and its cookies."""

    def __init__(self, port: int, *, cookies: Mapping[str, str] | None = None) -> None:
        self.port = port
        self.cookies = dict(cookies or {})
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, asking: str = JSON) -> Answer:
        return self._ask("GET", path, None, asking)

    def post(
        self,
        path: str,
        fields: Mapping[str, Any] | None = None,
        token: str | None = None,
        asking: str = JSON,
    ) -> Answer:
        """Send a form as it is, with `token` if there is one."""
        sent = {**(fields or {}), **({} if token is None else {"fsm_token": token})}
        return self._ask("POST", path, urlencode(sent), asking)

    def connect(self) -> Self:
        """Open the connection now, so that a race begins with the form itself."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=60)
            self._connection.connect()
        return self

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, path: str, body: str | None, asking: str) -> Answer:
        headers = {"Accept": asking}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={text}" for name, text in self.cookies.items())
        self.connect()
        assert self._connection is not None
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            text = response.read().decode()
        except BaseException:
            # No request is sent twice unless the test says so.
            self.close()
            raise
        for line in response.headers.get_all("Set-Cookie") or ():
            name, _, value = line.partition(";")[0].partition("=")
            if value:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        if response.will_close:
            self.close()
        kind = response.headers.get("Content-Type", "")
        return Answer(
            response.status,
            json.loads(text) if "json" in kind else None,
            response.headers.get("Location"),
            int(response.headers.get("X-Worker", 0)),
            response.headers.get("Retry-After"),
            text,
        )


# -- many at once ---------------------------------------------------------------------------------


class Shot(NamedTuple):
    """A form that one of the racers sends."""

    path: str
    fields: Mapping[str, Any]
    token: str | None
    cookies: Mapping[str, str]
    asking: str = JSON


class Threads:
    """As many clients as are needed, in threads of this process.

    Each opens a connection for each shot, before it is fired, so that the server deals them anew.
    """

    def __init__(self, port: int, number: int = 32) -> None:
        self._clients = [Client(port) for _ in range(number)]
        self._pool = ThreadPoolExecutor(number)

    def fire(self, shots: Sequence[Shot]) -> list[Answer]:
        """Send all at the same moment, each by a client of its own, and return the answers."""
        together = threading.Barrier(len(shots))

        def send(client: Client, shot: Shot) -> Answer:
            client.connect().cookies = dict(shot.cookies)
            together.wait(60)
            try:
                return client.post(shot.path, shot.fields, shot.token, shot.asking)
            finally:
                client.close()

        return list(self._pool.map(send, self._clients, shots))

    def close(self) -> None:
        self._pool.shutdown()
        for client in self._clients:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Processes:
    """Clients in processes of their own: `number` processes, of which each may have several."""

    def __init__(self, port: int, number: int = 4, each: int = 8) -> None:
        self._drivers: list[subprocess.Popen[str]] = []
        try:
            for _ in range(number):
                # They end by themselves when this process does, since their input ends then.
                driver = subprocess.Popen(
                    [sys.executable, "-m", "tests.clients", str(port), str(each)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    start_new_session=True,
                )
                self._drivers.append(driver)
            for driver in self._drivers:
                self._read(driver)
        except BaseException:
            self.close()
            raise

    def fire(self, shots: Sequence[Shot]) -> list[Answer]:
        """Send all at the same moment, dealt out to the processes, and return the answers."""
        number = len(self._drivers)
        hands = [shots[place::number] for place in range(number)]
        playing = [(d, hand) for d, hand in zip(self._drivers, hands, strict=True) if hand]
        for driver, hand in playing:
            self._write(driver, hand)
        for driver, _ in playing:
            self._read(driver)
        for driver, _ in playing:
            self._write(driver, "go")
        dealt = [[Answer(*each) for each in self._read(driver)] for driver, _ in playing]
        return [dealt[place % number][place // number] for place in range(len(shots))]

    @staticmethod
    def _write(driver: subprocess.Popen[str], what: Any) -> None:
        assert driver.stdin is not None
        driver.stdin.write(json.dumps(what) + "\n")
        driver.stdin.flush()

    @staticmethod
    def _read(driver: subprocess.Popen[str]) -> Any:
        assert driver.stdout is not None
        line = driver.stdout.readline()
        if not line:
            raise RuntimeError("A process with clients ended by itself.")
        return json.loads(line)

    def close(self) -> None:
        for driver in self._drivers:
            driver.kill()
            driver.wait()
            for pipe in (driver.stdin, driver.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def drive(port: int, number: int, lines: Iterable[str]) -> None:
    """Be one of the processes: read shots, say that they are loaded, wait for the word, fire."""

    def say(what: Any) -> None:
        print(json.dumps(what), flush=True)

    with Threads(port, number) as clients:
        say("here")
        source = iter(lines)
        for line in source:
            shots = [Shot(*each) for each in json.loads(line)]
            say("ready")
            next(source)
            say(clients.fire(shots))


# -- clients that go on through failures ----------------------------------------------------------


def persist(
    client: Client,
    path: str,
    fields: Mapping[str, Any],
    token: str,
    *,
    patience: float = 60,
    lost: list[str] | None = None,
) -> Answer:
    """Send a form again and again, with its token, until its fate is told; `lost` notes failures.

    Broken connections, 5xx, and the 409 of a form that is busy elsewhere tell nothing.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            answer = client.post(path, fields, token)
        except BROKEN as error:
            told = type(error).__name__
        else:
            busy = answer.status == 409 and answer.retry_after is not None
            if answer.status < 500 and not busy:
                return answer
            told = str(answer.status)
        if lost is not None:
            lost.append(told)
        assert time.monotonic() < deadline, f"No answer to a form in {patience:g} s: {told}."
        time.sleep(0.02)


def see(client: Client, path: str, *, patience: float = 60) -> Answer:
    """Open a page again and again, until it is answered by something else than a failure."""
    deadline = time.monotonic() + patience
    while True:
        told: object
        try:
            answer = client.get(path)
        except BROKEN as error:
            told = error
        else:
            if answer.status < 500:
                return answer
            told = answer.status
        assert time.monotonic() < deadline, f"No page in {patience:g} s: {told!r}."
        time.sleep(0.02)


if __name__ == "__main__":
    drive(int(sys.argv[1]), int(sys.argv[2]), sys.stdin)
