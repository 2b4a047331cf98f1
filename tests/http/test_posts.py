"""What a POST gets: each row of the contract's first table, in its order, for every client."""

from __future__ import annotations

import io
import random
import string
from collections.abc import Callable

import pytest
from flask import Flask, render_template_string, request

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
    assert_refused,
    every_store,
    seen,
    token_in,
)

pytestmark = pytest.mark.parametrize("asking", ASKING)


# -- 400: what can't be read ----------------------------------------------------------------


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c.d", "é", "\x00", "." * 9, "x" * 5_000], ids=lambda text: text[:9]
)
def test_a_token_that_was_not_made_here_is_400(visitor: Visitor, asking: str, token: str) -> None:
    """A malformed or empty token is a bad request, on the current page too, and changes nothing."""
    visitor.walk("cart")
    before = visitor.see("address")
    assert_refused(visitor.post("address", ANSWERS["address"], token, asking), asking, 400)
    assert visitor.see("address") == before


def test_a_token_signed_with_another_key_is_400(
    shop: Callable[..., Shop], visitor: Visitor, asking: str
) -> None:
    """Another site's token is a bad request."""
    stranger = shop("session")
    stranger.app.secret_key = "another key"
    token = stranger.visitor().token("cart")
    assert_refused(visitor.post("cart", {}, token, asking), asking, 400, "bad_token")
    assert visitor.see("cart")["rev"] == 0


def test_a_token_with_one_character_changed_is_400(visitor: Visitor, asking: str) -> None:
    """Whatever character of a token is changed, it is a bad request."""
    token = visitor.token("cart")
    last = len(token) - 1
    others = [("A" if token[place] != "A" else "B", place) for place in range(0, last, 5)]
    # Of the last character not all bits count; another one with the same bits is a change too.
    others += [(char, last) for char in string.ascii_letters if char != token[last]]
    for char, place in others:
        other = token[:place] + char + token[place + 1 :]
        assert_refused(visitor.post("cart", {}, other, asking), asking, 400, "bad_token")


@pytest.mark.parametrize("junk", ["=", "==", "\xa0", "é", " ", "\n", "!", "."])
def test_a_token_with_junk_in_it_is_400(shop: Callable[..., Shop], asking: str, junk: str) -> None:
    """A token is taken as it was signed, with nothing before, in or after it."""
    visitor = shop("session").visitor()
    token = visitor.token("cart")
    for other in (token + junk, junk + token, token[:-5] + junk + token[-5:]):
        assert_refused(visitor.post("cart", {}, other, asking), asking, 400, "bad_token")


def test_a_destination_that_is_no_state_is_400(visitor: Visitor, asking: str) -> None:
    """A `to` that names no state is a bad request, whether in the form or in the query."""
    visitor.walk("cart")
    for data, page in [({"to": "moon"}, "address"), ({}, "address?to=moon")]:
        assert_refused(visitor.post(page, data, None, asking), asking, 400, "unknown_state")
        token = visitor.token("address")
        assert_refused(visitor.post(page, data, token, asking), asking, 400, "unknown_state")
    assert visitor.see("address")["rev"] == 1


def test_a_field_called_to_means_nothing_where_the_view_names_the_target(asking: str) -> None:
    """A form may ask for a recipient by that name, whatever is typed there."""
    app = Flask("letters")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("letters", [("write", "read"), ("write", "burn")]))

    @app.route("/write", methods=["GET", "POST"])
    @fsm.check()
    def write() -> object:
        if request.method == "GET":
            return "write"
        return fsm.advance("read", data={"to": request.form["to"]})

    for page in ("read", "burn"):
        app.add_url_rule(f"/{page}", page, fsm.check()(lambda: fsm.flow.data["write"]))
    for typed in ("Ada", "burn", "write", "7"):
        visitor = Visitor(app)
        assert_moved(visitor.post("write", {"to": typed}, None, asking), asking, "/read", "read")
        assert visitor.open("read").json == {"to": typed}
    visitor = Visitor(app)
    response = visitor.post("write?to=burn", {"to": "Ada"}, None, asking)
    assert_moved(response, asking, "/read", "read")


