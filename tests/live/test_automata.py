"""The machines of the README of automata-ws 0.1.1, rebuilt, and what it says that clients get."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_fsm import (
    ConfigError,
    DefinitionError,
    DuplicateEndpoint,
    DuplicateEvent,
    DuplicateState,
    Event,
    FlaskFSM,
    Flow,
    FSMError,
    Machine,
    State,
)

from .serving import Site, Socket

STATE = {"state", "events", "status", "data"}
DATA = {"status", "data"}


def opened(site: Site, path: str) -> Socket:
    return site.browser().websocket(path=path)


def handler(flow: Flow, data: Any) -> None:
    pass


# -- the traffic light --------------------------------------------------------------------------


def test_the_traffic_light(site: Site) -> None:
    """At `/`: the first state that was registered, then a state frame for each event."""
    with opened(site, "/") as client:
        first = client.receive()
        assert (first["state"], first["events"], first["status"]) == (
            "red",
            ["change_to_green"],
            200,
        )
        assert first["data"] is None
        green = client.ask("change_to_green", {"by": "me"})
        assert green["events"] == ["change_to_yellow", "ping", "some_data"]
        assert (green["state"], green["status"], green["data"]) == ("green", 200, {"by": "me"})
        yellow = client.ask("change_to_yellow", "text")
        assert (yellow["state"], yellow["status"], yellow["data"]) == ("yellow", 203, "text")
        red = client.ask("change_to_red", None)
        assert (red["state"], red["status"], red["data"]) == ("red", 200, None)
        for frame in client.frames:
            assert set(frame) == {*STATE, "rev"}


def test_data_events(site: Site) -> None:
    """A data event is answered by status and data alone, and changes nothing."""
    with opened(site, "/") as client:
        client.receive()
        client.ask("change_to_green")
        assert client.ask("some_data", [1, {"a": 2}]) == {
            "status": 200,
            "data": {"got": [1, {"a": 2}]},
        }
        assert client.ask("ping", "text") == {"status": 200, "data": "pong"}
        assert set(client.ask("ping", {})) == DATA
        assert client.ask("change_to_yellow")["rev"] == 2


def test_each_connection_begins_anew(site: Site) -> None:
    """Each socket has a machine of its own, also two of one browser, and none leaves a cookie."""
    browser = site.browser()
    with browser.websocket(path="/") as one, browser.websocket(path="/") as other:
        one.receive()
        other.receive()
        assert one.ask("change_to_green")["state"] == "green"
        assert other.ask("change_to_green", rev=0)["state"] == "green"
        assert one.ask("ping")["data"] == "pong"
    assert browser.cookies == {}
    with browser.websocket(path="/") as later:
        assert later.receive()["state"] == "red"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("not JSON", 403),
        ('{"data": 1}', 403),
        ("[]", 403),
        ('{"event": "no such event", "data": 1}', 402),
        ('{"event": "change_to_red", "data": 1}', 402),
    ],
)
def test_a_faulty_payload_ends_nothing(site: Site, message: str, status: int) -> None:
    """After an invalid event or payload the same connection still works."""
    with opened(site, "/") as client:
        client.receive()
        client.send_text(message)
        frame = client.receive()
        assert frame["status"] == status
        assert set(frame) == DATA
        assert client.ask("change_to_green")["state"] == "green"


def test_a_handler_error_ends_nothing(site: Site) -> None:
    """After a handler that raises the same connection still works, with its state as it was."""
    with site.browser().websocket("anywhere") as client:
        client.receive()
        assert client.ask("jump", "raise")["status"] == 405
        assert client.ask("jump", [])["status"] == 400
        assert client.ask("jump", {})["status"] == 400
        assert client.ask("jump", "b")["state"] == "b"


# -- targets ------------------------------------------------------------------------------------


def test_targets(site: Site) -> None:
    """A state leads to its targets only; what its handler tries beyond them is refused."""
    with site.browser().websocket("strict") as client:
        assert client.receive()["state"] == "a"
        for target in ("c", "a", "nowhere"):
            frame = client.ask("jump", target)
            assert frame["status"] == 400, target
        assert client.ask("jump", "b")["state"] == "b"
        end = client.ask("jump", "c")
        assert (end["state"], end["events"]) == ("c", ["jump"])  # handlers stay
        assert client.ask("jump", "a")["data"]["reason"] == "finished"


def test_undefined_targets(site: Site) -> None:
    """A state without a list of targets leads to any state, its own among them."""
    with site.browser().websocket("anywhere") as client:
        client.receive()
        for rev, target in enumerate("cbacabb", 1):
            frame = client.ask("jump", target)
            assert (frame["state"], frame["rev"]) == (target, rev)
        assert client.ask("jump", "nowhere")["status"] == 400


def test_no_targets() -> None:
    """An empty list of targets leads nowhere."""
    machine = Machine("m", states=[State("a", ["b"]), State("b", [])], scope="connection")
    flow = machine.flow()
    flow.transition("b")
    assert flow.why_not("a")
    with pytest.raises(FSMError):
        flow.transition("a")
    assert flow.current == "b"


# -- what is given twice ------------------------------------------------------------------------


def test_duplicate_states() -> None:
    """Two states of one name can't be registered."""
    machine = Machine("m")
    machine.register_state(State("a"))
    with pytest.raises(DuplicateState):
        machine.register_state(State("a"))
    with pytest.raises(DuplicateState):
        Machine("m", states=[State("a"), State("a")])


