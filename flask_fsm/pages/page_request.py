"""A visit: one request at one machine's pages, judged by the tables of the HTTP contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import (
    Request,
    Response,
    after_this_request,
    current_app,
    flash,
    g,
    jsonify,
    request,
)
from flask.sessions import SecureCookieSessionInterface

from ..binding.bound_machine import Bound
from ..core.flow import Flow, Result
from ..core.machine import Edge
from ..core.snapshot import Receipt
from ..errors import (
    Code,
    FlowBusy,
    FlowFinished,
    FlowGone,
    FSMError,
    GuardRefused,
    NotFound,
    Reason,
    StaleFlow,
    StoreUnavailable,
    UnknownTarget,
    ValidationFailed,
)
from ..refusal import Refusal, RefusalContext, ResubmitForm, preferred_format
from ..runtime.state import AppState, unwrap
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import Token, TokenContent, new_nonce
from ..signals import denied, emit
from ..stores import RecordStore, StoredReply
from .redaction import SubmittedFields, identical_form, renewed_form, shown_fields
from .submission import Submission
from .urls import FlowURLs

__all__ = ["SAFE_METHODS", "PageRequest", "PageRequests", "no_store", "page_requests"]

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
FLASH_CATEGORY: Final = "fsm"
PREFETCH: Final = "prefetch"
STEP_COOKIE: Final = "fsm_step"


class PageRequest:
    """One request: its flow, the page it is at (None outside of guarded views), what it may do."""

    __slots__ = (
        "_begun_at",
        "_receipt",
        "_token",
        "active",
        "bound",
        "page",
        "request",
        "state",
        "submission",
        "url_args",
        "urls",
        "work",
    )

    def __init__(
        self, state: AppState, bound: Bound, page: str | None, url_args: Mapping[str, Any]
    ) -> None:
        self.state = state
        self.bound = bound
        self.page = page
        self.url_args = url_args
        self.submission: Submission | None = None
        self._token: tuple[TokenContent, Token] | None = None
        self._begun_at: tuple[str, int] | None = None
        self._receipt: Receipt | None = None
        self.active = False
        """Whether the guard of this visit is at work, so that an inner one has not to judge."""
        self.request: Request = unwrap(request)
        self.work = UnitOfWork(state, bound, url_args)
        self.urls = FlowURLs(self.work)

    @property
    def flow(self) -> Flow:
        return self.work.flow

    @property
    def source(self) -> str:
        """The page that a transition leaves: this one at first, then the one it led to."""
        page = self.page
        flow = self.flow
        if page is None or self._begun_at != (flow.id, flow.rev) or not flow.is_on_path(page):
            return self.flow.current
        return page

    # -- safe requests ------------------------------------------------------------------

    def judge_get(self) -> Response | None:
        """Return the answer to a GET that may not see this page, or None to run its view."""
        page = self.page
        assert page is not None
        work = self.work
        initial = self.bound.machine.initial
        if work.needs_key and page == initial:
            # The address of a new flow; that of the page which asks for one would begin another
            # when the visitor comes back to it.
            work.remember()
            return _see_other(self.urls.url(page, self.url_args))
        if work.missing_reason is not None:
            work.forget()
            self.flash_once(_notice_of(work.missing_reason))
            if page != initial:
                return self.redirect_away(work.missing_reason)
        self._begin_again(page)
        if self.flow.is_open(page):
            self.check_url_args(page)
            return None
        refusal: FSMError | None = None
        edge = self._visitable(page)
        if edge is not None:
            try:
                self._visit(edge)
                return None
            except FSMError as error:
                if error.status >= 500:
                    raise
                refusal = error
        if refusal is None:
            refusal = self._not_open(page)
        self.flash_once(
            refusal.message if edge else "That page is not open yet; please go on here."
        )
        return self.redirect_away(refusal)

    def _begin_again(self, page: str) -> None:
        """After the end, show a blank run on the initial page; from here on moves are counted."""
        machine = self.bound.machine
        if self.flow.finished and page == machine.initial and machine.reset == "auto":
            self.work.start_next_run()
        if self._begun_at is None:
            self._begun_at = self.flow.id, self.flow.rev

    def _visitable(self, page: str) -> Edge | None:
        """Find the edge that a GET may take, from the nearest page of the path that has it."""
        prefetched = any(
            PREFETCH in self.request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose")
        )
        if self.request.method != "GET" or prefetched or self.flow.finished or self.work.needs_key:
            return None
        ways = self.bound.machine.ways
        for state in reversed(tuple(self.flow.path)):
            edge = ways[state].get(page)
            if edge is not None and edge.visit and self.flow.is_open(state):
                return edge
        return None

    def _visit(self, edge: Edge) -> None:
        args = self.bound.pages[edge.target].args(self.url_args)
        with self.work.lock():
            self.work.load()
            if self.flow.is_open(edge.target):
                return
            try:
                self.transition(edge.target, None, edge.source, args)
            except (StaleFlow, FlowBusy) as error:
                self.work.load()  # another process may have taken the same edge
                if error.code != Code.LOST_RACE or not self.flow.is_open(edge.target):
                    raise

    def redirect_away(self, error: FSMError) -> Response:
        """Send the visitor to the furthest page that may be opened, or say that there is none."""
        self.deny(error)
        work = self.work
        location = self.urls.current_url()
        if location is None and work.flow.finished and work.bound.machine.reset == "auto":
            location = self.urls.start_url()
        if location is None:
            raise NotFound(
                "There is no page to go on with: the flow is at none, or the page where it is "
                "needs URL arguments that this address does not have.",
                flow=self.flow.id,
                code=Code.NO_PAGE,
            )
        asked = preferred_format(self.request)
        if asked == "htmx":
            return _moved_by_htmx(location)
        if asked == "json":
            where = self.refusal_context(error)
            return Refusal.of(error, where).as_redirect(location)
        return _see_other(location)

    # -- unsafe requests ----------------------------------------------------------------

    def judge_post(self) -> Response | None:
        """Return the stored answer to a submission that was made before, or None to run the view.

        Raises what the first matching row of the contract's table says.
        """
        page = self.page
        assert page is not None
        work, machine = self.work, self.bound.machine
        self.submission = submission = Submission(
            self.state.config, self.request, lambda: self.state.tokens(self.work.app)
        )
        if submission.to is not None:
            submission.to = self._known_state(submission.to)
        self._begin_again(page)
        flow = self.flow
        if self.bound.pages[page].arguments and flow.is_on_path(page):
            self.check_url_args(page)
        named = (
            work.missing_reason.flow if work.missing_reason is not None else None
        ) or work.persisted.id
        submission.select_token(named, work.previous_id)
        claim, self._receipt = submission.content, submission.receipt
        kept = self._stored_reply() if work.is_known else None
        reused = (
            kept is not None and self._receipt is not None and (kept.digest != self._receipt.digest)
        )
        if kept is not None and kept.location is not None and not reused:
            return self.success_response(kept.location)
        if work.missing_reason is not None:
            work.forget()
            raise work.missing_reason
        if claim is not None and not work.is_known:
            raise FlowGone(
                "Your browser no longer knows this run: its cookie is gone. "
                "Please start again from the first page.",
                code=Code.NO_SESSION,
            )
        theirs = (flow.id, work.previous_id)
        if flow.finished or (claim is not None and claim.flow == work.persisted.id != flow.id):
            raise FlowFinished(
                f"This run of {machine.name!r} has ended; nothing was changed.",
                flow=work.persisted.id,
                source=work.persisted.state,
            )
        if reused:
            raise self._stale(Code.REUSED_TOKEN)
        if claim is None:
            if page != flow.current:
                raise self._stale(Code.NOT_CURRENT if flow.is_on_path(page) else Code.NOT_ON_PATH)
        elif claim.flow not in theirs:
            raise self._stale(Code.OTHER_FLOW)
        elif claim.rev != flow.rev:
            raise self._stale(Code.OLD_REV)
        elif claim.state != page:
            raise self._stale(Code.OTHER_PAGE)
        elif not flow.is_open(page):
            raise self._stale(Code.CLOSED if flow.is_on_path(page) else Code.NOT_ON_PATH)
        if self._is_once(page):
            work.acquire_lease()
        return None

    def _is_once(self, page: str) -> bool:
        """Tell whether this submission may take an edge that is to be claimed before."""
        ways = self.bound.machine.ways[page]
        # Wherever the client wants to go: the view decides.
        return any(edge.once for edge in ways.values())

    def replay(self) -> Response | None:
        """After a lost race: the winner's answer, if the same submission has won it."""
        self.work.load()
        kept = self._stored_reply()
        if kept is None or kept.location is None or self._receipt is None:
            return None
        return self.success_response(kept.location) if kept.digest == self._receipt.digest else None

    def _known_state(self, name: Any) -> str:
        state = self.bound.resolve(name, self.request.endpoint) if isinstance(name, str) else None
        if state is None or state not in self.bound.machine.states:
            raise UnknownTarget(
                f"The field {self.state.config.to_field!r} names no page to go to.",
                allowed=tuple(self.bound.machine.ways[self.source]),
            )
        return state

    def _stored_reply(self) -> StoredReply | None:
        """Find what is kept of this submission, if it has had its effect."""
        submission, stored = self.submission, self.work.persisted
        if submission is None or submission.content is None or self._receipt is None:
            return None
        claim = submission.content
        if self.work.missing_reason is None and (claim.flow, claim.rev) == (stored.id, stored.rev):
            return None  # it is not older than the flow is
        kept = self.work.stored_reply(claim, self._receipt)
        if kept is None and stored.receipt is not None:
            # Another process may have made the last commit: it led to the page that is current.
            nonce, digest = stored.receipt
            if nonce == self._receipt.nonce:
                return StoredReply(digest, self.urls.url_of(stored))
        return kept

    def _stale(self, code: Code) -> StaleFlow:
        flow = self.flow
        return StaleFlow(
            STALE[code],
            flow=flow.id,
            source=self.page,
            allowed=(flow.current,),
            code=code,
            reasons=[Reason(code, STALE[code])],
        )

    def _not_open(self, page: str) -> StaleFlow:
        return self._stale(Code.CLOSED if self.flow.is_on_path(page) else Code.NOT_ON_PATH)

    # -- views that are no pages --------------------------------------------------------

    def judge_required(self, page: str) -> None:
        """Raise StaleFlow unless the page `page` may be opened now."""
        if self.work.missing_reason is not None:
            self.work.forget()
            raise self.work.missing_reason
        self._begin_again(page)
        if not self.flow.is_open(page):
            raise self._not_open(page)

    # -- both ---------------------------------------------------------------------------

    def check_url_args(self, page: str) -> None:
        """Raise NotFound if the URL arguments are not those with which the page was reached."""
        shown = self.bound.pages[page]
        on_path, here = self.flow.args(page), shown.args(self.url_args)
        if on_path != here and (
            self.request.endpoint == shown.endpoint
            or not shown.agree(on_path, here)  # a second endpoint may have fewer arguments
        ):
            raise NotFound("There is no such page.", flow=self.flow.id, target=page)

    def transition(
        self,
        target: str,
        data: Mapping[str, Any] | None,
        source: str,
        args: str | None,
        *,
        fast_forward: bool = False,
        location: Callable[[Flow], str | None] = lambda flow: None,
    ) -> Result:
        """Decide a transition, commit it, and return its result."""

        def decide(flow: Flow) -> list[Result]:
            results = [flow.step(target, data, source=source, args=args)]
            flow.apply(results[0])
            if fast_forward:
                results += flow.fast_forward_steps()
            return results

        result = self.work.commit(decide, self._receipt, location)[0]
        if isinstance(self.state.store, RecordStore):
            after_this_request(self._set_step_cookie)
        return result

    def _set_step_cookie(self, response: Response) -> Response:
        """Let a cookie change with each step, where the session does not.

        Chromium keeps pages for its Back button, `no-store` or not, until an HttpOnly cookie
        changes; the form on such a page would be out of date.
        """
        app, interface = self.work.app, self.work.app.session_interface
        flags = "; HttpOnly" if interface.get_cookie_httponly(app) else ""
        flags += "; Secure" if interface.get_cookie_secure(app) else ""
        path = interface.get_cookie_path(app)
        response.headers.add(
            "Set-Cookie",
            f"{STEP_COOKIE}={self.work.persisted.rev}; Path={path}; SameSite=Lax{flags}",
        )
        return response

    def reset(self) -> None:
        """Begin a new run; the same submission, sent again, leads to its first page."""
        self.work.reset(self._receipt, self.urls.start_url())

    def success_response(self, location: str) -> Response:
        """Say where the flow goes on, in the way the client asks for."""
        asked = preferred_format(self.request)
        if asked == "htmx":
            return _moved_by_htmx(location)
        if asked == "json":
            stored = self.work.persisted
            return jsonify(state=stored.state, rev=stored.rev, location=location)
        return _see_other(location)

    def token(self) -> Token:
        """Return the token for a form of this page; one for each rendering."""
        self.work.remember()
        page_requests().keep_private()
        flow = self.flow
        page = self.page or flow.current
        if self._token is None or self._token[0][:2] != (flow.id, flow.rev):
            claim = TokenContent(flow.id, flow.rev, new_nonce(), page)
            text = self.state.tokens(self.work.app).sign(claim)
            self._token = claim, Token.of(text, self.state.config.token_field)
        return self._token[1]

    def flash_once(self, text: str) -> None:
        """Flash `text`, unless the same notice is waiting to be shown."""
        if self.state.config.flash and preferred_format(self.request) == "html":
            pending = self.work.session.get("_flashes") or ()
            if not any(tuple(item) == (FLASH_CATEGORY, text) for item in pending):
                flash(text, FLASH_CATEGORY)

    def deny(self, error: FSMError) -> None:
        """Tell the observers of a refusal."""
        flow = self.flow if self.work.loaded else None
        emit(denied, self.work.app, machine=self.bound.name, flow=flow, error=error)

    def refuse(self, error: FSMError) -> Refusal:
        """Return the HTTP exception for `error`."""
        self.deny(error)
        return Refusal.of(error, self.refusal_context(error))

    def refusal_context(self, error: FSMError) -> RefusalContext:
        work = self.work
        if isinstance(error, StoreUnavailable) and self.request.method not in SAFE_METHODS:
            # Whether it was taken may not be known; the same form again settles it.
            sent = shown_fields(self.state.config)
            return RefusalContext(
                self.bound.name, submitted=sent.fields, resubmit=identical_form(sent)
            )
        if not work.loaded:
            return RefusalContext(machine=self.bound.name)
        flow = work.flow
        typed = SubmittedFields([], [])
        resend: ResubmitForm | None = None
        if self.request.method not in SAFE_METHODS and isinstance(error, (StaleFlow, FlowBusy)):
            typed = shown_fields(self.state.config)
            if self.page is not None and not flow.finished and flow.is_open(self.page):
                resend = renewed_form(
                    self.state.config, self.urls.url(self.page), typed.fields, self.token().value
                )
        # After an end that only a reset undoes, the first page would lead back to the last.
        over = error.status == 410 and (
            not isinstance(error, FlowFinished) or self.bound.machine.reset == "auto"
        )
        return RefusalContext(
            machine=self.bound.name,
            state=flow.current,
            rev=flow.rev,
            current_url=None if work.missing_reason is not None else self.urls.current_url(),
            start_url=self.urls.start_url() if over else None,
            submitted=typed.fields,
            omitted=typed.omitted,
            resubmit=resend,
        )

    def refused_by_rule(self, error: FSMError) -> bool:
        return isinstance(error, GuardRefused) or (
            isinstance(error, ValidationFailed) and error.code == ValidationFailed.default_code
        )


