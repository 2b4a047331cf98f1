"""The proof of concept: four pages, each way once."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from .conftest import Site
from .steps import send

pytestmark = pytest.mark.browser


def walk_to_b(page: Page) -> None:
    page.goto("/poc/")
    send(page, "/poc/a", "Go to A")
    send(page, "/poc/b", "Go to B")


def test_the_index_leads_over_a_and_b_to_c(page: Page, site: Site) -> None:
    """Three buttons lead to the end; page B shows the ways taken so far."""
    walk_to_b(page)
    status = page.get_by_text("poc.index -> poc.a")
    expect(status).to_have_text("poc.index -> poc.a\npoc.a -> poc.b")
    send(page, "/poc/c", "Go to C")
    expect(page.get_by_text("poc.b -> poc.c")).to_be_visible()
    assert site.moves == [("index", "a"), ("a", "b"), ("b", "c")]
    page.goto("/poc/b")
    expect(page).to_have_url("/poc/c")


def test_the_button_pressed_chooses_the_way(page: Page, site: Site) -> None:
    """Page B has two buttons, and the one to the index leads there."""
    walk_to_b(page)
    send(page, "/poc/", "Back to the index")
    assert site.moves == [("index", "a"), ("a", "b"), ("b", "index")]


def test_a_link_moves_nothing(page: Page, site: Site) -> None:
    """Opening the index with `?to=a` shows the index; only its button leads on."""
    page.goto("/poc/")
    page.get_by_role("link", name="?to=a").click()
    expect(page).to_have_url("/poc/?to=a")
    expect(page.get_by_role("heading", level=1)).to_have_text("The index")
    assert site.moves == []
    send(page, "/poc/a", "Go to A")
    assert site.moves == [("index", "a")]


def test_no_page_can_be_skipped(page: Page, site: Site) -> None:
    """Typing the address of C at A leads back to A."""
    page.goto("/poc/")
    send(page, "/poc/a", "Go to A")
    page.goto("/poc/c")
    expect(page).to_have_url("/poc/a")
    assert site.moves == [("index", "a")]
