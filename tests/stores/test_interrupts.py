"""Exceptions in the middle of a statement: of signal handlers, gevent.Timeout, GreenletExit."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import request
from sqlalchemy import orm

from flask_fsm import FlaskFSM, Machine, Transition

from ..apps import SECRET, Visitor, flask_app, show
from ..store_servers import Valkey
from .test_outages import app_on

Fresh = Callable[[str], str]


class Alarm(Exception):
    """What the signal handler of an app raises."""


class HardAlarm(BaseException):
    """What the signal handler of a server raises, past `except Exception`."""


@contextlib.contextmanager
def interrupted(kind: type[BaseException], seconds: float = 0.4) -> Iterator[None]:
    """Raise `kind` in this thread by a signal, after some seconds."""
    raised: list[BaseException] = []

    def handle(*_: Any) -> None:
        raised.append(kind("interrupted"))
        raise raised[0]

    before = signal.signal(signal.SIGUSR1, handle)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(BaseException) as caught:
            yield
        assert caught.value is raised[0], "It must come through as it is."
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep everybody from writing flows."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE fsm_flow IN EXCLUSIVE MODE")
        yield
        connection.rollback()
    engine.dispose()


@pytest.mark.parametrize("kind", [Alarm, HardAlarm])
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
@pytest.mark.parametrize("page", ["a", "b"])
def test_a_signal_in_a_commit_comes_through_and_the_connection_is_given_up(
    fresh_store: Fresh, store: str, kind: type[BaseException], page: str
) -> None:
    """In the first commit of a run and in a later one; the same form can be sent again."""
    url = fresh_store(store)
    app = app_on(url, TESTING=True, FSM_LOCK_TIMEOUT=5, FSM_STORE_TIMEOUT=1)
    visitor = Visitor(app)
    if page == "b":
        visitor.send("a", {"town": "Ghent"})
    token = visitor.token(page)
    with locked(url), interrupted(kind):
        visitor.post(page, {"town": "Bruges"}, token)
    gc.collect()  # SQLite's waits end first; what they interrupt then lives in the traceback
    assert app.extensions["fsm"].store.records.engine.pool.checkedout() == 0
    answer = visitor.post(page, {"town": "Bruges"}, token)
    assert (answer.status_code, answer.location) == (303, "/b" if page == "a" else "/a")


@pytest.mark.parametrize("kind", [Alarm, HardAlarm])
def test_a_signal_in_a_read_comes_through_and_the_connection_is_given_up(
    fresh_store: Fresh, kind: type[BaseException]
) -> None:
    """A GET that waits for a lock on the table."""
    url = fresh_store("postgres")
    app = app_on(url, TESTING=True)
    visitor = Visitor(app)
    visitor.send("a", {"town": "Ghent"})
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE fsm_flow IN ACCESS EXCLUSIVE MODE")
        with interrupted(kind):
            visitor.open("b")
        connection.rollback()
    assert app.extensions["fsm"].store.records.engine.pool.checkedout() == 0
    assert visitor.open("b").status_code == 200
    engine.dispose()


@pytest.mark.parametrize("kind", [Alarm, HardAlarm])
@pytest.mark.parametrize("where", ["step", "statement", "commit"])
def test_a_signal_in_a_transaction_comes_through_and_the_connection_is_given_up(
    fresh_store: Fresh, kind: type[BaseException], where: str
) -> None:
    """In the step's own statement, in one of the app's, and in what the commit flushes."""
    url = fresh_store("postgres")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE slow (id int primary key)")
    sleeps = [True]

    class Base(orm.DeclarativeBase):
        pass

    class Slow(Base):
        __tablename__ = "slow"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    def ordered(fsm: Any) -> Any:
        with fsm.transaction(orm.Session(engine)) as session:
            answer = fsm.advance("b", data={"town": "x"})
            if sleeps and where == "statement":
                session.execute(sa.text("SELECT pg_sleep(5)"))
            session.add(Slow(id=1))
        session.close()
        return answer

    app = app_on(engine, TESTING=True, ordered=ordered)
    visitor = Visitor(app)
    token = visitor.token("a")
    blocker = sa.create_engine(url)
    with blocker.connect() as connection:
        if where != "statement":
            table = "fsm_flow" if where == "step" else "slow"
            connection.exec_driver_sql(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        with interrupted(kind):
            visitor.post("a", {"town": "x"}, token)
        connection.rollback()
    sleeps.clear()
    assert engine.pool.checkedout() == 0
    assert visitor.post("a", {"town": "x"}, token).location == "/b"
    for each in (engine, blocker):
        each.dispose()


@pytest.mark.parametrize("kind", [Alarm, HardAlarm])
def test_a_signal_in_a_script_of_redis_comes_through_and_the_connection_is_given_up(
    fresh_store: Fresh, kind: type[BaseException]
) -> None:
    """While the server holds writes back; the next answer is not that of the old script."""
    url = fresh_store("redis")
    visitor = Visitor(app_on(url, TESTING=True))
    visitor.send("a", {"town": "Ghent"})
    token = visitor.token("b")
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        client.client_pause(20_000, all=False)
        with interrupted(kind):
            visitor.post("b", {"town": "Bruges"}, token)
        client.client_unpause()
    assert visitor.post("b", {"town": "Bruges"}, token).location == "/a"
    assert visitor.open("a").status_code == 200


def test_a_lease_that_can_not_be_released_hides_no_exception_of_the_view() -> None:
    """The server is lost while the view of a `once=True` edge runs, and then something raises."""
    with Valkey() as server:
        app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": server.url})
        fsm = FlaskFSM(app, Machine("m", [Transition("a", "b", once=True)]))

        def page() -> Any:
            if request.method == "POST":
                server.kill()
                raise HardAlarm
            return show("a", fsm)

        app.add_url_rule("/a", "a", fsm.check()(page), methods=["GET", "POST"])
        app.add_url_rule("/b", "b", fsm.check()(lambda: "b"))
        visitor = Visitor(app)
        token = visitor.token("a")
        with pytest.raises(HardAlarm):
            visitor.post("a", {}, token)


SLOW = """
    CREATE TABLE slow (seconds int);
    INSERT INTO slow VALUES (60);
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(seconds) FROM slow; RETURN NULL; END $$;
    CREATE TRIGGER t AFTER INSERT OR UPDATE ON fsm_flow FOR EACH ROW EXECUTE FUNCTION wait();
