"""Notices: what a visitor is told of a page that is not open, or a form that is out of date."""

from __future__ import annotations

import logging
from typing import Final

from flask import Request, flash

from ..core.reasons import allowed_states
from ..errors import Code, FSMError, StaleFlow
from ..responses import preferred_format
from ..runtime.locate import sends_session
from ..runtime.session_data import find_machine
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import TokenContent
from ..stores.base import root_id
from ..stores.expiry import flow_gone
from ..texts import Text, _, as_text

__all__ = [
    "flash_notice",
    "foreign_form",
    "notice_of",
    "notice_of_page",
    "stale_form",
    "tell_of_changed_pages",
    "unnamed_flow",
]

log: Final = logging.getLogger("flask_fsm")
FLASH_CATEGORY: Final = "fsm"
TOLD_KEY: Final = "_fsmtold_"
"""Prefix of the session's keys with the digest of the definition that a visitor was told of."""
# Why the session has given up a flow by what its user did; or it has just named another one since.
REPLACED: Final = (None, Code.RESET, Code.MOVED)
# Why a form conflicts with the flow, by the code of the refusal.
STALE: Final = {
    Code.NOT_CURRENT: _("You have moved on from this page since it was opened."),
    Code.NOT_ON_PATH: _("This page is not open: continue with the current page first."),
    Code.PAGES_CHANGED: _(
        "The pages of this form have changed, and another page comes first now. "
        "What you have entered is kept."
    ),
    Code.CLOSED: _("This page is closed: it can no longer be changed."),
    Code.OTHER_FLOW: _("This form belongs to an earlier run, which has been replaced."),
    Code.OLD_REV: _("This form was opened before your latest step, perhaps in another tab."),
    Code.OTHER_PAGE: _("This form belongs to another page."),
    Code.OTHER_MACHINE: _("This form was sent with the token of another form of this site."),
    Code.REUSED_TOKEN: _("This form was sent before, with other contents."),
}


def stale_form(work: UnitOfWork, page: str | None, code: Code) -> StaleFlow:
    """Return the error of a form of `page` that conflicts with the flow, for the reason `code`."""
    flow = work.flow
    if code in (Code.NOT_ON_PATH, Code.OTHER_PAGE) and flow.snapshot.cut_back:
        code = Code.PAGES_CHANGED
    allowed = allowed_states(flow)
    return StaleFlow(STALE[code], flow=flow.id, source=page, allowed=allowed, code=code)


def foreign_form(work: UnitOfWork, page: str, content: TokenContent) -> FSMError:
    """Return the error of a form of `page` whose token is not of the flow that the session names.

    A page with the token of another machine is a mistake in the app: it is logged, and in debug
    mode and under TESTING it is an error with its remedy.
    """
    name, app = work.bound.name, work.app
    others = [other for other in work.state.bound if other != name]
    other = find_machine(work.session, others, root_id(content.flow))
    if other is not None:
        text = (
            f"The form of the page {page!r} came with a token of machine {other!r}, but machine "
            f"{name!r} guards the page: in its form, call the token() of machine {name!r}."
        )
        if app.debug or app.testing:
            return FSMError(text, source=page, code=Code.OTHER_MACHINE)
        log.error("%s", text)
        return stale_form(work, page, Code.OTHER_MACHINE)
    # Of a run that is gone by itself, nobody "started again or logged in", as OTHER_FLOW says.
    if work.is_known and work.session_flow.why_gone(content.flow) in REPLACED:
        return stale_form(work, page, Code.OTHER_FLOW)
    return unnamed_flow(work, content)


def unnamed_flow(work: UnitOfWork, content: TokenContent) -> FSMError:
    """Return the error of a form whose flow the session does not name, or names no more."""
    code = work.session_flow.why_gone(content.flow)
    if code is None:
        code = Code.NOT_IN_SESSION if sends_session() else Code.NO_SESSION
    return flow_gone(None, code)


def notice_of_page(error: FSMError, *, finished: bool) -> Text:
    """Return the notice for a page that is not open, of a run that has ended or goes on."""
    if finished:
        return _("This has already been completed.")
    if error.code == Code.NOT_ON_PATH:
        return _("That page is not open now; please continue here.")
    if error.code == Code.CLOSED:
        return _("That page is closed and can no longer be changed; please continue here.")
    return error.message


def notice_of(error: FSMError) -> Text:
    """Return the notice for a flow that is gone."""
    if error.code == Code.EXPIRED:
        return _("This form was left for too long and has been closed. Please start again.")
    if error.code == Code.FINISHED:
        return notice_of_page(error, finished=True)
    return _("This form is no longer open. Please start again.")


def flash_notice(work: UnitOfWork, request: Request, notice: Text) -> None:
    """Flash a notice for a person, unless the same notice is waiting to be shown."""
    if work.state.config.flash and preferred_format(request) == "html":
        text = as_text(notice)
        pending = work.session.get("_flashes") or ()
        if not any(tuple(item) == (FLASH_CATEGORY, text) for item in pending):
            flash(text, FLASH_CATEGORY)


def tell_of_changed_pages(work: UnitOfWork, request: Request) -> None:
    """Tell a session once that a deploy has cut its path back to the page that is shown."""
    machine, session = work.bound.machine, work.session
    key = TOLD_KEY + machine.name
    if session.get(key) != machine.digest:
        session[key] = machine.digest
        flash_notice(work, request, STALE[Code.PAGES_CHANGED])
