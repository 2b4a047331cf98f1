"""An app whose own routes of flask-sock are endpoints of machines: `create_app()`.

FSM_TEST_CONFIG holds its config, beside which SOCK says when its Sock and the Sock's options are
made: "before" or "after" the extension is initialized, "between" (options after), or "given" to it;
"plain" is without options.
"""

from __future__ import annotations

import json
import os
import threading
import time
from functools import wraps
from typing import Any

from flask import Flask, abort, current_app, request, session
from flask_sock import Sock

from flask_fsm import EventStatus, FlaskFSM, Flow, Machine, State

from .apps import SECRET, VARIABLE, automata_light

OPTIONS = {"max_message_size": 500, "ping_interval": 5, "subprotocols": ["chat"]}


def order_machine() -> Machine:
    """Orders, each with its flow, by the number in the URL."""
    open_state = State("open", ["sent"])

    @open_state.event("send")
    def send(flow: Flow, data: Any) -> None:
        flow.transition("sent")

    @open_state.event("echo")
    def echo(flow: Flow, data: Any) -> Any:
        return data

    @open_state.event("arguments")
    def arguments(flow: Flow, data: Any) -> Any:
        flow.transmit(request.view_args, status=EventStatus.OK)

    return Machine("order", states=[open_state, State("sent", [])], many="number")


class CountingSock(Sock):  # type: ignore[misc]
    """A Sock that an app has made its own."""

    def route(self, path: str, bp: Any = None, **options: Any) -> Any:
        def decorate(view: Any) -> Any:
            @wraps(view)
            def counted(*args: Any, **values: Any) -> Any:
                current_app.config["COUNT"] = current_app.config.get("COUNT", 0) + 1
                return view(*args, **values)

            return super(CountingSock, self).route(path, bp, **options)(counted)

        return decorate


def login_required(view: Any) -> Any:
    """Let in who has logged in."""

    @wraps(view)
    def guarded(*args: Any, **values: Any) -> Any:
        if "user" not in session:
            abort(401)
        return view(*args, **values)

    return guarded


def create_app() -> Flask:
    """Make the app."""
    config = json.loads(os.environ.get(VARIABLE, "{}"))
    when = config.pop("SOCK", "before")
    app = Flask(__name__)
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL="memory://", TEARDOWNS=0)
    app.config.update(config)
    order = order_machine()
    sock = CountingSock(app) if when in ("before", "given", "plain") else None
    if when == "before":
        app.config["SOCK_SERVER_OPTIONS"] = dict(OPTIONS)
    fsm = FlaskFSM(order, sock=sock if when == "given" else None)
    fsm.add(automata_light())
    fsm.init_app(app)
    if when not in ("before", "plain"):
        app.config["SOCK_SERVER_OPTIONS"] = dict(OPTIONS)
    if sock is None:
        sock = Sock(app)

    @app.teardown_appcontext
    def count(error: BaseException | None) -> None:
        app.config["TEARDOWNS"] += 1

    @sock.route("/orders/<int:number>/live")
    @login_required
    def live(ws: Any, number: int) -> None:
        assert fsm.live.serve(ws, order)

    @sock.route("/open/<number>/live")
    def open_to_all(ws: Any, number: str) -> None:
        app.config["SERVED"] = fsm.live.serve(ws)

    @sock.route("/slow/<number>/live")
    def slow(ws: Any, number: str) -> None:
        time.sleep(0.2)
        fsm.live.serve(ws)

    @sock.route("/secret/<number>/live")
    def secret(ws: Any, number: str) -> None:
        ws.send("who?")
        if ws.receive() == "ada":
            fsm.live.serve(ws, "order")

    @sock.route("/light")
    def light(ws: Any) -> None:
        fsm.live.serve(ws, "light")
        time.sleep(0)

    @sock.route("/nothing")
    def nothing(ws: Any) -> None:
        fsm.live.serve(ws, "nothing")

    @sock.route("/own")
    def own(ws: Any) -> None:
        while True:
            text = ws.receive()
            limits = f"{ws.max_message_size} {ws.ping_interval} {ws.subprotocol}"
            ws.send(limits if text == "options" else text)

    @sock.route("/twice")
    def twice(ws: Any) -> None:
        fsm.live.serve(ws, "light")
        fsm.live.serve(ws, "light")

    @app.get("/late")
    def late() -> dict[str, str]:
        app.config["SOCK_SERVER_OPTIONS"] = dict(OPTIONS)
        return {}

    @sock.route("/short")
    def short(ws: Any) -> None:
        ws.send("bye")

    @app.get("/threads")
    def threads() -> dict[str, int]:
        return {"count": threading.active_count(), "files": len(os.listdir("/proc/self/fd"))}

    @app.get("/login/<user>")
    def login(user: str) -> dict[str, str]:
        session["user"] = user
        return {"user": user}

    @app.get("/ping")
    def ping() -> str:
        return "ok"

    @app.get("/count/<name>")
    def counted(name: str) -> dict[str, Any]:
        return {"count": app.config.get(name)}

    @app.get("/orders/<int:number>")
    @fsm.check(state="open")
    def order_page(number: int) -> dict[str, Any]:
        return {"state": fsm.current, "id": fsm.flow.id}

    return app
