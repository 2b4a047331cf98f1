"""The live pages: several windows of one flow, all checkouts at once, connections that break."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    WebSocketRoute,
    expect,
)

from ..example.visitor import PARCEL
from .conftest import InOneWorker, Site
from .steps import (
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
from .test_restored import back_onto_a_kept_page, enter

pytestmark = pytest.mark.browser

SOCKET, STREAM = "Live, by websocket", "Live, by event stream"
TYPED = "Oak Street 9 <b>&amp; co</b>"
# What Chromium says when a page asks why no websocket was opened, and the server would open one.
ASKED = ("Failed to load resource: the server responded with a status of 426",)
# What it says while no server is there.
AWAY = ("WebSocket connection to", "Failed to load resource: net::ERR_")


def look_at_light(page: Page, by: str = SOCKET) -> Page:
    """Open the traffic light, and wait until it is live."""
    page.goto("/light/")
    expect(line(page)).to_have_text(by)
    return page


def line(page: Page) -> Locator:
    """What the page says of its connection."""
    return page.locator("#line")


def expect_light(page: Page, state: str) -> None:
    """Expect that colour, in words and in the picture, and the one button that belongs to it."""
    following = {"red": "green", "green": "yellow", "yellow": "red"}[state]
    expect(page.locator("#state")).to_have_text(state)
    expect(page.locator(".signal")).to_have_attribute("data-state", state)
    for colour in ("red", "yellow", "green"):
        change = button(page, f"Change to {colour}")
        if colour == following:
            expect(change).to_be_enabled()
        else:
            expect(change).to_be_disabled()


def said(page: Page) -> Locator:
    """The log of what is happening, newest first, without the times."""
    return page.locator("#log li")


def expect_said(page: Page, *texts: str) -> None:
    """Expect that log, from its newest entry on."""
    expect(said(page)).to_have_text([re.compile(re.escape(text) + "$") for text in texts])


# -- the traffic light --------------------------------------------------------------------------


def test_two_windows_drive_one_light(visitor: BrowserContext) -> None:
    """Each shows what the other does, and both say in words who did it."""
    one, two = (look_at_light(visitor.new_page()) for _ in range(2))
    for page in (one, two):
        expect_light(page, "red")
    button(one, "Change to green").click()
    expect_light(two, "green")
    expect_light(one, "green")
    button(two, "Change to yellow").click()
    expect_light(one, "yellow")
    button(one, "Ping").click()
    expect_said(
        one,
        "The light says: pong.",
        "Another window changed the light to yellow.",
        "You changed the light to green.",
        "The light is red.",
    )
    expect_said(
        two,
        "The light says: pong.",
        "You changed the light to yellow.",
        "Another window changed the light to green.",
        "The light is red.",
    )


def test_another_visitor_has_a_light_of_their_own(
    chromium: Browser, site: Site, visit: Callable[..., BrowserContext]
) -> None:
    """What one visitor does is not told to another one."""
    mine, theirs = (look_at_light(visit(chromium, site).new_page()) for _ in range(2))
    button(mine, "Change to green").click()
    expect_light(mine, "green")
    button(theirs, "Ping").click()
    expect_said(theirs, "The light says: pong.", "The light is red.")
    expect_light(theirs, "red")


def test_a_button_keeps_the_focus(page: Page) -> None:
    """A button pressed by the keyboard is still where the keyboard is, though it is not allowed."""
    look_at_light(page)
    button(page, "Change to green").focus()
    page.keyboard.press("Enter")
    expect_light(page, "green")
    expect(button(page, "Change to green")).to_be_focused()
    page.keyboard.press("Enter")
    expect_light(page, "green")


def test_without_a_script_the_buttons_work(
    chromium: Browser, site: Site, visit: Callable[..., BrowserContext]
) -> None:
    """Pages say that they need a script; the light's buttons work without."""
    page = visit(chromium, site, java_script_enabled=False).new_page()
    for name in ("operations", "htmx", "light"):
        page.goto(f"/{name}/")
        expect(page.locator("noscript p")).to_be_visible()
    expect_light(page, "red")
    expect(button(page, "Ping")).to_have_count(0)
    button(page, "Change to green").click()
    expect(page).to_have_url("/light/")
    expect_light(page, "green")


