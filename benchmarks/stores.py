"""What the server-side stores cost: `python -m benchmarks.stores [--quick]` prints Markdown tables.

The servers are real ones, started for this run. Only POSTs are timed, and what is compared is
timed in turn, in one process. The floors are in `byhand.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import resource
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import redis
import sqlalchemy as sa
from flask import Flask

from flask_fsm import FlaskFSM, Machine
from flask_fsm.pages.decisions import page_requests
from tests.store_servers import Postgres, PostgresDatabases, RedisDatabases, Valkey

from . import byhand
from .byhand import ByCore, ByDriver, ByLua, app_on
from .measure import ratio, table
from .post import ENTRIES, Post, Visitor, batches, flask_step, guarded_app

VISITORS = 10
# One after another, unlike in `post.py`: a disk has its moods, and those who are compared must
# share them. What brings a flow to its entries keeps the caches warm.
BATCH = 1
CHUNK = 1_000
PAGES = [f"page{number}" for number in range(10)]

Server = Callable[[], str]
"""Returns the URL of a new and empty database of a server."""


def servers(stack: ExitStack) -> dict[str, Server]:
    """Start one server of each kind, as durable as it is by default."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    numbers = itertools.count()
    postgres = stack.enter_context(Postgres(durable=True, shared_buffers="128MB"))
    schemata = PostgresDatabases(postgres.url)
    databases = RedisDatabases(stack.enter_context(Valkey()).url)
    return {
        "SQLite": lambda: grown(folder / f"{next(numbers)}.db", stack),
        "PostgreSQL": schemata.fresh,
        "Valkey": databases.fresh,
    }


def grown(path: Path, stack: ExitStack) -> str:
    """Make a SQLite file whose log has its size, and return its URL.

    While the log grows, each fsync takes several times as long, whoever has written.
    """
    connection = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE ballast (bytes)")
    connection.execute("INSERT INTO ballast VALUES (zeroblob(8000000))")
    connection.execute("DROP TABLE ballast")
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    return f"sqlite:///{path}"  # the log stays while a connection is open


def guarded_on(url: str, options: Mapping[str, Any] | None = None, **config: Any) -> Flask:
    """The two guarded pages on a store, whose tables are made."""
    app = guarded_app(options, FSM_STORE_URL=url, **config)
    with app.app_context():
        app.extensions["fsm"].extension.init_db()
    return app


# -- a POST against the same one written by hand --------------------------------------------------


def floors(fresh: Server) -> dict[str, Flask]:
    """The two pages written by hand on a server, the barest first."""
    url, other = fresh(), fresh()
    if not url.startswith(("sqlite", "postgresql")):
        return {"redis-py": app_on(ByLua(url))}
    for each in (url, other):
        engine = sa.create_engine(each)
        byhand.metadata.create_all(engine)
        engine.dispose()
    driver = "sqlite3" if url.startswith("sqlite") else "psycopg"
    return {driver: app_on(ByDriver(url)), "SQLAlchemy Core": app_on(ByCore(other))}


def posts(opened: Mapping[str, Server], rounds: int) -> str:
    """A guarded POST on each store, and the same view written by hand on the same server.

    Each has a database of its own, so that none has to read again what another one wrote.
    """
    rows = []
    for server, fresh in opened.items():
        hands = {f"by hand, {name}": app for name, app in floors(fresh).items()}
        apps = {
            **hands,
            "guarded": guarded_on(fresh()),
            "guarded, `once=True`": guarded_on(fresh(), {"once": True}),
        }
        subjects: dict[str, Callable[[], Post]] = {
            name: partial(flask_step, app, ENTRIES) for name, app in apps.items()
        }
        batches(subjects, 3, BATCH)  # warm up
        times = batches(subjects, rounds, BATCH)
        for name, took in times.items():
            ratios = [f"{ratio(took, times[floor]):.2f} x" for floor in hands]
            ratios += [""] * (2 - len(ratios))
            rows.append((f"{server}: {name}", f"{median(took) * 1e6:.0f}", *ratios))
    return table(
        (
            f"one POST, {ENTRIES} entries of history",
            "µs",
            "by hand on the driver = 1",
            "by hand on SQLAlchemy Core = 1",
        ),
        rows,
    )


# -- flat costs -----------------------------------------------------------------------------------


def in_turn(
    subjects: Mapping[str, Callable[[], list[float]]], rounds: int
) -> dict[str, list[float]]:
    """Let every subject make some POSTs in each round; return the medians of the rounds."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, run in subjects.items():
            took = median(run())
            if number:  # the first round warms up
                times[name].append(took)
    return times


def growth(head: str, times: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return a table of the sizes, and of what each store takes against the smallest."""

    def cell(took: Mapping[str, list[float]], size: str) -> str:
        smallest = next(iter(took.values()))
        return f"{median(took[size]) * 1e6:.0f} ({ratio(took[size], smallest):.2f} x)"

    sizes = next(iter(times.values()))
    return table(
        (head, *(f"{server}, µs" for server in times)),
        [(size, *(cell(took, size) for took in times.values())) for size in sizes],
    )


