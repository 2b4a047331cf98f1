"""A deploy changes the definition while visitors are under way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from flask import request, session

from flask_fsm import FlaskFSM, Machine, Transition

from ..apps import SECRET, Visitor, assert_refused, flask_app, notices, show

LINE = ["a", "b", "c", "d"]
KINDS = ("session", "sqlite", "postgres", "redis")


class Release:
    """A release of an app: its pages in a row, on a store that outlives it."""

    def __init__(
        self,
        store: str,
        pages: list[str] = LINE,
        migrate: Any = None,
        more: list[Any] = (),  # type: ignore[assignment]
        to: dict[str, list[str]] | None = None,
        routes: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": store})
        edges = [*pairwise(pages), *more]
        machine = Machine("line", edges, initial=pages[0], final=[pages[-1]], **options)
        if migrate is not None:
            machine.migrate(migrate)
        self.fsm = FlaskFSM(machine)
        self.fsm.subject(lambda: session.get("user"))
        self.fsm.init_app(self.app)
        if "sql" in store:
            with self.app.app_context():
                self.fsm.init_db()
        self.ran: list[str] = []
        for page, target in zip(pages, [*pages[1:], ""], strict=True):
            guarded = self.fsm.check(to=(to or {}).get(page))(self._view(page, target))
            self.app.add_url_rule(
                (routes or {}).get(page, f"/{page}"),
                page,
                guarded,
                methods=["GET", "POST"],
            )
        self.app.add_url_rule("/login/<name>", "login", self._login)

    def _view(self, page: str, target: str) -> Callable[..., Any]:
        def view(**url_args: Any) -> Any:
            self.ran.append(f"{request.method} {page}")
            if request.method != "POST":
                return show(page, self.fsm)
            return self.fsm.advance(request.form.get("to") or target, data={"typed": page})

        return view

    def _login(self, name: str) -> str:
        session["user"] = name
        return name

    def visitor(self, user: str | None = None) -> Visitor:
        made = Visitor(self.app)
        if user is not None:
            made.open(f"login/{user}")
        return made


# The cookie would have been replaced, and another browser have none.
ON_SERVERS = pytest.mark.parametrize(
    "store", [kind for kind in KINDS if kind != "session"], indirect=True
)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, fresh_store: Callable[[str], str]) -> str:
    """Where the flows are kept, before and after."""
    return "session" if request.param == "session" else fresh_store(request.param)


@pytest.fixture(params=[None, "ann"], ids=["anonymous", "user"])
def user(request: pytest.FixtureRequest) -> str | None:
    """Whose flow it is."""
    found: str | None = request.param
    return found


def deploy(visitor: Visitor, release: Release) -> Visitor:
    """The same browser, before the new release."""
    after = Visitor(release.app)
    after.cookie = visitor.cookie
    return after


def test_a_flow_whose_states_all_exist_goes_on(store: str, user: str | None) -> None:
    """A page more at the end, and an edge more: the path and the answers stay."""
    visitor = Release(store).visitor(user).walk("a", "b")
    new = Release(store, [*LINE, "e"], more=[("a", "c")])
    visitor = deploy(visitor, new)
    told = visitor.see("c")
    assert (told["state"], told["path"], told["rev"]) == ("c", ["a", "b", "c"], 2)
    assert told["data"] == {"a": {"typed": "a"}, "b": {"typed": "b"}}
    visitor.walk("c", "d")
    assert visitor.see("e")["finished"]


def test_a_form_that_was_open_during_the_deploy_can_be_sent(store: str, user: str | None) -> None:
    """Its token is good for the same page at the same rev."""
    visitor = Release(store).visitor(user).walk("a", "b")
    token = visitor.token("c")
    visitor = deploy(visitor, Release(store, [*LINE, "e"]))
    assert visitor.post("c", token=token).location == "/d"


def test_a_form_that_was_taken_before_the_deploy_is_answered_after_it(store: str) -> None:
    """The same token and body again: the stored 303, and no second effect."""
    visitor = Release(store).visitor().walk("a")
    token = visitor.token("b")
    assert visitor.post("b", {"x": "1"}, token).location == "/c"
    new = Release(store, [*LINE, "e"])
    visitor = deploy(visitor, new)
    response = visitor.post("b", {"x": "1"}, token)
    assert (response.status_code, response.location) == (303, "/c")
    assert new.ran == []
    assert visitor.see("c")["rev"] == 2


WITHOUT_THE_FIRST = ["b", "c", "d"]


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_a_form_of_a_run_whose_first_page_is_gone_gets_a_410(
    store: str, user: str | None, asking: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a link to begin again, and a line in the log that names the state and the remedy."""
    visitor = Release(store).visitor(user).walk("a", "b")
    token = visitor.token("c")
    new = Release(store, WITHOUT_THE_FIRST)
    visitor = deploy(visitor, new)
    with caplog.at_level(logging.WARNING, "flask_fsm"):
        response = visitor.post("c", token=token, asking=asking)
    assert_refused(response, asking, 410, "definition")
    assert "'a'" in caplog.text
    assert "migrate" in caplog.text
    assert new.ran == []
    if asking == "html":
        assert 'href="/b"' in response.text
    visitor.walk("b", "c")
    assert visitor.see("d")["finished"]


