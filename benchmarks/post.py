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
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

from flask import Flask, abort, redirect, request, session, url_for

from flask_fsm import FlaskFSM, Machine

from .measure import ratio, table

ENTRIES = 10
Call = Callable[[dict[str, Any], Any], Any]


def guarded_app() -> Flask:
    """Two pages that lead to each other, guarded by a machine."""
    app = Flask("guarded")
    app.config["SECRET_KEY"] = "benchmark"
    fsm = FlaskFSM(Machine("pages", [("a", "b"), ("b", "a")]))
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


def flask_step(app: Flask, entries: int) -> float:
    """Bring a fresh flow to `entries` steps and return the seconds that the next POST takes."""
    client = Client(app.wsgi_app)
    for step in range(entries + 1):
        path = "/b" if step % 2 else "/a"
        _, _, page = client.request("GET", path, {})
        token = re.search(rb'name="(\w+)" value="([^"]+)"', page)
        fields = {"name": f"answer {step}"}
        if token is not None:
            fields[token[1].decode()] = token[2].decode()
        took, status, _ = client.request("POST", path, fields)
        assert status.startswith("303"), status
    return took


def wizard_app() -> Call:
    """Two steps of django-formtools' CookieWizardView, which lead round as long as wanted."""
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
        MIDDLEWARE=[],
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


def wizard_step(app: Call) -> float:
    """Return the seconds that the first POST of a fresh wizard takes."""
    client = Client(app)
    client.request("GET", "/wizard", {})
    took, status, _ = client.request(
        "POST", "/wizard", {"wizard-current_step": "a", "a-name": "answer 0"}
    )
    assert status.startswith("200"), status
    return took


def measure(rounds: int) -> str:
    """Return a Markdown table of medians and of the medians of paired ratios."""
    guarded, by_hand, wizard = guarded_app(), handwritten_app(), wizard_app()
    steps: dict[str, Callable[[], float]] = {
        "the view written by hand (no token, no guard)": lambda: flask_step(by_hand, ENTRIES),
        "guarded by flask_fsm, with token": lambda: flask_step(guarded, ENTRIES),
        "a step of django-formtools' CookieWizardView": lambda: wizard_step(wizard),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(step())
    floor = times[next(iter(steps))]
    return table(
        (f"one POST, {ENTRIES} entries of history", "µs", "by hand = 1"),
        [
            (name, f"{statistics.median(took) * 1e6:.0f}", f"{ratio(took, floor):.2f} x")
            for name, took in times.items()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    print(measure(60 if parser.parse_args().quick else 400))


if __name__ == "__main__":
    main()
