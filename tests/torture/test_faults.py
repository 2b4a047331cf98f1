"""A full disk, a lost reply, a jumping clock, a server that is gone: the state is as promised."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from ..clients import HTML, JSON, LOOPBACK
from ..processes import free_port
from ..proxy import Lost, Proxy
from ..race_app import RING, create_app, prepare
from .records import assert_rows_agree, marks

TIMEOUT = 1.0
# What a bounded wait may take on top of FSM_STORE_TIMEOUT, on a machine that others use too.
SLACK = 4.0
DAYS = 2 * 24 * 3600


class Visitor:
    """A browser before the race app in this process."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client = app.test_client()

    def get(self, path: str) -> TestResponse:
        return self.client.get(path, headers={"Accept": JSON})

    def token(self, page: str) -> str:
        answer = self.get(f"/{page}")
        assert answer.status_code == 200, (answer.status, answer.text)
        return str(answer.json["token"])

    def post(self, page: str, token: str, mark: str = "", asking: str = HTML) -> TestResponse:
        fields = {"fsm_token": token, "to": RING[page], "mark": mark}
        return self.client.post(f"/{page}", data=fields, headers={"Accept": asking})

    def walk(self, *pages: str) -> None:
        for page in pages:
            answer = self.post(page, self.token(page))
            assert answer.status_code == 303, (page, answer.status, answer.text)

    def told(self) -> dict[str, Any]:
        """What the app tells of the flow."""
        answer = self.get("/history")
        assert answer.status_code == 200, (answer.status, answer.text)
        revs = [rev for *_, rev in answer.json["entries"]]
        assert revs == list(range(1, answer.json["rev"] + 1))
        return dict(answer.json)


def assert_unavailable(answer: TestResponse) -> None:
    """The store could not be reached: try again later."""
    assert answer.status_code == 503, (answer.status, answer.text)
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Cache-Control"] == "no-store"


# -- a full disk ----------------------------------------------------------------------------------


