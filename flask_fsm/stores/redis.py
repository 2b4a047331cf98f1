"""Flows in Redis or Valkey: each change is one script, which the server runs atomically.

All keys of an owner have the same hash tag, so that a cluster keeps them together. A record is a
hash; the history of a run is a stream whose entries have the ids `<rev>-<n>`; the keys of an
owner's flows are a sorted set.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ..config import Config
from ..core.history import Entry
from ..errors import FlowBusy, SnapshotError, StaleFlow
from ..redis_client import is_unreachable
from ..reports.funnel import Funnel, LogEntry, funnel_of
from .base import StoredReply, Version
from .records.errors import leased_elsewhere, lost_race, unavailable
from .records.model import MOVE_SECONDS, Address, HistoryRow, Record, longest_lease

__all__ = ["RedisRecords"]

log: Final = logging.getLogger("flask_fsm")
# How many commits after the form's rev are searched for a submission, which may have made several.
SPAN: Final = 16
BATCH: Final = 1_000
# The text of a record whose fields can't be parsed: it decodes to no flow.
UNREADABLE: Final = "?"
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
FIELDS: Final = (
    "flow", "rev", "state", "text", "sealed", "started", "updated", "finished"
)  # fmt: skip
# Those that are read; the others serve people who inspect the server.
READ: Final = FIELDS[:5]
ROW: Final = tuple(name for name in HistoryRow._fields if name not in ("flow", "rev", "n"))

_CHECK: Final = """
local found = redis.call('HMGET', KEYS[1], 'flow', 'rev', 'claim', 'until', 'state')
if (found[1] or '') ~= ARGV[1] or (found[2] or '') ~= ARGV[2] then
  return {'stale', found[5] or ''}
end
local ends, now = tonumber(found[4]) or 0, tonumber(ARGV[4])
if (found[3] or '') ~= '' and found[3] ~= ARGV[3] and ends >= now and ends <= now + LONGEST then
  return {'busy', ''}
end
"""
# Compare and swap. KEYS: the record, its history, and if flows have keys, the set of the owner's
# keys. ARGV: flow and rev to compare, lease, now, number of rows; if flows have keys also the key,
# the second of the record, its text, and the prefix of the owner's records; then fields and values
# of the record, then ids and rows of the history. LIFETIME (expiry in milliseconds), LIMIT (of the
# history) and BOUND (of flows) are the app's, 0 for none.
WRITE: Final = (
    _CHECK
    + """
local keyed = KEYS[3] ~= nil
local first, last = keyed and 10 or 6, #ARGV - 2 * tonumber(ARGV[5])
for at = last + 1, #ARGV, 2 do
  if LIMIT == 0 then
    redis.call('XADD', KEYS[2], ARGV[at], 'row', ARGV[at + 1])
  else
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', LIMIT, ARGV[at], 'row', ARGV[at + 1])
  end
end
-- After the history, which refuses an entry that is there: what fails has changed nothing.
redis.call('HSET', KEYS[1], unpack(ARGV, first, last))
if found[3] and found[3] ~= '' then redis.call('HSET', KEYS[1], 'claim', '', 'until', 0) end
if LIFETIME ~= 0 then
  redis.call('PEXPIRE', KEYS[1], LIFETIME)
  redis.call('PEXPIRE', KEYS[2], LIFETIME)
end
if keyed then
  local key = ARGV[6]
  if ARGV[8] == '' then
    redis.call('ZREM', KEYS[3], key)
  else
    redis.call('ZADD', KEYS[3], ARGV[7], key)
  end
  if LIFETIME ~= 0 then redis.call('PEXPIRE', KEYS[3], LIFETIME) end
  for _ = 1, redis.call('ZCARD', KEYS[3]) - BOUND do
    local oldest = redis.call('ZRANGE', KEYS[3], 0, 1)
    local old = oldest[1]
    if old == key then old = oldest[2] end
    redis.call('DEL', ARGV[9] .. old)
    redis.call('ZREM', KEYS[3], old)
  end
