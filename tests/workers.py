"""Gunicorn with several workers, and clients that send their forms at the same moment.

The clients need nothing but the standard library: `python -m tests.workers` runs some of them in a
process of their own, which reads shots as lines of JSON and writes answers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

from .children import LOOPBACK, Child, Died, accepts, free_port

ROOT = Path(__file__).parent.parent
JSON = "application/json"
HTML = "text/html"
ATTEMPTS = 5
# Newer releases open a socket for a program that controls them.
QUIET = ["--no-control-socket"] if int(version("gunicorn").split(".")[0]) >= 25 else []
# What a client sees of a worker that is killed.
BROKEN = (OSError, http.client.HTTPException)


# -- the server -----------------------------------------------------------------------------------


class Gunicorn:
    """Gunicorn on a port of the loopback, with `workers` processes of `threads` threads each.

    `app` is a module and what to call in it for the app, such as `tests.race_app:create_app()`.
    """

    def __init__(
        self,
        app: str = "tests.race_app:create_app()",
        env: Mapping[str, str] | None = None,
        *,
        workers: int = 4,
        threads: int = 8,
        ping: str = "/ping",
        options: Sequence[str] = (),
    ) -> None:
        self.app = app
        self.env = dict(env or {})
        self.workers = workers
        self.threads = threads
        self.ping = ping
        self.options = list(options)
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="fsm-gunicorn-"))
        self._child: Child | None = None
        self._clients: list[Client] = []

    @property
    def log(self) -> str:
        """All that the workers wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> Self:
        """Start it, and wait until all workers are there and one serves."""
        for attempt in range(1, ATTEMPTS + 1):
            self.port = free_port()
            self._child = self._launch()
            try:
                self._child.wait_until(self.serves)
            except Died:
                self._child = None
                if attempt == ATTEMPTS or "Address already in use" not in self.log:
                    raise
            else:
                return self
        raise AssertionError

    def _launch(self) -> Child:
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            f"--bind={LOOPBACK}:{self.port}",
            f"--workers={self.workers}",
            "--worker-class=gthread",
            f"--threads={self.threads}",
            "--worker-connections=200",
            "--keep-alive=60",
            "--timeout=60",
            "--log-level=warning",
            f"--worker-tmp-dir={self.folder}",
            *QUIET,
            *self.options,
            self.app,
        ]
        log = self.folder / "log"
        return Child(command, log, env=self.env, folder=self.folder, cwd=ROOT)

    def serves(self) -> bool:
        """Tell whether all workers are there, and pages are served."""
        if len(self.pids()) < self.workers or not accepts(self.port):
            return False
        try:
            with contextlib.closing(Client(self.port)) as client:
                return client.get(self.ping).status == 200
        except BROKEN:
            return False

    def pids(self) -> list[int]:
        """Return the processes of the workers that are there now."""
        import psutil

        assert self._child is not None, "Gunicorn was not started."
        try:
            return [child.pid for child in psutil.Process(self._child.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def kill_worker(self, pid: int | None = None) -> int:
        """Kill a worker, by default the newest, with signal 9; gunicorn starts another one."""
        pid = max(self.pids()) if pid is None else pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def client(self, **options: Any) -> Client:
        """Return a browser that has not been here before; it is closed with the site."""
        self._clients.append(Client(self.port, **options))
        return self._clients[-1]

    def stop(self) -> None:
        """End it and all its workers."""
        for client in self._clients:
            client.close()
        if self._child is not None:
            self._child.end()
            self._child = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


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
                    [sys.executable, "-m", "tests.workers", str(port), str(each)],
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
