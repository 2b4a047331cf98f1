"""Forms for everybody: messages next to their fields, and no mouse needed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from ..example.visitor import ADDRESS, PARCEL, PAYMENT, PICKUP
from .conftest import Site
from .steps import WORDS, arrive, button, fill_address, fill_pickup, on, send

pytestmark = pytest.mark.browser


def refused(page: Page, name: str = "Continue") -> Locator:
    """Press the button, and return the summary of what the page has against it."""
    button(page, name).click()
    summary = page.get_by_role("alert")
    expect(summary).to_be_focused()
    return summary


def test_messages_stand_next_to_their_fields(page: Page, site: Site) -> None:
    """Each field says what is wrong with it, to the eye and to a screen reader, keeping what
    was typed; the fields that are right say nothing."""
    arrive(page, site, PARCEL, at="address")
    fill_address(page)
    page.get_by_label("Postcode").fill("A-10")
    page.get_by_label("Town").fill("")
    summary = refused(page)
    assert site.posted[-1] == ("/checkout/address", 422)
    expect(summary.get_by_role("listitem")).to_have_text(
        ["Enter four or five digits.", "Enter a town."]
    )
    for label, value, message in (
        ("Postcode", "A-10", "Enter four or five digits."),
        ("Town", "", "Enter a town."),
    ):
        field = page.get_by_label(label)
        expect(field).to_have_value(value)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description(re.compile(re.escape(message)))
        expect(page.locator("form").get_by_text(message)).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value(ADDRESS["name"])
    expect(page.get_by_label("Name")).not_to_have_attribute("aria-invalid", "true")
    expect(page).to_have_title(re.compile("Please check"))


def test_the_summary_leads_to_the_fields(page: Page, site: Site) -> None:
    """A message in the summary is a link, and following it puts the focus on its field."""
    arrive(page, site, PARCEL, at="address")
    refused(page).get_by_role("link", name="Enter a town.").click()
    expect(page.get_by_label("Town")).to_be_focused()


def test_a_group_of_choices_says_what_it_lacks(page: Page, site: Site) -> None:
    """The message of radio buttons belongs to their group, and its link leads into it."""
    arrive(page, site, PARCEL, at="delivery")
    summary = refused(page)
    group = page.get_by_role("radiogroup").or_(page.get_by_role("group"))
    expect(group).to_have_accessible_description("Choose delivery by parcel or pick-up.")
    summary.get_by_role("link", name="Choose delivery").click()
    expect(page.get_by_label("By parcel")).to_be_focused()


def test_a_rule_of_the_flow_speaks_next_to_its_field(page: Page, site: Site) -> None:
    """What the machine refuses, and not the form, stands next to its field just so."""
    arrive(page, site, PARCEL, at="payment")
    page.get_by_label("In the shop").check()
    page.get_by_label("Email").fill(PAYMENT["email"])
    summary = refused(page)
    message = "You can pay in the shop only if you pick up your order there."
    expect(summary).to_contain_text(message)
    group = page.get_by_role("radiogroup").or_(page.get_by_role("group"))
    expect(group).to_have_accessible_description(message)
    expect(page.get_by_label("In the shop")).to_be_checked()
    page.get_by_label("Bank transfer").check()
    send(page, "/checkout/review")


def test_a_day_gone_by_is_told_next_to_the_day(page: Page, site: Site) -> None:
    """A day outside the next two weeks is refused, and another one is taken."""
    arrive(page, site, PICKUP, at="pickup")
    page.get_by_label("Old Mill").check()
    page.get_by_label("Which day?").fill("2001-01-03")
    refused(page)
    day = page.get_by_label("Which day?")
    expect(day).to_have_accessible_description(re.compile("within the next two weeks"))
    expect(day).to_have_value("2001-01-03")
    fill_pickup(page)
    send(page, "/checkout/payment")


def test_an_order_needs_the_terms(page: Page, site: Site) -> None:
    """Without the tick there is no order, and the tick says why."""
    arrive(page, site, PARCEL, at="review")
    refused(page, "Place the order")
    expect(page.get_by_label("I have read the terms")).to_have_accessible_description(
        re.compile("Agree to the terms")
    )
    assert site.orders == []


def tab_to(page: Page, field: Locator) -> None:
    """Press Tab until the focus is there, and see that it can be seen."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if field.evaluate("field => field === document.activeElement"):
            expect(field).to_be_in_viewport()
            return
    raise AssertionError(f"Tab does not lead to {field}.")


def test_the_keyboard_is_enough(page: Page, site: Site) -> None:
    """A gift parcel is ordered by Tab, Space, Enter and letters alone."""
    press, type_ = page.keyboard.press, page.keyboard.type
    page.goto("/checkout/")

    press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    press("Enter")
    tab_to(page, page.get_by_label("Number of notebooks"))
    press("Control+A")
    type_("2")
    press("Enter")

    on(page, "delivery")
    tab_to(page, page.get_by_label("By parcel"))
    press("Space")
    tab_to(page, page.get_by_label("This is a gift"))
    press("Space")
    tab_to(page, button(page, "Continue"))
    press("Space")

    on(page, "address")
    for label, text in (
        ("Name", ADDRESS["name"]),
        ("Street and number", ADDRESS["street"]),
        ("Postcode", ADDRESS["postcode"]),
        ("Town", ADDRESS["city"]),
    ):
        tab_to(page, page.get_by_label(label))
        type_(text)
    tab_to(page, page.get_by_label("Country"))
    tab_to(page, button(page, "Continue"))
    press("Enter")

    on(page, "wrapping")
    tab_to(page, page.get_by_role("radio").first)
    press("Space")
    tab_to(page, page.get_by_label("Message on the card"))
    type_(WORDS)
    tab_to(page, button(page, "Continue"))
    press("Enter")

    on(page, "payment")
    tab_to(page, page.get_by_role("radio").first)
    press("Space")
    tab_to(page, page.get_by_label("Email"))
    type_(PAYMENT["email"])
    press("Enter")

    on(page, "review")
    press("Tab")
    tab_to(page, page.get_by_label("I have read the terms"))
    press("Space")
    tab_to(page, button(page, "Place the order"))
    press("Enter")
    on(page, "done")
    assert [taken["checkout.wrapping"]["words"] for taken in site.orders] == [WORDS]


def test_the_keyboard_gets_out_of_a_conflict(page: Page, site: Site) -> None:
    """The page that tells of a conflict works by keyboard too: Tab to Send again, Enter."""
    arrive(page, site, PARCEL, at="address")
    stale = page.context.new_page()
    stale.goto("/checkout/address")
    page.bring_to_front()
    fill_address(page)
    send(page, "/checkout/payment")
    stale.bring_to_front()
    fill_address(stale, street="Oak Street 9")
    stale.get_by_label("Town").press("Enter")
    expect(button(stale, "Send again")).to_be_visible()
    tab_to(stale, button(stale, "Send again"))
    stale.keyboard.press("Enter")
    on(stale, "payment")
