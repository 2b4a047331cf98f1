"""A real server, a real Chromium, and a visitor whose every request is looked at.

The flows are in the session, and one process serves. With FSM_TEST_EXAMPLE_STORE (sqlite, postgres
or redis) they are in such a store, and four workers of gunicorn serve, with a Valkey as their bus.

Chromium is found by FSM_CHROMIUM, or by name on the PATH. Where there is none, these tests are
skipped and say so; FSM_REFUSE_SKIPS makes them fail instead.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
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

from example_app import create_app
from example_app.ledger import Ledger

from ..app_servers import Gunicorn
from ..clients import LOOPBACK
from ..store_servers import KINDS, PostgresDatabases
from .recorded_app import PATIENCE as SECONDS
from .recorded_app import VARIABLE, Record, until, watch

STORE_VARIABLE = "FSM_TEST_EXAMPLE_STORE"
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
PATIENCE = 1_000 * SECONDS  # as Playwright counts

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


class Server:
    """The example app behind a real server, with a record of what happens in it.

    `app` works on the store and the ledger of the server, and has the same record.
    """

    workers = 1

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = {"SECRET_KEY": "a key for tests", "LEDGER": str(folder / "ledger"), **config}
        self.app: Flask = create_app(self.config)
        self.ledger = Ledger(self.config["LEDGER"])
        self.record = Record(folder)
        watch(self.app, self.record)
        self.url = self.start()

    def start(self) -> str:
        """Start to serve, and return the URL."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class Quiet(WSGIRequestHandler):
    """A handler that prints nothing."""

    def log(self, *_: Any) -> None:
        pass


class InProcess(Server):
    """Threads of this process serve."""

    def start(self) -> str:
        self._server: BaseWSGIServer = make_server(
            LOOPBACK, 0, self.app, threaded=True, request_handler=Quiet
        )
        # It looks every 20 ms whether it is to end.
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)
        self._thread.start()
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class InWorkers(Server):
    """Four workers of gunicorn serve, each request of a visitor any of them."""

    workers = 4

    def start(self) -> str:
        told = {"folder": str(self.folder), "config": self.config}
        self._gunicorn = Gunicorn(
            "tests.browser.recorded_app:create_app()",
            {VARIABLE: json.dumps(told)},
            workers=self.workers,
            threads=4,
            ping="/",
            # A connection that is kept would keep its worker, too.
            options=["--keep-alive=0"],
        )
        try:
            self._gunicorn.start()
        except BaseException:
            self.stop()
            raise
        return f"http://{LOOPBACK}:{self._gunicorn.port}"

    def stop(self) -> None:
        self._gunicorn.stop()


class InOneWorker(InWorkers):
    """One worker of gunicorn serves; when it ends, gunicorn starts another one."""

    workers = 1

    def restart(self, how: signal.Signals) -> None:
        """End the worker by a signal, and wait until the next one serves."""
        (old,) = self._gunicorn.pids()
        os.kill(old, how)
        until(
            lambda: old not in self._gunicorn.pids() and self._gunicorn.answers(),
            "The worker was not replaced.",
        )


class Site:
    """A server of the example app, as one test sees it: with what happened since it began."""

    def __init__(self, server: Server) -> None:
        self.app, self.url, self.workers = server.app, server.url, server.workers
        self._ledger, self._record = server.ledger, server.record
        Path(self._ledger.path).unlink(missing_ok=True)
        self._record.free()
        self._since = self._record.end()
        self._awaited = self._before = 0

    @property
    def orders(self) -> list[dict[str, Any]]:
        return self._ledger.orders()

    @property
    def members(self) -> list[dict[str, Any]]:
        return self._ledger.members()

    @property
    def moves(self) -> list[tuple[str, str]]:
        """The transitions made, as source and target without their blueprint."""
        return [(source, target) for _, source, target in self._record.read("moved", self._since)]

    @property
    def answered(self) -> list[tuple[str, str, int]]:
        """Method, path and status of each answer, but those of static files."""
        answers = self._record.read("answered", self._since)
        return [(method, path, status) for _, method, path, status in answers]

    @property
    def served_by(self) -> set[int]:
        """The processes that answered."""
        return {process for process, *_ in self._record.read("answered", self._since)}

    @property
    def on_server(self) -> bool:
        """Whether the flows are on a server, and not in the session."""
        return self.app.config["FSM_STORE_URL"] != "session"

    @property
    def posted(self) -> list[tuple[str, int]]:
        """Path and status of each form that was sent."""
        return [(path, status) for method, path, status in self.answered if method == "POST"]

    def hold(self, count: int) -> None:
        """From now on, let forms wait until `count` of them are here, then serve all at once."""
        self._before = len(self.posted)
        self._record.hold(count)

    def await_form(self) -> None:
        """Wait for a form that is held."""
        self._awaited += 1
        until(
            lambda: len(self._record.read("held", self._since)) >= self._awaited,
            "No form was sent.",
        )

    def await_answers(self) -> None:
        """Wait until the forms that were held are answered, those too whose sender is gone."""
        until(
            lambda: len(self.posted) >= self._before + self._awaited,
            "A form was not answered.",
        )


