"""Ours, as the live benchmarks serve it: echoes, a plain page, and a group with a publisher."""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Flask, request

from flask_fsm import Event, FlaskFSM, Machine, State

from .live_rivals.payload import payload


def create_app() -> Flask:
    """Return the app; FSM_BENCH holds FSM_* keys as a JSON object."""
    idle = State("idle")

    @idle.event("echo")
    def echo(flow: Any, data: Any) -> Any:
        return data

    machine = Machine("bench", scope="connection")
    machine.register_state(idle)
    # The same echo on a flow that is stored, and one whose every event is a commit.
    stored = Machine("stored", states=[State("idle", events=[Event("echo", echo)])], final=[])
    moving = Machine("moving", final=[])
    for name, following in (("idle", "busy"), ("busy", "idle")):

        def move(flow: Any, data: Any, following: str = following) -> None:
            flow.transition(following, reply=data)

        moving.register_state(State(name, [following], events=[Event("echo", move)]))
    app = Flask("bench")
    app.config.update(json.loads(os.environ.get("FSM_BENCH", "{}")), SECRET_KEY="benchmark")
    fsm = FlaskFSM(machine)
    fsm.add(Machine("orders", [("cart", "paid")]))
    fsm.add(stored)
    fsm.add(moving)
    fsm.live.authorize(lambda group: True)
    fsm.init_app(app)

    @app.get("/")
    def page() -> str:
        return "<!doctype html><title>A plain page</title>"

    @app.get("/publish")
    def publish() -> str:
        group, first = fsm.live.group("ops"), int(request.args["first"])
        for number in range(first, first + int(request.args["count"])):
            group.broadcast(payload(number))
        return ""

    return app