def grow(steps: int) -> str:
    """A view that makes many steps in one commit, as `fast_forward()` would."""
    run = page_requests().of["pages"].work

    def decide(flow: Any) -> list[Any]:
        results = []
        for _ in range(steps):
            results.append(flow.step("a" if flow.current == "b" else "b"))
            flow.apply(results[-1])
        return results

    run.commit(decide)
    return ""


def length_of_history(opened: Mapping[str, Server], sizes: list[int], rounds: int) -> str:
    """A POST of a flow that has made so many steps before."""

    def grown(app: Flask, size: int) -> Visitor:
        visitor = Visitor(app)
        for _ in range(min(size, ENTRIES)):
            visitor.step()
        for left in range(size - ENTRIES, 0, -CHUNK):
            _, status, _ = visitor.client.request("GET", f"/grow/{min(left, CHUNK)}", {})
            assert status.startswith("200"), status
        visitor.steps = size
        return visitor

    times = {}
    for server, fresh in opened.items():
        app = guarded_on(fresh(), FSM_HISTORY_LIMIT=None)
        fsm = app.extensions["fsm"].extension
        app.add_url_rule("/grow/<int:steps>", "grow", fsm.requires("a")(grow))

        def fresh_steps(app: Flask = app) -> list[float]:
            visitor = grown(app, ENTRIES)
            return [visitor.step() for _ in range(VISITORS)]

        def more_steps(visitor: Visitor) -> list[float]:
            return [visitor.step() for _ in range(VISITORS)]

        subjects: dict[str, Callable[[], list[float]]] = {f"{ENTRIES:,}": fresh_steps}
        for size in sizes:
            subjects[f"{size:,}"] = partial(more_steps, grown(app, size))
        times[server] = in_turn(subjects, rounds)
    return growth("entries of history", times)


def number_of_flows(opened: Mapping[str, Server], sizes: list[int], rounds: int) -> str:
    """A POST of one of ten visitors, when the store has so many flows."""

    def visited(url: str, size: int) -> Callable[[], list[float]]:
        app = guarded_on(url)
        visitors = [Visitor(app) for _ in range(VISITORS)]
        for visitor in visitors:
            visitor.step()
        fill(url, app, size)
        return lambda: [visitor.step() for visitor in visitors]

    times = {}
    for server, fresh in opened.items():
        times[server] = in_turn(
            {f"{size:,}": visited(fresh(), size) for size in [VISITORS, *sizes]}, rounds
        )
    return growth("flows in the store", times)


def fill(url: str, app: Flask, size: int) -> None:
    """Copy what is in the store under other names, until it has so many flows."""
    if url.startswith(("sqlite", "postgresql")):
        with app.app_context():
            fill_tables(url, app.extensions["fsm"].extension.metadata, size)
    else:
        fill_keys(url, size)


