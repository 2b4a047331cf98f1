"""Responses in the format that the client wants: HTML, JSON, or for htmx.

A success says where the flow continues; a refusal is a page or a problem document (RFC 9457).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from flask import Flask, Request, Response, current_app, jsonify, render_template, request
from flask.sessions import SecureCookieSessionInterface
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, default_exceptions
from werkzeug.http import HTTP_STATUS_CODES, parse_set_header

from .core.reply import dump_reply
from .errors import Code, FSMError, ValidationFailed
from .texts import OwnText, _

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = [
    "DEVELOPERS_CODES",
    "Obstacle",
    "Refusal",
    "RefusalContext",
    "ResubmitForm",
    "add_step_cookie",
    "htmx_redirect",
    "is_json",
    "no_shared_cache",
    "no_store",
    "preferred_format",
    "see_other",
    "success_response",
]

ResponseFormat = Literal["html", "json", "htmx"]

JSON_TYPES: Final = re.compile(r"(application|text)/json|application/[^/]+\+json")
"""The media types of JSON, in `Accept` and of a body (WHATWG MIME Sniffing, section 4.6)."""
HTML_TYPES: Final = re.compile(r"text/html|application/xhtml\+xml")
TEMPLATES: Final = {409: "conflict", 410: "gone", 422: "refused"}
STEP_COOKIE: Final = "fsm_step"
REFUSED_CODES: Final = frozenset(
    (
        Code.NO_EDGE,
        Code.TAKEN,
        Code.SKIPPED,
        Code.GUARD,
        Code.GUARD_RAISED,
        Code.AMBIGUOUS,
        Code.NOT_A_PAGE,
        Code.NO_EVENT,
    )
)
# By the code of the error, else by its status, else by the template.
TITLES: Final[dict[int | str, OwnText]] = {
    Code.TAKEN: _("You have already taken this step"),
    Code.SKIPPED: _("Another step comes first"),
    Code.AMBIGUOUS: _("What would you like to do next?"),
    "refused": _("This step is not possible now"),
    Code.BUSY: _("One moment, please"),
    Code.CLOSED: _("This step is closed"),
    Code.NOT_ON_PATH: _("This step is not open"),
    Code.PAGES_CHANGED: _("The pages of this form have changed"),
    Code.OTHER_FLOW: _("This form is from an earlier visit"),
    Code.OTHER_PAGE: _("This form belongs to another page"),
    Code.OTHER_MACHINE: _("This form could not be accepted"),
    Code.REUSED_TOKEN: _("This form has already been sent"),
    "conflict": _("This page was out of date"),
    Code.FINISHED: _("This has already been completed"),
    Code.EXPIRED: _("This has expired"),
    Code.RESET: _("You have started again"),
    Code.MOVED: _("This continues elsewhere"),
    Code.NO_SESSION: _("Cookies are needed"),
    Code.EVICTED: _("This is no longer stored"),
    Code.BAD_SNAPSHOT: _("This can no longer be continued"),
    Code.DEFINITION: _("This can no longer be continued"),
    Code.LINK_USED: _("This link has been used"),
    Code.LINK_EXPIRED: _("This link has expired"),
    "gone": _("This form is no longer open"),
    400: _("The form could not be read"),
    403: _("This is not allowed"),
    404: _("Page not found"),
    Code.BODY_TOO_LARGE: _("That is too large"),
    413: _("That is too much to store"),
    422: _("Something needs your attention"),
    503: _("Back in a moment"),
}
# What a page says beside the messages of rules; by the same keys.
TEXTS: Final[dict[int | str, OwnText]] = {
    Code.TAKEN: _("This step can be taken only once, and you have taken it. Nothing has changed."),
    Code.SKIPPED: _(
        "Another step comes first. Continue from the current page, and you will get here later."
    ),
    Code.AMBIGUOUS: _(
        "There are several next steps. Go back to the current page and choose one of them."
    ),
    Code.NO_EDGE: _("You can't get there from the current page. Nothing has changed."),
    "refused": _("You can't take this step now. Nothing has changed."),
    Code.BAD_SNAPSHOT: _(
        "What you had started can't be read any more, perhaps because this site has been changed."
    ),
    Code.DEFINITION: _(
        "What you had started can't be read any more, perhaps because this site has been changed."
    ),
    400: _(
        "It arrived incomplete or altered, and was not processed. Open the page again and send "
        "the form from there."
    ),
    404: _("The address may be mistyped, or you may not have access to this page."),
    Code.BODY_TOO_LARGE: _(
        "What you sent is larger than this site can receive, so it was not read, and nothing has "
        "changed. To get back to your form, use the Back button of your browser; make it "
        "shorter, or choose smaller files, then send it again."
    ),
    413: _(
        "What you sent is larger than what can be stored here. Make it shorter, then send it "
        "again. Nothing has changed."
    ),
    503: _("Your answers can't be reached just now. They are not lost: try again in a minute."),
    "problem": _(
        "This could not be done, and nothing has changed. If it happens again, please tell us."
    ),
}
DEVELOPERS_CODES: Final = frozenset(
    (
        Code.NO_EDGE,
        Code.TAKEN,
        Code.SKIPPED,
        Code.AMBIGUOUS,
        Code.NOT_A_PAGE,
        Code.UNKNOWN_STATE,
        Code.NO_TOKEN,
        Code.NO_KEY,
        Code.NO_PAGE,
        Code.TOO_LARGE,
        Code.BAD_SNAPSHOT,
        Code.DEFINITION,
    )
)
"""The codes of errors whose messages are for developers, and not shown to visitors."""


def is_json(asking: Request) -> bool:
    """Return whether the body of a request is JSON, by its media type."""
    return JSON_TYPES.fullmatch(asking.mimetype) is not None


def preferred_format(asking: Request) -> ResponseFormat:
    """Return the format in which the client of a request wants its answer."""
    environ = asking.environ
    if environ.get("HTTP_HX_REQUEST") == "true":
        # To restore its history, htmx replaces the whole page, and ignores `HX-Redirect`.
        restoring = environ.get("HTTP_HX_HISTORY_RESTORE_REQUEST") == "true"
        return "html" if restoring else "htmx"
    if "json" not in f"{environ.get('HTTP_ACCEPT')} {environ.get('CONTENT_TYPE')}".lower():
        return "html"
    # By name only: programs add `*/*` to the JSON that they want, and browsers name no JSON.
    json_quality, html_quality = (_quality(asking, kinds) for kinds in (JSON_TYPES, HTML_TYPES))
    if json_quality == html_quality:
        return "json" if is_json(asking) else "html"
    return "json" if json_quality > html_quality else "html"


def _quality(asking: Request, kinds: re.Pattern[str]) -> float:
    """Return the quality that `Accept` gives one of the types, whatever their parameters.

    It is -1 for a type that is refused by `q=0`, which counts for less than one that is not named.
    """
    return max(
        (
            quality or -1
            for named, quality in asking.accept_mimetypes
            if kinds.fullmatch(named.partition(";")[0].strip().lower())
        ),
        default=0,
    )


def success_response(request: Request, location: str, state: str, rev: int) -> Response:
    """Return the response that leads to where the flow continues, in the client's format."""
    wanted = preferred_format(request)
    if wanted == "htmx":
        return htmx_redirect(location)
    if wanted == "json":
        return no_store(jsonify(state=state, rev=rev, location=location))
    return see_other(location)


