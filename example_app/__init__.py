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

from . import checkout, poc, signup
from .extensions import csrf, fsm
from .key import kept_key
from .ledger import Ledger

# The pages need no script, and nothing from another host: so none may come in either.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
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
    app.config["SECRET_KEY"] = app.config["SECRET_KEY"] or kept_key(folder)
    app.extensions["example_ledger"] = Ledger(app.config["LEDGER"])

    csrf.init_app(app)
    fsm.init_app(app)
    if app.config["FSM_STORE_URL"] != "session":
        # Makes the tables, unless they are there. An app with migrations leaves that to them.
        with app.app_context():
            fsm.init_db()
    for pages in (checkout.pages, signup.pages, poc.pages):
        app.register_blueprint(pages)

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
