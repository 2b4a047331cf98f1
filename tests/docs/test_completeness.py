"""The documentation leaves nothing out."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import flask_fsm
import flask_fsm.channels
from flask_fsm import Code

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.rst").read_text()


MODULE = re.compile(r"^\.\. currentmodule:: ([\w.]+)$", re.M)
NAME = re.compile(r"^\.\. auto(?:class|function|exception):: (\w+)$", re.M)


@pytest.mark.parametrize("module", [flask_fsm, flask_fsm.channels], ids=lambda it: it.__name__)
def test_the_api_has_every_public_name(module: ModuleType) -> None:
    """Every name that a public module exports stands on the API page, and no other."""
    _, *sections = MODULE.split(page("api"))
    names = [
        name
        for of, text in zip(sections[::2], sections[1::2], strict=True)
        if of == module.__name__
        for name in NAME.findall(text)
    ]
    assert sorted(names) == sorted(module.__all__)


def test_the_architecture_names_every_module() -> None:
    """A newcomer finds a line about every module, and none about one that is gone."""
    package = ROOT / "flask_fsm"
    modules = {
        path.relative_to(package).with_suffix("").as_posix()
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    text = page("architecture").partition("The modules\n")[2].partition("Writing a store\n")[0]
    _, *tables = re.split(r"^\*\*flask_fsm/([\w/]*)\*\*: ", text, flags=re.M)
    named = [
        folder + module
        for folder, table in zip(tables[::2], tables[1::2], strict=True)
        for module in re.findall(r"^``(\w+)``", table, re.M)
    ]
    assert sorted(named) == sorted(modules)


def test_the_docs_name_code_that_exists() -> None:
    """The walks of the architecture and the glossary name functions that are there."""
    walks = page("architecture").partition("The modules\n")[0]
    glossary = page("concepts").partition("Where to look\n")[2]
    packages = {path.parent.name for path in (ROOT / "flask_fsm").glob("*/__init__.py")}
    names = [
        name
        for name in re.findall(r"``([a-z]\w*(?:\.\w+)+)``", walks + glossary)
        if name.partition(".")[0] in packages
    ]
    assert len(names) > 40
    for name in names:
        assert pkgutil.resolve_name(f"flask_fsm.{name}") is not None


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("double click", "pages.submission.earlier_reply"),
        ("idempotent", "pages.submission.earlier_reply"),
        ("conflict", "stores.cache.FlowCache.compare_and_swap"),
        ("replay", "live.client.subscriber.Subscriber.replay_since"),
        ("login", "stores.records.login_merge.LoginMerge.take_along"),
        ("slow client", "live.server.lifecycle.Lifecycle.drop_if_slow"),
    ],
)
def test_the_words_of_the_field_lead_to_the_function(term: str, name: str) -> None:
    """Who searches the source for what a thing is called finds the function that does it."""
    assert term in (pkgutil.resolve_name(f"flask_fsm.{name}").__doc__ or "").lower()


def test_the_http_contract_names_every_code() -> None:
    """Every code that an error can have stands in the HTTP contract, and no other in its tables."""
    text = page("http")
    assert set(Code) <= set(re.findall(r"``(\w+)``", text))
    rows = re.findall(r"^   \* - (.*?)(?=^   \* - |^\S|\Z)", text, re.M | re.S)
    last_cells = [
        cells[-1] for row in rows if len(cells := re.split(r"^     - ?", row, flags=re.M)) > 1
    ]
    named = {word for cell in last_cells for word in re.findall(r"``([a-z_]+)``", cell)}
    assert named <= set(Code)


def test_every_code_says_what_it_means() -> None:
    """Each code has a docstring with its HTTP status and with who can do something about it."""
    source = (ROOT / "flask_fsm" / "codes.py").read_text()
    documented = re.findall(
        r'^    (\w+) = "\w+".*\n    """(?:\d{3}|In a frame)[^,]*, (?:client|developer|operator): ',
        source,
        re.M,
    )
    assert documented == list(Code.__members__)


def test_no_code_is_a_bare_string() -> None:
    """Errors take their codes from `Code`, so that none is missing in the contract."""
    for path in (ROOT / "flask_fsm").rglob("*.py"):
        assert not re.search(r'\b(?:code=|default_code = )"', path.read_text()), path