def see_other(location: str) -> Response:
    """Return a 303, after which a browser gets `location`."""
    response: Response = current_app.response_class(
        "", 303, content_type="text/html; charset=utf-8"
    )
    response.headers["Location"] = location
    return response


def htmx_redirect(location: str) -> Response:
    """Return a 204 that makes htmx open `location` as a page of its own."""
    response: Response = current_app.response_class(b"", 204)
    response.headers["HX-Redirect"] = location
    return no_store(response)


def add_step_cookie(app: Flask, response: Response, rev: int) -> Response:
    """Set a cookie that changes with each step, for stores with which the session does not change.

    Chromium keeps pages for its Back button, `no-store` or not, until an HttpOnly cookie
    changes; the form on such a page would be out of date.
    """
    interface = app.session_interface
    flags = "; HttpOnly" if interface.get_cookie_httponly(app) else ""
    flags += "; Secure" if interface.get_cookie_secure(app) else ""
    path = interface.get_cookie_path(app)
    response.headers.add("Set-Cookie", f"{STEP_COOKIE}={rev}; Path={path}; SameSite=Lax{flags}")
    return response


def no_store(response: Response) -> Response:
    """Keep a response out of every cache."""
    return _with_cache_control(response, "no-store")


def no_shared_cache(response: Response, asking: Request) -> Response:
    """Keep the answer to a form out of shared caches, but let its browser show it again on Back.

    Otherwise Back leads to an error page of Chromium (ERR_CACHE_MISS), which never asks the server
    for such an answer a second time. It also drops one that varies on a cookie that has changed, as
    each step changes one; so the answer to a navigation does not vary on cookies.
    """
    # Browsers send this header with navigations only, and over plain HTTP too.
    if "Upgrade-Insecure-Requests" in asking.headers:
        finish = response.get_wsgi_headers

        def without_cookie(environ: WSGIEnvironment) -> Headers:
            headers = finish(environ)
            # Only now, since Flask adds `Vary: Cookie` when it saves the session.
            names = parse_set_header(headers.pop("Vary", None))
            if others := [name for name in names if name.lower() != "cookie"]:
                headers["Vary"] = ", ".join(others)
            return headers

        response.get_wsgi_headers = without_cookie  # type: ignore[method-assign]
    return _with_cache_control(response, "private, no-cache")


