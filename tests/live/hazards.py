"""An app with handlers that do what handlers should not, for `tests.live.hazards:create_app()`.

FSM_TEST_CONFIG holds the config, as for apps.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextvars import ContextVar
from threading import Event
from typing import Any, Literal

from cachelib import SimpleCache
from flask import Flask, Response, current_app, flash, g, request, session
from flask_session import Session
from flask_sock import Sock

from flask_fsm import FlaskFSM, Flow, Machine, State
from flask_fsm.channels import SSEChannel
from flask_fsm.runtime.app_state import app_state

from .apps import SECRET, VARIABLE

SEEN: ContextVar[Any] = ContextVar("seen", default=None)


def trap_machine(
    gate: Event, name: str = "trap", scope: Literal["subject", "connection"] = "connection"
) -> Machine:
    """One state, whose handlers answer, wait at a gate, or fail."""
    machine = Machine(name, scope=scope)
    on = State("on")

    @on.event("echo")
    def echo(flow: Flow, data: Any) -> Any:
        return data

    @on.event("size")
    def size(flow: Flow, data: str) -> int:
        return len(data)

    @on.event("large")
    def large(flow: Flow, data: int) -> str:
        return "x" * data

    @on.event("wait")
    def wait(flow: Flow, data: Any) -> str:
        gate.wait(60)
        return "waited"

    @on.event("count")
    def count(flow: Flow, data: Any) -> str:
        told: list[Any] = current_app.config["TOLD"]
        for _ in range(3):
            flow.transmit("x" * 100_000)
        told.append(data)
        return "counted"

    @on.event("list")
    def list_all(flow: Flow, data: int) -> None:
        for number in range(data):
            flow.transmit(number)

    @on.event("sleep")
    def sleep(flow: Flow, data: float) -> str:
        time.sleep(data)
        return "slept"

    @on.event("raise")
    def fail(flow: Flow, data: Any) -> None:
        raise LookupError(SECRET)

    @on.event("context")
    def context(flow: Flow, data: Any) -> dict[str, Any]:
        """What is left of the event before, and how many of those with that data are torn down."""
        found = {
            "g": g.get("seen"),
            "variable": SEEN.get(),
            "torn": current_app.config["TORN"].count(data),
            "path": request.path,
            "flashes": len(session.get("_flashes", ())),
        }
        flash("Nobody will see this.")
        g.seen = data
        SEEN.set(data)
        return found

    @on.event("exit")
    def exit(flow: Flow, data: Any) -> None:
        sys.exit(SECRET)

    @on.event("cancel")
    async def cancel(flow: Flow, data: Any) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    @on.event("base")
    def base(flow: Flow, data: Any) -> None:
        raise BaseException(SECRET)  # as gevent's Timeout is

    @on.event("fail_at_the_end")
    def fail_at_the_end(flow: Flow, data: Any) -> str:
        request.environ["fail"] = True
        return "said"

    machine.register_state(on)
    return machine


class OwnResponse(Response):
    """As an app may have one; Flask makes each answer one of these."""


def create_app() -> Flask:
    """Make the app; members of `ops` are told what the pages say."""
    app = Flask("hazards")
    app.response_class = OwnResponse
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL="memory://")
    app.config.update(json.loads(os.environ.get(VARIABLE, "{}")))
    if app.config.get("SESSIONS") == "server":
        app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache())
        Session(app)
    app.config["TOLD"] = []
    app.config["TORN"] = []
    gate = Event()
    fsm = FlaskFSM(trap_machine(gate))
    fsm.add(trap_machine(gate, "shared", "subject"))
    fsm.live.authorize(lambda group: group == "ops")
    channel = SSEChannel()
    fsm.init_app(app)

    @app.get("/ping")
    def ping() -> str:
        return "ok"

    @Sock(app).route("/route")
    def route(ws: Any) -> None:
        fsm.live.serve(ws)

    @app.get("/own")
    def own() -> Response:
        """A stream of this view's own."""
        listener = channel.add_listener()
        listener.start()
        return channel.sse_response(listener)

    @app.get("/told")
    def told() -> list[Any]:
        """What clients had counted, each after the last thing that its handler says."""
        found: list[Any] = app.config["TOLD"]
        return found

    @app.get("/open")
    def open_gate() -> str:
        """Let those go on who wait."""
        gate.set()
        return "ok"

    @app.get("/tell/<int:first>/<int:number>/<int:size>")
    def tell(first: int, number: int, size: int) -> str:
        """Broadcast some messages, with a number and a text of that size."""
        group = fsm.live.group("ops")
        for count in range(first, first + number):
            group.broadcast([count, (f"{count} " * size)[:size]])
        return "ok"

    @app.after_request
    def lose(response: Response) -> Response:
        """Lose the answer, as an app may that adds to it, or puts another one in its place."""
        if request.headers.get("X-Lose") == "raise":
            raise LookupError(SECRET)
        return Response("another") if request.headers.get("X-Lose") == "replace" else response

    @app.get("/kept")
    def kept() -> list[int]:
        """How many members, connections and channels there are."""
        service = app_state().live
        connections = len(service.loop) + len(service.threads)
        channels = len(service.channels._channels)
        return [len(fsm.live.group("ops").members()), connections, channels]

    @app.get("/codes")
    def codes() -> list[int]:
        """With which codes the connections end that are still there; 0: it goes on."""
        service = app_state().live
        return [
            transport.code
            for engine in (service.loop, service.threads)
            for transport in engine.transports
        ]

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        if request.environ.pop("fail", False):
            raise LookupError(SECRET)

    @app.teardown_appcontext
    def teardown_app(error: BaseException | None) -> None:
        if "seen" in g:
            current_app.config["TORN"].append(g.seen)
            if g.seen.startswith("fail"):
                raise LookupError(SECRET)

    return app