def test_a_window_without_a_script_moves_the_others(
    chromium: Browser, site: Site, visit: Callable[..., BrowserContext]
) -> None:
    """A form that was posted is told to the windows that are live."""
    context = visit(chromium, site)
    live = look_at_light(context.new_page())
    plain = visit(
        chromium, site, java_script_enabled=False, storage_state=context.storage_state()
    ).new_page()
    plain.goto("/light/")
    button(plain, "Change to green").click()
    expect_light(plain, "green")
    expect_light(live, "green")
    expect_said(live, "Another window changed the light to green.", "The light is red.")


def test_without_websockets_it_is_an_event_stream(
    visit: Callable[..., BrowserContext], chromium: Browser, site: Site
) -> None:
    """Where no websocket can be opened, a window reads a stream and posts its events."""
    visitor = visit(chromium, site, ASKED)
    one, two = visitor.new_page(), visitor.new_page()
    one.route_web_socket(re.compile(r"/ws\b"), lambda socket: socket.close())
    look_at_light(one, STREAM)
    look_at_light(two)
    button(one, "Change to green").click()
    expect_light(two, "green")
    expect_light(one, "green")
    button(two, "Change to yellow").click()
    expect_light(one, "yellow")
    button(one, "Ping").click()
    expect_said(
        one,
        "The light says: pong.",
        "Another window changed the light to yellow.",
        "You changed the light to green.",
        "The light is red.",
    )


def test_back_shows_the_light_as_it_is(
    restoring: Browser, site: Site, visit: Callable[..., BrowserContext]
) -> None:
    """Back onto the page, which the browser may have kept: it shows what happened meanwhile."""
    context = visit(restoring, site)
    one, two = (look_at_light(context.new_page()) for _ in range(2))
    one.get_by_role("link", name="Kontor").click()
    expect(one).to_have_url("/")
    button(two, "Change to green").click()
    expect_light(two, "green")
    one.go_back(wait_until="commit")
    expect(line(one)).to_have_text(SOCKET)
    expect_light(one, "green")
    button(one, "Change to yellow").click()
    expect_light(two, "yellow")


# -- a server that is restarted -----------------------------------------------------------------


@pytest.fixture
def one_worker(
    apart: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InOneWorker]:
    """A server of one worker that can be restarted, its flows being in a store."""
    folder = tmp_path_factory.mktemp("site")
    store = apart["FSM_STORE_URL"] or f"sqlite:///{folder / 'fsm.db'}"
    server = InOneWorker(folder, {**apart, "FSM_STORE_URL": store})
    yield server
    server.stop()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_windows_come_back_after_a_restart(
    chromium: Browser,
    one_worker: InOneWorker,
    visit: Callable[..., BrowserContext],
    how: signal.Signals,
) -> None:
    """A server that is stopped or killed, and started again, finds all windows where they were."""
    context = visit(chromium, Site(one_worker), AWAY)
    one, two = (look_at_light(context.new_page()) for _ in range(2))
    button(one, "Change to green").click()
    expect_light(two, "green")
    one_worker.restart(how)
    for page in (one, two):
        expect(said(page).filter(has_text="The connection was lost.")).to_have_count(1)
        expect(said(page).filter(has_text="Connected again.")).to_have_count(1)
        expect(line(page)).to_have_text(SOCKET)
        expect_light(page, "green")
    button(two, "Change to yellow").click()
    expect_light(one, "yellow")
    expect(said(one).first).to_contain_text("Another window changed the light to yellow.")


