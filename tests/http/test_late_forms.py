"""Forms that arrive when their run is over: what their pages say is true, and leads on."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from flask_fsm.signals import denied

from ..apps import Visitor, assert_refused, fields_in
from .test_words import closing_app, heading, words


def links(response: TestResponse) -> dict[str, str]:
    """The links of a page: their texts, and where they lead."""
    parts = response.text.split("<a ")[1:]
    return {
        part.partition(">")[2].partition("</a>")[0].strip(): part.split('href="')[1].split('"')[0]
        for part in parts
    }


# -- after the end --------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["session", "memory://"])
@pytest.mark.parametrize("page", ["a", "b", "c"])
def test_a_late_form_of_a_finished_run_shows_its_result(page: str, store: str) -> None:
    """Whatever its page, also the first: the run is at its end, and its result is there."""
    app = closing_app("preserve", store)
    visitor = Visitor(app)
    tokens = {}
    for each in "abc":
        tokens[each] = visitor.token(each)
        visitor.post(each, {}, tokens[each])
    seen: list[tuple[str, int]] = []

    def note(sender: Any, flow: Any, **_: Any) -> None:
        seen.append((flow.current, flow.rev))

    with denied.connected_to(note, app):
        gone = visitor.post(page, {"late": "typed"}, tokens[page])
        told = visitor.post(page, {"late": "typed"}, tokens[page], "json")
    assert (gone.status_code, heading(gone)) == (410, "This has already been completed")
    assert links(gone)["See the result"] == "/d"
    assert links(gone)["Start again"] == "/a"
    assert "typed" in words(gone)
    assert_refused(told, "json", 410, "finished")
    where = {name: told.json[name] for name in ("state", "rev", "allowed", "location")}
    assert where == {"state": "d", "rev": 3, "allowed": [], "location": "/d"}
    assert seen == [("d", 3)] * 2


def test_a_late_form_of_the_first_page_can_still_be_sent_again() -> None:
    """With what was typed, it begins the next run; until then the result stays."""
    visitor = Visitor(closing_app("preserve"))
    late = visitor.token("a")
    visitor.post("a", {}, late)
    for each in "bc":
        visitor.send(each)
    gone = visitor.post("a", {"late": "typed"}, late)
    assert visitor.open("d").status_code == 200
    fields = fields_in(gone.text)
    assert fields["late"] == "typed"
    token = fields.pop("fsm_token")
    assert visitor.post("a", fields, token).location == "/b"
