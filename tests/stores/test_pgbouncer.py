"""Flows on PostgreSQL behind PgBouncer in transaction mode."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
import sqlalchemy as sa

from flask_fsm import ConfigError
from flask_fsm.stores.sql.engine import open_engine

from ..app_servers import Gunicorn
from ..apps import Visitor
from ..clients import Client
from ..race_app import RING, TILL, prepare
from ..store_servers import PgBouncer
from .test_outages import ANSWER, app_on, assert_busy, assert_private

Fresh = Callable[[str], str]
Start = Callable[..., PgBouncer]
VISITORS = 5
SECONDS = 3


@pytest.fixture
def pooler(fresh_store: Fresh) -> Iterator[Start]:
    """A maker of PgBouncers, each before a fresh database."""
    if PgBouncer.program() is None:
        reason = "PgBouncer is not there and could not be installed (Debian: pgbouncer)."
        if os.environ.get("FSM_REFUSE_SKIPS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(PgBouncer(fresh_store("postgres"), **options))


def walk(client: Client, until: float) -> Counter[int]:
    """Walk both rings of the race app, `once=True` among their edges; return the statuses."""
    statuses: Counter[int] = Counter()
    pages = {"ring": "a", "till": "open"}
    while time.monotonic() < until:
        for machine, ring in (("ring", RING), ("till", TILL)):
            page = pages[machine]
            shown = client.get(f"/{page}")
            sent = client.post(f"/{page}", token=shown.json["token"])
            statuses.update((shown.status, sent.status))
            pages[machine] = ring[page]
    return statuses


# Its default; and what its documentation tells those to set whose clients send options.
@pytest.mark.parametrize("options", [{}, {"ignore_startup_parameters": "options"}])
def test_visitors_walk_for_seconds_and_none_meets_an_error(
    pooler: Start, options: dict[str, str]
) -> None:
    """By its URL and nothing else: connections change hands after every transaction."""
    url = prepare(pooler(**options).url)
    with Gunicorn(env={"FSM_STORE_URL": url}, workers=2) as site:
        until = time.monotonic() + SECONDS
        with ThreadPoolExecutor(VISITORS) as pool:
            walks = [pool.submit(walk, site.client(), until) for _ in range(VISITORS)]
            statuses = sum((walk.result() for walk in walks), Counter[int]())
    assert set(statuses) == {200}
    assert statuses[200] > 100


def test_a_url_may_say_that_nothing_is_prepared(fresh_store: Fresh) -> None:
    """For poolers that we do not recognise; without it, a direct connection has our settings."""
    url = fresh_store("postgres")
    engine = open_engine(f"{url}?prepare_threshold=none", 10, 5)
    with engine.connect() as connection:
        assert connection.connection.dbapi_connection.prepare_threshold is None  # type: ignore[union-attr]
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"
    engine.dispose()
    engine = open_engine(f"{url}?options=-c%20statement_timeout%3D7s", 10, 5)
    with engine.connect() as connection:
        assert connection.connection.dbapi_connection.prepare_threshold == 5  # type: ignore[union-attr]
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "5s"
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "7s"
    engine.dispose()
    with pytest.raises(ConfigError, match="prepare_threshold=soon: write a number, or none"):
        open_engine(f"{url}?prepare_threshold=soon", 10, 5)


def test_no_setting_of_ours_stays_behind_on_a_shared_connection(pooler: Start) -> None:
    """Another program that gets the connection next does not wait with our lock_timeout."""
    server = pooler(default_pool_size=1)
    app_url = prepare(server.url)
    assert app_url == server.url
    plain = server.url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, prepare_threshold=None) as other:
        assert other.execute("SHOW lock_timeout").fetchone() == ("0",)


@pytest.mark.parametrize("known", [True, False], ids=["lost", "foreign"])
def test_an_engine_that_prepares_statements_behind_a_pooler_is_503_and_the_log_has_the_remedy(
    pooler: Start, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    """SQLSTATE 26000 where another connection lacks the statement, 42P05 where it has one."""
    server = pooler(default_pool_size=2)
    engine = sa.create_engine(prepare(server.url), connect_args={"prepare_threshold": 0})
    visitor = Visitor(app_on(engine, init=False))
    plain = server.url.replace("postgresql+psycopg://", "postgresql://")
    if known:
        token = visitor.token("a")
        visitor.post("a", {"town": "Ghent"}, token)
        page = "b"
    else:
        page = "a"
        with psycopg.connect(plain, prepare_threshold=0) as stranger:
            stranger.execute("SELECT 1")
    # The connection of the server that was used last is used next, unless it is taken.
    with psycopg.connect(plain, prepare_threshold=None) as other:
        if known:
            other.execute("SELECT 1")  # and keeps its transaction
        assert_busy(visitor.post(page, {"town": ANSWER}, token if known else ""))
    engine.dispose()
    (line,) = {r.getMessage() for r in caplog.records if r.levelname in ("ERROR", "WARNING")}
    assert f"SQLSTATE {'26000' if known else '42P05'}" in line
    assert 'connect_args={"prepare_threshold": None}' in line
    assert_private(caplog)


def test_a_pooler_that_refuses_the_options_of_a_url_is_told_with_the_remedy(
    pooler: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """As PgBouncer does by default."""
    server = pooler()
    prepare(server.url)
    visitor = Visitor(app_on(f"{server.url}?options=-c%20statement_timeout%3D7s", init=False))
    assert visitor.post("a", {"town": "x"}).status_code == 503
    assert "ignore_startup_parameters = options" in caplog.text
