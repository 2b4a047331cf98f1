"""A small shop that shows flask_fsm at work. Run it with `flask --app example_app run`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, render_template
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, NotFound

from . import checkout, htmx, light, operations, poc, signup
from .extensions import csrf, fsm
from .key import kept_key
from .ledger import Ledger

# The live pages have scripts, in files of this host, and talk to this host; the others need none.
# So no script within a page may run, and nothing may come from another host.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the app; `config` goes over the defaults, as a test wants it."""
    app = Flask(__name__)
    folder = Path(app.instance_path)
    folder.mkdir(parents=True, exist_ok=True)
    app.config["SECRET_KEY"] = os.environ.get("SECRET_KEY")
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    # Where the flows live: in the session, unless this names a database or a Redis. Several workers
    # need one of these.
    app.config["FSM_STORE_URL"] = os.environ.get("FSM_STORE_URL") or "session"
    app.config["LEDGER"] = folder / "ledger.db"
    app.config.from_mapping(config or {})
    # What carries live messages between workers: a Redis that keeps the flows can do that too.
    store = app.config["FSM_STORE_URL"]
    bus = store if store.startswith(("redis", "rediss", "valkey", "unix")) else "memory://"
    app.config.setdefault("FSM_BUS_URL", os.environ.get("FSM_BUS_URL") or bus)
    app.config["SECRET_KEY"] = app.config["SECRET_KEY"] or kept_key(folder)
    app.extensions["example_ledger"] = Ledger(app.config["LEDGER"])

    csrf.init_app(app)
    fsm.init_app(app)
    if app.config["FSM_STORE_URL"] != "session":
        # Makes the tables, unless they are there. An app with migrations leaves that to them.
        with app.app_context():
            fsm.init_db()
    for part in (checkout, signup, poc, light, operations, htmx):
        app.register_blueprint(part.pages)
    operations.follow(app)

    @app.get("/")
    def home() -> str:
        return render_template("home.html")

    # What the extension refuses has pages of its own. These two come from elsewhere.
    @app.errorhandler(CSRFError)
    @app.errorhandler(NotFound)
    def lost(error: HTTPException) -> ResponseReturnValue:
        return render_template("error.html", error=error), error.code or 500

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "same-origin")
        return response

    return app
