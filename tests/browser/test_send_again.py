"""A form that is refused: what was typed is on the page, and the browser sends all of it again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import choices
from string import ascii_letters
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask, render_template_string, request
from playwright.sync_api import Browser, Page, expect
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from flask_fsm import FlaskFSM, Machine
from flask_fsm.testing import frozen_clock

from ..clients import LOOPBACK
from .conftest import PATIENCE, Quiet
from .steps import button

pytestmark = pytest.mark.browser

DAY = 86_400.0
TYPED = "Oak Street 9 <b>&amp; co</b>\n100% \N{SNOWMAN}"
PAGE = """\
<!doctype html><title>{{ page }}</title><link rel="icon" href="data:,">
<h1>{{ page }}</h1>
<form method="post" action="{{ action }}" enctype="{{ enctype }}">{{ fsm.token() }}
  <label>Words <textarea name="words"></textarea></label>
  {% for number in range(count) %}<input name="field_{{ number }}" value="{{ number }}">{% endfor %}
  {% if file %}<input type="file" name="photo">{% endif %}
  <button name="pressed" value="yes">Continue</button>
</form>
"""


class Served:
    """An app with the pages start, write, check and end, behind a real server."""

    def __init__(
        self,
        mount: str = "",
        store: str = "session",
        rule: str = "",
        action: str = "",
        count: int = 0,
        file: bool = False,
        **machine: Any,
    ) -> None:
        self.app = Flask("again")
        self.app.config.update(
            SECRET_KEY="a key for tests",
            FSM_STORE_URL=store,
            FSM_FLOW_LIFETIME=DAY,
            FSM_STORE_TIMEOUT=1.0,
        )
        edges = [("start", "write"), ("write", "check"), ("check", "end")]
        self.fsm = FlaskFSM(self.app, Machine("again", edges, **machine))
        if store.startswith("sqlite"):
            with self.app.app_context():
                self.fsm.init_db()
        self.file = file
        self.action = action
        self.shown = {
            "count": count,
            "file": file,
            "enctype": "multipart/form-data" if file else "application/x-www-form-urlencoded",
        }
        self.kept: dict[str, Any] = {}
        for name in ("start", "write", "check", "end"):
            self.add(f"/{name}{rule}", name, name, ["GET", "POST"])
        if action:
            self.add(action, "save", "write", ["POST"])
        wrapped = DispatcherMiddleware(Flask("front"), {mount: self.app}) if mount else self.app
        self._server = make_server(LOOPBACK, 0, wrapped, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)
        self._thread.start()
        self.url = f"http://{LOOPBACK}:{self._server.server_port}{mount}"

    def add(self, rule: str, endpoint: str, state: str, methods: list[str]) -> None:
        def view(**_: Any) -> Any:
            if request.method != "POST":
                shown = {**self.shown, "action": self.action if state == "write" else ""}
                return render_template_string(PAGE, page=state, **shown)
            if self.file:
                assert request.files["photo"].filename == ""
            self.kept = {name: request.form.getlist(name) for name in request.form}
            return self.fsm.advance(data={"words": request.form["words"]})

        guarded = self.fsm.check(state=state)(view)
        self.app.add_url_rule(rule, endpoint, guarded, methods=methods)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve_pages() -> Iterator[Callable[..., Served]]:
    served: list[Served] = []

    def make(**options: Any) -> Served:
        served.append(Served(**options))
        return served[-1]

    yield make
    for each in served:
        each.stop()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """The first tab of a visitor, who may meet errors of the server."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def go_on(page: Page, to: str) -> None:
    button(page, "Continue").click()
    heading(page, to)


def leave_behind(page: Page, site: Served, rest: str = "") -> Page:
    """Go to the page `write` in two tabs, go on in the first, and return the other."""
    page.goto(f"{site.url}/start{rest}")
    go_on(page, "write")
    stale = page.context.new_page()
    stale.goto(page.url)
    go_on(page, "check")
    return stale


def send_typed(page: Page) -> None:
    page.get_by_label("Words").fill(TYPED)
    button(page, "Continue").click()
    expect(page.get_by_role("definition").filter(has_text="Oak Street 9")).to_have_text(TYPED)


def send_again(page: Page, site: Served, to: str = "check") -> None:
    """Press the button, and see that all that was typed has come to the next page."""
    site.kept = {}
    button(page, "Send again").click()
    heading(page, to)
    assert site.kept["words"] == [TYPED.replace("\n", "\r\n")]
    assert site.kept["pressed"] == ["yes"]


# -- it is sent to where it was sent before -------------------------------------------------

ARGUMENTS = ["what?", "100%25", "100%", "a b", "x&y=1", "\N{SNOWMAN}"]


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_after_a_conflict_under_a_mount_with_any_argument(
    page: Page, serve_pages: Callable[..., Served], argument: str
) -> None:
    """The app is mounted, and the page's argument needs to be encoded."""
    site = serve_pages(mount="/shop", rule="/<name>")
    stale = leave_behind(page, site, f"/{quote(argument)}?lang=%26")
    send_typed(stale)
    url = stale.url
    assert url.startswith(f"{site.url}/write/")
    send_again(stale, site)
    assert url.replace("/write/", "/check/").partition("?")[0] == stale.url.partition("?")[0]


