"""How much of flask_fsm one guarded POST and one socket event cross.

`python -m benchmarks.path_length` prints a Markdown table: modules, classes, calls, and changes
from one module to another. `--list` names the modules and the classes, with their calls.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask, request
from websockets.sync.client import connect
from werkzeug.serving import make_server

from flask_fsm import FlaskFSM, Machine, State

from .measure import table
from .post import Visitor, guarded_app

PACKAGE = "flask_fsm"
WARM_UP = 3
# Seconds until what follows an event, such as its delivery by the bus, has happened.
SETTLE = 0.3
# Runs an event, from the job that the transport made of a frame to the replies that are queued.
HANDLER = "ClientSession.handle"
# Delivers what the event has changed to every client that listens, the sender among them.
DELIVERY = "Channels.publish"


class Recorder:
    """Counts the calls of the package's functions while it is `active`, in all threads.

    With `within`, the qualified name of a function, only those that this function makes; not those
    that the function `without` makes.
    """

    def __init__(self, within: str = "", without: str = "") -> None:
        self.active = False
        self._within = within
        self._without = without
        self._inside = not within
        self.modules: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.changes = 0
        self._last = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self.active:
            return
        if self._within and frame.f_code.co_qualname == self._within:
            self._inside = event == "call"
        if self._without and frame.f_code.co_qualname == self._without:
            self._inside = event == "return"
            return
        if event != "call" or not self._inside:
            return
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(f"{PACKAGE}."):
            return
        self.modules[module] += 1
        names = frame.f_code.co_qualname.partition(".<locals>")[0].split(".")
        if len(names) > 1:
            self.classes[f"{module}.{names[0]}"] += 1
        self.changes += module != self._last
        self._last = module

    def __enter__(self) -> Recorder:
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    @property
    def row(self) -> tuple[str, ...]:
        """The numbers: modules, classes, calls, changes of module."""
        numbers = len(self.modules), len(self.classes), self.modules.total(), self.changes
        return tuple(map(str, numbers))

    @property
    def listed(self) -> str:
        """The modules and the classes with the number of calls of each."""
        found = (*sorted(self.modules.items()), *sorted(self.classes.items()))
        return "\n".join(f"{calls:5} {name}" for name, calls in found)


def record_post(store: str) -> Recorder:
    """Count what one POST with a token crosses, of a flow that has made a few steps."""
    app = guarded_app(FSM_STORE_URL=store)
    init_store(app)
    visitor = Visitor(app)
    for _ in range(WARM_UP):
        visitor.step()
    post = visitor.prepare()
    with Recorder() as recorder:
        recorder.active = True
        post()
        recorder.active = False
    return recorder


def record_event(store: str, within: str = "", without: str = "") -> Recorder:
    """Count what one socket event of a subject's flow crosses, from its bytes to its reply.

    With `within`, from the call of this function to its return, but for the function `without`.
    """
    app = Flask("events")
    app.config.update(SECRET_KEY="benchmark", FSM_STORE_URL=store, FSM_LIVE=True)
    app.config.update(FSM_LIVE_ENGINE="threads")
    idle, busy = State("idle"), State("busy")
    idle.event("go")(lambda flow, data: flow.transition("busy", data))
    busy.event("go")(lambda flow, data: flow.transition("idle", data))
    edges = [("idle", "busy"), ("busy", "idle")]
    fsm = FlaskFSM(Machine("bench", edges, states=[idle, busy]))
    fsm.subject(lambda: request.headers["X-User"])
    fsm.init_app(app)
    init_store(app)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with Recorder(within, without) as recorder:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        url = f"ws://127.0.0.1:{server.port}/fsm/bench/ws"
        with connect(url, additional_headers={"X-User": "ada"}) as client:
            client.recv(timeout=10)
            for step in range(WARM_UP + 1):
                recorder.active = step == WARM_UP
                client.send('{"event": "go", "data": {"a": 1}}')
                client.recv(timeout=10)
                time.sleep(SETTLE)
            recorder.active = False
        server.shutdown()
        serving.join()
    return recorder


def init_store(app: Flask) -> None:
    """Create the tables of the store, if it has some."""
    if app.config["FSM_STORE_URL"] != "session":
        app.test_cli_runner().invoke(args=["fsm", "init-db"], catch_exceptions=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="changes nothing here")
    parser.add_argument("--list", action="store_true", help="name the modules and the classes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sqlite = f"sqlite:///{Path(folder) / 'flows.db'}"
        recorded = {
            "a guarded POST, store session": record_post("session"),
            "a guarded POST, SQLite": record_post(sqlite),
            "an event of a subject's flow, store session": record_event(
                "session", HANDLER, DELIVERY
            ),
            "an event of a subject's flow, SQLite": record_event(sqlite, HANDLER, DELIVERY),
            "its delivery to the client, by threads": record_event("session", DELIVERY),
            "all of it with its websocket, SQLite": record_event(sqlite),
        }
    head = ("crossed by", "modules", "classes", "calls", "changes of module")
    print(table(head, [(name, *recorder.row) for name, recorder in recorded.items()]))
    if options.list:
        for name, recorder in recorded.items():
            print(f"\n{name}\n{recorder.listed}")


if __name__ == "__main__":
    main()
