"""Flows in a database: what may be handed over, the tables, migrations, and our connections."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from flask_fsm import ConfigError, FlaskFSM, Machine, StoreUnavailable
from flask_fsm.stores.sql.records import SQLRecords

from ..apps import Visitor, flask_app, seen, show

ROOT = Path(__file__).parents[2]
LINE = [("a", "b"), ("b", "c"), ("c", "a")]
SERVERS = ("sqlite", "postgres")
Fresh = Callable[[str], str]


def line_app(
    store: object = None, way: str = "init_app", app: Flask | None = None, **config: object
) -> Flask:
    """An app with the pages a -> b -> c -> a whose flows are kept in what is handed over."""
    app = flask_app({}) if app is None else app
    app.config.update(SECRET_KEY="a key for tests", TESTING=True, **config)
    machine = Machine("line", LINE, final=[])
    if way == "FlaskFSM":
        fsm = FlaskFSM(app, machine, store=store)
    else:
        fsm = FlaskFSM(machine)
        if way == "config":
            app.config["FSM_STORE_URL"] = store
            fsm.init_app(app)
        else:
            fsm.init_app(app, store=store)
    for page, target in LINE:

        def view(page: str = page, target: str = target) -> Any:
            from flask import request

            if request.method != "POST":
                return show(page, fsm)
            return fsm.advance(target, data={"typed": request.form.get("typed", "")})

        app.add_url_rule(f"/{page}", page, fsm.check()(view), methods=["GET", "POST"])
    return app


def init_db(app: Flask) -> None:
    with app.app_context():
        app.extensions["fsm"].extension.init_db()


def records(app: Flask) -> SQLRecords:
    found = app.extensions["fsm"].store.records
    assert isinstance(found, SQLRecords)
    return found


def goes_round(app: Flask) -> None:
    """A visitor goes from page to page, comes back, and is still there."""
    visitor = Visitor(app)
    visitor.walk("a", "b", "c", "a")
    told = visitor.see("b")
    assert (told["state"], told["rev"]) == ("b", 4)
    assert visitor.post("a", token="").status_code == 400
    assert visitor.post("c").status_code == 409
    visitor.walk("b")
    assert visitor.see("c")["rev"] == 5


def rows(url: str, table: str = "fsm_history") -> int:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
    finally:
        engine.dispose()


def tables_in(url: str) -> list[str]:
    engine = sa.create_engine(url)
    try:
        return sorted(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


# -- handing over -----------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, fresh_store: Fresh) -> str:
    """An empty database."""
    return fresh_store(request.param)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """An engine of the app's own."""
    made = sa.create_engine(url)
    yield made
    made.dispose()


@pytest.mark.parametrize("way", ["init_app", "FlaskFSM", "config"])
def test_an_engine_may_be_handed_over(engine: sa.Engine, url: str, way: str) -> None:
    """The engine of the app is used as it is, and no other one."""
    app = line_app(engine, way)
    init_db(app)
    goes_round(app)
    assert records(app).engine is engine
    assert rows(url) == 5


def test_a_store_given_with_the_machine_alone_is_not_lost(engine: sa.Engine) -> None:
    """FlaskFSM(machine, store=...) keeps the store for init_app, or says that it can't."""
    try:
        fsm = FlaskFSM(Machine("line", LINE, final=[]), store=engine)
    except ConfigError:
        return
    app = flask_app({"SECRET_KEY": "a key for tests"})
    fsm.init_app(app)
    assert isinstance(app.extensions["fsm"].store.records, SQLRecords)


@pytest.mark.parametrize("kind", ["Session", "scoped_session"])
def test_a_plain_session_may_be_handed_over(engine: sa.Engine, url: str, kind: str) -> None:
    """Of a session only its engine is used: what is pending in it stays so."""
    session = Session(engine) if kind == "Session" else scoped_session(sessionmaker(engine))
    app = line_app(session)
    init_db(app)
    with closing(session):
        session.execute(sa.text("CREATE TABLE own (n INTEGER)"))
        session.rollback()
        goes_round(app)
        real = session() if isinstance(session, scoped_session) else session
        assert not real.in_transaction()
    assert rows(url) == 5


