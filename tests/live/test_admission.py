"""Admission: who may use the endpoints of a machine is what the app says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    abort,
    flash,
    g,
    get_flashed_messages,
    redirect,
    request,
    session,
)
from flask.views import MethodView, View
from flask_sock import Sock

from flask_fsm import ConfigError, DefinitionError, FlaskFSM, Machine, State, Transition
from flask_fsm.testing import LiveClient, LiveServer

from ..apps import SECRET

JSON = {"Content-Type": "application/json"}
EVENT = b'{"event": "go", "data": null}'
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def ring(name: str, **options: Any) -> Machine:
    """Two states, between which the event `go` leads."""
    here, there = State("here"), State("there")

    def become(flow: Any, data: Any) -> str:
        session["user"] = data
        return "done"

    for state in (here, there):
        state.event("become")(become)
    edges = [Transition("here", "there", event="go"), Transition("there", "here", event="go")]
    return Machine(name, edges, states=[here, there], **options)


def app_of(fsm: FlaskFSM, **config: Any) -> Flask:
    app = Flask("guarded")
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL="memory://", **config)
    fsm.init_app(app)

    @app.get("/login/<user>")
    def log_in(user: str) -> str:
        session["user"] = user
        return "Hello."

    return app


def statuses(client: LiveClient, machine: str, query: str = "") -> list[int]:
    """Return what the websocket, the stream, the state and the event answer, and the why of it."""
    url = f"/fsm/{machine}"
    return [
        client.request("GET", f"{url}/ws{query}", headers=HANDSHAKE).status,
        client.request("GET", f"{url}/ws{query}").status,
        client.request("HEAD", f"{url}/events{query}").status,
        client.request("GET", f"{url}/state{query}").status,
        client.request("POST", f"{url}/event{query}", EVENT, JSON).status,
    ]


OPEN = [101, 426, 200, 200, 200]


def login_required(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def guard(**url_args: Any) -> Any:
        if "user" not in session:
            flash("Please log in.")
            return redirect("/login")
        g.user = session["user"]
        return view(**url_args)

    return guard


@pytest.fixture
def served() -> Iterator[Callable[[Flask], LiveServer]]:
    """Serve apps until the end of the test."""
    started: list[LiveServer] = []

    def serve(app: Flask) -> LiveServer:
        started.append(LiveServer(app).start())
        return started[-1]

    yield serve
    for server in started:
        server.stop()


def signed_in(server: LiveServer, user: str) -> LiveClient:
    client = server.client()
    client.get(f"/login/{user}")
    return client


def refuse_by_false(machine: str) -> bool:
    return False


async def refuse_by_async_false(machine: str) -> bool:
    return False


def refuse_by_response(machine: str) -> Any:
    return {"no": machine}, 403


def refuse_by_abort(machine: str) -> bool:
    abort(401, "Not you.")


def refuse_by_redirect(machine: str) -> Any:
    return redirect("/login")


def refuse_by_abort_with_a_redirect(machine: str) -> Any:
    abort(redirect("/login"))


def refuse_by_hiding(machine: str) -> bool:
    abort(404)


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (refuse_by_false, 403),
        (refuse_by_async_false, 403),
        (refuse_by_response, 403),
        (refuse_by_abort, 401),
        (refuse_by_redirect, 401),
        (refuse_by_abort_with_a_redirect, 401),
        (refuse_by_hiding, 404),
    ],
)
def test_ways_to_refuse(served: Any, function: Any, status: int) -> None:
    """However a function refuses, no endpoint serves, and a redirect is no answer to a program."""
    fsm = FlaskFSM(ring("visit"))
    fsm.live.admit(function)
    client = served(app_of(fsm)).client()
    assert statuses(client, "visit") == [status] * 5
    reply = client.request("GET", "/fsm/visit/state")
    if function is refuse_by_response:
        assert reply.json == {"no": "visit"}
    elif status == 404:
        nowhere = client.request("GET", "/fsm/nowhere/state")
        assert (reply.status, reply.json) == (nowhere.status, nowhere.json)
    else:
        assert (reply.json["reason"], reply.json["status"]) == ("not_admitted", status)
        assert function is not refuse_by_abort or reply.json["detail"] == "Not you."


def test_several_functions_must_all_agree(served: Any) -> None:
    """A client is admitted if each function says True; one of another machine is not asked."""
    fsm = FlaskFSM(ring("one"))
    fsm.add(ring("two"))
    asked = []

    @fsm.live.admit
    def everywhere(machine: str) -> bool:
        asked.append(machine)
        return True

    @fsm.live.admit(machine="two")
    def members(machine: str) -> bool:
        return "user" in session

    server = served(app_of(fsm))
    assert statuses(server.client(), "one") == OPEN
    assert statuses(server.client(), "two") == [403] * 5
    assert statuses(signed_in(server, "ada"), "two") == OPEN
    assert set(asked) == {"one", "two"}


@pytest.mark.parametrize("answer", [None, 1, 0])
def test_a_function_that_does_not_answer(served: Any, answer: Any) -> None:
    """What is neither True, False nor a response is a mistake, which opens nothing."""
    fsm = FlaskFSM(ring("visit"))
    fsm.live.admit(lambda machine: answer)
    app = app_of(fsm)
    assert app.test_client().get("/fsm/visit/state").status_code == 500
    app.testing = True
    with pytest.raises(TypeError, match="return True, False or a response"):
        app.test_client().get("/fsm/visit/state")


@pytest.mark.parametrize("function", [lambda: True, lambda *, machine: True, "may"])
def test_a_function_that_takes_no_machine(function: Any) -> None:
    """It is refused where it is registered."""
    with pytest.raises(DefinitionError, match="admit"):
        FlaskFSM(ring("visit")).live.admit(function)


def test_decorators_of_views(served: Any) -> None:
    """Decorators guard the endpoints as they guard a view, and leave no notice for later."""
    fsm = FlaskFSM(ring("visit"))
    app = app_of(fsm)
    fsm.live.decorators = [login_required]  # after init_app, too

    @app.get("/notices")
    def notices() -> list[Any]:
        return list(get_flashed_messages())

    server = served(app)
    stranger = server.client()
    assert statuses(stranger, "visit") == [401] * 5
    assert stranger.request("GET", "/fsm/visit/state").json["reason"] == "not_admitted"
    assert stranger.request("GET", "/notices").json == []
    assert statuses(signed_in(server, "ada"), "visit") == OPEN


def test_url_arguments(served: Any) -> None:
    """Functions and decorators get the URL arguments of the flow, which the query holds."""
    fsm = FlaskFSM(ring("order"))
    seen = []

    @fsm.subject
    def order(number: int) -> str:
        return f"order {number}"

    @fsm.live.admit
    def owner(machine: str, number: int) -> bool:
        return number == 7

    def noted(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def guard(number: int) -> Any:
            seen.append(number)
            return view(number=number)

        return guard

    fsm.live.decorators = [noted]
    app = app_of(fsm)
    for state in ("here", "there"):
        view = fsm.check(state=state)(lambda number: "a page")
        app.add_url_rule(f"/<int:number>/{state}", state, view, methods=["GET", "POST"])
    client = served(app).client()
    assert statuses(client, "order", "?number=7") == OPEN
    assert statuses(client, "order", "?number=8") == [403] * 5
    assert set(seen) == {7, 8}


def test_an_url_argument_that_is_missing(served: Any) -> None:
    """Without the argument that a function needs there is nothing to ask about."""
    fsm = FlaskFSM(ring("order"))
    fsm.live.admit(lambda machine, number: True)
    client = served(app_of(fsm)).client()
    assert statuses(client, "order") == [404] * 5
    assert client.request("GET", "/fsm/order/state").json["reason"] == "no_key"


def test_the_order_of_refusals(served: Any) -> None:
    """Another site is told nothing of the admission, and a stranger nothing of what is full."""
    fsm = FlaskFSM(ring("visit"))
    asked = []

    @fsm.live.admit
    def may(machine: str) -> bool:
        asked.append(request.path)
        return "user" in session

    app = app_of(fsm, FSM_MAX_CONNECTIONS_PER_ADDRESS=2, FSM_MAX_CONNECTIONS_PER_FLOW=1)
    server = served(app)
    stranger, ada = server.client(), signed_in(server, "ada")
    evil = {"Origin": "https://evil.example"}
    assert stranger.request("GET", "/fsm/nowhere/state", headers=evil).status == 404
    assert stranger.request("GET", "/fsm/visit/state", headers=evil).json["reason"] == "origin"
    assert asked == []
    assert stranger.request("GET", "/fsm/visit/state").json["reason"] == "not_admitted"
    ada.request("GET", "/fsm/visit/state")
    with ada.websocket("visit"):
        full = ada.request("GET", "/fsm/visit/ws", headers=HANDSHAKE)
        assert (full.status, full.json["reason"]) == (429, "too_many_connections")
        refused = stranger.request("GET", "/fsm/visit/ws", headers=HANDSHAKE)
        assert (refused.status, refused.json["reason"]) == (403, "not_admitted")


def test_a_route_of_the_app_asks_too(served: Any) -> None:
    """`fsm.live.serve` closes a websocket that is not admitted."""
    fsm = FlaskFSM(ring("visit"))
    fsm.live.admit(lambda machine: "user" in session)
    app = app_of(fsm)
    Sock(app).route("/own")(lambda ws: fsm.live.serve(ws))
    server = served(app)
    with server.client().websocket("visit", path="/own") as socket:
        assert socket.closed() == 4403
    with signed_in(server, "ada").websocket("visit", path="/own") as socket:
        assert socket.receive()["state"] == "here"


def test_a_route_of_the_app_is_guarded_by_the_app(served: Any) -> None:
    """It has the decorators that the app gives it, so those of the pages do not close it."""
    fsm = FlaskFSM(ring("visit"))
    app = app_of(fsm)
    Sock(app).route("/own")(lambda ws: fsm.live.serve(ws))
    above(fsm, app)
    client = served(app).client()
    assert client.request("GET", "/fsm/visit/state").status == 403
    with client.websocket("visit", path="/own") as socket:
        assert socket.receive()["state"] == "here"


def test_two_apps_of_one_extension() -> None:
    """What an extension says of admission holds in each of its apps."""
    fsm = FlaskFSM(ring("visit"))
    fsm.live.admit(lambda machine: "user" in session)
    for app in (app_of(fsm), app_of(fsm)):
        client = app.test_client()
        assert client.get("/fsm/visit/state").status_code == 403
        client.get("/login/ada")
        assert client.get("/fsm/visit/state").status_code == 200


@pytest.mark.parametrize("scope", ["subject", "connection"])
@pytest.mark.parametrize(("answer", "code"), [(False, 4403), (401, 4401)])
def test_each_event_asks_again(served: Any, scope: str, answer: Any, code: int) -> None:
    """An open connection that is no longer admitted gets its event refused, and ends."""
    fsm = FlaskFSM(ring("visit", scope=scope))
    welcome = [True]

    @fsm.live.admit
    def may(machine: str) -> bool:
        if not welcome[0] and answer == 401:
            abort(401)
        return welcome[0]

    with served(app_of(fsm)).client().websocket("visit") as socket:
        socket.receive()
        assert socket.ask("go", ref=1)["state"] == "there"
        welcome[0] = False
        frame = socket.ask("go", ref=2)
        assert (frame["status"], frame["data"]["reason"]) == (400, "not_admitted")
        assert socket.closed() == code


# -- what the app has not said ------------------------------------------------------------------


def pages_of(app: Flask, wrap: Callable[[Any], Any]) -> None:
    """Add the pages of `ring`, each view in what `wrap` puts around it."""
    for state in ("here", "there"):

        def view() -> str:
            return "A page."

        app.add_url_rule(f"/{state}", state, wrap(view))


def above(fsm: FlaskFSM, app: Flask) -> None:
    pages_of(app, lambda view: login_required(fsm.check()(view)))


def below(fsm: FlaskFSM, app: Flask) -> None:
    pages_of(app, lambda view: fsm.check()(login_required(view)))


def of_a_blueprint(fsm: FlaskFSM, app: Flask) -> None:
    outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)
    outer.before_request(only_members)
    for state in ("here", "there"):
        inner.add_url_rule(f"/i/{state}", f"i_{state}", fsm.check(state=state)(lambda: ""))
    outer.register_blueprint(inner)
    app.register_blueprint(outer)


def of_a_view_class(fsm: FlaskFSM, app: Flask) -> None:
    class Page(MethodView):
        decorators = (fsm.check(), login_required)

        def get(self) -> str:
            return "A page."

    for state in ("here", "there"):
        app.add_url_rule(f"/{state}", view_func=Page.as_view(state))


def of_a_method(fsm: FlaskFSM, app: Flask) -> None:
    class Page(MethodView):
        decorators = [fsm.check()]

        @login_required
        def get(self) -> str:
            return ""

    for state in ("here", "there"):
        app.add_url_rule(f"/{state}", view_func=Page.as_view(state))


class Members(MethodView):
    def dispatch_request(self, **url_args: Any) -> Any:
        only_members()
        return super().dispatch_request(**url_args)


def of_a_base_class(fsm: FlaskFSM, app: Flask) -> None:
    class Page(Members):
        decorators = [fsm.check()]

        def get(self) -> str:
            return ""

    for state in ("here", "there"):
        app.add_url_rule(f"/{state}", view_func=Page.as_view(state))


def view_classes(fsm: FlaskFSM, app: Flask) -> None:
    """Classes whose methods are the views themselves."""

    class Here(MethodView):
        decorators = [fsm.check()]

        def get(self) -> str:
            return ""

    class There(View):
        decorators = [fsm.check()]

        def dispatch_request(self) -> str:
            return ""

    for view, state in ((Here, "here"), (There, "there")):
        app.add_url_rule(f"/{state}", view_func=view.as_view(state))


def by_its_url(fsm: FlaskFSM, app: Flask) -> None:
    @fsm.subject
    def owner(number: int) -> str:
        return f"number {number}"

    for state in ("here", "there"):
        app.add_url_rule(f"/<int:number>/{state}", state, fsm.check()(lambda number: ""))


def only_members() -> None:
    if "user" not in session:
        abort(401)


def unwrapped(fsm: FlaskFSM, app: Flask) -> None:
    pages_of(app, fsm.check())


def of_each_request(fsm: FlaskFSM, app: Flask) -> None:
    """What runs before each request of the app runs before those of the endpoints, too."""
    app.before_request(lambda: None)
    unwrapped(fsm, app)


def of_two_machines(fsm: FlaskFSM, app: Flask) -> None:
    """The guard of another machine, which has endpoints of its own."""
    other = fsm.add(Machine("other", [("here", "there"), ("there", "here")]))
    pages_of(app, lambda view: other.check()(fsm.check()(view)))


@pytest.mark.parametrize(
    ("guard", "named"),
    [
        (above, "the decorator login_required of view 'here'"),
        (below, "the decorator login_required of view 'here'"),
        (of_a_view_class, "the decorator login_required of view 'here'"),
        (of_a_method, "the decorator login_required of method 'get' of view 'here'"),
        (of_a_base_class, "Members.dispatch_request(), which runs before view 'here'"),
        (of_a_blueprint, "only_members(), which runs before requests of blueprint 'outer'"),
        (by_its_url, "the subject from the URL"),
    ],
)
def test_what_guards_only_the_pages_closes_the_endpoints(
    guard: Callable[[FlaskFSM, Flask], None], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the app says who may use them; a line in the log names what it is, and the remedy."""
    fsm = FlaskFSM(ring("visit"))
    app = app_of(fsm)
    guard(fsm, app)
    client = app.test_client()
    client.get("/login/ada")
    for method, path in (("GET", "ws"), ("GET", "events"), ("GET", "state"), ("POST", "event")):
        answer = client.open(f"/fsm/visit/{path}?number=1", method=method, json={"event": "go"})
        assert (answer.status_code, answer.json["reason"]) == (403, "not_admitted"), path
    (line,) = [text for text in caplog.messages if "'visit'" in text and "403" in text]
    assert named in line
    assert "fsm.live.admit" in line


