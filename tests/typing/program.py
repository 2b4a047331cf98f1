# pyright: strict
"""What a user with a typed app writes: it must pass mypy --strict and pyright as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, assert_type

from flask import Blueprint, Flask, Response, render_template, request
from flask.typing import ResponseReturnValue
from wtforms import Form, StringField
from wtforms.validators import DataRequired

from flask_fsm import (
    Code,
    Entry,
    FlaskFSM,
    Flow,
    FSMError,
    Machine,
    Result,
    Snapshot,
    State,
    Transition,
    ValidationFailed,
    hook,
    signals,
    validator,
)
from flask_fsm.channels import Channel, Listener, Message
from flask_fsm.testing import Visitor

# -- a machine and its rules -----------------------------------------------------------------


def has_paid(flow: Flow) -> bool:
    """Payment is missing."""
    payment: Mapping[str, Any] = flow.data.get("payment", {})
    return bool(payment.get("ok"))


review = State("review")
checkout = Machine(
    "checkout",
    [
        ("cart", "address"),
        ("address", "payment"),
        Transition("payment", "review", when=has_paid),
        Transition("review", "done", back="discard", once=False),
    ],
    states=["cart", "address", "payment", review, "done"],
    initial="cart",
    final=["done"],
)


@review.validator
def within_limit(flow: Flow, data: Mapping[str, Any]) -> None:
    if Decimal(data.get("total", 0)) > 1000:
        raise ValidationFailed("That is more than we deliver.", field="total")


@validator(review, order=1)
def in_stock(flow: Flow, data: Mapping[str, Any]) -> None:
    if data.get("items") == []:
        raise ValidationFailed({"items": ["Nothing is left of that."]})


@hook(checkout)
def note(flow: Flow, result: Result) -> None:
    assert_type(result.source, str)
    assert_type(result.entry, Entry)


def walk() -> str:
    flow = checkout.flow()
    result = flow.transition("address", data={"street": "Elm Street 5"})
    assert_type(result, Result)
    assert_type(flow.current, str)
    text = flow.snapshot.encode(checkout)
    snapshot = Snapshot.decode(text, checkout)
    assert_type(snapshot, Snapshot)
    try:
        checkout.flow(snapshot).transition("done")
    except FSMError as error:
        return error.code if error.code != Code.NO_EDGE else error.message
    return text


# -- an app ----------------------------------------------------------------------------------


class AddressForm(Form):
    street = StringField("Street", [DataRequired()])


fsm = FlaskFSM(checkout)
signup = fsm.add(Machine("signup", [("name", "welcome")]))
pages = Blueprint("pages", __name__)


@fsm.subject
def customer() -> str | None:
    return request.headers.get("X-Customer")


@pages.route("/cart", methods=["GET", "POST"])
@fsm.check(to=["address"], state="cart")
def cart() -> ResponseReturnValue:
    if request.method == "POST":
        return fsm.advance(data={"item": request.form["item"]})
    return render_template("cart.html", answers=fsm.answers())


@pages.route("/address", methods=["GET", "POST"])
@fsm.check(state="address")
def address() -> ResponseReturnValue:
    form = AddressForm(request.form)
    if request.method == "POST" and form.validate():
        answer = fsm.advance("payment", form=form)
        assert_type(answer, Response | None)
        if answer is not None:
            return answer
    return render_template("address.html", form=form)


@pages.post("/payment")
@fsm.check(state="payment")
def payment() -> Response:
    assert_type(fsm.advance("review", url_args={"to": "1"}), Response)
    assert_type(fsm.advance("review", {"ok": True}, lang="en"), Response)
    assert_type(fsm.advance("review", data={"ok": True}, fast_forward=True), Response)
    return signup.advance(data={"name": "Ada"})


@pages.post("/upload")
@fsm.requires("payment")
def upload() -> tuple[str, int]:
    assert_type(fsm.transition("review"), Result)
    assert_type(fsm.can_transition("done"), bool)
    assert_type([reason.text for reason in fsm.why_not("done")], list[str])
    assert_type(fsm.url_for("cart", url_args={"state": "new"}), str)
    assert_type(fsm.token().value, str)
    with fsm.transaction():
        fsm.reset()
    return f"{fsm.current} {fsm.status} {len(fsm.history)}", 201


# A decorated view keeps its own signature.
assert_type(upload(), tuple[str, int])


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "secret"
    fsm.init_app(app)
    app.register_blueprint(pages)

    @signals.transitioned.connect_via(app)
    def count(sender: Flask, **facts: Any) -> None:
        assert facts["result"]

    return app


# -- messages and tests ----------------------------------------------------------------------


def listen(channel: Channel) -> str:
    listener = channel.add_listener()
    assert_type(listener, Listener)
    channel.broadcast(Message("news", {"text": "Hello"}))
    return channel.deliver_next(listener.id).type


def test_cart() -> None:
    visitor = Visitor(create_app())
    visitor.open("cart")
    assert visitor.status == 200
    assert_type(visitor.text, str)