@pytest.mark.parametrize(
    ("what", "way", "later"),
    [
        ("db", "init_app", False),
        ("db", "FlaskFSM", True),
        ("db", "config", False),
        ("session", "init_app", True),
        ("session", "FlaskFSM", False),
    ],
)
def test_flask_sqlalchemy_may_be_handed_over(url: str, what: str, way: str, later: bool) -> None:
    """`db` or `db.session`, before or after db.init_app(app)."""
    from flask_sqlalchemy import SQLAlchemy

    db = SQLAlchemy()
    app = flask_app({"SQLALCHEMY_DATABASE_URI": url})
    if not later:
        db.init_app(app)
    line_app(db if what == "db" else db.session, way, app)
    if later:
        db.init_app(app)
    init_db(app)
    goes_round(app)
    with app.app_context():
        assert records(app).engine is db.engine
        db.engine.dispose()
    assert rows(url) == 5


@pytest.mark.parametrize("way", ["init_app", "FlaskFSM"])
def test_flask_sqlalchemy_lite_may_be_handed_over(url: str, way: str) -> None:
    """Its `db`, whose engine is the default one."""
    from flask_sqlalchemy_lite import SQLAlchemy

    db = SQLAlchemy()
    app = flask_app({"SQLALCHEMY_ENGINES": {"default": url}})
    db.init_app(app)
    line_app(db, way, app)
    init_db(app)
    goes_round(app)
    with app.app_context():
        db.engine.dispose()
    assert rows(url) == 5


def test_a_database_in_memory_of_the_app_s_tests_may_be_handed_over() -> None:
    """`sqlite://` has one connection for all, which an app's own tests use for speed."""
    engine = sa.create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    app = line_app(engine)
    init_db(app)
    goes_round(app)
    engine.dispose()


@pytest.mark.parametrize(
    ("driver", "way", "decoding"),
    [
        ("redis", "init_app", False),
        ("redis", "FlaskFSM", True),
        ("valkey", "init_app", True),
        ("valkey", "FlaskFSM", False),
        ("valkey", "config", False),
    ],
)
def test_a_client_of_redis_may_be_handed_over(
    fresh_store: Fresh, driver: str, way: str, decoding: bool
) -> None:
    """A client of redis-py or valkey-py, whether it decodes answers or not."""
    url = fresh_store("redis")
    if driver == "redis":
        import redis as module

        kind = module.Redis
    else:
        import valkey as module

        kind = module.Valkey
    client = kind.from_url(url, decode_responses=decoding)
    with closing(client):
        app = line_app(client, way)
        init_db(app)
        goes_round(app)
        with app.app_context():
            log = list(app.extensions["fsm"].extension.log())
        assert [entry.rev for entry in log] == [1, 2, 3, 4, 5]
        assert client.dbsize() == 2


@pytest.mark.parametrize("what", [object(), 7.5, [], Flask, sa, lambda: None, b"sqlite:///x.db"])
def test_what_keeps_no_flows_is_named(what: object) -> None:
    """Anything else is a ConfigError that says what may be handed over."""
    with pytest.raises(ConfigError, match="engine"):
        line_app(what)


def test_an_asynchronous_client_is_refused_at_set_up() -> None:
    """It would return coroutines, so that nothing was ever kept."""
    import redis.asyncio

    with pytest.raises(ConfigError):
        line_app(redis.asyncio.Redis())


@pytest.mark.parametrize("kind", ["pool", "pubsub"])
def test_a_part_of_redis_py_that_is_no_client_is_a_config_error(kind: str) -> None:
    """Only a client is one."""
    import redis

    client = redis.Redis()
    with pytest.raises(ConfigError):
        line_app(client.connection_pool if kind == "pool" else client.pubsub())


def test_both_tables_can_t_have_one_name() -> None:
    """FSM_FLOW_TABLE and FSM_HISTORY_TABLE name two tables."""
    with pytest.raises(ConfigError, match=r"FSM_(FLOW|HISTORY)_TABLE"):
        line_app("sqlite:////tmp/none.db", FSM_FLOW_TABLE="fsm", FSM_HISTORY_TABLE="fsm")


