"""The README keeps its word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
from flask.testing import FlaskClient
from websockets.sync.client import connect
from werkzeug.serving import BaseWSGIServer, make_server

from .test_blocks import ROOT, blocks_of, run

README = ROOT / "README.md"


def module_of(name: str, folder: Path) -> ModuleType:
    """Run the README's block of this name as it stands there."""
    app = next(block for block in blocks_of(README) if block.name == f"{name}.py")
    module = ModuleType(name)
    module.__file__ = str(folder / f"{name}.py")
    run(app, README, module, "README.md")
    return module


@pytest.fixture
def visitor(tmp_path: Path) -> FlaskClient:
    """A client of the README's smallest app."""
    return module_of("app", tmp_path).app.test_client()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[BaseWSGIServer]:
    """The README's live app, served in a thread."""
    server = make_server("127.0.0.1", 0, module_of("live", tmp_path).app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_smallest_app_leads_to_its_end(visitor: FlaskClient) -> None:
    """A visitor answers both pages and is thanked."""
    assert visitor.post("/", data={"answer": "Ada"}).location == "/colour"
    assert visitor.post("/colour", data={"answer": "blue"}).location == "/thanks"
    assert visitor.get("/thanks").text == "Thank you, Ada. blue it is."


def test_the_smallest_app_lets_nobody_skip_a_page(visitor: FlaskClient) -> None:
    """Its last page sends a visitor back who has not answered the others."""
    assert visitor.get("/thanks").location == "/"
    visitor.post("/", data={"answer": "Ada"})
    assert visitor.get("/thanks").location == "/colour"


def test_the_smallest_app_takes_a_form_once(visitor: FlaskClient) -> None:
    """A double click has its effect once, and an old form of another tab none."""
    token = re.search(r'value="([^"]+)"', visitor.get("/").text)[1]
    form = {"answer": "Ada", "fsm_token": token}
    assert [visitor.post("/", data=form).location for _ in range(2)] == ["/colour"] * 2
    late = visitor.post("/", data={**form, "answer": "Eve"})
    assert late.status_code == 409
    assert "Eve" in late.text


def test_the_live_app_is_one_light_in_two_windows(live: BaseWSGIServer) -> None:
    """What one window sends, both are told, and the page shows it; the script is there."""
    address = f"127.0.0.1:{live.port}/fsm/light/ws"
    with ExitStack() as windows:
        one = windows.enter_context(connect(f"ws://{address}"))
        cookie = one.response.headers["Set-Cookie"].partition(";")[0]
        other = windows.enter_context(
            connect(f"ws://{address}", additional_headers={"Cookie": cookie})
        )
        for window in (one, other):
            assert json.loads(window.recv(timeout=10))["events"] == ["go"]
        one.send('{"event": "go", "data": null}')
        for window in (one, other):
            assert json.loads(window.recv(timeout=10))["events"] == ["stop", "ping"]
        browser = live.app.test_client(use_cookies=False)
        page = browser.get("/", headers={"Cookie": cookie}).text
        assert '<b id="state">green</b>' in page
        script = re.search(r'from "([^"]+)"', page)[1]
        with browser.get(script) as served:
            assert served.mimetype == "text/javascript"


def test_what_the_readme_links_to_is_there() -> None:
    """Every relative link and picture names a file."""
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        assert (ROOT / target).is_file(), target


def test_there_is_a_place_for_the_benchmarks() -> None:
    """The script that writes the measured tables finds its marks, once each."""
    text = README.read_text()
    assert text.count("<!-- benchmarks -->") == text.count("<!-- /benchmarks -->") == 1
