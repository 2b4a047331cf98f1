"""Ours, as the live benchmarks serve it: an echo, a plain page, and a group with a publisher."""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Flask, request

from flask_fsm import FlaskFSM, Machine, State

from .live_rivals.payload import payload


def create_app() -> Flask:
    """Return the app; FSM_BENCH holds FSM_* keys as a JSON object."""
    idle = State("idle")

    @idle.event("echo")
    def echo(flow: Any, data: Any) -> Any:
        return data

    machine = Machine("bench", scope="connection")
    machine.register_state(idle)
    app = Flask("bench")
    app.config.update(json.loads(os.environ.get("FSM_BENCH", "{}")), SECRET_KEY="benchmark")
    fsm = FlaskFSM(machine)
    fsm.add(Machine("orders", [("cart", "paid")]))
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
