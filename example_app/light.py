"""The traffic light: one flow, driven by all windows of a visitor together.

`static/light.js` shows its state and sends events. Without JavaScript the form is posted: the same
handler runs, and windows with JavaScript are still updated live.
"""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from .extensions import light

pages = Blueprint("light", __name__, url_prefix="/light")

LABELS = {
    "change_to_green": "Change to green",
    "change_to_yellow": "Change to yellow",
    "change_to_red": "Change to red",
}


@pages.get("/")
def show() -> str:
    return render_template("live/light.html", light=light, flow=light.flow, labels=LABELS)


@pages.post("/")
def press() -> ResponseReturnValue:
    light.flow.send(request.form["event"])
    return redirect(url_for("light.show"), 303)
