"""Mistakes: errors that are caused by the app's code, not by what the client has sent."""

from __future__ import annotations

from typing import Final

from flask import Request

from ..errors import Code, FSMError, InvalidTransition, NotAPage, UnknownTarget
from .decisions import PageRequest
from .submission import json_object, sent_json

__all__ = ["expose_mistake", "was_sent"]

REMEDIES: Final[dict[str, str]] = {
    Code.UNKNOWN_STATE: "Correct the name in the view.",
    Code.NO_EDGE: "Correct the name in the view, or add the edge to the machine; check(to=...) and "
    "check(accept=...) leave out edges, too.",
}


def expose_mistake(error: FSMError, request: Request, page_request: PageRequest | None) -> bool:
    """Return whether an error is a mistake in the app's code; give it the status 500 and a remedy.

    A target that the client has not named is one if it is not a state, if it has no page, or if no
    edge leads to it from the page that is served.
    """
    if not error.is_server_error:
        if not _is_about_target(error, page_request) or _is_target_sent(error, request):
            return False
        error.status = 500
        error.message = f"{error.message} {REMEDIES.get(error.code, '')}".rstrip()
    return True


def _is_about_target(error: FSMError, page_request: PageRequest | None) -> bool:
    if isinstance(error, (UnknownTarget, NotAPage)):
        return True
    if not isinstance(error, InvalidTransition) or error.code != Code.NO_EDGE:
        return False
    # Elsewhere than on a page, the edge depends on where the visitor is.
    page = None if page_request is None else page_request.page
    return (
        page_request is not None
        and page is not None
        and error.source == page
        and error.target not in page_request.bound.machine.ways[page]
    )


def _is_target_sent(error: FSMError, request: Request) -> bool:
    target = error.target
    if was_sent(request, target):
        return True
    return isinstance(target, str) and was_sent(request, target.rpartition(".")[2])


def was_sent(request: Request, value: object) -> bool:
    """Return whether the client has sent this value: in a field, in the JSON body or in the URL."""
    if value is None:
        return False
    sent: list[object] = [text for _, text in request.values.items(multi=True)]
    sent += (request.view_args or {}).values()
    sent += (*json_object(request).values(), sent_json(request))
    return any(type(each) is type(value) and each == value for each in sent)
