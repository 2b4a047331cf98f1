"""The servers, the proxy and the clients do what the other tests here rely on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

from ..clients import LOOPBACK
from ..processes import Server, accepts
from ..proxy import Proxy
from ..store_servers import REDIS_VARIABLE, Given, Postgres, RedisDatabases, Valkey, unkillable


def connect(url: str) -> psycopg.Connection:
    """Connect to PostgreSQL without waiting for ever."""
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    return psycopg.connect(plain, autocommit=True, connect_timeout=5)


def has(table: str, url: str) -> int:
    with connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_killed_server_starts_again_on_its_data_and_port(kind: str) -> None:
    """What was acknowledged before a kill is there after it, at the same address."""
    reason = unkillable(kind)
    if reason:
        pytest.skip(reason)
    made: Server = Postgres() if kind == "postgres" else Valkey(durable=True)
    with made as server:
        url = server.url  # type: ignore[attr-defined]
        if isinstance(server, Postgres):
            with connect(url) as connection:
                connection.execute("CREATE TABLE kept (n int)")
        for number in range(1, 4):
            if isinstance(server, Postgres):
                with connect(url) as connection:
                    connection.execute("INSERT INTO kept VALUES (1)")
            else:
                with contextlib.closing(redis.Redis.from_url(url)) as client:
                    client.incr("kept")
            server.kill()
            assert not accepts(server.port)
            server.start()
            assert server.url == url  # type: ignore[attr-defined]
            if isinstance(server, Postgres):
                assert has("kept", url) == number
            else:
                with contextlib.closing(redis.Redis.from_url(url)) as client:
                    assert client.get("kept") == str(number).encode()
        folder = server.folder
    assert not folder.exists()


def test_servers_end_with_the_process_that_started_them() -> None:
    """A run of the tests that is itself killed leaves no server behind."""
    code = (
        "import time; from tests.store_servers import Valkey\n"
        "server = Valkey().start(); print(server.port, server.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        port, folder = run.stdout.readline().split()
        assert accepts(int(port))
        run.kill()
    deadline = time.monotonic() + 20
    while accepts(int(port)) or Path(folder).exists():
        assert time.monotonic() < deadline, f"The server in {folder} is still there."
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_a_fresh_store_is_empty_and_apart(kind: str, fresh_store: Callable[[str], str]) -> None:
    """Two fresh stores have different addresses."""
    urls = {fresh_store(kind) for _ in range(3)}
    assert len(urls) == 3


def test_servers_on_unix_sockets_are_given_by_url() -> None:
    """Valkey listens on a Unix socket too."""
    if unkillable("redis"):
        pytest.skip(str(unkillable("redis")))
    with Valkey(unixsocket=True) as server:
        with contextlib.closing(redis.Redis.from_url(server.url_of(3))) as client:
            client.set("here", "3")
        with contextlib.closing(redis.Redis.from_url(RedisDatabases(server.url).fresh())) as client:
            assert client.dbsize() == 0


def test_the_proxy_passes_refuses_and_falls_silent(valkey: Valkey | Given) -> None:
    """Each behaviour can be chosen while it runs, and taken back."""
    with Proxy.before(valkey.url) as way:
        client = redis.Redis.from_url(
            way.through(valkey.url), socket_timeout=0.3, socket_connect_timeout=0.3, retry=None
        )
        with contextlib.closing(client):
            assert client.ping()
            way.blackhole()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            way.refuse()
            with pytest.raises(redis.ConnectionError):
                client.ping()
            assert not accepts(way.port)
            way.open()
            assert client.ping()


def test_the_reply_to_a_script_is_lost_after_its_effect(fresh_store: Callable[[str], str]) -> None:
    """The script ran, and the client's connection is cut instead of answered."""
    url = fresh_store("redis")
    with (
        Proxy.before(url) as way,
        contextlib.closing(redis.Redis.from_url(way.through(url), retry=None)) as client,
    ):
        script = client.register_script("return redis.call('INCR', KEYS[1])")
        assert script(keys=["n"]) == 1
        lost = way.drop_reply_to(b"EVALSHA")
        with pytest.raises(redis.ConnectionError):
            script(keys=["n"])
        assert lost.wait()
        assert lost.reply == b":2\r\n"
        assert script(keys=["n"]) == 3


def test_the_reply_to_a_commit_is_lost_after_its_effect(fresh_store: Callable[[str], str]) -> None:
    """PostgreSQL has committed, and the client's connection is cut instead of answered."""
    url = fresh_store("postgres")
    with connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    with Proxy.before(url) as way:
        broken = connect(way.through(url))
        broken.autocommit = False
        broken.execute("INSERT INTO kept VALUES (1)")
        lost = way.drop_reply_to(b"COMMIT")
        with pytest.raises(psycopg.OperationalError):
            broken.commit()
        assert lost.wait()
        assert b"COMMIT" in lost.reply
        assert has("kept", url) == 1
        broken.close()


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "prepared"])
def test_the_reply_to_a_statement_is_lost_even_if_it_was_prepared(
    prepared: bool, fresh_store: Callable[[str], str]
) -> None:
    """The trigger sees the text of a statement that the client sends by its name only."""
    url = fresh_store("postgres")
    with connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    with Proxy.before(url) as way:
        broken = connect(way.through(url))
        for _ in range(3):
            broken.execute("INSERT INTO kept VALUES (%s)", [1], prepare=prepared)
        lost = way.drop_reply_to(b"INSERT INTO kept")
        with pytest.raises(psycopg.OperationalError):
            broken.execute("INSERT INTO kept VALUES (%s)", [1], prepare=prepared)
        assert lost.wait()
        assert lost.sent[:1] == (b"B" if prepared else b"P")
        assert has("kept", url) == 4
        broken.close()


def test_a_given_server_is_used_and_not_killed(
    valkey: Valkey | Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSM_TEST_REDIS_URL names the server to use; tests that kill skip, and say why."""
    monkeypatch.setenv(REDIS_VARIABLE, valkey.url)
    reason = unkillable("redis")
    assert reason is not None
    assert REDIS_VARIABLE in reason
    assert LOOPBACK in valkey.url or isinstance(valkey, Given)
