"""A real server, a real Chromium, and a visitor whose every request is looked at.

Chromium is found by FSM_CHROMIUM, or by name on the PATH. Where there is none, these tests are
skipped and say so; FSM_REFUSE_SKIPS makes them fail instead.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
from flask import Flask
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    expect,
    sync_playwright,
)
from playwright.sync_api import Error as PlaywrightError
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wsgi import ClosingIterator

from example_app import create_app
from flask_fsm.signals import transitioned

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = (
    "Install it (Debian and Ubuntu: `apt-get install chromium`), or let FSM_CHROMIUM name the "
    "program of a Chromium or a Chrome."
)
ARGUMENTS = [
    # It opens pages of this computer only, and in a container its sandbox often can't start.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Chromium says of each refused form that it was refused.
REFUSED = tuple(
    f"Failed to load resource: the server responded with a status of {status} "
    for status in (400, 404, 409, 410, 422)
)
# The machines that run these tests are shared, and slow at times.
PATIENCE = 10_000

expect.set_options(timeout=PATIENCE)


def give_up(reason: str) -> NoReturn:
    """Skip the test; where skips are refused, fail it."""
    if os.environ.get("FSM_REFUSE_SKIPS"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


# -- the browser --------------------------------------------------------------------------------

# Playwright marks the main thread as one in which an event loop runs. These fixtures end with this
# package, and not with the session, since in such a thread no async view can be tested.


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    """Playwright, until the last of the browser's tests is over."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="package")
def launch(playwright: Playwright) -> Callable[..., Browser]:
    """Start the Chromium of this computer."""

    def start(*arguments: str, without: Iterable[str] = ()) -> Browser:
        named = os.environ.get("FSM_CHROMIUM")
        path = named or next(filter(None, map(shutil.which, NAMES)), None)
        if path is None:
            give_up(f"No Chromium: none of {', '.join(NAMES)} is on the PATH. {INSTALL}")
        try:
            return playwright.chromium.launch(
                executable_path=path,
                args=[*ARGUMENTS, *arguments],
                ignore_default_args=list(without),
            )
        except PlaywrightError as error:
            fault = error.message.splitlines()[0]
            give_up(f"No Chromium: {path} did not start ({fault}). {INSTALL}")

    return start


@pytest.fixture(scope="package")
def chromium(launch: Callable[..., Browser]) -> Iterator[Browser]:
    """Chromium, as Playwright drives it: without its back/forward cache."""
    with launch() as browser:
        yield browser


@pytest.fixture(scope="package")
def restoring(launch: Callable[..., Browser]) -> Iterator[Browser]:
    """Chromium with its back/forward cache, which may keep pages that are not to be stored.

    It keeps these by default too, where no cookie has changed since; this says so, whatever the
    version or a field trial would have it.
    """
    with launch(
        "--enable-features=CacheControlNoStoreEnterBackForwardCache"
        ":level/restore-unless-http-only-cookie-change",
        without=["--disable-back-forward-cache"],
    ) as browser:
        yield browser


# -- the server ---------------------------------------------------------------------------------


class Quiet(WSGIRequestHandler):
    """A handler that prints nothing."""

    def log(self, *_: Any) -> None:
        pass


class Site:
    """The example app behind a real server, with a record of what happened in it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.app: Flask = create_app({"SECRET_KEY": "a key for tests", **config})
        self.moves: list[tuple[str, str]] = []
        """The transitions made, as source and target without their blueprint."""
        self.answered: list[tuple[str, str, int]] = []
        """Method, path and status of each answer, but those of static files."""
        self._gate: threading.Barrier | None = None
        self._arrived = threading.Semaphore(0)
        self._serve = self.app.wsgi_app
        self.app.wsgi_app = self._watched  # type: ignore[method-assign]
        transitioned.connect(self._moved, self.app)
        self.server: BaseWSGIServer = make_server(
            "127.0.0.1", 0, self.app, threaded=True, request_handler=Quiet
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # It looks every 20 ms whether it is to end.
        self._thread = threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True)
        self._thread.start()

    @property
    def orders(self) -> list[dict[str, Any]]:
        orders: list[dict[str, Any]] = self.app.extensions["example_orders"]
        return orders

    @property
    def members(self) -> list[dict[str, Any]]:
        members: list[dict[str, Any]] = self.app.extensions["example_members"]
        return members

    @property
    def posted(self) -> list[tuple[str, int]]:
        """Path and status of each form that was sent."""
        return [(path, status) for method, path, status in self.answered if method == "POST"]

    def hold(self, count: int) -> None:
        """From now on, let forms wait until `count` of them are here, then serve all at once."""
        self._gate = threading.Barrier(count)

    def await_form(self) -> None:
        """Wait for a form that is held."""
        assert self._arrived.acquire(timeout=PATIENCE / 1000), "No form was sent."

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def _moved(self, sender: Flask, *, result: Any, **_: Any) -> None:
        self.moves.append((result.source.split(".")[1], result.target.split(".")[1]))

    def _watched(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]

        def start(status: str, *rest: Any) -> Any:
            if "/static/" not in path:
                self.answered.append((method, path, int(status[:3])))
            return start_response(status, *rest)

        gate = self._gate
        if method == "POST" and gate is not None:
            self._arrived.release()
            gate.wait(timeout=PATIENCE / 1000)
        # Read here, for the server leaves files open when the browser hangs up.
        with closing(ClosingIterator(self._serve(environ, start))) as answer:
            return [b"".join(answer)]


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """A maker of sites, each with an app of its own."""
    sites: list[Site] = []

    def make(**config: Any) -> Site:
        sites.append(Site(config))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    """The example app as it is, behind a real server."""
    return serve()


# -- the visitor --------------------------------------------------------------------------------


class Watch:
    """What must not happen on any page: another host asked, an error told, a crash."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.faults: list[str] = []
        self._host = urlsplit(url).netloc
        context.on("request", lambda request: self._request(request.url))
        context.on("response", lambda response: self._response(response.status, response.url))
        context.on("console", self._console)
        context.on("weberror", lambda fault: self.faults.append(str(fault.error)))

    def _request(self, url: str) -> None:
        if urlsplit(url).netloc != self._host:
            self.faults.append(f"Another host was asked: {url}")

    def _response(self, status: int, url: str) -> None:
        if status >= 500:
            self.faults.append(f"{status} from {url}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(REFUSED):
            self.faults.append(f"{message.type} in the console: {message.text}")


@pytest.fixture
def visit() -> Iterator[Callable[..., BrowserContext]]:
    """A maker of visitors, each with cookies of its own. At the end their pages had no fault."""
    visits: list[tuple[BrowserContext, Watch]] = []

    def enter(browser: Browser, site: Site, **options: Any) -> BrowserContext:
        context = browser.new_context(base_url=site.url, **options)
        context.set_default_timeout(PATIENCE)
        visits.append((context, Watch(context, site.url)))
        return context

    yield enter
    for context, _ in visits:
        context.close()
    assert [fault for _, watch in visits for fault in watch.faults] == []


@pytest.fixture
def visitor(chromium: Browser, site: Site, visit: Callable[..., BrowserContext]) -> BrowserContext:
    """Somebody with a browser; each of their pages is a tab."""
    return visit(chromium, site)


@pytest.fixture
def page(visitor: BrowserContext) -> Page:
    """The first tab of the visitor."""
    return visitor.new_page()
