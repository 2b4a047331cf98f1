# pyright: strict
"""What a user with a typed app writes: it must pass mypy --strict and pyright as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, assert_type

from flask import Blueprint, Flask, Response, render_template, request
from flask.typing import ResponseReturnValue
from wtforms import Form, StringField
from wtforms.validators import DataRequired

from flask_fsm import (
    Code,
    Entry,
    EventStatus,
    FlaskFSM,
    Flow,
    FSMError,
    Machine,
    MachineViews,
    Progress,
    Refusal,
    Result,
    Snapshot,
    State,
    Token,
    Transition,
    ValidationFailed,
    hook,
    signals,
    validator,
)
from flask_fsm.channels import Channel, Listener, Message
from flask_fsm.testing import Visitor


@dataclass(frozen=True)
class Order:
    """Any object with a type and a payload is a message of a channel."""

    type: str
    payload: dict[str, int]


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


@review.event("change")
def change(flow: Flow, data: Any) -> None:
    flow.transmit({"seen": data}, status=EventStatus.NewContent)
    flow.transition("done", data={"by": "event"}, status=EventStatus.OK)


@review.event("ported")
async def ported(flow: Flow, data: Any) -> None:
    """A handler of automata-ws."""
    await flow.transmit(EventStatus.NewContent, {"seen": data})
    result = await flow.transition("done", EventStatus.OK, data)
    assert_type(result, Result)
    flow.transition("done", {"by": "event"})


async def is_open(flow: Flow) -> bool:
    """The shop is closed."""
    return bool(flow.context.get("open"))


async def check_address(flow: Flow, data: Mapping[str, Any]) -> None:
    if not data:
        raise ValidationFailed("Where to?")


opening = Transition("address", "payment", when=[is_open], validators=[check_address])
renamed = checkout.migrate({"delivery": "address", "extras": None})
assert_type(renamed, dict[str, str | None])
again = Machine.from_dict(checkout.to_dict(), rules=[has_paid, within_limit, in_stock, note])
assert_type(again, Machine)


# -- an app ----------------------------------------------------------------------------------


class AddressForm(Form):
    street = StringField("Street", [DataRequired()])


fsm = FlaskFSM(checkout)
signup = fsm.add(Machine("signup", [("name", "welcome")]))
assert_type(signup, MachineViews)
listed = FlaskFSM([("a", "b"), opening], repeat=False, ordered=True, free_args=("lang",))
decorated = FlaskFSM(Flask(__name__), repeat=False, final=["b"])
pages = Blueprint("pages", __name__)


@fsm.subject
def customer() -> str | None:
    return request.headers.get("X-Customer")


@fsm.on_login_conflict
def keep(session: Snapshot, users: Snapshot) -> Snapshot:
    return max(session, users, key=lambda snapshot: snapshot.updated)


@fsm.live.authorize
def may_join(group_id: str) -> bool:
    return group_id.startswith("public")


@pages.route("/cart", methods=["GET", "POST"])
@fsm.check(to=["address"], state="cart", free=["lang"])
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
    assert_type(fsm.token(), Token)
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


@pages.app_errorhandler(409)
def conflict(error: Exception) -> ResponseReturnValue:
    if isinstance(error, Refusal):
        return {"why": error.error.code, "to": list(error.error.allowed)}, 409
    return "conflict", 409


@pages.get("/orders")
def orders() -> ResponseReturnValue:
    progress = fsm.progress()
    assert_type(progress, Progress)
    assert_type(progress.ahead, tuple[str, ...])
    assert_type([flow.url for flow in fsm.flows()], list[str | None])
    assert_type(fsm.resume_link(expires=timedelta(hours=1)), str)
    assert_type(fsm.answers("cart"), dict[str, Any] | None)
    for entry in fsm.history:
        assert_type((entry.source, entry.target, entry.rev), tuple[str, str, int])
    return render_template("orders.html", funnel=fsm.funnel(since=0.0), log=list(fsm.log()))


@pages.get("/async")
@fsm.requires("cart")
async def later() -> str:
    fsm.live.channel("news").broadcast(Message("news", {"text": "Hello"}))
    return fsm.url_for()


# -- messages and tests ----------------------------------------------------------------------


def listen(channel: Channel) -> str:
    listener = channel.add_listener()
    assert_type(listener, Listener)
    channel.broadcast(Message("news", {"text": "Hello"}))
    channel.broadcast(Message(msg_type="news", msg_payload={"text": "Hello"}))
    channel.broadcast(Order("order", {"number": 1}))
    return channel.deliver_next(listener.id).type


def test_cart() -> None:
    visitor = Visitor(create_app())
    visitor.open("cart")
    assert visitor.status == 200
    assert_type(visitor.text, str)
