"""The public live client sees what browsers and programs see of a served app."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from flask import session

from flask_fsm import Event, FlaskFSM, Machine, State
from flask_fsm.testing import LiveClient, LiveServer, Visitor

from ..apps import config_for, flask_app


@pytest.fixture
def server() -> Iterator[LiveServer]:
    """A light that all clients of a session share, and one page."""
    app = flask_app(config_for("memory://") | {"FSM_URL_PREFIX": "/live"})
    machine = Machine("light")

    def go(flow: Any, data: Any) -> None:
        flow.transition("green" if flow.current == "red" else "red", reply=data)

    for state, target in (("red", "green"), ("green", "red")):
        machine.register_state(State(state, targets=[target], events=[Event("go", go)]))
    fsm = FlaskFSM(machine, websocket="/socket")
    fsm.live.authorize(lambda group: group == "ops")
    fsm.init_app(app)

    @app.route("/page", methods=["GET", "POST"])
    def page() -> dict[str, Any]:
        session["seen"] = session.get("seen", 0) + 1
        return {"state": fsm.current, "seen": session["seen"]}

    @app.get("/tell")
    def tell() -> str:
        fsm.live.group("ops").broadcast({"news": "ä"})
        return "told"

    with LiveServer(app) as made:
        yield made


def test_all_ways_lead_to_one_flow(server: LiveServer) -> None:
    """A socket, a stream and plain HTTP of one client share its flow."""
    client = server.client()
    with client.websocket("light") as socket, client.events("light") as stream:
        assert stream.status == 200
        assert socket.receive()["state"] == stream.receive()["state"] == "red"
        assert socket.ask("go", "one", ref=1)["ref"] == 1
        assert stream.until(state="green")[-1]["rev"] == 1
        reply = client.event("light", "go", "two", ref=2)
        assert (reply.status, reply.json["rev"], reply.json["ref"]) == (200, 2, 2)
        assert [frame["state"] for frame in socket.until(rev=2)] == ["red"]
        assert [frame.get("state") for frame in socket.frames] == ["red", "green", "red"]
    assert client.state("light")["rev"] == 2
    assert server.client().state("light")["rev"] == 0


def test_a_visitor_and_a_client_share_a_session(server: LiveServer) -> None:
    """What one does in pages, the other sees on its socket, and the other way round."""
    visitor = Visitor(server.app)
    client = server.client(visitor=visitor)
    visitor.open("/page")
    with client.websocket("light", path="/socket") as socket:
        socket.until(state="red")
        socket.ask("go")
    assert visitor.open("/page").json == {"state": "green", "seen": 2}
    assert client.post("/page").json == {"state": "green", "seen": 3}
    assert visitor.open("/page").json == {"state": "green", "seen": 4}
    assert server.client().get("/page", a=1).json == {"state": "red", "seen": 1}


def test_groups_are_joined_and_replayed(server: LiveServer) -> None:
    """A group's messages come to its members, and to one who comes back what was missed."""
    client = server.client()
    with client.events("light", groups=["ops"]) as stream:
        stream.until(state="red")
        client.get("/tell")
        told = stream.until(data={"news": "ä"})[-1]
        assert told["group"] == "ops"
        assert stream.last_id == told["id"]
        client.get("/tell")
        stream.receive()
    with client.websocket("light", groups=["ops"], since=told["id"]) as socket:
        missed = socket.until(data={"news": "ä"})
        assert missed[-1]["id"] != told["id"]


def test_what_is_refused_says_why(server: LiveServer) -> None:
    """A stream that is refused has a status and a body, and nothing to receive is a timeout."""
    from websockets.exceptions import InvalidStatus

    client = server.client(timeout=0.2)
    with client.events("nothing") as stream:
        assert stream.status == 404
        assert json.loads(stream.body())["status"] == 404
    with pytest.raises(InvalidStatus):
        client.websocket("nothing")
    with pytest.raises(InvalidStatus):
        server.client(origin="https://elsewhere.example").websocket("light")
    with client.websocket("light") as socket, client.events("light") as stream:
        for each in (socket, stream):
            each.receive()
            with pytest.raises(TimeoutError):
                each.receive(0.05)
            with pytest.raises(TimeoutError):
                each.until(lambda frame: False, timeout=0.05)
        socket.send_text("{")
        assert socket.receive(5)["status"] == 403


def test_an_end_is_seen(server: LiveServer) -> None:
    """A closed socket has a code; a stream that is over raises EOFError."""
    client = server.client()
    with client.websocket("light") as socket, client.events("light") as stream:
        socket.receive()
        stream.receive()
        socket.cut()
        assert socket.closed() == 1006
        stream.close()
        with pytest.raises(EOFError):
            stream.receive(5)
        with pytest.raises(EOFError):
            stream.receive(5)


def test_a_missing_package_names_its_extra(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `websockets` only websockets are missing."""
    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    client = LiveClient(server.url, url_prefix="/live")
    with pytest.raises(RuntimeError, match=r"needs the extra 'testing'.*flask-fsm\[testing\]"):
        client.websocket("light")
    assert client.state("light")["state"] == "red"


def test_a_server_that_does_not_run_has_no_address() -> None:
    """It says how it is started."""
    with pytest.raises(LookupError, match="as a context manager"):
        _ = LiveServer(flask_app(config_for("session"))).url
