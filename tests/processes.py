"""Processes that the tests start, and servers among them, which can be killed.

None outlives the tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .clients import LOOPBACK, PATIENCE

# Below the range from which the kernel takes the near ends of connections (32768 and up on Linux,
# 49152 elsewhere): nobody takes the port of a server that is down for a moment, not even a client
# that tries to reach it and would else connect to itself.
PORTS = range(15_000, 32_000)
ATTEMPTS = 5


def quick_folder() -> str:
    """Return a folder in memory, if there is one with room where programs may be executed.

    A database of PostgreSQL is made there in a tenth of the time that it takes on some disks.
    """
    with contextlib.suppress(OSError):
        found = os.statvfs(MEMORY)
        if found.f_bavail * found.f_frsize > ROOM and not found.f_flag & os.ST_NOEXEC:
            return MEMORY
    return tempfile.gettempdir()


MEMORY = "/dev/shm"
ROOM = 4 << 30
# The servers are put below this folder; it must be one that everybody may enter.
FOLDER = quick_folder()


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
    """Return whether somebody listens on that port of the loopback."""
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
        """Return whether it serves now."""
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
