"""What a stranger notices of a visitor with an unfinished POST and eight busy sockets.

`python -m benchmarks.one_visitor` prints a Markdown table: how long a stranger's event and page
take, in milliseconds, while nobody else is there, beside that visitor, and beside one whose form
takes long, for which the events of its sockets wait. By the loop and by threads, behind
gunicorn's gthread. `--quick` measures for two seconds each, instead of ten.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from flask import Flask

from flask_fsm import FlaskFSM, Machine, State
from flask_fsm.testing import LiveClient, LiveSocket
from tests.app_servers import Gunicorn
from tests.clients import LOOPBACK

from .measure import table

ENGINES = ("loop", "threads")
THREADS = 8
SOCKETS = 8
# Seconds between two events of each socket, and between two requests of the stranger.
PERIOD = 0.05
# Seconds that the slow form takes: the lock of its flow is held for so long.
SLOW = 3.0
# In milliseconds; the table marks what takes longer.
EVENT_BAR, PAGE_BAR = 50.0, 100.0


def create_app() -> Flask:
    """Return the app that is served; FSM_BENCH holds FSM_* keys as a JSON object."""
    app = Flask("bench")
    app.config.update(json.loads(os.environ.get("FSM_BENCH", "{}")), SECRET_KEY="benchmark")
    idle = State("idle")
    idle.event("ping")(lambda flow, data: data)
    fsm = FlaskFSM(app, Machine("bench", [("idle", "end")], states=[idle, "end"]))

    @app.route("/idle", endpoint="idle", methods=["GET", "POST"])
    @fsm.check()
    def page() -> str:
        return f"<!doctype html><title>A page</title><form>{fsm.token()}</form>"

    @app.post("/slow")
    @fsm.requires("idle")
    def slow() -> str:
        time.sleep(SLOW)
        return "done"

    @app.get("/end", endpoint="end")
    @fsm.check()
    def end() -> str:
        return "The end"

    @app.get("/ping")
    def ping() -> str:
        return ""

    return app


class Visitor:
    """A visitor with a POST that does not come to its end, and sockets that send events."""

    def __init__(self, url: str, *, slow: bool) -> None:
        self._client = LiveClient(url)
        self._slow = slow
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Visitor:
        self._client.get("/idle")
        for work in (self._hold, self._send):
            thread = threading.Thread(target=work)
            thread.start()
            self._threads.append(thread)
        time.sleep(0.5)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _hold(self) -> None:
        if self._slow:
            while not self._over.is_set():
                self._client.post("/slow")
            return
        cookie = self._client.cookie_header["Cookie"]
        head = (
            f"POST /idle HTTP/1.1\r\nHost: {LOOPBACK}\r\nCookie: {cookie}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\na=1&"
        )
        with socket.create_connection((LOOPBACK, self._client.port)) as unfinished:
            unfinished.sendall(head.encode())
            self._over.wait()

    def _send(self) -> None:
        sockets: list[LiveSocket] = []
        for _ in range(SOCKETS):
            with contextlib.suppress(Exception):  # the server has no more room for this visitor
                sockets.append(self._client.websocket("bench"))
        number = 0
        while not self._over.wait(PERIOD):
            number += 1
            for each in sockets:
                with contextlib.suppress(Exception):
                    each.send("ping", number)
        for each in sockets:
            each.cut()


def milliseconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def measured(url: str, seconds: float) -> tuple[list[float], list[float]]:
    """Return how long the events and the pages of a stranger took, in milliseconds."""
    stranger = LiveClient(url)
    stranger.get("/idle")
    events, pages = [], []
    with stranger.websocket("bench") as connection:
        connection.receive()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            events.append(milliseconds(lambda: connection.ask("ping", len(events))))
            pages.append(milliseconds(lambda: stranger.get("/idle")))
            time.sleep(PERIOD)
    return events, pages


def shown(times: list[float], bar: float) -> tuple[str, str]:
    """Return the median and the 99th percentile, the latter marked if it is above the bar."""
    high = sorted(times)[len(times) * 99 // 100]
    return f"{median(times):.1f}", f"{high:.1f}{' (!)' if high > bar else ''}"


def rows(seconds: float) -> Iterator[tuple[str, ...]]:
    for engine in ENGINES:
        env = {"FSM_BENCH": json.dumps({"FSM_LIVE_ENGINE": engine})}
        app = "benchmarks.one_visitor:create_app()"
        with Gunicorn(app, env, workers=1, threads=THREADS) as server:
            url = f"http://{LOOPBACK}:{server.port}"
            for name, beside in (
                ("alone", None),
                (f"an unfinished POST and {SOCKETS} sockets", Visitor(url, slow=False)),
                (f"a slow form and {SOCKETS} sockets that wait", Visitor(url, slow=True)),
            ):
                with beside or contextlib.nullcontext():
                    events, pages = measured(url, seconds)
                yield (f"{engine}: {name}", *shown(events, EVENT_BAR), *shown(pages, PAGE_BAR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure for two seconds each")
    options = parser.parse_args()
    head = ("beside a stranger", "event, ms", "99 %", "page, ms", "99 %")
    print(table(head, rows(2 if options.quick else 10)))


if __name__ == "__main__":
    main()
