"""The operations page: whoever has it open sees each checkout move, and who else looks on."""

from __future__ import annotations

import hmac
import secrets
from typing import Any

from flask import Blueprint, Flask, render_template, session
from flask.typing import ResponseReturnValue

from flask_fsm import Flow, Result
from flask_fsm.signals import transitioned

from .checkout.views import TITLES
from .extensions import fsm

pages = Blueprint("operations", __name__, url_prefix="/operations")

GROUP = "operations"


@fsm.live.authorize
def may_join(group: str) -> dict[str, str] | None:
    """Let everybody into this one group. An app that is no demo asks here who it is."""
    return {"name": session.get("guest", "A program")} if group == GROUP else None


def follow(app: Flask) -> None:
    """Tell the group of each move of a checkout in that app."""
    transitioned.connect(tell, app)


def tell(app: Flask, *, machine: str, flow: Flow, result: Result, **_: Any) -> None:
    if machine == "checkout":
        fsm.live.group(GROUP).broadcast(
            {
                "run": alias(app, flow.id),
                "source": TITLES[result.source],
                "target": TITLES[result.target],
                "at": result.snapshot.updated,
            }
        )


def alias(app: Flask, id: str) -> str:
    """Return a short name for a run. Its id is a secret, and the name does not tell it."""
    return hmac.digest(str(app.secret_key).encode(), f"run {id}".encode(), "sha256").hex()[:4]


@pages.get("/")
def show() -> str:
    session.setdefault("guest", f"Guest {secrets.token_hex(1)}")
    return render_template("live/operations.html", titles=TITLES, group=fsm.live.group(GROUP))


@pages.get("/members")
def members() -> ResponseReturnValue:
    """Who looks on now; the page asks when it has joined, and hears from then on who comes."""
    return fsm.live.group(GROUP).members()
