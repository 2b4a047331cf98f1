"""A small app to race in, and to kill under load: `tests.race_app:create_app()` for gunicorn.

The environment configures it: FSM_STORE_URL, FSM_REDIS_PREFIX and FSM_STORE_TIMEOUT as in the docs;
EFFECTS names a file to which each view that runs for a form appends a line; VIEW_SECONDS is how
long such a view takes; ONCE=0 leaves the machine with `once=True` out, for stores without it.

`create_live_app()` is the same app for sockets too; FSM_TEST_CONFIG holds its config, as for
tests.live.apps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, jsonify, request, session

from flask_fsm import FlaskFSM, Flow, Machine, State, Transition

from .apps import SECRET
from .live.apps import VARIABLE

RING = {"a": "b", "b": "c", "c": "a"}
TILL = {"open": "paid", "paid": "open"}


def ring() -> Machine:
    """a -> b -> c -> a, for ever, or from c to the end d.

    By pages, and by the event `next`; the handler of `say` returns what it is sent.
    """
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
    edges = [*RING.items(), ("c", "d")]
    states["d"] = State("d")
    return Machine("ring", edges, states=list(states.values()), initial="a", final=["d"])


def till() -> Machine:
    """open -> paid and back; the first edge is leased before its view runs."""
    return Machine("till", [Transition("open", "paid", once=True), ("paid", "open")], final=[])


def config_from(environ: Mapping[str, str]) -> dict[str, Any]:
    """The config that the environment asks for."""
    config: dict[str, Any] = {"SECRET_KEY": SECRET, "FSM_HISTORY_LIMIT": None}
    for key in ("FSM_STORE_URL", "FSM_REDIS_PREFIX"):
        if key in environ:
            config[key] = environ[key]
    for key in ("FSM_STORE_TIMEOUT", "FSM_LOCK_TIMEOUT", "FSM_ONCE_LEASE"):
        if key in environ:
            config[key] = float(environ[key])
    return config


def create_app(
    config: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> Flask:
    """Make the app; `config` comes on top of the environment, `options` go to `init_app`."""
    environ = os.environ if environ is None else environ
    app = Flask("race_app")
    app.config.update(config_from(environ))
    app.config.update(config or {})
    effects = environ.get("EFFECTS")
    seconds = float(environ.get("VIEW_SECONDS", "0"))
    fsm = FlaskFSM(ring())
    machines = {"ring": (fsm, RING | {"d": ""})}
    if environ.get("ONCE", "1") != "0":
        machines["till"] = (fsm.add(till()), TILL)

    @fsm.subject
    def subject() -> str | None:
        return session.get("user")

    fsm.init_app(app, **options)

    def note(page: str, machine: Any) -> None:
        """Have an effect outside of the store: a line in a file, which is written whole."""
        if effects:
            line = f"{request.form.get('mark', '')} {page} {machine.flow.rev} {os.getpid()}\n"
            place = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(place, line.encode())
            finally:
                os.close(place)

    def add(page: str, machine: Any, target: str) -> None:
        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @machine.check()
        def view() -> Any:
            if request.method != "POST":
                flow = machine.flow
                token = machine.token().value
                return jsonify(page=page, state=flow.current, rev=flow.rev, token=token)
            note(page, machine)
            if seconds:
                time.sleep(seconds)
            answers = {name: request.form[name] for name in ("mark",) if name in request.form}
            return machine.advance(request.form.get("to") or target, data=answers)

    for name, (machine, pages) in machines.items():
        for page, target in pages.items():
            add(page, machine, target)

        # By default arguments: each of the views is of a machine of its own.
        def history(machine: Any = machine) -> Response:
            flow = machine.flow
            entries = [[e.source, e.target, e.at, e.rev] for e in machine.history]
            return jsonify(state=flow.current, rev=flow.rev, entries=entries)

        path = "/history" if name == "ring" else f"/history/{name}"
        app.add_url_rule(path, f"history_{name}", history)

    @app.get("/ping")
    def ping() -> dict[str, int]:
        return {"worker": os.getpid()}

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


def create_live_app() -> Flask:
    """Make the app with the config in FSM_TEST_CONFIG, and without the machine `till`."""
    config = {"FSM_STORE_URL": "memory://", **json.loads(os.environ.get(VARIABLE, "{}"))}
    return create_app(config, {"ONCE": "0"})


def create_used_app() -> Flask:
    """Make the app with an engine of its own, which is handed over and used already."""
    import sqlalchemy as sa

    engine = sa.create_engine(os.environ["FSM_STORE_URL"])
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    return create_app({"FSM_STORE_URL": engine})


def prepare(url: str) -> str:
    """Make the tables that a store needs, once, before the workers start; return the URL."""
    if "sql" in url:
        app = create_app({"FSM_STORE_URL": url}, {})
        with app.app_context():
            app.extensions["fsm"].extension.init_db()
    return url
