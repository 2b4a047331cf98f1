"""FSM_BUS_URL: which values there are, and what the errors say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
import redis.asyncio
import valkey as valkey_py
from redis.cluster import RedisCluster

from flask_fsm import ConfigError
from flask_fsm.bus import MemoryBus, open_bus
from flask_fsm.bus.redis.bus import RedisBus

from ..clients import LOOPBACK
from ..store_servers import Valkey
from .recorder import Recorder, wait_until


def opened(source: Any, prefix: str = "fsm") -> Any:
    return open_bus(source, prefix=prefix, replay_limit=100, replay_bytes=10_000, replay_time=60.0)


def assert_carries(source: Any) -> None:
    """Let two buses carry a message, and a member."""
    with closing(opened(source)) as bus, closing(opened(source)) as other:
        recorder = Recorder()
        start = bus.subscribe("c", recorder)
        other.publish("c", "ö")
        assert recorder.until_count(1) == ["ö"]
        assert bus.since("c", start) == recorder.log
        assert bus.enter("g", "ann", "ö", 10**10)
        assert other.members("g") == {"ann": "ö"}
        assert bus.leave("g", "ann")


def test_memory() -> None:
    """A bus of this process."""
    assert isinstance(opened("memory://"), MemoryBus)


def test_a_url_of_redis_or_valkey(redis_url: str) -> None:
    """The two schemes say the same."""
    assert isinstance(opened(redis_url), RedisBus)
    assert_carries(redis_url)
    assert_carries(redis_url.replace("redis://", "valkey://"))


def test_a_unix_socket() -> None:
    """A URL unix://, or a client of either driver."""
    with Valkey(unixsocket=True) as server:
        assert_carries(server.url)
        for driver in (redis.Redis, valkey_py.Valkey):
            with closing(driver(unix_socket_path=str(server.socket))) as client:
                assert_carries(client)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("driver", [redis.Redis, valkey_py.Valkey])
def test_a_client_with_habits_of_its_own(driver: Any, protocol: int, redis_url: str) -> None:
    """One that decodes, in another encoding, by either protocol, and ends connections early."""
    options = {"decode_responses": True, "encoding": "latin-1", "socket_timeout": 0.001}
    with closing(driver.from_url(redis_url, protocol=protocol, **options)) as client:
        assert_carries(client)


def test_a_client_of_a_server_with_a_password() -> None:
    """It is asked for on the bus's own connections too."""
    with Valkey() as server:
        with closing(redis.Redis.from_url(server.url)) as client:
            client.config_set("requirepass", "secret")
        assert_carries(f"redis://:secret@{LOOPBACK}:{server.port}/0")
        with closing(valkey_py.Valkey(port=server.port, password="secret")) as client:
            assert_carries(client)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """A cluster of one node that owns all slots; the keys of a script must lie in one even so."""
    with Valkey(cluster_enabled="yes", cluster_config_file="nodes.conf", databases=1) as node:
        with closing(redis.Redis(LOOPBACK, node.port, decode_responses=True)) as direct:
            direct.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            wait_until(
                lambda: direct.execute_command("CLUSTER INFO")["cluster_state"] == "ok",
            )
        with closing(RedisCluster(LOOPBACK, node.port)) as made:
            yield made


def test_a_cluster(cluster: RedisCluster) -> None:
    """Each channel and each group lies in one slot, whatever its name is like."""
    assert_carries(cluster)
    with closing(opened(cluster)) as bus:
        names = ["}", "{", "a}b", "{a}b", "%", "a b", "ö"]
        recorders = [Recorder() for _ in names]
        for name, recorder in zip(names, recorders, strict=True):
            bus.subscribe(name, recorder)
            bus.publish(name, name)
            bus.enter(name, "ann", "", 10**10)
        for name, recorder in zip(names, recorders, strict=True):
            assert recorder.until_count(1) == [name]
            assert bus.members(name) == {"ann": ""}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("memory", "begins with 'memory'"),
        ("http://localhost", "begins with 'http'"),
        ("sqlite:///x", "redis://"),
        ("amqp:secret", "begins with 'amqp'"),
        ("redis://localhost:secret/0", "can't be read"),
        (None, "can't be None"),
        (7, "can't be 7"),
        (redis.asyncio.Redis(), "redis-py client"),
    ],
)
def test_what_is_no_bus_is_an_error_that_names_the_key(source: Any, says: str) -> None:
    """It says what may be written there, and no password."""
    with pytest.raises(ConfigError) as raised:
        opened(source)
    assert "FSM_BUS_URL" in str(raised.value)
    assert says in str(raised.value)
    assert "amqp:secret" not in str(raised.value)


def test_without_the_driver_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to install it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"FSM_BUS_URL needs the extra 'redis': pip install"):
        opened("redis://localhost")


def test_two_apps_with_prefixes_of_their_own_share_a_server(redis_url: str) -> None:
    """Neither hears the other, nor knows its members and once keys."""
    with closing(opened(redis_url, "one")) as one, closing(opened(redis_url, "two")) as two:
        recorder = Recorder()
        one.subscribe("c", recorder)
        two.publish("c", "to two")
        two.flush(60)
        one.publish("c", "to one")
        assert recorder.until_count(1) == ["to one"]
        assert two.enter("g", "ann", "", 10**10)
        assert one.members("g") == {}
        assert one.acquire_once("key", 10)
        assert two.acquire_once("key", 10)


def test_databases_of_a_server_are_apart(fresh_store: Any) -> None:
    """Though Redis publishes to all of them."""
    with closing(opened(fresh_store("redis"))) as one, closing(opened(fresh_store("redis"))) as two:
        recorder, other = Recorder(), Recorder()
        one.subscribe("c", recorder)
        two.subscribe("c", other)
        two.publish("c", "to two")
        other.until_count(1)
        one.publish("c", "to one")
        assert recorder.until_count(1) == ["to one"]
    assert one.client.wire_name("c") != two.client.wire_name("c")
