"""What visitors do to forms, each a test by itself."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

import pytest

from flask_fsm import SnapshotTooLarge
from flask_fsm.testing import FrozenClock

from ..apps import ANSWERS, SECRET, TO_REVIEW, Shop, Visitor, config_for, every_store, notices


@every_store
def test_a_deep_link_to_a_later_page_does_not_run_its_view(visitor: Visitor, stored: Shop) -> None:
    """Someone who types the address of the payment page gets the first page, and is told why."""
    response = visitor.open("payment")
    assert (response.status_code, response.location) == (303, "/cart")
    assert stored.ran == []
    assert len(notices(visitor.open("cart"))) == 1


@every_store
def test_back_twice_and_forward_keeps_the_answers(visitor: Visitor) -> None:
    """Going back two pages and forward again finds every answer in its form."""
    visitor.walk(*TO_REVIEW)
    for page in ("payment", "delivery", "payment", "review"):
        assert visitor.see(page)["answers"] == ANSWERS.get(page)
    assert visitor.see("review")["data"] == {page: ANSWERS[page] for page in TO_REVIEW}


@every_store
def test_back_twice_and_sending_again_keeps_the_later_answers(visitor: Visitor) -> None:
    """An earlier page sent again unchanged leaves what came after it in the later forms."""
    visitor.walk(*TO_REVIEW)
    visitor.walk("address")
    assert visitor.see("delivery")["answers"] == ANSWERS["delivery"]
    visitor.walk("delivery")
    assert visitor.see("payment")["answers"] == ANSWERS["payment"]


@every_store
def test_an_edit_that_changes_the_branch_closes_the_old_branch(
    visitor: Visitor, stored: Shop
) -> None:
    """Pick-up instead of delivery closes the delivery page and drops its answers at the end."""
    visitor.walk(*TO_REVIEW)
    response = visitor.send("address", {"street": "Elm Street 5", "way": "pickup"})
    assert response.location == "/pickup"
    stored.ran.clear()
    assert visitor.open("delivery").location == "/pickup"
    assert visitor.post("delivery", {"when": "now"}).status_code == 409
    assert stored.ran == []
    visitor.walk("pickup", "payment", "review")
    done = visitor.see("done")
    assert "delivery" not in done["path"]
    assert done["data"].keys() == {"cart", "address", "pickup", "payment", "review"}
    assert done["drafts"] == {}
    assert stored.orders == [done["data"]]


@every_store
def test_the_form_of_a_stale_tab_is_shown_but_not_taken(visitor: Visitor, stored: Shop) -> None:
    """A form sent from a tab left behind is a conflict: its answers are shown, its secrets not."""
    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address", "delivery")
    stored.ran.clear()
    before = visitor.see("payment")
    typed = {
        "street": "Oak Street 9",
        "way": "pickup",
        "password": "correct horse",
        "card_number": "4000 1234 5678 9010",
        "account": "4111 1111 1111 1111",
    }
    response = visitor.post("address", typed, stale)
    assert response.status_code == 409
    assert "Oak Street 9" in response.text
    assert 'href="/payment"' in response.text
    for secret in ("correct horse", "4000 1234 5678 9010", "4111 1111 1111 1111", stale):
        assert secret not in response.text
    assert ("POST", "address") not in stored.ran
    assert visitor.see("payment") == before


@every_store
def test_a_file_of_a_stale_form_is_not_shown(visitor: Visitor) -> None:
    """Neither the name nor the content of an upload is on the conflict page."""
    import io

    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    file = (io.BytesIO(b"the content"), "the-name.txt")
    response = visitor.post("address", {"street": "Oak 1", "photo": file}, stale)
    assert response.status_code == 409
    assert "Oak 1" in response.text
    assert "the content" not in response.text
    assert "the-name" not in response.text


@every_store
def test_a_double_click_without_a_token_moves_once(visitor: Visitor, stored: Shop) -> None:
    """The second of two equal clicks without token finds the page left behind, and nothing runs."""
    assert visitor.post("cart", ANSWERS["cart"]).location == "/address"
    assert visitor.post("cart", ANSWERS["cart"]).status_code == 409
    assert stored.ran.count(("POST", "cart")) == 1
    assert visitor.see("address")["rev"] == 1


@every_store
def test_a_double_click_with_a_token_moves_once_and_both_go_on(
    visitor: Visitor, stored: Shop
) -> None:
    """The second of two equal clicks with a token is told what the first was told."""
    token = visitor.token("cart")
    answers = [visitor.post("cart", ANSWERS["cart"], token) for _ in range(2)]
    assert [(answer.status_code, answer.location) for answer in answers] == [(303, "/address")] * 2
    assert stored.ran.count(("POST", "cart")) == 1
    assert visitor.see("address")["rev"] == 1


@every_store
def test_the_final_form_sent_three_times_makes_one_order(visitor: Visitor, stored: Shop) -> None:
    """However often the last button is hit, there is one order, and each answer leads to it."""
    visitor.walk(*TO_REVIEW)
    token = visitor.token("review")
    answers = [visitor.post("review", {}, token) for _ in range(3)]
    assert [answer.location for answer in answers] == ["/done"] * 3
    assert len(stored.orders) == 1


@every_store
def test_the_final_form_sent_three_times_without_token_makes_one_order(
    visitor: Visitor, stored: Shop
) -> None:
    """Without a token the second and third are told that the run is over."""
    visitor.walk(*TO_REVIEW)
    assert [visitor.post("review").status_code for _ in range(3)] == [303, 410, 410]
    assert len(stored.orders) == 1


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_an_older_cookie_replayed_changes_nothing(shop: Callable[..., Shop], store: str) -> None:
    """A copied cookie of an earlier page leads to where the flow is now, not back."""
    made = shop(store)
    visitor = made.visitor()
    old = []
    for page in TO_REVIEW:
        visitor.token(page)
        old.append(visitor.cookie)
        visitor.walk(page)
    before = visitor.see("review")
    for cookie in old:
        visitor.cookie = cookie
        assert visitor.see("review") == before
        assert visitor.post("cart", {"item": "free"}).status_code == 409
        assert visitor.see("cart")["answers"] == ANSWERS["cart"]


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_an_older_cookie_replayed_after_the_end_makes_no_second_order(
    shop: Callable[..., Shop], store: str
) -> None:
    """The cookie from before the last click can't order again."""
    made = shop(store)
    visitor = made.visitor().walk(*TO_REVIEW)
    token = visitor.token("review")
    old = visitor.cookie
    visitor.post("review", {}, token)
    visitor.cookie = old
    assert visitor.post("review", {}, token).location == "/done"
    visitor.cookie = old
    assert visitor.post("review").status_code == 410
    visitor.cookie = old
    assert visitor.open("review").location == "/done"
    assert len(made.orders) == 1


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_a_cookie_with_any_bit_flipped_is_the_same_or_a_fresh_flow(
    shop: Callable[..., Shop], store: str
) -> None:
    """Every single bit of the cookie is flipped; no answer is a 500, and no flow is half one."""
    made = shop(store)
    visitor = made.visitor().walk("cart")
    before = visitor.see("address")
    cookie = visitor.cookie
    for place in range(len(cookie)):
        for bit in range(7):
            char = chr(ord(cookie[place]) ^ (1 << bit))
            if char in ' ",;\\' or not char.isprintable():
                continue
            visitor.cookie = cookie[:place] + char + cookie[place + 1 :]
            response = visitor.open("address")
            if response.status_code == 200:
                visitor.cookie = cookie[:place] + char + cookie[place + 1 :]
                assert visitor.see("address") == before
            else:
                assert (response.status_code, response.location) == (303, "/cart")
    visitor.cookie = cookie
    assert visitor.see("address") == before


