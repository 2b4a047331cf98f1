"""How long a flow lives, what `flask fsm purge` removes, and what the log still knows then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from flask import request, session

from flask_fsm import ConfigError, FlaskFSM, Machine
from flask_fsm.cli import fsm as group
from flask_fsm.testing import FrozenClock

from ..apps import SECRET, Visitor, assert_refused, flask_app, notices, show

START = 1_800_000_000
DAY = 86_400
KINDS = ("session", "memory://", "sqlite", "postgres", "redis")
LINE = {"a": "b", "b": "c", "c": "d", "d": None}


class Line:
    """An app a -> b -> c -> d with a clock that a test sets."""

    def __init__(self, store: str, **options: Any) -> None:
        many = options.pop("many", False)
        self.app = flask_app(
            {"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": store, **options}
        )
        edges = [edge for edge in LINE.items() if edge[1]]
        self.fsm = FlaskFSM(Machine("line", edges, many=many))
        self.fsm.subject(lambda: session.get("user"))
        self.fsm.init_app(self.app)
        if store != "session":
            with self.app.app_context():
                self.fsm.init_db()
        self.at(START)
        for page, target in LINE.items():

            def view(page: str = page, target: str | None = target) -> Any:
                if request.method != "POST":
                    return show(page, self.fsm)
                if "reset" in request.form:
                    self.fsm.reset()
                    return "reset"
                return self.fsm.advance(target, data={"typed": page})

            self.app.add_url_rule(f"/{page}", page, self.fsm.check()(view), methods=["GET", "POST"])
        self.app.add_url_rule("/login/<name>", "login", self._login)

    def _login(self, name: str) -> str:
        session["user"] = name
        return name

    def at(self, time: float) -> None:
        """Set the clock."""
        self.app.extensions["fsm"].clock = FrozenClock(time)

    def visitor(self, user: str | None = None) -> Visitor:
        made = Visitor(self.app)
        if user is not None:
            made.open(f"login/{user}")
        return made

    def purge(self, *args: str) -> str:
        result = self.app.test_cli_runner().invoke(group, ["purge", *args])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    def log(self, **between: Any) -> list[tuple[int, str, str]]:
        with self.app.app_context():
            entries = list(self.fsm.log(**between))
        return [(entry.at - START, entry.source, entry.target) for entry in entries]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, fresh_store: Callable[[str], str]) -> str:
    """Each store."""
    kind = request.param
    return kind if kind in ("session", "memory://") else fresh_store(kind)


@pytest.fixture(params=KINDS[1:])
def served(request: pytest.FixtureRequest, fresh_store: Callable[[str], str]) -> str:
    """Each store that keeps flows apart from the session."""
    kind = request.param
    return kind if kind == "memory://" else fresh_store(kind)


@pytest.fixture(params=[None, "ann"], ids=["anonymous", "user"])
def user(request: pytest.FixtureRequest) -> str | None:
    """Whose flow it is."""
    found: str | None = request.param
    return found


# -- FSM_FLOW_LIFETIME --------------------------------------------------------------


def test_a_flow_lives_for_its_lifetime_from_its_last_commit(store: str, user: str | None) -> None:
    """To the second; looking at it doesn't make it younger, a step does."""
    line = Line(store, FSM_FLOW_LIFETIME=100)
    visitor = line.visitor(user).walk("a")
    line.at(START + 60)
    visitor.see("b")
    line.at(START + 100)
    visitor.walk("b")
    line.at(START + 200)
    assert visitor.see("c")["rev"] == 2
    line.at(START + 201)
    assert visitor.open("c").location == "/a"


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_a_form_of_an_expired_flow_gets_a_410(store: str, user: str | None, asking: str) -> None:
    """With a link to begin again; then a new run begins."""
    line = Line(store, FSM_FLOW_LIFETIME=100)
    visitor = line.visitor(user).walk("a", "b")
    token = visitor.token("c")
    line.at(START + 101)
    response = visitor.post("c", token=token, asking=asking)
    assert_refused(response, asking, 410, "expired")
    visitor.walk("a", "b", "c")
    assert visitor.see("d")["finished"]


