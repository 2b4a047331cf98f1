"""Servers that refuse to write, are full, damaged or restarted: 503, and no secret in a log."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import resource
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import Flask, request
from sqlalchemy import orm

from flask_fsm import FlaskFSM, Machine, Transition
from flask_fsm.bus.redis.bus import RedisBus

from ..apps import SECRET, Visitor, flask_app, show, token_in
from ..clients import LOOPBACK, PATIENCE
from ..store_servers import Postgres, Valkey

Fresh = Callable[[str], str]
ANSWER = "Zanzibar seventeen"
SUBJECT = "ada@example.com"
BIG = 60_000


def app_on(
    store: Any, *, init: bool = True, ordered: Callable[[Any], Any] | None = None, **config: Any
) -> Flask:
    """Two pages, a and b, between which a visitor may go back and forth; flows have a subject."""
    known = {"SECRET_KEY": SECRET * 2, "FSM_STORE_TIMEOUT": 5, "FSM_MAX_SNAPSHOT_SIZE": 1_000_000}
    app = flask_app({**known, **config})
    machine = Machine("m", [Transition("a", "b"), Transition("b", "a"), ("b", "end")])
    fsm = FlaskFSM(app, machine, store=store)
    fsm.subject(lambda: SUBJECT)

    def page(name: str, to: str) -> Callable[[], Any]:
        def view() -> Any:
            if request.method != "POST":
                return show(name, fsm)
            if ordered is not None:
                return ordered(fsm)
            return fsm.advance(to, data={"town": request.form["town"]})

        return view

    for name, to in (("a", "b"), ("b", "a")):
        app.add_url_rule(f"/{name}", name, fsm.check()(page(name, to)), methods=["GET", "POST"])
    app.add_url_rule("/end", "end", fsm.check()(page("end", "")))
    if init:
        with app.app_context():
            fsm.init_db()
    return app


def assert_busy(response: Any, town: str = ANSWER) -> None:
    """503, when to come again, and a form that holds what was typed."""
    assert response.status_code == 503, (response.status_code, response.text[:500])
    assert response.headers["Retry-After"] == "1"
    assert f'value="{town}"' in response.text
    assert 'name="fsm_token"' in response.text


def assert_private(caplog: pytest.LogCaptureFixture) -> None:
    """The log says something, but neither an answer nor a subject."""
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]
    assert ANSWER not in caplog.text
    assert SUBJECT not in caplog.text


@pytest.fixture(params=["url", "engine"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """What an app hands over for a URL: the URL, or an engine of its own."""
    engines: list[sa.Engine] = []

    def create(url: str) -> sa.Engine:
        engines.append(sa.create_engine(url))
        return engines[-1]

    yield (lambda url: url) if request.param == "url" else create
    for engine in engines:
        engine.dispose()


def noise(size: int) -> str:
    """Return letters that can't be compressed."""
    return os.urandom(size // 2).hex().translate(str.maketrans("0123456789", "ghijklmnop"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k,mode=777", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    for parent in folder.parents:  # PostgreSQL runs as nobody
        if parent.owner() == "root" and parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk; return the file that does."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(os.urandom(4096))
    return path


def until_refused(visitor: Visitor, size: int = 0) -> Any:
    """Go back and forth with ever new answers until the server refuses; return its answer."""
    for number in range(500):
        page = "ab"[number % 2]
        response = visitor.send(page, {"town": ANSWER + noise(size)})
        if response.status_code != 303:
            return response
    raise AssertionError("The server never refused.")


# -- servers that only read -------------------------------------------------------------------


def test_a_database_that_became_read_only_is_503_with_the_form(
    fresh_store: Fresh, opened: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL with default_transaction_read_only; afterwards the same form is taken."""
    url = fresh_store("postgres")
    visitor = Visitor(app_on(opened(url)))
    assert visitor.send("a", {"town": "Ghent"}).location == "/b"
    token = visitor.token("b")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    name = admin.url.database

    def set_to(value: str) -> None:
        with admin.connect() as connection:
            connection.exec_driver_sql(
                f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
            )
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            )

    set_to("on")
    assert visitor.open("b").status_code == 200
    assert_busy(visitor.post("b", {"town": ANSWER}, token))
    assert_private(caplog)
    with admin.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
    set_to("off")
    admin.dispose()
    assert visitor.post("b", {"town": ANSWER}, token).location == "/a"


def test_a_standby_is_503_with_the_form(caplog: pytest.LogCaptureFixture) -> None:
    """A PostgreSQL that restarts as a replica serves pages and takes no form."""
    with Postgres() as server:
        visitor = Visitor(app_on(server.url))
        assert visitor.send("a", {"town": "Ghent"}).location == "/b"
        token = visitor.token("b")
        (server.data / "standby.signal").touch()
        server.restart()
        assert visitor.open("b").status_code == 200
        assert_busy(visitor.post("b", {"town": ANSWER}, token))
        assert_private(caplog)
        (server.data / "standby.signal").unlink()
        server.restart()
        assert visitor.post("b", {"town": ANSWER}, token).location == "/a"


def test_a_role_that_lost_its_rights_is_503_with_the_form(
    fresh_store: Fresh, opened: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """REVOKE UPDATE in PostgreSQL."""
    url = fresh_store("postgres")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    role = f"app_{os.getpid()}_{time.monotonic_ns()}"
    app_on(url)
    with admin.connect() as connection:
        for command in (
            f"CREATE ROLE {role} LOGIN",
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
            f"GRANT CREATE ON SCHEMA public TO {role}",
        ):
            connection.exec_driver_sql(command)
        visitor = Visitor(app_on(opened(re.sub("//[^@]*@", f"//{role}@", url))))
        assert visitor.send("a", {"town": "Ghent"}).location == "/b"
        token = visitor.token("b")
        connection.exec_driver_sql(f"REVOKE UPDATE ON fsm_flow FROM {role}")
        assert_busy(visitor.post("b", {"town": ANSWER}, token))
        assert_private(caplog)
        connection.exec_driver_sql(f"GRANT UPDATE ON fsm_flow TO {role}")
        assert visitor.post("b", {"town": ANSWER}, token).location == "/a"
        connection.exec_driver_sql(f"DROP OWNED BY {role}")
        connection.exec_driver_sql(f"DROP ROLE {role}")
    admin.dispose()


def test_a_connection_whose_first_statement_fails_is_closed(fresh_store: Fresh) -> None:
    """The role may connect, but not call the function by which we recognise a pooler."""
    url = fresh_store("postgres")
    role = f"app_{os.getpid()}_{time.monotonic_ns()}"
    app_on(url)
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        function = "FUNCTION pg_catalog.current_setting(text, boolean)"
        connection.exec_driver_sql(f"REVOKE EXECUTE ON {function} FROM PUBLIC")
        visitor = Visitor(app_on(re.sub("//[^@]*@", f"//{role}@", url), init=False))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert visitor.post("a", {"town": ANSWER}).status_code == 503
            gc.collect()
        assert [str(warning.message) for warning in caught] == []
        connection.exec_driver_sql(f"GRANT EXECUTE ON {function} TO PUBLIC")
        assert visitor.send("a", {"town": ANSWER}).location == "/b"
        connection.exec_driver_sql(f"DROP OWNED BY {role}")
        connection.exec_driver_sql(f"DROP ROLE {role}")
    admin.dispose()


def test_an_sqlite_file_that_became_read_only_is_503_with_the_form(
    fresh_store: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a disk that the kernel mounted read-only after an error."""
    url = fresh_store("sqlite")
    path = url.removeprefix("sqlite:///")
    visitor = Visitor(app_on(url))
    assert visitor.send("a", {"town": "Ghent"}).location == "/b"
    token = visitor.token("b")
    reading = sa.create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    other = Visitor(app_on(reading, init=False))
    other.cookie = visitor.cookie
    assert other.open("b").status_code == 200
    assert_busy(other.post("b", {"town": ANSWER}, token))
    assert_private(caplog)
    assert visitor.post("b", {"town": ANSWER}, token).location == "/a"
    reading.dispose()


@pytest.mark.parametrize("way", ["replica", "rights", "memory"])
def test_a_redis_that_takes_no_writes_is_503_with_the_form(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It became a replica, its ACL forbids writing (NOPERM), or its memory is used up (OOM)."""
    with Valkey() as server, redis.Redis(LOOPBACK, server.port) as client:
        client.acl_setuser("app", enabled=True, nopass=True, keys="*", categories=["+@all"])
        visitor = Visitor(app_on(server.url.replace("redis://", "redis://app:x@")))
        assert visitor.send("a", {"town": "Ghent"}).location == "/b"
        token = visitor.token("b")
        if way == "replica":
            client.execute_command("REPLICAOF", LOOPBACK, 1)
        elif way == "rights":
            client.acl_setuser("app", enabled=True, categories=["-@write"])
        else:
            client.config_set("maxmemory", 1)
        assert visitor.open("b").status_code == 200
        assert_busy(visitor.post("b", {"town": ANSWER}, token))
        assert_private(caplog)
        if way == "replica":
            client.execute_command("REPLICAOF", "NO", "ONE")
        elif way == "rights":
            client.acl_setuser("app", enabled=True, categories=["+@all"])
        else:
            client.config_set("maxmemory", 0)
        assert visitor.post("b", {"town": ANSWER}, token).location == "/a"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction", None])
def test_a_redis_that_drops_flows_is_a_warning(
    policy: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, at the first commit, and only if it has a limit of memory and drops keys at it."""
    options = {} if policy is None else {"maxmemory": "1gb", "maxmemory_policy": policy}
    with Valkey(**options) as server:
        visitor = Visitor(app_on(server.url))
        assert visitor.open("a").status_code == 200
        assert "maxmemory-policy" not in caplog.text
        for state in ("a", "b"):
            visitor.send(state, {"town": "Ghent"})
        warned = policy in ("allkeys-lru", "volatile-ttl")
        assert caplog.text.count(f"(maxmemory-policy {policy})") == warned
        assert ("noeviction" in caplog.text) == warned


def test_a_client_that_fills_the_bus_leaves_room_for_flows_on_the_same_server() -> None:
    """However many flows one client follows and moves, the server takes the forms of others."""

    class Follower:
        def receive(self, position: object, payload: str) -> None: ...

        def gap(self, position: object) -> None: ...

    with (
        Valkey(maxmemory="24mb", maxmemory_policy="noeviction") as server,
        contextlib.closing(RedisBus(server.url, replay_bytes=100_000)) as bus,
    ):
        visitor = Visitor(app_on(server.url))
        assert visitor.send("a", {"town": "Ghent"}).location == "/b"
        follower = Follower()
        for number in range(500):
            bus.subscribe(f"flow:{number}", follower)
            for _ in range(10):
                bus.publish(f"flow:{number}", "x" * 10_000)
        assert bus.flush(PATIENCE)
        assert visitor.send("b", {"town": "Ghent"}).location == "/a"


def test_a_redis_user_without_scripts_is_503_with_the_form() -> None:
    """The ACL forbids EVALSHA itself, and not what the script does."""
    with Valkey() as server, redis.Redis(LOOPBACK, server.port) as client:
        client.acl_setuser("app", enabled=True, nopass=True, keys="*", categories=["+@all"])
        visitor = Visitor(app_on(server.url.replace("redis://", "redis://app:x@")))
        assert visitor.send("a", {"town": "Ghent"}).location == "/b"
        token = visitor.token("b")
        client.acl_setuser("app", enabled=True, categories=["-@scripting"])
        assert_busy(visitor.post("b", {"town": ANSWER}, token))


# -- full disks -------------------------------------------------------------------------------


def test_a_full_disk_under_postgresql_is_503_with_the_form(
    small_disk: Path, opened: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The table of the flows lies on a small disk."""
    with Postgres() as server:
        space = small_disk / "space"
        space.mkdir()
        if os.geteuid() == 0:
            os.chown(space, server.data.stat().st_uid, -1)
        app = app_on(opened(server.url))
        admin = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{space}'")
            connection.exec_driver_sql("ALTER TABLE fsm_flow SET TABLESPACE small")
        admin.dispose()
        visitor = Visitor(app)
        filler = fill(small_disk)
        response = until_refused(visitor, BIG)
        assert (response.status_code, response.headers.get("Retry-After")) == (503, "1")
        assert "fsm_token" in response.text
        assert_private(caplog)
        filler.unlink()
        assert visitor.send("a" if visitor.open("a").status_code == 200 else "b", {"town": "x"})


def test_a_full_disk_under_sqlite_is_503_with_the_form(
    small_disk: Path, opened: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The file can't grow."""
    visitor = Visitor(app_on(opened(f"sqlite:///{small_disk / 'fsm.db'}")))
    assert visitor.send("a", {"town": "Ghent"}).location == "/b"
    filler = fill(small_disk)
    token = visitor.token("b")
    town = ANSWER + noise(BIG)
    response = visitor.post("b", {"town": town}, token)
    assert_busy(response, town)
    assert_private(caplog)
    filler.unlink()
    assert visitor.post("b", {"town": town}, token).location == "/a"


def test_a_full_disk_under_valkey_is_503_with_the_form(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It can't write its append-only file any more."""
    with Valkey(dir=str(small_disk), appendonly="yes", appendfsync="everysec") as server:
        visitor = Visitor(app_on(server.url))
        filler = fill(small_disk)
        response = until_refused(visitor, BIG)
        assert (response.status_code, response.headers.get("Retry-After")) == (503, "1")
        assert_private(caplog)
        filler.unlink()


def test_an_sqlite_file_at_its_limit_is_503_with_the_form(
    fresh_store: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    """The process may write no larger files: a quota."""
    visitor = Visitor(app_on(fresh_store("sqlite")))
    assert visitor.send("a", {"town": "Ghent"}).location == "/b"
    token = visitor.token("b")
    town = ANSWER + noise(BIG)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        response = visitor.post("b", {"town": town}, token)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert_busy(response, town)
    assert_private(caplog)
    assert visitor.post("b", {"town": town}, token).location == "/a"


# -- damage and restarts ----------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["pages", "header"])
def test_a_damaged_sqlite_file_is_503_and_not_500(
    fresh_store: Fresh, opened: Callable[[str], Any], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody overwrote its pages ("malformed"), or all of it ("not a database")."""
    url = fresh_store("sqlite")
    path = Path(url.removeprefix("sqlite:///"))
    before = Visitor(app_on(url))
    assert before.send("a", {"town": ANSWER}).location == "/b"
    before.client.application.extensions["fsm"].store.records.engine.dispose()
    content = path.read_bytes()
    start = 100 if damage == "pages" else 0
    path.write_bytes(content[:start] + b"\xa5" * (len(content) - start))
    visitor = Visitor(app_on(opened(url), init=False))
    visitor.cookie = before.cookie
    response = visitor.open("b")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert_private(caplog)


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_restart_of_the_server_is_told_and_then_over(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is down 503 with the form; afterwards everything at once, on old connections too."""
    with Postgres() if kind == "postgres" else Valkey(durable=True) as server:
        app = app_on(server.url)
        visitors = [Visitor(app) for _ in range(4)]
        for visitor in visitors[:1]:
            assert visitor.send("a", {"town": "Ghent"}).location == "/b"
        warm(app, 4)
        token = visitors[0].token("b")
        server.kill()
        assert_busy(visitors[0].post("b", {"town": ANSWER}, token))
        assert_private(caplog)
        server.restart()
        assert visitors[0].post("b", {"town": ANSWER}, token).location == "/a"


def warm(app: Flask, connections: int) -> None:
    """Let the pool have so many connections."""
    barrier = threading.Barrier(connections)

    def use() -> None:
        records = app.extensions["fsm"].store.records
        if hasattr(records, "engine"):
            with records.engine.connect():
                barrier.wait(20)

    threads = [threading.Thread(target=use) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def test_a_restart_between_two_requests_goes_unnoticed() -> None:
    """However many connections of the pool it has closed."""
    with Postgres() as server:
        app = app_on(server.url)
        visitor = Visitor(app)
        assert visitor.send("a", {"town": "Ghent"}).location == "/b"
        warm(app, 5)
        server.restart()
        assert visitor.open("b").status_code == 200
        assert visitor.send("b", {"town": "Ghent"}).location == "/a"


def test_a_migration_of_the_tables_goes_unnoticed(
    fresh_store: Fresh, opened: Callable[[str], Any]
) -> None:
    """PostgreSQL refuses what a connection has prepared before a column got another type."""
    url = fresh_store("postgres")
    app = app_on(opened(url))
    visitor = Visitor(app)
    assert visitor.send("a", {"town": "Ghent"}).location == "/b"
    for _ in range(6):  # so that psycopg prepares it
        assert visitor.open("b").status_code == 200
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE fsm_flow ALTER COLUMN state TYPE varchar(300)")
    admin.dispose()
    assert visitor.open("b").status_code == 200
    assert visitor.send("b", {"town": "Ghent"}).location == "/a"


class Counted(orm.DeclarativeBase):
    """What two transactions read and write."""


class Counter(Counted):
    __tablename__ = "counter"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    n: orm.Mapped[int]


def test_a_lost_serialisation_at_the_commit_is_a_lost_race(fresh_store: Fresh) -> None:
    """In the app's own SERIALIZABLE session: 409, and neither 503 nor 500."""
    engine = sa.create_engine(fresh_store("postgres"), isolation_level="SERIALIZABLE")
    Counted.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all([Counter(id=1, n=0), Counter(id=2, n=0)])
        session.commit()
    found: list[str] = []

    def ordered(fsm: Any) -> Any:
        """Write skew: each transaction reads what the other one writes."""
        with orm.Session(engine) as session, fsm.transaction(session):
            answer = fsm.advance("b", data={"town": "x"})
            total = session.scalar(sa.select(sa.func.sum(Counter.n)))
            with orm.Session(engine) as other:
                other.scalar(sa.select(sa.func.sum(Counter.n)))
                other.execute(sa.update(Counter).where(Counter.id == 2).values(n=total + 1))
                other.get_one(Counter, 1)
                session.add(Counter(id=3, n=total))  # written by the commit
                other.commit()
            found.append("not before the commit")
        return answer

    visitor = Visitor(app_on(engine, ordered=ordered))
    response = visitor.send("a", {"town": "x"})
    assert (found, response.status_code) == (["not before the commit"], 409)
    assert "Something else was stored at the same moment" in response.text
    assert visitor.open("b").location == "/a"
    engine.dispose()


# -- what is logged ---------------------------------------------------------------------------


def test_an_outage_is_logged_at_most_once_a_second_in_one_line(
    fresh_store: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    """On pages and on views without a guard alike; the next line tells how many were left out."""
    engine = sa.create_engine(fresh_store("sqlite"))
    app = app_on(engine)
    app.add_url_rule("/peek", "peek", lambda: app.extensions["fsm"].extension.current)
    visitor = Visitor(app)
    visitor.send("a", {"town": "Ghent"})
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")
        connection.exec_driver_sql("UPDATE sqlite_master SET sql = 'nonsense'")
    engine.dispose()
    start = time.monotonic()
    for _ in range(10):
        assert visitor.open("b").status_code == 503
        assert visitor.open("peek").status_code == 503
    if time.monotonic() - start < 1:
        assert len(caplog.records) == 1
    time.sleep(1.1)
    assert visitor.open("b").status_code == 503
    first, *_, last = [record.getMessage() for record in caplog.records]
    assert "\n" not in first
    assert "malformed" in first
    assert "more of these" in last
    assert caplog.records[0].exc_info is None
    engine.dispose()


def test_two_causes_are_both_logged(fresh_store: Fresh, caplog: pytest.LogCaptureFixture) -> None:
    """The one that repeats does not hide the other."""
    with Valkey() as server, redis.Redis(LOOPBACK, server.port) as client:
        visitor = Visitor(app_on(server.url))
        visitor.send("a", {"town": "Ghent"})
        token = visitor.token("b")
        client.config_set("maxmemory", 1)
        for _ in range(3):
            visitor.post("b", {"town": ANSWER}, token)
        client.config_set("maxmemory", 0)
        client.execute_command("REPLICAOF", LOOPBACK, 1)
        for _ in range(3):
            visitor.post("b", {"town": ANSWER}, token)
    logged = set(caplog.text.replace(":", " ").split())
    assert {"redis.OutOfMemoryError", "redis.ReadOnlyError"} <= logged


@pytest.mark.parametrize("error", ["constraint", "trigger", "type"])
def test_a_refusal_that_quotes_the_row_reaches_no_log(
    fresh_store: Fresh,
    opened: Callable[[str], Any],
    error: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A CHECK of a DBA's, a trigger, a column of another type: PostgreSQL quotes all values."""
    url = fresh_store("postgres")
    visitor = Visitor(app_on(opened(url)))
    assert visitor.send("a", {"town": "Ghent"}).location == "/b"
    command = {
        "constraint": f"ALTER TABLE fsm_flow ADD CHECK (record NOT LIKE '%%{ANSWER[:8]}%%')",
        "trigger": "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'bad row %', NEW; END $$; "
        "CREATE TRIGGER t BEFORE UPDATE ON fsm_flow FOR EACH ROW EXECUTE FUNCTION no()",
        "type": "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM NEW.record::int; RETURN NEW; END $$; "
        "CREATE TRIGGER t BEFORE UPDATE ON fsm_flow FOR EACH ROW EXECUTE FUNCTION no()",
    }[error]
    admin = sa.create_engine(url)
    with admin.begin() as connection:
        connection.connection.cursor().execute(command.replace("%%", "%"))
    admin.dispose()
    assert visitor.send("b", {"town": ANSWER}).status_code == 500
    assert_private(caplog)
    assert "SQLSTATE" in caplog.text


def test_a_refusal_of_sqlite_that_quotes_the_row_reaches_no_log(
    fresh_store: Fresh, opened: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A CHECK on the table: SQLAlchemy would add the parameters of the statement."""
    url = fresh_store("sqlite")
    visitor = Visitor(app_on(opened(url)))
    admin = sa.create_engine(url)
    with admin.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER t BEFORE INSERT ON fsm_flow BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    admin.dispose()
    assert visitor.send("a", {"town": ANSWER}).status_code == 500
    assert ANSWER not in caplog.text
    assert SUBJECT not in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        {"$": ["date", ANSWER]},
        {"$": ["uuid", ANSWER]},
        {"$": ["decimal", ANSWER]},
        {"$": ["timedelta", ANSWER]},
        {"$": [ANSWER, "x"]},
        {"$": ANSWER},
        {"$": ["date", [ANSWER]]},
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_damaged_answer_reaches_no_log(
    fresh_store: Fresh, kind: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The record can't be read, which the log says without what is in it."""
    url = fresh_store(kind)
    app = app_on(url)
    visitor = Visitor(app)
    assert visitor.send("a", {"town": "Ghent"}).location == "/b"
    damage = json.dumps(value)
    if kind == "sqlite":
        with app.extensions["fsm"].store.records.engine.begin() as connection:
            command = "UPDATE fsm_flow SET record = replace(record, '\"Ghent\"', ?)"
            connection.exec_driver_sql(command, (damage,))
    else:
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            [key] = client.keys("*:flow:*")
            text = client.hget(key, "text")
            client.hset(key, "text", text.replace(b'"Ghent"', damage.encode()))
    assert visitor.open("b").status_code == 303
    assert_private(caplog)


@pytest.mark.parametrize("full", ["in the step", "in the app's row"])
def test_a_full_database_in_a_transaction_is_503_with_the_form(
    fresh_store: Fresh, full: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the step finds out or the commit of the app's row; neither is kept."""
    engine = sa.create_engine(fresh_store("sqlite"))

    class Base(orm.DeclarativeBase):
        pass

    class Letter(Base):
        __tablename__ = "letter"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        text: orm.Mapped[str]

    Base.metadata.create_all(engine)
    big = ANSWER + noise(BIG)

    def ordered(fsm: Any) -> Any:
        with orm.Session(engine) as session, fsm.transaction(session):
            answer = fsm.advance("b", data={"town": big if full == "in the step" else ANSWER})
            session.add(Letter(text=ANSWER if full == "in the step" else big))
        return answer

    app = app_on(engine, ordered=ordered)
    visitor = Visitor(app)
    token = visitor.token("a")

    @sa.event.listens_for(engine, "checkout")
    def limit(connection: Any, *_: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + extra}")

    extra = 0
    assert_busy(visitor.post("a", {"town": ANSWER}, token))
    assert_private(caplog)
    extra = 1_000
    assert visitor.post("a", {"town": ANSWER}, token).location == "/b"
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM letter").scalar() == 1
    engine.dispose()


def test_a_refusal_in_a_transaction_that_quotes_the_row_reaches_no_log(
    fresh_store: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    """The step's statement runs in the app's session, on the app's engine."""
    engine = sa.create_engine(fresh_store("postgres"))

    def ordered(fsm: Any) -> Any:
        with orm.Session(engine) as session, fsm.transaction(session):
            return fsm.advance("b", data={"town": ANSWER})

    visitor = Visitor(app_on(engine, ordered=ordered))
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE fsm_flow ADD CHECK (record = '')")
    assert visitor.send("a", {"town": ANSWER}).status_code == 500
    assert ANSWER not in caplog.text
    assert SUBJECT not in caplog.text
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_every_kind_of_write_is_503_on_a_server_that_only_reads(
    fresh_store: Fresh, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first step of a run, a later one, a lease, a reset, a login, a flow of several."""
    with contextlib.ExitStack() as stack:
        if kind == "redis":
            server = stack.enter_context(Valkey())
            url = writable = server.url
        elif kind == "postgres":
            writable = fresh_store(kind)
            url = writable + "?options=-c%20default_transaction_read_only%3Don"
        else:
            writable = fresh_store(kind)
            path = writable.removeprefix("sqlite:///")
            url = f"sqlite:///file:{path}?mode=ro&uri=true"
        user: list[str] = []

        def app_of(store: str, *, init: bool) -> Flask:
            engine: Any = store
            if "mode=ro" in store:  # our own engine would switch it to write-ahead logging
                engine = sa.create_engine(store)
                stack.callback(engine.dispose)
            app = flask_app({"SECRET_KEY": SECRET * 2})
            fsm = FlaskFSM(app, Machine("m", [Transition("a", "b"), ("b", "c")]), store=engine)
            fsm.subject(lambda: user[0] if user else None)
            leased = fsm.add(Machine("leased", [Transition("p", "q", once=True)]))
            several = fsm.add(Machine("several", [("x", "y")], many=True))

            def view(views: Any, to: str | None) -> Callable[[], Any]:
                def page() -> Any:
                    if request.method != "POST":
                        return show("page", views)
                    if request.form.get("reset"):
                        views.reset()
                        return "reset"
                    return views.advance(to, data={"town": request.form.get("town")})

                return page

            for views, pages in ((fsm, "abc"), (leased, "pq"), (several, "xy")):
                for page, to in zip(pages, [*pages[1:], None], strict=True):
                    guard = views.check()(view(views, to))
                    methods = ["GET", "POST"] if to else ["GET"]
                    app.add_url_rule(f"/{page}", page, guard, methods=methods)
            if init:
                with app.app_context():
                    fsm.init_db()
            return app

        before = Visitor(app_of(writable, init=True))
        assert before.send("a", {"town": "Ghent"}).location == "/b"
        if kind == "redis":
            with redis.Redis(LOOPBACK, server.port) as client:
                client.execute_command("REPLICAOF", LOOPBACK, 1)
        app = app_of(url, init=False)
        answers = {}
        fresh = Visitor(app)
        answers["first"] = fresh.send("a", {"town": ANSWER})
        known = Visitor(app)
        known.cookie = before.cookie
        answers["later"] = known.send("b", {"town": ANSWER})
        answers["reset"] = known.post("b", {"reset": "1", "town": ANSWER}, known.token("b"))
        answers["lease"] = fresh.send("p", {"town": ANSWER})
        page = fresh.open("x", follow_redirects=True)
        token = token_in(page.text)
        answers["several"] = fresh.post(page.request.full_path[1:], {"town": ANSWER}, token)
        assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
            answers, 503
        )
        for answer in answers.values():
            assert_busy(answer)
        user.append(SUBJECT)
        assert known.open("b").status_code == 503
        assert_private(caplog)
