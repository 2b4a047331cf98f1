"""The tables in a database, and the statements on them, built once for each store."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from ...core.history import Entry
from ...errors import ConfigError
from ..base import Version
from ..records.model import Address, Record

__all__ = [
    "RECORD",
    "SKIPS_DUPLICATES",
    "Statements",
    "address_values",
    "record_values",
    "tables",
    "update_values",
    "version_values",
]

HASH: Final = sa.String(64)
SKIPS_DUPLICATES: Final = ("postgresql", "sqlite")
"""Databases on which the insertion of a record that is there does nothing."""
NAME: Final = sa.String(255)
# The columns of a Record, in its order.
RECORD: Final = (
    "flow", "rev", "state", "record", "sealed", "started", "updated", "finished"
)  # fmt: skip


def tables(flow: str, history: str, metadata: sa.MetaData | None = None) -> sa.MetaData:
    """Return the metadata with both tables, as Alembic needs it.

    Args:
        flow: FSM_FLOW_TABLE, the name of the table of records.
        history: FSM_HISTORY_TABLE, the name of the table of history rows.
        metadata: The metadata to add them to; None for a new one.

    Raises:
        ConfigError: Both have one name.
    """
    if flow == history:
        raise ConfigError(f"FSM_FLOW_TABLE and FSM_HISTORY_TABLE are both {flow!r}: use two names.")
    metadata = sa.MetaData() if metadata is None else metadata
    sa.Table(
        flow,
        metadata,
        sa.Column("owner", HASH, primary_key=True),
        sa.Column("machine", NAME, primary_key=True),
        sa.Column("slot", NAME, primary_key=True),
        sa.Column("flow", HASH, nullable=False),
        sa.Column("rev", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("sealed", sa.String(128), nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
        sa.Column("claim", sa.String(64), nullable=False),
        sa.Column("claimed_until", sa.BigInteger, nullable=False),
    )
    sa.Table(
        history,
        metadata,
        sa.Column("flow", HASH, primary_key=True),
        sa.Column("rev", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("machine", NAME, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("event", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("stayed", sa.BigInteger),
        sa.Column("nonce", sa.String(64)),
        sa.Column("digest", sa.String(64)),
        sa.Column("location", sa.Text),
        sqlite_with_rowid=False,
    )
    return metadata


class Statements:
    """The statements of a store, built once, so that SQLAlchemy compiles each of them once."""

    def __init__(self, flow_table: sa.Table, history_table: sa.Table) -> None:
        flow, history, param = flow_table.c, history_table.c, sa.bindparam
        self._flow = flow_table
        self._inserts: dict[str, Any] = {}
        owned = sa.and_(flow.owner == param("at_owner"), flow.machine == param("at_machine"))
        here = sa.and_(owned, flow.slot == param("at_slot"))
        version = sa.and_(
            here, flow.flow == param("version_flow"), flow.rev == param("version_rev")
        )
        # A lease that ends later than is possible was made while a clock was wrong.
        free = sa.or_(
            flow.claimed_until < param("now"),
            flow.claimed_until > param("horizon"),
            flow.claim == param("lease"),
        )
        columns = [flow[name] for name in RECORD]
        self.read: Any = sa.select(*columns).where(here)
        self.listed: Any = (
            sa.select(flow.slot, *columns).where(owned).order_by(flow.updated.desc(), flow.slot)
        )
        written: dict[str, Any] = {
            name: param(name) for name in (*RECORD, "claim", "claimed_until")
        }
        # Compare and swap: no row is updated unless version and lease are as expected.
        self.update: sa.Update = sa.update(flow_table).where(version, free).values(written)
        self.acquire_lease: sa.Update = (
            sa.update(flow_table)
            .where(version, free)
            .values(claim=param("lease"), claimed_until=param("until"))
        )
        self.release_lease: sa.Update = (
            sa.update(flow_table)
            .where(version, flow.claim == param("lease"))
            .values(claim="", claimed_until=0)
        )
        self.append: sa.Insert = sa.insert(history_table)
        won = self.update.returning(sa.literal_column("1").label("one")).cte("won")
        row = [param(f"row_{column.name}", type_=column.type) for column in history]
        # Compare and swap, and the row of history, in one statement.
        self.move: sa.Insert = (
            sa.insert(history_table)
            .from_select([column.name for column in history], sa.select(*row).select_from(won))
            .execution_options(preserve_rowcount=True)
        )
        self.history: Any = (
            sa.select(*(history[name] for name in Entry._fields))
            .where(history.flow == param("flow"), history.rev <= param("rev"))
            .order_by(history.rev.desc(), history.n.desc())
        )
        last = history_table.alias().c
        state = (
            sa.select(last.target)
            .where(last.flow == history.flow, last.rev == history.rev)
            .order_by(last.n.desc())
            .limit(1)
            .scalar_subquery()
        )
        self.stored_reply: sa.Select[Any, Any] = (
            sa.select(history.digest, history.location, history.rev, state)
            .where(
                history.flow == param("flow"),
                history.rev > param("rev"),
                history.rev <= param("last"),
                history.nonce == param("nonce"),
            )
            .order_by(history.rev.desc())
            .limit(1)
        )

    def insert(self, dialect: str) -> Any:
        """Return the statement that inserts a record unless its address is taken.

        That is an IntegrityError, except on databases in SKIPS_DUPLICATES.
        """
        if dialect not in self._inserts:
            insert: Any
            # A failed INSERT would end the caller's transaction on PostgreSQL.
            if dialect == "postgresql":
                from sqlalchemy.dialects.postgresql import insert as insert_there

                insert = insert_there(self._flow).on_conflict_do_nothing()
            elif dialect == "sqlite":
                from sqlalchemy.dialects.sqlite import insert as insert_here

                insert = insert_here(self._flow).on_conflict_do_nothing()
            else:
                insert = sa.insert(self._flow)
            self._inserts[dialect] = insert.execution_options(preserve_rowcount=True)
        return self._inserts[dialect]


def address_values(address: Address) -> dict[str, str]:
    """Return the parameters by which statements name an address."""
    owner, machine, key = address
    return {"at_owner": owner, "at_machine": machine, "at_slot": key}


def record_values(record: Record) -> dict[str, Any]:
    """Return the columns of a record without a lease."""
    return {**dict(zip(RECORD, record, strict=True)), "claim": "", "claimed_until": 0}


def update_values(
    address: Address, version: Version, record: Record, lease: str, now: int, horizon: int
) -> dict[str, Any]:
    """Return the parameters of the statement that replaces a version by a record."""
    owner, machine, key = address
    flow, rev = version
    return {
        **dict(zip(RECORD, record, strict=True)),
        "claim": "",
        "claimed_until": 0,
        "at_owner": owner,
        "at_machine": machine,
        "at_slot": key,
        "version_flow": flow,
        "version_rev": rev,
        "now": now,
        "horizon": horizon,
        "lease": lease,
    }


def version_values(version: Version) -> dict[str, Any]:
    """Return the parameters by which statements compare a version."""
    return {"version_flow": version.flow, "version_rev": version.rev}
