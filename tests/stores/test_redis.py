"""Flows in Redis or Valkey: the scripts, the keys and how long they last, and a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from flask import Flask, request, session
from redis.cluster import RedisCluster
from redis.crc import key_slot

from flask_fsm import FlaskFSM, Machine, Transition

from ..apps import SECRET, Visitor, flask_app, seen, show
from ..clients import LOOPBACK
from ..store_servers import Valkey

RING = {"a": "b", "b": "c", "c": "a"}
WEEK = 7 * 24 * 3600


class Broken(Exception):
    """What a view raises."""


def breaks() -> None:
    raise Broken


class Ring:
    """An app a -> b -> c -> a on Redis, whose visitors may log in at /login/NAME."""

    def __init__(
        self, store: Any, *, many: bool = False, once: bool = False, **config: Any
    ) -> None:
        self.app: Flask = flask_app({"SECRET_KEY": SECRET, "TESTING": True, **config})
        edges = [Transition(source, target, once=once) for source, target in RING.items()]
        self.fsm = FlaskFSM(Machine("ring", edges, final=[], many=many))
        self.fsm.subject(lambda: session.get("user"))
        self.inside: Callable[[], None] = lambda: None
        self.fsm.init_app(self.app, store=store)
        for page, target in RING.items():

            def view(page: str = page, target: str = target) -> Any:
                if request.method != "POST":
                    return show(page, self.fsm)
                self.inside()
                return self.fsm.advance(target, data={"typed": request.form.get("typed", "")})

            self.app.add_url_rule(f"/{page}", page, self.fsm.check()(view), methods=["GET", "POST"])
        self.app.add_url_rule("/login/<name>", "login", self._login)

    def _login(self, name: str) -> str:
        session["user"] = name
        return name

    def visitor(self) -> Visitor:
        return Visitor(self.app)

    def log(self) -> list[Any]:
        with self.app.app_context():
            return list(self.fsm.log())


@pytest.fixture
def url(fresh_store: Callable[[str], str]) -> str:
    return fresh_store("redis")


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    """A client of the test's own."""
    with closing(redis.Redis.from_url(url, decode_responses=True)) as made:
        yield made


def keys_by_kind(client: redis.Redis) -> dict[str, list[str]]:
    """The keys that there are, by their types."""
    found: dict[str, list[str]] = {}
    for key in sorted(client.scan_iter()):
        found.setdefault(client.type(key), []).append(key)
    return found


def streams(client: redis.Redis) -> list[str]:
    return keys_by_kind(client).get("stream", [])


# -- scripts ----------------------------------------------------------------------------------


def test_a_script_that_the_server_has_forgotten_is_sent_again(
    url: str, client: redis.Redis
) -> None:
    """After SCRIPT FLUSH, as after a restart, every operation works as before."""
    ring = Ring(url, once=True)
    visitor = ring.visitor()
    for page in "abcab":
        client.script_flush()
        token = visitor.token(page)
        client.script_flush()
        assert visitor.post(page, token=token).status_code == 303
    client.script_flush()
    visitor.open("login/ann")
    assert visitor.see("c")["rev"] == 5


def test_a_script_is_sent_once(url: str, client: redis.Redis) -> None:
    """From then on only its digest is: no EVAL, and no SCRIPT LOAD."""
    ring = Ring(url)
    ring.visitor().walk("a", "b")
    client.config_resetstat()
    ring.visitor().walk("a", "b", "c")
    told = client.info("commandstats")
    assert told["cmdstat_evalsha"]["calls"] == 3
    assert "cmdstat_eval" not in told
    assert "cmdstat_script|load" not in told


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
def test_the_keys_of_an_owner_lie_in_one_slot(url: str, client: redis.Redis, many: bool) -> None:
    """Record, history and list of an owner have one hash tag; other owners have others."""
    ring = Ring(url, many=many)
    slots = []
    for name in ("ann", "bob"):
        before = set(client.scan_iter())
        visitor = ring.visitor()
        visitor.open(f"login/{name}")
        for _ in range(2):
            location = visitor.open("a").location if many else "/a"
            for page in ("a", "b"):
                address = location.lstrip("/").replace("a", page, 1)
                assert visitor.send(address).status_code == 303
        own = set(client.scan_iter()) - before
        assert len(own) == (5 if many else 2)
        assert len({key.partition("{")[2].partition("}")[0] for key in own}) == 1
        slots.append({key_slot(key.encode()) for key in own})
        assert len(slots[-1]) == 1
    assert slots[0] != slots[1]


