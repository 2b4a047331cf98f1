"""One tab: forward, back, reload, double click, addresses typed by hand, and edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ..example.visitor import GIFT, PARCEL
from .conftest import Site
from .steps import (
    EMAIL,
    NAME,
    STREET,
    TOWN,
    WORDS,
    arrive,
    button,
    fill_address,
    fill_cart,
    fill_delivery,
    fill_payment,
    fill_pickup,
    fill_wrapping,
    on,
    order,
    send,
    walk,
)

pytestmark = pytest.mark.browser


def ordered(page: Page, site: Site) -> dict[str, dict[str, Any]]:
    """The answers of the one order there is; its number stands on the page."""
    on(page, "done")
    assert len(site.orders) == 1
    expect(page.get_by_role("main")).to_contain_text(site.orders[0]["checkout.review"]["number"])
    return {name.split(".")[1]: answers for name, answers in site.orders[0].items()}


# -- forward ------------------------------------------------------------------------------------


def test_a_gift_is_ordered_by_parcel(page: Page, site: Site) -> None:
    """Filling in one form after the other leads to an order number; a gift gets its paper."""
    page.goto("/checkout/")
    walk(
        page,
        ("delivery", fill_cart),
        ("address", lambda page: fill_delivery(page, gift=True)),
        ("wrapping", fill_address),
        ("payment", fill_wrapping),
        ("review", fill_payment),
    )
    expect(page.get_by_role("main")).to_contain_text(STREET)
    expect(page.get_by_role("main")).to_contain_text(WORDS)
    order(page)
    answers = ordered(page, site)
    assert answers.keys() == {"cart", "delivery", "address", "wrapping", "payment", "review"}
    assert answers["wrapping"] == {"paper": "stars", "words": WORDS}


def test_a_pick_up_takes_another_way_and_no_script(
    chromium: Browser, site: Site, visit: Callable[..., BrowserContext]
) -> None:
    """Picking it up asks for shop and day, and for no address; all in a browser without scripts."""
    page = visit(chromium, site, java_script_enabled=False).new_page()
    page.goto("/checkout/")
    walk(
        page,
        ("delivery", fill_cart),
        ("pickup", lambda page: fill_delivery(page, "Pick-up in a shop")),
        ("payment", fill_pickup),
        ("review", fill_payment),
    )
    order(page)
    assert ordered(page, site).keys() == {"cart", "delivery", "pickup", "payment", "review"}


def test_the_progress_bar_shows_where_one_is(page: Page, site: Site) -> None:
    """It marks this page, links back to those done, and not to those to come."""
    arrive(page, site, PARCEL, at="payment")
    progress = page.get_by_role("navigation", name="Progress")
    expect(progress.locator("[aria-current=step]")).to_have_text("Payment")
    expect(progress.get_by_role("link")).to_have_text(["Cart", "Delivery", "Address"])
    progress.get_by_role("link", name="Delivery").click()
    on(page, "delivery")
    expect(page.get_by_label("By parcel")).to_be_checked()


def test_shopping_on_from_the_review_begins_at_a_filled_cart(page: Page, site: Site) -> None:
    """Keep shopping leads to the cart, and the pages after it come again with their answers."""
    arrive(page, site, PARCEL, at="review")
    send(page, "/checkout/", "Keep shopping")
    expect(page.get_by_label("Number of notebooks")).to_have_value("2")
    page.get_by_label("Number of bottles of ink").fill("1")
    for name in ("delivery", "address", "payment", "review"):
        send(page, f"/checkout/{name}")
    order(page)
    assert ordered(page, site)["cart"] == {"notebook": 2, "pencils": 0, "ink": 1}


# -- back ---------------------------------------------------------------------------------------


def test_back_twice_and_forward_keeps_the_answers(page: Page, site: Site) -> None:
    """The Back and Forward buttons show every form as it was filled in, and move nothing."""
    arrive(page, site, PARCEL, at="delivery")
    walk(page, ("address", fill_delivery), ("payment", fill_address))
    moves = site.moves.copy()
    page.go_back()
    on(page, "address")
    expect(page.get_by_label("Name")).to_have_value(NAME)
    page.go_back()
    on(page, "delivery")
    expect(page.get_by_label("By parcel")).to_be_checked()
    page.go_forward()
    on(page, "address")
    expect(page.get_by_label("Street and number")).to_have_value(STREET)
    expect(page.get_by_label("Town")).to_have_value(TOWN)
    page.go_forward()
    on(page, "payment")
    assert site.moves == moves
    walk(page, ("review", fill_payment))


def test_a_page_sent_again_after_back_is_changed(page: Page, site: Site) -> None:
    """Back, another street, Continue: the new street is in the order, the rest as it was."""
    arrive(page, site, PARCEL, at="address")
    walk(page, ("payment", fill_address))
    page.go_back()
    page.get_by_label("Street and number").fill("Elm Street 5")
    send(page, "/checkout/payment")
    walk(page, ("review", fill_payment))
    order(page)
    answers = ordered(page, site)
    assert answers["address"]["street"] == "Elm Street 5"
    assert answers["address"]["name"] == NAME


def test_back_and_reload_on_the_end_page_make_no_second_order(page: Page, site: Site) -> None:
    """After the order F5 shows its number again, and so does Back: the review is closed."""
    arrive(page, site, PARCEL, at="review")
    order(page)
    page.reload()
    ordered(page, site)
    page.go_back()
    ordered(page, site)


# -- reload -------------------------------------------------------------------------------------


def test_reloading_after_a_form_was_sent_sends_nothing_twice(page: Page, site: Site) -> None:
    """F5 on the page to which a form led opens that page again, and does nothing else."""
    arrive(page, site, PARCEL, at="delivery")
    walk(page, ("address", fill_delivery))
    moves, posted = site.moves.copy(), site.posted
    page.reload()
    on(page, "address")
    assert (site.moves, site.posted) == (moves, posted)


def test_reloading_a_refused_form_changes_nothing(page: Page, site: Site) -> None:
    """F5 on a form that came back with messages shows it again with its messages."""
    arrive(page, site, PARCEL, at="address")
    fill_address(page)
    page.get_by_label("Postcode").fill("x")
    button(page, "Continue").click()
    expect(page.get_by_role("alert")).to_be_visible()
    moves = site.moves.copy()
    page.reload()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value(NAME)
    assert site.moves == moves


# -- double clicks ------------------------------------------------------------------------------


def press_twice(page: Page, site: Site, name: str, second: int) -> None:
    """Press a button again while the first press is still being served; `second` tells whether
    the browser takes both together for a double click (2), or for two clicks (1)."""
    box = button(page, name).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    site.hold(2)
    for press in (1, second):
        page.mouse.down(click_count=press)
        page.mouse.up(click_count=press)
        site.await_form()
    site.await_answers()


TWICE = pytest.mark.parametrize(
    "second", [pytest.param(2, id="double click"), pytest.param(1, id="two clicks")]
)


@TWICE
def test_a_button_pressed_twice_makes_one_step(page: Page, site: Site, second: int) -> None:
    """Two sends of one form, served at the same moment, move on by one page."""
    arrive(page, site, PARCEL, at="delivery")
    fill_delivery(page)
    press_twice(page, site, "Continue", second)
    on(page, "address")
    assert site.posted[-2:] == [("/checkout/delivery", 303)] * 2
    assert site.moves == [("cart", "delivery"), ("delivery", "address")]


@TWICE
def test_the_last_button_pressed_twice_makes_one_order(page: Page, site: Site, second: int) -> None:
    """Two sends of the order, served at the same moment, make one order."""
    arrive(page, site, PARCEL, at="review")
    page.get_by_label("I have read the terms").check()
    press_twice(page, site, "Place the order", second)
    ordered(page, site)
    assert site.posted[-2:] == [("/checkout/review", 303)] * 2
    assert site.moves.count(("review", "done")) == 1


def test_a_very_quick_double_click_makes_one_order(page: Page, site: Site) -> None:
    """So does a double click that is quicker than the browser, which may then send once only."""
    arrive(page, site, PARCEL, at="review")
    page.get_by_label("I have read the terms").check()
    button(page, "Place the order").dblclick()
    ordered(page, site)
    assert {status for path, status in site.posted if path == "/checkout/review"} == {303}
    assert site.moves.count(("review", "done")) == 1


# -- addresses typed by hand --------------------------------------------------------------------


def test_a_later_page_does_not_open_by_its_address(page: Page, site: Site) -> None:
    """A deep link leads to the furthest page that is open, and a notice says so, once."""
    arrive(page, site, PARCEL, at="delivery")
    notice = page.get_by_role("main").get_by_role("status")
    for name in ("address", "pickup", "wrapping", "payment", "review", "done"):
        page.goto(f"/checkout/{name}")
        on(page, "delivery")
        expect(notice).to_have_count(1)
        expect(notice).not_to_be_empty()
    page.reload()
    expect(notice).to_have_count(0)
    assert site.moves == [("cart", "delivery")]


# -- edits --------------------------------------------------------------------------------------


def test_a_changed_branch_leaves_nothing_of_the_old_one(page: Page, site: Site) -> None:
    """A gift parcel changed into a plain pick-up: no address and no paper, on no page."""
    arrive(page, site, GIFT, at="review")
    page.get_by_role("link", name="Change Delivery").click()
    on(page, "delivery")
    fill_delivery(page, "Pick-up in a shop")
    send(page, "/checkout/pickup")
    for closed in ("address", "wrapping", "review"):
        page.goto(f"/checkout/{closed}")
        on(page, "pickup")
        expect(page.get_by_role("main").get_by_role("status")).to_have_count(1)
    walk(page, ("payment", fill_pickup))
    expect(page.get_by_label("Email")).to_have_value(EMAIL)
    send(page, "/checkout/review")
    order(page)
    for gone in (STREET, TOWN, WORDS):
        expect(page.get_by_role("main")).not_to_contain_text(gone)
    assert ordered(page, site).keys() == {"cart", "delivery", "pickup", "payment", "review"}


def test_a_branch_changed_back_finds_its_answers(page: Page, site: Site) -> None:
    """Who tries the pick-up and returns to the parcel need not type the address again."""
    arrive(page, site, PARCEL, at="review")
    page.get_by_role("link", name="Change Delivery").click()
    fill_delivery(page, "Pick-up in a shop")
    send(page, "/checkout/pickup")
    page.go_back()
    on(page, "delivery")
    walk(page, ("address", fill_delivery))
    expect(page.get_by_label("Street and number")).to_have_value(STREET)
    send(page, "/checkout/payment")


def test_an_edit_that_changes_nothing_leads_back_to_the_review(page: Page, site: Site) -> None:
    """Change, then Continue without a change: the review again, all answers as they were."""
    arrive(page, site, GIFT, at="review")
    page.wait_for_load_state("load")  # its style hides a line
    told = page.get_by_role("main").inner_text()
    for part in ("Cart", "Delivery", "Address", "Wrapping", "Payment"):
        page.get_by_role("link", name=f"Change {part}").click()
        expect(page).not_to_have_url("/checkout/review")
        send(page, "/checkout/review")
    expect(page.get_by_role("main")).to_have_text(told, use_inner_text=True)
    order(page)
    answers = ordered(page, site)
    assert answers.keys() == {"cart", "delivery", "address", "wrapping", "payment", "review"}


def test_an_edit_that_breaks_a_rule_is_told_why(page: Page, site: Site) -> None:
    """A cart made empty from the review is refused, and the order stays as it was."""
    arrive(page, site, PARCEL, at="review")
    page.get_by_role("link", name="Change Cart").click()
    fill_cart(page, notebooks=0)
    moves = site.moves.copy()
    button(page, "Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("Your cart is empty")
    assert site.moves == moves
    page.goto("/checkout/review")
    on(page, "review")
    order(page)
    assert ordered(page, site)["cart"]["notebook"] == 2
