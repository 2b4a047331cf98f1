"""What is said in an event, in which order: by its handler, by hooks, within transactions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request

from flask_fsm import FlaskFSM, Flow, Machine, Result, Transition
from flask_fsm.live.client.actions import Frame, Job
from flask_fsm.live.client.session import ClientSession
from flask_fsm.live.client.subscriber import Subscriber
from flask_fsm.runtime.app_state import app_state, unwrap
from flask_fsm.signals import transitioned


def ring(**options: Any) -> Machine:
    """A machine whose middle state is left at once, by a hook."""
    machine = Machine("ring", [Transition("a", "b", event="go"), ("b", "c"), ("c", "a")], **options)

    @machine.states["b"].hook
    def on(flow: Flow, result: Result) -> None:
        flow.transition("c", {"card": "4711"})

    return machine


class Talk:
    """One client of a flow, without a socket."""

    def __init__(self, app: Flask, name: str) -> None:
        self.subscriber = Subscriber(100, ids=False)
        state = app_state()
        self.talk = ClientSession(
            app, state, state.bound[name], unwrap(request), self.subscriber, []
        )
        self.talk.open(None)
        self.frames()

    def frames(self) -> list[dict[str, Any]]:
        found = []
        while isinstance(out := self.subscriber.take(), Frame):
            found.append(json.loads(out.text))
        return found

    def ask(self, event: str) -> list[dict[str, Any]]:
        self.talk.handle(Job(json.dumps({"event": event, "data": None, "ref": 1})))
        return self.frames()


@contextmanager
def talking(app: Flask, name: str) -> Iterator[Talk]:
    with app.test_request_context(f"/fsm/{name}/ws"):
        made = Talk(app, name)
    try:
        yield made
    finally:
        made.subscriber.leave()
        made.talk.close()


def made_app(machine: Machine, **config: Any) -> tuple[Flask, FlaskFSM]:
    app = Flask("said")
    app.config.update(SECRET_KEY="a key", **config)
    return app, FlaskFSM(app, machine)


def test_a_hook_moves_on_the_flow_of_a_connection() -> None:
    """The client is told of both moves in their order, and stays at the second."""
    app, _ = made_app(ring(scope="connection"))
    signalled = []

    def note(app: Flask, result: Result, **facts: Any) -> None:
        signalled.append(result.target)

    with talking(app, "ring") as talk, transitioned.connected_to(note):
        assert [(f["state"], f["rev"]) for f in talk.ask("go")] == [("b", 1), ("c", 2)]
    assert signalled == ["b", "c"]


def test_a_hook_moves_on_a_kept_flow() -> None:
    """The answer to a POST, and `send`, tell of the moves in their order."""
    app, _ = made_app(ring())
    client = app.test_client()
    client.get("/fsm/ring/state")
    answer = client.post("/fsm/ring/event", json={"event": "go", "data": None}).get_json()
    assert (answer["state"], answer["rev"]) == ("c", 2)
    assert [frame["state"] for frame in answer["frames"]] == ["b", "c"]
    result = ring().flow().send("go")
    assert result is not None
    assert result.target == "c"


def test_what_a_hook_keeps_is_not_told() -> None:
    """Answers that are given outside of an event stay in the flow, unless `reply` names some."""
    machine = Machine("m", [("a", "b"), ("b", "c")])

    @machine.states["b"].hook
    def on(flow: Flow, result: Result) -> None:
        flow.transition("c", {"card": "4711"})

    app, fsm = made_app(machine)

    @app.route("/a", methods=["GET", "POST"], endpoint="a")
    @fsm.check()
    def a() -> Any:
        return fsm.advance("b", data={"x": 1})

    for name in "bc":
        app.add_url_rule(f"/{name}", name, fsm.check()(str))
    client = app.test_client()
    kept = client.get("/fsm/m/state").headers["Set-Cookie"].partition(";")[0]
    with app.test_request_context("/fsm/m/ws", headers={"Cookie": kept}):
        talk = Talk(app, "m")
    assert client.post("/a").status_code == 303
    frames = talk.frames()
    assert frames[-1]["state"] == "c"
    assert [frame["data"] for frame in frames] == [None] * len(frames)
    talk.subscriber.leave()


# -- transactions -------------------------------------------------------------------------------


class Declined(Exception):
    """The card is declined."""


@pytest.fixture
def shop(tmp_path: Path) -> Flask:
    """A shop whose flows are in a database."""
    machine = Machine("shop", [("a", "b"), ("b", "c")])
    app, fsm = made_app(machine, FSM_STORE_URL=f"sqlite:///{tmp_path}/flows.db")

    @machine.states["a"].event("pay")
    def pay(flow: Flow, data: Any) -> None:
        with suppress(Declined), fsm.transaction():
            flow.transmit("One moment.")
            flow.transition("b", reply="paid")
            raise Declined

    @machine.states["a"].event("order")
    def order(flow: Flow, data: Any) -> None:
        with fsm.transaction():
            flow.transition("b", reply="first")
            flow.transmit("second")

    @machine.states["a"].event("undo")
    def undo(flow: Flow, data: Any) -> None:
        with fsm.transaction() as session:
            flow.transmit("before")
            flow.transition("b", reply="gone")
            session.rollback()
            flow.transmit(flow.current)

    @machine.states["a"].event("look")
    def look(flow: Flow, data: Any) -> None:
        with fsm.transaction():
            flow.transmit("nothing is changed")

    with app.app_context():
        fsm.init_db()
    return app


def test_what_was_rolled_back_is_not_told(shop: Flask) -> None:
    """Neither the one that has asked nor others hear of it; that it was handled is answered."""
    client = shop.test_client()
    client.get("/fsm/shop/state")
    answer = client.post("/fsm/shop/event", json={"event": "pay", "data": None})
    assert answer.get_json() == {"status": 202, "data": None}
    with talking(shop, "shop") as talk:
        assert talk.ask("pay") == [{"status": 202, "data": None, "ref": 1}]


def test_a_move_that_the_handler_rolls_back_is_not_told(shop: Flask) -> None:
    """session.rollback() withdraws it, and what was sent before; what follows is told."""
    with talking(shop, "shop") as talk:
        assert [frame["data"] for frame in talk.ask("undo")] == ["a"]
        assert [frame["data"] for frame in talk.ask("order")] == ["first", "second"]


@pytest.mark.parametrize(
    ("event", "said"), [("order", ["first", "second"]), ("look", ["nothing is changed"])]
)
def test_what_was_committed_is_told_in_order(shop: Flask, event: str, said: list[str]) -> None:
    """After the commit; a block that moves nothing has nothing to commit, and says what it says."""
    with talking(shop, "shop") as talk:
        assert [frame["data"] for frame in talk.ask(event)] == said