# -- what is missing --------------------------------------------------------------------------


WITHOUT = """
    import sys
    from flask import Flask
    from flask_fsm import ConfigError, FlaskFSM, Machine

    modules, urls = sys.argv[1].split(), sys.argv[2:]
    for name in modules:
        sys.modules[name] = None
    for url in urls:
        app = Flask("app")
        app.config.update(SECRET_KEY="secret", FSM_STORE_URL=url)
        try:
            FlaskFSM(app, Machine("m", [("a", "b")]))
        except ConfigError as error:
            print(" ".join(str(error).split()))
        except Exception as error:
            print("not told:", repr(error))
        else:
            print("opened")
"""


def told_without(modules: str, *urls: str) -> list[str]:
    """What an app says at its start, for each URL, where these modules are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT), modules, *urls],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("modules", "extra", "urls"),
    [
        ("sqlalchemy", "sql", ("sqlite:////tmp/flows.db", "postgresql+psycopg://host/db")),
        ("redis", "redis", ("redis://localhost", "rediss://localhost", "unix:///tmp/socket")),
    ],
)
def test_a_missing_extra_is_named(modules: str, extra: str, urls: tuple[str, ...]) -> None:
    """The error at set-up says which extra to install, and for which store; the others work."""
    *told, memory = told_without(modules, *urls, "memory://")
    for url, text in zip(urls, told, strict=True):
        assert f"flask-fsm[{extra}]" in text
        assert url.partition(":")[0] in text
    assert memory == "opened"


def test_without_the_package_that_encrypts_ids_the_extra_is_named() -> None:
    """It comes with both extras; flows in memory and in the session do without."""
    urls = ("sqlite:////tmp/flows.db", "redis://localhost", "memory://", "session")
    sql, redis, *others = told_without("cryptography", *urls)
    assert "flask-fsm[sql]" in sql
    assert "flask-fsm[redis]" in redis
    assert others == ["opened", "opened"]


def test_a_missing_driver_is_named() -> None:
    """The extra is there, but not the driver of that database; the others work."""
    text, sqlite = told_without("psycopg", "postgresql+psycopg://host/db", "sqlite:////none.db")
    assert "postgresql+psycopg" in text
    assert "psycopg" in text.partition("not installed")[2]
    assert "flask-fsm[sql]" not in text
    assert sqlite == "opened"


@pytest.mark.parametrize(
    "url", ["sqlite3:///x.db", "nothing+here://x", "postgresql+none://x/y", "sqlite:", "redis:/x"]
)
def test_a_url_that_is_none_is_a_config_error(url: str) -> None:
    """The error names the key and shows how such a URL is written."""
    with pytest.raises(ConfigError, match="FSM_STORE_URL") as caught:
        line_app(url)
    assert "postgresql+psycopg" in str(caught.value)


def test_a_password_is_not_told() -> None:
    """The text of an error goes into logs, where a password has no place."""
    for url in ("postgresql+none://me:hush@host/db", "redis://me:hush@host:port/0"):
        with pytest.raises(ConfigError) as caught:
            line_app(url)
        assert "hush" not in str(caught.value)


# -- tables -----------------------------------------------------------------------------------


def test_the_command_makes_the_tables_and_does_nothing_more_later(url: str) -> None:
    """`flask fsm init-db` and fsm.init_db() can be repeated, and lose nothing."""
    app = line_app(url)
    for _ in range(2):
        result = app.test_cli_runner().invoke(args=["fsm", "init-db"])
        assert result.exit_code == 0, result.output
        init_db(app)
    assert tables_in(url) == ["fsm_flow", "fsm_history"]
    Visitor(app).walk("a", "b")
    init_db(app)
    assert rows(url) == 2


def test_missing_tables_are_an_error_that_names_the_command(url: str) -> None:
    """It is a fault of the app's set-up, not something for the visitor to wait for."""
    app = line_app(url)
    visitor = Visitor(app)
    with pytest.raises(ConfigError, match="flask fsm init-db"):
        visitor.walk("a")
    init_db(app)
    goes_round(app)