def test_an_event_whose_answer_is_lost_is_not_said_to_be_refused(page: Page) -> None:
    """The light has changed, and the window can't know it: it says so, and then shows it."""
    cut = []

    def handle(window: WebSocketRoute) -> None:
        server = window.connect_to_server()

        def forward(message: str | bytes) -> None:
            server.send(message)
            if "change_to_green" in str(message) and not cut:
                cut.append(message)
                window.close(code=1013)

        window.on_message(forward)

    page.route_web_socket("**/light/ws**", handle)
    look_at_light(page)
    button(page, "Change to green").click()
    outcome = said(page).filter(has_text="may or may not have been handled")
    expect(outcome).to_have_count(1)
    expect(said(page).filter(has_text="Connected again.")).to_have_count(1)
    expect_light(page, "green")
    expect(said(page).filter(has_text="refused")).to_have_count(0)


def test_an_event_that_could_not_be_sent_is_not_said_to_be_refused(page: Page) -> None:
    """What never left the window is said not to have been sent."""
    look_at_light(page)
    page.evaluate(
        """async () => {
            const { Flow } = await import("/fsm/static/fsm.js");
            Flow.prototype.send = async () => {
                throw Object.assign(new Error("in time"), { reason: "not_sent" });
            };
        }"""
    )
    button(page, "Change to green").click()
    expect(said(page).first).to_contain_text("The event was not sent.")


# -- the checkout in two tabs -------------------------------------------------------------------


def notice(page: Page) -> Locator:
    return page.locator("#elsewhere")


def test_a_second_tab_is_told_where_the_checkout_went(page: Page, site: Site) -> None:
    """The tab left behind says where the first one is, and keeps each word that was typed."""
    arrive(page, site, PARCEL, at="address")
    stale = page.context.new_page()
    stale.goto("/checkout/address")
    fill_address(stale, street=TYPED)
    page.bring_to_front()
    walk(page, ("payment", fill_address))
    expect(notice(stale)).to_have_text(
        "This checkout has moved on to Payment in another window. Go there"
    )
    expect(notice(page)).to_be_empty()
    walk(page, ("review", fill_payment))
    expect(notice(stale)).to_contain_text("has moved on to Review in another window.")
    expect(stale.get_by_label("Street and number")).to_have_value(TYPED)
    stale.get_by_role("link", name="Go there").click()
    on(stale, "review")
    expect(notice(stale)).to_be_empty()


def test_a_tab_opened_before_the_first_step_is_told(page: Page) -> None:
    """Two tabs at the cart: the first step in one is told to the other."""
    page.goto("/checkout/")
    other = page.context.new_page()
    other.goto("/checkout/")
    fill_cart(page)
    send(page, "/checkout/delivery")
    expect(notice(other)).to_contain_text("has moved on to Delivery in another window.")


def test_a_change_that_comes_back_here_is_told(page: Page, site: Site) -> None:
    """An earlier page changed in one tab leads back to the review: the other's is out of date."""
    arrive(page, site, PARCEL, at="review")
    other = page.context.new_page()
    other.goto("/checkout/address")
    fill_address(other, street="Elm Street 5")
    send(other, "/checkout/review")
    expect(notice(page)).to_contain_text("was changed in another window. Load this page again")
    page.get_by_role("link", name="Load this page again").click()
    expect(notice(page)).to_be_empty()
    expect(page.get_by_role("main")).to_contain_text("Elm Street 5")


def test_the_cart_after_an_order_has_no_notice(page: Page, site: Site) -> None:
    """Beginning another order after the last one is no move of another window."""
    arrive(page, site, PARCEL, at="review")
    order(page)
    with page.expect_response(re.compile("/fsm/checkout/events")):
        page.goto("/checkout/")
    fill_cart(page)
    expect(notice(page)).to_be_empty()
    send(page, "/checkout/delivery")
    expect(notice(page)).to_be_empty()


