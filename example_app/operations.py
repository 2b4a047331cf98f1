"""The operations page: shows every move of every checkout live, and who else is watching."""

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
    """Let everyone join this one group. A real app would check the user here."""
    return {"name": session.get("guest", "A program")} if group == GROUP else None


def connect(app: Flask) -> None:
    """Broadcast every move of a checkout in this app to the group."""
    transitioned.connect(broadcast_move, app)


def broadcast_move(app: Flask, *, machine: str, flow: Flow, result: Result, **_: Any) -> None:
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
    """Return a short name for a flow that does not reveal its id, which is a secret."""
    return hmac.digest(str(app.secret_key).encode(), f"run {id}".encode(), "sha256").hex()[:4]


@pages.get("/")
def show() -> str:
    session.setdefault("guest", f"Guest {secrets.token_hex(1)}")
    return render_template("live/operations.html", titles=TITLES, group=fsm.live.group(GROUP))


@pages.get("/members")
def members() -> ResponseReturnValue:
    """Return who is watching now. The page asks once, then receives each join and leave live."""
    return fsm.live.group(GROUP).members()
