"""What must be true of a flow, as the app tells it, and of a store, as its tables tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..clients import Answer, Client, see
from ..race_app import RING, TILL

EDGES = {*RING.items(), *TILL.items(), ("c", "d")}


class Token(NamedTuple):
    """What can be read from a form's token: it was made for `page` at `rev`."""

    text: str
    page: str
    rev: int

    @classmethod
    def read(cls, text: str) -> Token:
        _, rev, _, page, _ = text.split(".")
        return cls(text, page, int(rev))


class Told(NamedTuple):
    """What the app tells of a flow; each of `entries` is [source, target, at, rev]."""

    state: str
    rev: int
    entries: list[list[Any]]


def open_page(client: Client, page: str) -> tuple[Answer, Token]:
    """Open a page that must be open; return what it says, and its form's token."""
    answer = see(client, f"/{page}")
    assert answer.status == 200, (page, answer)
    return answer, Token.read(answer.json["token"])


def history_of(client: Client, machine: str = "ring") -> Told:
    """Read a flow's history, and hold it to be whole: no gap, no rev twice, no edge unknown."""
    answer = see(client, "/history" if machine == "ring" else f"/history/{machine}")
    assert answer.status == 200, answer
    told = Told(**answer.json)
    revs = [rev for *_, rev in told.entries]
    assert revs == list(range(1, told.rev + 1)), (told.rev, revs)
    assert all((source, target) in EDGES for source, target, *_ in told.entries)
    if told.entries:
        assert told.entries[-1][1] == told.state
    return told


def assert_rows_agree(url: str) -> None:
    """Each flow's row and its rows in the history tell the same; where the store has no tables,
    the app has told it all."""
    if "sql" not in url:
        return
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            flows = connection.execute(sa.text("SELECT flow, rev, state FROM fsm_flow")).all()
            rows = connection.execute(
                sa.text("SELECT flow, rev, source, target FROM fsm_history ORDER BY flow, rev, n")
            ).all()
    finally:
        engine.dispose()
    entries: dict[str, list[Any]] = {}
    for row in rows:
        entries.setdefault(row.flow, []).append(row)
    assert entries.keys() <= {flow.flow for flow in flows}
    for flow in flows:
        kept = entries.get(flow.flow, [])
        assert [row.rev for row in kept] == list(range(1, flow.rev + 1))
        assert not kept or kept[-1].target == flow.state


def marks(effects: Path, page: str) -> list[str]:
    """Return the marks of the forms for which the view of `page` ran."""
    if not effects.exists():
        return []
    lines = [line.split(" ") for line in effects.read_text().splitlines()]
    return [mark for mark, where, *_ in lines if where == page]
