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
from .key import load_or_create_key
from .ledger import Ledger

# Scripts are files of this host and connect only to it, so the policy forbids inline scripts and
# everything from other hosts.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Create the app; `config` overrides the defaults, for tests."""
    app = Flask(__name__)
    folder = Path(app.instance_path)
    folder.mkdir(parents=True, exist_ok=True)
    app.config["SECRET_KEY"] = os.environ.get("SECRET_KEY")
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    # Where flows are stored: in the session cookie, unless this names a database or Redis. Several
    # workers need one of these.
    app.config["FSM_STORE_URL"] = os.environ.get("FSM_STORE_URL") or "session"
    app.config["LEDGER"] = folder / "ledger.db"
    app.config.from_mapping(config or {})
    # What carries live messages between workers: the Redis that stores the flows can do that too.
    store = app.config["FSM_STORE_URL"]
    bus = store if store.startswith(("redis", "rediss", "valkey", "unix")) else "memory://"
    app.config.setdefault("FSM_BUS_URL", os.environ.get("FSM_BUS_URL") or bus)
    app.config["SECRET_KEY"] = app.config["SECRET_KEY"] or load_or_create_key(folder)
    app.extensions["example_ledger"] = Ledger(app.config["LEDGER"])

    csrf.init_app(app)
    fsm.init_app(app)
    if app.config["FSM_STORE_URL"] != "session":
        # Creates missing tables. An app with migrations creates them there instead.
        with app.app_context():
            fsm.init_db()
    for part in (checkout, signup, poc, light, operations, htmx):
        app.register_blueprint(part.pages)
    operations.connect(app)

    @app.get("/")
    def home() -> str:
        return render_template("home.html")

    # The extension's refusals have their own pages. These two errors come from elsewhere.
    @app.errorhandler(CSRFError)
    @app.errorhandler(NotFound)
    def show_error(error: HTTPException) -> ResponseReturnValue:
        return render_template("error.html", error=error), error.code or 500

    @app.after_request
    def add_security_headers(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "same-origin")
        return response

    return app
