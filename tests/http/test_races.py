"""Many requests of one flow at once, in one process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from unittest.mock import patch

import pytest
from werkzeug.test import TestResponse

from flask_fsm.stores import cache

from ..apps import ANSWERS, TO_REVIEW, Shop, Visitor

THREADS = 8


def at_once(*calls: Callable[[], TestResponse]) -> list[TestResponse]:
    """Make all calls at the same moment, each in a thread of its own.

    However slow the machine, none of them is told that too many others are waiting.
    """
    start = threading.Barrier(len(calls))
    answers: dict[int, TestResponse] = {}

    def run(number: int, call: Callable[[], TestResponse]) -> None:
        start.wait(timeout=30)
        answers[number] = call()

    threads = [
        threading.Thread(target=run, args=(number, call)) for number, call in enumerate(calls)
    ]
    with patch.object(cache, "GRACE", 60):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert len(answers) == len(calls)
    return [answers[number] for number in range(len(calls))]


def tabs(visitor: Visitor, shop: Shop, number: int = THREADS) -> list[Visitor]:
    """That many tabs of one browser, with the same cookie."""
    found = [shop.visitor() for _ in range(number)]
    for tab in found:
        tab.cookie = visitor.cookie
    return found


def slow(shop: Shop) -> Counter[str]:
    """Let views take a while, and count how many run at the same time."""
    seen: Counter[str] = Counter()
    lock = threading.Lock()
    running = [0]

    def wait(page: str) -> None:
        with lock:
            running[0] += 1
            seen["most"] = max(seen["most"], running[0])
            seen["all"] += 1
        time.sleep(0.01)
        with lock:
            running[0] -= 1

    shop.before_advance = wait
    return seen


def statuses(answers: list[TestResponse]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


@pytest.fixture(params=["session", "memory://"])
def store(request: pytest.FixtureRequest) -> str:
    """The stores whose cache lives in this process."""
    return str(request.param)


def test_of_many_forms_at_one_rev_exactly_one_is_taken(visitor: Visitor, stored: Shop) -> None:
    """Forms with tokens of their own, sent at once: one moves the flow, the others conflict."""
    visitor.walk("cart")
    racers = tabs(visitor, stored)
    tokens = [tab.token("address") for tab in racers]
    assert len(set(tokens)) == THREADS
    seen = slow(stored)

    def send(number: int) -> Callable[[], TestResponse]:
        form = {"way": "delivery", "street": str(number)}
        return lambda: racers[number].post("address", form, tokens[number])

    answers = at_once(*map(send, range(THREADS)))
    assert statuses(answers) == {303: 1, 409: THREADS - 1}
    assert seen == {"most": 1, "all": 1}
    winner = next(number for number, answer in enumerate(answers) if answer.status_code == 303)
    after = visitor.see("delivery")
    assert after["rev"] == 2
    assert after["data"]["address"]["street"] == str(winner)


def test_the_same_form_many_times_at_once_is_taken_once_and_told_to_all(
    visitor: Visitor, stored: Shop
) -> None:
    """An impatient hand on the button: all clicks lead to the next page, one of them moves."""
    visitor.walk("cart")
    token = visitor.token("address")
    racers = tabs(visitor, stored)
    seen = slow(stored)
    answers = at_once(
        *(lambda tab=tab: tab.post("address", ANSWERS["address"], token) for tab in racers)
    )
    assert {(answer.status_code, answer.location) for answer in answers} == {(303, "/delivery")}
    assert seen["all"] == 1
    assert visitor.see("delivery")["rev"] == 2


def test_forms_without_token_at_once_move_once(visitor: Visitor, stored: Shop) -> None:
    """Without tokens, too, one is taken and the others come too late."""
    visitor.walk("cart")
    seen = slow(stored)
    answers = at_once(
        *(lambda tab=tab: tab.post("address", ANSWERS["address"]) for tab in tabs(visitor, stored))
    )
    assert statuses(answers) == {303: 1, 409: THREADS - 1}
    assert seen["all"] == 1


def test_the_final_form_at_once_makes_one_order(visitor: Visitor, stored: Shop) -> None:
    """Eight last clicks at once are one order."""
    visitor.walk(*TO_REVIEW)
    token = visitor.token("review")
    slow(stored)
    answers = at_once(
        *(lambda tab=tab: tab.post("review", {}, token) for tab in tabs(visitor, stored))
    )
    assert {answer.location for answer in answers} == {"/done"}
    assert len(stored.orders) == 1


@pytest.mark.parametrize("with_token", [True, False], ids=["token", "none"])
def test_of_four_first_forms_of_the_next_run_one_is_taken(
    visitor: Visitor, stored: Shop, with_token: bool
) -> None:
    """After the end four tabs begin the next run at once: one begins it."""
    visitor.walk(*TO_REVIEW, "review")
    racers = tabs(visitor, stored, 4)
    tokens = [tab.token("cart") if with_token else None for tab in racers]
    seen = slow(stored)
    answers = at_once(
        *(
            lambda tab=tab, token=token, n=n: tab.post("cart", {"item": str(n)}, token)
            for n, (tab, token) in enumerate(zip(racers, tokens, strict=True))
        )
    )
    assert statuses(answers) == {303: 1, 409: 3}
    assert seen == {"most": 1, "all": 1}
    assert visitor.see("address")["rev"] == 1


def test_of_many_first_forms_of_a_new_visitor_one_is_taken(visitor: Visitor, stored: Shop) -> None:
    """The very first page, sent from many tabs at once."""
    token = visitor.token("cart")
    racers = tabs(visitor, stored)
    tokens = [token, *(tab.token("cart") for tab in racers[1:])]
    seen = slow(stored)
    answers = at_once(
        *(
            lambda tab=tab, token=token, n=n: tab.post("cart", {"item": str(n)}, token)
            for n, (tab, token) in enumerate(zip(racers, tokens, strict=True))
        )
    )
    assert statuses(answers) == {303: 1, 409: THREADS - 1}
    assert seen == {"most": 1, "all": 1}


def test_the_forms_of_different_visitors_do_not_wait_for_each_other(stored: Shop) -> None:
    """Only the forms of one flow are served one after another."""
    visitors = [stored.visitor() for _ in range(4)]
    tokens = [visitor.token("cart") for visitor in visitors]
    together = threading.Barrier(4)
    stored.before_advance = lambda page: together.wait(timeout=20) and None
    answers = at_once(
        *(
            lambda v=v, token=token: v.post("cart", {}, token)
            for v, token in zip(visitors, tokens, strict=True)
        )
    )
    assert statuses(answers) == {303: 4}


def test_pages_open_while_a_form_is_served(visitor: Visitor, stored: Shop) -> None:
    """A GET does not wait for a slow POST of the same flow, and sees nothing uncommitted."""
    visitor.walk("cart")
    (tab,) = tabs(visitor, stored, 1)
    serving, finish = threading.Event(), threading.Event()

    def wait(page: str) -> None:
        serving.set()
        assert finish.wait(timeout=20)

    stored.before_advance = wait
    answers: list[TestResponse] = []
    thread = threading.Thread(
        target=lambda: answers.append(tab.post("address", ANSWERS["address"]))
    )
    thread.start()
    try:
        assert serving.wait(timeout=20)
        during = visitor.see("address")
        assert (during["rev"], during["data"].keys()) == (1, {"cart"})
    finally:
        finish.set()
        thread.join(timeout=20)
    assert answers[0].status_code == 303
    assert visitor.see("delivery")["rev"] == 2


def test_the_wait_for_a_slow_form_is_bounded(shop: Callable[..., Shop], store: str) -> None:
    """After FSM_LOCK_TIMEOUT seconds a second form gets a 409 with Retry-After."""
    made = Shop({**shop(store).app.config, "FSM_LOCK_TIMEOUT": 0.05})
    visitor = made.visitor().walk("cart")
    (tab,) = tabs(visitor, made, 1)
    serving, finish = threading.Event(), threading.Event()

    def wait(page: str) -> None:
        serving.set()
        assert finish.wait(timeout=20)

    made.before_advance = wait
    answers: list[TestResponse] = []
    thread = threading.Thread(
        target=lambda: answers.append(tab.post("address", ANSWERS["address"]))
    )
    thread.start()
    try:
        assert serving.wait(timeout=20)
        response = visitor.post("address", ANSWERS["address"], None, "json")
        assert response.status_code == 409
        assert response.json["reason"] == "busy"
        assert response.headers["Retry-After"] == "1"
    finally:
        finish.set()
        thread.join(timeout=20)
    assert answers[0].status_code == 303


def test_a_view_that_crashes_gives_its_turn_back(visitor: Visitor, stored: Shop) -> None:
    """After a 500 the next form of the flow is served at once, and nothing had changed."""
    visitor.walk("cart")

    def crash(page: str) -> None:
        raise RuntimeError("the view crashed")

    stored.before_advance = crash
    for _ in range(3):
        with pytest.raises(RuntimeError, match="the view crashed"):
            visitor.post("address", ANSWERS["address"])
    stored.before_advance = lambda page: None
    assert visitor.see("address")["rev"] == 1
    assert visitor.post("address", ANSWERS["address"]).status_code == 303
