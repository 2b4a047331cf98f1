"""What apps and servers are like: engines with habits, clocks that differ, servers that refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import Flask, request
from sqlalchemy import orm

from flask_fsm import ConfigError, DefinitionError, FlaskFSM, Machine, Transition
from flask_fsm.testing import FrozenClock

from ..apps import SECRET, Visitor, flask_app, show
from ..clients import LOOPBACK
from ..store_servers import Valkey

Fresh = Callable[[str], str]
NOW = 1_800_000_000


def app_on(store: Any, *, once: bool = False, view: Callable[[Any], Any] | None = None) -> Flask:
    """Two pages on a store, whose tables are made."""
    app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_LOCK_TIMEOUT": 0.2})
    fsm = FlaskFSM(app, Machine("m", [Transition("a", "b", once=once)]), store=store)

    def page() -> Any:
        if request.method != "POST":
            return show("a", fsm)
        return fsm.advance("b", data={}) if view is None else view(fsm)

    app.add_url_rule("/a", "a", fsm.check()(page), methods=["GET", "POST"])
    app.add_url_rule("/b", "b", fsm.check()(lambda: show("b", fsm)))
    with app.app_context():
        fsm.init_db()
    return app


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
def test_an_engine_that_begins_in_an_event_of_its_own_will_do(
    fresh_store: Fresh, begin: str
) -> None:
    """SQLAlchemy's documentation gives such events to users of SQLite."""
    engine = sa.create_engine(fresh_store("sqlite"))

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def start(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    visitor = Visitor(app_on(engine))
    assert visitor.send("a").location == "/b"
    assert visitor.see("b")["rev"] == 1
    engine.dispose()


def test_a_session_that_commits_by_itself_can_not_be_joined(fresh_store: Fresh) -> None:
    """Nothing could be rolled back, so it is refused before anything is written."""
    engine = sa.create_engine(fresh_store("postgres"), isolation_level="AUTOCOMMIT")

    def view(fsm: Any) -> Any:
        with orm.Session(engine) as session, fsm.transaction(session):
            return fsm.advance("b", data={})

    visitor = Visitor(app_on(engine, view=view))
    with pytest.raises(ConfigError, match="AUTOCOMMIT"):
        visitor.send("a")
    assert visitor.open("b").location == "/a"
    engine.dispose()


def test_a_block_within_a_block_that_fails_lets_nothing_be_committed(fresh_store: Fresh) -> None:
    """Whoever catches the inner error does not commit half of it."""

    def view(fsm: Any) -> Any:
        with fsm.transaction():
            try:
                with fsm.transaction():
                    fsm.advance("b", data={})
                    raise ValueError
            except ValueError:
                pass
        return "caught"

    visitor = Visitor(app_on(fresh_store("sqlite"), view=view))
    assert visitor.send("a").text == "caught"
    assert visitor.open("b").location == "/a"


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("seconds", [-30, -3, 3, 30])
def test_a_lease_holds_though_clocks_differ(fresh_store: Fresh, kind: str, seconds: int) -> None:
    """Another machine, whose clock differs by seconds, does not run the view meanwhile."""
    url = fresh_store(kind)
    ran: list[str] = []
    there = app_on(url, once=True)
    there.extensions["fsm"].clock = FrozenClock(NOW + seconds)
    visitor, answers = Visitor(app_on(url, once=True)), []

    def view(fsm: Any) -> Any:
        ran.append("here")
        other = Visitor(there)
        other.cookie = visitor.cookie
        answers.append(other.post("a", {}, token))
        return fsm.advance("b", data={})

    here = app_on(url, once=True, view=view)
    here.extensions["fsm"].clock = FrozenClock(NOW)
    visitor = Visitor(here)
    token = visitor.token("a")
    assert visitor.post("a", {}, token).location == "/b"
    assert [answer.status_code for answer in answers] == [409]
    assert answers[0].headers["Retry-After"] == "1"
    assert ran == ["here"]


def test_a_redis_that_lacks_replicas_is_503_and_changes_nothing() -> None:
    """The docs recommend min-replicas-to-write; a server that refuses for it is not a 500."""
    with Valkey() as server, redis.Redis(LOOPBACK, server.port) as client:
        visitor = Visitor(app_on(server.url))
        token = visitor.token("a")
        client.config_set("min-replicas-to-write", 1)
        refused = visitor.post("a", {}, token)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        client.config_set("min-replicas-to-write", 0)
        assert visitor.post("a", {}, token).location == "/b"


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "\ud800", "x" * 256])
def test_a_name_that_a_database_can_not_keep_is_a_definition_error(name: str) -> None:
    """It is told when the machine is defined, and not when a visitor comes."""
    with pytest.raises(DefinitionError):
        Machine(name, [("a", "b")])
    with pytest.raises(DefinitionError):
        Machine("m", [("a", name)])


def test_what_a_get_takes_can_not_be_leased() -> None:
    """visit=True and once=True exclude each other."""
    with pytest.raises(DefinitionError, match="once"):
        Transition("a", "b", visit=True, once=True)
