"""Forms that arrive when their run is over: what their pages say is true, and leads on."""

from __future__ import annotations

from typing import Any

import pytest
from flask import render_template_string, request, session
from werkzeug.test import TestResponse

from flask_fsm import FlaskFSM, FSMError, Machine
from flask_fsm.signals import denied
from flask_fsm.testing import frozen_clock

from ..apps import Visitor, assert_refused, config_for, fields_in, flask_app
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


# -- forms whose flow the session does not name ---------------------------------------------


def logged_out(store: str, **options: Any) -> tuple[Visitor, str]:
    """A visitor who has logged out with the form of `b` open; the session says so."""
    app = closing_app("preserve", store, **options)

    @app.post("/logout")
    def logout() -> str:
        session.clear()
        session["message"] = "You have been logged out."
        return "out"

    visitor = Visitor(app)
    address = visitor.open("a").location or "/a"  # with many=True, with a key
    query = address.partition("?")[2]
    page = f"b?{query}" if query else "b"
    visitor.post(address[1:], {}, visitor.token(address[1:]))
    token = visitor.token(page)
    assert visitor.post("logout").text == "out"
    return visitor, token if not query else f"{token} {page}"


@pytest.mark.parametrize("store", ["session", "memory://"])
@pytest.mark.parametrize("page", ["a", "b"])
def test_a_form_after_a_logout_is_not_told_of_cookies(store: str, page: str) -> None:
    """Its browser has sent the cookie, which names no such run any more."""
    visitor, token = logged_out(store)
    told = visitor.post(page, {"late": "typed"}, token, "json")
    assert_refused(told, "json", 410, "not_in_session")
    gone = visitor.post(page, {"late": "typed"}, token)
    assert (gone.status_code, heading(gone)) == (410, "This form is no longer open")
    assert "logged out" in words(gone)
    assert "ookie" not in words(gone)
    assert "typed" in words(gone)
    assert links(gone)["Start again"] == "/a"


@pytest.mark.parametrize("first", ["post", "get", "endpoint"])
@pytest.mark.parametrize("store", ["session", "memory://"])
@pytest.mark.parametrize("late", ["a", "b"])
def test_all_forms_of_an_expired_run_say_that_time_has_passed(
    first: str, store: str, late: str
) -> None:
    """Not only what notices it first; until the visitor has really started again."""
    app = closing_app("preserve", store, lifetime=60)
    visitor = Visitor(app)
    with frozen_clock(app) as clock:
        tokens = {"a": visitor.token("a")}
        visitor.post("a", {}, tokens["a"])
        tokens["b"] = visitor.token("b")
        clock.tick(61)
        if first == "post":
            assert heading(visitor.post("b", {"x": "1"}, tokens["b"])) == "This has expired"
        elif first == "get":
            assert visitor.open("b").location == "/a"
            assert visitor.open("a").status_code == 200
        else:
            assert visitor.open("endpoint").status_code == 410
        for _ in range(2):
            gone = visitor.post(late, {"late": "typed"}, tokens[late])
            assert (gone.status_code, heading(gone)) == (410, "This has expired")
            assert "for a long time" in words(gone)
            assert "typed" in words(gone)
            told = visitor.post(late, {"late": "typed"}, tokens[late], "json")
            assert_refused(told, "json", 410, "expired")
        visitor.send("a")
        conflict = visitor.post(late, {"late": "typed"}, tokens[late])
    assert (conflict.status_code, "started again" in words(conflict)) == (409, True)


def test_a_form_of_an_expired_run_can_be_sent_again_on_the_first_page() -> None:
    """The second time as well as the first, with what was typed."""
    app = closing_app("preserve", lifetime=60)
    visitor = Visitor(app)
    with frozen_clock(app) as clock:
        token = visitor.token("a")
        visitor.post("a", {}, token)
        clock.tick(61)
        for _ in range(2):
            fields = fields_in(visitor.post("a", {"late": "typed"}, token).text)
        assert visitor.post("a", fields).location == "/b"


def test_a_form_of_a_run_that_was_reset_elsewhere_says_so_each_time() -> None:
    """The session that still named it is told twice that it was started again."""
    visitor = Visitor(closing_app(store="memory://"))
    visitor.post("a")
    token = visitor.token("b")
    in_flight = Visitor(visitor.app)
    in_flight.cookie = visitor.cookie
    visitor.post("again")
    for _ in range(2):
        gone = in_flight.post("b", {}, token)
        assert (gone.status_code, heading(gone)) == (410, "You have started again")


