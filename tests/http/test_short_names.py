"""Within a blueprint, answers are read by the short names that advance() takes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from flask import Blueprint, Flask, render_template_string, request

from flask_fsm import FlaskFSM, Machine, Transition, ValidationFailed

from ..apps import FEW_STORES, SECRET, Visitor, token_in


def has_street(flow: Any) -> bool:
    """The street is missing."""
    return bool(flow.data["address"]["street"]) and "cart" in flow.data


def is_paid_by_full_name(flow: Any, data: Any) -> None:
    assert "cart" not in flow.data  # a rule of the bank's page: its own blueprint is `bank`
    assert flow.data["card"] == {"number": "4"}
    if flow.data["shop.cart"]["items"] != "3":
        raise ValidationFailed("Nothing to pay.")


def shop_app(store: str, view: Any) -> tuple[Flask, FlaskFSM]:
    app = Flask("short")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL=store)
    fsm = FlaskFSM(
        Machine(
            "shop",
            [
                ("shop.cart", "shop.address"),
                Transition("shop.address", "bank.card", when=has_street),
                Transition("bank.card", "shop.done", validators=[is_paid_by_full_name]),
            ],
        )
    )
    fsm.init_app(app)
    for blueprint, pages in (("shop", ("cart", "address", "done")), ("bank", ("card",))):
        one = Blueprint(blueprint, __name__)
        for page in pages:

            @one.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
            @fsm.check()
            def show() -> Any:
                if request.method == "POST":
                    return fsm.advance(data=request.form.to_dict())
                return view(fsm)

        app.register_blueprint(one)
    return app, fsm


@pytest.mark.parametrize("store", FEW_STORES)
def test_data_is_read_by_the_names_that_advance_takes(store: str) -> None:
    """In views, guards and validators; a page's own blueprint counts, and full names always."""
    seen: dict[str, Any] = {}

    def view(fsm: FlaskFSM) -> str:
        data = fsm.flow.data
        seen.update(
            item=[data[name] for name in ("cart",) if name in data],
            got=data.get("cart"),
            full=data.get("shop.cart"),
            missing=(data.get("moon"), data.get("moon", 7), "moon" in data, "x.cart" in data),
            all=dict(data),
            answers=(fsm.flow.answers("cart"), fsm.answers("cart")),
            open=(fsm.flow.is_open("cart"), fsm.flow.is_on_path("cart"), fsm.flow.is_open("moon")),
        )
        with pytest.raises(KeyError, match="moon"):
            data["moon"]
        return render_template_string(
            "{{ (fsm.flow.data.cart or {})['items'] }} {{ fsm.flow.data|tojson }}"
        )

    app, _ = shop_app(store, view)
    visitor = Visitor(app)
    visitor.post("cart", {"items": "3"})
    shown = visitor.open("address")
    cart = {"items": "3"}
    assert seen["item"] == [cart]
    assert seen["got"] == seen["full"] == cart
    assert shown.text.startswith("3 ")
    assert seen["missing"] == (None, 7, False, False)
    assert seen["all"] == {"shop.cart": cart}
    assert seen["answers"] == (cart, cart)
    assert seen["open"] == (True, True, False)
    assert shown.text.endswith('{"shop.cart": {"items": "3"}}')
    assert visitor.post("address", {"street": "Elm"}).location == "/card"
    # The flow is at the bank now, and the shop's pages may still be opened.
    visitor.open("address")
    assert seen["item"] == [cart]
    assert seen["answers"] == (cart, cart)
    visitor.open("card")
    assert seen["item"] == []
    assert seen["full"] == cart
    assert visitor.post("card", {"number": "4"}).location == "/done"
    visitor.open("done")
    assert seen["item"] == [cart]


@pytest.mark.parametrize("store", FEW_STORES)
def test_drafts_are_read_by_short_names_too(store: str) -> None:
    """They are the answers that an edit has cut off."""
    seen: list[Any] = []
    app, _ = shop_app(
        store, lambda fsm: f"{seen.append(fsm.flow.drafts.get('address'))} {fsm.token()}"
    )
    visitor = Visitor(app)
    visitor.post("cart", {"items": "3"})
    visitor.post("address", {"street": "Elm"})
    token = token_in(visitor.open("cart").text)
    visitor.post("cart", {"items": "4"}, token)
    visitor.open("address")
    assert seen[-1] == {"street": "Elm"}


def test_a_page_of_that_very_name_goes_first() -> None:
    """What the mapping has under a name is what the name means: it is a mapping like any other."""
    machine = Machine("m", [("cart", "shop.cart"), ("shop.cart", "shop.end")])
    flow = machine.flow()
    flow.transition("shop.cart", {"n": 1})
    flow.transition("shop.end", {"n": 2})
    assert flow.data["cart"] == {"n": 1}
    assert {page: flow.data[page] for page in flow.data} == dict(flow.data)


def test_the_data_is_a_dict_that_can_be_copied_stored_and_sent() -> None:
    """With dotted names it is equal to a plain dict, and does what that does."""
    machine = Machine("m", [("s.a", "s.b"), ("s.b", "s.c")])
    flow = machine.flow()
    flow.transition("s.b", {"n": 1})
    plain = {"s.a": {"n": 1}}
    data = flow.data
    assert data == plain
    for made in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert made == plain
        assert made["a"] == {"n": 1}
    assert json.loads(json.dumps(data)) == plain
    assert {**data} == dict(data) == data | {} == plain
    flow.transition("s.c", {"before": data})  # as an answer
    assert flow.data["b"] == {"before": plain}


def test_nested_blueprints_have_short_names_of_their_own() -> None:
    """Only the innermost blueprint counts, as in advance()."""
    machine = Machine("m", [("a.b.x", "a.b.y"), ("a.b.y", "a.z")])
    flow = machine.flow()
    flow.transition("a.b.y", {"n": 1})
    assert flow.data["x"] == {"n": 1}
    flow.transition("a.z")
    assert "x" not in flow.data
    assert "b.x" not in flow.data
