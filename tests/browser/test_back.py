"""Back onto an answer that a page gave to its own form, as onto that of any Flask view."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from ..example.visitor import PARCEL, PAYMENT
from .conftest import Site
from .steps import STREET, arrive, button, fill_address, fill_payment, on, order, send, walk

pytestmark = pytest.mark.browser


def refuse_postcode(page: Page, site: Site, postcode: str = "A-10") -> None:
    """Fill in the address with a postcode that is refused, and send it."""
    fill_address(page)
    page.get_by_label("Postcode").fill(postcode)
    button(page, "Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter four or five digits.")
    assert site.posted[-1] == ("/checkout/address", 422)


def expect_refused_postcode(page: Page, postcode: str = "A-10") -> None:
    """Expect the refused form, with its message; the browser fills in what was typed last."""
    on(page, "address")
    expect(page.get_by_role("alert")).to_contain_text("Enter four or five digits.")
    expect(page.get_by_label("Postcode")).to_have_attribute("value", postcode)
    expect(page.get_by_label("Street and number")).to_have_value(STREET)


def test_back_shows_the_form_that_was_refused_and_then_corrected(page: Page, site: Site) -> None:
    """Refused, corrected, Back: the refused form as it was, and no page of the browser's own."""
    arrive(page, site, PARCEL, at="address")
    refuse_postcode(page, site)
    fill_address(page)
    send(page, "/checkout/payment")
    posted = site.posted.copy()
    page.go_back()
    expect_refused_postcode(page)
    assert site.posted == posted  # shown again, not sent again
    page.go_forward()
    on(page, "payment")


def test_a_refused_form_gone_back_to_can_be_sent_after_all(page: Page, site: Site) -> None:
    """Its token is old by now: what is typed there is shown, and taken with Send again."""
    arrive(page, site, PARCEL, at="address")
    refuse_postcode(page, site)
    fill_address(page)
    send(page, "/checkout/payment")
    page.go_back()
    expect_refused_postcode(page)
    fill_address(page, street="Elm Street 5")
    button(page, "Continue").click()
    expect(page.get_by_role("main")).to_contain_text("Elm Street 5")
    assert site.posted[-1] == ("/checkout/address", 409)
    send(page, "/checkout/payment", "Send again")
    walk(page, ("review", fill_payment))
    order(page)
    assert [taken["checkout.address"]["street"] for taken in site.orders] == ["Elm Street 5"]


def test_back_shows_what_a_rule_of_the_flow_has_refused(page: Page, site: Site) -> None:
    """A form that the machine refused, and not WTForms, is gone back to just so."""
    arrive(page, site, PARCEL, at="payment")
    page.get_by_label("In the shop").check()
    page.get_by_label("Email").fill(PAYMENT["email"])
    button(page, "Continue").click()
    message = "You can pay in the shop only if you pick up your order there."
    expect(page.get_by_role("alert")).to_contain_text(message)
    page.get_by_label("Bank transfer").check()
    send(page, "/checkout/review")
    page.go_back()
    on(page, "payment")
    expect(page.get_by_role("alert")).to_contain_text(message)


def test_back_leaves_a_refused_form_by_a_link_and_returns_to_it(page: Page, site: Site) -> None:
    """Twice refused, left by a link, Back: the second refusal stands there."""
    arrive(page, site, PARCEL, at="address")
    refuse_postcode(page, site)
    refuse_postcode(page, site, "B-20")
    page.get_by_role("link", name="Kontor").click()
    expect(page).to_have_url("/")
    page.go_back()
    expect_refused_postcode(page, "B-20")
