"""Flows on PostgreSQL behind PgBouncer in transaction mode."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import orm

from flask_fsm import ConfigError, StoreUnavailable
from flask_fsm.stores.sql.engine import open_engine

from ..apps import Visitor
from ..race_app import RING, TILL, create_app, prepare
from ..store_servers import Given, PgBouncer, Postgres
from .test_outages import ANSWER, app_on, assert_busy, assert_private

Fresh = Callable[[str], str]
Start = Callable[..., PgBouncer]
VISITORS = 5
ROUNDS = 12
# What the documentation of PgBouncer tells those to set whose clients send options.
IGNORING = {"ignore_startup_parameters": "options"}
OPTIONS = "?options=-c%20statement_timeout%3D7s"


@pytest.fixture(scope="module")
def poolers(postgres: Postgres | Given) -> Iterator[Start]:
    """PgBouncers before that server, one for each combination of options."""
    if PgBouncer.program() is None:
        reason = "PgBouncer is not there and could not be installed (Debian: pgbouncer)."
        if os.environ.get("FSM_REFUSE_SKIPS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    started: dict[Any, PgBouncer] = {}
    with contextlib.ExitStack() as stack:

        def find(**options: Any) -> PgBouncer:
            key = tuple(options.items())
            if key not in started:
                started[key] = stack.enter_context(PgBouncer(postgres.url, **options))
            return started[key]

        yield find


@contextlib.contextmanager
def engine_of(url: str, **options: Any) -> Iterator[sa.Engine]:
    """An app's own engine."""
    engine = sa.create_engine(url, **options)
    yield engine
    engine.dispose()


def walk(app: Flask) -> Counter[int]:
    """Walk both rings of the race app, `once=True` among their edges; return the statuses."""
    statuses: Counter[int] = Counter()
    pages = {"ring": "a", "till": "open"}
    client = app.test_client()
    for _ in range(ROUNDS):
        for machine, ring in (("ring", RING), ("till", TILL)):
            page = pages[machine]
            shown = client.get(f"/{page}")
            sent = client.post(
                f"/{page}", data={"fsm_token": shown.json["token"]}, follow_redirects=True
            )
            statuses.update((shown.status_code, sent.status_code))
            pages[machine] = ring[page]
    return statuses


@pytest.mark.parametrize(
    ("options", "store"),
    [({}, "url"), ({}, "engine"), (IGNORING, "url"), (IGNORING, "url with options")],
)
def test_visitors_walk_and_none_meets_an_error(
    poolers: Start, fresh_store: Fresh, options: dict[str, str], store: str
) -> None:
    """Connections change hands after every transaction, and each statement is run many times.

    By the URL and nothing else, also with `options` of its own where the pooler ignores them; or by
    an engine of the app's with what the docs say.
    """
    url = poolers(**options).before(prepare(fresh_store("postgres")))
    with engine_of(url, connect_args={"prepare_threshold": None}) as engine:
        given: Any = {"url": url, "url with options": url + OPTIONS, "engine": engine}[store]
        apps = [create_app({"FSM_STORE_URL": given}) for _ in range(2)]
        with ThreadPoolExecutor(VISITORS) as pool:
            walks = [pool.submit(walk, apps[number % 2]) for number in range(VISITORS)]
            statuses = sum((each.result() for each in walks), Counter[int]())
    assert statuses == {200: VISITORS * ROUNDS * 4}


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


def test_no_setting_of_ours_stays_behind_on_a_shared_connection(
    poolers: Start, fresh_store: Fresh
) -> None:
    """Another program that gets the connection next does not wait with our lock_timeout."""
    url = prepare(poolers().before(fresh_store("postgres")))
    with psycopg.connect(of_libpq(url), prepare_threshold=None) as other:
        assert other.execute("SHOW lock_timeout").fetchone() == ("0",)


# -- set-ups that do not work, and what their developer reads ----------------------------------


