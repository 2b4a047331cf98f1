"""Child processes that never outlive the tests, and ports for them to listen on."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
# Below the range from which the kernel takes the near ends of connections (32768 and up on Linux,
# 49152 elsewhere): nobody takes the port of a server that is down for a moment, not even a client
# that tries to reach it and would else connect to itself.
PORTS = range(15_000, 32_000)
# The machines that run these tests are shared, and slow at times.
PATIENCE = 60.0


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
