"""Mistakes that would show only in production, found before the first view runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, request
from flask.views import MethodView

from flask_fsm import ConfigError, DefinitionError, FlaskFSM, Machine, State, Transition

SECRET = "a key that is long enough"
LINE = [("a", "b"), ("b", "c")]


def new_app(**config: Any) -> Flask:
    app = Flask("early")
    app.config.update({"SECRET_KEY": SECRET, "TESTING": True, **config})
    return app


def add(app: Flask | Blueprint, fsm: Any, *names: str, **check: Any) -> None:
    """Guarded pages that show their name, and for a POST go the only way on."""
    for name in names:
        methods = ["GET"] if name == "c" else ["GET", "POST"]  # the end takes no form

        @app.route(f"/{name}", methods=methods, endpoint=name)
        @fsm.check(**check)
        def view(name: str = name) -> Any:
            return fsm.advance() if request.method == "POST" else name


def fault_of(app: Flask, page: str = "/a") -> DefinitionError:
    """The error with which the app's first request fails."""
    with pytest.raises(DefinitionError) as caught:
        app.test_client().get(page)
    return caught.value


# -- a guard above the route ------------------------------------------------------------------


def above(fsm: FlaskFSM, app: Any) -> Callable[..., Any]:
    return fsm.check(state="c")(app.route("/see")(view()))


def above_and_named(fsm: FlaskFSM, app: Any) -> Callable[..., Any]:
    return fsm.check()(app.route("/c", endpoint="c")(view()))


def above_a_view_of_no_state(fsm: FlaskFSM, app: Any) -> Callable[..., Any]:
    return fsm.check()(app.route("/see")(view()))


def above_another_decorator(fsm: FlaskFSM, app: Any) -> Callable[..., Any]:
    import functools

    def log_in(view: Any) -> Any:
        return functools.wraps(view)(lambda: view())

    return fsm.check(state="c")(log_in(app.route("/see")(view())))


def requires_above(fsm: FlaskFSM, app: Any) -> Callable[..., Any]:
    return fsm.requires("b")(app.route("/see")(view()))


def view() -> Callable[..., Any]:
    def see() -> str:
        return "seen by anybody"

    return see


@pytest.mark.parametrize("kind", ["app", "blueprint"])
@pytest.mark.parametrize(
    "decorate",
    [above, above_and_named, above_a_view_of_no_state, above_another_decorator, requires_above],
)
def test_a_guard_above_the_route_is_a_fault_since_flask_has_the_bare_view(
    decorate: Callable[..., Any], kind: str
) -> None:
    """The view would be open to everybody; the fault says where the guard belongs."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", LINE))
    add(app, fsm, "a", "b")
    pages = Blueprint("pages", __name__)
    decorate(fsm, app if kind == "app" else pages)
    app.register_blueprint(pages)
    error = fault_of(app, "/see")
    assert "below @app.route" in str(error)
    assert sum("below @app.route" in str(fault) for fault in error.faults) == 1
    assert not any("isn't guarded" in str(fault) for fault in error.faults)


def test_a_guard_above_the_route_is_told_where_the_decorators_make_the_machine() -> None:
    """Rather than that the machine lacks its states."""
    app = new_app()
    fsm = FlaskFSM(app)
    add(app, fsm, "a", to=["see"])
    above_a_view_of_no_state(fsm, app)
    assert "below @app.route" in str(fault_of(app))


def test_a_view_may_be_registered_with_its_guard_and_without() -> None:
    """Under two endpoints, one of them open to everybody on purpose."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", LINE))
    add(app, fsm, "a", "b")
    bare = view()
    app.add_url_rule("/c", "c", fsm.check()(bare))
    app.add_url_rule("/see", "see", bare)
    client = app.test_client()
    assert client.get("/see").text == "seen by anybody"
    assert client.get("/c").location == "/a"


# -- pages ------------------------------------------------------------------------------------


class Post(MethodView):
    def post(self) -> str:
        return "posted"


