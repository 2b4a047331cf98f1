"""Decisions: what a request to a guarded page gets, by the tables of the HTTP contract.

The code follows the order of the rows of docs/http.rst: the answer to a GET, and for a POST whether
its form was handled before (a double click), its run has ended (410 Gone), or it conflicts with
what has happened since the form was opened (409 Conflict).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flask import Request, Response, after_this_request, g, request

from ..binding.bound_machine import Bound
from ..core.flow import Flow, Result
from ..core.machine import Edge
from ..errors import (
    Code,
    FlowBusy,
    FlowFinished,
    FSMError,
    NotFound,
    StaleFlow,
)
from ..responses import (
    Refusal,
    add_step_cookie,
    htmx_redirect,
    no_shared_cache,
    no_store,
    preferred_format,
    see_other,
    success_response,
)
from ..runtime.app_state import AppState, unwrap
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import Token, TokenContent, new_nonce
from ..signals import denied, emit
from ..stores import RecordStore, StoredReply
from ..texts import _
from .notices import (
    flash_notice,
    foreign_form,
    notice_of,
    notice_of_page,
    stale_form,
    tell_of_changed_pages,
)
from .prefetch import looks_ahead
from .refusal import log_for_developers, refusal_context
from .submission import SAFE_METHODS, Submission, earlier_reply
from .urls import FlowURLs

__all__ = ["SERVED", "PageRequest", "PageRequests", "keep_private", "page_requests"]

# A key in the environ of requests that Flask serves: not of `test_request_context()`, and not of
# the context in which an event of a websocket is handled.
SERVED: Final = "flask_fsm.served"


class PageRequest:
    """One request: its flow, the page it is at (None outside of guarded views), what it may do."""

    __slots__ = (
        "_begun_at",
        "_token",
        "active",
        "bound",
        "page",
        "request",
        "state",
        "submission",
        "url_args",
        "work",
    )

    def __init__(
        self, state: AppState, bound: Bound, page: str | None, url_args: Mapping[str, Any]
    ) -> None:
        self.state: AppState = state
        self.bound: Bound = bound
        self.page: str | None = page
        self.url_args: Mapping[str, Any] = url_args
        self.submission: Submission | None = None
        self._token: tuple[TokenContent, Token] | None = None
        self._begun_at: tuple[str, int] | None = None
        self.active: bool = False
        """Whether a guard of this machine is already at work, so that an inner one decides less."""
        self.request: Request = unwrap(request)
        self.work: UnitOfWork = UnitOfWork(state, bound, url_args)
        safe = self.request.method in SAFE_METHODS
        self.work.read_only = safe and SERVED in self.request.environ

    @property
    def flow(self) -> Flow:
        return self.work.flow

    @property
    def urls(self) -> FlowURLs:
        """The URLs of the flow's pages, for the requests that link to one."""
        return FlowURLs(self.work)

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
            # The URL of a new flow. Without its key the page would begin another flow each time
            # that the visitor returns to it.
            work.remember()
            return see_other(self.urls.url(page, self.url_args))
        if work.missing_reason is not None:
            work.forget()
            flash_notice(work, self.request, notice_of(work.missing_reason))
            if page != initial:
                return self.redirect_away(work.missing_reason)
        self._begin_again(page)
        if self.flow.is_open(page):
            self.check_url_args(page)
            if self.flow.snapshot.cut_back and page == self.flow.current:
                tell_of_changed_pages(work, self.request)
            if self.state.live is not None:
                work.remember()  # so that its sockets and streams, opened in any order, have it too
            return None
        refusal: FSMError | None = None
        edge = self._visitable(page)
        if edge is not None:
            try:
                self._visit(edge)
                return None
            except FSMError as error:
                if error.is_server_error:
                    raise
                refusal = error
        if refusal is None:
            refusal = self._not_open(page)
        text = notice_of_page(refusal, finished=self.flow.finished)
        if not looks_ahead(self.request):
            flash_notice(work, self.request, text)
        return self.redirect_away(refusal)

    def _begin_again(self, page: str) -> None:
        """After the end, show a blank run on the initial page; record where this request began."""
        machine = self.bound.machine
        if self.flow.finished and page == machine.initial and machine.reset == "auto":
            self.work.start_next_run()
        if self._begun_at is None:
            self._begun_at = self.flow.id, self.flow.rev

    def _visitable(self, page: str) -> Edge | None:
        """Find the `visit=True` edge to take, out of the nearest page of the path that has one."""
        if looks_ahead(self.request) or self.flow.finished or self.work.needs_key:
            return None
        ways = self.bound.machine.made  # an edge that does not exist yet is no visit
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
            self.work.read_only = False  # for the hooks of this edge, too
            try:
                self.transition(edge.target, None, edge.source, args)
            except (StaleFlow, FlowBusy) as error:
                self.work.load()  # another process may have taken the same edge
                if error.code != Code.LOST_RACE or not self.flow.is_open(edge.target):
                    raise
            finally:
                self.work.read_only = True

    def redirect_away(self, error: FSMError) -> Response:
        """Redirect to the furthest page that may be opened; raise NotFound if there is none."""
        self.deny(error)
        work = self.work
        location = self.urls.current_url()
        if location is None and work.flow.finished and work.bound.machine.reset == "auto":
            location = self.urls.start_url()
        if location is None:
            raise NotFound(
                "There is no page to continue with: the flow's state has no page, or its page "
                "needs URL arguments that this URL does not have.",
                flow=self.flow.id,
                code=Code.NO_PAGE,
            )
        wanted = preferred_format(self.request)
        if wanted == "htmx":
            return htmx_redirect(location)
        if wanted == "json":
            return self._refusal(error).as_redirect(location)
        return see_other(location)

    # -- unsafe requests ----------------------------------------------------------------

    def judge_post(self) -> Response | None:
        """Return the stored reply to a submission that was handled before, or None to run the view.

        Raises the error of the first row of the contract's table that matches.
        """
        page = self.page
        assert page is not None
        work, machine = self.work, self.bound.machine
        self.submission = submission = Submission(
            self.state.config, self.request, lambda: self.state.tokens(self.work.app)
        )
        self._begin_again(page)
        flow = self.flow
        if self.bound.pages[page].arguments and flow.is_on_path(page):
            self.check_url_args(page)
        named = (
            work.missing_reason.flow if work.missing_reason is not None else None
        ) or work.persisted.id
        submission.select_token(named, work.previous_id)
        earlier = earlier_reply(submission, work)
        reused = earlier is not None and earlier.reused
        if earlier is not None and earlier.reply.location is not None and not reused:
            return self._repeat(earlier.reply)
        if work.missing_reason is not None:
            work.forget()
            raise work.missing_reason
        content = submission.content
        if content is not None and not work.is_known:
            raise foreign_form(work, page, content)
        theirs = (flow.id, work.previous_id)
        if flow.finished or (content is not None and content.flow == work.persisted.id != flow.id):
            raise FlowFinished(
                _(
                    "This run of %(machine)s has ended; nothing was changed.",
                    machine=repr(machine.name),
                ),
                flow=work.persisted.id,
                source=work.persisted.state,
            )
        if reused:
            raise self._stale(Code.REUSED_TOKEN)
        if content is None:
            if page != flow.current:
                raise self._stale(Code.NOT_CURRENT if flow.is_on_path(page) else Code.NOT_ON_PATH)
        elif content.flow not in theirs:
            raise foreign_form(work, page, content)
        elif content.rev != flow.rev:
            raise self._stale(Code.OLD_REV)
        elif content.state != page:
            raise self._stale(Code.OTHER_PAGE)
        elif not flow.is_open(page):
            raise self._not_open(page)
        submission.make_receipt()
        if self._is_once(page):
            work.acquire_lease()
        return None

    def _is_once(self, page: str) -> bool:
        """Return whether the view may take an edge with `once=True`, which requires the lease."""
        # Any edge of the page counts, since the view decides which one it takes.
        return page in self.bound.machine.once_sources

    def replay(self) -> Response | None:
        """After a lost race: return the winner's answer, if the winner was the same submission."""
        self.work.load()
        earlier = earlier_reply(self.submission, self.work)
        if earlier is None or earlier.reused or earlier.reply.location is None:
            return None
        return self._repeat(earlier.reply)

    def _repeat(self, reply: StoredReply) -> Response:
        """Return the response that a submission got the first time."""
        location = reply.location or ""
        if reply.state is None or reply.rev is None:
            return self.success_response(location)
        return success_response(self.request, location, reply.state, reply.rev)

    def _stale(self, code: Code) -> StaleFlow:
        return stale_form(self.work, self.page, code)

    def _not_open(self, page: str) -> StaleFlow:
        closed = self.flow.finished or self.flow.is_on_path(page)
        return self._stale(Code.CLOSED if closed else Code.NOT_ON_PATH)

    # -- views that are not pages -------------------------------------------------------

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
        if on_path == here:
            return
        # A second endpoint may have fewer arguments; and an event may not have named all of them.
        fewer = self.request.endpoint != shown.endpoint or not shown.is_complete(on_path)
        if not shown.matches(on_path, here, partly=fewer):
            raise NotFound(_("There is no such page."), flow=self.flow.id, target=page)

    def transition(
        self,
        target: str,
        data: Mapping[str, Any] | None,
        source: str,
        args: str | None,
        *,
        fast_forward: bool = False,
        accepted: bool = False,
        location: Callable[[Flow], str | None] = lambda flow: None,
    ) -> Result:
        """Decide a transition, commit it, and return its result."""

        def decide(flow: Flow) -> list[Result]:
            results = [flow.step(target, data, source=source, args=args, accepted=accepted)]
            flow.apply(results[0])
            if fast_forward:
                results += flow.fast_forward_steps()
            return results

        receipt = None if self.submission is None else self.submission.receipt
        work = self.work
        result = work.commit(decide, receipt, location)[0]
        if isinstance(self.state.store, RecordStore):
            after_this_request(
                lambda response: add_step_cookie(work.app, response, work.persisted.rev)
            )
        return result

    def reset(self) -> None:
        """Begin a new run; the same submission, sent again, is redirected to its first page."""
        receipt = None if self.submission is None else self.submission.receipt
        self.work.reset(receipt, self.urls.start_url())

    def success_response(self, location: str) -> Response:
        """Return the response that leads to where the flow continues, in the client's format."""
        stored = self.work.persisted
        return success_response(self.request, location, stored.state, stored.rev)

    def token(self) -> Token:
        """Return the token for a form of this page; one for each rendering."""
        requests = page_requests()
        if requests.streaming and not (requests.private and self.work.is_known):
            raise FSMError(
                f"This response is a stream whose headers have been sent, so no cookie can name "
                f"the flow of machine {self.bound.name!r} any more, and the form would be refused: "
                f"call fsm.token() in the view, before it returns the stream.",
                code=Code.RESPONSE_BEGUN,
            )
        self.work.remember()
        keep_private(requests)
        flow = self.flow
        page = self.page or flow.current
        if self._token is None or self._token[0][:2] != (flow.id, flow.rev):
            content = TokenContent(flow.id, flow.rev, new_nonce(), page)
            text = self.state.tokens(self.work.app).sign(content)
            self._token = content, Token.of(text, self.state.config.token_field)
        return self._token[1]

    def deny(self, error: FSMError) -> None:
        """Send the signal `denied`, and log what is for developers only."""
        log_for_developers(error, self.request)
        flow = self.flow if self.work.loaded else None
        emit(denied, self.work.app, machine=self.bound.name, flow=flow, error=error)

    def refuse(self, error: FSMError) -> Refusal:
        """Return the HTTP exception for `error`."""
        refusal = self._refusal(error)
        self.deny(error)  # with the flow that the refusal is about
        return refusal

    def _refusal(self, error: FSMError) -> Refusal:
        context = refusal_context(error, self.request, self.work, self.page, self.token)
        return Refusal.of(error, context)


