"""The shop's database: orders and members, in an SQLite file that all workers share.

Every row has a unique key, so storing it twice has no effect.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from flask import current_app

TABLES = (
    "CREATE TABLE IF NOT EXISTS orders (flow TEXT PRIMARY KEY, answers TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS members (email TEXT PRIMARY KEY, answers TEXT NOT NULL)",
)


class Ledger:
    """Orders, keyed by the id of their flow, and members, keyed by email address."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def place(self, flow: str, answers: Mapping[str, Any]) -> None:
        """Store the order of a flow, unless it is stored already."""
        with self._open() as database:
            database.execute(
                "INSERT INTO orders VALUES (?, ?) ON CONFLICT DO NOTHING", (flow, _text(answers))
            )

    def orders(self) -> list[dict[str, Any]]:
        """Return the answers of each order, oldest first."""
        with self._open() as database:
            rows = database.execute("SELECT answers FROM orders ORDER BY rowid").fetchall()
        return [json.loads(answers) for (answers,) in rows]

    def join(self, email: str, answers: Mapping[str, Any]) -> None:
        """Store a member, unless there is one with this address already."""
        with self._open() as database:
            database.execute(
                "INSERT INTO members VALUES (?, ?) ON CONFLICT DO NOTHING",
                (email.casefold(), _text(answers)),
            )

    def has_member(self, email: str) -> bool:
        """Return whether there is a member with this address, ignoring case."""
        with self._open() as database:
            found = database.execute("SELECT 1 FROM members WHERE email = ?", (email.casefold(),))
            return found.fetchone() is not None

    def members(self) -> list[dict[str, Any]]:
        """Return the answers of each member, oldest first."""
        with self._open() as database:
            rows = database.execute("SELECT answers FROM members ORDER BY rowid").fetchall()
        return [json.loads(answers) for (answers,) in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one operation; commit it at the end, or roll back if it fails."""
        with closing(sqlite3.connect(self.path)) as database, database:
            for table in TABLES:
                database.execute(table)
            yield database


def _text(answers: Mapping[str, Any]) -> str:
    return json.dumps(dict(answers), default=str)  # dates as 2026-05-20


def ledger() -> Ledger:
    """Return the ledger of the app that serves this request."""
    found: Ledger = current_app.extensions["example_ledger"]
    return found
