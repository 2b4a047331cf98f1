"""The same two pages as `post.guarded_app`, written by hand on a server: the floors of `stores.py`.

Each does the least that one app needs: read the flow, write it if its rev is still the one read,
and add a line to its history. None has a token, a guard, a path, an expiry, or an answer for a
form that comes twice.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from typing import Any, Protocol

import psycopg
import redis
import sqlalchemy as sa
from flask import Flask, abort, redirect, request, session, url_for

__all__ = ["ByCore", "ByDriver", "ByLua", "Shelf", "app_on"]

WAYS = {"a": "b", "b": "a"}

metadata = sa.MetaData()
flows = sa.Table(
    "hand_flow",
    metadata,
    sa.Column("id", sa.String(22), primary_key=True),
    sa.Column("rev", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("answers", sa.Text, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
)
history = sa.Table(
    "hand_history",
    metadata,
    sa.Column("flow", sa.String(22), primary_key=True),
    sa.Column("rev", sa.Integer, primary_key=True),
    sa.Column("source", sa.String(20), nullable=False),
    sa.Column("target", sa.String(20), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)


class Shelf(Protocol):
    """Where an app written by hand keeps its flows."""

    def add(self, id: str) -> None:
        """Begin a flow at page `a`."""
        ...

    def move(self, id: str, source: str, target: str, name: str) -> bool:
        """Move the flow on and keep the answer; say no if it is elsewhere, or if a race is lost."""
        ...


def answered(answers: str, page: str, name: str) -> str:
    """Put the answer of a page to those of the others."""
    return json.dumps({**json.loads(answers), page: {"name": name}})


def set_pragmas(connection: Any, *_: Any) -> None:
    """Make SQLite as durable as the store does."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.close()


class ByDriver:
    """Statements in SQL, on one connection of the driver alone (sqlite3 or psycopg), prepared."""

    READ = "SELECT state, rev, answers FROM hand_flow WHERE id = ?"
    SWAP = (
        "UPDATE hand_flow SET rev = ?, state = ?, answers = ?, updated = ? WHERE id = ? AND rev = ?"
    )
    NOTE = "INSERT INTO hand_history (flow, rev, source, target, at) VALUES (?, ?, ?, ?, ?)"
    ADD = "INSERT INTO hand_flow (id, rev, state, answers, updated) VALUES (?, 0, 'a', '{}', ?)"

    def __init__(self, url: str) -> None:
        parts = sa.make_url(url)
        self.begin = "BEGIN"
        self.options: dict[str, Any] = {}
        connection: Any
        if parts.get_backend_name() == "sqlite":
            assert parts.database is not None
            connection = sqlite3.connect(
                parts.database, isolation_level=None, check_same_thread=False
            )
            set_pragmas(connection)
            self.begin = "BEGIN IMMEDIATE"
        else:
            bare = parts.set(drivername="postgresql").render_as_string(hide_password=False)
            connection = psycopg.connect(bare, autocommit=True)
            self.options["prepare"] = True
            for name in ("READ", "SWAP", "NOTE", "ADD"):
                setattr(self, name, getattr(self, name).replace("?", "%s"))
        self.connection = connection
        self.cursor = connection.cursor()

    def add(self, id: str) -> None:
        self.cursor.execute(self.ADD, (id, int(time.time())))

    def move(self, id: str, source: str, target: str, name: str) -> bool:
        cursor, options = self.cursor, self.options
        row = cursor.execute(self.READ, (id,), **options).fetchone()
        if row is None or row[0] != source:
            return False
        _, rev, answers = row
        now = int(time.time())
        answers = answered(answers, source, name)
        cursor.execute(self.begin)
        try:
            cursor.execute(self.SWAP, (rev + 1, target, answers, now, id, rev), **options)
            won: bool = cursor.rowcount == 1
            if won:
                cursor.execute(self.NOTE, (id, rev + 1, source, target, now), **options)
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")
        return won


class ByCore:
    """The same statements in SQLAlchemy Core, on a connection of its pool."""

    READ = sa.select(flows.c.state, flows.c.rev, flows.c.answers).where(
        flows.c.id == sa.bindparam("flow")
    )
    SWAP = (
        sa.update(flows)
        .where(flows.c.id == sa.bindparam("flow"), flows.c.rev == sa.bindparam("was"))
        .values(
            rev=sa.bindparam("rev"),
            state=sa.bindparam("state"),
            answers=sa.bindparam("answers"),
            updated=sa.bindparam("updated"),
        )
    )
    NOTE = sa.insert(history)
    ADD = sa.insert(flows)

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", set_pragmas)

    def add(self, id: str) -> None:
        values = {"id": id, "rev": 0, "state": "a", "answers": "{}", "updated": int(time.time())}
        with self.engine.begin() as connection:
            connection.execute(self.ADD, values)

    def move(self, id: str, source: str, target: str, name: str) -> bool:
        with self.engine.begin() as connection:
            row = connection.execute(self.READ, {"flow": id}).one_or_none()
            if row is None or row[0] != source:
                return False
            _, rev, answers = row
            now = int(time.time())
            swap = {
                "flow": id,
                "was": rev,
                "rev": rev + 1,
                "state": target,
                "answers": answered(answers, source, name),
                "updated": now,
            }
            if connection.execute(self.SWAP, swap).rowcount != 1:
                return False
            note = {"flow": id, "rev": rev + 1, "source": source, "target": target, "at": now}
            connection.execute(self.NOTE, note)
            return True


class ByLua:
    """A hash for each flow and a stream for its history: one HMGET, and one call of a script."""

    SWAP = """
        if redis.call('HGET', KEYS[1], 'rev') ~= ARGV[1] then return 0 end
        redis.call('HSET', KEYS[1], 'rev', ARGV[2], 'state', ARGV[4], 'answers', ARGV[5],
                   'updated', ARGV[6])
        redis.call('XADD', KEYS[2], '*', 'rev', ARGV[2], 'source', ARGV[3], 'target', ARGV[4],
                   'at', ARGV[6])
        return 1
    """

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.sha = self.client.script_load(self.SWAP)

    def add(self, id: str) -> None:
        values = {"rev": 0, "state": "a", "answers": "{}", "updated": int(time.time())}
        self.client.hset(f"hand:{{{id}}}", mapping=values)

    def move(self, id: str, source: str, target: str, name: str) -> bool:
        key = f"hand:{{{id}}}"
        state, rev, answers = self.client.hmget(key, "state", "rev", "answers")
        if state is None or state.decode() != source:
            return False
        values = (
            rev,
            int(rev) + 1,
            source,
            target,
            answered(answers, source, name),
            int(time.time()),
        )
        return self.client.evalsha(self.sha, 2, key, key + ":history", *values) == 1


def app_on(shelf: Shelf) -> Flask:
    """The two pages: the id of the flow is in Flask's session, all else on the shelf."""
    app = Flask("handwritten")
    app.config["SECRET_KEY"] = "benchmark"

    def page() -> Any:
        here = str(request.endpoint)
        if request.method == "POST":
            there = WAYS[here]
            if not shelf.move(session["flow"], here, there, request.form["name"]):
                abort(409)
            return redirect(url_for(there), 303)
        if "flow" not in session:
            session["flow"] = secrets.token_urlsafe(16)
            shelf.add(session["flow"])
        return "<input>"

    for name in "ab":
        app.add_url_rule(f"/{name}", name, page, methods=["GET", "POST"])
    return app
