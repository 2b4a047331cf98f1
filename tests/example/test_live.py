"""The live side of the example app, without a browser: who may listen, and what is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from example_app import create_app, machines
from example_app.extensions import fsm
from flask_fsm import InvalidTransition

from .visitor import ADDRESS, PARCEL, PAYMENT, Visitor


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return create_app(
        {
            "SECRET_KEY": "a key for tests",
            "TESTING": True,
            "FSM_STORE_URL": "memory://",
            "LEDGER": tmp_path / "ledger",
        }
    )


def told(app: Flask, visitor: Visitor) -> list[Any]:
    """What the group of operations hears of a visitor's order."""
    with app.app_context():
        channel = fsm.live.group("operations").channel
        listener = channel.add_listener()
        listener.start()
    visitor.walk(PARCEL)
    heard = [channel.deliver_next(listener.id).payload for _ in PARCEL]
    channel.remove_listener(listener.id)
    return heard


def test_each_move_of_a_checkout_is_told(app: Flask) -> None:
    """The group hears of each step of an order, under one name, with pages and a time."""
    heard = told(app, Visitor(app))
    assert [(move["source"], move["target"]) for move in heard] == [
        ("Cart", "Delivery"),
        ("Delivery", "Address"),
        ("Address", "Payment"),
        ("Payment", "Review"),
        ("Review", "Done"),
    ]
    assert len({move["run"] for move in heard}) == 1
    assert all(isinstance(move["at"], int) for move in heard)


def test_nothing_is_told_of_who_orders(app: Flask) -> None:
    """No answer and no id of a flow is in what the group hears, and another app names it else."""
    visitor = Visitor(app)
    heard = told(app, visitor)
    text = json.dumps(heard)
    for answer in (*ADDRESS.values(), *PAYMENT.values()):
        assert answer not in text
    cookie = visitor.client.get_cookie("session")
    assert cookie is not None
    with app.test_request_context(headers={"Cookie": f"session={cookie.value}"}):
        assert fsm.current == "checkout.done"
        assert fsm.flow.id not in text
    assert heard[0]["run"] not in {move["run"] for move in told(app, Visitor(app))}


def test_a_sign_up_is_not_told(app: Flask) -> None:
    """Only checkouts are followed."""
    with app.app_context():
        channel = fsm.live.group("operations").channel
        listener = channel.add_listener()
    Visitor(app, "/poc/").send("", {"to": "a"})
    Visitor(app).send("", PARCEL[""])
    listener.start()
    assert channel.deliver_next(listener.id).payload["target"] == "Delivery"


@pytest.mark.parametrize(("group", "status"), [("operations", 200), ("staff", 403), ("", 400)])
def test_one_group_is_open_to_all(app: Flask, group: str, status: int) -> None:
    """Whoever asks may join the operations, and nobody any other group."""
    threads = {"wsgi.multithread": True}  # as every server has that keeps connections open
    asked = app.test_client().get(
        "/fsm/checkout/events", query_string={"group_id": group}, environ_overrides=threads
    )
    with asked as answer:
        assert answer.status_code == status


def test_who_looks_on_has_one_name(app: Flask) -> None:
    """The name of a guest lasts as long as the visit, and the list is JSON."""
    client = app.test_client()
    names = set()
    for _ in range(2):
        page = client.get("/operations/").text
        names.add(page.partition("You are ")[2].partition(".")[0])
    (name,) = names
    assert name.startswith("Guest ")
    assert client.get("/operations/members").json == []


def test_the_light_takes_the_event_of_its_state_only() -> None:
    """From red it goes to green, from green to yellow, and so on; any other event is refused."""
    flow = machines.light.flow()
    for colour in ("green", "yellow", "red"):
        assert flow.events == (f"change_to_{colour}", "ping")
        with pytest.raises(InvalidTransition):
            flow.send(f"change_to_{flow.current}")
        flow.send(f"change_to_{colour}")
        assert flow.current == colour


def test_a_posted_button_needs_the_token_against_forgery(app: Flask) -> None:
    """Without a script the light is changed by a form, as any other: with its token."""
    visitor = Visitor(app, "/light/")
    visitor.open("")
    form, change = visitor.form(button="change_to_green"), {"event": "change_to_green"}
    assert visitor.request("POST", "/light/", data=change).status_code == 400
    assert form.submit(button="change_to_green").status_code == 303
    assert form.submit(button="change_to_green").status_code == 409
    assert form.submit({"event": None}).status_code == 400
    assert visitor.request("GET", "/fsm/light/state").json["state"] == "green"


@pytest.mark.parametrize("kind", ["session", "sqlite", "redis"])
def test_the_bus_follows_the_store_or_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fresh_store: Callable[[str], str],
    kind: str,
) -> None:
    """A Redis that keeps the flows carries the messages too, unless FSM_BUS_URL names another."""
    monkeypatch.delenv("FSM_BUS_URL", raising=False)
    store = kind if kind == "session" else fresh_store(kind)
    config = {"SECRET_KEY": "k", "FSM_STORE_URL": store, "LEDGER": tmp_path / "ledger"}
    app = create_app(config)
    assert app.config["FSM_BUS_URL"] == (store if kind == "redis" else "memory://")
    other = fresh_store("redis")
    monkeypatch.setenv("FSM_BUS_URL", other)
    assert create_app(config).config["FSM_BUS_URL"] == other
