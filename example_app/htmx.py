"""The traffic light again, with htmx and its extensions for event streams and websockets."""

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
    """Render the current light. The page fetches it on each `state` event of the stream."""
    return render_template("live/_light.html", light=light, flow=light.flow, labels=LABELS)


@pages.post("/light")
def change() -> ResponseReturnValue:
    """Send the event of a button to the flow; the result arrives by the stream."""
    light.flow.send(request.form["event"])
    return "", 204
