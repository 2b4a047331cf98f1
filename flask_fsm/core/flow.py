"""Flow: a snapshot on its machine. `step` is the one place where a transition is decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..errors import (
    Code,
    FSMError,
    GuardRefused,
    InvalidTransition,
    Reason,
    SnapshotError,
    StaleFlow,
    ValidationFailed,
)
from .answers import dump_answers, load_answers
from .decision import judge, reasons_against, refuse, require_sync_result, run_hooks
from .event import SAME, EventStatus, Sent, check_status
from .fields import Fields
from .history import History, LogItem
from .path import Node, Path, cut_path, data_before, drop_draft, leave_node, nodes_back
from .progress import Progress, progress_of
from .reasons import (
    error_of,
    error_of_edge,
    error_of_edit,
    error_of_event,
    error_of_move,
    reason_to_skip,
)
from .result import Result
from .snapshot import NO_DRAFTS, Snapshot, blank, successor

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["Clock", "Flow", "Progress", "Result", "blank", "successor"]

Clock = Callable[[], float]
# What stops `resume`: the old path can't be walked on. A crash is none of these.
REFUSALS: Final = (InvalidTransition, GuardRefused, ValidationFailed)

_new: Final = tuple.__new__


class Flow:
    """One run of a machine. It belongs to one thread; what is shared is its snapshot."""

    __slots__ = (
        "_context",
        "_data",
        "_given",
        "_judged",
        "_last",
        "_now",
        "_on_path",
        "_sent",
        "clock",
        "machine",
    )

    def __init__(
        self,
        machine: Machine,
        snapshot: Snapshot | None = None,
        *,
        subject: str | None = None,
        context: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.machine = machine
        self.clock: Clock = time.time if clock is None else clock
        self._context = context
        if snapshot is not None and (
            not isinstance(snapshot, Snapshot) or snapshot.state not in machine.states
        ):
            raise SnapshotError(
                f"Machine {machine.name!r} can't go on from {snapshot!r}: it takes a Snapshot of "
                f"its own, as Snapshot.decode(text, machine) returns it."
            )
        if snapshot is None:
            snapshot = blank(machine, int(self.clock()), subject=subject)
        self._now = snapshot.fields
        # The pages of the path, collected when first needed and kept up step by step.
        self._on_path: set[str] | None = None
        self._data: dict[str, Any] | None = None
        # While rules judge: the node that is left, and the data handed over.
        self._judged: Node | None = None
        self._given: Mapping[str, Any] | None = None
        self._last: Result | None = None
        # While an event is handled: what its handler has said so far.
        self._sent: list[Sent] | None = None

    # -- what it is ---------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self._now)

    @property
    def id(self) -> str:
        return self._now.run.id

    @property
    def subject(self) -> str | None:
        return self._now.run.subject

    @property
    def rev(self) -> int:
        return self._now.rev

    @property
    def current(self) -> str:
        """The name of the state; while rules judge an edit, that of the edited page."""
        return (self._judged or self._now.tip).state

    @property
    def context(self) -> dict[str, Any]:
        """What rules share (a database session, a user); it is never stored."""
        if self._context is None:
            self._context = {}
        return self._context

    @property
    def path(self) -> Path:
        return self.snapshot.path

    @property
    def history(self) -> History:
        return self.snapshot.history

    @property
    def finished(self) -> bool:
        return self._now.finished

    @property
    def data(self) -> dict[str, Any]:
        """The answers of the pages on the path before the current one, by page.

        Rules also see the data that was handed to their transition, under the page being left.
        """
        node, given = self._judged, self._given
        if node is None:
            return self.snapshot.data  # the caller's own: rules judge by another copy
        if node is self._now.tip:
            if self._data is None:
                self._data = self.snapshot.data
            data = self._data
        else:
            data = data_before(node)
            if node.answers is not None:
                data[node.state] = load_answers(node.answers)
        return data if given is None else {**data, node.state: given}

    @property
    def drafts(self) -> dict[str, Any]:
        """The answers of all other pages, by page: they fill forms again and decide nothing."""
        return self.snapshot.drafts

    def answers(self, page: str) -> dict[str, Any] | None:
        """Return a copy of what was answered on `page`, kept or draft, or None."""
        node = self._node(page)
        text = None if node is None else node.answers
        if text is None:
            text = self._now.draft_texts.get(page)
        return None if text is None else load_answers(text)

    def __repr__(self) -> str:
        return f"Flow({self.machine.name!r}, {self.current!r}, rev={self.rev})"

    # -- the path -----------------------------------------------------------------------

    def _pages(self) -> set[str]:
        if self._on_path is None:
            self._on_path = {node.state for node in nodes_back(self._now.tip)}
        return self._on_path

    def _node(self, page: str) -> Node | None:
        if page not in self._pages():
            return None
        return next(node for node in nodes_back(self._now.tip) if node.state == page)

    def args(self, page: str) -> str | None:
        """Return the URL arguments of a page on the path, as JSON text, or None."""
        node = self._node(page)
        return None if node is None else node.args

    def is_on_path(self, page: str) -> bool:
        """Tell whether `page` is on the path, open or closed."""
        return page in (self._on_path or self._pages())

    def is_open(self, page: str) -> bool:
        """Tell whether `page` is on the path and may be reopened."""
        node = self._node(page)
        return node is not None and self._is_open(node)

    def _is_open(self, node: Node) -> bool:
        now = self._now
        tip = now.tip
        return node is tip or not (now.finished or node.closed or node.depth < tip.barrier)

    @contextmanager
    def _judged_by(self, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Let rules judge the current page by `data` in place of its answers."""
        kept = self._data, self._judged, self._given
        self._data, self._judged, self._given = data, self._now.tip, None
        try:
            yield data
        finally:
            self._data, self._judged, self._given = kept

    # -- deciding -----------------------------------------------------------------------

    def step(
        self,
        target: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str | None = None,
        args: str | None = None,
    ) -> Result:
        """Decide the transition to `target`, changing nothing.

        `data` is kept under the page that is left. `source` is the page it is left from, by
        default the current one; another page of the path makes this an edit. `args` are the URL
        arguments of the target as JSON text. Raises FlowFinished, StaleFlow, InvalidTransition and
        its children, GuardRefused, ValidationFailed, InvalidData or RuleError.
        """
        return self._decide(target, data, source, args, 1)

    def _decide(
        self,
        target: str,
        data: Mapping[str, Any] | None,
        source: str | None,
        args: str | None,
        advance: int,
    ) -> Result:
        machine = self.machine
        before = self._now
        finished = before.finished
        if finished or self._judged is not None:
            raise error_of_move(self, target)
        node = tip = before.tip
        here = tip.state
        taken = before.taken
        if source is not None and source != here:
            node = self._edited(source, target)
            here = source
        try:
            edge = machine.ways[here][target]
        except KeyError:
            raise error_of_edge(self, here, target) from None
        if machine.tracks_edges:
            if node is not tip:
                taken = self._taken(node)
            bit = 1 << edge.number
            if taken & bit or machine.ordered:
                reason = reason_to_skip(machine, edge, taken)
                if reason is not None:
                    raise error_of(self, reason, here, target)
            taken |= bit
        if edge.has_rules:
            data = judge(self, edge, node, data)
        elif edge.guards:
            self._judged = node
            self._given = data
            try:
                for guard in edge.guards:
                    answer = guard(self)
                    if answer is not True and not require_sync_result(answer):
                        raise GuardRefused
            except Exception as error:
                refuse(self, edge, error)
            finally:
                self._judged = self._given = None
        answers = node.answers if data is None else dump_answers(data)

        parent: Node | None = node  # of the new tip
        depth, barrier = node.depth + 1, node.barrier
        cut: list[Node] | None = None
        drafts = before.draft_texts
        on_path = self._on_path or self._pages()
        if target in on_path or node is not tip:
            loop = target in on_path
            cut, drafts, old = cut_path(tip, node, target, answers, drafts, loop)
            if old is not None:
                parent, depth = old.parent, old.depth
                barrier = min(tip.barrier, depth)  # what was closed stays so
        elif answers is not None and here in drafts:
            drafts = drop_draft(drafts, here)
        if answers is not None or edge.back != "preserve":
            if parent is node:
                parent = leave_node(node, edge.back, answers)
            if edge.back == "invalidate":
                barrier = depth

        at = self.clock()
        updated = before.updated
        now = int(at) if at >= updated + 1 else updated  # a clock may jump back
        rev = before.rev + advance
        if edge.final or (edge.final is None and machine.ends(target, taken)):
            finished = True
            drafts = NO_DRAFTS
        tip = Node(parent, target, args, None, depth, barrier, False)
        # This way to make a named tuple takes half of the time of the usual one.
        log = _new(LogItem, (before.log, edge, now, rev))
        after = Fields(before.run, rev, tip, log, drafts, now, taken, finished, None)
        return Result(after, before, edge, data, cut)

    def _edited(self, source: str, target: str | None) -> Node:
        """Return the node of a page that is edited, if it may be."""
        node = self._node(source)
        if node is not None and self._is_open(node):
            return node
        raise error_of_edit(self, source, target, node)

    def _taken(self, node: Node) -> int:
        """Return the edges taken in this run, without those that an edit of `node` gives back."""
        now = self._now
        return now.taken & ~self.machine.edges_on(now.tip, node)

    # -- asking -------------------------------------------------------------------------

    def why_not(
        self, to: str, data: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> list[Reason]:
        """Return every reason why `to` can't be taken now; an empty list says that it can.

        Nothing changes and no pre_transition runs. Validators judge only if `data` is given.
        """
        return reasons_against(self, to, data, source)

    def can_transition(
        self, to: str, data: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> bool:
        """Tell whether `to` can be taken now."""
        return not self.why_not(to, data, source=source)

    def has_not_skipped(self, to: str, *, source: str | None = None) -> bool:
        """Tell whether every transition declared before the one to `to` was taken in this run."""
        edge = self.machine.ways.get(source or self.current, {}).get(to)
        if edge is None:
            return False
        before = (1 << edge.number) - 1
        taken = self.snapshot.taken
        if not self.machine.tracks_edges:
            for entry in self.history:
                way = self.machine.ways.get(entry.source, {}).get(entry.target)
                taken |= 0 if way is None else 1 << way.number
        return taken & before == before

    # -- moving -------------------------------------------------------------------------

    def apply(self, result: Result) -> None:
        """Make a decided transition this flow's own, without running its hooks."""
        edge = result.edge
        if result.before is not self._now:
            raise StaleFlow(
                f"{edge.source!r} -> {edge.target!r} was decided at rev {result.before.rev}, but "
                f"the flow is at rev {self.rev}: decide again.",
                flow=self.id,
                source=edge.source,
                target=edge.target,
            )
        on_path = self._on_path or self._pages()
        if result.cut is not None:
            for node in result.cut:
                on_path.discard(node.state)
            self._data = None
        elif result.data is not None and self._data is not None:
            left = result.after.tip.parent
            assert left is not None
            assert left.answers is not None
            self._data[edge.source] = load_answers(left.answers)
        on_path.add(edge.target)
        self._last = result
        self._now = result.after

    def run_hooks(self, result: Result) -> None:
        """Run the hooks of a transition that was made. A failure is logged and undoes nothing."""
        if result.edge.hooks:
            run_hooks(self, result)

    def transition(
        self,
        to: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result:
        """Decide the transition to `to`, make it, run its hooks, and return the result.

        `status` and `reply` (by default `data`) are what clients are told of it if it is made in
        the handler of an event.
        """
        if self._sent is not None:
            check_status(status)
        result = self._decide(to, data, source, None, 1)
        self.apply(result)
        if self._sent is not None:  # before what its hooks say
            self._sent.append(Sent(status, data if reply is SAME else reply, result))
        if result.edge.hooks:
            run_hooks(self, result)
        return result

    # -- events -------------------------------------------------------------------------

    @property
    def events(self) -> tuple[str, ...]:
        """The events that a client may send now."""
        return self.machine.events_of(self.current, self.finished)

    def send(self, event: str, data: Any = None) -> Result | None:
        """Handle an event; return the last transition that was made, or None if there was none."""
        made = [sent.result for sent in self.handle(event, data) if sent.result is not None]
        return made[-1] if made else None

    def handle(self, event: str, data: Any = None) -> list[Sent]:
        """Run the handler of an event, or take the edge out of the current state that it names.

        Returns what was said, in order. An edge takes no data: that is for a handler to judge.
        Raises InvalidTransition with the code `no_event`, what `transition` raises, and what the
        handler raises.
        """
        outer, self._sent = self._sent, []
        try:
            handler = self.machine.handlers[self.current].get(event)
            if handler is None:
                self.transition(self.target_of(event))
            else:
                value = handler(self, data)
                # `return flow.transition(...)`: that has told of itself.
                if value is not None and not isinstance(value, Result):
                    self.transmit(value)
            return self._sent
        finally:
            self._sent = outer

    def transmit(self, data: Any = None, status: int = EventStatus.OK) -> None:
        """Say something to the clients of this flow, without moving it."""
        if self._sent is None:
            raise FSMError(
                "transmit() belongs into the handler of an event. From elsewhere, use "
                "fsm.live.flow(id).transmit().",
                flow=self.id,
                code=Code.NO_CLIENT,
            )
        check_status(status)
        self._sent.append(Sent(status, data, None))

    def target_of(self, event: str) -> str:
        """Return where `event` leads from the current state, or raise InvalidTransition."""
        for edge in self.machine.ways[self.current].values():
            if edge.event == event:
                return edge.target
        raise error_of_event(self, event)

    def fast_forward(self) -> list[Result]:
        """After an edit, walk the old path on as far as its guards and validators hold.

        The steps belong to the edit's commit: they share its rev. Returns one result for each.
        """
        results = []
        for result in self.fast_forward_steps():
            results.append(result)
            self.run_hooks(result)
        return results

    def fast_forward_steps(self) -> Iterator[Result]:
        """Make the steps of `resume` one by one, without running their hooks."""
        if self._last is None:
            return
        cut = self._last.cut
        if cut is None or self._last.source == self._last.before.tip.state:
            return
        # The path as it was, from the page that was edited.
        after = {node.parent.state: node for node in cut if node.parent is not None}
        while not self.finished:
            state = self._now.tip.state
            following = after.pop(state, None)
            if following is None:
                return
            draft = self._now.draft_texts.get(state)
            data = None if draft is None else load_answers(draft)
            try:
                result = self._decide(following.state, data, None, following.args, 0)
            except REFUSALS:
                return
            self.apply(result)
            yield result

    def reset(self) -> None:
        """Begin anew: a blank run, under the id that follows this one's."""
        now = int(self.clock())
        self.set_snapshot(
            blank(self.machine, now, id=successor(self.id), subject=self.snapshot.subject)
        )

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """Stand where `snapshot` stands, whatever was decided since."""
        self._now = snapshot.fields
        self._on_path = self._data = self._last = None

    # -- progress -----------------------------------------------------------------------

    def progress(self, page: str | None = None) -> Progress:
        """Return the pages done, the current one (`page`, if it is on the path) and those ahead.

        What lies ahead is followed while there is one way on, or while the answers, drafts
        included, leave one that its guards allow.
        """
        return progress_of(self, page)