def _with_cache_control(response: Response, value: str) -> Response:
    response.headers["Cache-Control"] = value
    # Flask's own sessions add `Vary: Cookie` themselves, since this one has been read.
    if not isinstance(current_app.session_interface, SecureCookieSessionInterface):
        response.vary.add("Cookie")
    return response


Obstacle = Literal["too_large", "omitted", "csrf", "other_machine", "not_a_form", "cross_site"]
"""Why what was typed can't be sent again from a page.

`too_large`: it is too much to look at; `omitted`: the page must not show all of it; `csrf`: its
CSRF token can't be renewed; `other_machine`: it has tokens of several machines; `not_a_form`: an
HTML form can't send it; `cross_site`: another site has sent it.
"""


@dataclass(frozen=True)
class ResubmitForm:
    """A form that submits again what was typed.

    Args:
        fields: The names and values of all its fields, in order.
        files: The names of the file fields in which no file was chosen.
        editable: The names of the fields that are to be made shorter first.
        action: The URL; empty where the URL of the page itself is meant.
        method: The method.
    """

    fields: Sequence[tuple[str, str]]
    files: Sequence[str] = ()
    editable: Sequence[str] = ()
    action: str = ""
    method: str = "post"

    @property
    def enctype(self) -> str:
        """The content type in which the form is sent."""
        return "multipart/form-data" if self.files else "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class RefusalContext:
    """Where the flow is, and what was submitted, when a request is refused."""

    machine: str | None = None
    state: str | None = None
    rev: int | None = None
    allowed: Sequence[str] = ()
    """The states to which the flow may go from `state`."""
    page_url: str | None = None
    """The URL of the page whose form was refused, if it may be opened to fill it in again."""
    current_url: str | None = None
    start_url: str | None = None
    submitted: Sequence[tuple[str, str]] = ()
    omitted: Sequence[str] = ()
    labels: Mapping[str | tuple[str, str], str] = field(default_factory=dict)
    """The labels of fields by name, and those of chosen values by name and value."""
    unshown: int = 0
    """How many fields are neither in `submitted` nor in `omitted`, since there are too many."""
    resubmit: ResubmitForm | None = None
    obstacle: Obstacle | None = None
    """Why there is no `resubmit`, although the page takes the form again; else None."""


