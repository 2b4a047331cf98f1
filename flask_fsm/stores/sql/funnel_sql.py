"""The SQL of the funnel: a few queries by which the database counts runs over their pages.

A way is an edge as it was taken: (source, target).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa

from ...reports.funnel import median_of

__all__ = ["count"]

Way = tuple[str, str]
BITS: Final = 62
"""How many ways one BIGINT has bits for."""
BATCH: Final = 10_000
COLUMNS: Final = 500
"""How many numbers one query returns: PostgreSQL allows 1,664 columns, SQLite 2,000."""


def ways(history: sa.Table, wanted: Sequence[Any]) -> sa.Select[Any]:
    """Return the query of the ways that were taken at all."""
    # DISTINCT and not GROUP BY, for which SQLite would sort all rows.
    return sa.select(history.c.source, history.c.target).where(*wanted).distinct()


def stays(history: sa.Table, wanted: Sequence[Any]) -> sa.Select[Any]:
    """Return the query of how often each page was stayed on for how long, shortest stay first."""
    c = history.c
    return (
        sa.select(c.source, c.stayed, sa.func.count())
        .where(*wanted, c.stayed.is_not(None))
        .group_by(c.source, c.stayed)
        .order_by(c.source, c.stayed)
    )


def way_bits(history: sa.Table, wanted: Sequence[Any], found: Sequence[Way]) -> sa.Subquery:
    """Return the query of which of the `found` ways each run took, and of its first rev.

    Each way has one bit. The primary key begins with the run, so the database needs neither a sort
    nor a temporary table.
    """
    c = history.c
    words = []
    for start in range(0, len(found), BITS):
        of_source: dict[str, dict[str, int]] = {}
        for index, (source, target) in enumerate(found[start : start + BITS]):
            of_source.setdefault(source, {})[target] = 1 << index
        bit = sa.case(
            *(
                (
                    c.source == source,
                    sa.case(*((c.target == target, bit) for target, bit in bits.items()), else_=0),
                )
                for source, bits in of_source.items()
            ),
            else_=0,
        )
        # Each bit once, so that the sum is all of them together.
        total = sa.func.sum(sa.distinct(sa.cast(bit, sa.BigInteger)))
        words.append(sa.cast(total, sa.BigInteger).label(f"word{start // BITS}"))
    first = sa.func.min(c.rev).label("first")
    return sa.select(*words, first).where(*wanted).group_by(c.flow).subquery()


def count(
    connection: sa.Connection, history: sa.Table, wanted: Sequence[Any], initial: str
) -> tuple[int, dict[str, int], dict[str, int], dict[Way, int], dict[str, float | None]]:
    """Count the runs; return what `arrange` takes: runs, reached, left, went, medians."""
    found: list[Way] = [(row[0], row[1]) for row in connection.execute(ways(history, wanted))]
    if not found:
        return 0, {}, {}, {}, {}
    per_run = way_bits(history, wanted, found)
    pages = list(dict.fromkeys([initial, *(page for way in found for page in way)]))

    def number(took: Sequence[Way], *others: Any) -> Any:
        """Return the count of the runs that took one of the ways."""
        masks: dict[int, int] = {}
        for way in took:
            word, bit = divmod(places[way], BITS)
            masks[word] = masks.get(word, 0) | 1 << bit
        any_of = [
            per_run.c[f"word{word}"].bitwise_and(sa.literal(mask, sa.BigInteger)) != 0
            for word, mask in masks.items()
        ]
        return sa.func.sum(sa.case((sa.or_(sa.false(), *any_of, *others), 1), else_=0))

    places = {way: index for index, way in enumerate(found)}
    begun = {initial: [per_run.c.first == 1]}
    columns = [
        sa.func.count(),
        *(number([way for way in found if page in way], *begun.get(page, ())) for page in pages),
        *(number([way for way in found if way[0] == page]) for page in pages),
        *(number([way]) for way in found),
    ]
    numbers: list[int] = []
    for start in range(0, len(columns), COLUMNS):
        some = [column.label(f"n{i}") for i, column in enumerate(columns[start : start + COLUMNS])]
        numbers += map(int, connection.execute(sa.select(*some).select_from(per_run)).one())
    runs, *rest = numbers
    reached = dict(zip(pages, rest, strict=False))
    left = dict(zip(pages, rest[len(pages) :], strict=False))
    went = dict(zip(found, rest[2 * len(pages) :], strict=True))
    lengths = connection.execute(stays(history, wanted), execution_options={"yield_per": BATCH})
    medians = {
        source: median_of({stayed: times for _, stayed, times in of_page})
        for source, of_page in groupby(lengths, lambda row: row[0])
    }
    return runs, reached, left, went, medians