def test_a_page_of_a_run_whose_first_page_is_gone_leads_to_the_first_with_a_notice(
    store: str, user: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """One redirect, one notice, and the visitor can begin again."""
    visitor = Release(store).visitor(user).walk("a", "b")
    new = Release(store, WITHOUT_THE_FIRST)
    visitor = deploy(visitor, new)
    with caplog.at_level(logging.WARNING, "flask_fsm"):
        response = visitor.open("c")
    assert (response.status_code, response.location) == (303, "/b")
    assert "'a'" in caplog.text
    page = visitor.open("b")
    assert page.status_code == 200
    assert len(notices(page)) == 1
    assert visitor.see("b")["rev"] == 0
    visitor.walk("b", "c")
    assert visitor.see("d")["finished"]


def test_the_new_first_page_opens_with_a_notice_where_the_old_one_is_gone(
    store: str, user: str | None
) -> None:
    """No redirect to itself, so no loop."""
    visitor = Release(store).visitor(user).walk("a", "b")
    visitor = deploy(visitor, Release(store, WITHOUT_THE_FIRST))
    page = visitor.open("b")
    assert page.status_code == 200
    assert len(notices(page)) == 1
    assert notices(visitor.open("b")) == []
    visitor.walk("b")


@pytest.mark.parametrize("names", [None, {"c": None}])
def test_who_was_on_a_page_that_is_gone_goes_on_from_the_page_before(
    store: str, user: str | None, names: Any
) -> None:
    """Their answers of the pages before are there, and they are told."""
    visitor = Release(store).visitor(user).walk("a", "b")
    visitor = deploy(visitor, Release(store, ["a", "b", "d"], names))
    assert visitor.open("d").location == "/b"
    page = visitor.open("b")
    assert len(notices(page)) == 1
    told = visitor.see("b")
    assert (told["path"], told["rev"], told["data"]) == (["a", "b"], 2, {"a": {"typed": "a"}})
    assert told["answers"] == {"typed": "b"}
    visitor.walk("b")
    assert visitor.see("d")["finished"]


def test_a_page_that_is_gone_from_within_the_path_cuts_it_back(
    store: str, user: str | None
) -> None:
    """What was typed behind it fills the forms again."""
    visitor = Release(store, [*LINE, "e"]).visitor(user).walk("a", "b", "c")
    visitor = deploy(visitor, Release(store, ["a", "c", "d", "e"]))
    assert visitor.open("d").location == "/a"
    told = visitor.see("a")
    assert (told["path"], told["answers"]) == (["a"], {"typed": "a"})
    visitor.walk("a")
    assert visitor.see("c")["answers"] == {"typed": "c"}
    visitor.walk("c", "d")
    assert visitor.see("e")["finished"]


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_a_form_of_a_page_that_is_gone_is_told_that_the_pages_have_changed(
    store: str, user: str | None, asking: str
) -> None:
    """Sent to a page that is there, it changes nothing, and nothing of the run is lost."""
    visitor = Release(store).visitor(user).walk("a", "b")
    token = visitor.token("c")
    new = Release(store, ["a", "b", "d"])
    visitor = deploy(visitor, new)
    response = visitor.post("b", {"x": "typed before"}, token, asking=asking)
    assert_refused(response, asking, 409, CHANGED)
    assert new.ran == []
    assert visitor.see("b")["rev"] == 2


def test_a_browser_that_follows_never_goes_round(store: str, user: str | None) -> None:
    """From each page of either release at most two redirects lead to a page that is shown."""
    for page in (*LINE, "e"):
        visitor = Release(store).visitor(user).walk("a", "b")
        visitor = deploy(visitor, Release(store, ["e", "b", "d"]))
        for _ in range(3):
            response = visitor.open(page)
            if response.status_code != 303:
                break
            page = response.location.strip("/")
        assert response.status_code in (200, 404)
        assert visitor.open("e").status_code == 200
        if user:
            visitor.walk("e", "b")


def test_a_finished_flow_whose_last_page_is_gone_begins_again(store: str, user: str | None) -> None:
    """Nothing of it can be shown."""
    visitor = Release(store).visitor(user).walk("a", "b", "c")
    visitor = deploy(visitor, Release(store, ["a", "b", "c", "e"]))
    assert visitor.open("c").location == "/a"
    visitor.walk("a", "b", "c")
    assert visitor.see("e")["finished"]


@ON_SERVERS
def test_going_back_to_the_old_release_finds_the_old_flow(store: str) -> None:
    """A release that is taken back: whoever has only looked goes on where they were."""
    old = Release(store)
    visitor = old.visitor("ann").walk("a", "b")
    deploy(visitor, Release(store, ["a", "b", "d"])).open("b")
    again = old.visitor("ann")
    assert again.see("c")["rev"] == 2


# -- migrate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [{"c": "cc"}, lambda name: "cc" if name == "c" else name])
def test_a_renamed_current_page_is_where_the_visitor_is(
    store: str, user: str | None, names: Any
) -> None:
    """The old address is no page any more; others lead to the new one."""
    visitor = Release(store).visitor(user).walk("a", "b")
    new = Release(store, ["a", "b", "cc", "d"], names)
    visitor = deploy(visitor, new)
    assert visitor.open("c").status_code == 404
    assert visitor.open("d").location == "/cc"
    told = visitor.see("cc")
    assert (told["path"], told["rev"]) == (["a", "b", "cc"], 2)
    visitor.walk("cc")
    assert visitor.see("d")["finished"]


def test_a_form_of_a_renamed_page_can_be_sent_to_its_new_address(
    store: str, user: str | None
) -> None:
    """Or is a conflict that shows what was typed; it is never lost by a 404 or a 500."""
    visitor = Release(store).visitor(user).walk("a", "b")
    token = visitor.token("c")
    visitor = deploy(visitor, Release(store, ["a", "b", "cc", "d"], {"c": "cc"}))
    response = visitor.post("cc", {"x": "typed before"}, token)
    assert response.status_code in (303, 409)
    if response.status_code == 409:
        assert "typed before" in response.text


def test_a_renamed_page_keeps_what_was_typed_on_it(store: str, user: str | None) -> None:
    """The form of a page behind is filled with its answers, that of a draft too."""
    visitor = Release(store).visitor(user).walk("a", "b", "a")
    new = Release(store, ["a", "bb", "c", "d"], {"b": "bb"})
    visitor = deploy(visitor, new)
    told = visitor.see("bb")
    assert (told["path"], told["answers"]) == (["a", "bb"], {"typed": "b"})
    visitor.walk("bb")
    assert visitor.see("c")["data"] == {"a": {"typed": "a"}, "bb": {"typed": "bb"}}


def test_a_page_that_is_gone_behind_the_visitor_is_left_out(store: str, user: str | None) -> None:
    """migrate({"b": None}): the visitor stays where they are."""
    visitor = Release(store).visitor(user).walk("a", "b")
    visitor = deploy(visitor, Release(store, ["a", "c", "d"], {"b": None}))
    told = visitor.see("c")
    assert (told["path"], told["data"]) == (["a", "c"], {"a": {"typed": "a"}})
    visitor.walk("c")


def test_two_pages_that_became_one_lead_on(store: str, user: str | None) -> None:
    """Behind the visitor, and under them."""
    for steps, at in ((("a", "b"), "c"), (("a",), "a")):
        visitor = Release(store).visitor(user and f"{user}{at}").walk(*steps)
        new = Release(store, ["a", "c", "d"], {"b": "a"})
        visitor = deploy(visitor, new)
        assert visitor.see(at)["state"] == at
        visitor.walk(*("a", "c")[("a", "c").index(at) :])
        assert visitor.see("d")["finished"]


def test_a_closed_page_stays_closed_after_a_migration(store: str, user: str | None) -> None:
    """What `invalidate` closed can't be reached by taking a page out of the row."""
    more = [Transition("c", "d", back="invalidate"), ("d", "e")]
    old = Release(store, ["a", "b", "c", "e"], more=more)
    old.app.add_url_rule("/d", "d", old.fsm.check()(old._view("d", "e")), methods=["GET", "POST"])
    visitor = old.visitor(user).walk("a", "b")
    assert visitor.send("c", {"to": "d"}).location == "/d"
    assert visitor.open("a").location == "/d"
    new = Release(store, ["a", "b", "dd", "e"], {"d": "dd", "c": None})
    visitor = deploy(visitor, new)
    assert visitor.see("dd")["path"] == ["a", "b", "dd"]
    for page in "ab":
        assert visitor.open(page).location == "/dd"
        assert visitor.post(page).status_code == 409


def test_a_migration_that_raises_is_no_500(
    store: str, user: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor begins again, and the log says what failed."""

    def broken(name: str) -> str | None:
        raise RuntimeError("it broke")

    visitor = Release(store).visitor(user).walk("a", "b")
    new = Release(store, ["a", "b", "d"], broken)
    visitor = deploy(visitor, new)
    with caplog.at_level(logging.WARNING, "flask_fsm"):
        assert visitor.open("b").location == "/a"
    assert "it broke" in caplog.text
    visitor.walk("a", "b")


@ON_SERVERS
def test_other_sessions_of_a_user_find_the_migrated_flow(store: str) -> None:
    """The record is read by the new names wherever the user is."""
    Release(store).visitor("ann").walk("a", "b")
    new = Release(store, ["a", "b", "cc", "d"], {"c": "cc"})
    assert new.visitor("ann").see("cc")["rev"] == 2
    with new.app.test_request_context("/cc"):
        session["user"] = "ann"
        assert [entry.target for entry in new.fsm.history] == ["b", "c"]


def test_a_login_takes_a_migrated_flow_along(store: str) -> None:
    """The anonymous session's flow of the old release, taken along at login in the new one."""
    visitor = Release(store).visitor().walk("a", "b")
    new = Release(store, ["a", "b", "cc", "d"], {"c": "cc"})
    visitor = deploy(visitor, new)
    visitor.open("login/ann")
    assert visitor.see("cc")["rev"] == 2
    visitor.walk("cc")


def test_flows_that_are_gone_are_not_listed(fresh_store: Callable[[str], str]) -> None:
    """Of many flows those are listed that can be shown; the others lead to a new one."""
    url = fresh_store("sqlite")
    old = Release(url, many=True)
    visitor = old.visitor("ann")
    for steps in (["a"], ["a", "b"]):
        location = str(visitor.open("a").location).strip("/")
        for _ in steps:
            location = str(visitor.send(location).location).strip("/")
    for pages, listed in ((["a", "b", "d"], ["b", "b"]), (WITHOUT_THE_FIRST, [])):
        new = Release(url, pages, many=True)
        with new.app.test_request_context(f"/{pages[0]}?flow=x"):
            session["user"] = "ann"
            assert [flow.state for flow in new.fsm.flows()] == listed
    gone = deploy(visitor, new)
    response = gone.open(location)
    for _ in range(2):
        assert response.status_code == 303
        response = gone.open(response.location.strip("/"))
        if response.status_code == 200:
            break
    assert response.status_code == 200


# -- a page that was put in between ---------------------------------------------------------------

LONGER = ["a", "b", "new", "c", "d"]
CHANGED = "pages_changed"


def test_nobody_gets_past_a_page_that_a_deploy_has_put_in_their_way(
    store: str, user: str | None
) -> None:
    """Who stood behind the new page is led to the last page before it, and passes it there."""
    visitor = Release(store).visitor(user).walk("a", "b")
    new = Release(store, LONGER)
    visitor = deploy(visitor, new)
    response = visitor.open("c")
    assert (response.status_code, response.location) == (303, "/b")
    assert len(notices(visitor.open("b"))) == 1
    told = visitor.see("b")
    assert (told["path"], told["rev"]) == (["a", "b"], 2)
    assert visitor.open("d").location == "/b"
    assert visitor.post("c").status_code == 409
    assert visitor.post("d").status_code == 409
    assert "POST c" not in new.ran
    visitor.walk("b")
    assert visitor.see("new")["path"] == ["a", "b", "new"]
    visitor.walk("new", "c")
    assert visitor.see("d")["finished"]


def test_answers_behind_a_new_page_fill_the_forms_again(store: str, user: str | None) -> None:
    """Of the page that is open again too; a guard of the next step doesn't see them."""
    visitor = Release(store, [*LINE, "e"]).visitor(user).walk("a", "b", "c")
    visitor = deploy(visitor, Release(store, [*LONGER, "e"]))
    told = visitor.see("b")
    assert (told["data"], told["answers"]) == ({"a": {"typed": "a"}}, {"typed": "b"})
    visitor.walk("b", "new")
    told = visitor.see("c")
    assert told["answers"] == {"typed": "c"}
    assert set(told["data"]) == {"a", "b", "new"}


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_a_form_that_a_new_page_has_closed_is_told_why_and_shows_what_was_typed(
    store: str, user: str | None, asking: str
) -> None:
    """It was open during the deploy: a conflict that leads to the page that comes first."""
    visitor = Release(store).visitor(user).walk("a", "b")
    token = visitor.token("c")
    new = Release(store, LONGER)
    visitor = deploy(visitor, new)
    response = visitor.post("c", {"x": "typed before"}, token, asking)
    assert_refused(response, asking, 409, CHANGED)
    if asking == "html":
        assert "typed before" in response.text
        assert 'href="/b"' in response.text
    assert new.ran == []


def test_a_client_of_json_is_told_that_the_pages_have_changed(store: str) -> None:
    """By a code of its own, and where to go on."""
    visitor = Release(store).visitor().walk("a", "b")
    visitor = deploy(visitor, Release(store, LONGER))
    response = visitor.open("c", "json")
    assert response.json is not None
    assert (response.json["reason"], response.json["location"]) == (CHANGED, "/b")


def test_who_comes_back_to_the_page_that_is_open_is_told_once(store: str, user: str | None) -> None:
    """Without a redirect there is nothing else that says why a filled page is open again."""
    visitor = Release(store).visitor(user).walk("a", "b")
    visitor = deploy(visitor, Release(store, LONGER))
    assert notices(visitor.open("a")) == []
    assert len(notices(visitor.open("b"))) == 1
    assert notices(visitor.open("b")) == []


def test_a_new_first_page_comes_first(store: str, user: str | None) -> None:
    """Whatever was done before it; what was typed is not lost."""
    visitor = Release(store).visitor(user).walk("a", "b")
    visitor = deploy(visitor, Release(store, ["new", *LINE]))
    assert visitor.open("b").location == "/new"
    assert visitor.see("new")["path"] == ["new"]
    visitor.walk("new")
    assert visitor.see("a")["answers"] == {"typed": "a"}
    visitor.walk("a", "b", "c")
    assert visitor.see("d")["finished"]


def test_a_run_that_had_ended_stays_ended(store: str, user: str | None) -> None:
    """An order that was placed is not open again."""
    visitor = Release(store).visitor(user).walk("a", "b", "c")
    visitor = deploy(visitor, Release(store, LONGER))
    told = visitor.see("d")
    assert (told["finished"], told["path"]) == (True, LINE)
    assert visitor.open("c").location == "/d"
    assert visitor.post("c").status_code == 410


def test_a_page_that_now_ends_the_run_is_reached_again(store: str, user: str | None) -> None:
    """Nobody stands for ever at an end that their run has not reached."""
    visitor = Release(store).visitor(user).walk("a", "b")
    visitor = deploy(visitor, Release(store, ["a", "b", "c"]))
    assert visitor.open("c").location == "/b"
    visitor.walk("b")
    assert visitor.see("c")["finished"]


def test_an_edge_that_a_view_no_longer_leads_along_counts_as_gone(
    store: str, user: str | None
) -> None:
    """`to` of a view narrows the machine, and a deploy may change it alone."""
    more = [("b", "x"), ("x", "c")]
    old = Release(store, more=more)
    visitor = old.visitor(user).walk("a", "b")
    new = Release(store, more=more, to={"b": ["x"]})
    new.app.add_url_rule("/x", "x", new.fsm.check()(new._view("x", "c")), methods=["GET", "POST"])
    visitor = deploy(visitor, new)
    assert visitor.open("c").location == "/b"
    assert visitor.send("b", {"to": "x"}).location == "/x"
    visitor.walk("x", "c")


@ON_SERVERS
def test_the_history_stays_as_it_was_when_a_path_is_cut_back(store: str) -> None:
    """It tells what happened, and goes on from there."""
    Release(store).visitor("ann").walk("a", "b")
    new = Release(store, LONGER)
    visitor = new.visitor("ann").walk("b")
    assert visitor.see("new")["rev"] == 3
    with new.app.test_request_context("/new"):
        session["user"] = "ann"
        steps = [(entry.source, entry.target) for entry in new.fsm.history]
    assert steps == [("a", "b"), ("b", "c"), ("b", "new")]


@ON_SERVERS
def test_who_has_only_looked_at_a_shorter_path_has_the_whole_one_in_the_old_release(
    store: str,
) -> None:
    """A release that is taken back: nothing is stored before the next step."""
    old = Release(store)
    visitor = old.visitor("ann").walk("a", "b")
    deploy(visitor, Release(store, LONGER)).see("b")
    assert old.visitor("ann").see("c")["path"] == ["a", "b", "c"]


def test_a_login_takes_a_flow_along_whose_path_is_cut_back(store: str) -> None:
    """The anonymous session's flow of the old release, claimed in the new one."""
    visitor = Release(store).visitor().walk("a", "b")
    visitor = deploy(visitor, Release(store, LONGER))
    visitor.open("login/ann")
    assert visitor.open("c").location == "/b"
    assert visitor.see("b")["answers"] == {"typed": "b"}
    visitor.walk("b", "new", "c")


def test_a_new_first_page_begins_with_the_arguments_of_its_own_url(store: str) -> None:
    """The path has none for it; its page is no 404."""

    def release(pages: list[str]) -> Release:
        return Release(store, pages, routes={page: f"/<int:shop>/{page}" for page in pages})

    visitor = release(LINE).visitor()
    assert visitor.send("7/a").location == "/7/b"
    visitor = deploy(visitor, release(["new", *LINE]))
    assert visitor.open("7/b").location == "/7/new"
    assert visitor.send("7/new").location == "/7/a"
    assert visitor.see("7/a")["answers"] == {"typed": "a"}
