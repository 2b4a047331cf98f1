"""The records of `memory://`: this process keeps FSM_CACHE_SIZE of them."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..config import Config
from ..core.history import Entry
from ..reports.funnel import Funnel, LogEntry, funnel_of
from .base import ROOT_LENGTH, StoredReply, Version
from .records.errors import leased_elsewhere, lost_race
from .records.model import Address, HistoryRow, Record, longest_lease

__all__ = ["MemoryRecords", "PlainIds"]

PAST: Final = 100_000
"""Number of history entries of purged flows that are kept."""
_ID: Final = re.compile(rf"[\w-]{{{ROOT_LENGTH}}}", re.ASCII)


class PlainIds:
    """Stores ids unencrypted, since the memory of this process also has the secret key."""

    def encrypt(self, id: str) -> str:
        return id[:ROOT_LENGTH]

    def decrypt(self, text: object) -> str | None:
        return text if isinstance(text, str) and _ID.fullmatch(text) else None


@dataclass
class Cell:
    """A record, its lease, and the history of its runs."""

    record: Record
    lease: str = ""
    leased_until: int = 0
    rows: list[HistoryRow] = field(default_factory=list)


class MemoryRecords:
    """Keeps the records of flows in this process, for development and tests.

    Args:
        config: FSM_CACHE_SIZE bounds the records, FSM_FLOWS_PER_SUBJECT those of one owner, and
            FSM_HISTORY_LIMIT the history of each. The least recently used are dropped.
    """

    def __init__(self, config: Config) -> None:
        self._size = config.cache_size
        self._history_limit = config.history_limit
        self._flows_per_owner = config.flows_per_subject
        self._longest_lease = longest_lease(config.once_lease)
        # The history of purged flows.
        self._past: deque[HistoryRow] = deque(maxlen=PAST)
        self._cells: OrderedDict[Address, Cell] = OrderedDict()
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._cells)

    def _used(self, address: Address) -> Cell | None:
        cell = self._cells.get(address)
        if cell is not None:
            self._cells.move_to_end(address)
        return cell

    def read(self, address: Address) -> Record | None:
        with self._mutex:
            cell = self._used(address)
            return None if cell is None else cell.record

    def _free(self, address: Address, version: Version, lease: str, now: int) -> Cell:
        cell = self._used(address)
        if cell is None:
            raise lost_race()
        if cell.record.version != version:
            raise lost_race(cell.record.state)
        if now <= cell.leased_until <= now + self._longest_lease and cell.lease != lease:
            raise leased_elsewhere()
        return cell

    def write(
        self,
        address: Address,
        version: Version | None,
        record: Record,
        logged: Sequence[HistoryRow],
        *,
        lease: str,
        now: int,
        within: Any,
    ) -> None:
        with self._mutex:
            self._put(address, version, record, logged, lease, now)

    def _put(
        self,
        address: Address,
        version: Version | None,
        record: Record,
        logged: Sequence[HistoryRow],
        lease: str,
        now: int,
    ) -> None:
        if version is None:
            if address in self._cells:
                raise lost_race(self._cells[address].record.state)
            cell = self._cells[address] = Cell(record)
            self._trim(address)
        elif address not in self._cells:
            # It was dropped while a request used it: that request may still commit.
            cell = self._cells[address] = Cell(record)
            self._trim(address)
        else:
            cell = self._free(address, version, lease, now)
            cell.record, cell.lease, cell.leased_until = record, "", 0
        cell.rows += logged
        limit = self._history_limit
        if limit is not None and len(cell.rows) > 2 * limit:
            del cell.rows[:-limit]

    def _trim(self, fresh: Address) -> None:
        owner, machine, key = fresh
        if key:
            own = [at for at in self._cells if at[:2] == (owner, machine)]
            kept = {at: self._cells[at].record for at in own}
            own.sort(key=lambda at: (at == fresh, kept[at].text != "", kept[at].updated))
            for at in own[: -self._flows_per_owner]:
                del self._cells[at]
        while len(self._cells) > self._size:
            self._cells.popitem(last=False)

    def move(
        self,
        source: Address,
        source_version: Version,
        tombstone: Record,
        target: Address,
        target_version: Version | None,
        record: Record,
        now: int,
    ) -> None:
        with self._mutex:
            rows = self._free(source, source_version, "", now).rows
            there = self._cells.get(target)
            known = {row[:3] for row in there.rows} if there is not None else set()
            rows = [row for row in rows if row[:3] not in known]
            self._put(target, target_version, record, rows, "", now)
            self._put(source, source_version, tombstone, (), "", now)
            self._cells[source].rows = []

    def acquire_lease(
        self, address: Address, version: Version, lease: str, now: int, until: int
    ) -> None:
        with self._mutex:
            cell = self._free(address, version, lease, now)
            cell.lease, cell.leased_until = lease, until

    def release_lease(self, address: Address, version: Version, lease: str) -> None:
        with self._mutex:
            cell = self._cells.get(address)
            if cell is not None and cell.lease == lease:
                cell.lease, cell.leased_until = "", 0

    def owner_records(self, owner: str, machine: str) -> list[tuple[str, Record]]:
        with self._mutex:
            found = [
                (at.key, cell.record)
                for at, cell in self._cells.items()
                if at[:2] == (owner, machine)
            ]
        return sorted(found, key=lambda each: each[1].updated, reverse=True)

    def _rows(self, address: Address, flow: str) -> list[HistoryRow]:
        with self._mutex:
            cell = self._cells.get(address)
            return [] if cell is None else [row for row in cell.rows if row.flow == flow]

    def history(self, address: Address, flow: str, rev: int) -> list[Entry]:
        rows = [row for row in self._rows(address, flow) if row.rev <= rev]
        kept = rows if self._history_limit is None else rows[-self._history_limit :]
        return [Entry(row.source, row.target, row.event, row.at, row.rev) for row in kept]

    def stored_reply(self, address: Address, flow: str, rev: int, nonce: str) -> StoredReply | None:
        rows = self._rows(address, flow)
        state = {row.rev: row.target for row in rows}  # that of the last step of a commit
        for row in reversed(rows):
            if row.nonce == nonce and row.digest is not None and row.rev > rev:
                return StoredReply(row.digest, row.location, row.rev, state[row.rev])
        return None

    def _runs(self, machine: str | None, since: int | None, until: int | None) -> list[LogEntry]:
        with self._mutex:
            rows = [*self._past, *(row for cell in self._cells.values() for row in cell.rows)]
        return [
            LogEntry(**{name: getattr(row, name) for name in LogEntry._fields})
            for row in rows
            if machine in (None, row.machine)
            and (since is None or row.at >= since)
            and (until is None or row.at < until)
        ]

    def log(self, machine: str | None, since: int | None, until: int | None) -> Iterator[LogEntry]:
        return iter(sorted(self._runs(machine, since, until), key=lambda entry: entry.at))

    def funnel(
        self,
        machine: str,
        states: Sequence[str],
        initial: str,
        since: int | None,
        until: int | None,
    ) -> Funnel:
        return funnel_of(machine, states, initial, self._runs(machine, since, until))

    def init(self) -> None:
        pass

    def purge(self, before: int, history_before: int | None) -> int:
        with self._mutex:
            old = [at for at, cell in self._cells.items() if cell.record.updated < before]
            for at in old:
                self._past += self._cells.pop(at).rows
            if history_before is not None:
                kept = [row for row in self._past if row.at >= history_before]
                self._past = deque(kept, maxlen=PAST)
                for cell in self._cells.values():
                    cell.rows = [row for row in cell.rows if row.at >= history_before]
        return len(old)
