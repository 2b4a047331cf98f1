"""A shop to test against, and a visitor who clicks through it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, render_template_string, request
from werkzeug.test import TestResponse

from flask_fsm import FlaskFSM, Machine, Transition, ValidationFailed, testing
from flask_fsm.testing.html_forms import forms_in

SECRET = "a key for all the tests"

PAGE = """\
{%- for text in get_flashed_messages(category_filter=["fsm"]) %}
<p class="notice">{{ text }}</p>
{%- endfor %}
<h1>{{ page }}</h1>
<form method="post">{{ fsm.token() }}</form>
<script id="seen" type="application/json">{{ seen|tojson }}</script>
"""

# The cookie, this process, Flask-Session's files, a database, and Valkey.
STORES = ("session", "memory://", "flask-session", "sqlite", "redis")
# Of each kind one: the flow is in the session, or it is a record. That is enough for what an
# answer looks like; what is stored, found again and compared is tested on all of them.
FEW_STORES = STORES[:2]
every_store = pytest.mark.parametrize("store", STORES, indirect=True)

ASKING: dict[str, dict[str, str]] = {
    "html": {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"},
    "json": {"Accept": "application/json"},
    "htmx": {"HX-Request": "true"},
}


def config_for(store: str, folder: Path | None = None) -> dict[str, Any]:
    """The config of an app whose flows live in `store`."""
    config: dict[str, Any] = {"SECRET_KEY": SECRET, "TESTING": True}
    if store == "flask-session":
        from cachelib.file import FileSystemCache

        config["SESSION_TYPE"] = "cachelib"
        config["SESSION_CACHELIB"] = FileSystemCache(str(folder), threshold=10_000)
    elif store != "session":
        config["FSM_STORE_URL"] = store
    return config


def flask_app(config: Mapping[str, Any], name: str = "shop") -> Flask:
    """An app with that config, and with Flask-Session where the config asks for it."""
    app = Flask(name)
    app.config.update(config)
    if "SESSION_TYPE" in config:
        from flask_session import Session

        Session(app)
    return app


def prepare(app: Flask, fsm: FlaskFSM) -> None:
    """Make the tables of the app's store, if it is a database."""
    if "://" in app.config.get("FSM_STORE_URL", ""):
        with app.app_context():
            fsm.init_db()


def show(page: str, fsm: Any) -> str:
    """A page with a token and with what the flow says, for the tests to read."""
    flow = fsm.flow
    seen = {
        "page": page,
        "id": flow.id,
        "rev": flow.rev,
        "state": flow.current,
        "path": list(flow.path),
        "data": flow.data,
        "drafts": flow.drafts,
        "answers": fsm.answers(),
        "finished": flow.finished,
    }
    return render_template_string(PAGE, page=page, seen=seen)


def typed() -> dict[str, str]:
    """The posted fields that are answers."""
    return {name: value for name, value in request.form.items() if name not in ("fsm_token", "to")}


def delivers(flow: Any) -> bool:
    """The order is to be delivered."""
    return flow.data.get("address", {}).get("way") == "delivery"


def is_picked_up(flow: Any) -> bool:
    """The order is to be picked up."""
    return flow.data.get("address", {}).get("way") == "pickup"


def card_is_good(flow: Any, data: Mapping[str, Any]) -> None:
    if data.get("card") == "declined":
        raise ValidationFailed("This card was declined.", field="card")


def shop_machine(name: str = "shop") -> Machine:
    """cart -> address -> delivery or pickup -> payment -> review -> done, and review -> address."""
    return Machine(
        name,
        [
            ("cart", "address"),
            Transition("address", "delivery", when=delivers),
            Transition("address", "pickup", when=is_picked_up),
            ("delivery", "payment"),
            ("pickup", "payment"),
            Transition("payment", "review", validators=[card_is_good]),
            ("review", "address"),
            ("review", "done"),
        ],
    )


class Shop:
    """An app with the pages of the shop; it notes which views ran and which orders were made."""

    def __init__(self, config: Mapping[str, Any], machine: Machine | None = None) -> None:
        self.app = flask_app(config)
        self.fsm = FlaskFSM(self.app, shop_machine() if machine is None else machine)
        prepare(self.app, self.fsm)
        self.ran: list[tuple[str, str]] = []
        self.orders: list[dict[str, Any]] = []
        self.before_advance: Callable[[str], None] = lambda page: None
        for page, target in {
            "cart": "address",
            "address": None,
            "delivery": "payment",
            "pickup": "payment",
            "payment": "review",
            "review": "done",
            "done": None,
        }.items():
            self._add(page, target)

    def _add(self, page: str, target: str | None) -> None:
        fsm = self.fsm

        @self.app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view() -> Any:
            self.ran.append((request.method, page))
            if request.method != "POST":
                return show(page, fsm)
            self.before_advance(page)
            to = request.form.get("to") or target or request.form.get("way")
            answer = fsm.advance(to, data=typed())
            if fsm.current == "done":
                self.orders.append(fsm.flow.data)
            return answer

    def visitor(self) -> Visitor:
        """A browser that has not been here before."""
        return Visitor(self.app)