def test_a_missing_history_table_is_an_error_that_names_the_command(url: str) -> None:
    """And the step that could not be logged was not made."""
    app = line_app(url)
    init_db(app)
    visitor = Visitor(app)
    visitor.walk("a")
    with records(app).engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE fsm_history"))
    with pytest.raises(ConfigError, match="flask fsm init-db"):
        visitor.send("b")
    init_db(app)
    assert visitor.see("b")["rev"] == 1
    visitor.walk("b")


def test_the_tables_have_the_names_of_the_config(url: str) -> None:
    """FSM_FLOW_TABLE and FSM_HISTORY_TABLE may be any names."""
    names = {"FSM_FLOW_TABLE": "Our flows", "FSM_HISTORY_TABLE": "order"}
    app = line_app(url, **names)
    init_db(app)
    goes_round(app)
    with app.app_context():
        assert set(app.extensions["fsm"].extension.metadata.tables) == set(names.values())
    assert tables_in(url) == ["Our flows", "order"]


def test_a_long_name_of_a_table_will_do(url: str) -> None:
    """As long as PostgreSQL allows, 63 characters."""
    app = line_app(url, FSM_FLOW_TABLE="f" * 63, FSM_HISTORY_TABLE="h" * 63)
    init_db(app)
    goes_round(app)


def made_by_children(count: int, work: Callable[[int], None]) -> list[int | None]:
    """Fork children that all begin `work` at once; return how they ended."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(count)

    def child(number: int) -> None:
        start.wait(20)
        work(number)

    children = [context.Process(target=child, args=(number,)) for number in range(count)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
    return [process.exitcode for process in children]


forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@forks
@pytest.mark.parametrize("kind", SERVERS)
def test_processes_may_make_the_tables_at_once(kind: str, fresh_store: Fresh) -> None:
    """Four workers that start at the same moment on an empty database all succeed."""
    for _ in range(5 if kind == "sqlite" else 2):
        url = fresh_store(kind)
        app = line_app(url)
        assert made_by_children(4, lambda number, app=app: init_db(app)) == [0] * 4
        assert tables_in(url) == ["fsm_flow", "fsm_history"]


@forks
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", [*SERVERS, "redis"])
def test_a_process_that_is_forked_after_use_has_connections_of_its_own(
    kind: str, own: bool, fresh_store: Fresh
) -> None:
    """Parent and children go on at once with the store that was in use before the fork."""
    url = fresh_store(kind)
    store: Any = url
    if not own and kind == "redis":
        import redis

        store = redis.Redis.from_url(url)
    elif not own:
        store = sa.create_engine(url)
    app = line_app(store)
    init_db(app)
    visitor = Visitor(app)
    visitor.walk("a")

    def work(number: int) -> None:
        for _ in range(2):
            goes_round(app)

    def parent() -> None:
        visitor.walk("b", "c")

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=work, args=(number,)) for number in range(2)]
    for process in children:
        process.start()
    parent()
    for process in children:
        process.join(60)
    assert [process.exitcode for process in children] == [0, 0]
    visitor.walk("a")
    assert visitor.see("b")["rev"] == 4
    if kind != "redis":
        assert rows(url) == 4 + 2 * 2 * 5
    if not own:
        getattr(store, "dispose", None) and store.dispose()
        getattr(store, "close", None) and store.close()


# -- migrations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [{}, {"FSM_FLOW_TABLE": "flows", "FSM_HISTORY_TABLE": "flow_history"}]
)
def test_alembic_finds_no_difference_to_the_tables_that_are_made(
    url: str, engine: sa.Engine, names: dict[str, str]
) -> None:
    """compare_metadata() of fsm.metadata has nothing to change after init_db."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    app = line_app(url, **names)
    with app.app_context(), engine.connect() as connection:
        fsm = app.extensions["fsm"].extension
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, fsm.metadata)
        connection.rollback()
        init_db(app)
        assert compare_metadata(context, fsm.metadata) == []