@pytest.fixture
def preparing(poolers: Start, fresh_store: Fresh) -> Iterator[sa.Engine]:
    """An engine of the app's behind a pooler whose driver prepares each statement."""
    url = poolers().before(prepare(fresh_store("postgres")))
    with engine_of(url, connect_args={"prepare_threshold": 0}) as engine:
        # SQLAlchemy 2.0.36 forgets a connection whose first statements fail.
        engine.connect().close()
        engine.dispose()
        yield engine


def of_libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


def prepare_by_a_stranger(engine: sa.Engine) -> None:
    """Have another program prepare statements, under the names that this engine uses too."""
    url = engine.url.render_as_string(hide_password=False)
    with psycopg.connect(of_libpq(url), prepare_threshold=0) as stranger:
        for number in range(20):
            stranger.execute(f"SELECT {number}".encode())


@contextlib.contextmanager
def taken(engine: sa.Engine) -> Iterator[None]:
    """Take the connection to the server that was used last, which would be used next."""
    url = engine.url.render_as_string(hide_password=False)
    with psycopg.connect(of_libpq(url), prepare_threshold=None) as other:
        other.execute("SELECT 1")
        yield


def assert_told(text: str, state: str) -> None:
    """It names what happened, why, and what to write."""
    assert f"SQLSTATE {state}" in text
    assert "prepared statements behind a pooler" in text
    assert 'create_engine(url, connect_args={"prepare_threshold": None})' in text


@pytest.mark.parametrize("state", ["26000", "42P05", "08P01"])
def test_an_engine_that_prepares_statements_is_503_and_the_log_has_the_remedy(
    preparing: sa.Engine, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection to the server lacks the statement, has it already, or has another one."""
    visitor = Visitor(app_on(preparing, init=False))
    page, token = "a", ""
    with contextlib.ExitStack() as stack:
        if state != "42P05":
            assert visitor.send("a", {"town": "Ghent"}).location == "/b"
            page, token = "b", visitor.token("b")
            stack.enter_context(taken(preparing))
        if state != "26000":
            prepare_by_a_stranger(preparing)
        assert_busy(visitor.post(page, {"town": ANSWER}, token))
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert_told(line, state)
    assert_private(caplog)


def test_a_transaction_on_an_engine_that_prepares_statements_is_503_and_the_log_has_the_remedy(
    preparing: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The store itself has the pooler's URL, which is all that it needs."""

    def ordered(fsm: Any) -> Any:
        with orm.Session(preparing) as session, fsm.transaction(session):
            return fsm.advance("b", data={"town": ANSWER})

    url = preparing.url.render_as_string(hide_password=False)
    visitor = Visitor(app_on(url, init=False, ordered=ordered))
    token = visitor.token("a")
    prepare_by_a_stranger(preparing)
    assert_busy(visitor.post("a", {"town": ANSWER}, token))
    assert_told(caplog.text, "42P05")
    assert_private(caplog)


def test_the_exception_of_an_engine_that_prepares_statements_has_the_remedy(
    preparing: sa.Engine,
) -> None:
    """For a developer who reads a traceback, and not the log."""
    app = app_on(preparing, init=False)
    prepare_by_a_stranger(preparing)
    with app.test_request_context("/a"), pytest.raises(StoreUnavailable) as caught:
        _ = app.extensions["fsm"].extension.current
    assert_told(str(caught.value.__cause__), "42P05")


@pytest.mark.parametrize("own", [False, True], ids=["url", "engine"])
def test_a_pooler_that_refuses_options_is_503_and_the_log_has_the_remedy(
    poolers: Start, fresh_store: Fresh, own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As PgBouncer does by default, for a URL of ours and for an engine of the app's."""
    url = poolers().before(prepare(fresh_store("postgres")))
    before = Visitor(app_on(url, init=False))
    token = before.token("a")
    with engine_of(url + OPTIONS) as engine:
        visitor = Visitor(app_on(engine if own else url + OPTIONS, init=False))
        visitor.cookie = before.cookie
        assert_busy(visitor.post("a", {"town": ANSWER}, token))
    assert "ignore_startup_parameters = options" in caplog.text
    assert_private(caplog)
