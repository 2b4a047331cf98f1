"""Notices: what a visitor is told of a page that is not open, or a form that is out of date."""

from __future__ import annotations

from typing import Final

from flask import Request, flash

from ..errors import Code, FSMError
from ..responses import preferred_format
from ..runtime.unit_of_work import UnitOfWork
from ..texts import Text, _, as_text

__all__ = ["STALE", "flash_notice", "notice_of", "notice_of_page", "tell_of_changed_pages"]

FLASH_CATEGORY: Final = "fsm"
TOLD_KEY: Final = "_fsmtold_"
"""Prefix of the session's keys with the digest of the definition that a visitor was told of."""
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
    Code.REUSED_TOKEN: _("This form was sent before, with other contents."),
}


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
