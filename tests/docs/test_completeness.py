"""The documentation leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import flask_fsm
from flask_fsm.pages.page_request import STALE

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.rst").read_text()


def test_the_api_has_every_public_name() -> None:
    """Every name that the package exports stands on the API page, and no other."""
    names = re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", page("api"), re.M)
    assert sorted(names) == sorted(flask_fsm.__all__)


def test_the_architecture_names_every_module() -> None:
    """A newcomer finds a line about every module, and none about one that is gone."""
    package = ROOT / "flask_fsm"
    modules = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    table = page("architecture").partition("The modules\n")[2].partition("What a store")[0]
    assert set(re.findall(r"^``([\w.]+)``", table, re.M)) == modules


def test_the_http_contract_names_every_reason() -> None:
    """Every code that a refusal can have stands in the HTTP contract."""
    told = set(re.findall(r"``(\w+)``", page("http")))
    codes = {
        code
        for path in (ROOT / "flask_fsm").rglob("*.py")
        for code in re.findall(r'(?:\bcode=|default_code = )"(\w+)"', path.read_text())
    }
    codes |= set(STALE)
    faults = {
        # of a definition
        "definition",
        *("duplicate_state", "duplicate_event", "duplicate_endpoint", "unreachable", "no_initial"),
        *("final_with_way_out", "dead_end"),
        # of the app: a 500
        *("error", "config", "missing_arguments", "get_advances", "moved_by_rule", "no_client"),
        *("no_messages", "queue_full", "unknown_listener", "unknown_channel", "duplicate_channel"),
        # of a base class, or of what no page does
        *("stale", "gone"),
    }
    assert codes - faults - told == set()
