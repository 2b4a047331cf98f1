"""The servers of the live benchmarks, each in a process of its own, as its documentation says."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import psutil

from tests.clients import LOOPBACK
from tests.processes import Child, accepts, free_port

ROOT = Path(__file__).parent.parent
# automata-ws needs an old release of websockets, so the rivals have an environment of their own.
RIVALS = ROOT / ".venv-rivals"
REQUIREMENTS = Path(__file__).parent / "live_rivals" / "requirements.txt"
QUIET = ["--no-control-socket"] if int(version("gunicorn").split(".")[0]) >= 25 else []
MOST = 10_000


def rivals() -> Path:
    """Return the Python of the rivals' environment, which is made if it is not there."""
    python, made = RIVALS / "bin" / "python", RIVALS / "made"
    wanted = REQUIREMENTS.read_text()
    if not made.exists() or made.read_text() != wanted:
        venv.create(RIVALS, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True, stdout=sys.stderr)
        made.write_text(wanted)
    return python


def gunicorn(app: str, *options: str) -> list[str]:
    """Return the command of gunicorn with one worker; {port} is where the port goes."""
    return [
        sys.executable,
        "-m",
        "gunicorn",
        f"--bind={LOOPBACK}:{{port}}",
        "--workers=1",
        f"--worker-connections={MOST}",
        "--log-level=warning",
        *QUIET,
        *options,
        app,
    ]


@dataclass
class Kind:
    """How a server is started, and where it is asked for what."""

    name: str
    command: Sequence[str | Path]
    env: dict[str, str] = field(default_factory=dict)
    path: str = "/"
    """Of the websocket, or of the stream."""
    greeted: bool = False
    """Whether a state frame comes first."""


def ours(name: str, *options: str, path: str = "/fsm/bench/ws", **config: Any) -> Kind:
    """Return our app on gunicorn; `config` are FSM_* keys."""
    return Kind(
        name,
        gunicorn("benchmarks.live_app:create_app()", *options),
        {"FSM_BENCH": json.dumps(config)},
        path,
        greeted=path.endswith("/ws"),
    )


def on_loop(**options: Any) -> Kind:
    return ours(
        "flask_fsm, loop",
        "--worker-class=gthread",
        "--threads=8",
        FSM_LIVE_ENGINE="loop",
        FSM_MAX_CONNECTIONS=MOST,
        **options,
    )


def on_loop_stored(machine: str, what: str) -> Kind:
    """Return our app on the loop, whose clients use a machine with stored flows."""
    return replace(
        on_loop(FSM_STORE_URL="memory://"),
        name=f"flask_fsm, loop, a stored flow: {what}",
        path=f"/fsm/{machine}/ws",
    )


def on_threads(connections: int) -> Kind:
    return ours(
        "flask_fsm, threads",
        "--worker-class=gthread",
        f"--threads={connections + 8}",
        FSM_LIVE_ENGINE="threads",
        FSM_MAX_THREADS=connections,
    )


def on_gevent() -> Kind:
    return ours(
        "flask_fsm, gevent",
        "--worker-class=gevent",
        FSM_LIVE_ENGINE="threads",
        FSM_MAX_THREADS=MOST,
    )


def automata() -> Kind:
    module = "benchmarks.live_rivals.automata_server"
    return Kind("automata-ws", [rivals(), "-m", module, "{port}"])


def eric() -> Kind:
    module = "benchmarks.live_rivals.eric_server"
    return Kind("eric-sse", [rivals(), "-m", module, "{port}"], path="/events")


def bare_gevent() -> Kind:
    command = gunicorn("benchmarks.live_rivals.gevent_server:app", "--worker-class=gevent")
    return Kind("bare gevent, gunicorn", command, path="/events")


def bare_pywsgi() -> Kind:
    command = [sys.executable, "-m", "benchmarks.live_rivals.gevent_server", "{port}"]
    return Kind("bare gevent, pywsgi", command, path="/events")


class Running:
    """A server while it runs."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="fsm-bench-"))
        command = [str(part).replace("{port}", str(self.port)) for part in kind.command]
        self._log = self._folder / "log"
        self._child = Child(command, self._log, env=kind.env, folder=self._folder, cwd=ROOT)

    def __enter__(self) -> Self:
        try:
            self._child.wait_until(lambda: accepts(self.port))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            print(f"{self.kind.name} said:\n{self._child.said()}", file=sys.stderr)
        self.stop()

    def stop(self) -> None:
        self._child.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self._child.pid)
        return [parent, *parent.children(recursive=True)]

    def memory(self) -> int:
        """Return the resident bytes of its processes."""
        return sum(process.memory_info().rss for process in self._processes())

    def cpu(self) -> float:
        """Return the seconds of a core that its processes have used."""
        times = [process.cpu_times() for process in self._processes()]
        return float(sum(each.user + each.system for each in times))

    def settle(self, patience: float = 30) -> None:
        """Wait until it has nothing more to do, if it ever has."""
        deadline = time.monotonic() + patience
        with contextlib.suppress(psutil.NoSuchProcess):
            while time.monotonic() < deadline:
                before = self.cpu()
                time.sleep(0.5)
                if self.cpu() - before < 0.02:
                    return
