"""The example app with a record of what happens in it, which all its processes write together.

`tests.browser.recorded_app:create_app()` is what gunicorn's workers serve; the environment variable
FSM_TEST_WATCHED tells them, as JSON, the folder of the record and the app's config.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.wsgi import ClosingIterator

import example_app
from flask_fsm.signals import transitioned

VARIABLE = "FSM_TEST_WATCHED"
LIVE = ("/ws", "/events", "/event", "/state")
# The machines that run these tests are shared, and slow at times.
PATIENCE = 10.0


def until(ready: Callable[[], bool], otherwise: str) -> None:
    """Wait until `ready` returns true; if it does not, fail and say what is the matter."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.005)


class Record:
    """A file to which each process appends what happens in it, a line of JSON for each event."""

    def __init__(self, folder: Path) -> None:
        self._events = folder / "events"
        self._gate = folder / "gate"
        self._events.touch()

    def note(self, event: str, *facts: Any) -> None:
        """Append an event."""
        line = json.dumps([event, os.getpid(), *facts]) + "\n"
        with self._events.open("ab", buffering=0) as file:  # so it is one write, and not torn
            file.write(line.encode())

    def end(self) -> int:
        """Return where the record ends now."""
        return self._events.stat().st_size

    def read(self, event: str, since: int) -> list[list[Any]]:
        """Return the events of a kind from a place on: the process, and what was noted."""
        with self._events.open("rb") as file:
            file.seek(since)
            lines = file.read().rpartition(b"\n")[0].splitlines()
        return [facts for kind, *facts in map(json.loads, lines) if kind == event]

    # -- forms that wait for each other -------------------------------------------------

    def hold(self, count: int) -> None:
        """From now on, let forms wait until `count` of them are here."""
        draft = self._gate.with_suffix(".draft")
        draft.write_text(json.dumps([count, self.end()]))
        draft.replace(self._gate)

    def free(self) -> None:
        """Let no form wait any more."""
        self._gate.unlink(missing_ok=True)

    def pass_gate(self) -> None:
        """Wait with a form that has arrived, if it has to."""
        try:
            count, since = json.loads(self._gate.read_text())
        except FileNotFoundError:
            return
        self.note("held")
        until(lambda: len(self.read("held", since)) >= count, "Not enough forms were sent.")


def watch(app: Flask, record: Record) -> None:
    """Note the transitions of an app and its answers, but those of static files and live ones."""
    serve = app.wsgi_app

    def moved(sender: Flask, *, result: Any, **_: Any) -> None:
        record.note("moved", result.source.split(".")[-1], result.target.split(".")[-1])

    def recorded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.endswith(LIVE):
            return serve(environ, start_response)  # a connection that goes on, or a script's own

        def start(status: str, *rest: Any) -> Any:
            if "/static/" not in path:
                record.note("answered", method, path, int(status[:3]))
            return start_response(status, *rest)

        if method == "POST":
            record.pass_gate()
        # Read here, for the server leaves files open when the browser hangs up.
        with closing(ClosingIterator(serve(environ, start))) as answer:
            return [b"".join(answer)]

    transitioned.connect(moved, app, weak=False)
    app.wsgi_app = recorded  # type: ignore[method-assign]


def create_app() -> Flask:
    """Make the app of a worker."""
    told = json.loads(os.environ[VARIABLE])
    app = example_app.create_app(told["config"])
    watch(app, Record(Path(told["folder"])))
    return app
