"""Flow: one run of a machine. `step` is the one place where a transition is decided.

Words: an *edit* is a transition from a page on the path other than the current one; it cuts the
path there. A *fast-forward* walks the old path on after an edit. The *back policy* of an edge says
whether the page it leaves can be edited later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final, overload

from ..errors import (
    Code,
    FSMError,
    GuardRefused,
    InvalidTransition,
    Reason,
    StaleFlow,
    ValidationFailed,
)
from .answers import dump_answers, load_answers
from .evaluation import (
    judge,
    node_to_edit,
    reasons_against,
    refuse,
    require_sync_result,
    run_hooks,
)
from .event import SAME, EventStatus, check_status, in_order
from .flow_base import Clock, FlowBase, Result, Sent
from .history import LogItem
from .names import plain
from .path import Node, cut_path, drop_draft, leave_node
from .progress import Progress, progress_of
from .reasons import edge_by_name, error_of, error_of_event, error_of_move, reason_to_skip
from .snapshot import NO_DRAFTS, Snapshot, blank, successor

__all__ = ["Clock", "Flow", "Progress", "Result", "blank", "successor"]

# The errors that end a fast-forward. A rule's other exceptions are raised.
REFUSALS: Final = (InvalidTransition, GuardRefused, ValidationFailed)

_new_tuple: Final = tuple.__new__
_new_object: Final = object.__new__


class Flow(FlowBase):
    """One run of a machine. Use it in one thread only; threads can share its snapshot.

    Args:
        machine: The machine, sealed; `machine.flow()` is the usual way to make a flow.
        snapshot: Where to go on from. By default a blank run begins.
        subject: Whose run it is, if a blank one begins. By default nobody's.
        context: What rules share, such as a database session; it is never stored.
        clock: Returns seconds since 1970. By default `time.time`.

    Raises:
        SnapshotError: `snapshot` does not belong to this machine.
    """

    __slots__ = ()

    def __copy__(self) -> Flow:
        """Return a plain flow at the same snapshot. It moves apart, and nothing of it is stored."""
        return Flow(self.machine, self._now, context=self._context, clock=self.clock)

    def __deepcopy__(self, memo: dict[int, Any]) -> Flow:
        context = deepcopy(self._context, memo)
        return Flow(self.machine, self._now, context=context, clock=self.clock)

    # -- deciding -----------------------------------------------------------------------

    def step(
        self,
        target: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str | None = None,
        args: str | None = None,
        accepted: bool = False,
        advance: int = 1,
    ) -> Result:
        """Decide a transition without making it.

        Args:
            target: The state to go to.
            data: The answers of the source page. By default those that it has.
            source: The page to move from. By default the current one; another page of the path
                makes this an edit.
            args: The URL arguments of the target, as JSON text. By default none.
            accepted: Whether `why_not` has just found that the guards accept this, so that they
                need not be asked again. By default False.
            advance: By how much the rev grows. By default 1; steps of a fast-forward have 0.

        Returns:
            The result, for `apply` and then `run_hooks`.

        Raises:
            FlowFinished: The run has ended.
            StaleFlow: `source` is not on the path, or a back policy has closed it.
            UnknownTarget: There is no such state.
            InvalidTransition: There is no such edge, or the run may not take it now.
            GuardRefused: A guard refused.
            ValidationFailed: A validator refused the data.
            InvalidData: The data can't be stored.
            RuleError: A rule raised an exception that is not a refusal.
        """
        machine = self.machine
        before = self._now
        # Unpacked at once, since a named tuple is slow to read field by field.
        id, subject, rev, tip, log, drafts, started, updated, taken, finished, _ = before
        if finished or self._judged is not None:
            raise error_of_move(self, target)
        node = tip
        if source is not None and source != tip.state:
            node = node_to_edit(self, source, target)
        here = node.state
        try:
            edge = machine.made[here][target]
        except (KeyError, TypeError):  # TypeError: `target` is a dict, such as misplaced answers
            edge = edge_by_name(self, here, target)
            target = edge.target
        if machine.tracks_edges:
            if node is not tip:
                taken = self.taken_before(node)
            bit = 1 << edge.number
            if taken & bit or machine.ordered:
                reason = reason_to_skip(machine, edge, taken)
                if reason is not None:
                    raise error_of(self, reason, here, target)
            taken |= bit
        if edge.has_rules:
            data = judge(self, edge, node, data, accepted)
        elif edge.guards and not accepted:
            self._judged, self._edge = node, edge
            self._given = data
            try:
                for guard in edge.guards:
                    answer = guard(self)
                    if answer is not True and not require_sync_result(answer):
                        raise GuardRefused
            except Exception as error:
                refuse(self, edge, guard, error)
            finally:
                self._judged = self._given = self._edge = None
        answers = node.answers if data is None else dump_answers(data)

        parent: Node | None = node  # of the new tip
        depth, barrier = node.depth + 1, node.barrier
        cut: list[Node] | None = None
        on_path = self._on_path or self._pages()
        if target in on_path or node is not tip:
            loop = target in on_path
            cut, drafts, old = cut_path(tip, node, target, answers, drafts, loop)
            if old is not None:
                parent, depth = old.parent, old.depth
                barrier = min(tip.barrier, depth)  # a closed page stays closed
        elif answers is not None and here in drafts:
            drafts = drop_draft(drafts, here)
        if answers is not None or edge.back != "preserve":
            if parent is node:
                parent = leave_node(node, edge.back, answers)
            if edge.back == "invalidate":
                barrier = depth

        at = self.clock()
        now = int(at) if at >= updated + 1 else updated  # a clock may jump back
        rev += advance
        if edge.final or (edge.final is None and machine.ends(target, taken)):
            finished = True
            drafts = NO_DRAFTS
        # Made without the constructors of the classes, which take two to three times as long.
        tip = _new_object(Node)
        tip.parent, tip.state, tip.args = parent, edge.target, args
        tip.answers, tip.depth, tip.barrier = None, depth, barrier
        tip.closed = False
        log = _new_tuple(LogItem, (log, edge, now, rev))
        after = _new_tuple(
            Snapshot,
            (id, subject, rev, tip, log, drafts, started, now, taken, finished, None),
        )
        result = _new_object(Result)
        result.snapshot, result.previous = after, before
        result.edge, result.text, result.cut = edge, None if data is None else answers, cut
        return result

    # -- asking -------------------------------------------------------------------------

    def why_not(
        self, to: str, data: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> list[Reason]:
        """Return the reasons why the transition to `to` can't be made now.

        Nothing changes, and pre_transition rules don't run.

        Args:
            to: The state to go to.
            data: The answers for validators; without any, validators don't run.
            source: The page to move from, by default the current one.

        Returns:
            Every reason; an empty list if the transition can be made.
        """
        return reasons_against(self, to, data, source)

    def can_transition(
        self, to: str, data: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> bool:
        """Return whether the transition to `to` can be made now; see `why_not`."""
        return not self.why_not(to, data, source=source)

    # -- moving -------------------------------------------------------------------------

    def apply(self, result: Result) -> None:
        """Make a transition that was decided, without running its hooks.

        Args:
            result: What `step` returned.

        Raises:
            StaleFlow: The flow has moved since the transition was decided.
        """
        after, before, edge = result.snapshot, result.previous, result.edge
        if before is not self._now:
            raise StaleFlow(
                f"{edge.source!r} -> {edge.target!r} was decided at rev {before.rev}, but the "
                f"flow is at rev {self.rev}: decide again.",
                flow=self.id,
                source=edge.source,
                target=edge.target,
            )
        on_path = self._on_path or self._pages()
        if result.cut is not None:
            for node in result.cut:
                on_path.discard(node.state)
            self._data = None
        elif result.text is not None and self._data is not None:
            self._data[edge.source] = load_answers(result.text)
        on_path.add(edge.target)
        self._last = result
        self._now = after

    def run_hooks(self, result: Result) -> None:
        """Run the hooks of a transition. Exceptions are logged and do not affect it."""
        if result.edge.hooks:
            run_hooks(self, result)

    @overload
    def transition(
        self,
        to: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result: ...
    @overload
    def transition(self, to: str, status: EventStatus, /, data: Any = None) -> Result: ...
    def transition(
        self,
        to: str,
        *given: Any,
        data: Any = None,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result:
        """Decide a transition, make it, and run its hooks.

        As in automata-ws, an EventStatus may come first: `transition(to, status, data)`.

        Args:
            to: The state to go to.
            data: The answers of the source page. By default those that it has. After a status,
                and with `scope="connection"`, data that is not a mapping is sent, not stored.
            source: The page to move from. By default the current one; another page of the path
                makes this an edit.
            status: In the handler of an event, the status that clients get. By default 200.
            reply: In the handler of an event, the data that clients get. By default `data`.

        Returns:
            The result, which an async handler may await.

        Raises:
            FSMError: As `step` does.
            TypeError: `status` is not a number from 100 to 999, or data is given twice.
        """
        if given or data is not None:
            data, status, reply = self.arranged(given, data, status, reply)
        if self._sent is not None:
            check_status(status)
        result = self.step(to, data, source=source)
        self.apply(result)
        if self._sent is not None:  # before what its hooks send
            self._sent.append(Sent(status, data if reply is SAME else reply, result))
        if result.edge.hooks:
            run_hooks(self, result)
        return result

    # -- events -------------------------------------------------------------------------

    def send(self, event: str, data: Any = None) -> Result | None:
        """Handle an event as `handle` does.

        Args:
            event: The name of the event.
            data: What the handler gets. By default None.

        Returns:
            The last transition that was made, or None if there was none.
        """
        made = [sent.result for sent in self.handle(event, data) if sent.result is not None]
        return made[-1] if made else None

    def handle(self, event: str, data: Any = None) -> list[Sent]:
        """Run the handler of an event, or take the edge with this event out of the current state.

        Args:
            event: The name of the event.
            data: What the handler gets. By default None. An edge takes no data.

        Returns:
            What was sent to clients, in order.

        Raises:
            InvalidTransition: The current state has no such event (the code is `no_event`), or the
                edge can't be taken.
            Exception: What the handler raised, or rules of the edge.
        """
        outer, self._sent = self._sent, []
        try:
            event = event if type(event) is str else plain(event)
            handler = self.machine.handlers[self.current].get(event)
            if handler is None:
                self.transition(self.target_of(event))
            else:
                value = handler(self, data)
                # What transition() and transmit() return, and the handler in turn, was sent.
                if value is not None and not isinstance(value, (Result, Sent)):
                    self.transmit(data=value)
            return self._sent
        finally:
            self._sent = outer

    def transmit(self, *given: Any, data: Any = None, status: int = EventStatus.OK) -> Sent:
        """Send data to the clients of this flow without moving it, in the handler of an event.

        As in automata-ws, an EventStatus may come first: `transmit(status, data)`.

        Args:
            data: A value with a representation in JSON. By default None.
            status: The status that clients get. By default 200.

        Returns:
            What was sent, which an async handler may await.

        Raises:
            FSMError: No event is being handled.
            TypeError: `status` is not a number from 100 to 999, or data is given twice.
        """
        if given:
            data, status, _ = in_order(given, data, status)
        if self._sent is None:
            raise FSMError(
                "transmit() works only in the handler of an event. Elsewhere, use "
                "fsm.live.flow(id).transmit().",
                flow=self.id,
                code=Code.NO_CLIENT,
            )
        check_status(status)
        sent = Sent(status, data, None)
        self._sent.append(sent)
        return sent

    def target_of(self, event: str) -> str:
        """Return where `event` leads from the current state, or raise InvalidTransition."""
        for edge in tuple(self.machine.made[self.current].values()):
            if edge.event == event:
                return edge.target
        raise error_of_event(self, event)

    def fast_forward(self) -> list[Result]:
        """After an edit, walk the old path on, as far as guards and validators accept.

        The steps belong to the commit of the edit, and share its rev.

        Returns:
            One result for each step; none if the last transition was not an edit.
        """
        results = []
        for result in self.fast_forward_steps():
            results.append(result)
            self.run_hooks(result)
        return results

    def fast_forward_steps(self) -> Iterator[Result]:
        """Yield the steps of `fast_forward` as they are made, without running their hooks."""
        if self._last is None:
            return
        cut = self._last.cut
        if cut is None or self._last.source == self._last.previous.tip.state:
            return
        # The old path, from the edited page.
        after = {node.parent.state: node for node in cut if node.parent is not None}
        while not self.finished:
            state = self._now.tip.state
            following = after.pop(state, None)
            if following is None:
                return
            draft = self._now.draft_texts.get(state)
            data = None if draft is None else load_answers(draft)
            try:
                result = self.step(following.state, data, args=following.args, advance=0)
            except REFUSALS:
                return
            self.apply(result)
            yield result

    def reset(self) -> None:
        """Begin a new, blank run, with the id that follows that of this run."""
        self.require_unjudged()
        now = int(self.clock())
        self.set_snapshot(
            blank(self.machine, now, id=successor(self.id), subject=self.snapshot.subject)
        )

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """Set the flow to `snapshot`, forward or back."""
        self._now = snapshot
        self._on_path = self._data = self._last = None

    # -- progress -----------------------------------------------------------------------

    def progress(self, page: str | None = None) -> Progress:
        """Return the pages done and ahead, for a progress bar.

        Pages ahead are listed while there is one edge on, or one whose guards accept the answers
        so far, drafts included.

        Args:
            page: The page to show as current, if it is on the path. By default the current one.

        Returns:
            The progress.
        """
        return progress_of(self, page)