def test_the_ids_of_the_history_are_rev_and_number(url: str, client: redis.Redis) -> None:
    """An edit that walks on makes several entries of one rev."""
    app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": url})
    fsm = FlaskFSM(app, Machine("line", [("a", "b"), ("b", "c"), ("c", "d")]))
    for page in "abcd":

        def view(page: str = page) -> Any:
            if request.method != "POST":
                return show(page, fsm)
            return fsm.advance(data={}, fast_forward=True)

        app.add_url_rule(f"/{page}", page, fsm.check()(view), methods=["GET", "POST"])
    visitor = Visitor(app)
    visitor.walk("a", "b", "a")
    assert visitor.see("c")["rev"] == 3
    (stream,) = streams(client)
    rows = [(id, json.loads(row["row"])) for id, row in client.xrange(stream)]
    told = [(id, row["source"], row["target"]) for id, row in rows]
    assert told == [("1-0", "a", "b"), ("2-0", "b", "c"), ("3-0", "a", "b"), ("3-1", "b", "c")]


def test_the_prefix_is_that_of_the_config(url: str, client: redis.Redis) -> None:
    """Two apps share a database and see nothing of each other, whatever the prefix is."""
    one = Ring(url, FSM_REDIS_PREFIX="a*?[b]")
    other = Ring(url, FSM_REDIS_PREFIX="aXYb")
    visitor = one.visitor().walk("a", "b")
    assert all(key.startswith("a*?[b]:{") for key in client.scan_iter())
    before = list(client.scan_iter())
    stranger = Visitor(other.app)
    stranger.cookie = visitor.cookie
    assert stranger.open("c").location == "/a"
    stranger = other.visitor().walk("a")
    assert [entry.rev for entry in one.log()] == [1, 2]
    assert [entry.rev for entry in other.log()] == [1]
    one.app.extensions["fsm"].clock = lambda: time.time() + 10 * WEEK
    result = one.app.test_cli_runner().invoke(args=["fsm", "purge", "--history-older-than", "1"])
    assert result.exit_code == 0, result.output
    assert client.exists(*before) == 0
    assert stranger.see("b")["rev"] == 1


def test_machines_whose_names_begin_alike_have_histories_of_their_own(url: str) -> None:
    """The log and the funnel of `shop` hold nothing of `shop:gifts`."""
    app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": url})
    one = FlaskFSM(Machine("shop", [("a", "b")]))
    two = one.add(Machine("shop:gifts", [("c", "d")]))
    one.init_app(app)
    for page, fsm in {"a": one, "b": one, "c": two, "d": two}.items():

        def view(page: str = page, fsm: Any = fsm) -> Any:
            return fsm.advance(data={}) if request.method == "POST" else show(page, fsm)

        app.add_url_rule(f"/{page}", page, fsm.check()(view), methods=["GET", "POST"])
    Visitor(app).walk("a")
    Visitor(app).walk("c")
    with app.app_context():
        assert [entry.source for entry in one.log()] == ["a"]
        assert [entry.source for entry in two.log()] == ["c"]
        assert one.funnel().runs == 1


def test_the_store_holds_no_id(url: str, client: redis.Redis) -> None:
    """What is in the cookie is nowhere in a dump, neither in keys nor in values."""
    ring = Ring(url)
    visitor = ring.visitor().walk("a", "b")
    ids = {visitor.see("c")["id"]}
    visitor.open("login/ann")
    ids.add(visitor.see("c")["id"])
    visitor.walk("c")
    ids.add(visitor.see("a")["id"])
    assert len(ids) == 2
    dump = b"".join(
        key + raw.dump(key)
        for raw in [redis.Redis(connection_pool=redis.Redis.from_url(url).connection_pool)]
        for key in raw.scan_iter()
    )
    for id in ids:
        assert id.encode() not in dump


def test_a_flow_takes_little_memory(url: str, client: redis.Redis) -> None:
    """A flow of three pages takes two keys and less than 6 KB."""
    ring = Ring(url)
    ring.visitor().walk("a", "b", "c")
    keys = list(client.scan_iter())
    assert len(keys) == 2
    assert sum(client.memory_usage(key) for key in keys) < 6_000


