"""Pages whose URLs have arguments: an event leads to a page that opens at its own URL."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, request

from flask_fsm import FlaskFSM, Machine, State, Transition
from flask_fsm.live.client.session import url_arguments
from flask_fsm.runtime.app_state import app_state
from flask_fsm.testing import LiveServer

from ..apps import SECRET

EDGES = [
    Transition("cart", "address", event="next"),
    Transition("address", "cart", event="back"),
    Transition("address", "paid", event="next"),
]
NEXT = {"event": "next", "data": None}
PAGES = ("cart", "address", "paid")


def orders(
    kind: str, *, rules: dict[str, str] | None = None, store: str = "memory://"
) -> tuple[Flask, FlaskFSM]:
    """An app with orders: their number is the subject, the key, or a mere argument of a page."""
    app = Flask("orders")
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL=store, FSM_LIVE=True)
    cart = State("cart")
    many: Any = "order_id" if kind == "key" else False
    fsm = FlaskFSM(app, Machine("orders", EDGES, states=[cart, "address", "paid"], many=many))

    @cart.event("leap")
    def leap(flow: Any, data: Any) -> None:
        flow.transition("address")
        flow.transition("paid")

    if kind == "subject":

        @fsm.subject
        def order(order_id: int) -> str:
            return f"order {order_id}"

        fsm.live.admit(lambda machine: True)

    for page in PAGES:
        rule = (rules or {}).get(page, f"/orders/<int:order_id>/{page}")

        def view(page: str = page, **_: Any) -> Any:
            if request.method == "POST":
                return fsm.advance({"cart": "address", "address": "paid"}[page])
            return f"{page} {fsm.token().value}"

        app.add_url_rule(rule, page, fsm.check()(view), methods=["GET", "POST"])
    return app, fsm


every_kind = pytest.mark.parametrize("kind", ["subject", "key", "plain"])


@every_kind
def test_an_event_by_http_leads_to_a_page_that_opens(kind: str) -> None:
    """After an event by HTTP, each page of the path opens at its URL, and its form moves on."""
    app, _ = orders(kind)
    client = app.test_client()
    assert client.get("/orders/7/cart").status_code == 200
    url = "/fsm/orders/event?order_id=7"
    assert client.post(url, json=NEXT).get_json()["state"] == "address"
    assert client.get("/orders/7/address").status_code == 200
    assert client.get("/orders/7/cart").status_code == 200
    assert client.get("/orders/7/paid").location == "/orders/7/address"
    assert client.post("/orders/7/address").location == "/orders/7/paid"
    assert client.get("/orders/7/paid").status_code == 200


@every_kind
def test_an_event_over_a_socket_leads_to_a_page_that_opens(kind: str) -> None:
    """After events over a socket there and back, and after a leap, the pages open."""
    app, _ = orders(kind)
    with LiveServer(app) as server:
        client = server.client()
        assert client.get("/orders/7/cart").status == 200
        with client.websocket("orders", path="/fsm/orders/ws?order_id=7") as socket:
            socket.receive()
            for event, page in [("next", "address"), ("back", "cart"), ("leap", "paid")]:
                socket.send(event)
                while socket.receive()["state"] != page:
                    pass
                assert client.get(f"/orders/7/{page}").status == 200


def test_code_without_a_request_keeps_the_arguments_of_the_path() -> None:
    """`fsm.live.flow(id).send()`, as in a task: the next page has the URL arguments of the path."""
    app, fsm = orders("plain")
    client = app.test_client()
    with client:
        assert client.post("/orders/7/cart").location == "/orders/7/address"
        assert client.get("/orders/7/address").status_code == 200
        id = fsm.flow.id
    with app.app_context():
        fsm.live.flow(id).send("next")
    assert client.get("/orders/7/paid").status_code == 200


def test_an_argument_that_the_client_names_does_not_replace_that_of_the_path() -> None:
    """A page that takes the path's argument gets it from there, whatever the event's URL says."""
    app, _ = orders("plain")
    client = app.test_client()
    assert client.post("/orders/7/cart").location == "/orders/7/address"
    assert client.post("/fsm/orders/event?order_id=8", json=NEXT).status_code == 200
    assert client.get("/orders/8/paid").status_code == 404
    assert client.get("/orders/7/paid").status_code == 200


def test_an_argument_that_nobody_has_named_is_open() -> None:
    """A socket that begins a run need not name all arguments of a page: it opens with any."""
    rules = {"cart": "/<lang>/orders/<int:order_id>/cart"}
    app, _ = orders("subject", rules=rules)
    client = app.test_client()
    url = "/fsm/orders/event?order_id=7"
    assert client.post(url, json=NEXT).status_code == 200
    assert client.get("/en/orders/7/cart").status_code == 200
    assert client.get("/orders/7/address").status_code == 200


def test_an_argument_that_the_path_lacks_on_purpose_is_not_open() -> None:
    """A page reached without its optional argument is 404 with one, as ever."""
    app, _ = orders("plain", rules={"address": "/address/<int:line>"})
    app.add_url_rule("/address", "address", app.view_functions["address"], methods=["GET", "POST"])
    client = app.test_client()
    client.get("/orders/7/cart")
    assert client.post("/fsm/orders/event?order_id=7", json=NEXT).status_code == 200
    assert client.get("/address").status_code == 200
    assert client.get("/address/5").status_code == 404


def test_a_view_that_moves_the_flow_itself_keeps_the_arguments_of_the_path() -> None:
    """`fsm.transition` and `fsm.flow.transition` in a view that has not got the argument."""
    for move in ("fsm.transition", "fsm.flow.transition"):
        app, fsm = orders("plain")

        @app.post("/move")
        @fsm.requires("address")
        def move_on(move: str = move, fsm: FlaskFSM = fsm) -> str:
            (fsm if move == "fsm.transition" else fsm.flow).transition("paid")
            return "moved"

        client = app.test_client()
        assert client.post("/orders/7/cart").location == "/orders/7/address"
        assert client.post("/move").text == "moved", move
        assert client.get("/orders/7/paid").status_code == 200, move
        assert client.get("/orders/7/cart").status_code in (200, 303), move


def test_the_arguments_of_an_own_route_are_those_of_the_flow() -> None:
    """A route of the app names the flow by its own arguments, whose converters may be others."""
    app, _ = orders("key")

    @app.get("/live/<order_id>/<shop>")
    def live(order_id: str, shop: str) -> dict[str, Any]:
        return url_arguments(app_state().bound["orders"], request)

    assert app.test_client().get("/live/7/main?order_id=8").json == {"order_id": 7, "shop": "main"}


@every_kind
def test_an_argument_that_no_page_can_have_names_no_flow(kind: str) -> None:
    """`?order_id=abc`, where pages have numbers, is 404 and no crash, at each endpoint."""
    app, _ = orders(kind)
    status = 200 if kind == "plain" else 404  # its flow is that of the session
    assert app.test_client().get("/fsm/orders/state?order_id=abc").status_code == status
    refused = app.test_client().post("/fsm/orders/event?order_id=abc", json=NEXT)
    assert refused.status_code == status


@pytest.mark.parametrize("kind", ["subject", "key"])
def test_an_address_that_does_not_say_which_flow(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client is told what it lacks; the developer is told once where, and what to do."""
    app, fsm = orders(kind)

    @app.get("/unguarded")
    def unguarded() -> str:
        return fsm.current

    client = app.test_client()
    for _ in range(3):
        answer = client.get("/fsm/orders/state")
        assert (answer.status_code, answer.json["reason"]) == (404, "no_key")
        assert answer.json["detail"] == (
            "This address does not say which flow is meant: it lacks order_id."
        )
        assert client.post("/fsm/orders/event", json=NEXT).status_code == 404
        assert client.get("/unguarded").status_code == 404
    for rule in ("/fsm/<machine>/state", "/fsm/<machine>/event", "/unguarded"):
        assert caplog.text.count(f"'orders' was used at {rule}. ") == 1
    assert "Add that to the rule of the view, or to the query" in caplog.text
