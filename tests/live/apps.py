"""An app that real servers serve: machines of all kinds, and routes by which a test makes it act.

FSM_TEST_CONFIG holds its config as JSON, beside which there are CSRF (Flask-WTF's protection), SOCK
(a Sock of the app's own, with its options) and COMPRESS (Flask-Compress, for event streams too).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, abort, current_app, request, session

from flask_fsm import (
    Event,
    EventStatus,
    FlaskFSM,
    Flow,
    Machine,
    State,
    Transition,
    ValidationFailed,
)
from flask_fsm.channels import Message, SSEChannel
from flask_fsm.pages.api import MachineViews

VARIABLE = "FSM_TEST_CONFIG"
SECRET = "a key for tests"  # what a crash must not tell


# -- machines of the README of automata-ws ---------------------------------------------------------


def automata_light(name: str = "light") -> Machine:
    """The traffic light: red leads to green, that to yellow, that to red; ping answers pong."""
    machine = Machine(name, scope="connection")
    red = State("red", targets=["green"])
    green = State("green", targets=["yellow"])
    yellow = State("yellow", targets=["red"])

    @red.event("change_to_green")
    async def to_green(flow: Flow, data: Any) -> None:
        await asyncio.sleep(0)
        flow.transition("green", data, status=EventStatus.OK)

    @green.event("change_to_yellow")
    async def to_yellow(flow: Flow, data: Any) -> None:
        flow.transition("yellow", data, status=EventStatus.SuccessfulStateChange)

    @green.event("ping")
    def ping(flow: Flow, data: Any) -> str:
        return "pong"

    @green.event("some_data")
    async def some_data(flow: Flow, data: Any) -> None:
        flow.transmit({"got": data}, status=EventStatus.OK)

    @yellow.event("change_to_red")
    def to_red(flow: Flow, data: Any) -> None:
        flow.transition("red")

    for state in (red, green, yellow):
        machine.register_state(state)
    return machine


def jumping(name: str, targets: Mapping[str, list[str] | None]) -> Machine:
    """States with these targets; in each, the event `jump` goes where its data says, or raises."""

    def jump(flow: Flow, data: Any) -> None:
        if data == "raise":
            raise LookupError(SECRET)
        flow.transition(data)

    machine = Machine(name, scope="connection")
    for state, leads in targets.items():
        machine.register_state(State(state, leads, events=[Event("jump", jump)]))
    return machine


# -- machines of our own ---------------------------------------------------------------------------


def traffic_light() -> Machine:
    """A traffic light that all clients of a session share."""
    machine = Machine("traffic")

    def ping(flow: Flow, data: Any) -> str:
        return "pong"

    for state, following in (("green", "yellow"), ("yellow", "red"), ("red", "green")):

        def change(flow: Flow, data: Any, following: str = following) -> None:
            flow.transition(following, reply=data)

        events = [Event("next", change), Event("ping", ping)]
        machine.register_state(State(state, targets=[following], events=events))
    return machine


def nobody(flow: Flow) -> bool:
    return False


def has_key(flow: Flow, data: Mapping[str, Any]) -> None:
    if data.get("key") != "good":
        raise ValidationFailed({"key": "This key does not fit."})


def laboratory() -> Machine:
    """Handlers that do whatever a handler may do."""
    idle, busy = State("idle"), State("busy")

    def ping(flow: Flow, data: Any) -> str:
        return "pong"

    def echo(flow: Flow, data: Any) -> Any:
        return data

    def look(flow: Flow, data: Any) -> dict[str, Any]:
        return {"data": flow.data, "user": session.get("user"), "rev": flow.rev}

    def boom(flow: Flow, data: Any) -> None:
        raise LookupError(SECRET)

    for state in (idle, busy):
        for handler in (ping, echo, look, boom):
            state.event(handler.__name__)(handler)

    @idle.event("nothing")
    def nothing(flow: Flow, data: Any) -> None:
        pass

    @idle.event("many")
    def many(flow: Flow, data: Any) -> str:
        flow.transmit("first", status=EventStatus.NewContent)
        flow.transition("busy", reply="there")
        flow.transition("idle", {"kept": "twice"})
        flow.transmit(None)
        return "last"

    @idle.event("later")
    async def later(flow: Flow, data: Any) -> str:
        await asyncio.sleep(0)
        flow.transition("busy", {"kept": data})
        return "awaited"

    @idle.event("keep")
    def keep(flow: Flow, data: Any) -> None:
        flow.transition("busy", {"kept": data}, status=EventStatus.SuccessfulStateChange)

    @idle.event("hush")
    def hush(flow: Flow, data: Any) -> None:
        flow.transition("busy", {"kept": data}, reply=None)

    @idle.event("unlock")
    def unlock(flow: Flow, data: Any) -> None:
        flow.transition("office", data)

    @idle.event("burgle")
    def burgle(flow: Flow, data: Any) -> None:
        flow.transition("vault")

    @idle.event("stray")
    def stray(flow: Flow, data: Any) -> None:
        flow.transition("idle")

    @idle.event("unsayable")
    def unsayable(flow: Flow, data: Any) -> object:
        return object()

    @idle.event("unsayable_move")
    def unsayable_move(flow: Flow, data: Any) -> None:
        flow.transition("busy", reply=object())

    @idle.event("odd_status")
    def odd_status(flow: Flow, data: Any) -> None:
        status: Any = "done"
        flow.transmit("x", status=status)

    @idle.event("odd_status_move")
    def odd_status_move(flow: Flow, data: Any) -> None:
        status: Any = None
        flow.transition("busy", status=status)

    @idle.event("returned")
    def returned(flow: Flow, data: Any) -> Any:
        return flow.transition("busy", reply="there")

    @idle.event("half_done")
    def half_done(flow: Flow, data: Any) -> None:
        flow.transition("busy")
        raise LookupError(SECRET)

    @idle.event("ask_oneself")
    def ask_oneself(flow: Flow, data: Any) -> Any:
        return current_app.extensions["fsm"].extension.live.flow(flow).send("ping")

    @idle.event("start_anew")
    def start_anew(flow: Flow, data: Any) -> None:
        flow.reset()

    return Machine(
        "lab",
        [
            Transition("idle", "busy", event="start"),
            Transition("busy", "idle", event="stop"),
            Transition("idle", "vault", event="open_vault", when=nobody),
            Transition("idle", "office", event="enter", validators=[has_key]),
            ("idle", "page"),
            ("vault", "idle"),
            ("office", "idle"),
            ("page", "idle"),
        ],
        states=[idle, busy, State("vault"), State("office"), State("page")],
    )


def checkout_machine() -> Machine:
    """Pages, of which some can be left by events too: cart -> address -> payment -> done."""
    cart, address = State("cart"), State("address")

    @cart.event("ping")
    def ping(flow: Flow, data: Any) -> str:
        return "pong"

    @address.event("fill")
    def fill(flow: Flow, data: Any) -> None:
        flow.transition("payment", {"street": data})

    @address.event("peek")
    def peek(flow: Flow, data: Any) -> dict[str, Any]:
        return flow.data

    return Machine(
        "checkout",
        [
            ("cart", "address"),
            ("address", "payment"),
            ("payment", "done"),
            Transition("payment", "address", event="back"),
        ],
        states=[cart, address, State("payment"), State("done")],
        final=["done"],
    )


def orders_machine() -> Machine:
    """Flows that the address tells apart, by `?flow=` and a key; they begin on a page."""
    return Machine(
        "orders",
        [
            ("basket", "packed"),
            Transition("packed", "sent", event="send_off"),
            Transition("sent", "packed", event="return"),
        ],
        many=True,
    )


def parcels_machine() -> Machine:
    """Flows that an argument of the address tells apart."""
    machine = Machine("parcels", many="number")

    def move(flow: Flow, data: Any) -> None:
        flow.transition("away", {"to": data})

    machine.register_state(State("here", ["away"], events=[Event("move", move)]))
    machine.register_state(State("away", []))
    return machine


# -- the app ---------------------------------------------------------------------------------------


def create_app() -> Flask:
    """Make the app with the config that the environment holds."""
    config = json.loads(os.environ.get(VARIABLE, "{}"))
    app = Flask(__name__)
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL="memory://")
    csrf, sock = config.pop("CSRF", False), config.pop("SOCK", None)
    compress = config.pop("COMPRESS", False)
    app.config.update(config)
    fsm = FlaskFSM(checkout_machine())
    fsm.add(traffic_light())
    fsm.add(laboratory(), websocket="/lab/socket")
    fsm.add(automata_light(), websocket="/")
    fsm.add(jumping("strict", {"a": ["b"], "b": ["a", "c"], "c": []}))
    fsm.add(jumping("anywhere", dict.fromkeys("abc")))
    orders = None
    if app.config["FSM_STORE_URL"] not in ("memory://", "session"):
        orders = fsm.add(orders_machine())
        fsm.add(parcels_machine())

    banned: set[str] = set()

    @fsm.subject
    def subject() -> str | None:
        if session.get("user") in banned:
            abort(401, "Not any more.")
        return session.get("user")

    @app.get("/ban/<user>")
    def ban(user: str) -> dict[str, Any]:
        banned.add(user)
        return {}

    @fsm.live.authorize
    def authorize(group: str) -> Any:
        if group == "ops-plain":
            return {}
        if group.startswith("named"):
            return {"name": session.get("user", "guest")}
        return group.startswith("ops")

    @fsm.live.endpoint("/health")
    async def health(headers: Any) -> str:
        return "OK"

    @fsm.live.endpoint("/headers")
    def headers(headers: Any) -> Any:
        return {"asked": headers.get("X-Asked")}, 203, {"X-Answered": "yes"}

    if csrf:
        from flask_wtf import CSRFProtect

        CSRFProtect(app)
    if compress:
        from flask_compress import Compress

        app.config.update(COMPRESS_MIMETYPES=["text/event-stream"], COMPRESS_MIN_SIZE=0)
        Compress(app)
    if sock is not None:
        _sock_of_the_app(app, sock)
    fsm.init_app(app)
    _pages(app, fsm)
    _levers(app, fsm)
    if orders is not None:
        _orders(app, orders)
        with app.app_context():
            fsm.init_db()
    return app


def _sock_of_the_app(app: Flask, options: Mapping[str, Any]) -> None:
    from flask_sock import Sock

    app.config["SOCK_SERVER_OPTIONS"] = dict(options)
    sock = Sock(app)

    @sock.route("/own")
    def own(ws: Any) -> None:
        while True:
            text = ws.receive()
            ws.send(str(ws.max_message_size) if text == "limit" else text)


def _pages(app: Flask, fsm: FlaskFSM) -> None:
    def seen() -> dict[str, Any]:
        flow = fsm.flow
        return {"state": flow.current, "rev": flow.rev, "data": flow.data, "id": flow.id}

    def page(name: str) -> Any:
        def view() -> Any:
            if request.method == "POST":
                return fsm.advance(data=request.form.to_dict())
            return seen()

        view.__name__ = name
        return app.route(f"/{name}", methods=["GET", "POST"])(fsm.check()(view))

    for name in ("cart", "address", "payment", "done"):
        page(name)


def _orders(app: Flask, orders: MachineViews) -> None:
    @app.route("/basket", methods=["GET", "POST"])
    @orders.check()
    def basket() -> Any:
        return orders.advance(data={"book": 1}) if request.method == "POST" else "basket"

    @app.get("/packed")
    @orders.check()
    def packed() -> Any:
        return {"rev": orders.flow.rev}


def _levers(app: Flask, fsm: FlaskFSM) -> None:
    """Add routes by which a test makes the app act; they answer with JSON."""

    @app.get("/ping")
    def ping() -> str:
        return "ok"

    @app.get("/")
    def index() -> str:
        return "a page"

    @app.after_request
    def set_headers(response: Response) -> Response:
        """Set the headers that stand in the query, as JSON."""
        response.headers.update(json.loads(request.args.get("set_headers", "{}")))
        return response

    news = SSEChannel()

    @app.get("/news")
    def stream_news() -> Response:
        """Open a stream of this view's own, of a channel."""
        listener = news.add_listener()
        listener.start()
        news.broadcast(Message("news", "welcome"))
        return news.sse_response(listener)

    @app.get("/news/<text>")
    def tell_news(text: str) -> dict[str, Any]:
        news.broadcast(Message("news", text))
        return {}

    @app.get("/login/<user>")
    def login(user: str) -> dict[str, str]:
        session["user"] = user
        return {"user": user}

    @app.get("/logout")
    def logout() -> dict[str, str]:
        session.pop("user", None)
        return {}

    @app.get("/note/<text>")
    def note(text: str) -> dict[str, str]:
        session["note"] = text
        return {}

    @app.get("/reset")
    def start_anew() -> dict[str, Any]:
        fsm.reset()
        return {"id": fsm.flow.id}

    @app.get("/flow")
    def flow() -> dict[str, Any]:
        return {"id": fsm.flow.id, "state": fsm.current, "rev": fsm.flow.rev}

    @app.get("/broadcast/<group>")
    def broadcast(group: str) -> dict[str, Any]:
        """Tell a group the messages that stand in the query, as they are or with a type."""
        kind = request.args.get("type")
        for text in request.args.getlist("text"):
            message = json.loads(text)
            fsm.live.group(group).broadcast(Message(kind, message) if kind else message)
        return {}

    @app.get("/ask/<group>/<event>")
    def ask(group: str, event: str) -> dict[str, Any]:
        fsm.live.group(group).send(event, json.loads(request.args.get("data", "null")))
        return {}

    @app.get("/members/<group>")
    def members(group: str) -> dict[str, Any]:
        return {"members": fsm.live.group(group).members()}

    @app.get("/transmit/<id>")
    def transmit(id: str) -> dict[str, Any]:
        fsm.live.flow(id).transmit(json.loads(request.args.get("data", "null")))
        return {}

    @app.get("/send/<id>/<event>")
    def send(id: str, event: str) -> dict[str, Any]:
        """Let a flow handle an event, from a request that has nothing to do with it."""
        subject = request.args.get("subject")
        data = json.loads(request.args.get("data", "null"))
        try:
            return {"frames": fsm.live.flow(id, subject=subject).send(event, data)}
        except Exception as error:
            return {"raised": type(error).__name__, "text": str(error)}

    @app.get("/close/<subject>")
    def close(subject: str) -> dict[str, Any]:
        fsm.live.close(subject)
        return {}