def test_a_second_process_goes_on_with_the_same_cookie(shop: Callable[..., Shop]) -> None:
    """A process that has never seen the flow reads it from the cookie, and the form goes on."""
    visitor = shop("session").visitor().walk("cart", "address")
    before = visitor.see("delivery")
    token = visitor.token("delivery")
    second = shop("session").visitor()
    second.cookie = visitor.cookie
    assert second.see("delivery") == before
    assert second.post("delivery", ANSWERS["delivery"], token).location == "/payment"
    second.walk("payment", "review")
    assert second.see("done")["data"].keys() == {*TO_REVIEW, "review"}


def test_a_form_sent_to_both_processes_is_told_the_same(shop: Callable[..., Shop]) -> None:
    """The last submission travels in the cookie, so a second process knows it again."""
    visitor = shop("session").visitor().walk("cart")
    token = visitor.token("address")
    visitor.post("address", ANSWERS["address"], token)
    other = shop("session")
    second = other.visitor()
    second.cookie = visitor.cookie
    assert second.post("address", ANSWERS["address"], token).location == "/delivery"
    assert second.post("address", {"way": "pickup"}, token).status_code == 409
    assert other.ran == []


def test_two_processes_share_a_flow_on_flask_session(shop: Callable[..., Shop]) -> None:
    """With the session on a server, the second process finds it there."""
    visitor = shop("flask-session").visitor().walk("cart", "address")
    second = shop("flask-session").visitor()
    second.cookie = visitor.cookie
    assert second.see("delivery")["data"] == {page: ANSWERS[page] for page in ("cart", "address")}
    second.walk("delivery", "payment", "review")
    assert second.see("done")["finished"]


