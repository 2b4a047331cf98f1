"""Hooks that move the flow on, and what is heard of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
from flask import Flask, request

from flask_fsm import FlaskFSM, Machine, Transition
from flask_fsm.signals import denied, finished, reset, transitioned

from ..apps import Visitor, config_for, flask_app, prepare, show, typed

STORES = ("session", "memory://", "sqlite", "postgres", "redis")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, fresh_store: Callable[[str], str]) -> str:
    """The URL of an empty store."""
    kind: str = request.param
    return kind if kind in ("session", "memory://") else fresh_store(kind)


class Shop:
    """Pages a, b, c, d in a row, whose hooks are given."""

    def __init__(
        self,
        store: str,
        hooks: dict[str, Any],
        *,
        within: bool = False,
        move: Callable[[FlaskFSM], Any] | None = None,
    ) -> None:
        self.app = flask_app(config_for(store))
        machine = Machine("m", [("a", "b"), ("b", "c"), ("c", "d")])
        for state, hook in hooks.items():
            machine.states[state].hook(hook)
        self.fsm = FlaskFSM(self.app, machine)
        prepare(self.app, self.fsm)
        self.ran = 0
        self.within, self.move = within, move
        for page in machine.states:
            view = self.fsm.check(state=page)(self._page)
            self.app.add_url_rule(f"/{page}", page, view, methods=["GET", "POST"])

    def _page(self) -> Any:
        if request.method == "GET":
            return show(self.fsm.current, self.fsm)
        self.ran += 1
        with self.fsm.transaction() if self.within else nullcontext():
            if self.move is not None:
                return self.move(self.fsm)
            return self.fsm.advance(data=typed())


def on(flow: Any, result: Any) -> None:
    """A hook that moves on by the flow that it gets."""
    flow.transition(chr(ord(result.target) + 1))


@pytest.mark.parametrize("by", ["flow", "fsm"])
@pytest.mark.parametrize("asking", ["html", "json"])
def test_a_form_whose_hook_moved_on_leads_where_it_led_when_sent_again(
    store: str, by: str, asking: str
) -> None:
    """A double click, and a reload of the POST: one effect, and one answer."""
    hook = on if by == "flow" else lambda flow, result: shop.fsm.transition("c")
    shop = Shop(store, {"b": hook})
    visitor = Visitor(shop.app)
    token = visitor.token("a")
    first = visitor.post("a", {"x": "1"}, token, asking)
    again = visitor.post("a", {"x": "1"}, token, asking)
    where = [r.location if asking == "html" else (r.json or {})["location"] for r in (first, again)]
    assert where == ["/c", "/c"]
    assert (first.status_code, first.data) == (again.status_code, again.data)
    assert shop.ran == 1
    told = visitor.see("c")
    assert (told["rev"], told["path"]) == (2, ["a", "b", "c"])


def test_a_form_whose_hooks_moved_on_twice_leads_to_the_end(store: str) -> None:
    """Each hook moves on by one page."""
    shop = Shop(store, {"b": on, "c": on})
    visitor = Visitor(shop.app)
    token = visitor.token("a")
    assert [visitor.post("a", {}, token).location for _ in range(3)] == ["/d"] * 3
    assert (shop.ran, visitor.see("d")["rev"]) == (1, 3)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_form_taken_in_a_transaction_leads_where_it_led_when_sent_again(
    kind: str, fresh_store: Callable[[str], str]
) -> None:
    """Hooks run after the transaction, when its answer has been made."""
    shop = Shop(fresh_store(kind), {"b": on}, within=True)
    visitor = Visitor(shop.app)
    token = visitor.token("a")
    first = visitor.post("a", {"x": "1"}, token)
    assert visitor.post("a", {"x": "1"}, token).location == first.location
    assert (shop.ran, visitor.see("c")["rev"]) == (1, 2)


class Heard:
    """What receivers and listeners hear of an app's flows."""

    def __init__(self, shop: Shop) -> None:
        self.signals: list[Any] = []
        self.moves: list[Any] = []
        shop.app.extensions["fsm"].listeners.insert(0, self)
        self.stack = ExitStack()
        for signal in (transitioned, finished, reset):
            self.stack.enter_context(signal.connected_to(self._note(signal.name), shop.app))

    def _note(self, name: str) -> Callable[..., None]:
        def note(app: Flask, *, flow: Any, result: Any = None, **facts: Any) -> None:
            self.signals.append((name.removeprefix("fsm-"), result and result.rev))

        return note

    def moved(self, flow: Any, result: Any, status: int, reply: Any, sender: Any) -> None:
        self.moves.append(result.rev)

    def replaced(self, previous: Any, flow: Any) -> None:
        self.moves.append("replaced")

    def transmitted(self, *_: Any) -> None: ...

    def moved_away(self, key: str) -> None: ...


