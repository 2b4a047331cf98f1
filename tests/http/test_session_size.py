"""A session that grows past what browsers keep after the step: told at once, never lost quietly."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Response, request, session

from flask_fsm import FlaskFSM, Machine

from ..apps import FEW_STORES, Visitor, config_for, flask_app, prepare, show

# Werkzeug warns of the same, without a word about flows.
pytestmark = pytest.mark.filterwarnings("ignore:The .*session.* cookie is too large")
LIMIT = 4_093


def grow() -> None:
    session["basket"] = secrets.token_hex(4_000)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The errors that the extension has logged."""
    return [
        record
        for record in caplog.records
        if (record.name, record.levelname) == ("flask_fsm", "ERROR")
    ]


class App:
    """Two pages; something of the app's makes the session grow."""

    def __init__(self, store: str, **config: Any) -> None:
        self.app = flask_app({**config_for(store), "TESTING": False, **config})
        self.after_step: Callable[[], Any] = lambda: None
        self.after_view: Callable[[], Any] = lambda: None

        # Registered before ours, so that it runs after ours.
        @self.app.after_request
        def late(response: Response) -> Response:
            self.after_view()
            return response

        self.fsm = FlaskFSM(self.app, Machine("shop", [("a", "b"), ("b", "c")]))
        prepare(self.app, self.fsm)
        for page, to in (("a", "b"), ("b", "c"), ("c", None)):
            view = self.fsm.check()(self._view(page, to))
            self.app.add_url_rule(f"/{page}", page, view, methods=["GET", "POST"])
        self.app.add_url_rule("/elsewhere", "elsewhere", lambda: (grow(), "grown")[1])

    def _view(self, page: str, to: str | None) -> Callable[[], Any]:
        def view() -> Any:
            if request.method != "POST":
                return show(page, self.fsm)
            answer = self.fsm.advance(to, data={})
            self.after_step()
            return answer

        return view


@pytest.fixture(params=[*FEW_STORES, "sqlite"])
def store(request: pytest.FixtureRequest, fresh_store: Callable[[str], str]) -> str:
    """In the cookie, in this process, and in a database, of which the cookie has the id."""
    return fresh_store("sqlite") if request.param == "sqlite" else str(request.param)


@pytest.mark.parametrize("where", ["after_step", "after_view"])
def test_a_session_that_grows_after_the_step_is_an_error_in_the_log(
    store: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the view, and in a function that runs after everything of ours."""
    made = App(store)
    setattr(made, where, grow)
    visitor = Visitor(made.app)
    made.after_view, after_view = (lambda: None), made.after_view
    token = visitor.token("a")
    made.after_view = after_view
    assert visitor.post("a", {}, token).status_code == 303
    [record] = errors_of(caplog)
    assert "'shop'" in record.getMessage()
    assert str(LIMIT) in record.getMessage()
    assert "Flask-Session" in record.getMessage()


@pytest.mark.parametrize("where", ["after_step", "after_view"])
def test_in_debug_mode_it_is_a_500_that_says_so(store: str, where: str) -> None:
    """The developer sees it in the very request."""
    made = App(store)
    made.app.debug = True
    visitor = Visitor(made.app)
    token = visitor.token("a")
    setattr(made, where, grow)
    response = visitor.post("a", {}, token)
    assert response.status_code == 500
    assert "browsers drop" in response.text
    assert "Location" not in response.headers
    assert "Set-Cookie" not in response.headers


def test_a_later_request_that_makes_it_grow_is_told_too(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A view of the app without any guard, while a flow is in the session."""
    made = App(store)
    visitor = Visitor(made.app)
    visitor.send("a")
    assert visitor.open("elsewhere").text == "grown"
    assert "'shop'" in caplog.text


def test_a_session_without_a_flow_is_the_apps_own_business(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of ours is lost with it."""
    made = App(store)
    assert Visitor(made.app).open("elsewhere").text == "grown"
    assert not errors_of(caplog)


def test_other_large_cookies_and_sessions_on_a_server_are_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cookie of the app's, and a session of which the cookie has only an id."""
    made = App("session")
    made.app.config.update(config_for("flask-session", tmp_path))
    from flask_session import Session

    Session(made.app)
    made.after_step = grow
    assert Visitor(made.app).send("a").status_code == 303
    plain = App("session")

    @plain.app.after_request
    def cookie(response: Response) -> Response:
        response.headers.add("Set-Cookie", f"sessions={'x' * 5_000}")
        return response

    assert Visitor(plain.app).send("a").status_code == 303
    assert not errors_of(caplog)
