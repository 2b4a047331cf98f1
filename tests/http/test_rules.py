"""Rules over HTTP: what they refuse, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import request

from flask_fsm import FlaskFSM, Machine, Transition, ValidationFailed

from ..apps import FEW_STORES, Visitor, config_for, flask_app, show, typed

on_stores = pytest.mark.parametrize("store", FEW_STORES)


def shop(store: str, machine: Machine, advance: Callable[[FlaskFSM], Any] | None = None) -> Visitor:
    """A visitor of the pages of `machine`."""
    app = flask_app(config_for(store))
    app.config["PROPAGATE_EXCEPTIONS"] = False
    fsm = FlaskFSM(app, machine)

    def page() -> Any:
        if request.method == "GET":
            return show(fsm.current, fsm)
        return fsm.advance(data=typed()) if advance is None else advance(fsm)

    for state in machine.states:
        view = fsm.check(state=state)(page)
        app.add_url_rule(f"/{state}", state, view, methods=["GET", "POST"])
    app.extensions["test_fsm"] = fsm
    return Visitor(app)


def extension(visitor: Visitor) -> Any:
    return visitor.app.extensions["test_fsm"]


@on_stores
@pytest.mark.parametrize(
    "refusal", [ValidationFailed, ValidationFailed(""), ValidationFailed({}), ValidationFailed([])]
)
@pytest.mark.parametrize("kind", ["validators", "pre_transition"])
def test_a_rule_that_raises_without_a_text_is_a_422_with_one(
    store: str, refusal: Any, kind: str
) -> None:
    """The visitor stays, and reads that the answers were not accepted."""

    def rule(flow: Any, data: dict[str, Any]) -> None:
        raise refusal

    visitor = shop(store, Machine("m", [Transition("a", "b", **{kind: [rule]})]))
    response = visitor.send("a", {"x": "1"})
    assert response.status_code == 422
    assert "These answers were not accepted." in response.text
    assert visitor.see("a")["rev"] == 0


@on_stores
def test_a_value_error_of_a_pre_transition_is_a_422_with_its_text(store: str) -> None:
    """As one of a validator is."""

    def rule(flow: Any, data: dict[str, Any]) -> None:
        raise ValueError("There is no such street.")

    visitor = shop(store, Machine("m", [Transition("a", "b", pre_transition=[rule])]))
    response = visitor.send("a", {"x": "1"}, "json")
    assert response.status_code == 422
    assert "There is no such street." in response.text
    assert visitor.see("a")["rev"] == 0


@on_stores
@pytest.mark.parametrize("kind", ["when", "validators", "pre_transition"])
@pytest.mark.parametrize("by", ["flow", "fsm", "work"])
def test_a_reset_in_a_rule_ends_no_run(store: str, kind: str, by: str) -> None:
    """By the flow of the rule, or by the extension: refused as a move is."""

    def rule(flow: Any, data: Any = None) -> bool:
        fsm = extension(visitor)
        {"flow": flow, "fsm": fsm, "work": fsm.flow}[by].reset()
        return True

    visitor = shop(store, Machine("m", [("a", "b"), Transition("b", "c", **{kind: [rule]})]))
    visitor.walk("a")
    id = visitor.see("b")["id"]
    assert visitor.send("b", {"x": "1"}).status_code == (409 if kind == "when" else 500)
    told = visitor.see("b")
    assert (told["id"], told["rev"], told["path"]) == (id, 1, ["a", "b"])


@on_stores
@pytest.mark.parametrize("kind", ["when", "validators", "pre_transition"])
def test_a_rule_may_ask_whether_another_page_can_be_reached(store: str, kind: str) -> None:
    """By the flow that it gets, and by the extension."""
    asked = []

    def rule(flow: Any, data: Any = None) -> bool:
        fsm = extension(visitor)
        asked.append((flow.can_transition("c"), fsm.can_transition("c"), len(fsm.why_not("a"))))
        return True

    machine = Machine(
        "m", [Transition("a", "b", **{kind: [rule]}), ("a", "c"), ("b", "c")], initial="a"
    )
    visitor = shop(store, machine, lambda fsm: fsm.advance("b", data=typed()))
    assert visitor.send("a", {"x": "1"}).location == "/b"
    assert asked == [(True, True, 1)]


@on_stores
@pytest.mark.parametrize("more", [{}, {"validators": [lambda flow, data: None]}])
def test_guards_are_asked_once_where_they_choose_the_page(store: str, more: dict[str, Any]) -> None:
    """A view that names no target: the guards of its edges decide, and are not asked again."""
    asked = {"b": 0, "c": 0}

    def guard(name: str, answer: bool) -> Callable[[Any], bool]:
        def ask(flow: Any) -> bool:
            asked[name] += 1
            return answer and flow.data["a"] == {"x": "1"}

        return ask

    edges = [
        Transition("a", "b", when=guard("b", True), **more),
        Transition("a", "c", when=guard("c", False), **more),
    ]
    visitor = shop(store, Machine("m", edges, final=["b", "c"]))
    token = visitor.token("a")
    assert visitor.post("a", {"x": "1"}, token).location == "/b"
    assert asked == {"b": 1, "c": 1}


@on_stores
def test_a_guard_is_asked_again_about_what_a_pre_transition_has_added(store: str) -> None:
    """It may not accept that."""
    edges = [
        Transition(
            "a",
            "b",
            when=lambda flow: "more" not in flow.data["a"],
            pre_transition=[lambda flow, data: data.update(more=1)],
        ),
        Transition("a", "c", when=lambda flow: False),
    ]
    visitor = shop(store, Machine("m", edges, final=["b", "c"]))
    assert visitor.send("a", {"x": "1"}).status_code == 409
