"""The README keeps its word."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from flask_fsm.testing import LiveServer, Visitor

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
def visitor(tmp_path: Path) -> Visitor:
    """A visitor of the README's smallest app."""
    return Visitor(module_of("app", tmp_path).app)


def test_the_smallest_app_leads_to_its_end(visitor: Visitor) -> None:
    """A visitor answers both pages and is thanked."""
    visitor.open("/")
    visitor.submit(answer="Ada")
    visitor.follow()
    visitor.submit(answer="blue")
    assert visitor.follow().text == "Thank you, Ada. blue it is."


def test_the_smallest_app_lets_nobody_skip_a_page(visitor: Visitor) -> None:
    """Its last page sends a visitor back who has not answered the others."""
    assert visitor.open("/thanks").location == "/"
    visitor.follow()
    visitor.submit(answer="Ada")
    assert visitor.open("/thanks").location == "/colour"


def test_the_smallest_app_takes_a_form_once(visitor: Visitor) -> None:
    """A double click has its effect once, and an old form of another tab none."""
    visitor.open("/")
    form = visitor.form()
    assert [form.submit(answer="Ada").location for _ in range(2)] == ["/colour"] * 2
    late = form.submit(answer="Eve")
    assert late.status_code == 409
    assert "Eve" in late.text


def test_the_live_app_is_one_light_in_two_windows(tmp_path: Path) -> None:
    """What one window sends, both are told, and the page shows it; the script is there."""
    app = module_of("live", tmp_path).app
    browser = Visitor(app)
    with LiveServer(app) as server, ExitStack() as stack:
        client = server.client(visitor=browser)
        one, other = (stack.enter_context(client.websocket("light")) for _ in range(2))
        for window in (one, other):
            assert window.receive()["events"] == ["go"]
        one.send("go")
        for window in (one, other):
            assert window.receive()["events"] == ["stop", "ping"]
        page = browser.open("/").text
        assert '<b id="state">green</b>' in page
        script = re.search(r'from "([^"]+)"', page)[1]
        with browser.open(script) as served:
            assert served.mimetype == "text/javascript"


def test_what_the_readme_links_to_is_there() -> None:
    """Every relative link and picture names a file."""
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        assert (ROOT / target).is_file(), target


def test_there_is_a_place_for_the_benchmarks() -> None:
    """The script that writes the measured tables finds its marks, once each."""
    text = README.read_text()
    assert text.count("<!-- benchmarks -->") == text.count("<!-- /benchmarks -->") == 1