def test_signals_and_listeners_hear_steps_in_the_order_of_their_revs(store: str) -> None:
    """Although the hook of the first step has made the second before the first is told."""
    shop = Shop(store, {"b": on, "c": on})
    visitor, heard = Visitor(shop.app), Heard(shop)
    with heard.stack:
        visitor.send("a")
    steps = [("transitioned", 1), ("transitioned", 2), ("transitioned", 3), ("finished", 3)]
    assert heard.signals == steps
    assert heard.moves == [1, 2, 3]


def test_a_reset_by_a_hook_is_heard_after_the_step(store: str) -> None:
    """The run ended before another began."""
    shop = Shop(store, {"b": lambda flow, result: flow.reset()})
    visitor, heard = Visitor(shop.app), Heard(shop)
    with heard.stack:
        assert visitor.send("a").location == "/a"
    assert heard.signals == [("transitioned", 1), ("reset", None)]
    assert heard.moves == [1, "replaced"]


def test_a_receiver_that_moves_the_flow_on_is_heard_in_order(store: str) -> None:
    """By the receivers that hear the first step after it, too."""
    shop = Shop(store, {})

    def move(app: Flask, *, flow: Any, result: Any, **facts: Any) -> None:
        if result.rev == 1:
            flow.transition("c")

    visitor, heard = Visitor(shop.app), Heard(shop)
    with heard.stack, transitioned.connected_to(move, shop.app):
        assert visitor.send("a").location == "/c"
    assert heard.signals == [("transitioned", 1), ("transitioned", 2)]
    assert heard.moves == [1, 2]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_steps_of_one_transaction_are_heard_before_those_of_their_hooks(
    kind: str, fresh_store: Callable[[str], str]
) -> None:
    """Their revs are lower."""

    def move(fsm: FlaskFSM) -> Any:
        fsm.transition("b")
        return fsm.advance("c")

    shop = Shop(
        fresh_store(kind),
        {"b": lambda flow, result: flow.transition("d")},
        within=True,
        move=move,
    )
    visitor, heard = Visitor(shop.app), Heard(shop)
    with heard.stack:
        visitor.send("a")
    assert heard.moves == [1, 2, 3]
    assert [rev for name, rev in heard.signals if name == "transitioned"] == [1, 2, 3]


@pytest.mark.parametrize("signal", [transitioned, finished, reset, denied], ids=lambda s: s.name)
def test_a_receiver_that_raises_keeps_no_other_from_hearing(signal: Any, caplog: Any) -> None:
    """Each is logged; an async one runs as async views do."""
    shop = Shop("session", {})
    heard: list[int] = []

    def receiver(number: int) -> Callable[..., None]:
        def hear(app: Flask, **facts: Any) -> None:
            heard.append(number)
            raise RuntimeError(f"receiver {number} is down")

        return hear

    async def waiting(app: Flask, **facts: Any) -> None:
        heard.append(9)

    with ExitStack() as stack:
        for number in range(5):
            stack.enter_context(signal.connected_to(receiver(number), shop.app))
        stack.enter_context(signal.connected_to(waiting, shop.app))
        visitor = Visitor(shop.app).walk("a", "b", "c")
        assert visitor.post("c").status_code == 410
        with shop.app.test_request_context("/a"):
            shop.fsm.reset()
    assert set(heard) == {0, 1, 2, 3, 4, 9}
    assert all(f"receiver {number} is down" in caplog.text for number in range(5))


def test_a_muted_signal_is_not_heard() -> None:
    """As blinker has it."""
    shop = Shop("session", {})
    visitor, heard = Visitor(shop.app), Heard(shop)
    with heard.stack, transitioned.muted():
        visitor.send("a")
    assert heard.signals == []


def test_a_hook_that_resets_answers_a_double_click_as_the_first(store: str) -> None:
    """Both were sent before the answer came."""
    shop = Shop(store, {"b": lambda flow, result: flow.reset()})
    visitor = Visitor(shop.app)
    token, cookie = visitor.token("a"), visitor.cookie
    assert visitor.post("a", {}, token).location == "/a"
    visitor.cookie = cookie
    assert visitor.post("a", {}, token).location == "/a"
    assert shop.ran == 1


def test_an_edge_with_once_whose_hook_moves_on_is_answered_alike(
    fresh_store: Callable[[str], str],
) -> None:
    """The view that charges a card runs once, and both clicks end at the same page."""
    app = flask_app(config_for(fresh_store("sqlite")))
    machine = Machine("m", [Transition("a", "b", once=True, hooks=[on]), ("b", "c")])
    fsm = FlaskFSM(app, machine)
    prepare(app, fsm)
    for page in machine.states:
        view = fsm.check(state=page)(
            lambda: show("x", fsm) if request.method == "GET" else fsm.advance()
        )
        app.add_url_rule(f"/{page}", page, view, methods=["GET", "POST"])
    visitor = Visitor(app)
    token = visitor.token("a")
    assert [visitor.post("a", {}, token).location for _ in range(2)] == ["/c", "/c"]