def test_a_page_of_an_expired_flow_leads_to_the_first_with_a_notice(
    store: str, user: str | None
) -> None:
    """And the first page itself opens at once, with the notice."""
    line = Line(store, FSM_FLOW_LIFETIME=100)
    for page in "ba":
        visitor = line.visitor(user and user + page).walk("a", "b")
        line.at(START + 101)
        if page != "a":
            assert visitor.open(page).location == "/a"
        first = visitor.open("a")
        assert first.status_code == 200
        assert len(notices(first)) == 1
        assert "too long" in notices(first)[0]
        told = visitor.see("a")
        assert (told["rev"], told["data"], told["answers"]) == (0, {}, None)
        line.at(START)


def test_another_device_of_a_user_finds_an_expired_flow_blank(served: str) -> None:
    """It begins a new run in its place, to which the first device gets too."""
    line = Line(served, FSM_FLOW_LIFETIME=100)
    first = line.visitor("ann").walk("a", "b")
    line.at(START + 500)
    second = line.visitor("ann")
    assert second.see("a")["rev"] == 0
    second.walk("a")
    assert second.see("b")["rev"] == 1
    assert first.see("b")["rev"] == 1


def test_an_expired_flow_among_many_leads_to_a_new_one(served: str, user: str | None) -> None:
    """By a notice and at most two redirects; the others are listed, it is not."""
    line = Line(served, FSM_FLOW_LIFETIME=100, many=True)
    visitor = line.visitor(user)

    def begin() -> str:
        location = str(visitor.open("a").location).strip("/")
        assert visitor.send(location).status_code == 303
        return location.replace("a", "b", 1)

    old = begin()
    line.at(START + 80)
    young = begin()
    line.at(START + 120)
    assert visitor.see(young)["rev"] == 1
    response = visitor.open(old)
    for _ in range(2):
        assert response.status_code == 303, response.text
        response = visitor.open(response.location.strip("/"))
        if response.status_code == 200:
            break
    assert response.status_code == 200
    assert notices(response)


def test_without_a_lifetime_a_flow_lives_for_ever(store: str, user: str | None) -> None:
    """FSM_FLOW_LIFETIME=None."""
    line = Line(store, FSM_FLOW_LIFETIME=None)
    visitor = line.visitor(user).walk("a", "b")
    line.at(START + 10_000 * DAY)
    assert visitor.see("c")["rev"] == 2
    visitor.walk("c")


def test_an_expired_flow_is_not_taken_along_at_login(served: str) -> None:
    """The user's own flow stays, and an old one of the session is not brought back by it."""
    line = Line(served, FSM_FLOW_LIFETIME=100)
    visitor = line.visitor().walk("a", "b")
    line.at(START + 101)
    line.visitor("ann").walk("a")
    visitor.open("login/ann")
    assert visitor.see("b")["rev"] == 1


def test_a_user_s_expired_flow_gives_way_to_the_session_s(served: str) -> None:
    """Whatever the app would choose: what has expired is not there."""
    line = Line(served, FSM_FLOW_LIFETIME=100)
    line.fsm.on_login_conflict(lambda session, user: user)
    line.visitor("ann").walk("a")
    line.at(START + 101)
    visitor = line.visitor().walk("a", "b")
    visitor.open("login/ann")
    assert visitor.see("c")["rev"] == 2


# -- a clock that jumps ---------------------------------------------------------------------------