def fill_tables(url: str, metadata: sa.MetaData, size: int) -> None:
    flows, history = metadata.tables["fsm_flow"], metadata.tables["fsm_history"]
    engine = sa.create_engine(url)
    sqlite = engine.dialect.name == "sqlite"
    name = "lower(hex(randomblob(32)))" if sqlite else "md5(random()::text) || md5(random()::text)"
    count = VISITORS
    with engine.begin() as connection:
        while count < size:
            more = min(count, size - count)
            copied = [
                sa.literal_column(name) if column.name in ("owner", "flow") else column
                for column in flows.c
            ]
            connection.execute(
                sa.insert(flows).from_select(list(flows.c.keys()), sa.select(*copied).limit(more))
            )
            count += more
        one = sa.select(history).limit(1).subquery()
        copied = [flows.c.flow if column.name == "flow" else column for column in one.c]
        connection.execute(
            sa.insert(history).from_select(
                list(history.c.keys()),
                sa.select(*copied)
                .select_from(flows.join(one, sa.true()))
                .where(flows.c.flow.not_in(sa.select(history.c.flow))),
            )
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # What such a server does by itself in time.
        for statement in (
            ["PRAGMA wal_checkpoint(TRUNCATE)"] if sqlite else ["VACUUM (ANALYZE)", "CHECKPOINT"]
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()


COPY_KEYS = """
    local texts = {}
    for i, key in ipairs(KEYS) do
        texts[i] = {redis.call('DUMP', key), math.max(redis.call('PTTL', key), 0)}
    end
    for number = 1, tonumber(ARGV[1]) do
        local name = redis.sha1hex(ARGV[3] .. number)
        name = name .. string.sub(redis.sha1hex(name), 1, 24)
        for i, key in ipairs(KEYS) do
            redis.call('RESTORE', string.gsub(key, ARGV[2], name), texts[i][2], texts[i][1])
        end
    end
"""


def fill_keys(url: str, size: int) -> None:
    client = redis.Redis.from_url(url)
    tagged: dict[bytes, list[bytes]] = {}
    for key in client.scan_iter(count=CHUNK):
        found = re.search(rb"\{([0-9a-f]{64})\}", key)
        if found:
            tagged.setdefault(found[1], []).append(key)
    tag, keys = max(tagged.items(), key=lambda item: len(item[1]))
    for left in range(size - VISITORS, 0, -CHUNK):
        arguments = (min(left, CHUNK), tag, secrets.token_hex())
        client.eval(COPY_KEYS, len(keys), *keys, *arguments)
    client.close()


# -- the funnel -----------------------------------------------------------------------------------


def funnel_app(url: str) -> tuple[Flask, FlaskFSM]:
    app = Flask("funnel")
    app.config.update(SECRET_KEY="benchmark", FSM_STORE_URL=url)
    fsm = FlaskFSM(Machine("wizard", list(itertools.pairwise(PAGES))))
    fsm.init_app(app)
    for name in PAGES:
        app.add_url_rule(f"/{name}", name, fsm.check()(lambda: ""), methods=["GET", "POST"])
    return app, fsm


def runs(count: int) -> Iterator[dict[str, Any]]:
    """Make rows of history: of runs that end somewhere on the way."""
    chance = random.Random(1)
    made = 0
    while True:
        flow = f"{chance.getrandbits(256):064x}"
        at = 1_750_000_000 + made
        for number in range(chance.randrange(1, len(PAGES))):
            if made == count:
                return
            stayed = int(chance.lognormvariate(3, 1))
            at += stayed
            made += 1
            yield {
                "flow": flow,
                "rev": number + 1,
                "n": 0,
                "machine": "wizard",
                "source": PAGES[number],
                "target": PAGES[number + 1],
                "at": at,
                "stayed": stayed,
                "nonce": f"{chance.getrandbits(96):024x}",
                "digest": "YWJjZGVmZ2hpamts",
                "location": f"/{PAGES[number + 1]}",
            }


def funnel(url: str, count: int) -> str:
    """The funnel of so many rows of history, in a fresh process."""
    app, fsm = funnel_app(url)
    with app.app_context():
        fsm.init_db()
        history = fsm.metadata.tables["fsm_history"]
    engine = sa.create_engine(url)
    rows = runs(count)
    with engine.begin() as connection:
        while chunk := list(itertools.islice(rows, 10_000)):
            connection.execute(sa.insert(history), chunk)
    engine.dispose()
    command = [sys.executable, "-m", "benchmarks.stores", "--funnel-of", url]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return table(
        (
            "`flask fsm funnel` on SQLite",
            "seconds",
            "of them computing",
            "peak memory, MB",
            "before it, MB",
        ),
        [
            (
                f"{count:,} rows of history",
                f"{told['seconds']:.2f}",
                f"{told['computing']:.2f}",
                f"{told['peak'] / 1024:.0f}",
                f"{told['before'] / 1024:.0f}",
            )
        ],
    )


def peak() -> int:
    """Return the most memory that this process has taken, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent took before this one was started
        found = re.search(r"VmHWM:\s*(\d+)", status.read_text())
        if found:
            return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tell_funnel(url: str) -> None:
    """Print what the funnel took, as JSON."""
    app, fsm = funnel_app(url)
    with app.app_context():
        before = peak()
        start, used = time.perf_counter(), time.process_time()
        fsm.funnel()
        told = {
            "seconds": time.perf_counter() - start,
            "computing": time.process_time() - used,
            "before": before,
            "peak": peak(),
        }
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    parser.add_argument("--only", choices=("post", "history", "flows", "funnel"), help="one table")
    parser.add_argument("--funnel-of", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.funnel_of:
        tell_funnel(options.funnel_of)
        return
    quick = options.quick
    entries = [10_000] if quick else [1_000, 100_000]
    flows = [20_000] if quick else [1_000, 1_000_000]
    rounds = 5 if quick else 25
    with ExitStack() as stack:
        opened = servers(stack)
        parts: dict[str, Callable[[], str]] = {
            "post": lambda: posts(opened, 30 if quick else 250),
            "history": lambda: length_of_history(opened, entries, rounds),
            "flows": lambda: number_of_flows(opened, flows, rounds),
            "funnel": lambda: funnel(opened["SQLite"](), 50_000 if quick else 1_000_000),
        }
        tables = [make() for name, make in parts.items() if options.only in (None, name)]
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