end
return {'kept', ''}
"""
)
# KEYS: the record. ARGV: flow and rev to compare, lease, now, until.
ACQUIRE: Final = (
    _CHECK
    + """
redis.call('HSET', KEYS[1], 'claim', ARGV[3], 'until', ARGV[5])
return {'kept', ''}
"""
)
# KEYS: the record. ARGV: lease.
RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'claim') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'claim', '', 'until', 0)
end
"""


class RedisRecords:
    """Keeps records in Redis 6.2 or later, or in Valkey.

    Args:
        client: A synchronous client of redis-py or valkey-py, of a single server or a cluster.
        config: FSM_REDIS_PREFIX, FSM_FLOW_LIFETIME, FSM_HISTORY_LIMIT, FSM_ONCE_LEASE and
            FSM_FLOWS_PER_SUBJECT apply.
    """

    def __init__(self, client: Any, config: Config) -> None:
        self._client = client
        self._prefix = config.redis_prefix
        self._history_limit = config.history_limit
        self._warned = False
        """Whether this process knows whether the server drops flows."""
        constants = {
            "LONGEST": longest_lease(config.once_lease),
            "LIFETIME": 0 if config.flow_lifetime is None else round(config.flow_lifetime * 1000),
            "LIMIT": config.history_limit or 0,
            "BOUND": config.flows_per_subject,
        }
        self._write = client.register_script(_filled(WRITE, constants))
        self._acquire = client.register_script(_filled(ACQUIRE, constants))
        self._release = client.register_script(RELEASE)

    # -- keys ---------------------------------------------------------------------------

    def _records_of(self, owner: str, machine: str) -> str:
        return f"{self._prefix}:{{{owner}}}:flow:{machine}:"

    def _record(self, address: Address) -> str:
        return self._records_of(address.owner, address.machine) + address.key

    def _stream(self, owner: str, machine: str, flow: str) -> str:
        return f"{self._prefix}:{{{owner}}}:history:{machine}:{flow}"

    def _keys(self, owner: str, machine: str) -> str:
        return f"{self._prefix}:{{{owner}}}:flows:{machine}"

    # -- the operations of a store ------------------------------------------------------

    def read(self, address: Address) -> Record | None:
        with translated_redis():
            try:
                values = self._client.hmget(self._record(address), READ)
            except Exception as error:
                if "WRONGTYPE" not in str(error):
                    raise
                raise SnapshotError(
                    f"The Redis key {self._record(address)!r} does not hold a flow, but a value "
                    f"of another type: remove it."
                ) from error
        return _as_record(values)

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
        rows = [(f"{row.rev}-{row.n}", _dumped(row)) for row in logged]
        self._put(address, version, record, rows, lease, now)
        if not self._warned:
            self._warned = True
            warn_of_eviction(self._client)

    def _put(
        self,
        address: Address,
        version: Version | None,
        record: Record,
        rows: Sequence[tuple[Any, Any]],
        lease: str,
        now: int,
    ) -> None:
        owner, machine, key = address
        values = [*record[:-1], int(record.finished)]
        fields = [part for pair in zip(FIELDS, values, strict=True) for part in pair]
        arguments = [
            *_raw(version),
            lease,
            now,
            len(rows),
            *((key, record.updated, record.text, self._records_of(owner, machine)) if key else ()),
            *fields,
            *(part for row in rows for part in row),
        ]
        keys = [self._record(address), self._stream(owner, machine, record.flow)]
        if key:
            keys.append(self._keys(owner, machine))
        self._run(self._write, keys, arguments)

    def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> None:
        with translated_redis():
            answer, state = map(_text, script(keys=keys, args=arguments))
        if answer == "stale":
            raise lost_race(state or None)
        if answer == "busy":
            raise leased_elsewhere()

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
        # The two owners may be on two servers of a cluster. The source is leased until the target
        # is written; if the process dies in between, the next login finds both and completes it.
        lease = f"moving {record.sealed}"
        self.acquire_lease(source, source_version, lease, now, now + MOVE_SECONDS)
        stream = self._stream(source.owner, source.machine, source_version.flow)
        there = self._stream(target.owner, target.machine, record.flow)
        with translated_redis():
            rows = [(_text(id), row[b"row"]) for id, row in self._range(stream)]
            # Entries may be left there by an interrupted move, or by a flow that moves back.
            last = self._client.xrevrange(there, count=1)
        if last and stream != there:
            top = _order(_text(last[0][0]))
            rows = [(id, row) for id, row in rows if _order(id) > top]
        try:
            self._put(target, target_version, record, rows, "", now)
        except (FlowBusy, StaleFlow):
            self.release_lease(source, source_version, lease)
            raise
        self._put(source, source_version, tombstone, (), lease, now)
        if stream != there:
            with translated_redis():
                self._client.delete(stream)

    def acquire_lease(
        self, address: Address, version: Version, lease: str, now: int, until: int
    ) -> None:
        self._run(self._acquire, [self._record(address)], [*_raw(version), lease, now, until])

    def release_lease(self, address: Address, version: Version, lease: str) -> None:
        with translated_redis():
            self._release(keys=[self._record(address)], args=[lease])

    def owner_records(self, owner: str, machine: str) -> list[tuple[str, Record]]:
        with translated_redis():
            index = self._keys(owner, machine)
            keys = [_text(key) for key in self._client.zrange(index, 0, -1, desc=True)]
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(self._records_of(owner, machine) + key, READ)
            found = [_as_record(values) for values in pipeline.execute()]
        return [(key, record) for key, record in zip(keys, found, strict=True) if record]

    def _range(self, stream: str) -> list[tuple[Any, Any]]:
        return [(id, _fields(row)) for id, row in self._client.xrange(stream)]

    def history(self, address: Address, flow: str, rev: int) -> list[Entry]:
        stream = self._stream(address.owner, address.machine, flow)
        with translated_redis():
            rows = self._client.xrevrange(stream, f"{rev}", "-", count=self._history_limit)
        entries = []
        for id, row in reversed(rows):
            entry = _loaded(row)
            if entry:
                rev_of = int(_text(id).partition("-")[0])
                entries.append(
                    Entry(entry["source"], entry["target"], entry["event"], entry["at"], rev_of)
                )
        return entries

    def stored_reply(self, address: Address, flow: str, rev: int, nonce: str) -> StoredReply | None:
        stream = self._stream(address.owner, address.machine, flow)
        with translated_redis():
            rows = self._client.xrange(stream, f"{rev + 1}", f"{rev + SPAN}")
        state: dict[int, str] = {}
        for id, row in reversed(rows):
            entry, rev_of = _loaded(row), int(_text(id).partition("-")[0])
            if entry:
                state.setdefault(rev_of, entry["target"])  # of the last step of a commit
                if entry["nonce"] == nonce:
                    place = entry["location"]
                    return StoredReply(entry["digest"], place, rev_of, state[rev_of])
        return None

    # -- the history of all runs --------------------------------------------------------

    def _runs(
        self, machine: str | None, since: int | None, until: int | None
    ) -> Iterator[LogEntry]:
        """Iterate over the streams, one run after another."""
        pattern = f"{_escaped(self._prefix)}:{{*}}:history:" + (
            "*" if machine is None else f"{_escaped(machine)}:*"
        )
        with translated_redis():
            for stream in self._client.scan_iter(match=pattern, count=BATCH):
                flow = _text(stream).rpartition(":")[2]
                for id, row in self._client.xrange(stream):
                    entry = _loaded(row)
                    if not entry or machine not in (None, entry["machine"]):
                        continue
                    if (since is None or entry["at"] >= since) and (
                        until is None or entry["at"] < until
                    ):
                        del entry["nonce"], entry["digest"], entry["location"]
                        rev = int(_text(id).partition("-")[0])
                        yield LogEntry(flow=flow, rev=rev, **entry)

    def log(self, machine: str | None, since: int | None, until: int | None) -> Iterator[LogEntry]:
        entries = self._runs(machine, since, until)
        return iter(sorted(entries, key=lambda entry: (entry.at, entry.flow, entry.rev)))

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
        with translated_redis():
            self._client.ping()

    def purge(self, before: int, history_before: int | None) -> int:
        removed = 0
        with translated_redis():
            pattern = f"{_escaped(self._prefix)}:{{*}}:flow:*"
            for key in self._client.scan_iter(match=pattern, count=BATCH):
                updated = self._client.hget(key, "updated")
                if updated is not None and int(updated) < before:
                    removed += int(self._client.delete(key))
            for stream in self._client.scan_iter(
                match=f"{_escaped(self._prefix)}:{{*}}:history:*", count=BATCH
            ):
                last = self._client.xrevrange(stream, count=1)
                at = _loaded(last[0][1]).get("at", 0) if last else 0
                if history_before is not None and at < history_before:
                    self._client.delete(stream)
        return removed


