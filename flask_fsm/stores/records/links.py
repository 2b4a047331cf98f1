"""Resume links: how a link names a flow on the server, and how the flow is found again."""

from __future__ import annotations

from ...core.machine import Machine
from ...core.snapshot import NAMELESS, Snapshot
from ..base import FlowLocator, LoadResult, digest, root_id
from .errors import link_used
from .mapper import FlowMapper
from .model import Address

__all__ = ["LinkedFlows"]


class LinkedFlows:
    """Finds flows by resume links, which name a flow without its id."""

    def __init__(self, mapper: FlowMapper) -> None:
        self._mapper = mapper

    def target(self, locator: FlowLocator, snapshot: Snapshot) -> tuple[str, str, str]:
        """Return what identifies a flow in a link: hash of its owner, key, and digest of its id."""
        owner = self._mapper.owner(locator, snapshot.id)
        return owner, locator.key, digest(root_id(snapshot.id))[:16]

    def find(
        self, machine: Machine, owner: str, key: str, id_digest: str, expired_before: float
    ) -> tuple[Address, LoadResult]:
        """Return the address and the flow of a link; the snapshot has no id.

        Args:
            machine: The machine of the flow.
            owner: Hash of its owner.
            key: Its key.
            id_digest: First digits of the SHA-256 of its id.
            expired_before: A flow whose last commit is before this time has expired.
                Seconds since 1970.

        Raises:
            FlowGone: The flow has got another id since, has ended, or has expired.
        """
        address = Address(owner, machine.name, key)
        record = self._mapper.records.read(address)
        if record is not None and record.text:
            id = self._mapper.cipher.decrypt(record.sealed) if record.sealed else None
            if (digest(id) if id is not None else owner)[:16] == id_digest:
                snapshot = self._mapper.decode(address, record, machine, NAMELESS)
                if snapshot.updated >= expired_before:
                    return address, LoadResult(snapshot, None, record.version)
        raise link_used()