def test_a_clock_that_jumps_two_days_ahead_and_back_loses_nothing(
    store: str, user: str | None
) -> None:
    """Steps are made before, during and after the jump; the history is in order."""
    line = Line(store, FSM_FLOW_LIFETIME=3 * DAY)
    visitor = line.visitor(user).walk("a")
    line.at(START + 2 * DAY)
    visitor.walk("b")
    line.at(START + 10)
    told = visitor.see("c")
    assert (told["rev"], told["data"]) == (2, {"a": {"typed": "a"}, "b": {"typed": "b"}})
    visitor.walk("c")
    assert visitor.see("d")["rev"] == 3
    if store != "session":
        assert [at for at, *_ in line.log()] == [0, 2 * DAY, 2 * DAY]


def test_a_clock_that_jumps_past_the_lifetime_and_back_brings_the_flow_back(
    served: str, user: str | None
) -> None:
    """A GET during the jump removes no record: the user's flow is there when the clock is right."""
    line = Line(served, FSM_FLOW_LIFETIME=DAY)
    visitor = line.visitor(user).walk("a", "b")
    cookie = visitor.cookie
    line.at(START + 2 * DAY)
    assert visitor.open("c").location == "/a"
    line.at(START + 10)
    visitor.cookie = cookie
    assert visitor.see("c")["rev"] == 2


def test_a_lease_outlives_no_jump_of_the_clock(served: str) -> None:
    """A lease taken while the clock was two days ahead doesn't lock the flow for two days."""
    from flask_fsm import Transition

    app = flask_app(
        {"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": served, "FSM_LOCK_TIMEOUT": 0.2}
    )
    fsm = FlaskFSM(app, Machine("m", [Transition("a", "b", once=True)]))
    with app.app_context():
        fsm.init_db()
    clock = app.extensions["fsm"].clock = FrozenClock(START)

    def view() -> Any:
        if request.method != "POST":
            return show("a", fsm)
        if "die" in request.form:
            # As if the process were killed: the lease is not given up.
            from flask_fsm.pages.decisions import page_requests

            page_requests().of["m"].work.lease = None
            raise RuntimeError
        return fsm.advance("b", data={})

    app.add_url_rule("/a", "a", fsm.check()(view), methods=["GET", "POST"])
    app.add_url_rule("/b", "b", fsm.check()(lambda: "b"))
    visitor = Visitor(app)
    token = visitor.token("a")
    clock.tick(2 * DAY)
    with pytest.raises(RuntimeError):
        visitor.post("a", {"die": "1"}, token)
    clock.tick(30)
    assert visitor.post("a", token=token).status_code == 409
    clock.now = START
    assert visitor.post("a", token=token).status_code == 303


# -- purge ----------------------------------------------------------------------------------------


def test_purge_removes_what_has_expired_and_nothing_else(served: str, user: str | None) -> None:
    """Finished runs and given up ones as well, each once past FSM_FLOW_LIFETIME."""
    line = Line(served, FSM_FLOW_LIFETIME=2 * DAY)
    old = line.visitor(user).walk("a", "b")
    line.visitor().walk("a", "b", "c")
    gone = line.visitor().walk("a")
    gone.post("b", {"reset": "1"}, gone.token("b"))
    line.at(START + 1 * DAY)
    young = line.visitor().walk("a")
    line.at(START + 2 * DAY)
    assert "no flows" in line.purge()
    line.at(START + 2 * DAY + 2)
    assert "3 flows" in line.purge()
    assert "no flows" in line.purge()
    assert young.see("b")["rev"] == 1
    assert old.open("c").location == "/a"
    old.walk("a", "b")
    assert old.see("c")["rev"] == 2


def test_purge_keeps_the_history(served: str) -> None:
    """The log knows the runs whose records are gone."""
    line = Line(served, FSM_FLOW_LIFETIME=DAY)
    line.visitor().walk("a", "b")
    told = line.log()
    line.at(START + 3 * DAY)
    assert "1 flow" in line.purge()
    assert line.log() == told == [(0, "a", "b"), (0, "b", "c")]
    with line.app.app_context():
        assert line.fsm.funnel().runs == 1


