"""Maps flows to records and back, and checks the expiry of a flow that is loaded.

A record is stored at an address: a hash of its owner, its machine, its key. The owner of a flow
without a subject is its id, which only its session has; so each look-up names the owner, and
somebody else's flow is not found. Ids are stored as their SHA-256. The id of an owned flow is also
stored encrypted, so that another session of the same owner can be given it.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

from ...core.flow import Clock, blank
from ...core.history import Entry
from ...core.machine import Machine
from ...core.snapshot import Snapshot
from ...errors import Code, FlowGone, FSMError, SnapshotError
from ..base import FlowLocator, LoadResult, Version, digest, root_id
from ..expiry import flow_gone
from .errors import snapshot_too_large
from .model import Address, Cipher, Record, Records, SessionReference

__all__ = ["FlowMapper"]

log: Final = logging.getLogger("flask_fsm")


class FlowMapper:
    """Converts flows to records and back, and computes their addresses.

    Args:
        records: The server.
        cipher: Encrypts the ids of owned flows.
        max_size: FSM_MAX_SNAPSHOT_SIZE, in bytes.
        clock: Returns seconds since 1970.
    """

    def __init__(self, records: Records, cipher: Cipher, max_size: int, clock: Clock) -> None:
        self.records = records
        self.cipher = cipher
        self.clock = clock
        self._max_size = max_size

    # -- addresses ----------------------------------------------------------------------

    def owner(self, locator: FlowLocator, id: str) -> str:
        """Return the hash of the owner of a flow."""
        if locator.subject is not None:
            return digest(f"subject {locator.subject}")
        return (
            digest(root_id(id)) if locator.secret is None else digest(f"session {locator.secret}")
        )

    def address(self, locator: FlowLocator, id: str = "") -> Address:
        """Return the address of a flow's record."""
        return Address(self.owner(locator, id), locator.machine.name, locator.key)

    def session_value(self, locator: FlowLocator, snapshot: Snapshot) -> str:
        """Return what the session carries of a flow."""
        owner = self.owner(locator, "")[:16] if locator.owned else ""
        return f"{snapshot.id},{snapshot.rev > 0:d},{snapshot.started},{owner}"

    # -- from a record ------------------------------------------------------------------

    def load(
        self, locator: FlowLocator, reference: SessionReference | None, expired_before: float
    ) -> LoadResult:
        """Read a flow and check its expiry: the last commit must not be `expired_before`."""
        machine = locator.machine
        address = self.address(locator, reference.id if reference else "")
        try:
            record = self.records.read(address)
        except SnapshotError as unreadable:
            return LoadResult(missing_reason=unreadable)
        if record is None:
            if reference is not None and (reference.begun or "~" in reference.id):
                return LoadResult(missing_reason=flow_gone(reference.id, Code.EVICTED))
            return self._unstarted(locator, reference, None)
        named = reference is not None and (
            not locator.owned or record.flow == digest(reference.id) or reference.begun
        )
        error: FSMError
        try:
            if not record.text:
                raise flow_gone(None, record.state)
            id = self.id_of(locator, reference, record)
            snapshot = self.decode(address, record, machine, id)
            if snapshot.updated < expired_before:
                raise flow_gone(None, Code.EXPIRED)
            return LoadResult(snapshot, self.session_value(locator, snapshot), record.version)
        except SnapshotError as unreadable:
            if not named:
                log.warning("Machine %r: %s", machine.name, unreadable)
            error = unreadable
        except FlowGone as ended:
            error = ended
        error.flow = reference.id if reference is not None else None
        if named:
            return LoadResult(version=record.version, missing_reason=error)
        return self._unstarted(locator, reference, record.version)

    def _unstarted(
        self, locator: FlowLocator, reference: SessionReference | None, version: Version | None
    ) -> LoadResult:
        """Return the session's flow if it has not begun, or else no flow."""
        if reference is None or reference.begun:
            return LoadResult(version=version)
        snapshot = blank(
            locator.machine, reference.started, id=reference.id, subject=locator.subject
        )
        return LoadResult(snapshot, self.session_value(locator, snapshot), version)

    def id_of(
        self, locator: FlowLocator, reference: SessionReference | None, record: Record
    ) -> str:
        """Return the id of a stored flow."""
        if not locator.owned:
            assert reference is not None
            return reference.id
        if reference is not None and record.flow == digest(reference.id):
            return reference.id  # the session has the id, so nothing need be decrypted
        id = self.cipher.decrypt(record.sealed)
        if id is None:
            # No current key decrypts it; the next commit encrypts the new id.
            id = reference.id if reference is not None else secrets.token_urlsafe(16)
        return id

    def decode(self, address: Address, record: Record, machine: Machine, id: str) -> Snapshot:
        """Return the snapshot of a record; raise SnapshotError if it can't be read."""

        def read() -> list[Entry]:
            return self.records.history(address, record.flow, record.rev)

        if len(record.text) > self._max_size:
            raise SnapshotError(
                f"A stored flow of {machine.name!r} takes {len(record.text)} characters, but "
                f"FSM_MAX_SNAPSHOT_SIZE is {self._max_size}."
            )
        snapshot = Snapshot.from_record(record.text, machine, id, read)
        if snapshot.rev != record.rev:
            raise SnapshotError(
                f"A stored flow of {machine.name!r} is damaged: its text is of rev {snapshot.rev}, "
                f"and its record of rev {record.rev}."
            )
        return snapshot

    # -- to a record --------------------------------------------------------------------

    def encode(self, locator: FlowLocator, new: Snapshot, flow: str) -> Record:
        """Return the record of a snapshot; raise SnapshotTooLarge if it takes too many bytes."""
        text = new.to_record(locator.machine)
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > self._max_size:
            raise snapshot_too_large(new, size, self._max_size)
        sealed = self.cipher.encrypt(new.id) if locator.owned else ""
        return Record(
            flow, new.rev, new.state, text, sealed, new.started, new.updated, new.finished
        )

    def tombstone(self, version: Version | None, old: Snapshot, code: str) -> Record:
        """Return the record of a flow that has ended for good, for the reason `code`."""
        flow = digest(old.id) if version is None or old.rev == 0 else version.flow
        now = int(self.clock())
        return Record(
            flow, old.rev + 1, str(code), "", "", old.started, max(now, old.updated), True
        )
