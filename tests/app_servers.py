"""Servers of apps, which run in processes of their own.

`python -m tests.app_servers PORT MODULE:CALL()` is the development server.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .clients import BROKEN, LOOPBACK, ROOT, Client
from .processes import Child, Server, accepts

# Newer releases of gunicorn open a socket for a program that controls them.
QUIET = ["--no-control-socket"] if int(version("gunicorn").split(".")[0]) >= 25 else []


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
        return self.run("tests.app_servers", str(self.port), self.app)


def serve(port: int, app: str) -> None:
    """Be the development server."""
    from werkzeug.serving import run_simple

    module, _, call = app.partition(":")
    made = getattr(importlib.import_module(module), call.removesuffix("()"))()
    run_simple(LOOPBACK, port, made, threaded=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    serve(int(sys.argv[1]), sys.argv[2])