@pytest.fixture(scope="package")
def store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str | None]:
    """The store on which four workers serve: of the kind that FSM_TEST_EXAMPLE_STORE names."""
    match os.environ.get(STORE_VARIABLE):
        case None | "":
            yield None
        case "sqlite":
            yield f"sqlite:///{tmp_path_factory.mktemp('store') / 'fsm.db'}"
        case "postgres":
            databases = PostgresDatabases(request.getfixturevalue("postgres").url)
            yield databases.fresh()
            databases.drop()
        case "redis":
            yield request.getfixturevalue("redis_databases").fresh()
        case kind:
            pytest.fail(f"{STORE_VARIABLE} is {kind!r}, and not one of {', '.join(KINDS)}.")


@pytest.fixture(scope="package")
def apart(request: pytest.FixtureRequest, store_url: str | None) -> dict[str, Any]:
    """The config of several workers: that store, and a bus that they share."""
    config: dict[str, Any] = {"FSM_STORE_URL": store_url}
    if store_url is not None and not store_url.startswith("redis"):
        # A Redis that keeps the flows is the bus as well: the app sees to that.
        config["FSM_BUS_URL"] = request.getfixturevalue("redis_databases").fresh()
    return config


@pytest.fixture(scope="package")
def in_workers(
    apart: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """A maker of servers with four workers, which take their time to start: one for each config."""
    servers: dict[str, Server] = {}

    def start(**config: Any) -> Server:
        name = json.dumps(config, sort_keys=True)
        if name not in servers:
            servers[name] = InWorkers(tmp_path_factory.mktemp("site"), {**apart, **config})
        return servers[name]

    yield start
    for server in servers.values():
        server.stop()


@pytest.fixture
def serve(
    store_url: str | None,
    in_workers: Callable[..., Server],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Site]]:
    """A maker of sites, with flows in the session and an app of their own, or in four workers."""
    servers: list[Server] = []

    def make(**config: Any) -> Site:
        if store_url is not None:
            return Site(in_workers(**config))
        servers.append(
            InProcess(tmp_path_factory.mktemp("site"), {"FSM_STORE_URL": "session", **config})
        )
        return Site(servers[-1])

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    """The example app as it is, behind a real server."""
    return serve()


# -- the visitor --------------------------------------------------------------------------------


class Watch:
    """What must not happen on any page: another host asked, an error told, a crash."""

    def __init__(self, context: BrowserContext, url: str, tolerated: tuple[str, ...]) -> None:
        self.faults: list[str] = []
        self._tolerated = REFUSED + tolerated
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
        if message.type in {"error", "warning"} and not message.text.startswith(self._tolerated):
            self.faults.append(f"{message.type} in the console: {message.text}")


@pytest.fixture
def visit() -> Iterator[Callable[..., BrowserContext]]:
    """A maker of visitors, each with cookies of its own. At the end their pages had no fault."""
    visits: list[tuple[BrowserContext, Watch]] = []

    def enter(
        browser: Browser, site: Site, tolerated: tuple[str, ...] = (), **options: Any
    ) -> BrowserContext:
        context = browser.new_context(base_url=site.url, **options)
        context.set_default_timeout(PATIENCE)
        visits.append((context, Watch(context, site.url, tolerated)))
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
