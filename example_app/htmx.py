"""The traffic light once more, by htmx and its extensions for event streams and websockets."""

from __future__ import annotations

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from .extensions import light
from .light import LABELS

pages = Blueprint("htmx", __name__, url_prefix="/htmx")


@pages.get("/")
def show() -> str:
    return render_template("live/htmx.html", light=light, flow=light.flow, labels=LABELS)


@pages.get("/light")
def fragment() -> str:
    """The light as it is now. The page fetches it whenever the stream says that it has changed."""
    return render_template("live/_light.html", light=light, flow=light.flow, labels=LABELS)


@pages.post("/light")
def change() -> ResponseReturnValue:
    """Handle the event of a button; the stream brings what comes of it."""
    light.flow.send(request.form["event"])
    return "", 204
