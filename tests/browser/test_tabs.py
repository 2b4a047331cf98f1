"""Two tabs of one browser: the one that was left behind is told, and loses nothing."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from ..example.visitor import PARCEL, PASSWORD
from .conftest import Site
from .steps import (
    EMAIL,
    arrive,
    button,
    fill_account,
    fill_address,
    fill_delivery,
    fill_payment,
    on,
    order,
    send,
    walk,
)

pytestmark = pytest.mark.browser

TYPED = "Oak Street 9 <b>&amp; co</b>"


def leave_behind(page: Page, site: Site) -> Page:
    """Open the address page in two tabs, go on in the first, and return the other."""
    arrive(page, site, PARCEL, at="address")
    stale = page.context.new_page()
    stale.goto("/checkout/address")
    page.bring_to_front()
    walk(page, ("payment", fill_address))
    return stale


def send_stale(stale: Page, site: Site) -> None:
    """Send the form of the tab left behind, and see that it was not taken."""
    moves = site.moves.copy()
    stale.bring_to_front()
    fill_address(stale, street=TYPED)
    button(stale, "Continue").click()
    expect(button(stale, "Send again")).to_be_visible()
    assert site.posted[-1] == ("/checkout/address", 409)
    assert site.moves == moves


def test_a_stale_tab_shows_what_was_typed(page: Page, site: Site) -> None:
    """A form sent from a tab left behind is not taken, and every word of it is on the page; F5
    shows it again."""
    stale = leave_behind(page, site)
    send_stale(stale, site)
    expect(stale.get_by_role("heading", level=1)).to_have_text("This page was out of date")
    for text in (TYPED, "Ada Lovelace", "1090", "Vienna"):
        expect(stale.get_by_role("definition").filter(has_text=text)).to_have_count(1)
    if site.workers == 1:  # another one may not have seen the form yet
        for label, text in (("Town", "Vienna"), ("Country", "Austria")):
            shown = stale.locator("dl > div").filter(has_text=label)
            expect(shown.get_by_role("definition")).to_have_text(text)
    moves = site.moves.copy()
    stale.reload()
    expect(stale.get_by_role("main")).to_contain_text(TYPED)
    expect(button(stale, "Send again")).to_be_visible()
    assert site.moves == moves


def test_send_again_takes_what_was_typed(page: Page, site: Site) -> None:
    """The button on that page sends the same words once more, now as a change."""
    stale = leave_behind(page, site)
    send_stale(stale, site)
    send(stale, "/checkout/payment", "Send again")
    assert site.moves[-1] == ("address", "payment")
    walk(stale, ("review", fill_payment))
    expect(stale.get_by_role("main")).to_contain_text(TYPED)
    order(stale)
    assert [taken["checkout.address"]["street"] for taken in site.orders] == [TYPED]
    assert site.orders[0]["checkout.address"]["name"] == "Ada Lovelace"


def test_the_link_to_the_current_page_works(page: Page, site: Site) -> None:
    """Who would rather go on follows the link: to the page where the first tab is."""
    stale = leave_behind(page, site)
    send_stale(stale, site)
    stale.get_by_role("link", name="Go to the current page").click()
    on(stale, "payment")


def test_send_again_on_another_branch_does_not_mix_them(page: Page, site: Site) -> None:
    """One tab chose the pick-up meanwhile: the other's address is not taken, and not lost."""
    stale = leave_behind(page, site)
    page.goto("/checkout/delivery")
    fill_delivery(page, "Pick-up in a shop")
    send(page, "/checkout/pickup")
    moves = site.moves.copy()
    stale.bring_to_front()
    fill_address(stale, street=TYPED)
    button(stale, "Continue").click()
    expect(stale.get_by_role("main")).to_contain_text(TYPED)
    expect(button(stale, "Send again")).to_have_count(0)
    assert site.moves == moves
    stale.get_by_role("link", name="Go to the current page").click()
    on(stale, "pickup")


def test_two_tabs_make_one_order(page: Page, site: Site) -> None:
    """Both tabs show the review; both order; there is one order, and both show its number."""
    arrive(page, site, PARCEL, at="review")
    other = page.context.new_page()
    other.goto("/checkout/review")
    page.bring_to_front()
    order(page)
    other.bring_to_front()
    other.get_by_label("I have read the terms").check()
    button(other, "Place the order").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("This has already been completed")
    assert site.posted[-1] == ("/checkout/review", 410)
    assert len(site.orders) == 1
    other.get_by_role("link", name="See the result").click()
    on(other, "done")
    expect(other.get_by_role("main")).to_contain_text(site.orders[0]["checkout.review"]["number"])


def test_two_sets_of_pages_do_not_meet(page: Page, site: Site) -> None:
    """A sign-up in another tab moves nothing in the checkout, nor the checkout in it."""
    arrive(page, site, PARCEL, at="address")
    other = page.context.new_page()
    other.goto("/signup/")
    fill_account(other)
    send(other, "/signup/profile")
    page.bring_to_front()
    walk(page, ("payment", fill_address))
    other.bring_to_front()
    other.get_by_label("What should we call you?").fill("Ada")
    send(other, "/signup/confirm")
    other.get_by_label("I agree to the terms").check()
    send(other, "/signup/welcome", "Create account")
    page.reload()
    on(page, "payment")
    assert [member["email"] for member in site.members] == [EMAIL]


def test_a_password_is_never_shown(page: Page, site: Site) -> None:
    """A sign-up sent from a tab left behind shows the address that was typed, no password."""
    page.goto("/signup/")
    stale = page.context.new_page()
    stale.goto("/signup/")
    page.bring_to_front()
    fill_account(page)
    send(page, "/signup/profile")
    stale.bring_to_front()
    fill_account(stale, email="eve@example.com")
    button(stale, "Continue").click()
    expect(stale.get_by_role("main")).to_contain_text("eve@example.com")
    assert PASSWORD not in stale.content()
    # Without the password it would be another form.
    expect(button(stale, "Send again")).to_have_count(0)
    expect(stale.get_by_role("main")).to_contain_text(
        "enter or choose them again: Password, Repeat the password."
    )
    with stale.context.expect_page() as opened:
        stale.get_by_role("link", name="in a new tab").click()
    expect(stale.get_by_role("main")).to_contain_text("eve@example.com")
    expect(opened.value).to_have_url("/signup/")
    fill_account(opened.value, email="eve@example.com")
    send(opened.value, "/signup/profile")
    opened.value.goto("/signup/")
    expect(opened.value.get_by_label("Email")).to_have_value("eve@example.com")
    assert PASSWORD not in opened.value.content()