@pytest.mark.parametrize("to", ["Ada", "b"])
def test_a_field_called_to_does_not_keep_a_form_from_being_shown_again(
    asking: str, to: str
) -> None:
    """Where the view finds its form not valid, it never asks for a target."""
    app = Flask("letters")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("letters", [("a", "b")]))

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        return ("not valid", 422) if request.method == "POST" else "a"

    app.add_url_rule("/b", "b", fsm.check()(lambda: "b"))
    assert Visitor(app).post("a", {"to": to}, None, asking).text == "not valid"


def test_a_form_without_token_is_400_where_one_is_required(
    shop: Callable[..., Shop], asking: str
) -> None:
    """FSM_REQUIRE_TOKEN refuses a POST without token on the current page too."""
    made = shop("session")
    made = Shop({**made.app.config, "FSM_REQUIRE_TOKEN": True})
    visitor = made.visitor()
    assert_refused(visitor.post("cart", {}, None, asking), asking, 400, "no_token")
    assert made.ran == []
    assert_moved(visitor.send("cart", {}, asking), asking, "/address", "address")


def test_bad_input_is_told_before_anything_else(visitor: Visitor, asking: str) -> None:
    """A bad token is 400 even where the page is not on the path, or the run has ended."""
    assert_refused(visitor.post("payment", {}, "x", asking), asking, 400)
    visitor.walk(*TO_REVIEW, "review")
    assert_refused(visitor.post("review", {}, "x", asking), asking, 400)


# -- 404: what isn't there, or isn't yours --------------------------------------------------


def orders_app(store: str = "session") -> Flask:
    """Two pages with an order's number in their URLs."""
    app = Flask("orders")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL=store)
    fsm = FlaskFSM(app, Machine("orders", [("items", "ship"), ("ship", "sent")]))
    ran: list[str] = []
    app.extensions["ran"] = ran

    for name, to in {"items": "ship", "ship": "sent", "sent": None}.items():

        @app.route(f"/<int:number>/{name}", methods=["GET", "POST"], endpoint=name)
        @fsm.check()
        def view(number: int, name: str = name, to: str | None = to) -> object:
            ran.append(name)
            if request.method == "POST":
                return fsm.advance(to, data={"number": number})
            return render_template_string(
                "{{ fsm.token() }} {{ name }} {{ n }}", name=name, n=number
            )

    return app


@pytest.mark.parametrize("address", ["session", "memory://"])
def test_other_url_arguments_than_those_of_the_path_are_404(asking: str, address: str) -> None:
    """A run of order 7 says nothing about order 8, so its pages of order 8 are not there."""
    app = orders_app(address)
    visitor = Visitor(app)
    token = visitor.token("7/items")
    assert_moved(visitor.post("7/items", {}, token, asking), asking, "/7/ship", "ship")
    token = visitor.token("7/ship")
    app.extensions["ran"].clear()
    for page in ("8/ship", "8/items"):
        assert_refused(visitor.post(page, {}, None, asking), asking, 404)
        assert_refused(visitor.post(page, {}, token, asking), asking, 404)
        assert_refused(visitor.open(page, asking), asking, 404)
    assert app.extensions["ran"] == []
    assert visitor.open("7/ship").status_code == 200


def test_404_comes_before_410_and_409(asking: str) -> None:
    """Other URL arguments are 404 even after the end of the run and with an old token."""
    visitor = Visitor(orders_app())
    old = visitor.token("7/items")
    visitor.post("7/items", {}, old)
    assert_refused(visitor.post("8/items", {"other": "body"}, old, asking), asking, 404)
    visitor.post("7/ship")
    assert_refused(visitor.post("8/sent", {}, None, asking), asking, 404)


def test_all_404_say_the_same(asking: str) -> None:
    """An order that isn't there and one that isn't yours look alike."""
    visitor = Visitor(orders_app())
    visitor.post("7/items")
    answers = {visitor.open(page, asking).text for page in ("8/ship", "9999/ship", "8/items")}
    assert len({text.replace("/8/", "/N/").replace("/9999/", "/N/") for text in answers}) == 1


# -- the same again -------------------------------------------------------------------------


