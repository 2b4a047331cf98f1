"""Resume links: identify the flow for a link, and continue it in another session."""

from __future__ import annotations

from typing import NamedTuple

from ..core.flow import blank
from ..core.snapshot import Snapshot
from ..errors import Code, FSMError, NotFound, StaleFlow
from ..stores.base import FlowLocator, LoadResult
from ..stores.records.errors import link_used
from ..stores.records.model import Address
from ..texts import _
from .locate import find_owner, session_flow
from .unit_of_work import UnitOfWork

__all__ = ["LinkedFlow", "find_linked", "follow_link", "has_followed", "link_target"]


def link_target(work: UnitOfWork) -> tuple[str, str, str]:
    """Return the parts of a link that identify this flow; the caller must sign them."""
    store = work.state.require_record_store("fsm.resume_link()")
    if not work.persisted.rev:
        raise FSMError(
            "This flow has not started yet, so another device has nothing to continue.",
            flow=work.flow.id,
            code=Code.NOT_BEGUN,
            status=409,
        )
    return store.links.target(work.locator, work.persisted)


class LinkedFlow(NamedTuple):
    """The flow of a link, and the flow of the visitor that it would replace."""

    address: Address
    found: LoadResult
    snapshot: Snapshot
    own: Snapshot | None
    """None if the visitor has begun none, has ended it, or if it is the same."""


def find_linked(work: UnitOfWork, owner: str, key: str, id_digest: str) -> LinkedFlow:
    """Find the flow of a link, and load the one that this visitor has in its place.

    Raises FlowGone if the link was used elsewhere, NotFound if the flow is somebody else's.
    """
    store = work.state.require_record_store("fsm.resume_link()")
    machine = work.bound.machine
    address, found = store.links.find(machine, owner, key, id_digest, work.state.expired_before())
    old = found.snapshot
    assert old is not None
    work.needs_key = False
    work.url_args = work.bound.path_values(old.tip)
    locator = find_owner(work.bound, work.url_args, work.session)._replace(key=key)
    if old.subject not in (None, locator.subject):
        raise NotFound(_("There is no such page."), code=Code.NO_FLOW)
    work.session_flow = session_flow(work.bound, work.session, locator)
    own: Snapshot | None = None
    if machine.many is not True:  # otherwise each flow has a place of its own
        work.load()
        mine = work.persisted
        if (
            work.missing_reason is None
            and mine.rev
            and not mine.finished
            and store.links.target(locator, mine)[:2] != (owner, key)
        ):
            own = mine
    return LinkedFlow(address, found, old, own)


def follow_link(work: UnitOfWork, linked: LinkedFlow, new_id: str) -> None:
    """Continue the flow of a link in this session, in place of any other.

    `new_id` is the same whenever this session uses the link, so that it finds the flow again if
    the answer was lost. Raises FlowGone if the link was used meanwhile.
    """
    store = work.state.require_record_store("fsm.resume_link()")
    try:
        moved = store.login.move_to(
            linked.address, linked.found, work.locator, lambda old, own: old, id=new_id
        )
    except StaleFlow as error:
        raise link_used() from error
    work.session_flow.set_previous(None)
    work.session_flow.keep(moved.session_value)
    # A flow without a subject is located by its id, so its owner is also the key of its channel.
    work.notify_moved_away(linked.address.owner)
    work.load()


def has_followed(work: UnitOfWork, id: str) -> bool:
    """Return whether this session has followed the link already; if so, load its flow."""
    if work.bound.machine.many:
        return False
    store = work.state.require_record_store("fsm.resume_link()")
    locator = FlowLocator(work.bound.machine)
    work.session_flow = session_flow(work.bound, work.session, locator)
    snapshot = blank(work.bound.machine, 0, id=id)
    found = store.load(
        locator,
        store.session_value(locator, snapshot),
        work.state.expired_before(),
        work.bound.choose,
    )
    if found.snapshot is None or not found.snapshot.rev:
        return False
    work.session_flow.keep(found.session_value)
    work.load()
    return True
