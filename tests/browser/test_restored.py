"""Back onto a page that Chromium kept in its back/forward cache, and a submit from there.

Chromium shows such a page without asking the server, with the form as it was left, and so with a
token that is as old as the page. It drops a page with `Cache-Control: no-store` as soon as a cookie
changes that scripts can't see. Each step of a flow in the session changes such a cookie; so the
first tests show what visitors get today. In the others scripts may see the cookie: they show what
visitors get from a browser that keeps such pages. Of a flow on a server the cookie only says which
one it is, and stays: there a page is kept over a step in any case.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ..example.visitor import PARCEL
from .conftest import Site, give_up
from .steps import (
    STREET,
    arrive,
    button,
    fill_address,
    fill_cart,
    fill_delivery,
    fill_payment,
    on,
    order,
    send,
    walk,
)

pytestmark = pytest.mark.browser

RECORD = "addEventListener('pageshow', event => { window.restored = event.persisted })"
REASONS = """() =>
  (performance.getEntriesByType("navigation")[0]?.notRestoredReasons?.reasons ?? [])
    .map(({reason}) => reason)
"""


@pytest.fixture
def page(restoring: Browser, site: Site, visit: Callable[..., BrowserContext]) -> Page:
    """A tab of a browser that keeps pages."""
    return enter(restoring, site, visit)


@pytest.fixture
def keeping_site(serve: Callable[..., Site]) -> Site:
    """The example app, its cookie being one that does not make Chromium drop a page."""
    return serve(SESSION_COOKIE_HTTPONLY=False)


@pytest.fixture
def keeping_page(
    restoring: Browser, keeping_site: Site, visit: Callable[..., BrowserContext]
) -> Page:
    """A tab of a browser that keeps pages even over a step."""
    return enter(restoring, keeping_site, visit)


def enter(browser: Browser, site: Site, visit: Callable[..., BrowserContext]) -> Page:
    context = visit(browser, site)
    context.add_init_script(RECORD)
    return context.new_page()


def back(page: Page, name: str) -> bool:
    """Press Back, and tell whether the page was restored as it had been left."""
    page.go_back(wait_until="commit")
    on(page, name)
    page.wait_for_function("window.restored !== undefined")
    return bool(page.evaluate("window.restored"))


def back_onto_a_kept_page(page: Page, site: Site, name: str) -> None:
    """Press Back onto a page that was kept: the server is not asked for it."""
    answered = site.answered.copy()
    if not back(page, name):
        give_up(
            "This Chromium loaded a page anew that it was to keep in its back/forward cache: "
            f"{', '.join(page.evaluate(REASONS)) or 'no reason is told'}."
        )
    assert site.answered == answered


def test_a_form_left_by_a_link_is_still_filled_in(page: Page, site: Site) -> None:
    """A half-filled form is left by a link; Back restores it as it was, and it can be sent."""
    arrive(page, site, PARCEL, at="address")
    fill_address(page)
    page.get_by_role("link", name="Kontor").click()
    expect(page).to_have_url("/")
    back_onto_a_kept_page(page, site, "address")
    expect(page.get_by_label("Street and number")).to_have_value(STREET)
    send(page, "/checkout/payment")
    walk(page, ("review", fill_payment))
    order(page)
    assert [taken["checkout.address"]["street"] for taken in site.orders] == [STREET]


def test_back_over_a_step_leads_to_a_page_that_can_be_changed(page: Page, site: Site) -> None:
    """Back over a step, another street, Continue: it is taken, as the page is asked for again."""
    arrive(page, site, PARCEL, at="address")
    walk(page, ("payment", fill_address))
    # Each step changes the cookie, wherever flows are kept: so Chromium has not kept the page.
    assert not back(page, "address")
    expect(page.get_by_label("Street and number")).to_have_value(STREET)
    page.get_by_label("Street and number").fill("Elm Street 5")
    send(page, "/checkout/payment")
    assert [status for _, status in site.posted[-2:]] == [303, 303]
    assert site.moves[-2:] == [("address", "payment")] * 2


def test_a_kept_page_that_was_changed_is_a_conflict_and_can_be_sent_again(
    keeping_page: Page, keeping_site: Site
) -> None:
    """Back onto a kept page, another street: not taken at once, but shown, and then taken."""
    page, site = keeping_page, keeping_site
    arrive(page, site, PARCEL, at="delivery")
    walk(page, ("address", fill_delivery), ("payment", fill_address))
    moves = site.moves.copy()
    back_onto_a_kept_page(page, site, "address")
    page.get_by_label("Street and number").fill("Elm Street 5")
    button(page, "Continue").click()
    expect(button(page, "Send again")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text("Elm Street 5")
    assert site.posted[-1] == ("/checkout/address", 409)
    assert site.moves == moves
    send(page, "/checkout/payment", "Send again")
    assert site.moves == [*moves, ("address", "payment")]
    walk(page, ("review", fill_payment))
    order(page)
    assert [taken["checkout.address"]["street"] for taken in site.orders] == ["Elm Street 5"]
    assert site.orders[0]["checkout.delivery"]["how"] == "parcel"


def test_a_kept_page_sent_as_it_was_leads_to_where_it_led(
    keeping_page: Page, keeping_site: Site
) -> None:
    """Back twice onto kept pages, Continue without a change: the same next page, no new step."""
    page, site = keeping_page, keeping_site
    page.goto("/checkout/")
    walk(page, ("delivery", fill_cart), ("address", fill_delivery))
    moves = site.moves.copy()
    back_onto_a_kept_page(page, site, "delivery")
    back_onto_a_kept_page(page, site, "")
    expect(page.get_by_label("Number of notebooks")).to_have_value("2")
    send(page, "/checkout/delivery")
    expect(page.get_by_label("By parcel")).to_be_checked()
    assert site.moves == moves
    assert {status for _, status in site.posted} == {303}


def test_a_kept_page_that_changes_the_branch_can_be_sent_again(
    keeping_page: Page, keeping_site: Site
) -> None:
    """Back onto a kept page, another branch, Send again: that branch opens, the other closes."""
    page, site = keeping_page, keeping_site
    arrive(page, site, PARCEL, at="delivery")
    walk(page, ("address", fill_delivery))
    back_onto_a_kept_page(page, site, "delivery")
    fill_delivery(page, "Pick-up in a shop")
    button(page, "Continue").click()
    expect(button(page, "Send again")).to_be_visible()
    send(page, "/checkout/pickup", "Send again")
    page.goto("/checkout/address")
    on(page, "pickup")


def test_a_kept_review_sent_again_makes_no_second_order(
    keeping_page: Page, keeping_site: Site
) -> None:
    """Back from the end page onto the kept review, and ordering again: the same order."""
    page, site = keeping_page, keeping_site
    arrive(page, site, PARCEL, at="review")
    order(page)
    for _ in range(2):
        back_onto_a_kept_page(page, site, "review")
        send(page, "/checkout/done", "Place the order")
        expect(page.get_by_role("main")).to_contain_text(
            site.orders[0]["checkout.review"]["number"]
        )
    assert len(site.orders) == 1
    back_onto_a_kept_page(page, site, "review")
    button(page, "Keep shopping").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This has already been completed")
    assert site.posted[-1] == ("/checkout/review", 410)
    assert len(site.orders) == 1