# -- many=True ------------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", ["lost", "logged out"])
def test_a_form_of_a_flow_with_a_key_leads_on_without_its_cookie(cookies: str) -> None:
    """On any page, and with what was typed; as where a visitor has only one flow."""
    visitor, token_and_page = logged_out("memory://", many=True)
    token, page = token_and_page.split()
    if cookies == "lost":
        visitor.drop_cookie()
    code = "no_session" if cookies == "lost" else "not_in_session"
    gone = visitor.post(page, {"late": "typed"}, token)
    assert gone.status_code == 410
    assert "typed" in words(gone)
    assert links(gone)["Start again"] == "/a"
    told = visitor.post(page, {"late": "typed"}, token, "json")
    assert_refused(told, "json", 410, code)
    assert told.json["location"] == "/a"
    for other in (None, "", "x", token[:-1]):
        assert_refused(visitor.post(page, {}, other, "json"), "json", 404, "no_flow")
    assert_refused(visitor.post("b?flow=missing", {}, token, "json"), "json", 410, code)
    assert_refused(visitor.post("b?flow=*", {}, token, "json"), "json", 404, "no_flow")
    assert_refused(visitor.open(page, "json"), "json", 404, "no_flow")


def test_an_expired_flow_with_a_key_says_so_each_time() -> None:
    """By the form that notices it, and by the next."""
    app = closing_app("preserve", "memory://", many=True, lifetime=60)
    visitor = Visitor(app)
    with frozen_clock(app) as clock:
        first = (visitor.open("a").location or "")[1:]
        token = visitor.token(first)
        assert visitor.post(first, {}, token).status_code == 303
        clock.tick(61)
        for _ in range(3):
            told = visitor.post(first, {"late": "typed"}, token, "json")
            assert_refused(told, "json", 410, "expired")


# -- the token of another machine -----------------------------------------------------------


def two_machines(**config: Any) -> Visitor:
    """A page of `two` whose form has the token of `one`."""
    app = flask_app({**config_for("session"), **config})
    one = FlaskFSM(app, Machine("one", [("a", "b")]))
    two = one.add(Machine("two", [("x", "y"), ("y", "z")]))
    for page, fsm in {"a": one, "b": one, "x": two, "y": two, "z": two}.items():

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page, fsm: Any = fsm) -> Any:
            if request.method == "POST":
                return fsm.advance(data={"typed": request.form["typed"]})
            wrong = one if request.args.get("wrong") else fsm
            return render_template_string(
                "<form method=post>{{ token }}</form>", token=wrong.token()
            )

    return Visitor(app)


@pytest.mark.parametrize("config", [{"TESTING": True}, {"TESTING": False, "DEBUG": True}])
@pytest.mark.parametrize("page", ["x", "y"])
def test_the_token_of_another_machine_is_an_error_for_the_developer(
    config: dict[str, Any], page: str
) -> None:
    """With its remedy; also in the first form, for which this machine has no flow yet."""
    visitor = two_machines(**config)
    if page == "y":
        visitor.post("x", {"typed": "1"}, visitor.token("x"))
    token = visitor.token(f"{page}?wrong=1")
    with pytest.raises(FSMError, match=r"token of machine 'one', but machine 'two'.*call the") as e:
        visitor.post(page, {"typed": "1"}, token)
    assert (e.value.code, e.value.status, e.value.source) == ("other_machine", 500, page)


@pytest.mark.parametrize("page", ["x", "y"])
def test_a_visitor_is_not_blamed_for_the_token_of_another_machine(
    page: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The page says whose mistake it is, nothing typed is lost, and the log names the page."""
    visitor = two_machines(TESTING=False)
    if page == "y":
        visitor.post("x", {"typed": "1"}, visitor.token("x"))
    conflict = visitor.post(page, {"typed": "a rug"}, visitor.token(f"{page}?wrong=1"))
    assert (conflict.status_code, heading(conflict)) == (409, "This form could not be accepted")
    assert "a mistake of this site" in words(conflict)
    assert "started again" not in words(conflict)
    assert "a rug" in words(conflict)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"page '{page}'" in line
    assert "a rug" not in line
    assert visitor.post(page, fields_in(conflict.text)).status_code == 303