@pytest.mark.parametrize("kind", ["function", "class"])
def test_a_page_that_answers_only_posts_is_a_fault(kind: str) -> None:
    """A redirect to it would end at a 405."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", LINE))
    add(app, fsm, "a", "c")
    if kind == "function":
        app.add_url_rule("/b", "b", fsm.check()(view()), methods=["POST"])
    else:
        app.add_url_rule("/b", "b", fsm.check()(Post.as_view("b")))
    error = fault_of(app)
    assert "'b'" in str(error)
    assert "GET" in str(error)


def test_a_page_may_have_one_view_that_shows_it_and_one_that_takes_its_form() -> None:
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", LINE))
    add(app, fsm, "a", "c")
    app.add_url_rule("/b", "b", fsm.check()(view()))
    app.add_url_rule("/send", "send", fsm.check(state="b")(lambda: fsm.advance()), methods=["POST"])
    client = app.test_client()
    assert client.post("/a").location == "/b"
    assert client.post("/send").location == "/c"


def open_ended(debug: bool, *states: State | str, event: str | None = None) -> Flask:
    """An app in which the page `b` leads to `c`, which has no view."""
    app = new_app()
    app.debug = debug
    machine = Machine("m", [("a", "b"), Transition("b", "c", event=event)], states=states)
    add(app, FlaskFSM(app, machine), "a", "b")
    return app


def test_a_state_that_a_page_leads_to_without_a_view_is_a_log_line_and_a_fault_when_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A view that was forgotten; the text says how to tell that none is meant."""
    client = open_ended(debug=False).test_client()
    assert client.get("/a").text == "a"
    client.get("/a")
    (record,) = [each for each in caplog.records if "'c'" in each.getMessage()]
    assert record.levelno == logging.WARNING
    assert "no view" in record.getMessage()
    error = fault_of(open_ended(debug=True))
    assert "no view" in str(error)
    assert "State('c', guarded=False)" in str(error)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("why", ["it says so", "it has events", "an event leads to it"])
