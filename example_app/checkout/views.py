"""The pages of the checkout. Every view shows its form, or handles it and advances."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template, url_for
from flask.typing import ResponseReturnValue

from .. import catalogue
from ..extensions import fsm
from ..forms import Form
from .forms import (
    AddressForm,
    CartForm,
    DeliveryForm,
    PaymentForm,
    PickupForm,
    ReviewForm,
    WrappingForm,
)

pages = Blueprint("checkout", __name__, url_prefix="/checkout")

TITLES = {
    "checkout.cart": "Cart",
    "checkout.delivery": "Delivery",
    "checkout.address": "Address",
    "checkout.pickup": "Pick-up",
    "checkout.wrapping": "Wrapping",
    "checkout.payment": "Payment",
    "checkout.review": "Review",
    "checkout.done": "Done",
}


@pages.context_processor
def shop() -> dict[str, Any]:
    addresses = {name: (title, url_for(name)) for name, title in TITLES.items()}
    return {"catalogue": catalogue, "titles": TITLES, "addresses": addresses}


def page(name: str, form: Form) -> ResponseReturnValue:
    """Render a page: with status 422 if its form was submitted and has errors."""
    return render_template(f"checkout/{name}.html", form=form), 422 if form.is_submitted() else 200


@pages.route("/", methods=["GET", "POST"])
@fsm.check()
def cart() -> ResponseReturnValue:
    form = CartForm(data=fsm.answers())
    # fast_forward=True: after a change from the review, go straight back to the review, as far as
    # the rules of the pages in between still allow.
    if form.validate_on_submit() and (
        answer := fsm.advance("delivery", form=form, fast_forward=True)
    ):
        return answer
    return page("cart", form)


@pages.route("/delivery", methods=["GET", "POST"])
@fsm.check()
def delivery() -> ResponseReturnValue:
    form = DeliveryForm(data=fsm.answers())
    # Without a target, the guards choose the edge, here by the answer being submitted.
    if form.validate_on_submit() and (answer := fsm.advance(form=form, fast_forward=True)):
        return answer
    return page("delivery", form)


@pages.route("/address", methods=["GET", "POST"])
@fsm.check()
def address() -> ResponseReturnValue:
    form = AddressForm(data=fsm.answers())
    if form.validate_on_submit() and (answer := fsm.advance(form=form, fast_forward=True)):
        return answer
    return page("address", form)


@pages.route("/pickup", methods=["GET", "POST"])
@fsm.check()
def pickup() -> ResponseReturnValue:
    form = PickupForm(data=fsm.answers())
    if form.validate_on_submit() and (answer := fsm.advance(form=form, fast_forward=True)):
        return answer
    return page("pickup", form)


@pages.route("/wrapping", methods=["GET", "POST"])
@fsm.check()
def wrapping() -> ResponseReturnValue:
    form = WrappingForm(data=fsm.answers())
    if form.validate_on_submit() and (
        answer := fsm.advance("payment", form=form, fast_forward=True)
    ):
        return answer
    return page("wrapping", form)


@pages.route("/payment", methods=["GET", "POST"])
@fsm.check()
def payment() -> ResponseReturnValue:
    form = PaymentForm(data=fsm.answers())
    if form.validate_on_submit() and (answer := fsm.advance("review", form=form)):
        return answer
    return page("payment", form)


@pages.route("/review", methods=["GET", "POST"])
@fsm.check()
def review() -> ResponseReturnValue:
    form = ReviewForm()
    # An edge back to the cart: the later pages follow again, filled in. To change only one page,
    # the review links to it, which is an edit.
    if form.more.data:
        return fsm.advance("cart")
    if form.validate_on_submit() and (answer := fsm.advance("done", form=form)):
        return answer
    return page("review", form)


@pages.get("/done")
@fsm.check()
def done() -> ResponseReturnValue:
    return render_template("checkout/done.html")
