"""The README keeps its word."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from flask.testing import FlaskClient

from .test_blocks import ROOT, blocks_of, run

README = ROOT / "README.md"


@pytest.fixture
def visitor(tmp_path: Path) -> FlaskClient:
    """Run the README's app as it stands there, and return a client of it."""
    app = next(block for block in blocks_of(README) if block.name == "app.py")
    module = ModuleType("app")
    module.__file__ = str(tmp_path / "app.py")
    run(app, README, module, "README.md")
    return module.app.test_client()


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


def test_what_the_readme_links_to_is_there() -> None:
    """Every relative link and picture names a file."""
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        assert (ROOT / target).is_file(), target


def test_there_is_a_place_for_the_benchmarks() -> None:
    """The script that writes the measured tables finds its marks, once each."""
    text = README.read_text()
    assert text.count("<!-- benchmarks -->") == text.count("<!-- /benchmarks -->") == 1