def test_looking_makes_no_key(url: str, client: redis.Redis) -> None:
    """A GET of an open page or of a closed one, a bad POST, and a login write nothing."""
    ring = Ring(url)
    visitor = ring.visitor()
    visitor.open("a")
    visitor.open("c")
    visitor.post("a", token="no token")
    visitor.open("login/ann")
    visitor.open("a")
    assert client.dbsize() == 0


# -- how long and how much ---------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
def test_every_key_lasts_as_long_as_a_flow(url: str, client: redis.Redis, many: bool) -> None:
    """FSM_FLOW_LIFETIME from the last commit on; also after a lease, a reset and a login."""
    ring = Ring(url, many=many, once=True, FSM_FLOW_LIFETIME=1_000)

    def page(name: str, location: str | None) -> str:
        return (location or "/a").lstrip("/").replace("a", name, 1)

    for user in (None, "ann"):
        others = set(client.scan_iter())
        visitor = ring.visitor()
        if user:
            visitor.open(f"login/{user}")
        location = visitor.open("a").location
        for name in "ab":
            assert visitor.send(page(name, location)).status_code == 303
            for key in set(client.scan_iter()) - others:
                assert 990 < client.ttl(key) <= 1_000, key
                client.expire(key, 500)
        visitor.open("login/bob")
        visitor.open(page("c", location))
    for key in client.scan_iter():
        assert 0 < client.ttl(key) <= 1_000, key


@pytest.mark.parametrize("fields", [{}, {"to": "b"}, {"to": "a"}])
def test_a_lease_is_held_while_the_view_runs(
    url: str, client: redis.Redis, fields: dict[str, str]
) -> None:
    """Whatever the client says in `to`: the view may go its own way, along an edge with `once`."""
    ring = Ring(url, once=True)
    found: list[str] = []

    def look() -> None:
        found.extend(client.hget(key, "claim") for key in client.scan_iter())

    ring.inside = look
    visitor = ring.visitor()
    assert visitor.post("a", fields, visitor.token("a")).status_code == 303
    assert found
    assert all(found)


def test_a_lease_of_a_run_that_has_not_begun_lasts_no_longer(url: str, client: redis.Redis) -> None:
    """A view that takes a lease and then fails leaves keys that go away, and no lease."""
    ring = Ring(url, once=True, FSM_FLOW_LIFETIME=1_000)
    ring.inside = breaks
    visitor = ring.visitor()
    token = visitor.token("a")
    with pytest.raises(Broken):
        visitor.post("a", token=token)
    for key in client.scan_iter():
        assert 0 < client.ttl(key) <= 1_000, key
        assert client.hget(key, "claim") == ""
    ring.inside = lambda: None
    assert visitor.post("a", token=token).status_code == 303


def test_without_a_lifetime_every_key_stays(url: str, client: redis.Redis) -> None:
    """FSM_FLOW_LIFETIME=None: nothing is removed but by a command."""
    ring = Ring(url, FSM_FLOW_LIFETIME=None)
    visitor = ring.visitor().walk("a", "b")
    visitor.open("login/ann")
    visitor.walk("c")
    keys = list(client.scan_iter())
    assert keys
    assert {client.ttl(key) for key in keys} == {-1}


def test_a_flow_that_the_server_has_dropped_is_gone(url: str, client: redis.Redis) -> None:
    """The visitor is told, and begins again."""
    ring = Ring(url, FSM_FLOW_LIFETIME=1_000)
    visitor = ring.visitor().walk("a", "b")
    token = visitor.token("c")
    client.flushdb()
    assert visitor.post("c", token=token).status_code == 410
    visitor.walk("a")
    assert visitor.see("b")["rev"] == 1


def test_the_history_is_capped(url: str, client: redis.Redis) -> None:
    """A stream has about FSM_HISTORY_LIMIT entries, and a flow shows no more than that."""
    ring = Ring(url, FSM_HISTORY_LIMIT=20)
    visitor = ring.visitor()
    with ring.app.test_request_context("/a"):
        run = ring.fsm.flow
        for number in range(400):
            run.transition("bca"[number % 3])
        assert len(ring.fsm.history) == 20
        assert [entry.rev for entry in ring.fsm.history] == list(range(381, 401))
    (stream,) = streams(client)
    assert 20 <= client.xlen(stream) < 300
    visitor.walk("a")
    assert visitor.see("b")["rev"] == 1


