"""Views of states that lead to every state: the faults are those of listed edges."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_fsm import DefinitionError, FlaskFSM, Machine

NAMES = ["a", "b", "c", "d"]


def machines() -> list[Machine]:
    """Three states that lead anywhere and an end, without and with a list of the edges."""
    pairs = [(one, other) for one in NAMES[:-1] for other in NAMES]
    return [
        Machine("m", states=NAMES, final=["d"]),
        Machine("m", pairs, states=NAMES, final=["d"]),
    ]


def told(machine: Machine, checks: dict[str, dict[str, Any]]) -> tuple[list[str], str]:
    """The faults of an app with these views, or the `repr` of its extension."""
    app = Flask("unrestricted")
    app.config.update(SECRET_KEY="a key of these tests", DEBUG=True)
    fsm = FlaskFSM(app, machine)
    for name, options in checks.items():

        @app.get(f"/{name}", endpoint=name)
        @fsm.check(**options)
        def view() -> str:
            return repr(fsm)

    try:
        return [], app.test_client().get("/a").text
    except DefinitionError as error:
        return [fault.message for fault in error.faults], ""


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ({name: {} for name in NAMES}, []),
        ({"a": {}, "b": {"accept": ["a"]}, "c": {"to": ["d"]}, "d": {}}, []),
        ({"a": {}, "b": {"accept": []}, "c": {}, "d": {}}, ["'b' can't be reached any more"]),
        ({"a": {}, "b": {}, "c": {}, "d": {"accept": []}}, ["can be reached any more from"]),
        ({"a": {}, "b": {"to": []}, "c": {}, "d": {}}, ["any more from 'b'"]),
        ({"a": {"to": ["b"]}, "b": {"to": ["a"]}, "c": {}, "d": {}}, ["'c'", "'d'"]),
        ({"a": {"to": ["x"]}, "b": {"accept": ["d"]}, "c": {}, "d": {}}, ["'x'", "no edge"]),
        ({"a": {}, "b": {}}, ["'c', machine 'm': the page 'a' leads to it", "state 'd'"]),
        ({"a": {"to": ["b"]}, "b": {"to": ["c", "d"]}}, ["the page 'b' leads to it"]),
    ],
)
def test_an_unrestricted_machine_has_the_faults_of_one_that_lists_its_edges(
    checks: dict[str, dict[str, Any]], words: list[str]
) -> None:
    one, other = (told(machine, checks) for machine in machines())
    assert one == other
    assert bool(one[0]) == bool(words)
    assert all(word in " ".join(one[0]) for word in words)


def test_the_repr_of_thousands_of_transitions_says_how_many_more_there_are() -> None:
    names = [f"s{number}" for number in range(2000)]
    text = repr(FlaskFSM(Machine("m", states=names)))
    assert "('s0', 's1')" in text
    assert "and 3999000 more]" in text
    assert len(text) < 100_000
