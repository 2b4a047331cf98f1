"""A refused form against a plain view that reads the same body: 70,000 fields, or 8 MB of JSON.

Each request is a real WSGI call, timed as a whole. `python -m benchmarks.refusals` prints a table
with the median ratios. They are to stay under 2, but for the last column: there a view has copied
the whole body before a validator refuses it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

from flask import Flask, request
from werkzeug.test import EnvironBuilder

from flask_fsm import FlaskFSM, Machine, Transition, ValidationFailed
from flask_fsm.testing import Visitor

from .measure import Round, interleaved, ratio, table
from .post import guarded_app

FIELDS = 70_000
MEGABYTES = 8
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def plain_app() -> Flask:
    """A view that reads the form, or the JSON, and answers with a word."""
    app = Flask("plain")

    @app.post("/a")
    def read() -> str:
        if request.is_json:
            request.get_json()
        return str(len(request.form))

    return app


def bodies() -> Iterator[tuple[str, str, Any]]:
    """The bodies by name, with their type: as texts or objects, to which a token may be added."""
    yield "70,000 fields", FORM, {f"field{number}": "value" for number in range(FIELDS)}
    yield "70,000 fields of one name", FORM, [("field", "value")] * FIELDS
    yield "70,000 escaped fields", FORM, {f"f{number}": "\N{SNOWMAN}" for number in range(FIELDS)}
    size = MEGABYTES << 20
    yield "8 MB of JSON, one text", JSON, {"words": "x" * size}
    yield "8 MB of JSON, many members", JSON, {f"m{n}": "x" * 50 for n in range(size // 64)}
    yield "8 MB of JSON, nested", JSON, {"rows": [[number, "word"] for number in range(size // 18)]}


def encoded(kind: str, content: Any, token: str) -> bytes:
    if kind == JSON:
        return json.dumps({**content, **({"fsm_token": token} if token else {})}).encode()
    pairs = list(content.items()) if isinstance(content, dict) else content
    return urlencode([*pairs, *([("fsm_token", token)] if token else [])]).encode()


def poster(app: Flask, body: bytes, kind: str, accept: str, cookie: str = "") -> Round:
    """Return what prepares a POST of `body`, and returns the function that makes it."""
    headers = {"Accept": accept, "Cookie": cookie}

    def prepare() -> Callable[[], None]:
        environ = EnvironBuilder("/a", method="POST", headers=headers).get_environ()
        environ |= {
            "wsgi.input": BytesIO(body),
            "CONTENT_TYPE": kind,
            "CONTENT_LENGTH": str(len(body)),
        }
        answers: list[str] = []

        def start(status: str, *_: Any) -> Callable[[bytes], object]:
            answers.append(status)
            return environ["wsgi.errors"].write

        def call() -> None:
            b"".join(app.wsgi_app(environ, start))
            assert answers[0][:3] in ("200", "400", "409", "413", "422"), answers

        return call

    return prepare


def refusing_app() -> Flask:
    """A page that keeps the whole body, and whose edge a validator refuses."""

    def refuse(*_: Any) -> None:
        raise ValidationFailed("no")

    app = Flask("refusing")
    app.config["SECRET_KEY"] = "benchmark"
    fsm = FlaskFSM(app, Machine("pages", [Transition("a", "b", validators=[refuse])]))

    def page() -> Any:
        if request.method == "POST":
            return fsm.advance(data=request.get_json() if request.is_json else request.form)
        return str(fsm.token())

    for name in "ab":
        app.add_url_rule(f"/{name}", name, fsm.check()(page), methods=["GET", "POST"])
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 9")
    rounds = 3 if parser.parse_args().quick else 9
    guarded, plain, refusing = guarded_app(), plain_app(), refusing_app()
    visitor, other = Visitor(guarded), Visitor(refusing)
    tokens = [visitor.open("/a").text.split('value="')[1].split('"')[0] for _ in range(2)]
    visitor.request("POST", "/a", data={"name": "x", "fsm_token": tokens[0]})
    assert visitor.status == 303
    fresh = other.open("/a").text.split('value="')[1].split('"')[0]
    ways = {
        "sent before": (guarded, visitor, tokens[0]),
        "out of date": (guarded, visitor, tokens[1]),
        "forged token": (guarded, visitor, "x"),
        "no token": (guarded, visitor, ""),
        "by a validator": (refusing, other, fresh),
    }
    rows = []
    for name, kind, content in bodies():
        cells = []
        for app, sender, token in ways.values():
            body, cookie = encoded(kind, content, token), f"session={sender.session_cookie}"
            factors = []
            for accept in ("text/html", JSON):
                subjects = {
                    "refused": poster(app, body, kind, accept, cookie),
                    "plain": poster(plain, body, kind, accept),
                }
                seconds = interleaved(subjects, rounds)
                factors.append(f"{ratio(seconds['refused'], seconds['plain']):.2f}")
            cells.append(", ".join(factors))
        rows.append((name, f"{1000 * min(seconds['plain']):.0f} ms", *cells))
    print(table(("a refused POST, as HTML and JSON", "plain view", *ways), rows))


if __name__ == "__main__":
    main()
