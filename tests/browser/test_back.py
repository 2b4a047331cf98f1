"""Back onto an answer that a page gave to its own form, as onto that of any Flask view."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, render_template_string, request
from playwright.sync_api import Browser, BrowserContext, Page, expect
from werkzeug.serving import make_server

import example_app
from flask_fsm import FlaskFSM, Machine, Transition

from ..clients import LOOPBACK
from ..example.visitor import PARCEL, PAYMENT
from .conftest import Quiet, Site
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


# -- htmx -----------------------------------------------------------------------------------

HTMX = Path(example_app.__file__).parent / "static" / "vendor" / "htmx.min.js"
BOOSTED = """\
<!doctype html><title>{{ page }}</title>
<meta name="htmx-config" content='{"historyCacheSize": 0}'>
<link rel="icon" href="data:,">
<script src="{{ url_for('static', filename='htmx.min.js') }}"></script>
<body hx-boost="true">
{% for text in get_flashed_messages() %}<p role="status">{{ text }}</p>{% endfor %}
<h1>{{ page }}</h1><a href="/help">Help</a>
{% if page != "help" %}
<form method="post">{{ fsm.token() }}<button>Continue</button></form>
{% endif %}
"""


@pytest.fixture
def boosted() -> Iterator[Any]:
    """Pages that htmx loads into one document; it keeps none of them, and asks for each on Back."""
    app = Flask("boosted", static_folder=str(HTMX.parent))
    app.config.update(SECRET_KEY="a key for tests")
    fsm = FlaskFSM(
        app, Machine("m", [Transition("a", "b", back="discard"), ("b", "c"), ("c", "d")])
    )

    def show(page: str) -> str:
        return render_template_string(BOOSTED, page=page)

    for name in "abcd":

        @app.route(f"/{name}", methods=["GET", "POST"], endpoint=name)
        @fsm.check()
        def view(name: str = name) -> Any:
            return fsm.advance() if request.method == "POST" else show(name)

    app.add_url_rule("/help", "help", lambda: show("help"))
    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://{LOOPBACK}:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("way", ["ab", "bcd"])
def test_htmx_back_to_a_closed_page_shows_the_page_to_go_on_with(
    chromium: Browser,
    boosted: Any,
    visit: Callable[..., BrowserContext],
    way: str,
) -> None:
    """A page that another tab has closed, or whose run has ended: no blank one is restored."""
    context = visit(chromium, boosted)
    page = context.new_page()
    heading = page.get_by_role("heading", level=1)
    page.goto("/a")
    if way[0] == "b":
        send(page, "/b")
    page.get_by_role("link", name="Help").click()
    expect(heading).to_have_text("help")
    other = context.new_page()
    other.goto(f"/{way[0]}")
    for name in way[1:]:
        send(other, f"/{name}")
    with page.expect_request(lambda asked: "hx-history-restore-request" in asked.headers):
        page.go_back()
    expect(heading).to_have_text(way[-1])
    expect(page.get_by_role("status")).to_have_count(1)


def test_htmx_back_to_an_open_page_shows_it(
    chromium: Browser, boosted: Any, visit: Callable[..., BrowserContext]
) -> None:
    """A page that may still be edited is restored as it is."""
    page = visit(chromium, boosted).new_page()
    heading = page.get_by_role("heading", level=1)
    page.goto("/a")
    page.get_by_role("link", name="Help").click()
    expect(heading).to_have_text("help")
    page.go_back()
    expect(heading).to_have_text("a")
    button(page, "Continue").click()
    expect(heading).to_have_text("b")
