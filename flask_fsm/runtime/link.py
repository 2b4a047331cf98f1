"""Resume links: identify the flow for a link, and continue it in another session."""

from __future__ import annotations

from ..core.flow import blank
from ..errors import Code, FSMError, NotFound, StaleFlow
from ..stores.base import FlowLocator
from ..stores.records.errors import link_used
from ..texts import _
from .locate import find_owner, session_flow
from .unit_of_work import UnitOfWork

__all__ = ["follow_link", "link_target"]


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


def follow_link(
    work: UnitOfWork, owner: str, key: str, id_digest: str, new_id: str, *, confirmed: bool
) -> None:
    """Find the flow of a link; if that is `confirmed`, continue it in this session.

    `new_id` is the same whenever this session uses the link, so that it finds the flow again if
    the answer was lost. Raises FlowGone if the link was used elsewhere, NotFound if the flow is
    somebody else's.
    """
    store = work.state.require_record_store("fsm.resume_link()")
    machine = work.bound.machine
    if confirmed and not machine.many and _has_followed(work, new_id):
        return
    address, found = store.links.find(machine, owner, key, id_digest, work.state.expired_before())
    old = found.snapshot
    assert old is not None
    work.needs_key = False
    work.url_args = work.bound.path_values(old.tip)
    locator = find_owner(work.bound, work.url_args, work.session)._replace(key=key)
    if old.subject not in (None, locator.subject):
        raise NotFound(_("There is no such page."), code=Code.NO_FLOW)
    work.session_flow = session_flow(work.bound, work.session, locator)
    if not confirmed:
        return
    # The visitor has confirmed that this flow continues here, in place of any other.
    try:
        moved = store.login.move_to(address, found, locator, lambda old, own: old, id=new_id)
    except StaleFlow as error:
        raise link_used() from error
    work.session_flow.set_previous(None)
    work.session_flow.keep(moved.session_value)
    # A flow without a subject is located by its id, so `owner` is also the key of its channel.
    work.notify_moved_away(owner)
    work.load()


def _has_followed(work: UnitOfWork, id: str) -> bool:
    """Return whether this session has followed the link already; if so, load its flow."""
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