"""


@pytest.mark.parametrize(
    ("step", "kind"),
    [("first", HardAlarm), ("later", Alarm), ("later", HardAlarm), ("transaction", HardAlarm)],
)
@pytest.mark.parametrize("own", [False, True], ids=["url", "engine"])
def test_the_server_does_not_go_on_with_a_statement_that_was_given_up(
    fresh_store: Fresh, step: str, kind: type[BaseException], own: bool
) -> None:
    """It would keep the row locked, so that the next form waits for it, and commit in the end."""
    url = fresh_store("postgres")
    engine = sa.create_engine(url)
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")

    def in_transaction(fsm: Any) -> Any:
        with orm.Session(engine) as session, fsm.transaction(session):
            return fsm.advance("b", data={"town": "x"})

    config = {"TESTING": True, "FSM_LOCK_TIMEOUT": 2}
    ordered = in_transaction if step == "transaction" else None
    app = app_on(engine if own else url, ordered=ordered, **config)
    visitor = Visitor(app)
    page = "b" if step == "later" else "a"
    if step == "later":
        visitor.send("a", {"town": "Ghent"})
    token = visitor.token(page)
    with admin.connect() as connection:
        connection.exec_driver_sql(SLOW)
        with interrupted(kind):
            visitor.post(page, {"town": "x"}, token)
        connection.exec_driver_sql("DELETE FROM slow")
    answer = visitor.post(page, {"town": "x"}, token)
    assert (answer.status_code, answer.location) == (303, "/a" if page == "b" else "/b")
    for each in (engine, admin):
        each.dispose()


def test_a_server_that_answers_too_late_does_not_go_on_with_the_statement(
    fresh_store: Fresh,
) -> None:
    """The connection gives it up by itself: 503, and the same form is taken afterwards."""
    url = fresh_store("postgres")
    visitor = Visitor(app_on(url, FSM_LOCK_TIMEOUT=0.5, FSM_STORE_TIMEOUT=0.5))
    visitor.send("a", {"town": "Ghent"})
    token = visitor.token("b")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(SLOW)
        assert visitor.post("b", {"town": "x"}, token).status_code == 503
        connection.exec_driver_sql("DELETE FROM slow")
    assert visitor.post("b", {"town": "x"}, token).location == "/a"
    admin.dispose()


GEVENT = """
    from gevent import monkey
    monkey.patch_all()
    import sys
    import gevent
    import sqlalchemy as sa
    from tests.apps import Visitor
    from tests.stores.test_outages import app_on

    url = sys.argv[1]
    app = app_on(url, TESTING=True, FSM_LOCK_TIMEOUT=8)
    visitor = Visitor(app)
    visitor.send("a", {"town": "Ghent"})
    token = visitor.token("b")
    blocker = sa.create_engine(url)

    def post():
        try:
            print("answered", visitor.post("b", {"town": "Bruges"}, token).status_code)
        except BaseException as error:
            print(type(error).__name__)
            if not isinstance(error, gevent.GreenletExit):
                raise

    with blocker.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE fsm_flow IN EXCLUSIVE MODE")
        try:
            with gevent.Timeout(0.4):
                post()
        except gevent.Timeout:
            print("through")
        greenlet = gevent.spawn(post)
        gevent.sleep(0.4)
        greenlet.kill()
        waiting = sa.text(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE NOT granted AND datname = current_database()"
        )
        with gevent.Timeout(10, False):
            while connection.scalar(waiting):
                gevent.sleep(0.02)
        print("waiting", connection.scalar(waiting))
        connection.rollback()
    print(app.extensions["fsm"].store.records.engine.pool.checkedout())
    print(visitor.post("b", {"town": "Bruges"}, token).location)
"""


def test_a_timeout_and_a_killed_greenlet_of_gevent_come_through(fresh_store: Fresh) -> None:
    """Both while a commit waits for PostgreSQL, where then no statement waits any more."""
    pytest.importorskip("gevent", reason="gevent is not installed for this Python")
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GEVENT), fresh_store("postgres")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    said = ["Timeout", "through", "GreenletExit", "waiting 0", "0"]
    assert ran.stdout.split("\n")[:5] == said, ran
    assert ran.stdout.split()[-1] == "/a", ran