class Visitor(testing.Visitor):
    """A visitor of a shop, whose pages are named without the first slash."""

    def open(self, page: str, asking: str = "html", **options: Any) -> TestResponse:
        headers = {**ASKING[asking], **options.pop("headers", {})}
        return self.request("GET", f"/{page}", headers=headers, **options)

    def see(self, page: str) -> dict[str, Any]:
        """Open a page that must be open, and return what it shows."""
        response = self.open(page)
        assert response.status_code == 200, (page, response.status_code, response.location)
        return seen(response)

    def token(self, page: str) -> str:
        """Open a page that must be open, and return the token of its form."""
        response = self.open(page)
        assert response.status_code == 200, (page, response.status_code, response.location)
        return token_in(response.text)

    def post(
        self,
        page: str,
        data: Mapping[str, Any] | None = None,
        token: str | None = None,
        asking: str = "html",
        **options: Any,
    ) -> TestResponse:
        """Send a form as it is, with `token` if there is one."""
        headers = {**ASKING[asking], **options.pop("headers", {})}
        fields = {**(data or {}), **({} if token is None else {"fsm_token": token})}
        return self.request("POST", f"/{page}", data=fields, headers=headers, **options)

    def send(
        self, page: str, data: Mapping[str, Any] | None = None, asking: str = "html"
    ) -> TestResponse:
        """Open a page, fill its form in, and send it."""
        return self.post(page, data, self.token(page), asking)

    def walk(self, *pages: str, way: str = "delivery") -> Visitor:
        """Fill in these pages one after another, each of which must be taken."""
        for page in pages:
            response = self.send(
                page, ANSWERS.get(page, {}) | ({"way": way} if page == "address" else {})
            )
            assert response.status_code == 303, (page, response.status_code, response.text)
        return self

    @property
    def cookie(self) -> str:
        """The session cookie as it stands."""
        cookie = self.session_cookie
        assert cookie is not None
        return cookie

    @cookie.setter
    def cookie(self, value: str) -> None:
        self.session_cookie = value

    def drop_cookie(self) -> None:
        self.session_cookie = None


ANSWERS: dict[str, dict[str, str]] = {
    "cart": {"item": "a lamp"},
    "address": {"street": "Elm Street 5", "way": "delivery"},
    "delivery": {"when": "morning"},
    "pickup": {"branch": "north"},
    "payment": {"card": "good"},
}
TO_REVIEW = ("cart", "address", "delivery", "payment")


def token_in(html: str) -> str:
    """The token in a page's form."""
    return fields_in(html)["fsm_token"]


def fields_in(html: str) -> dict[str, str]:
    """What the first form of a page would send, of each field the first value."""
    forms = forms_in(html) or forms_in(f"<form>{html}")  # a test's page may be less than HTML
    assert forms, html
    return {name: values[0] for name, values in forms[0].values().items()}


def seen(response: TestResponse) -> dict[str, Any]:
    """What a page of the shop shows of its flow."""
    _, start, rest = response.text.partition('<script id="seen" type="application/json">')
    assert start, response.text
    result: dict[str, Any] = json.loads(rest.partition("</script>")[0])
    return result


def notices(response: TestResponse) -> list[str]:
    """The notices that a page shows."""
    return re.findall(r'<p class="notice">(.*)</p>', response.text)


def assert_moved(
    response: TestResponse, asking: str, location: str, state: str | None = None
) -> None:
    """The answer sends the client on to `location`, in the way the client asked for."""
    if asking == "html":
        assert response.status_code == 303, response.text
        assert response.location == location
    elif asking == "json":
        assert response.status_code == 200, response.text
        assert response.content_type == "application/json"
        assert response.json is not None
        assert response.json.keys() == {"state", "rev", "location"}
        assert response.json["location"] == location
        assert state is None or response.json["state"] == state
        assert isinstance(response.json["rev"], int)
    else:
        assert response.status_code == 204, response.text
        assert response.headers["HX-Redirect"] == location
        assert response.data == b""
    assert_private(response)


def assert_refused(
    response: TestResponse, asking: str, status: int, reason: str | None = None
) -> None:
    """The answer is a refusal with that status, in the way the client asked for."""
    assert response.status_code == status, (response.status_code, response.text)
    if asking == "json":
        assert response.content_type == "application/problem+json"
        problem = response.json
        assert problem is not None
        assert {"status", "state", "rev", "allowed", "reason", "fields"} <= problem.keys()
        assert problem["status"] == status
        assert isinstance(problem["allowed"], list)
        assert isinstance(problem["fields"], dict)
        assert reason is None or problem["reason"] == reason
    else:
        assert response.content_type.startswith("text/html")
        assert "<h1>" in response.text
        assert "HX-Redirect" not in response.headers
    assert_private(response)


def assert_private(response: TestResponse) -> None:
    """No cache may keep the answer or give it to someone else."""
    assert response.headers["Cache-Control"] == "no-store"
    assert "Cookie" in response.vary