MIGRATED = '''
    import sys
    from flask_migrate import Migrate
    from flask_sqlalchemy import SQLAlchemy
    from pathlib import Path
    from flask import Flask
    from tests.apps import flask_app
    from tests.stores.test_sql import goes_round, line_app

    url, folder = sys.argv[1:]
    db = SQLAlchemy()

    class Order(db.Model):
        id = db.Column(db.Integer, primary_key=True)

    app = flask_app({"SQLALCHEMY_DATABASE_URI": url})
    db.init_app(app)
    line_app(db, app=app)
    Migrate(app, db, directory=folder)

    def run(*args):
        result = app.test_cli_runner().invoke(args=["db", *args])
        assert result.exit_code == 0, (args, result.output, result.exception)

    run("init")
    env = Path(folder) / "env.py"
    text = env.read_text()
    known = "target_metadata=get_metadata(),"
    assert text.count(known) == 2, text
    env.write_text(text.replace(known, """target_metadata=[
        get_metadata(), current_app.extensions["fsm"].extension.metadata],"""))
    run("migrate", "-m", "first")
    run("upgrade")
    run("migrate", "-m", "second")
    first, *more = sorted(Path(folder, "versions").glob("*.py"))
    assert not more, more
    script = first.read_text()
    for table in ("order", "fsm_flow", "fsm_history"):
        assert f"create_table('{table}'" in script, script
    goes_round(app)
    run("downgrade")
'''


@pytest.mark.parametrize("kind", SERVERS)
def test_flask_migrate_generates_the_tables(kind: str, fresh_store: Fresh, tmp_path: Path) -> None:
    """`flask db migrate` and `upgrade` with [db.metadata, fsm.metadata] make a store that works."""
    url = fresh_store(kind)
    script = tmp_path / "migrated.py"
    script.write_text(textwrap.dedent(MIGRATED))
    done = subprocess.run(
        [sys.executable, str(script), url, str(tmp_path / "migrations")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert tables_in(url) == ["alembic_version"]


@pytest.mark.parametrize("store", ["session", "memory://", "redis://localhost:1"])
def test_without_a_database_there_is_no_metadata(store: str) -> None:
    """fsm.metadata says so, and not what attribute is missing."""
    app = line_app(store)
    with app.app_context(), pytest.raises(ConfigError, match=r"fsm\.metadata"):
        _ = app.extensions["fsm"].extension.metadata


# -- connections that we open -----------------------------------------------------------------


def test_sqlite_is_set_up_for_several_processes(fresh_store: Fresh) -> None:
    """WAL, a busy timeout of FSM_STORE_TIMEOUT, and each commit reaches the disk."""
    app = line_app(fresh_store("sqlite"), FSM_STORE_TIMEOUT=2.5)
    init_db(app)
    with records(app).engine.connect() as one, records(app).engine.connect() as two:
        for connection in (one, two):
            told = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "busy_timeout", "synchronous")
            }
            assert told == {"journal_mode": "wal", "busy_timeout": 2_500, "synchronous": 2}


def test_a_writer_of_the_app_is_waited_for_when_sqlite_is_first_opened(
    fresh_store: Fresh,
) -> None:
    """The switch to WAL needs the file to itself, and SQLite doesn't wait for that by itself."""
    url = fresh_store("sqlite")
    engine = sa.create_engine(url, connect_args={"check_same_thread": False})
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE own (n INTEGER)")
        connection.commit()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, connection.connection.dbapi_connection.commit)
        app = line_app(url)
        timer.start()
        init_db(app)
        timer.join()
    engine.dispose()
    assert tables_in(url) == ["fsm_flow", "fsm_history", "own"]


def test_postgresql_is_read_committed_and_waits_for_a_bounded_time(fresh_store: Fresh) -> None:
    """READ COMMITTED whatever the server's default is, and a lock_timeout of FSM_LOCK_TIMEOUT."""
    url = fresh_store("postgres")
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        name = connection.scalar(sa.text("SELECT current_database()"))
        connection.execute(
            sa.text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        )
        connection.commit()
    engine.dispose()
    app = line_app(url, FSM_LOCK_TIMEOUT=1.5)
    init_db(app)
    for _ in range(2):
        with records(app).engine.connect() as connection:
            assert connection.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
            assert connection.scalar(sa.text("SHOW lock_timeout")) == "1500ms"
    goes_round(app)


