"""Pages, sockets, streams and posts move one flow at once, and all are told the same of it."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ..clients import LOOPBACK, PATIENCE
from ..live.serving import Browser, Site, Sites, Socket, Stream
from ..race_app import RING
from ..store_servers import RedisDatabases, Valkey, unkillable
from .durations import dice, size
from .recorders import GAP, Follower, Log

APP: Final = "tests.race_app:create_live_app()"
OTHER_USER: Final = 4401
SOCKETS: Final = 3
# Who acts: sockets, a browser with pages, a program that posts.
ACTORS: Final = (*range(SOCKETS), "page", "post")
RACES: Final = size(40, 1_000)
# Races of one flow, and events of one actor in a race.
RACES_OF_A_FLOW: Final = size(10, 25)
CUTS: Final = size(30, 500)
EVENTS: Final = size(600, 10_000)

Step = tuple[Any, str]


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    """The sites of this module."""
    made = Sites()
    yield made
    made.stop()


class Place(NamedTuple):
    """What serves: the kind of bus, and how many processes."""

    bus: str
    workers: int


@pytest.fixture(
    params=[Place("memory", 1), Place("redis", 1), Place("redis", 4)],
    ids=lambda place: f"{place.bus}-{place.workers}",
    scope="module",
)
def site(request: pytest.FixtureRequest, sites: Sites, redis_databases: RedisDatabases) -> Site:
    """A site on the memory bus, or on the bus and the store of Redis with 1 or 4 workers."""
    place = request.param
    url = redis_databases.fresh() if place.bus == "redis" else "memory://"
    return sites.get("loop", APP, workers=place.workers, FSM_BUS_URL=url, FSM_STORE_URL=url)


# -- page and socket agree ------------------------------------------------------------------------


class Party:
    """Several clients of one flow: sockets and a stream that follow it, and those who move it."""

    def __init__(self, site: Site) -> None:
        self._stack = ExitStack()
        self._numbers = itertools.count()
        # In one process events wait for each other; of those in several, one may be too late.
        self._several = site.server.workers > 1
        self.browser = site.browser()
        self.browser.state("ring")  # now it has a flow
        self.sockets: list[Socket] = []
        self.moves = 0
        """How many transitions pages and posts were told of."""
        self.said: list[Any] = []
        """All that posts have said in data frames."""
        self._mutex = threading.Lock()
        for _ in range(SOCKETS):
            self.sockets.append(self._stack.enter_context(self.browser.copy().websocket("ring")))
        self.stream = self._stack.enter_context(self.browser.copy().curl_events("ring"))
        self.logs = {id(client): Log() for client in self.clients}
        self.asked: dict[int, dict[str, str]] = {id(client): {} for client in self.sockets}
        for client in self.clients:
            self._read(client, first=True)

    @property
    def clients(self) -> list[Socket | Stream]:
        return [*self.sockets, self.stream]

    def _read(self, client: Socket | Stream, *, first: bool = False) -> None:
        self.logs[id(client)].take(client.receive(), first=first)

    # -- what they do -------------------------------------------------------------------

    def act(self, actor: Any, event: str) -> None:
        """Let an actor do something; a socket does not wait for what comes of it."""
        if actor == "page":
            self._post_page()
            return
        with self._mutex:
            number = f"{actor}/{next(self._numbers)}"
        if actor == "post":
            self._post(event, number)
            return
        client = self.sockets[actor]
        self.asked[id(client)][number] = event
        client.send(event, number, ref=number)

    def _post_page(self) -> None:
        page = self.browser.copy().state("ring")["state"]
        reply = self.browser.copy().post(f"/{page}")
        assert reply.status in (200, 409), reply
        self.moves += reply.status == 200

    def _post(self, event: str, number: str) -> None:
        reply = self.browser.copy().event("ring", event, number, ref=number)
        lost = reply.status != 200
        if lost:
            self._check_lost(event, reply.json)
        self.moves += event != "say" and not lost
        self.said += words(event, number, lost=lost)

    def _check_lost(self, event: str, frame: dict[str, Any]) -> None:
        assert frame["data"]["reason"] == "lost_race", frame
        assert event != "say", "What moves nothing can't be too late."
        assert self._several, frame

    # -- what they know -----------------------------------------------------------------

    def settle(self) -> None:
        """Wait until all clients know all, and find that they know the same."""
        said, moved = list(self.said), self.moves
        for client in self.sockets:
            told, moves = self._answers(client)
            said += told
            moved += moves
        now = self.browser.copy().state("ring")
        assert now["rev"] == moved
        assert now["state"] == list(RING)[now["rev"] % len(RING)]
        first = self.logs[id(self.clients[0])]
        for client in self.clients:
            log = self.logs[id(client)]
            while log.rev < now["rev"] or len(log.said) < len(said):
                self._read(client)
            assert (log.state, log.rev) == (now["state"], now["rev"])
            assert log.gaps == 0
            assert log.said == first.said
        assert Counter(map(str, first.said)) == Counter(map(str, said)), "Lost, or twice."
        self._check_order(first)
        assert not any("ref" in frame for frame in self.logs[id(self.stream)].frames)

    def _answers(self, client: Socket) -> tuple[list[Any], int]:
        """Wait until a socket is answered all that it asked; return what it said and moved."""
        log, asked = self.logs[id(client)], self.asked[id(client)]
        while True:
            answers: dict[str, list[dict[str, Any]]] = {}
            for frame in log.frames:
                if "ref" in frame:
                    answers.setdefault(frame["ref"], []).append(frame)
            missing = [
                (number, event, answers.get(number))
                for number, event in asked.items()
                if not answered(event, answers.get(number, []))
            ]
            if not missing:
                break
            try:
                self._read(client)
            except TimeoutError:
                raise AssertionError(f"No answer to {missing} in {log.frames}") from None
        # A refusal does not go by the bus, so that it may overtake what does.
        in_order = [number for number in answers if answers[number][0]["status"] < 400]
        assert in_order == [number for number in asked if number in in_order]
        assert answers.keys() == asked.keys()
        said, moves = [], 0
        for number, event in asked.items():
            frames = answers[number]
            lost = [frame for frame in frames if frame["status"] >= 400]
            for frame in lost:
                self._check_lost(event, frame)
            said += words(event, number, lost=bool(lost))
            moves += sum("state" in frame for frame in frames)
        return said, moves

    def _check_order(self, log: Log) -> None:
        """Each actor's words come in the order in which they were said.

        A program's posts may be served by several processes, whose words have no order but that of
        the bus.
        """
        for actor in range(SOCKETS) if self._several else ACTORS:
            mine = [
                int(word.split("/")[1])
                for each in log.said
                if (word := each[0] if isinstance(each, list) else each).startswith(f"{actor}/")
            ]
            assert mine == sorted(mine), log.said

    def silent(self) -> None:
        """Nothing more comes than the answer to what is asked now."""
        for client in self.sockets:
            frame = client.ask("say", "silence", rev=10**9, ref="silence")
            assert frame.get("ref") == "silence", frame

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def words(event: str, number: str, *, lost: bool) -> list[Any]:
    """Return what is said of an event, which may have been too late for its transition."""
    before, after = [number, "before"], [number, "after"]
    return {"next": [], "say": [number], "both": [before] if lost else [before, after]}[event]


def answered(event: str, frames: Sequence[dict[str, Any]]) -> bool:
    """Return whether all frames that answer an event have come."""
    lost = any(frame["status"] >= 400 for frame in frames)
    number = {"next": 1, "say": 1, "both": 2 if lost else 3}[event]
    assert len(frames) <= number, (event, frames)
    return len(frames) == number


STEPS: Final = st.lists(
    st.tuples(st.sampled_from(ACTORS), st.sampled_from(["next", "say", "both"])),
    min_size=1,
    max_size=30,
)


# Without shrinking: what fails may be a matter of luck, and each try takes a while.
@settings(max_examples=size(20, 300), phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(steps=STEPS)
def test_page_and_socket_agree(site: Site, steps: Sequence[Step]) -> None:
    """Whoever moves the flow in whichever order: all end with the same, and were told all."""
    with Party(site) as party:
        for actor, event in steps:
            party.act(actor, event)
        party.settle()
        party.silent()


def test_page_and_socket_agree_in_races(site: Site) -> None:
    """The same where all act at the same moment, each in a thread."""
    throw = dice()
    for _ in range(RACES // RACES_OF_A_FLOW):
        with Party(site) as party:
            for _ in range(RACES_OF_A_FLOW):
                race(party, throw)
            party.silent()


def race(party: Party, throw: random.Random) -> None:
    """Let each actor do one to three things."""
    scripts = {
        actor: throw.choices(["next", "say", "both"], k=throw.randint(1, 3)) for actor in ACTORS
    }
    together = threading.Barrier(len(scripts))
    errors: list[BaseException] = []

    def run(actor: Any, script: list[str]) -> None:
        try:
            together.wait(PATIENCE)
            for event in script:
                party.act(actor, event)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each) for each in scripts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    party.settle()


# -- resume ---------------------------------------------------------------------------------------


class Producer:
    """Says 0, 1, 2 and so on, and moves the flow now and then, until all is said.

    It has one connection, so that one process serves it. What two processes say has no order but
    that of the bus.
    """

    def __init__(self, browser: Browser, number: int) -> None:
        self._headers = {**browser.cookie_header, "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection(LOOPBACK, browser.port, timeout=PATIENCE)
        self.number = number
        self.count = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for count in range(self.number):
                self.tell("say", count)
                if count % 10 == 5:
                    self.tell("next")
                self.count = count + 1
        except BaseException as error:
            self._error = error

    def tell(self, event: str, data: Any = None) -> None:
        """Post an event."""
        body = json.dumps({"event": event, "data": data})
        self._connection.request("POST", "/fsm/ring/event", body, self._headers)
        response = self._connection.getresponse()
        text = response.read()
        assert response.status == 200, text

    def wait_for(self, count: int) -> None:
        """Wait until so many are said."""
        while self.count < count and self._thread.is_alive():
            time.sleep(0.002)
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        self._thread.join()
        self.wait_for(self.number)

    def close(self) -> None:
        self._thread.join()
        self._connection.close()


def follow(
    site: Site,
    kind: str,
    throw: random.Random,
    disturb: Callable[[Producer, Follower], None],
    least: int = CUTS,
) -> list[Log]:
    """Let clients follow a flow on connections that break; return their logs, which are whole.

    They break CUTS times, or `least` times if they get less to hear in all.
    """
    browser = site.browser()
    browser.state("ring")  # now it has a flow
    number = 3
    followers: list[Follower] = []
    mutex = threading.Lock()
    left = [CUTS]

    def next_cut() -> int | None:
        # As many as are wanted, over about half of what is said: some of it may be lost.
        with mutex:
            left[0] -= 1
            if left[0] < 0:
                return None
            return throw.randint(0, number * EVENTS // CUTS)

    try:
        for _ in range(number):
            followers.append(Follower(browser, kind, next_cut))
        for follower in followers:
            assert follower.wait_for(lambda log: log.rev >= 0)
        with closing(Producer(browser, EVENTS)) as producer:
            disturb(producer, followers[0])
            producer.join()
            finish(browser, producer, followers)
    finally:
        for follower in followers:
            follower.stop()
    assert sum(follower.cuts for follower in followers) >= least, "They were not cut."
    now = browser.state("ring")
    for follower in followers:
        assert_whole(follower.log)
        assert (follower.log.state, follower.log.rev) == (now["state"], now["rev"])
    return [follower.log for follower in followers]


def finish(browser: Browser, producer: Producer, followers: Sequence[Follower]) -> None:
    """Say that all is said until all have heard it; where words get lost, it is said again."""
    final = browser.state("ring")["rev"]
    deadline = time.monotonic() + PATIENCE

    def over(log: Log) -> bool:
        return "end" in log.said and log.rev == final

    while not all(follower.wait_for(over, 0.5) for follower in followers):
        assert time.monotonic() < deadline, [
            (follower.log.rev, final, follower.log.frames[-3:]) for follower in followers
        ]
        producer.tell("say", "end")


def assert_whole(log: Log) -> None:
    """Nothing came twice or out of order, and what is missing was said to be."""
    assert log.errors == []
    due = 0
    for said in log.said[: log.said.index("end")]:
        if said == GAP:
            due = -1 - due if due >= 0 else due
            continue
        assert said == due if due >= 0 else said >= -1 - due, (due, said, log.frames)
        due = said + 1
    assert due < 0 or due == EVENTS, (due, log.said[-5:])


def undisturbed(producer: Producer, follower: Follower) -> None:
    pass


KINDS: Final = pytest.mark.parametrize("kind", ["websocket", "stream"])


@KINDS
def test_resume(site: Site, kind: str) -> None:
    """Connections are cut at random points; each client's log is that of the server."""
    for log in follow(site, kind, dice(), undisturbed):
        assert log.gaps == 0
        assert log.said[:EVENTS] == list(range(EVENTS))


