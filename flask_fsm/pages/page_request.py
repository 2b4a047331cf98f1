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
    FlowFinished,
    FlowGone,
    FSMError,
    GuardRefused,
    NotFound,
    Reason,
    StaleFlow,
    StoreUnavailable,
    UnknownState,
    ValidationFailed,
)
from ..refusal import Circumstances, Refusal, Resend, asked_for
from ..runtime.state import AppState, behind
from ..runtime.unit_of_work import Run
from ..security.tokens import Claim, Token, new_nonce
from ..signals import denied, emit
from ..stores import Kept, RecordStore
from .redaction import Typed, resend_form, same_again, typed_fields
from .submission import Submission

__all__ = ["SAFE_METHODS", "Visit", "Visits", "no_store", "visits"]

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
FLASH_CATEGORY: Final = "fsm"
PREFETCH: Final = "prefetch"
STEP_COOKIE: Final = "fsm_step"


class Visit:
    """One request: its flow, the page it is at (None outside of guarded views), what it may do."""

    __slots__ = (
        "_begun_at",
        "_receipt",
        "_token",
        "active",
        "bound",
        "page",
        "request",
        "run",
        "state",
        "submission",
        "url_args",
    )

    def __init__(
        self, state: AppState, bound: Bound, page: str | None, url_args: Mapping[str, Any]
    ) -> None:
        self.state = state
        self.bound = bound
        self.page = page
        self.url_args = url_args
        self.submission: Submission | None = None
        self._token: tuple[Claim, Token] | None = None
        self._begun_at: tuple[str, int] | None = None
        self._receipt: Receipt | None = None
        self.active = False
        """Whether the guard of this visit is at work, so that an inner one has not to judge."""
        self.request: Request = behind(request)
        self.run = Run(state, bound, url_args)

    @property
    def flow(self) -> Flow:
        return self.run.flow

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
        run = self.run
        initial = self.bound.machine.initial
        if run.keyless and page == initial:
            # The address of a new flow; that of the page which asks for one would begin another
            # when the visitor comes back to it.
            run.hold()
            return _see_other(run.url(page, self.url_args))
        if run.gone is not None:
            run.forget()
            self.notice(_notice_of(run.gone))
            if page != initial:
                return self.turn_away(run.gone)
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
        self.notice(refusal.message if edge else "That page is not open yet; please go on here.")
        return self.turn_away(refusal)

    def _begin_again(self, page: str) -> None:
        """After the end, show a blank run on the initial page; from here on moves are counted."""
        machine = self.bound.machine
        if self.flow.finished and page == machine.initial and machine.reset == "auto":
            self.run.succeed()
        if self._begun_at is None:
            self._begun_at = self.flow.id, self.flow.rev

    def _visitable(self, page: str) -> Edge | None:
        """Find the edge that a GET may take, from the nearest page of the path that has it."""
        prefetched = any(
            PREFETCH in self.request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose")
        )
        if self.request.method != "GET" or prefetched or self.flow.finished or self.run.keyless:
            return None
        ways = self.bound.machine.ways
        for state in reversed(tuple(self.flow.path)):
            edge = ways[state].get(page)
            if edge is not None and edge.visit and self.flow.is_open(state):
                return edge
        return None

    def _visit(self, edge: Edge) -> None:
        args = self.bound.pages[edge.target].args(self.url_args)
        with self.run.turn():
            self.run.load()
            if self.flow.is_open(edge.target):
                return
            try:
                self.make(edge.target, None, edge.source, args)
            except StaleFlow as error:
                self.run.load()  # another process may have taken the same edge
                if error.code != "lost_race" or not self.flow.is_open(edge.target):
                    raise

    def turn_away(self, error: FSMError) -> Response:
        """Send the visitor to the furthest page that may be opened, or say that there is none."""
        self.deny(error)
        run = self.run
        location = run.current_url()
        if location is None and run.flow.finished and run.bound.machine.reset == "auto":
            location = run.start_url()
        if location is None:
            raise NotFound(
                "There is no page to go on with: the flow is at none, or the page where it is "
                "needs URL arguments that this address does not have.",
                flow=self.flow.id,
                code="no_page",
            )
        asked = asked_for(self.request)
        if asked == "htmx":
            return _moved_by_htmx(location)
        if asked == "json":
            where = self.circumstances(error)
            return Refusal.of(error, where).as_redirect(location)
        return _see_other(location)

    # -- unsafe requests ----------------------------------------------------------------

    def judge_post(self) -> Response | None:
        """Return the stored answer to a submission that was made before, or None to run the view.

        Raises what the first matching row of the contract's table says.
        """
        page = self.page
        assert page is not None
        run, machine = self.run, self.bound.machine
        self.submission = submission = Submission(
            self.state.config, self.request, lambda: self.state.tokens(self.run.app)
        )
        if submission.to is not None:
            submission.to = self._known_state(submission.to)
        self._begin_again(page)
        flow = self.flow
        if self.bound.pages[page].arguments and flow.is_on_path(page):
            self.check_url_args(page)
        named = (run.gone.flow if run.gone is not None else None) or run.stored.id
        submission.belong_to(named, run.was)
        claim, self._receipt = submission.claim, submission.receipt
        kept = self._kept() if run.held else None
        reused = (
            kept is not None and self._receipt is not None and (kept.digest != self._receipt.digest)
        )
        if kept is not None and kept.location is not None and not reused:
            return self.told(kept.location)
        if run.gone is not None:
            run.forget()
            raise run.gone
        if claim is not None and not run.held:
            raise FlowGone(
                "Your browser no longer knows this run: its cookie is gone. "
                "Please start again from the first page.",
                code="no_session",
            )
        theirs = (flow.id, run.was)
        if flow.finished or (claim is not None and claim.flow == run.stored.id != flow.id):
            raise FlowFinished(
                f"This run of {machine.name!r} has ended; nothing was changed.",
                flow=run.stored.id,
                source=run.stored.state,
            )
        if reused:
            raise self._stale("reused_token")
        if claim is None:
            if page != flow.current:
                raise self._stale("not_current" if flow.is_on_path(page) else "not_on_path")
        elif claim.flow not in theirs:
            raise self._stale("other_flow")
        elif claim.rev != flow.rev:
            raise self._stale("old_rev")
        elif claim.state != page:
            raise self._stale("other_page")
        elif not flow.is_open(page):
            raise self._stale("closed" if flow.is_on_path(page) else "not_on_path")
        if self._is_once(page):
            run.claim()
        return None

    def _is_once(self, page: str) -> bool:
        """Tell whether this submission may take an edge that is to be claimed before."""
        ways = self.bound.machine.ways[page]
        # Wherever the client wants to go: the view decides.
        return any(edge.once for edge in ways.values())

    def replayed(self) -> Response | None:
        """After a lost race: the winner's answer, if the same submission has won it."""
        self.run.load()
        kept = self._kept()
        if kept is None or kept.location is None or self._receipt is None:
            return None
        return self.told(kept.location) if kept.digest == self._receipt.digest else None

    def _known_state(self, name: Any) -> str:
        state = self.bound.resolve(name, self.request.endpoint) if isinstance(name, str) else None
        if state is None or state not in self.bound.machine.states:
            error = UnknownState(
                f"The field {self.state.config.to_field!r} names no page to go to.",
                allowed=tuple(self.bound.machine.ways[self.source]),
            )
            error.status = 400
            raise error
        return state

    def _kept(self) -> Kept | None:
        """Find what is kept of this submission, if it has had its effect."""
        submission, stored = self.submission, self.run.stored
        if submission is None or submission.claim is None or self._receipt is None:
            return None
        claim = submission.claim
        if self.run.gone is None and (claim.flow, claim.rev) == (stored.id, stored.rev):
            return None  # it is not older than the flow is
        kept = self.run.kept(claim, self._receipt)
        if kept is None and stored.receipt is not None:
            # Another process may have made the last commit: it led to the page that is current.
            nonce, digest = stored.receipt
            if nonce == self._receipt.nonce:
                return Kept(digest, self.run.url_of(stored))
        return kept

    def _stale(self, code: str) -> StaleFlow:
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
        return self._stale("closed" if self.flow.is_on_path(page) else "not_on_path")

    # -- views that are no pages --------------------------------------------------------

    def judge_required(self, page: str) -> None:
        """Raise StaleFlow unless the page `page` may be opened now."""
        if self.run.gone is not None:
            self.run.forget()
            raise self.run.gone
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

    def make(
        self,
        target: str,
        data: Mapping[str, Any] | None,
        source: str,
        args: str | None,
        *,
        resume: bool = False,
        location: Callable[[Flow], str | None] = lambda flow: None,
    ) -> Result:
        """Decide a transition, commit it, and return its result."""

        def decide(flow: Flow) -> list[Result]:
            results = [flow.step(target, data, source=source, args=args)]
            flow.apply(results[0])
            if resume:
                results += flow.steps_to_resume()
            return results

        result = self.run.commit(decide, self._receipt, location)[0]
        if isinstance(self.state.store, RecordStore):
            after_this_request(self._stamped)
        return result

    def _stamped(self, response: Response) -> Response:
        """Let a cookie change with each step, where the session does not.

        Chromium keeps pages for its Back button, `no-store` or not, until an HttpOnly cookie
        changes; the form on such a page would be out of date.
        """
        app, interface = self.run.app, self.run.app.session_interface
        flags = "; HttpOnly" if interface.get_cookie_httponly(app) else ""
        flags += "; Secure" if interface.get_cookie_secure(app) else ""
        path = interface.get_cookie_path(app)
        response.headers.add(
            "Set-Cookie", f"{STEP_COOKIE}={self.run.stored.rev}; Path={path}; SameSite=Lax{flags}"
        )
        return response

    def reset(self) -> None:
        """Begin a new run; the same submission, sent again, leads to its first page."""
        self.run.reset(self._receipt, self.run.start_url())

    def told(self, location: str) -> Response:
        """Say where the flow goes on, in the way the client asks for."""
        asked = asked_for(self.request)
        if asked == "htmx":
            return _moved_by_htmx(location)
        if asked == "json":
            stored = self.run.stored
            return jsonify(state=stored.state, rev=stored.rev, location=location)
        return _see_other(location)

    def token(self) -> Token:
        """Return the token for a form of this page; one for each rendering."""
        self.run.hold()
        visits().keep_private()
        flow = self.flow
        page = self.page or flow.current
        if self._token is None or self._token[0][:2] != (flow.id, flow.rev):
            claim = Claim(flow.id, flow.rev, new_nonce(), page)
            text = self.state.tokens(self.run.app).sign(claim)
            self._token = claim, Token.of(text, self.state.config.token_field)
        return self._token[1]

    def notice(self, text: str) -> None:
        """Flash `text`, unless the same notice is waiting to be shown."""
        if self.state.config.flash and asked_for(self.request) == "html":
            pending = self.run.session.get("_flashes") or ()
            if not any(tuple(item) == (FLASH_CATEGORY, text) for item in pending):
                flash(text, FLASH_CATEGORY)

    def deny(self, error: FSMError) -> None:
        """Tell the observers of a refusal."""
        flow = self.flow if self.run.loaded else None
        emit(denied, self.run.app, machine=self.bound.name, flow=flow, error=error)

    def refuse(self, error: FSMError) -> Refusal:
        """Return the HTTP exception for `error`."""
        self.deny(error)
        return Refusal.of(error, self.circumstances(error))

    def circumstances(self, error: FSMError) -> Circumstances:
        run = self.run
        if isinstance(error, StoreUnavailable) and self.request.method not in SAFE_METHODS:
            # Whether it was taken may not be known; the same form again settles it.
            sent = typed_fields(self.state.config)
            return Circumstances(self.bound.name, typed=sent.fields, resend=same_again(sent))
        if not run.loaded:
            return Circumstances(machine=self.bound.name)
        flow = run.flow
        typed = Typed([], [])
        resend: Resend | None = None
        if self.request.method not in SAFE_METHODS and isinstance(error, StaleFlow):
            typed = typed_fields(self.state.config)
            if self.page is not None and not flow.finished and flow.is_open(self.page):
                resend = resend_form(
                    self.state.config, run.url(self.page), typed.fields, self.token().value
                )
        # After an end that only a reset undoes, the first page would lead back to the last.
        over = error.status == 410 and (
            not isinstance(error, FlowFinished) or self.bound.machine.reset == "auto"
        )
        return Circumstances(
            machine=self.bound.name,
            state=flow.current,
            rev=flow.rev,
            current_url=None if run.gone is not None else run.current_url(),
            start_url=run.start_url() if over else None,
            typed=typed.fields,
            omitted=typed.omitted,
            resend=resend,
        )

    def refused_by_rule(self, error: FSMError) -> bool:
        return isinstance(error, GuardRefused) or (
            isinstance(error, ValidationFailed) and error.code == ValidationFailed.default_code
        )


STALE: Final = {
    "not_current": "You have gone on from this page since it was opened.",
    "not_on_path": "This page is not open: other pages come before it.",
    "closed": "This page is closed: what was sent on it can't be changed any more.",
    "other_flow": "This form belongs to an earlier run, which has been replaced.",
    "old_rev": "This form was opened before your latest step, perhaps in another tab.",
    "other_page": "This form belongs to another page.",
    "reused_token": "This form was sent before, with other contents.",
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
    if error.code == "expired":
        return "This form was left for too long and has been closed. Please start again."
    return "This form is no longer open. Please start again."


class Visits:
    """The visits of one request by the names of their machines, and whose guard is innermost."""

    __slots__ = ("_private", "of", "owner", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.of: dict[str, Visit] = {}
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


def visits() -> Visits:
    """Return the visits of this request. (`g` may outlive it: it belongs to the app context.)"""
    context, asking = behind(g), behind(request)
    found: Visits | None = context.get(_VISITS)
    if found is None or found.request is not asking:
        found = Visits(asking)
        setattr(context, _VISITS, found)
    return found


_VISITS: Final = "_fsm_visits"