@every_store
def test_the_same_form_again_has_one_effect_and_the_same_answer(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """A form sent twice with its token moves the flow once, and both are told the same place."""
    visitor.walk("cart")
    token = visitor.token("address")
    first = visitor.post("address", ANSWERS["address"], token, asking)
    stored.ran.clear()
    second = visitor.post("address", ANSWERS["address"], token, asking)
    for response in (first, second):
        assert_moved(response, asking, "/delivery", "delivery")
    assert stored.ran == []
    assert visitor.see("delivery")["rev"] == 2


@pytest.mark.parametrize("second", ASKING)
def test_a_repeated_form_is_answered_as_the_second_client_asks(
    visitor: Visitor, asking: str, second: str
) -> None:
    """The stored place is told in the way of the request that asks again."""
    token = visitor.token("cart")
    assert_moved(visitor.post("cart", {}, token, asking), asking, "/address")
    assert_moved(visitor.post("cart", {}, token, second), second, "/address")


@every_store
def test_a_form_sent_again_much_later_still_tells_its_own_place(
    visitor: Visitor, asking: str
) -> None:
    """The first form sent again after two more steps leads to the page it led to then."""
    token = visitor.token("cart")
    visitor.post("cart", ANSWERS["cart"], token)
    visitor.walk("address", "delivery")
    before = visitor.see("payment")
    assert_moved(visitor.post("cart", ANSWERS["cart"], token, asking), asking, "/address")
    assert visitor.see("payment") == before


@every_store
def test_the_last_form_sent_again_after_the_end_is_no_error(visitor: Visitor, asking: str) -> None:
    """A repetition is told before the end of the run is: the order page, not 410."""
    visitor.walk(*TO_REVIEW)
    token = visitor.token("review")
    visitor.post("review", {}, token)
    assert_moved(visitor.post("review", {}, token, asking), asking, "/done", "done")


def test_another_query_or_another_file_makes_another_body(asking: str) -> None:
    """The body of a form includes its query and the contents of its files."""
    app = Flask("upload")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("upload", [("photo", "thanks")]))

    @app.route("/photo", methods=["GET", "POST"])
    @fsm.check()
    def photo() -> object:
        if request.method == "POST":
            return fsm.advance(data={"size": len(request.files["file"].read())})
        return str(fsm.token())

    @app.route("/thanks")
    @fsm.check()
    def thanks() -> str:
        return f"{fsm.flow.data['photo']['size']} bytes"

    visitor = Visitor(app)
    token = visitor.token("photo")

    def upload(content: bytes, name: str = "a.png", page: str = "photo") -> object:
        return visitor.post(page, {"file": (io.BytesIO(content), name)}, token, asking)

    assert_moved(upload(b"12345"), asking, "/thanks")
    assert visitor.open("thanks").text == "5 bytes"
    assert_moved(upload(b"12345"), asking, "/thanks")
    # The run has ended by now, and what differs is no repetition.
    assert_refused(upload(b"12346"), asking, 410)
    assert_refused(upload(b"12345", "b.png"), asking, 410)
    assert_refused(upload(b"12345", page="photo?x=1"), asking, 410)


def test_a_refused_form_may_be_corrected_with_its_token(visitor: Visitor, asking: str) -> None:
    """What was refused had no effect, so the same token may come with a better body."""
    visitor.walk("cart", "address", "delivery")
    token = visitor.token("payment")
    assert_refused(visitor.post("payment", {"card": "declined"}, token, asking), asking, 422)
    assert_moved(visitor.post("payment", {"card": "good"}, token, asking), asking, "/review")


# -- 410: over ------------------------------------------------------------------------------