def test_a_page_that_was_kept_says_what_happened(
    restoring: Browser, serve: Callable[..., Site], visit: Callable[..., BrowserContext]
) -> None:
    """Back onto a page that the browser has kept: a notice, and what was typed is still there."""
    site = serve(SESSION_COOKIE_HTTPONLY=False)
    page = enter(restoring, site, visit)
    arrive(page, site, PARCEL, at="address")
    fill_address(page, street=TYPED)
    other = page.context.new_page()
    other.goto("/checkout/address")
    page.get_by_role("link", name="Kontor").click()
    expect(page).to_have_url("/")
    walk(other, ("payment", fill_address))
    back_onto_a_kept_page(page, site, "address")
    expect(notice(page)).to_contain_text("has moved on to Payment since you left this page.")
    expect(page.get_by_label("Street and number")).to_have_value(TYPED)


# -- operations ---------------------------------------------------------------------------------


def test_operations_follows_the_checkouts_of_all(
    chromium: Browser, site: Site, visit: Callable[..., BrowserContext]
) -> None:
    """Each move of each visitor is there at once, the newest first, and nothing of who they are."""
    watcher = visit(chromium, site).new_page()
    watcher.goto("/operations/")
    expect(line(watcher)).to_have_text(SOCKET)
    moves = watcher.locator("#moves li")
    expect(moves).to_have_count(0)
    for number in (1, 2):
        shopper = visit(chromium, site).new_page()
        shopper.goto("/checkout/")
        walk(shopper, ("delivery", fill_cart), ("address", fill_delivery))
        if number == 1:
            walk(shopper, ("payment", fill_address))
    expect(moves.locator("span")).to_have_text(
        [
            "Delivery → Address",
            "Cart → Delivery",
            "Address → Payment",
            "Delivery → Address",
            "Cart → Delivery",
        ]
    )
    runs = moves.locator("b").all_inner_texts()
    assert runs == [runs[0]] * 2 + [runs[2]] * 3
    assert runs[0] != runs[2]
    for title, count in (("Delivery", "0"), ("Address", "1"), ("Payment", "1")):
        expect(watcher.locator(f"[data-page='{title}']")).to_have_text(count)


def test_operations_shows_who_looks_on(
    chromium: Browser, site: Site, visit: Callable[..., BrowserContext]
) -> None:
    """Who comes and who goes is there at once, under a name that tells nothing."""
    here, there = visit(chromium, site), visit(chromium, site)
    first = here.new_page()
    first.goto("/operations/")
    count = first.locator("#count")
    expect(first.locator("#who li")).to_have_text([re.compile(r"^Guest [0-9a-f]{2}$")])
    expect(count).to_have_text("1")
    second = here.new_page()
    second.goto("/operations/")
    expect(first.locator("#who li")).to_have_text([re.compile("in 2 windows$")])
    third = there.new_page()
    third.goto("/operations/")
    for page in (first, second, third):
        expect(page.locator("#count")).to_have_text("3")
    second.close()
    third.goto("/")
    expect(count).to_have_text("1")


# -- htmx ---------------------------------------------------------------------------------------


def test_htmx_drives_the_same_light(visitor: BrowserContext) -> None:
    """Its extensions for streams and for websockets show the light, and change it."""
    light, page = look_at_light(visitor.new_page()), visitor.new_page()
    page.goto("/htmx/")
    stream, socket = (page.get_by_role("region", name=name) for name in ("Event", "Websocket"))
    stream.get_by_role("button", name="Change to green").click()
    expect_light(light, "green")
    for half in (stream, socket):
        expect(half).to_contain_text("The light is green.")
    socket.get_by_role("button", name="Change to yellow").click()
    expect_light(light, "yellow")
    expect(stream.locator(".signal")).to_have_attribute("data-state", "yellow")
    button(light, "Change to red").click()
    for half in (stream, socket):
        expect(half).to_contain_text("The light is red.")
    socket.get_by_role("button", name="Ping").click()
    expect(socket).to_contain_text("The light says: pong.")
    socket.get_by_role("button", name="Change to red").click()
    expect(socket).to_contain_text("change_to_red")
    expect_light(light, "red")
