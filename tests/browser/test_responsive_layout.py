"""Every page on a small phone, by day and by night: nothing sticks out, nothing stays dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ..example.visitor import ADDRESS, GIFT, PICKUP
from .conftest import Site
from .steps import (
    arrive,
    button,
    fill_account,
    fill_cart,
    fill_delivery,
    fill_pickup,
    on,
    order,
    send,
)

pytestmark = pytest.mark.browser

WIDTH = 360
# Words as long as the forms take them, which no line can break by itself.
LONG = {
    **GIFT,
    "": {"notebook": "9", "pencils": "9", "ink": "9"},
    "address": {**ADDRESS, "name": "N" * 80, "street": "S" * 80, "city": "T" * 80},
    "wrapping": {"paper": "leaves", "words": "W" * 200},
    "payment": {"method": "transfer", "email": "e" * 60 + "@example.com"},
}
OUTSIDE = """width => [...document.querySelectorAll("body *")]
  .filter(it => it.getBoundingClientRect().right > width + 1)
  .map(it => it.outerHTML.slice(0, 120))
"""
BRIGHTNESS = """() => {
  const of = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, n) => sum + +n, 0)
  const style = getComputedStyle(document.body)
  const ground = [style, getComputedStyle(document.documentElement)]
    .map(it => it.backgroundColor).find(it => !/, 0\\)$/.test(it)) ?? "rgb(255, 255, 255)"
  return [of(style.color), of(ground)]
}"""


@pytest.fixture
def page(chromium: Browser, site: Site, visit: Callable[..., BrowserContext]) -> Page:
    """A tab on a small phone."""
    phone = visit(chromium, site, viewport={"width": WIDTH, "height": 640}, has_touch=True)
    return phone.new_page()


def look(page: Page) -> None:
    """Look at the page in light and in dark."""
    page.wait_for_load_state()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= WIDTH, (page.url, scheme, width, page.evaluate(OUTSIDE, WIDTH))
        text, ground = page.evaluate(BRIGHTNESS)
        assert (text < ground) == (scheme == "light"), (page.url, scheme, text, ground)


def look_at_refused(page: Page, name: str = "Continue") -> None:
    """Send a form that is not right, and look at what comes back."""
    button(page, name).click()
    expect(page.get_by_role("alert")).to_be_visible()
    look(page)


def test_the_checkout_fits(page: Page, site: Site) -> None:
    """All pages of a gift parcel, with the longest words that their forms take."""
    arrive(page, site, LONG, at="review")
    look_at_refused(page, "Place the order")
    for name in ("", "delivery", "address", "wrapping", "payment", "review"):
        page.goto(f"/checkout/{name}")
        on(page, name)
        look(page)
    order(page)
    look(page)


def test_the_forms_that_come_back_fit(page: Page, site: Site) -> None:
    """The same forms, refused, with their messages."""
    page.goto("/checkout/")
    look_at_refused(page)
    fill_cart(page)
    send(page, "/checkout/delivery")
    look_at_refused(page)
    fill_delivery(page, gift=True)
    send(page, "/checkout/address")
    look_at_refused(page)
    arrive(page, site, LONG, at="wrapping")
    look_at_refused(page)
    arrive(page, site, LONG, at="payment")
    look_at_refused(page)


def test_the_pick_up_fits(page: Page, site: Site) -> None:
    """The pages of the other branch, and the notice after a deep link."""
    arrive(page, site, PICKUP, at="pickup")
    look(page)
    look_at_refused(page)
    page.goto("/checkout/done")
    expect(page.get_by_role("main").get_by_role("status")).to_be_visible()
    look(page)
    fill_pickup(page)
    send(page, "/checkout/payment")
    arrive(page, site, PICKUP, at="review")
    look(page)


def test_the_pages_that_refuse_fit(page: Page, site: Site) -> None:
    """A conflict, a finished order, an expired form and a wrong address, with long words."""
    arrive(page, site, LONG, at="address")
    stale = page.context.new_page()
    stale.goto("/checkout/address")
    for tab in (stale, page):
        tab.bring_to_front()
        for label, name in (("Name", "name"), ("Street and number", "street"), ("Town", "city")):
            tab.get_by_label(label).fill(LONG["address"][name])
        tab.get_by_label("Postcode").fill("1090" if tab is page else "10900")
    send(page, "/checkout/wrapping")
    stale.bring_to_front()
    button(stale, "Continue").click()
    expect(button(stale, "Send again")).to_be_visible()
    look(stale)

    arrive(page, site, LONG, at="review")
    stale.goto("/checkout/review")
    page.bring_to_front()
    order(page)
    stale.bring_to_front()
    stale.get_by_label("I have read the terms").check()
    button(stale, "Place the order").click()
    expect(stale.get_by_role("link", name="See the result")).to_be_visible()
    look(stale)

    stale.goto("/checkout/")
    stale.context.clear_cookies()
    button(stale, "Continue").click()
    expect(stale.get_by_role("heading", level=1)).to_have_text("This form has expired")
    look(stale)

    stale.goto("/nowhere")
    expect(stale.get_by_role("heading", level=1)).to_have_text("Page not found")
    look(stale)


def test_the_home_page_and_the_sign_up_fit(page: Page) -> None:
    """The first page, and all of the sign-up with its messages."""
    page.goto("/")
    look(page)
    page.goto("/signup/")
    look(page)
    look_at_refused(page)
    fill_account(page, email="e" * 60 + "@example.com")
    send(page, "/signup/profile")
    look(page)
    look_at_refused(page)
    page.get_by_label("What should we call you?").fill("N" * 60)
    send(page, "/signup/confirm")
    look(page)
    look_at_refused(page, "Create account")
    page.get_by_label("I agree to the terms").check()
    send(page, "/signup/welcome", "Create account")
    look(page)


def test_the_live_pages_fit(page: Page, site: Site) -> None:
    """The light with its log, the operations with a move, htmx, and a notice in a second tab."""
    page.goto("/light/")
    button(page, "Change to green").click()
    button(page, "Ping").click()
    expect(page.locator("#log")).to_contain_text("pong")
    look(page)
    page.goto("/htmx/")
    button(page, "Ping").click()
    expect(page.get_by_role("main")).to_contain_text("pong")
    look(page)
    page.goto("/operations/")
    expect(page.locator("#line")).to_have_attribute("data-kind", "open")
    tab = page.context.new_page()
    tab.goto("/checkout/")
    stale = page.context.new_page()
    stale.goto("/checkout/")
    fill_cart(tab)
    send(tab, "/checkout/delivery")
    expect(page.locator("#moves li")).to_have_count(1)
    look(page)
    expect(stale.locator("#elsewhere")).to_contain_text("Delivery")
    look(stale)


def test_the_proof_of_concept_fits(page: Page) -> None:
    """Its four pages."""
    page.goto("/poc/")
    look(page)
    for name in ("a", "b", "c"):
        send(page, f"/poc/{name}", f"Go to {name.upper()}")
        look(page)