def test_duplicate_events() -> None:
    """Two events of one name can't be registered in one state, in whichever way."""
    state = State("a")
    state.event("go")(handler)
    with pytest.raises(DuplicateEvent):
        state.event("go")
    with pytest.raises(DuplicateEvent):
        State("a", events=[Event("go", handler), Event("go", handler)])
    other = State("b")
    other.event("go")(handler)
    assert issubclass(DuplicateEvent, DefinitionError)


def test_duplicate_endpoints() -> None:
    """Two functions can't answer at one path."""
    fsm = FlaskFSM(Machine("m", states=["a"]))
    twice = fsm.live.endpoint("/health")
    fsm.live.endpoint("/health")(lambda headers: "OK")
    with pytest.raises(DuplicateEndpoint):
        fsm.live.endpoint("/health")
    with pytest.raises(DuplicateEndpoint):
        twice(lambda headers: "OK")


def test_two_machines_at_one_path() -> None:
    """Two machines can't have their websockets at one path."""
    fsm = FlaskFSM(Machine("one", states=["a"]), websocket="/live")
    fsm.add(Machine("two", states=["a"]), websocket="/live")
    app = Flask("app")
    app.secret_key = "a key"
    with pytest.raises(DuplicateEndpoint):
        fsm.init_app(app)


@pytest.mark.parametrize("first", ["view", "endpoint"])
def test_an_endpoint_where_a_view_is(first: str) -> None:
    """The first request says so, and all others, as one of both would never be called."""
    app = Flask("app")
    app.secret_key = "a key"
    fsm = FlaskFSM(Machine("m", states=["a"]), websocket="/page")
    for path in ("/health", "/ready"):
        fsm.live.endpoint(path)(lambda headers: "OK")
    if first == "endpoint":
        fsm.init_app(app)
    app.add_url_rule("/health", "healthy", lambda: "healthy")
    app.add_url_rule("/page", "page", lambda: "a page may be where a websocket is")
    app.add_url_rule("/ready", "ready", lambda: "so may another method", methods=["POST"])
    if first == "view":
        fsm.init_app(app)
    app.testing = True
    for path in ("/page", "/health"):
        with pytest.raises(DuplicateEndpoint, match="'healthy' answers at '/health'"):
            app.test_client().get(path)


@pytest.mark.parametrize("name", ["static", "a/b"])
def test_a_machine_without_an_address(name: str) -> None:
    """What would stand in the way of another address, or have none, is told at the first use."""
    app = Flask("app")
    app.secret_key = "a key"
    app.testing = True
    FlaskFSM(app, Machine(name, states=["a"]))
    with pytest.raises(ConfigError, match="part of their URLs"):
        app.test_client().get("/fsm/health")


def test_an_endpoint_where_another_host_has_a_view() -> None:
    """The same path of another host is another place."""
    app = Flask("app", host_matching=True, static_host="a.example")
    app.secret_key = "a key"
    app.testing = True
    fsm = FlaskFSM(Machine("m", states=["a"]))
    fsm.live.endpoint("/health")(lambda headers: "OK")
    fsm.init_app(app)
    app.add_url_rule("/health", "healthy", lambda: "healthy", host="a.example")
    assert app.test_client().get("/health", headers={"Host": "a.example"}).text == "healthy"


def test_what_comes_after_init_app() -> None:
    """Endpoints and paths of websockets that no app would get are refused."""
    app = Flask("app")
    app.secret_key = "a key"
    fsm = FlaskFSM(app, Machine("m", states=["a"]))
    with pytest.raises(ConfigError, match="too late"):
        fsm.live.endpoint("/late")
    with pytest.raises(ConfigError, match="too late"):
        fsm.add(Machine("late", states=["a"]), websocket="/late")
    fsm.add(Machine("n", states=["a"]))
    assert app.test_client().get("/fsm/n/state").status_code == 200


@pytest.mark.parametrize("path", ["health", "", None, 5, "/users/<int:number>"])
def test_an_endpoint_needs_a_path(path: Any) -> None:
    """A path begins with a slash, and has no parameters, which its function would not get."""
    with pytest.raises(DefinitionError):
        FlaskFSM(Machine("m", states=["a"])).live.endpoint(path)


# -- endpoints ----------------------------------------------------------------------------------


def test_endpoints(site: Site) -> None:
    """An endpoint answers a GET at its path, sync or async, and is given the headers."""
    browser = site.browser()
    reply = browser.get("/health")
    assert (reply.status, reply.body) == (200, b"OK")
    reply = browser.request("GET", "/headers", headers={"X-Asked": "this"})
    assert (reply.status, reply.json, reply.headers["X-Answered"]) == (
        203,
        {"asked": "this"},
        "yes",
    )
    assert browser.request("HEAD", "/health").status == 200
    assert browser.request("POST", "/health").status == 405
    assert browser.get("/").body == b"a page"  # where a websocket is, too
    assert browser.get("/fsm/health").json["status"] == "ok"
