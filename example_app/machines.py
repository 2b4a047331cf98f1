"""The four machines of this app: their states, and the edges between them.

A state that is a page has the name of its endpoint. Nothing in this module uses a request.
"""

from __future__ import annotations

import secrets
from typing import Any

from flask_fsm import Flow, Machine, Result, State, Transition, ValidationFailed

from . import catalogue
from .ledger import ledger

# -- the checkout: two branches, and a page for gifts only --------------------------------------


def _answers(flow: Flow, page: str) -> dict[str, Any]:
    """Return the answers of a page on the path, including those being submitted now."""
    answers: dict[str, Any] = flow.data.get(f"checkout.{page}", {})
    return answers


# A guard decides whether an edge is open. Its docstring's first line tells the visitor why not.
def is_parcel(flow: Flow) -> bool:
    """This step is for parcels only, and you chose to pick up your order."""
    return _answers(flow, "delivery").get("how") == "parcel"


def is_pickup(flow: Flow) -> bool:
    """This step is for pick-up only, and you chose a parcel."""
    return _answers(flow, "delivery").get("how") == "pickup"


def is_gift(flow: Flow) -> bool:
    """This step is for gifts only."""
    return bool(_answers(flow, "delivery").get("gift"))


def is_not_gift(flow: Flow) -> bool:
    """Choose the wrapping paper for your gift first."""
    return not is_gift(flow)


# A validator explains why not. Its message appears in the form, beside a field or at the top.
def check_opening_day(flow: Flow, data: dict[str, Any]) -> None:
    answers = _answers(flow, "pickup")
    if not answers:
        return
    shop, day = catalogue.SHOPS[answers["shop"]], answers["day"]
    if day.weekday() in shop.closed:
        raise ValidationFailed(
            f"{shop.name} is closed on {day:%A}s. Choose another day.", field="day"
        )
    if day < catalogue.today():
        raise ValidationFailed("That day is in the past. Choose another day.", field="day")


def check_payment_method(flow: Flow, data: dict[str, Any]) -> None:
    if data.get("method") == "shop" and not is_pickup(flow):
        raise ValidationFailed(
            "You can pay in the shop only if you pick up your order there.", field="method"
        )


checkout = Machine(
    "checkout",
    [
        ("checkout.cart", "checkout.delivery"),
        Transition("checkout.delivery", "checkout.address", when=is_parcel),
        Transition("checkout.delivery", "checkout.pickup", when=is_pickup),
        Transition("checkout.address", "checkout.wrapping", when=is_gift),
        Transition("checkout.address", "checkout.payment", when=is_not_gift),
        Transition(
            "checkout.pickup", "checkout.wrapping", when=is_gift, validators=[check_opening_day]
        ),
        Transition(
            "checkout.pickup", "checkout.payment", when=is_not_gift, validators=[check_opening_day]
        ),
        ("checkout.wrapping", "checkout.payment"),
        Transition("checkout.payment", "checkout.review", validators=[check_payment_method]),
        ("checkout.review", "checkout.cart"),
        # The order may be placed days after the shop was chosen, so check the day again.
        Transition("checkout.review", "checkout.done", validators=[check_opening_day]),
    ],
)


# A rule of a state applies to every edge that leads to it.
@checkout.states["checkout.delivery"].validator
def require_items(flow: Flow, data: dict[str, Any]) -> None:
    if not any(_answers(flow, "cart").values()):
        raise ValidationFailed("Your cart is empty. Add at least one item.")


@checkout.states["checkout.done"].pre_transition
def assign_order_number(flow: Flow, data: dict[str, Any]) -> None:
    data["number"] = secrets.token_hex(3).upper()


# A hook runs once for each transition, however often the button was pressed. If the process dies
# right here, the hook does not run: what must not be lost belongs in a database transaction.
@checkout.states["checkout.done"].hook
def place_the_order(flow: Flow, result: Result) -> None:
    ledger().place(flow.id, flow.data)


# -- the sign-up: a second machine in the same app ----------------------------------------------

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
def require_new_email(flow: Flow, data: dict[str, Any]) -> None:
    if ledger().has_member(flow.data["signup.account"]["email"]):
        raise ValidationFailed("There is already an account with this email address.")


@signup.states["signup.welcome"].hook
def create_member(flow: Flow, result: Result) -> None:
    account = flow.data["signup.account"]
    ledger().join(account["email"], {**account, **flow.data["signup.profile"]})


# -- the proof of concept: four states, each edge at most once per run --------------------------

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

# -- the traffic light: its states are not pages; clients send events ----------------------------

red = State("red", targets=["green"])
green = State("green", targets=["yellow"])
yellow = State("yellow", targets=["red"])
light = Machine("light", states=[red, green, yellow])


# A client may send an event only in states that have a handler for it. The handler must check the
# `data` that it receives; these handlers need none.
@red.event("change_to_green")
def to_green(flow: Flow, data: Any) -> None:
    flow.transition("green")


@green.event("change_to_yellow")
def to_yellow(flow: Flow, data: Any) -> None:
    flow.transition("yellow")


@yellow.event("change_to_red")
def to_red(flow: Flow, data: Any) -> None:
    flow.transition("red")


# Every client of the flow receives what a handler returns.
@red.event("ping")
@green.event("ping")
@yellow.event("ping")
def ping(flow: Flow, data: Any) -> str:
    return "pong"
