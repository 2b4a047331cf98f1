"""The flow that views, handlers and hooks of a request hold: its moves are committed.

Its expiry is that of runtime/app_state, checked by stores/session and stores/records/mapper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import ReferenceType

from flask import has_request_context, request

from ..binding.bound_machine import Bound
from ..core.event import SAME, EventStatus, check_status, in_order
from ..core.flow import Flow
from ..core.flow_base import Result, Sent
from ..core.reply import dump_reply
from ..errors import Code, FSMError

__all__ = ["Committer", "StoredFlow", "error_of_reading"]


class Committer(Protocol):
    """What commits the moves of a flow: its unit of work."""

    bound: Bound
    """The flow's machine, with its pages."""
    url_args: Mapping[str, Any]
    """The URL arguments of the request."""

    read_only: bool
    """Whether a page is only read, so that no call may move the flow."""

    @property
    def flow(self) -> Flow:
        """The flow as the request sees it now."""
        ...

    def commit(
        self,
        decide: Callable[[Flow], Sequence[Result]],
        *,
        reply: tuple[int, Any] = ...,
    ) -> Sequence[Result]:
        """Commit the steps that `decide` makes."""
        ...

    def memento(self) -> Any:
        """Return what a rollback of the caller's transaction restores, if there is one."""
        ...

    def transmit(self, data: Any, status: int, memento: Any) -> None:
        """Send something to the clients of the flow."""
        ...

    def reset(self) -> None:
        """Begin a new run."""
        ...


def error_of_reading(call: str) -> FSMError:
    """Return the error of a call that would move the flow while a page is only read."""
    return FSMError(
        f"{call} was called while a GET, HEAD or prefetch is served, which never advances a flow: "
        f"call it during a POST, or define the transition with visit=True.",
        code=Code.GET_ADVANCES,
    )


class StoredFlow(Flow):
    """The flow of a request: when a view, a handler or a hook moves it, that is committed."""

    __slots__ = ("committer",)

    committer: ReferenceType[Committer]
    """The unit of work, which holds this flow. Set when it is made."""

    def transition(
        self,
        to: str,
        *given: Any,
        data: Any = None,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result:
        def decide(flow: Flow) -> list[Result]:
            page = committer.bound.pages.get(to) if isinstance(to, str) else None
            args = None
            if page is not None and page.arguments:
                args = committer.bound.next_args(page, flow.snapshot.tip, committer.url_args)
            result = flow.step(to, data, source=source, args=args)
            flow.apply(result)
            return [result]

        if given or data is not None:
            data, status, reply = self.arranged(given, data, status, reply)
        sent = self._sent
        # Outside of an event, no client gets the data that is stored.
        body = (data if sent is not None else None) if reply is SAME else reply
        check_status(status)
        committer = self._committer()
        if committer.read_only:
            raise error_of_reading("flow.transition()")
        if sent is None:
            return committer.commit(decide, reply=(status, body))[0]
        dump_reply(body)  # before the commit: after it nothing can be refused
        before = len(sent)
        result = committer.commit(decide, reply=(status, body))[0]
        sent.insert(before, Sent(status, body, result))  # placed before what its hooks have sent
        return result

    def transmit(self, *given: Any, data: Any = None, status: int = EventStatus.OK) -> Sent:
        if given:
            data, status, _ = in_order(given, data, status)
        dump_reply(data)  # while it can still be refused
        committer = self._committer()
        memento = committer.memento()
        sent = super().transmit(data=data, status=status)
        committer.transmit(data, status, memento)
        return sent

    def fast_forward(self) -> list[Result]:
        raise FSMError(
            "fast_forward() works only in the commit of the edit: call "
            "fsm.advance(..., fast_forward=True).",
            flow=self.id,
            code=Code.RESUME_TOO_LATE,
        )

    def reset(self) -> None:
        self._committer().reset()

    @property
    def blueprints(self) -> tuple[str, ...]:
        blueprints = super().blueprints
        # Rules are of a page, and not of the view or the socket by which they are reached.
        own = request.blueprint if has_request_context() and self._judged is None else None
        return blueprints if own is None or own in blueprints else (own, *blueprints)

    @property
    def sent(self) -> list[Sent] | None:
        """What the handler of the current event has sent so far; None outside of an event."""
        return self._sent

    def _committer(self) -> Committer:
        committer = self.committer()
        if committer is None or committer.flow is not self:
            raise FSMError(
                "This flow belongs to a request that has ended, or was read before the request "
                "held the flow's lock: get it from fsm.flow when you need it.",
                flow=self.id,
                code=Code.REQUEST_OVER,
            )
        return committer