@pytest.mark.parametrize("guard", [above, of_a_blueprint, by_its_url])
@pytest.mark.parametrize("how", ["function", "decorators"])
def test_a_word_of_the_app_opens_the_endpoints(
    guard: Callable[[FlaskFSM, Flask], None], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that returns True, or the very decorator that guards the pages."""
    fsm = FlaskFSM(ring("visit"))
    if how == "function":
        fsm.live.admit(lambda machine: True)
    else:
        fsm.live.decorators = [login_required]
    app = app_of(fsm)
    guard(fsm, app)
    client = app.test_client()
    stranger = client.get("/fsm/visit/state?number=1").status_code
    assert stranger == (200 if how == "function" else 401)
    client.get("/login/ada")
    assert client.get("/fsm/visit/state?number=1").status_code == 200
    assert "403" not in caplog.text


@pytest.mark.parametrize("guard", [unwrapped, view_classes, of_each_request, of_two_machines])
def test_what_guards_the_endpoints_too_closes_nothing(
    guard: Callable[[FlaskFSM, Flask], None], caplog: pytest.LogCaptureFixture
) -> None:
    fsm = FlaskFSM(ring("visit"))
    app = app_of(fsm)
    guard(fsm, app)
    assert app.test_client().get("/fsm/visit/state").status_code == 200
    assert "403" not in caplog.text


def test_only_the_machines_that_are_named_have_endpoints() -> None:
    """FSM_LIVE may be a list; a machine that is not in it is not there, and a wrong name told."""
    fsm = FlaskFSM(ring("visit"))
    fsm.add(ring("other"))
    client = app_of(fsm, FSM_LIVE=["other"]).test_client()
    assert client.get("/fsm/other/state").status_code == 200
    assert client.get("/fsm/visit/state").status_code == 404
    with pytest.raises(ConfigError, match=r"FSM_LIVE names vizit, but .* are visit, other"):
        app_of(fsm, FSM_LIVE=["visit", "vizit"], TESTING=True).test_client().get("/")
    with pytest.raises(ConfigError, match=r"FSM_LIVE can't be 'visit': .*True, False, or a list"):
        app_of(fsm, FSM_LIVE="visit")
