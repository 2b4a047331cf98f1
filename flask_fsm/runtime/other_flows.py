"""Other flows than that of the request: one known by its id, or all flows of an owner."""

from __future__ import annotations

from ..binding.bound_machine import Bound
from ..core.snapshot import Snapshot
from ..stores.base import FlowLocator
from .app_state import AppState
from .locate import session_flow
from .unit_of_work import UnitOfWork

__all__ = ["flow_by_id", "owner_flows"]


def flow_by_id(
    state: AppState, bound: Bound, id: str, subject: str | None, key: str
) -> UnitOfWork | None:
    """Return the unit of work of a flow that is known by its id, or None if there is none.

    `subject` and `key` locate the flow, which its id does not.
    """
    work = UnitOfWork(state, bound, {})
    work.needs_key = False
    locator = FlowLocator(bound.machine, subject, None, key)
    session_value = state.store.session_value_of(locator, id)
    if session_value is None:
        return None
    work.session_flow = session_flow(bound, {}, locator)
    work.session_flow.keep(session_value)
    return work


def owner_flows(work: UnitOfWork) -> list[tuple[str, Snapshot]]:
    """Return the flows of a machine that the owner of this flow has, by key, newest first."""
    store = work.state.require_record_store("fsm.flows()")
    owner = work.locate_owner()
    if not work.bound.machine.many:
        if not work.loaded:
            work.load()
        return [("", work.persisted)] if work.persisted.rev else []
    return [
        (key, found.snapshot)
        for key, found in store.owner_flows(owner, work.state.expired_before())
        if found.snapshot is not None
    ]