@every_store
def test_two_users_never_see_each_others_flow(stored: Shop) -> None:
    """Two browsers that take turns each find their own answers, at every page."""
    users = [stored.visitor() for _ in range(3)]
    for page in TO_REVIEW:
        for number, user in enumerate(users):
            token = user.token(page)
            way = {"way": "delivery"} if page == "address" else {}
            assert user.post(page, {"owner": str(number), **way}, token).status_code == 303
    ids = set()
    for number, user in enumerate(users):
        review = user.see("review")
        ids.add(review["id"])
        assert {answers["owner"] for answers in review["data"].values()} == {str(number)}
    assert len(ids) == 3


@every_store
def test_a_cookie_dropped_before_the_last_form_is_410(visitor: Visitor, stored: Shop) -> None:
    """Who loses the cookie before the last click is told so; no order is made of nothing."""
    visitor.walk(*TO_REVIEW)
    token = visitor.token("review")
    visitor.drop_cookie()
    response = visitor.post("review", {}, token)
    assert response.status_code == 410
    assert 'href="/cart"' in response.text
    assert stored.orders == []
    assert visitor.see("cart")["rev"] == 0


# -- too large ------------------------------------------------------------------------------


def noise(length: int, seed: int = 7) -> str:
    """Text that does not compress."""
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=length))


def test_a_step_that_does_not_fit_into_the_cookie_is_told_at_advance(
    shop: Callable[..., Shop],
) -> None:
    """SnapshotTooLarge names size, limit and remedy, and the flow stays where it was."""
    made = shop("session")
    caught: list[SnapshotTooLarge] = []

    @made.app.errorhandler(413)
    def too_large(error: object) -> tuple[str, int]:
        caught.append(error.error)  # type: ignore[attr-defined]
        return str(error.error), 413  # type: ignore[attr-defined]

    visitor = made.visitor().walk("cart", "address")
    before = visitor.see("delivery")
    response = visitor.send("delivery", {"when": noise(5_000)})
    error = caught[0]
    assert isinstance(error, SnapshotTooLarge)
    assert error.limit == 4_093
    assert error.size > 4_093
    for part in (str(error.size), "4093", "FSM_STORE_URL"):
        assert part in response.text
    assert visitor.see("delivery") == before
    assert visitor.send("delivery", ANSWERS["delivery"]).location == "/payment"


# Werkzeug counts the cookie's attributes too, which browsers do not.
@pytest.mark.filterwarnings("ignore:The 'session' cookie is too large:UserWarning")
def test_the_largest_cookie_that_fits_is_taken_and_one_byte_more_is_not(
    shop: Callable[..., Shop],
) -> None:
    """Up to 4,093 bytes of name and value a browser keeps the cookie; past it we refuse."""
    made = shop("session")

    def size(length: int) -> int | None:
        visitor = made.visitor()
        response = visitor.post("cart", {"item": noise(length)})
        if response.status_code == 413:
            return None
        assert response.status_code == 303
        cookie = visitor.client.get_cookie("session")
        assert cookie is not None
        return len(cookie.key) + len(cookie.value)

    low, high = 100, 6_000
    while high - low > 1:
        middle = (low + high) // 2
        if size(middle) is None:
            high = middle
        else:
            low = middle
    # Flow ids are random and compress differently, so the limit is looked for from both sides.
    taken = [size(length) for length in range(low - 12, low + 8)]
    assert None in taken
    assert 4_075 <= max(length for length in taken if length is not None) <= 4_093


