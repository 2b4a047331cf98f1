"""What views, hooks and rules read: a flow, and the result of a transition."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self

from ..errors import Code, FSMError, SnapshotError
from .answers import PageData, copy_answers, load_answers
from .definition import Definition
from .event import SAME, in_order
from .history import Entry, History, LogItem, entry_of
from .names import plain
from .path import Node, Path, data_before, nodes_back
from .rules import GUARD
from .snapshot import Snapshot, blank
from .state import Edge

__all__ = ["CircularQuestion", "Clock", "FlowBase", "Result", "Sent"]

Clock = Callable[[], float]
"""Returns seconds since 1970."""


class CircularQuestion(Exception):
    """A rule asks whether an edge can be taken, which its own answer decides."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(f"asks about {edge.source!r} -> {edge.target!r}")
        self.edge = edge


class FlowBase:
    """The read-only part of a flow. `Flow` adds the methods that move it."""

    __slots__ = (
        "_asked",
        "_context",
        "_data",
        "_edge",
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
        machine: Definition,
        snapshot: Snapshot | None = None,
        *,
        subject: str | None = None,
        context: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.machine: Definition = machine
        self.clock: Clock = time.time if clock is None else clock
        self._context = context
        if snapshot is not None and (
            not isinstance(snapshot, Snapshot) or snapshot.state not in machine.states
        ):
            raise SnapshotError(
                f"Machine {machine.name!r} can't go on from {snapshot!r}: pass a Snapshot of this "
                f"machine, as Snapshot.decode(text, machine) returns it."
            )
        if snapshot is None:
            snapshot = blank(machine, int(self.clock()), subject=subject)
        self._now: Snapshot = snapshot
        # The pages of the path, collected when first needed and updated by each step.
        self._on_path: set[str] | None = None
        self._data: dict[str, Any] | None = None
        # While rules judge a transition: the node that is left, and the data that was passed.
        self._judged: Node | None = None
        self._given: Mapping[str, Any] | None = None
        # The edge whose guards are asked, and the edges whose rules have led to that, by kind.
        self._edge: Edge | None = None
        self._asked: tuple[tuple[str, Edge], ...] = ()
        self._last: Result | None = None
        # While an event is handled: what its handler has sent so far.
        self._sent: list[Sent] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The flow as immutable data."""
        return self._now

    @property
    def id(self) -> str:
        """The id of the run."""
        return self._now.id

    @property
    def subject(self) -> str | None:
        """Whose flow it is, or None."""
        return self._now.subject

    @property
    def rev(self) -> int:
        """The number of commits so far."""
        return self._now.rev

    @property
    def current(self) -> str:
        """The name of the state; while rules judge an edit, that of the edited page."""
        return (self._judged or self._now.tip).state

    @property
    def context(self) -> dict[str, Any]:
        """What rules share, such as a database session or a user; it is never stored."""
        if self._context is None:
            self._context = {}
        return self._context

    @property
    def path(self) -> Path:
        """The pages from the initial to the current one."""
        return Path(self._now.tip)

    @property
    def history(self) -> History:
        """The transitions made, oldest first."""
        return History(self._now.log)

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self._now.finished

    @property
    def data(self) -> dict[str, Any]:
        """A copy of the answers of the pages on the path before the current one, by page.

        Rules also see the data that was passed to their transition, under the page being left.
        A name without a dot also means a page of the blueprint of this page, or of the view.
        """
        data = self._data_now()
        return PageData(data, self.blueprints) if self.machine.dotted else data

    def _data_now(self) -> dict[str, Any]:
        node, given = self._judged, self._given
        if node is None:
            return data_before(self._now.tip)
        if node is self._now.tip:
            if self._data is None:
                self._data = data_before(node)
            data: dict[str, Any] = copy_answers(self._data)
        else:
            data = data_before(node)
            if node.answers is not None:
                data[node.state] = load_answers(node.answers)
        if given is not None:  # of any type yet: what can't be kept is refused later
            data[node.state] = copy_answers(dict(given) if isinstance(given, Mapping) else given)
        return data

    @property
    def drafts(self) -> dict[str, Any]:
        """The answers of all other pages, by page: forms show them again, rules don't see them."""
        drafts = self.snapshot.drafts
        return PageData(drafts, self.blueprints) if self.machine.dotted else drafts

    @property
    def blueprints(self) -> tuple[str, ...]:
        """The blueprints in which names without a dot are looked up: that of the current page."""
        blueprint, _, _ = self.current.rpartition(".")
        return (blueprint,) if blueprint else ()

    def _full_name(self, page: str) -> str:
        """Return the name of the state that `page` means."""
        page = plain(page)
        states = self.machine.states
        if self.machine.dotted and page not in states and "." not in page:
            for blueprint in self.blueprints:
                if f"{blueprint}.{page}" in states:
                    return f"{blueprint}.{page}"
        return page

    def answers(self, page: str) -> dict[str, Any] | None:
        """Return a copy of the answers given on `page`, on the path or draft, or None."""
        node = self.node_of(page)
        text = None if node is None else node.answers
        if text is None:
            text = self._now.draft_texts.get(self._full_name(page))
        return None if text is None else load_answers(text)

    def args(self, page: str) -> str | None:
        """Return the URL arguments of a page on the path, as JSON text, or None."""
        node = self.node_of(page)
        return None if node is None else node.args

    def is_on_path(self, page: str) -> bool:
        """Return whether `page` is on the path, open or closed."""
        pages = self._on_path or self._pages()
        return page in pages or self._full_name(page) in pages

    def is_open(self, page: str) -> bool:
        """Return whether `page` is on the path and may be edited: no back policy has closed it."""
        node = self.node_of(page)
        return node is not None and self.can_reopen(node)

    @property
    def events(self) -> tuple[str, ...]:
        """The events that a client may send now."""
        return self.machine.events_of(self.current, self.finished)

    def has_not_skipped(self, to: str, *, source: str | None = None) -> bool:
        """Return whether every edge declared before the one to `to` was taken in this run."""
        edge = self.machine.ways.get(plain(source) or self.current, {}).get(plain(to))
        if edge is None:
            return False
        before = (1 << edge.number) - 1
        taken = self.snapshot.taken
        if not self.machine.tracks_edges:
            for entry in self.history:
                way = self.machine.ways.get(entry.source, {}).get(entry.target)
                taken |= 0 if way is None else 1 << way.number
        return taken & before == before

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} can't be pickled, since its machine has functions: pickle flow.snapshot, "
            f"or store flow.snapshot.encode(machine), and go on with machine.flow(snapshot)."
        )

    def __repr__(self) -> str:
        return f"Flow({self.machine.name!r}, {self.current!r}, rev={self.rev})"

    # -- for the core -------------------------------------------------------------------

    def _pages(self) -> set[str]:
        if self._on_path is None:
            self._on_path = {node.state for node in nodes_back(self._now.tip)}
        return self._on_path

    def node_of(self, page: str) -> Node | None:
        """Return the node of a page on the path, or None."""
        pages = self._pages()
        if page not in pages:
            page = self._full_name(page)
            if page not in pages:
                return None
        return next(node for node in nodes_back(self._now.tip) if node.state == page)

    def can_reopen(self, node: Node) -> bool:
        """Return whether the page of a node on the path may be edited."""
        now = self._now
        tip = now.tip
        return node is tip or not (now.finished or node.closed or node.depth < tip.barrier)

    def taken_before(self, node: Node) -> int:
        """Return the edges taken in this run, except those that an edit of `node` gives back."""
        now = self._now
        return now.taken & ~self.machine.edges_on(now.tip, node)

    def require_unjudged(self) -> None:
        """Raise FSMError if a rule is judging this flow, which it must not move."""
        if self._judged is not None:
            raise FSMError(
                f"A rule of machine {self.machine.name!r} tried to move the flow that it judges: "
                f"move it in a view or in a hook.",
                flow=self.id,
                code=Code.MOVED_BY_RULE,
            )

    def arranged(
        self, given: tuple[Any, ...], data: Any, status: int, reply: Any
    ) -> tuple[Any, int, Any]:
        """Return data, status and reply from the arguments of `transition`, in either order.

        Where nothing is stored, and after a status, data that is not a mapping is only sent.
        """
        data, status, status_first = in_order(given, data, status)
        if data is None or isinstance(data, Mapping):
            return data, status, reply
        if status_first or self.machine.scope == "connection":
            return None, status, data if reply is SAME else reply
        return data, status, reply

    def data_judged(self, node: Node) -> Mapping[str, Any] | None:
        """Return the data that was passed to the transition from `node` that is being judged."""
        return self._given if node is self._judged else None

    @contextmanager
    def judged(
        self, node: Node, given: Mapping[str, Any] | None, kind: str, edge: Edge
    ) -> Iterator[None]:
        """Show rules of a kind, of `edge`, the flow as it leaves `node` with the data `given`."""
        before = self._judged, self._given
        self._judged, self._given = node, given
        try:
            with self.asking(kind, edge):
                yield
        finally:
            self._judged, self._given = before

    @contextmanager
    def asking(self, kind: str, edge: Edge) -> Iterator[None]:
        """Ask the rules of a kind of `edge`; raise CircularQuestion if they wait for the answer."""
        if (kind, edge) in self._asked or (kind == GUARD and edge is self._edge):
            raise CircularQuestion(edge)
        before = self._edge, self._asked
        if self._edge is not None:
            self._asked = (*self._asked, (GUARD, self._edge))
        self._edge, self._asked = None, (*self._asked, (kind, edge))
        try:
            yield
        finally:
            self._edge, self._asked = before

    @contextmanager
    def judged_by(self, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Show rules `data` instead of the current page's answers."""
        before = self._data, self._judged, self._given
        self._data, self._judged, self._given = data, self._now.tip, None
        try:
            yield data
        finally:
            self._data, self._judged, self._given = before


# Not a named tuple: a step makes and reads one, and slots are quicker at that.
@dataclass(slots=True, eq=False)
class Result:
    """A decided transition.

    Attributes:
        snapshot: What the flow becomes.
        previous: What it was when this was decided.
        edge: The edge that is taken; `source`, `target` and `event` are its own.
        text: The answers that were given, as JSON text, or None if there were none.
        data: A copy of these answers.
        cut: The nodes that were cut off the path by an edit or a loop, last one first, or None.
        rev: The revision of `snapshot`.
        finished: Whether this ends the run.
        entry: The entry of the history.
    """

    snapshot: Snapshot
    previous: Snapshot
    edge: Edge
    text: str | None
    cut: list[Node] | None

    @property
    def data(self) -> dict[str, Any] | None:
        return None if self.text is None else load_answers(self.text)

    @property
    def source(self) -> str:
        return self.edge.source

    @property
    def target(self) -> str:
        return self.edge.target

    @property
    def event(self) -> str | None:
        return self.edge.event

    @property
    def rev(self) -> int:
        return self.snapshot.rev

    @property
    def finished(self) -> bool:
        return self.snapshot.finished

    @property
    def entry(self) -> Entry:
        item = self.snapshot.log
        assert isinstance(item, LogItem)
        return entry_of(item)

    def __await__(self) -> Generator[Any, None, Self]:
        """Return this result at once: an async handler may await what it calls, or not."""
        yield from ()
        return self

    def __repr__(self) -> str:
        return f"Result({self.source!r} -> {self.target!r}, rev={self.rev})"


class Sent(NamedTuple):
    """What the handler of an event sent: data, and the transition, if it made one."""

    status: int
    data: Any
    result: Result | None

    def __await__(self) -> Generator[Any, None, Sent]:
        """Return this at once: an async handler may await what it calls, or not."""
        yield from ()
        return self
