"""A visit that several processes serve is one visit."""

from __future__ import annotations

import os

import pytest
from playwright.sync_api import Page, expect

from ..example.visitor import SIGNUP, Visitor
from .conftest import Site
from .steps import button, fill_account, fill_address, fill_cart, fill_delivery, fill_payment, walk

pytestmark = pytest.mark.browser


def test_any_worker_serves_any_page(page: Page, site: Site) -> None:
    """From page to page another worker may serve, where there are several."""
    page.goto("/checkout/")
    walk(
        page,
        ("delivery", fill_cart),
        ("address", fill_delivery),
        ("payment", fill_address),
        ("review", fill_payment),
    )
    for _ in range(10):
        page.reload()
    others = site.served_by - {os.getpid()}
    assert len(others) > 1 if site.workers > 1 else not others


def test_an_address_that_another_worker_took_is_taken(page: Page, site: Site) -> None:
    """A sign-up with the address of a member is refused, whichever process made the member."""
    Visitor(site.app, "/signup/").walk(SIGNUP)
    page.goto("/signup/")
    fill_account(page)
    button(page, "Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("There is already an account")
    assert len(site.members) == 1
