"""A Valkey cluster of three primaries with replicas: store, logins, links, bus, and a failover."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from flask import request, session
from redis import Redis

from flask_fsm import FlaskFSM, Machine

from ..apps import SECRET, Visitor, flask_app, seen, show, token_in
from ..bus.recorder import Recorder
from ..bus.test_open import opened
from ..clients import LOOPBACK
from ..race_app import RING
from ..store_servers import Valkey, ValkeyCluster

USERS = 24
RACERS = 4
# Seconds of the failover's test before the primary is killed, and after.
BEFORE, AFTER = 1.5, 6.0
# Seconds that a failover takes at most here, and in which a write reaches the replica.
FAILOVER, UNREPLICATED = 5.0, 0.5


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as made:
        yield made


def site(client: Any) -> Any:
    """The ring of the race app on a client of the cluster, with logins and resume links."""
    app = flask_app({"SECRET_KEY": SECRET, "FSM_STORE_URL": client, "FSM_HISTORY_LIMIT": None})
    fsm = FlaskFSM(Machine("ring", list(RING.items()), initial="a", final=[]))
    fsm.subject(lambda: session.get("user"))
    fsm.init_app(app)

    def add(page: str, target: str) -> None:
        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view() -> Any:
            if request.method == "POST":
                return fsm.advance(target, data={"page": page})
            return show(page, fsm)

    for page, target in RING.items():
        add(page, target)

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["user"] = name
        return name

    @app.get("/link")
    def link() -> str:
        return fsm.resume_link()

    return app


def spread(cluster: ValkeyCluster) -> list[int]:
    """How many keys each primary holds."""
    with closing(cluster.client()) as client:
        return [client.dbsize(target_nodes=node) for node in client.get_primaries()]


def test_flows_logins_and_links_work_whatever_node_holds_them(cluster: ValkeyCluster) -> None:
    """A login moves a flow from one owner's slot to another's, and a link leads across slots."""
    with closing(cluster.client()) as client:
        app = site(client)
        for number in range(USERS):
            visitor = Visitor(app)
            visitor.walk("a", "b")
            assert visitor.open(f"login/user{number}").status_code == 200
            assert visitor.see("c")["rev"] == 2
            visitor.walk("c")
            other = Visitor(app)
            other.open(f"login/user{number}")
            assert other.see("a")["rev"] == 3
            anonymous = Visitor(app)
            anonymous.walk("a")
            elsewhere = Visitor(app)
            followed = elsewhere.open(anonymous.open("link").text.partition("localhost/")[2])
            assert followed.status_code in (200, 303)
    assert min(spread(cluster)) > USERS


def test_a_bus_carries_each_channel_whatever_node_holds_it(cluster: ValkeyCluster) -> None:
    """From one process to another, and what was missed meanwhile."""
    names = [f"channel {number}" for number in range(USERS)]
    with (
        closing(cluster.client()) as here,
        closing(cluster.client()) as there,
        closing(opened(here)) as sender,
        closing(opened(there)) as receiver,
    ):
        recorders = [Recorder() for _ in names]
        starts = [
            receiver.subscribe(name, recorder)
            for name, recorder in zip(names, recorders, strict=True)
        ]
        for number in range(3):
            for name in names:
                sender.publish(name, f"{name} {number}")
        for name, start, recorder in zip(names, starts, recorders, strict=True):
            assert recorder.until_count(3) == [f"{name} {number}" for number in range(3)]
            assert sender.since(name, start) == recorder.log


def keys_on(node: Valkey) -> int:
    """How many keys a node holds."""
    with closing(Redis(LOOPBACK, node.port)) as client:
        return int(client.dbsize())


class Round(NamedTuple):
    """One race of two forms at the same page: when it began and ended, rev before, and winners."""

    began: float
    ended: float
    rev: int
    wins: int


class Race:
    """A visitor and a rival with the same cookie, who send a form each of every page at once."""

    def __init__(self, app: Any, end: float) -> None:
        self._visitor, self._rival = Visitor(app), Visitor(app)
        self._end = end
        self._pool = ThreadPoolExecutor(2)
        self.statuses: Counter[int] = Counter()
        self.rounds: list[Round] = []

    def run(self) -> Race:
        page = "a"
        with self._pool:
            while time.monotonic() < self._end:
                page = self._round(page)
        return self

    def _round(self, page: str) -> str:
        """Race for one step; return the page that comes next."""
        began = time.monotonic()
        shown = self._visitor.open(page)
        self._rival.cookie = self._visitor.cookie
        other = self._rival.open(page)
        self.statuses.update((shown.status_code, other.status_code))
        if {shown.status_code, other.status_code} != {200}:
            time.sleep(0.02)
            return RING[page] if 303 in (shown.status_code, other.status_code) else page
        rev = seen(shown)["rev"]
        sent = [
            self._pool.submit(visitor.post, page, {}, token_in(answer.text), "json")
            for visitor, answer in ((self._visitor, shown), (self._rival, other))
        ]
        statuses = [each.result().status_code for each in sent]
        self.statuses.update(statuses)
        self.rounds.append(Round(began, time.monotonic(), rev, statuses.count(200)))
        return RING[page] if 200 in statuses else page


def test_a_failover_under_load_loses_what_was_not_replicated_and_nothing_else() -> None:
    """The visitors are told 503 for a moment; on one primary, two forms never both win."""
    with ValkeyCluster() as cluster, closing(cluster.client(socket_timeout=2)) as client:
        app = site(client)
        end = time.monotonic() + BEFORE + AFTER
        with ThreadPoolExecutor(RACERS) as pool:
            running = [pool.submit(Race(app, end).run) for _ in range(RACERS)]
            time.sleep(BEFORE)
            busiest = max(cluster.nodes[: cluster.PRIMARIES], key=lambda node: keys_on(node))
            assert keys_on(busiest), "a flow is on the primary that is killed"
            killed = time.monotonic()
            busiest.kill()
            races = [each.result() for each in running]
    statuses = sum((race.statuses for race in races), Counter[int]())
    assert set(statuses) <= {200, 303, 409, 503}, statuses
    for race in races:
        assert race.rounds[-1].wins == 1, "it goes on after the failover"
        for before, after in pairwise(race.rounds):
            # On the way from one primary to the other, one form may win on each.
            during = before.began < killed + FAILOVER and before.ended > killed - UNREPLICATED
            assert before.wins <= 1 or during, before
            assert after.rev >= before.rev + (before.wins > 0) or during, (before, after)
    assert sum(len(race.rounds) for race in races) > 20 * RACERS