@KINDS
@pytest.mark.parametrize("durable", [False, True], ids=["empty", "durable"])
def test_resume_while_the_bus_restarts(
    kind: str, durable: bool, redis_databases: RedisDatabases
) -> None:
    """The bus's server is killed meanwhile, and comes back with what it had or with nothing."""
    reason = unkillable("redis")
    if reason:
        pytest.skip(reason)
    throw = dice()
    store = redis_databases.fresh()
    kills = size(3, 20)
    with Valkey(durable=durable) as server:

        def disturb(producer: Producer, follower: Follower) -> None:
            for number in range(1, kills + 1):
                due = EVENTS * number // (kills + 1)
                producer.wait_for(due)
                # One is away and misses some of what is lost then.
                with follower.away():
                    producer.wait_for(due + EVENTS // (kills + 1) // 2)
                    server.kill()
                    time.sleep(throw.uniform(0, 0.3))
                    server.start()

        with Site("loop", APP, workers=2, FSM_BUS_URL=server.url, FSM_STORE_URL=store) as site:
            logs = follow(site, kind, throw, disturb, CUTS // 2)
    assert durable or logs[0].gaps > 0


# -- signing out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["logout", "login/bob"])
def test_a_sign_out_is_heard_in_every_worker(
    sites: Sites, redis_databases: RedisDatabases, how: str
) -> None:
    """Who signs out in one process, or becomes another, loses his sockets in all of them."""
    url = redis_databases.fresh()
    # One worker may get nearly all, on a busy machine.
    many = {"FSM_MAX_CONNECTIONS_PER_FLOW": 1_000}
    site = sites.get("loop", APP, workers=4, FSM_BUS_URL=url, FSM_STORE_URL=url, **many)
    browser, other = site.browser(), site.browser()
    browser.get("/login/ada")
    other.get("/login/carl")
    for each in (browser, other):
        each.state("ring")
    with ExitStack() as stack:
        sockets: list[Socket] = []
        while len({socket.headers["X-Worker"] for socket in sockets}) < 4 or len(sockets) < 12:
            assert len(sockets) < 1_000, "The server does not deal its connections."
            sockets.append(stack.enter_context(browser.copy().websocket("ring")))
        bystander = stack.enter_context(other.copy().websocket("ring"))
        for socket in (*sockets, bystander):
            assert socket.receive()["state"] == "a"
        assert browser.copy().get(f"/{how}").status == 200
        assert {socket.closed() for socket in sockets} == {OTHER_USER}
        assert bystander.ask("say", 1, ref=1)["ref"] == 1