def test_purge_removes_the_history_that_is_old_if_told_so(served: str) -> None:
    """--history-older-than DAYS: entries before that, and no others."""
    line = Line(served, FSM_FLOW_LIFETIME=DAY)
    line.visitor().walk("a", "b")
    line.at(START + 5 * DAY)
    young = line.visitor().walk("a")
    line.at(START + 6 * DAY)
    line.purge("--history-older-than", "4")
    assert line.log() == [(5 * DAY, "a", "b")]
    assert young.see("b")["rev"] == 1
    with line.app.app_context():
        assert line.fsm.funnel().runs == 1


def test_a_purge_of_history_leaves_the_newest_of_a_run_that_goes_on(served: str) -> None:
    """A flow that lives longer than its history is where it was, and can be moved."""
    line = Line(served, FSM_FLOW_LIFETIME=None)
    visitor = line.visitor().walk("a")
    line.at(START + 9 * DAY)
    visitor.walk("b")
    line.purge("--history-older-than", "3")
    assert visitor.see("c")["rev"] == 2
    visitor.walk("c")
    assert visitor.see("d")["data"] == {page: {"typed": page} for page in "abc"}


def test_a_flow_that_was_purged_is_not_begun_twice(served: str) -> None:
    """Its form gets 410, and not a new run in the middle."""
    line = Line(served, FSM_FLOW_LIFETIME=DAY)
    visitor = line.visitor().walk("a", "b")
    token = visitor.token("c")
    line.at(START + 3 * DAY)
    line.purge()
    assert visitor.post("c", token=token).status_code == 410
    visitor.walk("a")


def test_purge_of_a_page_that_is_open_before_the_first_step_harms_nobody(served: str) -> None:
    """A run that has not begun has no record to remove."""
    line = Line(served, FSM_FLOW_LIFETIME=DAY)
    visitor = line.visitor()
    token = visitor.token("a")
    line.at(START + DAY - 5)
    line.purge()
    assert visitor.post("a", token=token).status_code == 303


# -- the log --------------------------------------------------------------------------------------


def test_the_log_holds_runs_that_are_over(served: str, user: str | None) -> None:
    """A finished run that another one replaced, and one that was given up."""
    line = Line(served)
    visitor = line.visitor(user).walk("a", "b", "c")
    line.at(START + 10)
    visitor.walk("a")
    line.at(START + 20)
    visitor.post("b", {"reset": "1"}, visitor.token("b"))
    line.at(START + 30)
    visitor.walk("a")
    with line.app.app_context():
        entries = list(line.fsm.log())
    assert [(e.at - START, e.source, e.target, e.event, e.rev) for e in entries] == [
        (0, "a", "b", None, 1),
        (0, "b", "c", None, 2),
        (0, "c", "d", None, 3),
        (10, "a", "b", None, 1),
        (20, "b", "a", "reset", 2),
        (30, "a", "b", None, 1),
    ]
    assert len({entry.flow for entry in entries}) == 3


def test_the_log_of_a_login_holds_each_step_once(served: str) -> None:
    """The run that is taken along is one run; its steps are not counted twice."""
    line = Line(served)
    visitor = line.visitor().walk("a", "b")
    visitor.open("login/ann")
    visitor.walk("c")
    assert line.log() == [(0, "a", "b"), (0, "b", "c"), (0, "c", "d")]
    with line.app.app_context():
        assert line.fsm.funnel().runs == 1
        assert len({entry.flow for entry in line.fsm.log()}) == 1


def test_a_login_that_keeps_the_user_s_flow_ends_the_session_s_run_in_the_log(served: str) -> None:
    """Both runs are in the log, each step once."""
    line = Line(served)
    line.fsm.on_login_conflict(lambda session, user: user)
    line.visitor("ann").walk("a")
    line.at(START + 5)
    visitor = line.visitor().walk("a", "b")
    visitor.open("login/ann")
    assert visitor.see("b")["rev"] == 1
    assert line.log() == [(0, "a", "b"), (5, "a", "b"), (5, "b", "c")]


