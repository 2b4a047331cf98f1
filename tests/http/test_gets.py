"""What a GET gets: each row of the contract's second table, for every client."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import request
from werkzeug.test import TestResponse

from flask_fsm import FlaskFSM, Machine, Transition
from flask_fsm.testing import frozen_clock

from ..apps import (
    ANSWERS,
    ASKING,
    SECRET,
    TO_REVIEW,
    Shop,
    Visitor,
    assert_moved,
    assert_private,
    assert_refused,
    config_for,
    every_store,
    flask_app,
    notices,
    seen,
    show,
)

pytestmark = pytest.mark.parametrize("asking", ASKING)


def assert_sent_on(response: TestResponse, asking: str, location: str) -> None:
    """The page was not shown, and the client is told where to go instead."""
    if asking == "htmx":
        assert response.status_code == 204
        assert response.headers["HX-Redirect"] == location
    else:
        assert response.status_code == 303
        assert response.location == location
    if asking == "json":
        assert response.content_type == "application/problem+json"
        assert response.json is not None
        assert response.json["location"] == location
    assert_private(response)


# -- pages on the path ----------------------------------------------------------------------


def test_a_page_on_the_path_opens_and_does_not_advance(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """Every page that was passed opens again, as often as one likes, and nothing moves."""
    visitor.walk(*TO_REVIEW)
    before = visitor.see("review")
    for page in (*TO_REVIEW, "review", "cart"):
        for _ in range(2):
            response = visitor.open(page, asking)
            assert response.status_code == 200
            assert_private(response)
            after = seen(response)
            for name in ("rev", "state", "path", "data", "drafts"):
                assert after[name] == before[name]
            assert after["answers"] == ANSWERS.get(page)


def test_a_get_with_a_destination_does_not_advance(visitor: Visitor, asking: str) -> None:
    """`?to=` in a link fills no form: the page is shown, and the flow stays."""
    assert visitor.open("cart?to=address", asking).status_code == 200
    assert visitor.see("cart")["rev"] == 0


def test_advance_during_a_get_is_an_error_of_the_app(asking: str) -> None:
    """A view that advances while a GET is served is told so: a GET never advances."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(app, Machine("eager", [("a", "b")]))
    app.route("/a", endpoint="a")(fsm.check()(lambda: fsm.advance("b")))
    app.route("/b", endpoint="b")(fsm.check()(lambda: "b"))
    with pytest.raises(Exception, match="never advances"):
        Visitor(app).open("a", asking)
    app.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False)
    assert Visitor(app).open("a", asking).status_code == 500


# -- pages that are not ---------------------------------------------------------------------


