"""What a visitor does on the pages, by the words that stand on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from playwright.sync_api import Locator, Page, expect

from ..example.visitor import ADDRESS, GIFT, PASSWORD, PAYMENT, Visitor, open_day
from .conftest import Site

NAME, STREET, TOWN = ADDRESS["name"], ADDRESS["street"], ADDRESS["city"]
EMAIL, WORDS = PAYMENT["email"], GIFT["wrapping"]["words"]


def fill_cart(page: Page, notebooks: int = 2) -> None:
    page.get_by_label("Number of notebooks").fill(str(notebooks))


def fill_delivery(page: Page, how: str = "By parcel", *, gift: bool = False) -> None:
    page.get_by_label(how).check()
    page.get_by_label("This is a gift").set_checked(gift)


def fill_address(page: Page, street: str = STREET) -> None:
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Street and number").fill(street)
    page.get_by_label("Postcode").fill(ADDRESS["postcode"])
    page.get_by_label("Town").fill(TOWN)
    page.get_by_label("Country").select_option("Austria")


def fill_pickup(page: Page) -> None:
    page.get_by_label("Old Mill").check()
    page.get_by_label("Which day?").fill(open_day().isoformat())


def fill_wrapping(page: Page, words: str = WORDS) -> None:
    page.get_by_label("Night blue").check()
    page.get_by_label("Message on the card").fill(words)


def fill_payment(page: Page) -> None:
    page.get_by_label("Bank transfer").check()
    page.get_by_label("Email").fill(EMAIL)


def fill_account(page: Page, email: str = EMAIL) -> None:
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Repeat the password").fill(PASSWORD)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def send(page: Page, leads_to: str, name: str = "Continue") -> None:
    """Press the button, and be on that page then."""
    button(page, name).click()
    expect(page).to_have_url(leads_to)


def on(page: Page, name: str) -> None:
    """Expect that page of the checkout, wherever on it."""
    expect(page).to_have_url(re.compile(rf"/checkout/{name}(#.*)?$"))


def arrive(page: Page, site: Site, way: Mapping[str, Mapping[str, str]], at: str) -> None:
    """Open that page of the checkout, all before it having been sent without the browser.

    This is for tests in which something else is looked at: a page in a browser takes its time.
    """
    scout = Visitor(site.app)
    scout.walk(way, to=at)
    cookie = scout.client.get_cookie("session")
    assert cookie is not None
    page.context.add_cookies(
        [
            {
                "name": "session",
                "value": cookie.value,
                "url": site.url,
                "httpOnly": cookie.http_only,
                "sameSite": "Lax",
            }
        ]
    )
    page.goto(f"/checkout/{at}")
    on(page, at)


def walk(page: Page, *fills: tuple[str, Callable[[Page], None]]) -> None:
    """Fill in the forms from this page on; each leads to the page that is named with it."""
    for leads_to, fill in fills:
        fill(page)
        send(page, f"/checkout/{leads_to}")


def order(page: Page) -> None:
    """Agree on the review page, and order."""
    page.get_by_label("I have read the terms").check()
    send(page, "/checkout/done", "Place the order")
