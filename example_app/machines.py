"""The four machines of this app: which states there are, and which way leads from one to another.

A state that is a page is named like its endpoint. Nothing in this module knows a request.
"""

from __future__ import annotations

import secrets
from typing import Any

from flask_fsm import Flow, Machine, Result, State, Transition, ValidationFailed

from . import catalogue
from .ledger import ledger

# -- the checkout: two branches, and a page that only a gift needs ------------------------------


def _answers(flow: Flow, page: str) -> dict[str, Any]:
    """What was answered on a page of the way so far, and what is being sent just now."""
    answers: dict[str, Any] = flow.data.get(f"checkout.{page}", {})
    return answers


# A guard says whether an edge is open. The first line of its docstring is what a visitor is told.
def to_the_door(flow: Flow) -> bool:
    """This is for parcels only, and you chose to pick yours up."""
    return _answers(flow, "delivery").get("how") == "parcel"


def from_the_shop(flow: Flow) -> bool:
    """This is for picking up in a shop, and you chose a parcel."""
    return _answers(flow, "delivery").get("how") == "pickup"


def wrapped(flow: Flow) -> bool:
    """This is for gifts only."""
    return bool(_answers(flow, "delivery").get("gift"))


def not_wrapped(flow: Flow) -> bool:
    """Choose the paper for your gift first."""
    return not wrapped(flow)


# A validator says why not, in words that stand in the form: of a field, or of the whole.
def shop_is_open(flow: Flow, data: dict[str, Any]) -> None:
    answers = _answers(flow, "pickup")
    if not answers:
        return
    shop, day = catalogue.SHOPS[answers["shop"]], answers["day"]
    if day.weekday() in shop.closed:
        raise ValidationFailed(
            f"{shop.name} is closed on {day:%A}s. Choose another day.", field="day"
        )
    if day < catalogue.today():
        raise ValidationFailed("That day has passed. Choose another one.", field="day")


def payable_there(flow: Flow, data: dict[str, Any]) -> None:
    if data.get("method") == "shop" and not from_the_shop(flow):
        raise ValidationFailed(
            "Paying in the shop goes with picking up only. Choose another way.", field="method"
        )


checkout = Machine(
    "checkout",
    [
        ("checkout.cart", "checkout.delivery"),
        Transition("checkout.delivery", "checkout.address", when=to_the_door),
        Transition("checkout.delivery", "checkout.pickup", when=from_the_shop),
        Transition("checkout.address", "checkout.wrapping", when=wrapped),
        Transition("checkout.address", "checkout.payment", when=not_wrapped),
        Transition("checkout.pickup", "checkout.wrapping", when=wrapped, validators=[shop_is_open]),
        Transition(
            "checkout.pickup", "checkout.payment", when=not_wrapped, validators=[shop_is_open]
        ),
        ("checkout.wrapping", "checkout.payment"),
        Transition("checkout.payment", "checkout.review", validators=[payable_there]),
        ("checkout.review", "checkout.cart"),
        # Days may lie between choosing and ordering, so the shop is asked about once more.
        Transition("checkout.review", "checkout.done", validators=[shop_is_open]),
    ],
)


# A rule of a state belongs to all ways into it.
@checkout.states["checkout.delivery"].validator
def something_in_the_cart(flow: Flow, data: dict[str, Any]) -> None:
    if not any(_answers(flow, "cart").values()):
        raise ValidationFailed("Your cart is empty. Choose at least one thing.")


@checkout.states["checkout.done"].pre_transition
def number_the_order(flow: Flow, data: dict[str, Any]) -> None:
    data["number"] = secrets.token_hex(3).upper()


# A hook runs once for each transition that was made, however often the button was pressed. What
# must not be lost, if the process ends just here, belongs in the transaction of a database instead.
@checkout.states["checkout.done"].hook
def place_the_order(flow: Flow, result: Result) -> None:
    ledger().place(flow.id, flow.data)


# -- the sign-up: another machine, beside the first ---------------------------------------------

signup = Machine(
    "signup",
    [
        ("signup.account", "signup.profile"),
        ("signup.profile", "signup.confirm"),
        ("signup.confirm", "signup.welcome"),
    ],
)


@signup.states["signup.profile"].validator
@signup.states["signup.welcome"].validator
def not_a_member_yet(flow: Flow, data: dict[str, Any]) -> None:
    if ledger().has_member(flow.data["signup.account"]["email"]):
        raise ValidationFailed("There is an account with this address already.")


@signup.states["signup.welcome"].hook
def make_the_member(flow: Flow, result: Result) -> None:
    account = flow.data["signup.account"]
    ledger().join(account["email"], {**account, **flow.data["signup.profile"]})


# -- the proof of concept: four states, each edge at most once in a run -------------------------

poc = Machine(
    "poc",
    [
        ("poc.index", "poc.a"),
        ("poc.a", "poc.b"),
        ("poc.b", "poc.index"),
        ("poc.b", "poc.c"),
    ],
    repeat=False,
)

# -- the traffic light: its states are no pages, and its windows send events --------------------

red = State("red", targets=["green"])
green = State("green", targets=["yellow"])
yellow = State("yellow", targets=["red"])
light = Machine("light", states=[red, green, yellow])


# A client may send an event where a state has a handler for it, and nowhere else. What `data` it
# sends is for the handler to judge; these need none.
@red.event("change_to_green")
def to_green(flow: Flow, data: Any) -> None:
    flow.transition("green")


@green.event("change_to_yellow")
def to_yellow(flow: Flow, data: Any) -> None:
    flow.transition("yellow")


@yellow.event("change_to_red")
def to_red(flow: Flow, data: Any) -> None:
    flow.transition("red")


# What a handler returns, all windows are told.
@red.event("ping")
@green.event("ping")
@yellow.event("ping")
def ping(flow: Flow, data: Any) -> str:
    return "pong"
