"""The page on the configuration says what the code does."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from flask_fsm.config import PREFIX, Config
from flask_fsm.pages.secrets import PARTS, WHOLE_NAMES, WORDS

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.rst").read_text()
DOCUMENTED = {
    name: (kind, ast.literal_eval(default), effect)
    for name, kind, default, effect in re.findall(
        r"^\.\. confval:: (\w+)\n   :type: ``(.+)``\n   :default: ``(.+)``\n\n   (.+)",
        PAGE,
        re.MULTILINE,
    )
}


def test_every_key_is_documented_and_no_other() -> None:
    """The page lists the keys of the Config, once each."""
    assert set(DOCUMENTED) == {PREFIX + field.name.upper() for field in fields(Config)}
    assert PAGE.count(".. confval::") == len(DOCUMENTED)


@pytest.mark.parametrize("field", fields(Config), ids=lambda field: field.name)
def test_type_and_default_are_those_of_the_code(field) -> None:
    """The page gives a key the type and the default that the Config gives it."""
    kind, default, _ = DOCUMENTED[PREFIX + field.name.upper()]
    assert kind == field.type
    assert default == getattr(Config(), field.name)
    assert type(default) is type(getattr(Config(), field.name))


def test_the_fields_that_are_never_shown_are_listed() -> None:
    """The page names the built-in names of FSM_REDACT_FIELDS."""
    section = PAGE.partition(".. confval:: FSM_REDACT_FIELDS")[2].partition(".. confval::")[0]
    lists = {
        title: re.findall(r"``(.+?)``", section.partition(title)[2].partition("):\n")[2])
        for title in ("Words of names", "Parts of names")
    }
    whole = section.partition("Names as a whole:")[2].partition(".\n")[0]
    assert tuple(re.findall(r"``(.+?)``", whole)) == WHOLE_NAMES
    assert set(lists["Words of names"][: len(WORDS)]) == WORDS
    assert tuple(lists["Parts of names"]) == PARTS