def test_after_a_conflict_in_one_of_many_flows(
    page: Page, serve_pages: Callable[..., Served]
) -> None:
    """The key of the flow stays in the URL, once."""
    site = serve_pages(many=True, store="memory://")
    stale = leave_behind(page, site)
    send_typed(stale)
    url = stale.url
    assert url.count("?flow=") == 1
    send_again(stale, site)
    assert stale.url == url.replace("write", "check")


def test_after_a_conflict_where_the_form_has_a_url_of_its_own(
    page: Page, serve_pages: Callable[..., Served]
) -> None:
    """The page is at one URL, and its form is sent to another one."""
    site = serve_pages(action="/save")
    stale = leave_behind(page, site)
    send_typed(stale)
    with stale.expect_request(f"{site.url}/save"):
        send_again(stale, site)


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_while_the_store_is_away_under_a_mount_with_any_argument(
    page: Page, serve_pages: Callable[..., Served], tmp_path: Path, argument: str
) -> None:
    """The form is on the page of the 503, and goes to the same URL when the store is back."""
    file = tmp_path / "flows.db"
    site = serve_pages(mount="/shop", rule="/<name>", store=f"sqlite:///{file}", file=True)
    page.goto(f"{site.url}/start/{quote(argument)}")
    go_on(page, "write")
    site.app.extensions["fsm"].store.records.engine.dispose()
    file.rename(file.with_suffix(".away"))
    file.mkdir()
    send_typed(page)
    heading(page, "Back in a moment")
    file.rmdir()
    file.with_suffix(".away").rename(file)
    send_again(page, site)


# -- all of it is sent, or nothing ----------------------------------------------------------


@pytest.mark.parametrize("count", [130, 900])
def test_all_fields_go_also_those_that_are_not_shown(
    page: Page, serve_pages: Callable[..., Served], count: int
) -> None:
    """A hundred fields are shown, and all are sent again."""
    site = serve_pages(count=count)
    stale = leave_behind(page, site)
    send_typed(stale)
    expect(stale.get_by_role("definition")).to_have_count(100)
    send_again(stale, site)
    assert len(site.kept) == count + 3
    assert all(site.kept[f"field_{number}"] == [str(number)] for number in range(count))


def test_a_form_that_is_too_large_says_so_and_is_found_again(
    page: Page, serve_pages: Callable[..., Served]
) -> None:
    """There is no button that would send a part of it."""
    stale = leave_behind(page, serve_pages(count=1001))
    stale.get_by_label("Words").fill(TYPED)
    button(stale, "Continue").click()
    expect(stale.get_by_role("main")).to_contain_text("too large to be shown, or sent again")
    expect(button(stale, "Send again")).to_have_count(0)


# -- forms that are gone, or too large ------------------------------------------------------

GONE = ["expired", "cookie", "ended"]


@pytest.mark.parametrize("how", GONE)
def test_what_was_typed_on_a_page_that_is_gone_stays_while_one_starts_again(
    page: Page, serve_pages: Callable[..., Served], how: str
) -> None:
    """It is shown; the first page opens in a new tab, and this one stays as it is."""
    site = serve_pages()
    page.goto(f"{site.url}/start")
    go_on(page, "write")
    with frozen_clock(site.app) as clock:
        if how == "ended":
            end_elsewhere(page, site)
        elif how == "cookie":
            page.context.clear_cookies()
        else:
            clock.tick(2 * DAY)
        send_typed(page)
        expect(button(page, "Send again")).to_have_count(0)
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="in a new tab").click()
        heading(opened.value, "start")
        expect(page.get_by_role("definition").first).to_have_text(TYPED)
        go_on(opened.value, "write")


def end_elsewhere(page: Page, site: Served) -> None:
    other = page.context.new_page()
    other.goto(f"{site.url}/write")
    go_on(other, "check")
    go_on(other, "end")
    other.close()


@pytest.mark.parametrize("how", ["cookie", "ended"])
def test_the_first_page_is_sent_again_and_starts_anew(
    page: Page, serve_pages: Callable[..., Served], how: str
) -> None:
    """What was typed on it is taken as the beginning of a new run."""
    site = serve_pages()
    page.goto(f"{site.url}/start")
    if how == "cookie":
        page.context.clear_cookies()
    else:
        other = page.context.new_page()
        other.goto(f"{site.url}/start")
        for name in ("write", "check", "end"):
            go_on(other, name)
    send_typed(page)
    send_again(page, site, to="write")


def test_answers_that_are_too_large_are_made_shorter_on_the_page(
    page: Page, serve_pages: Callable[..., Served]
) -> None:
    """The text is in a field, is made shorter there, and is sent with all the rest."""
    site = serve_pages(count=2)
    page.goto(f"{site.url}/start")
    long = "".join(choices(ascii_letters, k=9000))
    page.get_by_label("Words").fill(long)
    button(page, "Continue").click()
    expect(page.get_by_label("Words")).to_have_value(long)
    page.get_by_label("Words").fill(TYPED)
    send_again(page, site, to="write")
    assert site.kept["field_1"] == ["1"]