def test_a_state_without_a_view_on_purpose_is_no_fault(
    why: str, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    last = State("c", guarded=why != "it says so")
    if why == "it has events":
        last.event("go")(lambda flow, data: None)
    event = "go" if why == "an event leads to it" else None
    app = open_ended(debug, "a", "b", last, event=event)
    assert app.test_client().get("/a").text == "a"
    assert caplog.records == []


@pytest.mark.parametrize("debug", [False, True])
def test_a_machine_without_pages_has_no_views_to_miss(
    debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app()
    app.debug = debug
    fsm = FlaskFSM(app, Machine("m", LINE))
    app.add_url_rule("/free", "free", lambda: fsm.current)
    assert app.test_client().get("/free").text == "a"
    assert caplog.records == []


# -- async ------------------------------------------------------------------------------------


async def yes(flow: Any, data: Any = None) -> bool:
    return True


async def shown() -> str:
    return "shown"


class Shown(MethodView):
    async def get(self) -> str:
        return "shown"


def with_a_guard(app: Flask) -> FlaskFSM:
    return FlaskFSM(app, Machine("m", [Transition("a", "b", when=yes)]))


def with_a_hook(app: Flask) -> FlaskFSM:
    return FlaskFSM(app, Machine("m", [Transition("a", "b", hooks=[yes])]))


def with_a_handler(app: Flask) -> FlaskFSM:
    state = State("a")
    state.event("go")(yes)
    return FlaskFSM(app, Machine("m", [("a", "b")], states=[state, State("b")]))


def with_a_view(app: Flask) -> FlaskFSM:
    fsm = FlaskFSM(app, Machine("m", [("a", "b")]))
    app.add_url_rule("/async", "async", fsm.requires("a")(shown))
    return fsm


def with_a_class(app: Flask) -> FlaskFSM:
    fsm = FlaskFSM(app, Machine("m", [("a", "b")]))
    app.add_url_rule("/async", "async", fsm.requires("a")(Shown.as_view("async")))
    return fsm


@pytest.mark.parametrize("has_extra", [False, True])
@pytest.mark.parametrize(
    "make", [with_a_guard, with_a_hook, with_a_handler, with_a_view, with_a_class]
)
def test_async_code_without_its_extra_is_a_fault(
    make: Callable[[Flask], FlaskFSM], has_extra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flask would raise at the first step; the text names what to install."""
    if not has_extra:
        monkeypatch.setitem(sys.modules, "asgiref", None)
        monkeypatch.setitem(sys.modules, "asgiref.sync", None)
    app = new_app()
    add(app, make(app), "a", "b")
    if has_extra:
        assert app.test_client().get("/a").text == "a"
    else:
        assert "flask[async]" in str(fault_of(app))


def test_an_app_that_runs_coroutines_itself_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnLoop(Flask):
        def async_to_sync(self, func: Any) -> Any:
            return lambda *args: True

    monkeypatch.setitem(sys.modules, "asgiref", None)
    app = OwnLoop("own")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    add(app, with_a_guard(app), "a", "b")
    assert app.test_client().post("/a").location == "/b"


def test_a_function_that_is_not_awaited_may_not_be_async() -> None:
    """A coroutine would count as a subject, as the flow to keep, and as the end of each run."""
    fsm = FlaskFSM(Machine("m", LINE))
    with pytest.raises(DefinitionError, match="async"):
        fsm.subject(yes)
    with pytest.raises(DefinitionError, match="async"):
        fsm.on_login_conflict(yes)
    with pytest.raises(DefinitionError, match="async"):
        Machine("m", LINE, complete=yes)
    with pytest.raises(DefinitionError, match="async"):
        Machine("m", LINE).migrate(yes)


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fallbacks", ["yesterday's key", b"yesterday's key", ["yesterday's key", 7], 7]
)
def test_secret_key_fallbacks_that_are_no_list_of_keys_are_an_error(fallbacks: Any) -> None:
    """Each character of a text would be a key, which anybody can guess."""
    with pytest.raises(ConfigError, match="SECRET_KEY_FALLBACKS") as caught:
        FlaskFSM(new_app(SECRET_KEY_FALLBACKS=fallbacks), Machine("m", LINE))
    assert "yesterday" not in str(caught.value)


def test_secret_key_fallbacks_that_are_set_late_are_checked_too() -> None:
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", LINE))
    add(app, fsm, "a", "b", "c")
    app.config["SECRET_KEY_FALLBACKS"] = "the old key"
    with pytest.raises(ConfigError, match="SECRET_KEY_FALLBACKS"):
        app.test_client().get("/a")


@pytest.mark.parametrize("fallbacks", [None, [], ["the old key, once"], ("the old key, once",)])
def test_secret_key_fallbacks_may_be_any_list_of_keys(fallbacks: Any) -> None:
    app = new_app(SECRET_KEY_FALLBACKS=fallbacks)
    add(app, FlaskFSM(app, Machine("m", LINE)), "a", "b", "c")
    assert app.test_client().get("/a").text == "a"


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"SECRET_KEY": "dev"}, "SECRET_KEY "),
        ({"SECRET_KEY": b"15 bytes, short"}, "SECRET_KEY "),
        ({"SECRET_KEY_FALLBACKS": [SECRET, "old"]}, "SECRET_KEY_FALLBACKS "),
        ({"SECRET_KEY": "sixteen bytes ok"}, None),
        ({"SECRET_KEY": "é" * 8}, None),
    ],
)
def test_a_short_secret_key_is_a_warning_unless_debugging(
    config: dict[str, Any], name: str | None, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, at the first request, without the key itself."""
    app = new_app(**config)
    app.debug = debug
    add(app, FlaskFSM(app, Machine("m", LINE)), "a", "b", "c")
    client = app.test_client()
    client.get("/a")
    client.get("/a")
    told = [each.getMessage() for each in caplog.records]
    if debug or name is None:
        assert told == []
    else:
        (text,) = told
        assert name in text
        assert "16 bytes" in text
        assert "15 bytes, short" not in text


# -- several blueprints under one state -------------------------------------------------------


def languages(fsm: Any, *names: str, nested: bool = False) -> Flask:
    """One blueprint of pages, registered under each name."""
    app = new_app()
    pages = Blueprint("pages", __name__)
    for state in "abc":

        @pages.route(f"/{state}", methods=["GET", "POST"], endpoint=state)
        @fsm.check(state=state)
        def view(state: str = state) -> Any:
            if request.method == "POST":
                return fsm.advance()
            return f"{request.blueprint} {state} {fsm.url_for('a')}"

    for name in names:
        if nested:
            outer = Blueprint(name, __name__, url_prefix=f"/{name}")
            outer.register_blueprint(pages)
            app.register_blueprint(outer)
        else:
            app.register_blueprint(pages, name=name, url_prefix=f"/{name}")
    app.add_url_rule("/where", "where", lambda: fsm.url_for("a"))
    fsm.init_app(app)
    return app


@pytest.mark.parametrize("nested", [False, True])
def test_of_several_blueprints_that_show_a_state_that_of_the_request_leads_on(nested: bool) -> None:
    """Who reads German goes on in German: forms, redirects, links, and refusals."""
    fsm = FlaskFSM(Machine("m", LINE))
    app = languages(fsm, "en", "de", nested=nested)
    for language in ("en", "de"):
        client = app.test_client()
        assert client.get(f"/{language}/c").location == f"/{language}/a"
        assert client.get(f"/{language}/a").text.endswith(f"{language}/a")
        assert client.post(f"/{language}/a").location == f"/{language}/b"
        assert client.post(f"/{language}/c").status_code == 409
        assert f'href="/{language}/b"' in client.post(f"/{language}/c").text
    # The visitor may change the language on the way, and elsewhere the first one counts.
    assert client.post("/en/b").location == "/en/c"
    assert client.get("/where").text == "/en/a"
