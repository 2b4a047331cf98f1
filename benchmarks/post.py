"""A guarded POST with token against the same view written by hand, and a formtools wizard step.

Each request is a real WSGI call. Only the POST is timed: what brings a flow to ten entries of
history, and the GET that renders the token, is not.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

from flask import Flask, abort, redirect, request, session, url_for

from flask_fsm import FlaskFSM, Machine, Transition

from .measure import ratio, table

ENTRIES = 10
BATCH = 20
Call = Callable[[dict[str, Any], Any], Any]
Post = Callable[[], float]


def guarded_app(options: Mapping[str, Any] | None = None, **config: Any) -> Flask:
    """Two pages that lead to each other, guarded by a machine; `options` are of its edges."""
    app = Flask("guarded")
    app.config.update(config, SECRET_KEY="benchmark")
    edges = [Transition(*pair, **(options or {})) for pair in ("ab", "ba")]
    fsm = FlaskFSM(Machine("pages", edges))
    fsm.init_app(app)

    def page() -> Any:
        if request.method == "POST":
            return fsm.advance(data={"name": request.form["name"]})
        return str(fsm.token())

    for name in "ab":
        app.add_url_rule(f"/{name}", name, fsm.check()(page), methods=["GET", "POST"])
    return app


def handwritten_app() -> Flask:
    """The same two pages: reads the form, reads and writes Flask's session, answers 303."""
    app = Flask("handwritten")
    app.config["SECRET_KEY"] = "benchmark"
    ways = {"a": "b", "b": "a"}

    def page() -> Any:
        here = request.endpoint
        flow = session.get("flow", {"state": "a", "data": {}, "history": []})
        if request.method == "POST":
            if flow["state"] != here:
                abort(409)
            there = ways[here]
            flow["data"][here] = {"name": request.form["name"]}
            flow["history"].append([here, there, int(time.time())])
            flow["state"] = there
            session["flow"] = flow
            return redirect(url_for(there), 303)
        return "<input>"

    for name in "ab":
        app.add_url_rule(f"/{name}", name, page, methods=["GET", "POST"])
    return app


class Client:
    """Speaks WSGI to an app, with one cookie jar."""

    def __init__(self, app: Call) -> None:
        self.app = app
        self.cookies: dict[str, str] = {}

    def request(self, method: str, path: str, fields: dict[str, str]) -> tuple[float, str, bytes]:
        """Return the seconds that the call took, its status and its body."""
        body = urlencode(fields).encode()
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "HTTP_ACCEPT": "text/html",
            "CONTENT_TYPE": "application/x-www-form-urlencoded" if method == "POST" else "",
            "CONTENT_LENGTH": str(len(body)) if method == "POST" else "",
            "HTTP_COOKIE": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        got: list[Any] = []
        start = time.perf_counter()
        answer = self.app(
            environ, lambda status, headers, error=None: got.extend((status, headers))
        )
        content = b"".join(answer)
        took = time.perf_counter() - start
        if hasattr(answer, "close"):
            answer.close()
        for name, value in got[1]:
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        return took, got[0], content

    def timed(self, status: str, path: str, fields: dict[str, str]) -> float:
        """Return the seconds that a POST takes, which must be answered with `status`."""
        took, answered, _ = self.request("POST", path, fields)
        assert answered.startswith(status), answered
        return took


class Visitor:
    """Goes to and fro between the two pages of an app."""

    def __init__(self, app: Flask) -> None:
        self.client = Client(app.wsgi_app)
        self.steps = 0

    def prepare(self) -> Post:
        """Open the page, and return the POST that leaves it."""
        path = "/b" if self.steps % 2 else "/a"
        _, _, page = self.client.request("GET", path, {})
        token = re.search(rb'name="(\w+)" value="([^"]+)"', page)
        fields = {"name": f"answer {self.steps}"}
        if token is not None:
            fields[token[1].decode()] = token[2].decode()
        self.steps += 1
        return lambda: self.client.timed("303", path, fields)

    def step(self) -> float:
        """Open the page and leave it; return the seconds that the POST took."""
        return self.prepare()()


def flask_step(app: Flask, entries: int) -> Post:
    """Bring a fresh flow to `entries` steps and return the next POST, which is to be timed."""
    visitor = Visitor(app)
    for _ in range(entries):
        visitor.step()
    return visitor.prepare()


def wizard_app() -> Call:
    """A wizard of django-formtools' CookieWizardView, with the template that it ships."""
    import django
    from django import forms
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path
    from formtools.wizard.views import CookieWizardView

    settings.configure(
        SECRET_KEY="benchmark",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        # The wizard's template has a token in its form, and this is what checks it.
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
        INSTALLED_APPS=["formtools"],
        TEMPLATES=[
            {
                # The template of the wizard's form that formtools ships.
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
            }
        ],
    )
    django.setup()

    class Step(forms.Form):
        name = forms.CharField()

    class Wizard(CookieWizardView):
        form_list = [("a", Step), ("b", Step), ("c", Step)]

        def done(self, form_list: Any, **kwargs: Any) -> HttpResponse:
            return HttpResponse("done")

    globals()["urlpatterns"] = [path("wizard", Wizard.as_view())]
    return get_wsgi_application()


def wizard_step(app: Call) -> Post:
    """Return the first POST of a fresh wizard."""
    client = Client(app)
    _, _, page = client.request("GET", "/wizard", {})
    token = re.search(rb'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    fields = {
        "csrfmiddlewaretoken": token[1].decode(),
        "wizard-current_step": "a",
        "a-name": "answer 0",
    }
    return lambda: client.timed("200", "/wizard", fields)


def batches(
    subjects: Mapping[str, Callable[[], Post]], rounds: int, batch: int = BATCH
) -> dict[str, list[float]]:
    """Time a batch of each subject's POSTs in every round; return the medians of the batches."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, prepare in subjects.items():
            # A server answers many of a kind in a row, so they are timed in a row.
            posts = [prepare() for _ in range(batch)]
            times[name].append(statistics.median(post() for post in posts))
    return times


def against(floor: str, times: Mapping[str, list[float]]) -> list[tuple[str, str, str]]:
    """Return the rows of a table: the medians, and the medians of the paired ratios."""
    return [
        (name, f"{statistics.median(took) * 1e6:.0f}", f"{ratio(took, times[floor]):.2f} x")
        for name, took in times.items()
    ]


def measure(rounds: int) -> str:
    """Return a Markdown table of medians and of the medians of paired ratios."""
    guarded, by_hand, wizard = guarded_app(), handwritten_app(), wizard_app()
    subjects: dict[str, Callable[[], Post]] = {
        "the view written by hand (no token, no guard)": lambda: flask_step(by_hand, ENTRIES),
        "guarded by flask_fsm, with token": lambda: flask_step(guarded, ENTRIES),
        "a step of django-formtools' CookieWizardView": lambda: wizard_step(wizard),
    }
    return table(
        (f"one POST, {ENTRIES} entries of history", "µs", "by hand = 1"),
        against(next(iter(subjects)), batches(subjects, rounds)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    print(measure(3 if parser.parse_args().quick else 25))


if __name__ == "__main__":
    main()
