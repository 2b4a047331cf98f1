"""Login: all flows of a session are taken along to the subject that has just logged in.

This is for machines with `many`. Each flow is moved by its store (records/login_merge); a single
flow is taken along as the store loads it.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from ..binding.bound_machine import Bound
from ..errors import FlowBusy, StaleFlow
from ..stores.base import FlowLocator, LoadResult
from .app_state import AppState
from .locate import SessionFlow
from .session_data import OWNER_KEY, SESSION_KEY, read_pairs

__all__ = ["take_all_along"]


def take_all_along(
    state: AppState,
    bound: Bound,
    session: MutableMapping[str, Any],
    secret: str,
    owner: FlowLocator,
) -> Iterator[str]:
    """Take along all flows that a session's secret owns to a subject; yield their previous ids.

    Of more than FSM_FLOWS_PER_SUBJECT flows the oldest are left behind.
    """
    store = state.require_record_store(f"many={bound.machine.many!r}")
    anonymous = owner._replace(subject=None, secret=secret)
    expired_before = state.expired_before()
    begun = dict(store.owner_flows(anonymous, expired_before))
    together = [*begun.values(), *dict(store.owner_flows(owner, expired_before)).values()]
    times = sorted(found.snapshot.updated for found in together if found.snapshot)
    surplus = len(times) - state.config.flows_per_subject
    if surplus > 0:
        begun = {
            key: found
            for key, found in begun.items()
            if found.snapshot is not None and found.snapshot.updated >= times[surplus]
        }
    complete = True
    for key in {**begun, **read_pairs(session, SESSION_KEY + bound.name)}:
        flow = SessionFlow(session, bound.name, owner._replace(key=key), key, several=True)
        text = flow.text
        moved: LoadResult | None = None
        if key in begun:
            source = anonymous._replace(key=key)
            try:
                moved = store.login.merge(flow.locator, source, begun[key], bound.choose)
            except (FlowBusy, StaleFlow):  # another request is moving it
                complete = False
        elif text is not None:
            moved = store.login.adopt_unstarted(flow.locator, text)
        if moved is not None:
            flow.keep_result(moved)
            if moved.previous_id is not None and moved.snapshot is not None:
                yield moved.previous_id
    if complete:
        session.pop(OWNER_KEY + bound.name, None)
