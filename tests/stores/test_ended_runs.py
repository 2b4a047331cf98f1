"""An old cookie brings no run back, though the cache has dropped the flow since."""

from __future__ import annotations

import secrets
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from flask_fsm.stores.ended_runs import MAX_RUN, EndedRun, EndedRuns, Ending

from ..apps import TO_REVIEW, Shop, Visitor, config_for

MakeShop = Callable[..., Shop]


def crowd(shop: Shop, count: int) -> None:
    """Have so many new visitors send one form each, which fills the cache with their flows."""
    client = shop.app.test_client(use_cookies=False)
    for _ in range(count):
        assert client.post("/cart", data={"item": "x"}).status_code == 303


def small_shop() -> Shop:
    """A shop that caches ten flows."""
    return Shop({**config_for("session"), "FSM_CACHE_SIZE": 10})


def with_reset(shop: Shop) -> Shop:
    """Add a view that resets the flow."""

    @shop.app.get("/over")
    def over() -> str:
        shop.fsm.reset()
        return "over"

    return shop


def finish(shop: Shop, visitor: Visitor) -> None:
    visitor.walk("review")


def reset(shop: Shop, visitor: Visitor) -> None:
    """Start anew, by a view that does so."""
    assert visitor.open("over").status_code == 200


def replace(shop: Shop, visitor: Visitor) -> None:
    """Finish the run and begin the next one."""
    visitor.walk("review", "cart")


@pytest.mark.parametrize("end", [finish, reset, replace])
def test_a_cookie_from_before_the_end_brings_no_run_back(
    end: Callable[[Shop, Visitor], None],
) -> None:
    """The form on the last page is refused: the order is made once."""
    store = with_reset(small_shop())
    visitor = store.visitor().walk(*TO_REVIEW)
    token, old = visitor.token("review"), visitor.cookie
    end(store, visitor)
    made = len(store.orders)
    crowd(store, 30)
    replay = store.visitor()
    replay.cookie = old
    answer = replay.post("review", {}, token)
    assert answer.status_code == 410
    assert "no longer stored" not in answer.text
    assert ("already been completed" in answer.text) == (end is finish)
    assert replay.open("review").status_code == 303
    assert len(store.orders) == made


def test_ten_thousand_new_visitors_bring_no_old_cookie_back(shop: MakeShop) -> None:
    """With the usual size of the cache, which so many flows push the run out of."""
    store = shop()
    visitor = store.visitor().walk(*TO_REVIEW)
    token, old = visitor.token("review"), visitor.cookie
    visitor.walk("review")
    crowd(store, 10_400)
    replay = store.visitor()
    replay.cookie = old
    assert replay.post("review", {}, token).status_code == 410
    assert len(store.orders) == 1


def test_the_newest_cookie_goes_on_though_its_flow_was_dropped() -> None:
    """Only what is over is refused: the end is shown again, and the next run goes on."""
    store = small_shop()
    visitor = store.visitor().walk(*TO_REVIEW, "review")
    crowd(store, 30)
    assert visitor.see("done")["page"] == "done"
    visitor.walk("cart")
    crowd(store, 30)
    visitor.walk("address", "delivery", "payment", "review")
    assert len(store.orders) == 2


@pytest.mark.parametrize("kind", ["session", "sqlite", "redis"])
def test_a_reset_of_a_run_that_never_moved_leaves_no_record(
    shop: MakeShop, fresh_store: Callable[[str], str], kind: str
) -> None:
    """So nobody fills the cache or the server by resetting what is blank."""
    url = kind if kind == "session" else fresh_store(kind)
    store = with_reset(shop(url))
    visitor = store.visitor()
    for _ in range(5):
        visitor.see("cart")
        assert visitor.open("over").status_code == 200
    assert len(cache_of(store)) == records_on(url) == 0
    visitor.walk("cart")
    assert visitor.open("over").status_code == 200
    assert (len(cache_of(store)) if kind == "session" else records_on(url)) == 1


def records_on(url: str) -> int:
    """Count the flows on a server."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return sum(1 for key in client.scan_iter() if client.type(key) == b"hash")
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            return int(database.execute("SELECT count(*) FROM fsm_flow").fetchone()[0])
    return 0


def cache_of(shop: Shop) -> Any:
    """The cache of the app."""
    return shop.app.extensions["fsm"].cache


# -- the table ------------------------------------------------------------------------------------


def test_a_million_flows_are_remembered_in_sixteen_mebibytes() -> None:
    """Of a sample of those that were noted first, hardly one is forgotten."""
    runs = EndedRuns()
    first = [secrets.token_urlsafe(16) for _ in range(5_000)]
    for root in first:
        runs.note(root, 3, Ending.FINISHED)
    for number in range(200_000):  # as many as fill a fifth of it
        runs.note(f"{number:022}", 0, Ending.RESET)
    found = [runs.find(root) for root in first]
    assert found.count(EndedRun(3, Ending.FINISHED)) == len(first)
    assert sys.getsizeof(runs._table) < 17 << 20


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40_000), st.sampled_from(Ending)))
)
def test_the_table_remembers_what_was_noted_last(noted: list[tuple[str, int, Ending]]) -> None:
    """Of each flow, and nothing of others."""
    runs, model = SHARED, dict[str, EndedRun]()
    prefix = secrets.token_urlsafe(16)
    for name, run, ending in noted:
        runs.note(prefix + name, run, ending)
        model[name] = EndedRun(min(run, MAX_RUN), ending)
    assert {name: runs.find(prefix + name) for name in model} == model
    assert runs.find(prefix) is None


SHARED = EndedRuns()