@every_store
def test_a_form_after_the_end_is_410_with_a_way_to_start_again(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """Once the run is finished, its pages take no more; the answer links to the first page."""
    visitor.walk(*TO_REVIEW)
    stale = visitor.token("payment")
    visitor.walk("review")
    stored.ran.clear()
    for page, token in [("payment", None), ("payment", stale), ("review", None), ("done", None)]:
        response = visitor.post(page, {}, token, asking)
        assert_refused(response, asking, 410, "finished")
        if asking != "json":
            assert 'href="/cart"' in response.text
    assert stored.ran == []
    assert len(stored.orders) == 1


@every_store
def test_a_form_of_the_finished_run_on_its_first_page_is_410(visitor: Visitor, asking: str) -> None:
    """A token of the finished run does not begin the next one."""
    visitor.walk(*TO_REVIEW)
    stale = visitor.token("cart")
    visitor.walk("review")
    assert_refused(visitor.post("cart", {"item": "x"}, stale, asking), asking, 410)
    assert visitor.see("done")["state"] == "done"


@every_store
def test_a_token_without_a_session_is_410(visitor: Visitor, stored: Shop, asking: str) -> None:
    """A browser that lost its cookie is told to start again, and nothing runs."""
    token = visitor.token("cart")
    visitor.drop_cookie()
    stored.ran.clear()
    response = visitor.post("cart", {}, token, asking)
    assert_refused(response, asking, 410)
    assert stored.ran == []
    if asking != "json":
        assert 'href="/cart"' in response.text


@every_store
def test_an_expired_run_is_410(visitor: Visitor, stored: Shop, asking: str) -> None:
    """A form sent after FSM_FLOW_LIFETIME, token or none, is over; the next GET starts anew."""
    visitor.walk("cart", "address")
    token = visitor.token("delivery")
    stored.ran.clear()
    with frozen_clock(stored.app) as clock:
        clock.tick(7 * 24 * 3600 + 60)
        response = visitor.post("delivery", {}, token, asking)
        assert_refused(response, asking, 410, "expired")
        assert stored.ran == []
        if asking != "json":
            assert 'href="/cart"' in response.text
        assert visitor.see("cart")["rev"] == 0


def test_an_expired_run_without_token_is_410(visitor: Visitor, stored: Shop, asking: str) -> None:
    """Without a token it is the same: the run is over."""
    visitor.walk("cart", "address")
    with frozen_clock(stored.app) as clock:
        clock.tick(7 * 24 * 3600 + 60)
        assert_refused(visitor.post("delivery", {}, None, asking), asking, 410, "expired")


@pytest.mark.parametrize("opened", [False, True], ids=["form", "page and form"])
def test_an_evicted_run_is_410(asking: str, opened: bool) -> None:
    """A run that memory:// dropped is over, with a link to start again; nobody has logged in."""
    made = Shop(
        {"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": "memory://", "FSM_CACHE_SIZE": 2}
    )
    visitor = made.visitor().walk("cart", "address")
    token = visitor.token("delivery")
    for _ in range(3):
        made.visitor().walk("cart")
    if opened:
        assert visitor.see("cart")["rev"] == 0
    made.ran.clear()
    response = visitor.post("delivery", {}, token, asking)
    assert_refused(response, asking, 410, "evicted")
    assert made.ran == []
    assert "logged in" not in response.text
    if asking != "json":
        assert 'href="/cart"' in response.text


# -- 409: out of date -----------------------------------------------------------------------


@every_store
def test_a_form_of_an_old_rev_is_409_and_shows_what_was_typed(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """A form rendered before the latest step is not taken; its page shows what was typed."""
    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    stored.ran.clear()
    response = visitor.post(
        "address", {"street": "Oak <b>Street</b>", "way": "pickup"}, stale, asking
    )
    assert_refused(response, asking, 409, "old_rev")
    assert stored.ran == []
    if asking == "json":
        assert response.json["state"] == "delivery"
        assert response.json["rev"] == 2
    else:
        assert "Oak &lt;b&gt;Street&lt;/b&gt;" in response.text
        assert "<b>Street" not in response.text
        assert 'href="/delivery"' in response.text


@every_store
def test_a_form_of_another_flow_is_409(stored: Shop, asking: str) -> None:
    """Another visitor's token is not taken, although this site signed it."""
    one, other = stored.visitor(), stored.visitor()
    one.token("cart")
    stored.ran.clear()
    assert_refused(one.post("cart", {}, other.token("cart"), asking), asking, 409, "other_flow")
    assert ("POST", "cart") not in stored.ran
    assert one.see("cart")["rev"] == 0


@every_store
def test_a_form_of_an_earlier_run_is_409(visitor: Visitor, asking: str) -> None:
    """A token of a run that was replaced by a newer one is not taken."""
    visitor.walk(*TO_REVIEW)
    stale = visitor.token("payment")
    visitor.walk("review").walk("cart", "address")
    assert_refused(visitor.post("delivery", {}, stale, asking), asking, 409, "other_flow")


def test_a_page_that_is_not_on_the_path_is_409(visitor: Visitor, stored: Shop, asking: str) -> None:
    """A POST to a page that was not reached runs nothing, with a token of this rev or none."""
    token = visitor.token("cart")
    stored.ran.clear()
    assert_refused(visitor.post("payment", {"card": "x"}, None, asking), asking, 409, "not_on_path")
    response = visitor.post("payment", {"card": "x"}, token, asking)
    assert_refused(response, asking, 409)
    assert stored.ran == []
    if asking != "json":
        assert 'href="/cart"' in response.text
        assert "Send again" not in response.text


def test_a_form_without_token_is_taken_on_the_current_page_only(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """Without a token nobody knows what the visitor saw, so an earlier page is not edited."""
    visitor.walk("cart", "address")
    stored.ran.clear()
    assert_refused(visitor.post("cart", {"item": "x"}, None, asking), asking, 409, "not_current")
    assert stored.ran == []
    assert_moved(visitor.post("delivery", {}, None, asking), asking, "/payment", "payment")


@every_store
def test_a_token_used_with_another_body_is_409(visitor: Visitor, asking: str) -> None:
    """The same token with other contents is no repetition, and nothing runs."""
    token = visitor.token("cart")
    visitor.post("cart", {"item": "a lamp"}, token)
    response = visitor.post("cart", {"item": "two lamps"}, token, asking)
    assert_refused(response, asking, 409, "reused_token")
    assert visitor.see("cart")["answers"] == {"item": "a lamp"}


def test_a_token_of_one_page_is_not_taken_on_another(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """The token says which page was filled in; sent elsewhere it is out of date."""
    visitor.walk("cart")
    token = visitor.token("address")
    stored.ran.clear()
    assert_refused(visitor.post("cart", {"item": "x"}, token, asking), asking, 409)
    assert stored.ran == []


def test_send_again_makes_the_edit(visitor: Visitor, asking: str) -> None:
    """A page that may still be edited offers to send the answers again, and that is taken."""
    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    response = visitor.post("address", {"street": "Oak", "way": "pickup"}, stale, "html")
    assert "Send again" in response.text
    assert "action=" not in response.text  # it is sent to the URL under which the page is shown
    again = {"street": "Oak", "way": "pickup"}
    assert_moved(
        visitor.post("address", again, token_in(response.text), asking), asking, "/pickup", "pickup"
    )
    assert visitor.see("pickup")["data"]["address"] == again


# -- 409: not possible ----------------------------------------------------------------------


def test_an_edge_that_is_not_there_is_409_with_the_reason(visitor: Visitor, asking: str) -> None:
    """A `to` that this page does not lead to is refused, and the ways on are named."""
    response = visitor.post("cart", {"to": "payment"}, visitor.token("cart"), asking)
    assert_refused(response, asking, 409, "no_edge")
    if asking == "json":
        assert response.json["allowed"] == ["address"]
    assert visitor.see("cart")["rev"] == 0


def test_a_guard_that_refuses_is_409_with_its_reason(visitor: Visitor, asking: str) -> None:
    """A refusal by a guard gives the guard's sentence."""
    visitor.walk("cart")
    token = visitor.token("address")
    response = visitor.post("address", {"to": "pickup", "way": "delivery"}, token, asking)
    assert_refused(response, asking, 409, "guard")
    assert "The order is to be picked up." in response.text
    assert visitor.see("address")["rev"] == 1


def counted_app(**options: bool) -> Visitor:
    """Pages a <-> b, and a -> c -> d, whose edges are counted."""
    app = Flask("counted")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    edges = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "d")]
    fsm = FlaskFSM(app, Machine("counted", edges, **options))
    for page in "abcd":

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view() -> object:
            return fsm.advance() if request.method == "POST" else str(fsm.token())

    return Visitor(app)


def test_an_edge_already_taken_is_409(asking: str) -> None:
    """With repeat=False the second time along the same edge is refused as taken."""
    visitor = counted_app(repeat=False)
    visitor.send("a", {"to": "b"})
    visitor.send("b")
    assert_refused(visitor.send("a", {"to": "b"}, asking), asking, 409, "taken")
    assert_moved(visitor.send("a", {"to": "c"}, asking), asking, "/c", "c")


def test_a_skipped_edge_is_409(asking: str) -> None:
    """With ordered=True an edge before its predecessors is refused as skipped."""
    visitor = counted_app(ordered=True)
    assert_refused(visitor.send("a", {"to": "c"}, asking), asking, 409, "skipped")
    assert_moved(visitor.send("a", {"to": "b"}, asking), asking, "/b", "b")


# -- 422 and 413 ----------------------------------------------------------------------------


def test_a_validator_that_refuses_is_422_with_its_messages(visitor: Visitor, asking: str) -> None:
    """A validator's message comes with its field; state and rev stay as they were."""
    visitor.walk("cart", "address", "delivery")
    before = visitor.see("payment")
    response = visitor.send("payment", {"card": "declined"}, asking)
    assert_refused(response, asking, 422, "validation")
    if asking == "json":
        assert response.json["fields"] == {"card": ["This card was declined."]}
        assert (response.json["state"], response.json["rev"]) == ("payment", before["rev"])
    else:
        assert "This card was declined." in response.text
    assert visitor.see("payment") == before


def test_data_that_cannot_be_kept_is_422_naming_the_field(asking: str) -> None:
    """A number that JSON has no form for, as a visitor may type, is refused by its field."""
    app = Flask("odd")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("odd", [("a", "b")]))

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        odd = float(request.form.get("odd", "0"))
        return fsm.advance(data={"fine": 1, "odd": odd}) if request.method == "POST" else "a"

    @app.route("/b")
    @fsm.check()
    def b() -> str:
        return "b"

    visitor = Visitor(app)
    response = visitor.post("a", {"odd": "nan"}, None, asking)
    assert_refused(response, asking, 422, "invalid_data")
    if asking == "json":
        assert list(response.json["fields"]) == ["odd"]
    else:
        assert "Enter a finite number." in response.text
    assert visitor.open("b").status_code == 303


@pytest.mark.parametrize("address", ["session", "memory://"])
def test_answers_too_large_for_the_store_are_413(asking: str, address: str) -> None:
    """What would not fit is refused; the flow stays where it was, and fewer words are taken."""
    made = Shop(
        {
            "SECRET_KEY": SECRET,
            "TESTING": True,
            "FSM_STORE_URL": address,
            "FSM_MAX_SNAPSHOT_SIZE": 4_000,
        }
    )
    visitor = made.visitor().walk("cart")
    before = visitor.see("address")
    long = "".join(random.Random(7).choices(string.ascii_letters, k=9_000))
    response = visitor.send("address", {"street": long, "way": "pickup"}, asking)
    assert_refused(response, asking, 413, "too_large")
    assert visitor.see("address") == before
    assert_moved(
        visitor.send("address", ANSWERS["address"], asking), asking, "/delivery", "delivery"
    )


# -- 303: taken -----------------------------------------------------------------------------


def test_a_form_of_the_current_page_leads_to_the_next(visitor: Visitor, asking: str) -> None:
    """A POST on the current page, with its token, moves the flow and names the next page."""
    assert_moved(visitor.send("cart", ANSWERS["cart"], asking), asking, "/address", "address")
    assert visitor.see("address")["data"] == {"cart": {"item": "a lamp"}}


@every_store
def test_an_edit_leads_on_from_the_edited_page(visitor: Visitor, asking: str) -> None:
    """A POST on an earlier page changes its answers, cuts the path there, and goes on from it."""
    visitor.walk(*TO_REVIEW)
    assert_moved(visitor.send("cart", {"item": "a rug"}, asking), asking, "/address", "address")
    after = visitor.see("address")
    assert after["path"] == ["cart", "address"]
    assert after["data"] == {"cart": {"item": "a rug"}}
    assert after["drafts"].keys() == {"address", "delivery", "payment"}
    assert after["answers"] == ANSWERS["address"]


def test_the_next_page_is_named_with_its_url_arguments(asking: str) -> None:
    """The arguments of the URL that was posted to are those of the next page too."""
    visitor = Visitor(orders_app())
    assert_moved(visitor.post("7/items", {}, None, asking), asking, "/7/ship", "ship")
    assert_moved(visitor.post("7/ship", {}, None, asking), asking, "/7/sent", "sent")


def test_a_machine_of_tuples_and_guards_leads_by_the_only_way(asking: str) -> None:
    """Without `to` anywhere, the only way out is taken."""
    app = Flask("single")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("single", [Transition("a", "b", when=lambda flow: True)]))
    for page in "ab":

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            return fsm.advance() if request.method == "POST" else page

    assert_moved(Visitor(app).post("a", {}, None, asking), asking, "/b", "b")


def test_an_edit_of_a_json_client_is_told_the_same_way(visitor: Visitor, asking: str) -> None:
    """The token may come in the header X-FSM-Token and the answers as JSON."""
    token = visitor.token("cart")
    response = visitor.client.post(
        "/cart", json={"to": "address"}, headers={**ASKING[asking], "X-FSM-Token": token}
    )
    assert_moved(response, asking, "/address", "address")
    assert seen(visitor.open("address"))["rev"] == 1
