"""A small shop that shows flask_fsm at work. Run it with `flask --app example_app run`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, render_template
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, NotFound

from . import checkout, poc, signup
from .extensions import csrf, fsm

# The pages need no script, and nothing from another host: so none may come in either.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the app; `config` goes over the defaults, as a test wants it."""
    app = Flask(__name__)
    # The session is signed with this key. A random one keeps a known key out of the source, at the
    # price that a restart ends all sessions: set SECRET_KEY wherever that matters.
    app.config["SECRET_KEY"] = os.environ.get("SECRET_KEY") or secrets.token_hex()
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    app.config.from_mapping(config or {})

    # What a shop would keep in its database; a test counts what is in here.
    app.extensions["example_orders"] = []
    app.extensions["example_members"] = []

    csrf.init_app(app)
    fsm.init_app(app)
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