STALE: Final = {
    Code.NOT_CURRENT: "You have gone on from this page since it was opened.",
    Code.NOT_ON_PATH: "This page is not open: other pages come before it.",
    Code.CLOSED: "This page is closed: what was sent on it can't be changed any more.",
    Code.OTHER_FLOW: "This form belongs to an earlier run, which has been replaced.",
    Code.OLD_REV: "This form was opened before your latest step, perhaps in another tab.",
    Code.OTHER_PAGE: "This form belongs to another page.",
    Code.REUSED_TOKEN: "This form was sent before, with other contents.",
}


def _see_other(location: str) -> Response:
    response: Response = current_app.response_class(
        "", 303, content_type="text/html; charset=utf-8"
    )
    response.headers["Location"] = location
    return response


def _moved_by_htmx(location: str) -> Response:
    response: Response = current_app.response_class(b"", 204)
    response.headers["HX-Redirect"] = location
    return response


def _notice_of(error: FSMError) -> str:
    if error.code == Code.EXPIRED:
        return "This form was left for too long and has been closed. Please start again."
    return "This form is no longer open. Please start again."


class PageRequests:
    """The visits of one request by the names of their machines, and whose guard is innermost."""

    __slots__ = ("_private", "of", "owner", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.of: dict[str, PageRequest] = {}
        self.owner: object = None
        self._private = False

    def keep_private(self) -> None:
        """Keep the answer out of every cache: it depends on a flow."""
        if not self._private:
            self._private = True
            after_this_request(no_store)


def no_store(response: Response) -> Response:
    """Keep an answer out of every cache."""
    response.headers["Cache-Control"] = "no-store"
    # Flask's own sessions say so themselves, for this one has been read.
    if not isinstance(current_app.session_interface, SecureCookieSessionInterface):
        response.vary.add("Cookie")
    return response


def page_requests() -> PageRequests:
    """Return the visits of this request. (`g` may outlive it: it belongs to the app context.)"""
    context, asking = unwrap(g), unwrap(request)
    found: PageRequests | None = context.get(_VISITS)
    if found is None or found.request is not asking:
        found = PageRequests(asking)
        setattr(context, _VISITS, found)
    return found


_VISITS: Final = "_fsm_visits"