def test_without_a_limit_the_history_is_whole(url: str, client: redis.Redis) -> None:
    """FSM_HISTORY_LIMIT=None: every entry is kept."""
    ring = Ring(url, FSM_HISTORY_LIMIT=None)
    with ring.app.test_request_context("/a"):
        for number in range(250):
            ring.fsm.flow.transition("bca"[number % 3])
        assert [entry.rev for entry in ring.fsm.history] == list(range(1, 251))
    (stream,) = streams(client)
    assert client.xlen(stream) == 250


def test_a_login_takes_the_history_along_once(url: str, client: redis.Redis) -> None:
    """After a login the log holds each step once, and the run as one."""
    ring = Ring(url)
    visitor = ring.visitor().walk("a", "b")
    visitor.open("login/ann")
    assert visitor.see("c")["rev"] == 2
    visitor.walk("c")
    told = [(entry.rev, entry.source, entry.target) for entry in ring.log()]
    assert told == [(1, "a", "b"), (2, "b", "c"), (3, "c", "a")]
    assert len({entry.flow for entry in ring.log()}) == 1
    assert len(streams(client)) == 1


def test_a_login_that_was_cut_off_is_made_good(url: str, client: redis.Redis) -> None:
    """A process died when the user had the flow, and the session still had it, too."""
    ring = Ring(url)
    ring.fsm.on_login_conflict(lambda session, user: session)
    visitor = ring.visitor().walk("a", "b")
    cookie = visitor.cookie
    (record,) = keys_by_kind(client)["hash"]
    (stream,) = streams(client)
    fields, rows = client.hgetall(record), client.xrange(stream)
    visitor.open("login/ann")
    assert visitor.see("c")["rev"] == 2
    client.delete(record, stream)
    client.hset(record, mapping=fields)
    for id, row in rows:
        client.xadd(stream, row, id)
    visitor.cookie = cookie
    visitor.open("login/ann")
    assert visitor.see("c")["rev"] == 2
    visitor.walk("c")
    assert visitor.see("a")["rev"] == 3


def test_flows_lists_the_one_flow_of_a_user(url: str) -> None:
    """fsm.flows() of a machine without `many` is the same as in a database."""
    ring = Ring(url)
    visitor = ring.visitor()
    visitor.open("login/ann")
    visitor.walk("a", "b")
    with ring.app.test_request_context("/c"):
        session["user"] = "ann"
        assert [(flow.state, flow.rev) for flow in ring.fsm.flows()] == [("c", 2)]


# -- a cluster ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """A cluster of one node that owns all slots; each key must lie in one slot even so."""
    with Valkey(cluster_enabled="yes", cluster_config_file="nodes.conf", databases=1) as node:
        with closing(redis.Redis(LOOPBACK, node.port)) as direct:
            direct.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            for _ in range(600):
                if direct.execute_command("CLUSTER INFO")["cluster_state"] == "ok":
                    break
                time.sleep(0.01)
        with closing(RedisCluster(LOOPBACK, node.port)) as made:
            yield made


@pytest.mark.parametrize("many", [False, True])
def test_a_cluster_keeps_flows(cluster: RedisCluster, many: bool) -> None:
    """A run, a form that is sent twice, a race, a login, a list of flows, the log and a purge."""
    ring = Ring(cluster, many=many, once=True, FSM_REDIS_PREFIX=f"cluster{many}")
    visitor = ring.visitor()
    location = (visitor.open("a").location or "/a").lstrip("/")

    def at(page: str) -> str:
        return location.replace("a", page, 1)

    assert visitor.send(at("a")).status_code == 303
    token = visitor.token(at("b"))
    for _ in range(2):
        assert visitor.post(at("b"), token=token).status_code == 303
    assert visitor.post(at("b"), {"typed": "x"}, token).status_code == 409
    visitor.open("login/ann")
    assert visitor.see(at("c"))["rev"] == 2
    assert visitor.send(at("c")).status_code == 303
    other = ring.visitor()
    other.open("login/ann")
    assert other.see(at("a"))["rev"] == 3
    with ring.app.test_request_context(f"/{at('a')}"):
        session["user"] = "ann"
        assert [flow.rev for flow in ring.fsm.flows()] == [3]
        assert len(ring.fsm.history) == 3
    assert [entry.rev for entry in ring.log()] == [1, 2, 3]
    ring.app.extensions["fsm"].clock = lambda: time.time() + 10 * WEEK
    args = ["fsm", "purge", "--history-older-than", "1"]
    assert ring.app.test_cli_runner().invoke(args=args).exit_code == 0
    assert ring.log() == []
    assert seen(other.open(at("a"))) if not many else other.open("a").status_code == 303