def warn_of_eviction(client: Any) -> None:
    """Warn if the server may drop flows to make room for other keys."""
    try:
        found = client.info("memory")
    except Exception:  # the user may lack the right to ask
        log.debug("The server does not say whether it drops keys.", exc_info=True)
        return
    nodes = [found] if "maxmemory" in found else found.values()
    for node in nodes:
        policy = node.get("maxmemory_policy")
        if node.get("maxmemory") and policy != "noeviction":
            log.warning(
                "The Redis of FSM_STORE_URL drops keys when it is full (maxmemory-policy %s): "
                "flows in use may be lost for other keys, such as the messages of a bus on the "
                "same server. Set its maxmemory-policy to noeviction.",
                policy,
            )
            return


def _filled(script: str, constants: Mapping[str, int]) -> str:
    for name, value in constants.items():
        script = script.replace(name, str(value))
    return script


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _order(id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in id.split("-"))


def _fields(row: Any) -> dict[bytes, Any]:
    return {key.encode() if isinstance(key, str) else key: value for key, value in row.items()}


def _as_record(values: Sequence[Any]) -> Record | None:
    if values[0] is None:
        return None
    try:
        flow, rev, state, text, sealed = ("" if value is None else _text(value) for value in values)
        return Record(flow, int(rev), state, text, sealed, 0, 0, False)
    except ValueError:
        # It can't be read, but the commit that replaces it has to name its version.
        flow, raw = (_lossless(value) for value in values[:2])
        return Record(flow, raw, "", UNREADABLE, "", 0, 0, False)  # type: ignore[arg-type]


def _lossless(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _raw(version: Version | None) -> tuple[bytes, bytes]:
    """Return a version as the bytes that a script compares."""
    if version is None:
        return b"", b""
    return version.flow.encode("utf-8", "surrogateescape"), str(version.rev).encode(
        "utf-8", "surrogateescape"
    )


def _dumped(row: HistoryRow) -> str:
    return _encode({name: getattr(row, name) for name in ROW})


def _loaded(row: Any) -> dict[str, Any]:
    """Return a row of the history; an empty one if it was not written by this class."""
    try:
        entry: Any = json.loads(_fields(row)[b"row"])
    except (ValueError, KeyError):
        entry = None
    return entry if isinstance(entry, dict) and entry.keys() >= set(ROW) else {}


def _escaped(name: str) -> str:
    """Return a name with the characters escaped that mean something in patterns of Redis."""
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in name)


@contextmanager
def translated_redis() -> Iterator[None]:
    """Turn the errors of a server that can't be reached into StoreUnavailable."""
    try:
        yield
    except Exception as error:
        if not is_unreachable(error):
            raise
        raise unavailable() from error