def test_a_page_not_on_the_path_does_not_run_and_sends_to_the_furthest(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """A deep link leads to the furthest page that may be opened, and its view does not run."""
    visitor.walk("cart")
    stored.ran.clear()
    for page in ("payment", "review", "done", "pickup"):
        assert_sent_on(visitor.open(page, asking), asking, "/address")
    assert stored.ran == []


def test_a_deep_link_tells_why_on_the_next_page(visitor: Visitor, asking: str) -> None:
    """A person who is sent elsewhere finds one notice there; programs get none."""
    visitor.open("payment", asking)
    told = notices(visitor.open("cart"))
    assert len(told) == (1 if asking == "html" else 0)
    assert notices(visitor.open("cart")) == []


def test_a_head_of_a_page_not_on_the_path_is_sent_on_too(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """HEAD is judged as GET is."""
    response = visitor.client.head("/payment", headers=ASKING[asking])
    assert response.status_code in (303, 204)
    assert visitor.client.head("/cart", headers=ASKING[asking]).status_code == 200
    assert ("HEAD", "payment") not in stored.ran


# -- edges that a GET takes -----------------------------------------------------------------


@pytest.fixture
def tour() -> Visitor:
    """hall -> room -> attic, where a GET of room or cellar takes the edge to it."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(
        app,
        Machine(
            "tour",
            [
                Transition("hall", "room", visit=True),
                Transition("hall", "cellar", visit=True, when=lambda flow: False),
                ("room", "attic"),
                Transition("attic", "tower", visit=True),
                ("cellar", "tower"),
            ],
        ),
    )
    for page in ("hall", "room", "cellar", "attic", "tower"):

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            return fsm.advance("attic") if request.method == "POST" else show(page, fsm)

    return Visitor(app)


def test_a_get_takes_an_edge_that_may_be_visited(tour: Visitor, asking: str) -> None:
    """A link along an edge with visit=True moves the flow, and the page is shown at once."""
    response = tour.open("room", asking)
    assert response.status_code == 200
    assert (seen(response)["state"], seen(response)["rev"]) == ("room", 1)
    assert seen(tour.open("room", asking))["rev"] == 1


# Of Chromium, Turbo, Safari, Firefox and older browsers, and of htmx's extension `preload`.
PREFETCHES = [
    ("Sec-Purpose", "prefetch"),
    ("Sec-Purpose", "prefetch;prerender"),
    ("X-Sec-Purpose", "prefetch"),
    ("Purpose", "prefetch"),
    ("Purpose", "Prefetch"),
    ("X-Purpose", "preview"),
    ("X-Moz", "prefetch"),
    ("HX-Preloaded", "true"),
]


def test_a_head_or_a_prefetch_takes_no_edge(tour: Visitor, asking: str) -> None:
    """A browser that looks ahead does not walk ahead."""
    for response in (
        tour.client.head("/room", headers=ASKING[asking]),
        tour.client.options("/room", headers=ASKING[asking]),
        *(tour.open("room", asking, headers={name: value}) for name, value in PREFETCHES),
    ):
        assert response.status_code != 200 or response.data == b""
        then = tour.open("hall")
        assert (seen(then)["rev"], notices(then)) == (0, [])


def test_the_nearest_page_of_the_path_with_such_an_edge_is_left(tour: Visitor, asking: str) -> None:
    """The edge may leave an earlier page of the path; then the path is cut there."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(
        app,
        Machine(
            "tour",
            [
                ("hall", "room"),
                Transition("hall", "garden", visit=True),
                ("room", "attic"),
                ("attic", "garden"),
                ("garden", "out"),
            ],
        ),
    )
    for page in ("hall", "room", "attic", "garden", "out"):

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            to = {"hall": "room", "room": "attic"}.get(page)
            return fsm.advance(to) if request.method == "POST" else show(page, fsm)

    visitor = Visitor(app)
    visitor.post("hall")
    visitor.post("room")
    assert visitor.see("attic")["path"] == ["hall", "room", "attic"]
    after = seen(visitor.open("garden", asking))
    assert after["path"] == ["hall", "garden"]
    assert after["rev"] == 3


def test_a_guard_holds_for_visits_too(tour: Visitor, asking: str) -> None:
    """A GET along an edge whose guard refuses is sent on like any other."""
    assert_sent_on(tour.open("cellar", asking), asking, "/hall")
    assert tour.see("hall")["rev"] == 0


def test_a_visit_far_ahead_is_not_taken(tour: Visitor, asking: str) -> None:
    """An edge with visit=True from a page that was not reached leads nowhere."""
    assert_sent_on(tour.open("tower", asking), asking, "/hall")


# -- after the end --------------------------------------------------------------------------


@every_store
def test_the_final_page_opens_again_and_again(visitor: Visitor, asking: str) -> None:
    """After the end the final page stays open."""
    visitor.walk(*TO_REVIEW, "review")
    for _ in range(3):
        response = visitor.open("done", asking)
        assert response.status_code == 200
        assert_private(response)
        assert seen(response)["finished"] is True


@every_store
def test_after_the_end_no_other_page_opens(visitor: Visitor, stored: Shop, asking: str) -> None:
    """All pages but the final and the initial one lead to the final page."""
    visitor.walk(*TO_REVIEW, "review")
    stored.ran.clear()
    for page in (*TO_REVIEW[1:], "review"):
        assert_sent_on(visitor.open(page, asking), asking, "/done")
    assert stored.ran == []


@every_store
def test_the_initial_page_after_the_end_shows_a_blank_run(visitor: Visitor, asking: str) -> None:
    """The initial page is blank again, while the final page of the finished run still opens."""
    visitor.walk(*TO_REVIEW)
    finished = visitor.see("review")["id"]
    visitor.walk("review")
    blank = seen(visitor.open("cart", asking))
    assert blank["path"] == ["cart"]
    assert (blank["rev"], blank["data"], blank["drafts"], blank["answers"]) == (0, {}, {}, None)
    assert blank["id"] != finished
    assert blank["id"].startswith(finished)
    assert visitor.see("done")["id"] == finished
    assert visitor.see("cart")["id"] == blank["id"]


@every_store
@pytest.mark.parametrize("with_token", [True, False], ids=["token", "none"])
def test_the_first_form_after_the_end_replaces_the_finished_run(
    visitor: Visitor, asking: str, with_token: bool
) -> None:
    """A POST on the blank initial page, with its token or none, begins the next run."""
    visitor.walk(*TO_REVIEW, "review")
    token = visitor.token("cart") if with_token else None
    assert_moved(visitor.post("cart", {"item": "a rug"}, token, asking), asking, "/address")
    after = visitor.see("address")
    assert (after["rev"], after["data"]) == (1, {"cart": {"item": "a rug"}})
    assert_sent_on(visitor.open("done", asking), asking, "/address")


def test_with_a_manual_reset_the_initial_page_stays_closed(asking: str) -> None:
    """With reset="manual" nothing but fsm.reset() begins anew."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(app, Machine("once", [("a", "b")], reset="manual"))
    for page in "ab":

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            return fsm.advance("b") if request.method == "POST" else show(page, fsm)

    @app.post("/again")
    def again() -> str:
        fsm.reset()
        return "ok"

    visitor = Visitor(app)
    assert visitor.post("a").status_code == 303
    assert_sent_on(visitor.open("a", asking), asking, "/b")
    assert_refused(visitor.post("a", {}, None, asking), asking, 410)
    assert visitor.post("again").text == "ok"
    assert visitor.see("a")["rev"] == 0
    assert_sent_on(visitor.open("b", asking), asking, "/a")


# -- expiry ---------------------------------------------------------------------------------


@every_store
def test_an_expired_run_leads_to_the_first_page_with_a_notice(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """A page opened after FSM_FLOW_LIFETIME leads to the first, which says why and is blank."""
    visitor.walk("cart", "address")
    stored.ran.clear()
    with frozen_clock(stored.app) as clock:
        clock.tick(7 * 24 * 3600 + 60)
        assert_sent_on(visitor.open("delivery", asking), asking, "/cart")
        assert stored.ran == []
        first = visitor.open("cart")
    assert len(notices(first)) == (1 if asking == "html" else 0)
    assert (seen(first)["rev"], seen(first)["answers"]) == (0, None)


def test_the_lifetime_counts_from_the_last_step(shop: Callable[..., Shop], asking: str) -> None:
    """FSM_FLOW_LIFETIME may be a timedelta, and each step begins it again."""
    made = Shop({**shop("session").app.config, "FSM_FLOW_LIFETIME": timedelta(minutes=10)})
    visitor = made.visitor()
    with frozen_clock(made.app) as clock:
        for page in TO_REVIEW:
            visitor.walk(page)
            clock.tick(599)
        assert visitor.open("review", asking).status_code == 200
        clock.tick(2)
        assert_sent_on(visitor.open("review", asking), asking, "/cart")


def test_without_a_lifetime_nothing_expires(shop: Callable[..., Shop], asking: str) -> None:
    """FSM_FLOW_LIFETIME = None keeps runs for ever."""
    made = Shop({**shop("session").app.config, "FSM_FLOW_LIFETIME": None})
    visitor = made.visitor().walk("cart")
    with frozen_clock(made.app, at=9e9):
        assert visitor.open("address", asking).status_code == 200


def test_an_evicted_run_leads_to_the_first_page(asking: str) -> None:
    """A GET of a run that memory:// has dropped leads to the first page, not to an error."""
    made = Shop(
        {"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": "memory://", "FSM_CACHE_SIZE": 1}
    )
    visitor = made.visitor().walk("cart", "address")
    made.visitor().walk("cart")
    made.visitor().walk("cart")
    assert_sent_on(visitor.open("delivery", asking), asking, "/cart")
    assert visitor.see("cart")["rev"] == 0


# -- back policies --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("back", "open_pages"),
    [("preserve", ["a", "b"]), ("discard", ["a"]), ("invalidate", [])],
)
def test_the_back_policy_says_which_pages_open_again(
    asking: str, back: str, open_pages: list[str]
) -> None:
    """What was left by "discard" is closed; by "invalidate", so is all before it."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(app, Machine("back", [("a", "b"), Transition("b", "c", back=back), ("c", "d")]))
    for page in "abcd":

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            if request.method == "POST":
                return fsm.advance(data={"from": page})
            return show(page, fsm)

    visitor = Visitor(app)
    stale = dict.fromkeys("ab", "")
    for page in "ab":
        stale[page] = visitor.token(page)
        assert visitor.post(page, {"n": "1"}, stale[page]).status_code == 303
    for page in "ab":
        if page in open_pages:
            assert visitor.open(page, asking).status_code == 200
        else:
            assert_sent_on(visitor.open(page, asking), asking, "/c")
            response = visitor.post(page, {"n": "2"}, stale[page], asking)
            assert_refused(response, asking, 409)
            assert "Send again" not in response.text
    assert visitor.see("c")["data"].keys() == {"a", "b"}