MOMENTS: list[tuple[Any, Any, list[int]]] = [
    (None, None, [0, 10, 20]),
    (START + 10, None, [10, 20]),
    (None, START + 10, [0]),
    (START + 10, START + 20, [10]),
    (START + 20, START + 10, []),
    (START + 0.5, None, [10, 20]),
    (START + 10.0, START + 10.5, [10]),
    (None, START + 0.5, [0]),
    (datetime.fromtimestamp(START + 10, UTC), None, [10, 20]),
    (None, datetime.fromtimestamp(START + 10, timezone(timedelta(hours=5))), [0]),
    (datetime.fromtimestamp(START + 10, UTC) + timedelta(microseconds=1), None, [20]),
    (None, datetime.fromtimestamp(START + 10, UTC) + timedelta(microseconds=1), [0, 10]),
    (-(10**9), 10**12, [0, 10, 20]),
]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_log_can_be_cut_at_times(kind: str, fresh_store: Callable[[str], str]) -> None:
    """`since` is within, `until` is not; as numbers, with fractions, and as times of any zone."""
    line = Line(kind if kind == "memory://" else fresh_store(kind))
    visitor = line.visitor()
    for step, page in enumerate("abc"):
        line.at(START + 10 * step)
        visitor.walk(page)
    wrong = {}
    for since, until, expected in MOMENTS:
        found = [at for at, *_ in line.log(since=since, until=until)]
        if found != expected:
            wrong[since, until] = found
    assert wrong == {}


def test_the_log_of_a_machine_that_is_not_there_is_an_error_that_names_it(
    fresh_store: Callable[[str], str],
) -> None:
    """And no KeyError."""
    line = Line(fresh_store("sqlite"))
    with line.app.app_context(), pytest.raises(Exception, match="no machine 'nothing'") as caught:
        list(line.fsm.log("nothing"))
    assert not isinstance(caught.value, KeyError)


@pytest.mark.parametrize("wrong", ["yesterday", [], object(), float("nan")])
def test_a_time_that_is_none_is_a_clear_error(
    fresh_store: Callable[[str], str], wrong: object
) -> None:
    """TypeError or ValueError, when asked and not when read."""
    line = Line(fresh_store("sqlite"))
    with line.app.app_context(), pytest.raises((TypeError, ValueError)):
        line.fsm.log(since=wrong)  # type: ignore[arg-type]


def test_the_session_store_has_no_log() -> None:
    """The error says which key to set."""
    line = Line("session")
    with line.app.app_context(), pytest.raises(ConfigError, match="FSM_STORE_URL"):
        line.fsm.log()


def test_a_log_that_is_not_read_to_its_end_holds_nothing(fresh_store: Callable[[str], str]) -> None:
    """Whoever takes the first entry only leaves no connection and no lock behind."""
    line = Line(fresh_store("sqlite"), FSM_STORE_TIMEOUT=0.5)
    visitor = line.visitor().walk("a", "b")
    kept = []
    with line.app.app_context():
        for _ in range(3):
            log = line.fsm.log()
            assert next(iter(log)).source == "a"
            kept.append(log)
    visitor.walk("c")
    assert visitor.see("d")["finished"]
    for log in kept:
        log.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_entries_of_one_second_are_in_the_order_of_their_revs(
    kind: str, fresh_store: Callable[[str], str]
) -> None:
    """And those of one rev in the order in which they were made."""
    line = Line(fresh_store(kind))
    for _ in range(3):
        line.visitor().walk("a", "b", "c")
    with line.app.app_context():
        entries = list(line.fsm.log())
    runs: dict[str, list[int]] = {}
    for entry in entries:
        runs.setdefault(entry.flow, []).append(entry.rev)
    assert list(runs.values()) == [[1, 2, 3]] * 3
