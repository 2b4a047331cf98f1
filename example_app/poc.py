"""The proof of concept of 2017 (gist 1c03b8325e4a4c731f2a24f6484e0ae9), on this extension.

Four pages, `index -> a -> b -> index` and `b -> c`, each edge at most once per run. `accept` and
`to` list where a page is reached from and where it leads. Both are optional: they narrow the
machine, never widen it.

The original's index advanced by a GET with `?to=`. Here a GET never moves a flow, since browsers,
prefetchers and mail scanners send GETs unasked; `?to=` chooses the edge of a POST, like a field
named `to`.
"""

from __future__ import annotations

from flask import Blueprint, flash, render_template, request
from flask.typing import ResponseReturnValue

from .extensions import poc

pages = Blueprint("poc", __name__, url_prefix="/poc")


@pages.route("/", methods=["GET", "POST"])
@poc.check(accept=["b"], to=["a"])
def index() -> ResponseReturnValue:
    if request.method == "POST" and (answer := poc.advance()):
        flash("Work done at the index.")
        return answer
    return render_template("poc/index.html")


@pages.route("/a", methods=["GET", "POST"])
@poc.check(accept=["index"], to=["b"])
def a() -> ResponseReturnValue:
    if request.method == "POST" and (answer := poc.advance()):
        flash("Work done at A.")
        return answer
    return render_template("poc/a.html")


@pages.route("/b", methods=["GET", "POST"])
@poc.check(accept=["a"], to=["index", "c"])
def b() -> ResponseReturnValue:
    if request.method == "POST" and (answer := poc.advance()):
        flash("Work done at B.")
        return answer
    return render_template("poc/b.html")


@pages.get("/c")
@poc.check(accept=["b"])
def c() -> ResponseReturnValue:
    return render_template("poc/c.html")