class Refusal(HTTPException):
    """An FSMError as an HTTP exception, which `errorhandler(409)` and the like can replace.

    Attributes:
        error (FSMError): What was refused, and why.
        context (RefusalContext): Where the flow is, and what was submitted.
    """

    @staticmethod
    def of(error: FSMError, context: RefusalContext) -> Refusal:
        """Return a refusal of the class that Flask looks up for `errorhandler(error.status)`."""
        return _KINDS.get(error.status, Refusal)(error, context)

    def __init__(self, error: FSMError, context: RefusalContext) -> None:
        super().__init__(error.message)
        self.code: int = error.status
        self.error = error
        self.context = context

    @property
    def template(self) -> str:
        """The name of the default page, without its ending."""
        if self.error.code == Code.BUSY:
            return "conflict"
        if self.error.status == 409 and self.error.code in REFUSED_CODES:
            return "refused"
        return TEMPLATES.get(self.error.status, "problem")

    @property
    def title(self) -> str:
        """A heading for people."""
        title = self._found_in(TITLES)
        return title or HTTP_STATUS_CODES.get(self.error.status) or str(_("Something went wrong"))

    @property
    def text(self) -> str:
        """What the page says of it; empty if that is written in its template."""
        return self._found_in(TEXTS) or ""

    @property
    def detail(self) -> str:
        """What happened, for visitors: the error's message, unless that is for developers."""
        error = self.error
        return (self.text if error.code in DEVELOPERS_CODES else "") or error.message

    def _found_in(self, texts: Mapping[int | str, OwnText]) -> str | None:
        keys = (self.error.code, self.error.status, self.template)
        return next((str(texts[key]) for key in keys if key in texts), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the members of the problem document."""
        error, where = self.error, self.context
        fields = error.fields if isinstance(error, ValidationFailed) else {}
        document = {
            "type": "about:blank",
            "title": self.title,
            "status": error.status,
            "detail": self.detail,
            "state": where.state,
            "rev": where.rev,
            "allowed": list(where.allowed),
            "reason": error.reason,
            "reasons": [reason._asdict() for reason in error.reasons],
            "fields": fields,
            "location": where.current_url or where.start_url,
        }
        if isinstance(error, ValidationFailed):
            document["messages"] = error.messages
        return document

    def as_redirect(self, location: str) -> Response:
        """Return the problem document as a redirect to another page, for a program."""
        document = {**self.to_dict(), "status": 303, "location": location}
        response: Response = current_app.response_class(
            dump_reply(document), 303, content_type="application/problem+json"
        )
        response.headers["Location"] = location
        return response

    def get_response(self, environ: Any = None, scope: Any = None) -> Response:
        asked = preferred_format(request)
        if asked == "json":
            body, kind = dump_reply(self.to_dict()), "application/problem+json"
        else:
            where = self.context
            body = render_template(
                f"fsm/{self.template}.html",
                error=self.error,
                status=self.error.status,
                title=self.title,
                text=self.text,
                detail=self.detail,
                sent=request.method not in ("GET", "HEAD"),
                machine=where.machine,
                state=where.state,
                page_url=where.page_url,
                current_url=where.current_url,
                start_url=where.start_url,
                typed=where.submitted,
                omitted=where.omitted,
                labels=where.labels,
                unshown=where.unshown,
                resend=where.resubmit,
                obstacle=where.obstacle,
            )
            kind = "text/html; charset=utf-8"
        response: Response = current_app.response_class(body, self.error.status, content_type=kind)
        if self.error.retry_after is not None:
            response.headers["Retry-After"] = str(self.error.retry_after)
        if asked == "htmx":
            # If an app lets htmx swap error answers, the page replaces the whole body.
            response.headers["HX-Retarget"] = "body"
            response.headers["HX-Reswap"] = "innerHTML"
        return response


# Flask looks up the handler of a status by the exception class of Werkzeug.
_KINDS: Final[dict[int, type[Refusal]]] = {
    status: type(f"Refusal{status}", (Refusal, default_exceptions[status]), {})
    for status in (400, 403, 404, 409, 410, 413, 422, 503)
}
