"""An app whose flow is moved by pages, sockets and posts: `tests.torture.live_app:create_app()`.

FSM_TEST_CONFIG holds the config, as for tests.live.apps.
"""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Flask, Response, request, session

from flask_fsm import FlaskFSM, Flow, Machine, State

from ..live.apps import SECRET, VARIABLE
from ..race_app import RING


def ring() -> Machine:
    """a -> b -> c -> a, by pages and by the event `next`; `say` tells what it is told."""
    states = {name: State(name) for name in RING}

    def add(state: State, following: str) -> None:
        @state.event("next")
        def move(flow: Flow, data: Any) -> None:
            flow.transition(following, reply=data)

        @state.event("say")
        def say(flow: Flow, data: Any) -> Any:
            return data

        @state.event("both")
        def both(flow: Flow, data: Any) -> None:
            flow.transmit([data, "before"])
            flow.transition(following, reply=data)
            flow.transmit([data, "after"])

    for name, following in RING.items():
        add(states[name], following)
    return Machine("ring", list(RING.items()), states=list(states.values()), final=[])


def create_app() -> Flask:
    """Make the app; each answer says which process gave it."""
    app = Flask("live_app")
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL="memory://")
    app.config.update(json.loads(os.environ.get(VARIABLE, "{}")))
    fsm = FlaskFSM(ring())

    @fsm.subject
    def subject() -> str | None:
        return session.get("user")

    fsm.init_app(app)

    def add(page: str) -> None:
        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view() -> Any:
            if request.method == "POST":
                return fsm.advance(RING[page])
            return {"state": fsm.flow.current, "rev": fsm.flow.rev}

    for page in RING:
        add(page)

    @app.get("/ping")
    def ping() -> str:
        return "ok"

    @app.get("/login/<user>")
    def login(user: str) -> dict[str, str]:
        session["user"] = user
        return {"user": user}

    @app.get("/logout")
    def logout() -> dict[str, str]:
        session.pop("user", None)
        return {}

    @app.after_request
    def tell_worker(response: Response) -> Response:
        response.headers["X-Worker"] = str(os.getpid())
        return response

    return app