@dataclass(slots=True)
class PageRequests:
    """The page requests of one request by machine, and the views of the innermost guard."""

    request: Request
    of: dict[str, PageRequest] = field(default_factory=dict)
    owner: object = None
    private: bool = False
    """Whether the response is kept out of caches."""
    view_answered: bool = False
    """Whether a view has answered a form with a response of its own."""
    has_body: bool = False
    """Whether the body of the request has been read."""
    streaming: bool = False
    """Whether the response is a stream, whose headers have been sent."""


def page_requests() -> PageRequests:
    """Return the page requests of this request. (`g` of the app context may outlive it.)"""
    context, asking = unwrap(g), unwrap(request)
    found: PageRequests | None = context.get(_REQUESTS)
    if found is None or found.request is not asking:
        found = PageRequests(asking)
        setattr(context, _REQUESTS, found)
    return found


def keep_private(requests: PageRequests) -> None:
    """Keep the response out of caches, since it depends on a flow."""
    if not requests.private:
        requests.private = True
        after_this_request(_limit_caching)


def _limit_caching(response: Response) -> Response:
    """Keep the response out of every cache; a view's own answer to a form only of shared ones."""
    requests = page_requests()
    if (
        not requests.view_answered
        or response.status_code // 100 == 3
        or response.cache_control.no_store  # as the view or success_response() wants it
    ):
        return no_store(response)
    return no_shared_cache(response, requests.request)


_REQUESTS: Final = "_fsm_page_requests"
