"""Expiry: a flow that nobody moves for FSM_FLOW_LIFETIME ends; here is what tells its user.

`AppState.expired_before` (runtime/app_state) is the limit. `SessionStore.load` (stores/session) and
`FlowMapper.load` (stores/records/mapper) compare the last commit of the flow that they load with
it. Redis also deletes what has expired; on SQL `flask fsm purge` does so.

A flow can be gone for other reasons too: reset, moved, or evicted; its user
has logged out; or its cookie was not sent.
"""

from __future__ import annotations

from typing import Final

from ..errors import Code, FlowGone
from ..texts import _

__all__ = ["flow_gone"]

GONE: Final = {
    Code.RESET: _("This run was reset, and a new one has been started."),
    Code.MOVED: _("This run continues elsewhere: after a login, or on another device."),
    Code.EXPIRED: _("This run was inactive for too long and has expired."),
    Code.FINISHED: _("This has already been completed."),
    Code.EVICTED: _("This run is no longer in the store."),
    Code.NO_SESSION: _(
        "Your browser no longer knows this run: its cookie is missing. "
        "Allow cookies for this site, then start again from the first page."
    ),
    Code.NOT_IN_SESSION: _(
        "Your session no longer holds this run: it has ended, or you have logged out since."
    ),
}


def flow_gone(id: str | None, code: str) -> FlowGone:
    """Return the error of a flow that no longer exists, or that no cookie names."""
    known = Code(code)  # a tombstone has it as plain text
    return FlowGone(GONE[known], flow=id, code=known)
