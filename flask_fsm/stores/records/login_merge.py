"""Login: the flow of a session is moved to the subject that has just logged in, or merged."""

from __future__ import annotations

import secrets
import time
from math import inf
from typing import Final

from ...core.flow import blank
from ...errors import Code, FlowBusy, StaleFlow
from ..base import Choose, FlowLocator, LoadResult
from .errors import lost_race
from .mapper import FlowMapper
from .model import Address, SessionReference

__all__ = ["LoginMerge"]

# How often, and how many seconds apart, to read again a flow that others are moving.
ATTEMPTS: Final = 10
PAUSE: Final = 0.02


class LoginMerge:
    """Moves flows to another owner, under a new id, and resolves conflicts between two of them."""

    def __init__(self, mapper: FlowMapper) -> None:
        self._mapper = mapper

    def take_along(
        self,
        locator: FlowLocator,
        reference: SessionReference,
        expired_before: float,
        choose: Choose,
    ) -> LoadResult:
        """After a login, move the session's flow to its subject, under a new id.

        If the subject has a flow already, `choose` says which of the two is kept.
        """
        anonymous = locator._replace(subject=None, secret=None)
        busy: FlowBusy | None = None
        for _ in range(ATTEMPTS):
            # In this order: another request may move the one to the other meanwhile.
            theirs = self._mapper.load(anonymous, reference, expired_before)
            own = self._mapper.load(locator, None, expired_before)
            if theirs.snapshot is None:
                was, there = theirs.version, own.version
                if was is not None and there is not None and was.flow == there.flow:
                    return own._replace(
                        previous_id=reference.id if own.snapshot is not None else None
                    )
                return own
            if theirs.version is None or not theirs.snapshot.rev:
                if own.snapshot is not None:
                    return own
                # Nothing is stored yet: the form that is open continues under a new id.
                fresh = theirs.snapshot.with_id(secrets.token_urlsafe(16), locator.subject)
                return LoadResult(
                    fresh,
                    self._mapper.session_value(locator, fresh),
                    own.version,
                    previous_id=reference.id,
                )
            try:
                return self.merge(locator, anonymous, theirs, choose, own)
            except FlowBusy as error:
                busy = error
                time.sleep(PAUSE)
            except StaleFlow:
                pass  # one of the two has moved on meanwhile
        raise busy or lost_race()

    def merge(
        self,
        locator: FlowLocator,
        anonymous: FlowLocator,
        theirs: LoadResult,
        choose: Choose,
        own: LoadResult | None = None,
    ) -> LoadResult:
        """Keep one of two flows at `locator`: the one there, or the one at `anonymous`.

        Args:
            locator: The subject's flow.
            anonymous: The session's flow.
            theirs: What was loaded of the session's flow; it must have begun.
            choose: Returns the one to keep of (session's snapshot, subject's snapshot).
            own: What was loaded of the subject's flow, if it was.

        Raises:
            StaleFlow: A conflict: one of the two has moved on meanwhile.
            FlowBusy: Another request holds a lease on one of the two.
        """
        assert theirs.snapshot is not None
        source = self._mapper.address(anonymous, theirs.snapshot.id)
        return self.move_to(source, theirs, locator, choose, own)

    def move_to(
        self,
        source: Address,
        found: LoadResult,
        locator: FlowLocator,
        choose: Choose,
        own: LoadResult | None = None,
        id: str | None = None,
    ) -> LoadResult:
        """Move the flow that was found at `source` to `locator`, under `id` or a new random id.

        If there is one at `locator`, `choose` says which of the two is kept. Raises StaleFlow and
        FlowBusy as `merge` does.
        """
        mapper = self._mapper
        old, version = found.snapshot, found.version
        assert old is not None
        assert version is not None
        new = old.with_id(id or secrets.token_urlsafe(16), locator.subject)
        target = mapper.address(locator, new.id)
        now = int(mapper.clock())
        tombstone = mapper.tombstone(version, old, Code.MOVED)
        if own is None:
            own = (
                mapper.load(locator, None, -inf)
                if locator.owned and source != target
                else LoadResult()
            )
        if own.snapshot is not None and choose(old, own.snapshot) is not old:
            mapper.records.write(source, version, tombstone, (), lease="", now=now, within=None)
            return own
        record = mapper.encode(locator, new, version.flow)
        if source == target:
            mapper.records.write(target, version, record, (), lease="", now=now, within=None)
        else:
            mapper.records.move(source, version, tombstone, target, own.version, record, now)
        moved = mapper.decode(target, record, locator.machine, new.id)
        return LoadResult(
            moved, mapper.session_value(locator, moved), record.version, previous_id=old.id
        )

    def adopt_unstarted(self, locator: FlowLocator, session_value: str) -> LoadResult | None:
        """Return a flow that had not begun before the login, under a new id; None if it had."""
        reference = SessionReference.read(session_value)
        if reference is None or reference.begun:
            return None
        new = blank(
            locator.machine,
            reference.started,
            id=secrets.token_urlsafe(16),
            subject=locator.subject,
        )
        return LoadResult(new, self._mapper.session_value(locator, new), previous_id=reference.id)