def test_a_full_disk_changes_nothing_and_says_so(tmp_path: Path) -> None:
    """SQLite may grow no more: 503, the flow stands as it was, and goes on when there is room."""
    url = f"sqlite:///{tmp_path / 'small.db'}"
    prepare(url)
    engine = sa.create_engine(url)
    pages = [1_000_000]

    @sa.event.listens_for(engine, "checkout")
    def limit(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")

    app = create_app(environ={}, store=engine)
    visitor = Visitor(app)
    visitor.walk("a", "b", "c")
    # No more than there is; what is free inside of it is soon used up.
    pages[0] = 1
    mark = "x" * 20_000
    rev = 3
    for _ in range(50):
        page = list(RING)[rev % 3]
        token = visitor.token(page)
        answer = visitor.post(page, token, mark)
        if answer.status_code != 303:
            break
        rev += 1
    assert_unavailable(answer)
    told = visitor.told()
    assert (told["state"], told["rev"]) == (page, rev)
    assert_unavailable(visitor.post(page, token, mark))
    pages[0] = 1_000_000
    answer = visitor.post(page, token, mark)
    assert (answer.status_code, answer.location) == (303, f"/{RING[page]}")
    assert visitor.told()["rev"] == rev + 1
    engine.dispose()
    assert_rows_agree(url)


# -- a lost reply ---------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    """A maker of proxies before the server of a URL."""
    made: list[Proxy] = []

    def make(url: str) -> Proxy:
        made.append(Proxy.before(url).open())
        return made[-1]

    yield make
    for each in made:
        each.close()


def is_commit(sent: bytes) -> bool:
    """Either the COMMIT itself, or one statement that is its own transaction."""
    return b"COMMIT" in sent or (b"INSERT INTO fsm_history" in sent and b"UPDATE" in sent)


def is_script_with_writes(sent: bytes) -> bool:
    """The script that commits names the edge's target; one that reads has no such argument."""
    return b"EVALSHA" in sent and b"/b" in sent


TRIGGERS = {"postgres": is_commit, "redis": is_script_with_writes}


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_lost_reply_to_a_commit_is_settled_by_the_same_form(
    kind: str, fresh_store: Callable[[str], str], proxy: Callable[[str], Proxy]
) -> None:
    """Nobody knows whether it was made: 503; the form is sent again, and led where it led."""
    direct = prepare(fresh_store(kind))
    way = proxy(direct)
    app = create_app({"FSM_STORE_URL": way.through(direct), "FSM_STORE_TIMEOUT": TIMEOUT}, {})
    visitor = Visitor(app)
    for round in range(3):
        if round:
            visitor.walk("a")
            visitor.walk("b", "c")
        rev = visitor.get("/a").json["rev"]
        token = visitor.token("a")
        lost: Lost = way.drop_reply_to(TRIGGERS[kind])
        first = visitor.post("a", token, "lost")
        assert lost.wait(), "No reply was lost: the trigger fits nothing that was sent."
        # A store that asks the server again by itself may know the answer at once.
        assert first.status_code in (303, 503), (first.status, first.text)
        if first.status_code == 503:
            assert_unavailable(first)
        again = visitor.post("a", token, "lost")
        assert (again.status_code, again.location) == (303, "/b")
        told = visitor.told()
        assert (told["state"], told["rev"]) == ("b", rev + 1)
        visitor.walk("b", "c")
    assert_rows_agree(direct)


# -- a clock that jumps ---------------------------------------------------------------------------


def test_a_clock_that_jumps_two_days_loses_nothing(
    kind: str, fresh_store: Callable[[str], str]
) -> None:
    """Two days forward, and two days back, in the middle of a run and of a form."""
    app = create_app({"FSM_STORE_URL": prepare(fresh_store(kind))}, {})
    shift = [0]
    app.extensions["fsm"].clock = lambda: time.time() + shift[0]
    visitor = Visitor(app)
    rev = 0
    for jump in (0, DAYS, 0, -DAYS, 0, DAYS):
        for page in RING:
            token = visitor.token(page)
            shift[0] = jump
            answer = visitor.post(page, token)
            assert (answer.status_code, answer.location) == (303, f"/{RING[page]}")
            again = visitor.post(page, token)
            assert (again.status_code, again.location) == (303, f"/{RING[page]}")
            rev += 1
    told = visitor.told()
    assert (told["state"], told["rev"]) == ("a", rev)


# -- a server that is not there -------------------------------------------------------------------


def unreachable(kind: str) -> str:
    """The URL of a server that does not run."""
    port = free_port()
    if kind == "postgres":
        return f"postgresql+psycopg://postgres@{LOOPBACK}:{port}/nothing"
    return f"redis://{LOOPBACK}:{port}/0"


def assert_soon_unavailable(ask: Callable[[], TestResponse]) -> None:
    """The answer is 503, and it comes within a bounded time."""
    answers: list[TestResponse] = []
    # What waits for ever ends when the proxy is closed.
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(TIMEOUT + SLACK)
    assert answers, f"No answer in {TIMEOUT + SLACK:g} s, and FSM_STORE_TIMEOUT is {TIMEOUT:g}."
    assert_unavailable(answers[0])


def assert_nothing_runs(visitor: Visitor, token: str, effects: Path) -> None:
    """GET and POST are answered with 503 in a bounded time, and the view does not run."""
    ran = marks(effects, "b")
    assert_soon_unavailable(lambda: visitor.get("/b"))
    assert_soon_unavailable(lambda: visitor.post("b", token))
    assert marks(effects, "b") == ran


@pytest.mark.parametrize("kind", ["postgres", "redis"])
@pytest.mark.parametrize("how", ["refuse", "blackhole"])
def test_without_its_server_no_page_is_unguarded(
    kind: str,
    how: str,
    fresh_store: Callable[[str], str],
    proxy: Callable[[str], Proxy],
    effects: Path,
) -> None:
    """503 with Retry-After after a bounded wait, no view runs, and later all goes on."""
    direct = prepare(fresh_store(kind))
    way = proxy(direct)
    config = {"FSM_STORE_URL": way.through(direct), "FSM_STORE_TIMEOUT": TIMEOUT}
    app = create_app(config, {"EFFECTS": str(effects)})
    visitor = Visitor(app)
    visitor.walk("a")
    token = visitor.token("b")
    getattr(way, how)()
    assert_nothing_runs(visitor, token, effects)
    way.open()
    assert visitor.post("b", token).status_code == 303
    assert visitor.told()["rev"] == 2
    assert os.path.exists(effects)


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_an_app_starts_before_its_server(kind: str) -> None:
    """The app can be made while the server is down; forms are answered with 503 until it is up."""
    app = create_app({"FSM_STORE_URL": unreachable(kind), "FSM_STORE_TIMEOUT": TIMEOUT}, {})
    visitor = Visitor(app)
    # Who has no flow yet may look: nothing is kept for that.
    assert visitor.get("/a").status_code == 200
    assert_soon_unavailable(lambda: visitor.client.post("/a", data={"to": "b"}))
    assert_soon_unavailable(lambda: visitor.get("/a"))