def test_options_in_the_url_of_postgresql_are_kept(fresh_store: Fresh) -> None:
    """What the query of the URL says goes to the server, and may replace our own."""
    url = fresh_store("postgres") + "?application_name=shop&connect_timeout=3"
    app = line_app(url)
    init_db(app)
    with records(app).engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW application_name")) == "shop"
    goes_round(app)


def test_several_hosts_in_the_url_of_postgresql_are_kept(fresh_store: Fresh) -> None:
    """SQLAlchemy writes them as repeated arguments of the query."""
    url = sa.make_url(fresh_store("postgres"))
    host = f"{url.host}:{url.port}"
    several = f"postgresql+psycopg://{url.username}@/{url.database}?host={host}&host={host}"
    plain = sa.create_engine(several)
    plain.connect().close()
    plain.dispose()
    app = line_app(several)
    init_db(app)
    goes_round(app)


def test_a_lock_of_somebody_else_is_not_waited_for_without_end(url: str) -> None:
    """Whoever holds the row, or the file, makes the answer a refusal with Retry-After."""
    app = line_app(url, FSM_LOCK_TIMEOUT=0.3, FSM_STORE_TIMEOUT=0.3)
    init_db(app)
    visitor = Visitor(app)
    visitor.walk("a")
    token = visitor.token("b")
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(sa.text("UPDATE fsm_flow SET claim = claim"))
        began = time.monotonic()
        response = visitor.post("b", token=token)
        assert time.monotonic() - began < 5
        assert response.status_code in (409, 503)
        assert int(response.headers["Retry-After"]) > 0
        assert visitor.see("b")["rev"] == 1
        connection.rollback()
    assert visitor.post("b", token=token).status_code == 303
    engine.dispose()


def test_a_pool_without_a_free_connection_is_not_waited_for_longer_than_the_server(
    url: str,
) -> None:
    """FSM_STORE_TIMEOUT bounds this wait too, on each database."""
    app = line_app(url, FSM_STORE_TIMEOUT=0.5)
    init_db(app)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(sa.exc.TimeoutError):
            for _ in range(15):
                stack.enter_context(records(app).engine.connect())
        began = time.monotonic()
        with app.app_context(), pytest.raises(StoreUnavailable):
            records(app).owner_records("owner", "line")
        assert time.monotonic() - began < 5


def test_a_connection_that_the_server_closed_is_replaced(fresh_store: Fresh) -> None:
    """After the server was restarted, the first visitor notices nothing."""
    url = fresh_store("postgres")
    app = line_app(url)
    init_db(app)
    visitor = Visitor(app)
    visitor.walk("a")
    engine = sa.create_engine(url)
    for page in ("b", "c"):
        token = visitor.token(page)
        with engine.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert visitor.post(page, token=token).status_code == 303
    engine.dispose()


def test_a_commit_is_whole_on_an_engine_that_commits_by_itself(fresh_store: Fresh) -> None:
    """Where the history can't be written the flow stays, though the engine is in AUTOCOMMIT."""
    engine = sa.create_engine(fresh_store("postgres"), isolation_level="AUTOCOMMIT")
    app = line_app(engine)
    init_db(app)
    visitor = Visitor(app)
    visitor.walk("a")
    token = visitor.token("b")
    with engine.connect() as connection:
        connection.execute(sa.text("ALTER TABLE fsm_history ADD CHECK (rev < 2)"))
    with pytest.raises(sa.exc.IntegrityError):
        visitor.post("b", token=token)
    assert visitor.see("b")["rev"] == 1
    engine.dispose()


def test_answers_of_any_text_come_back(url: str) -> None:
    """NUL, half a surrogate pair, and what looks like SQL."""
    app = line_app(url)
    init_db(app)
    for text in ("\x00", "é😀", "'; DROP TABLE fsm_flow; --", "%s :x {0}"):
        visitor = Visitor(app)
        response = visitor.send("a", {"typed": text})
        assert response.status_code == 303
        assert visitor.see("b")["data"] == {"a": {"typed": text}}
        assert seen(visitor.open("a"))["answers"] == {"typed": text}