@pytest.mark.filterwarnings("ignore:The 'session' cookie is too large:UserWarning")
@pytest.mark.parametrize("text", ["é", "漢", "😀", '"', "\\", "\n", "<", "\x7f"])
def test_no_character_gets_a_cookie_past_the_limit(shop: Callable[..., Shop], text: str) -> None:
    """What is long only when written down is measured as it is written down."""
    made = shop("session")
    chance = random.Random(3)
    for length in range(100, 5_000, 700):
        visitor = made.visitor()
        words = "".join(chance.choice((text, noise(1, chance.random()))) for _ in range(length))
        response = visitor.post("cart", {"item": words})
        if response.status_code == 303:
            assert len("session") + len(visitor.cookie) <= 4_093
            assert visitor.see("address")["data"]["cart"]["item"] == words.replace("\r\n", "\n")
        else:
            assert response.status_code == 413


def test_the_rest_of_the_session_counts_too(shop: Callable[..., Shop]) -> None:
    """A session that other code filled leaves less room, and the error says how much it takes."""
    from flask import session

    made = shop("session")

    def fill(page: str) -> None:
        session["other"] = noise(3_000)

    made.before_advance = fill
    visitor = made.visitor()
    assert visitor.send("cart", {"item": noise(300, 1)}).status_code == 303
    made.before_advance = lambda page: None
    response = visitor.send("address", {"street": noise(1_000, 2), "way": "delivery"})
    assert response.status_code == 413
    assert visitor.see("address")["rev"] == 1


def test_a_thousand_steps_fit_into_the_cookie(shop: Callable[..., Shop]) -> None:
    """A visitor who goes round in circles a thousand times still has a cookie that fits."""
    made = Shop({**shop("session").app.config, "FSM_HISTORY_LIMIT": None})
    clock = made.app.extensions["fsm"].clock = FrozenClock(1_800_000_000)
    chance = random.Random(5)
    visitor = made.visitor().walk(*TO_REVIEW)
    round_trip = {"review": {"to": "address"}, "address": {"way": "delivery"}}
    for turn in range(249):
        for page in ("review", "address", "delivery", "payment"):
            clock.tick(600 ** chance.random())
            response = visitor.post(page, round_trip.get(page))
            assert response.status_code == 303, (turn, page)
    assert visitor.see("review")["rev"] == 1_000
    assert len("session") + len(visitor.cookie) < 4_000


# -- keys -----------------------------------------------------------------------------------


def test_a_cookie_signed_with_another_key_is_a_fresh_flow(shop: Callable[..., Shop]) -> None:
    """After a change of the key without fallbacks, visitors start again."""
    visitor = shop("session").visitor().walk("cart", "address")
    token = visitor.token("delivery")
    other = Shop({**config_for("session"), "SECRET_KEY": "a new key"}).visitor()
    other.cookie = visitor.cookie
    assert other.open("delivery").location == "/cart"
    assert other.post("delivery", {}, token).status_code == 400


def test_an_old_key_is_read_and_the_new_one_signs(shop: Callable[..., Shop]) -> None:
    """With SECRET_KEY_FALLBACKS a form that was open when the key changed is still taken."""
    visitor = shop("session").visitor().walk("cart")
    token = visitor.token("address")
    rotated = {
        **config_for("session"),
        "SECRET_KEY": "a new key",
        "SECRET_KEY_FALLBACKS": [SECRET],
    }
    second = Shop(rotated).visitor()
    second.cookie = visitor.cookie
    assert second.post("address", ANSWERS["address"], token).location == "/delivery"
    third = Shop({**config_for("session"), "SECRET_KEY": "a new key"}).visitor()
    third.cookie = second.cookie
    assert third.post("delivery", {}, second.token("delivery")).location == "/payment"


def test_a_key_that_is_changed_while_the_app_runs_counts(shop: Callable[..., Shop]) -> None:
    """Tokens are signed with the key as it is when the page is shown."""
    made = shop("session")
    visitor = made.visitor().walk("cart")
    old = visitor.token("address")
    made.app.config["SECRET_KEY_FALLBACKS"] = [SECRET]
    made.app.secret_key = "a new key"
    assert visitor.post("address", ANSWERS["address"], old).location == "/delivery"
    made.app.config["SECRET_KEY_FALLBACKS"] = []
    assert visitor.post("delivery", {}, old).status_code == 400
