"""Flow: a snapshot on its machine. `step` is the one place where a transition is decided."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from ..errors import (
    DuplicateTransition,
    FlowFinished,
    FSMError,
    GuardRefused,
    InvalidTransition,
    Reason,
    RuleCrashed,
    SkippedTransition,
    SnapshotError,
    StaleFlow,
    UnknownState,
    ValidationFailed,
)
from .answers import dump_answers, load_answers, mapping
from .history import Entry, History, entry_of
from .machine import Edge, Machine
from .path import Node, Path, nodes_back
from .snapshot import Snapshot, data_before, left

__all__ = ["Clock", "Flow", "Progress", "Result", "blank", "successor"]

Clock = Callable[[], float]
logger = logging.getLogger("flask_fsm")
# What stops `resume`: the old path can't be walked on. A crash is none of these.
REFUSALS: Final = (InvalidTransition, GuardRefused, ValidationFailed)


def blank(
    machine: Machine, now: int, *, id: str | None = None, subject: str | None = None
) -> Snapshot:
    """Return the snapshot of a run that has not begun. A new id has 128 random bits."""
    id = secrets.token_urlsafe(16) if id is None else id
    return Snapshot.of(id, subject, 0, machine.root, None, _NO_DRAFTS, now, now, 0, False, None)


_NO_DRAFTS: Final[dict[str, str]] = {}
_new: Final = tuple.__new__


def successor(id: str) -> str:
    """Return the id of the run after `id`: the same random part, counted on."""
    start, _, number = id.partition("~")
    return f"{start}~{int(number or 0) + 1}"


class Result(tuple[Any, ...]):
    """A decided transition: what the flow becomes, and from what.

    `snapshot` and `previous`; `source`, `target`, `event`; `data`, what was kept under the source,
    or None; `entry`; `edge`; `finished`.
    """

    __slots__ = ()

    @property
    def snapshot(self) -> Snapshot:
        return _new(Snapshot, self[0])

    @property
    def previous(self) -> Snapshot:
        return _new(Snapshot, self[1])

    @property
    def edge(self) -> Edge:
        return self[2]  # type: ignore[no-any-return]

    @property
    def data(self) -> dict[str, Any] | None:
        return self[3]  # type: ignore[no-any-return]

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
        return self[0][2]  # type: ignore[no-any-return]

    @property
    def finished(self) -> bool:
        return self[0][9]  # type: ignore[no-any-return]

    @property
    def entry(self) -> Entry:
        return entry_of(self[0][4])

    def __repr__(self) -> str:
        return f"Result({self.source!r} -> {self.target!r}, rev={self.rev})"


class Progress(NamedTuple):
    """For a progress bar: the pages `done`, the `current` one, and those `ahead`.

    `open_ended` says that more may follow: the answers so far don't tell where the way leads.
    """

    done: tuple[str, ...]
    current: str
    ahead: tuple[str, ...]
    open_ended: bool

    @property
    def pages(self) -> tuple[str, ...]:
        """All pages of the bar, in order."""
        return (*self.done, self.current, *self.ahead)


class Flow:
    """One run of a machine. It belongs to one thread; what is shared is its snapshot."""

    __slots__ = ("_context", "_data", "_last", "_now", "_on_path", "_pending", "clock", "machine")

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
        # A snapshot's fields; a plain tuple takes a third of the time to make.
        self._now: tuple[Any, ...] = snapshot
        # The pages of the path, collected when first needed and kept up step by step.
        self._on_path: set[str] | None = None
        self._data: dict[str, Any] | None = None
        # While rules judge: the node that is left, and the data handed over.
        self._pending: tuple[Node, Mapping[str, Any] | None] | None = None
        self._last: Result | None = None

    # -- what it is ---------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        return _new(Snapshot, self._now)

    @property
    def id(self) -> str:
        return self._now[0]  # type: ignore[no-any-return]

    @property
    def subject(self) -> str | None:
        return self._now[1]  # type: ignore[no-any-return]

    @property
    def rev(self) -> int:
        return self._now[2]  # type: ignore[no-any-return]

    @property
    def current(self) -> str:
        """The name of the state; while rules judge an edit, that of the edited page."""
        node: Node = self._now[3] if self._pending is None else self._pending[0]
        return node[1]

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
        return self._now[9]  # type: ignore[no-any-return]

    @property
    def data(self) -> dict[str, Any]:
        """The answers of the pages on the path before the current one, by page.

        Rules also see the data that was handed to their transition, under the page being left.
        """
        if self._pending is None:
            return self.snapshot.data  # the caller's own: rules judge by another copy
        node, given = self._pending
        if node is self._now[3]:
            if self._data is None:
                self._data = self.snapshot.data
            data = self._data
        else:
            data = data_before(node)
            if node[3] is not None:
                data[node[1]] = load_answers(node[3])
        return data if given is None else {**data, node[1]: given}

    @property
    def drafts(self) -> dict[str, Any]:
        """The answers of all other pages, by page: they fill forms again and decide nothing."""
        return self.snapshot.drafts

    def answers(self, page: str) -> dict[str, Any] | None:
        """Return a copy of what was answered on `page`, kept or draft, or None."""
        node = self._node(page)
        text = self._now[5].get(page) if node is None or node[3] is None else node[3]
        return None if text is None else load_answers(text)

    def __repr__(self) -> str:
        return f"Flow({self.machine.name!r}, {self.current!r}, rev={self.rev})"

    # -- the path -----------------------------------------------------------------------

    def _pages(self) -> set[str]:
        if self._on_path is None:
            self._on_path = {node[1] for node in nodes_back(self._now[3])}
        return self._on_path

    def _node(self, page: str) -> Node | None:
        if page not in self._pages():
            return None
        return next(node for node in nodes_back(self._now[3]) if node[1] == page)

    def args(self, page: str) -> str | None:
        """Return the URL arguments of a page on the path, as JSON text, or None."""
        node = self._node(page)
        return None if node is None else node[2]

    def is_on_path(self, page: str) -> bool:
        """Tell whether `page` is on the path, open or closed."""
        return page in (self._on_path or self._pages())

    def is_open(self, page: str) -> bool:
        """Tell whether `page` is on the path and may be reopened."""
        node = self._node(page)
        return node is not None and self._is_open(node)

    def _is_open(self, node: Node) -> bool:
        tip: Node = self._now[3]
        return node is tip or not (self.finished or node[6] or node[4] < tip[5])

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
        its children, GuardRefused, ValidationFailed, InvalidData or RuleCrashed.
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
        id, subject, rev, node, log, drafts, started, updated, taken, finished, _ = before
        if finished or self._pending is not None:
            self._refuse_to_move(target)
        if source is not None and source != node[1]:
            node = self._edited(source, target)
        here = node[1]
        edge = machine.ways[here].get(target)
        if edge is None:
            self._refuse_edge(here, target)
        if machine.counted:
            if node is not before[3]:
                taken = self._taken(node)
            bit = 1 << edge.number
            if taken & bit or machine.ordered:
                reason = self._reason_to_skip(edge, taken)
                if reason is not None:
                    raise self._error(reason, edge)
            taken |= bit
        if edge.judged:
            data = self._judge(edge, node, data)
        elif edge.guards:
            self._pending = (node, data)
            try:
                for guard in edge.guards:
                    answer = guard(self)
                    if answer is not True and not _settled(answer):
                        raise GuardRefused
            except Exception as error:
                self._refuse(edge, error)
            finally:
                self._pending = None
        answers = node[3] if data is None else dump_answers(data)

        behind = node
        depth, barrier = node[4] + 1, node[5]
        cut: list[Node] | None = None
        if target in (self._on_path or self._pages()) or node is not before[3]:
            cut, drafts, old = self._shorten(node, answers, target)
            if old is not None:
                behind, depth = old[0], old[4]
                barrier = min(before[3][5], depth)  # what was closed stays so
        elif answers is not None and here in drafts:
            drafts = _without(drafts, here)
        if answers is not None or edge.back != "preserve":
            if behind is node:
                behind = left(node, edge.back, answers)
            if edge.back == "invalidate":
                barrier = depth

        at = self.clock()
        now = int(at) if at >= updated + 1 else updated  # a clock may jump back
        rev += advance
        if edge.final or (edge.final is None and machine.ends(target, taken)):
            finished = True
            drafts = _NO_DRAFTS
        tip = (behind, target, args, None, depth, barrier, False)
        log = (log, edge, now, rev)
        after = (id, subject, rev, tip, log, drafts, started, now, taken, finished, None)
        return Result((after, before, edge, data, cut))

    def _refuse_to_move(self, target: str) -> NoReturn:
        if self._pending is not None:
            raise FSMError(
                f"A rule of machine {self.machine.name!r} tried to move the flow that it judges: "
                f"move it in the view, or in a hook.",
                flow=self.id,
                target=target,
                code="moved_by_rule",
            )
        raise FlowFinished(
            f"This run of {self.machine.name!r} has ended at {self.current!r}; "
            f"start again to go to {target!r}.",
            flow=self.id,
            source=self.current,
            target=target,
        )

    def _refuse_edge(self, here: str, target: str) -> NoReturn:
        allowed = tuple(self.machine.ways[here])
        context: dict[str, Any] = {
            "flow": self.id, "source": here, "target": target, "allowed": allowed
        }  # fmt: skip
        if target not in self.machine.states:
            raise UnknownState(f"Machine {self.machine.name!r} has no state {target!r}.", **context)
        raise self._error(self._reason_no_edge(here, target), None, **context)

    def _edited(self, source: str, target: str | None) -> Node:
        """Return the node of a page that is edited, if it may be."""
        node = self._node(source)
        if node is not None and self._is_open(node):
            return node
        raise StaleFlow(
            f"{source!r} is not on the path of this run, which is at {self.current!r}."
            if node is None
            else f"{source!r} is closed and can't be edited any more.",
            flow=self.id,
            source=source,
            target=target,
            allowed=tuple(self.path),
            code="not_on_path" if node is None else "closed",
        )

    def _behind(self, node: Node) -> Iterator[Node]:
        """Walk the nodes of the path after `node`, last first."""
        for later in nodes_back(self._now[3]):
            if later is node:
                return
            yield later

    def _taken(self, node: Node) -> int:
        """Return the edges taken in this run, without those that an edit of `node` gives back."""
        taken: int = self._now[8]
        ways = self.machine.ways
        for later in self._behind(node):
            before = later[0]
            edge = ways[before[1]].get(later[1]) if before is not None else None
            if edge is not None:
                taken &= ~(1 << edge.number)
        return taken

    def _shorten(
        self, node: Node, answers: str | None, target: str
    ) -> tuple[list[Node], dict[str, str], Node | None]:
        """Cut the path for an edit or a loop.

        Returns the nodes cut, the drafts then, and the old node of `target` if this is a loop.
        """
        loop = target in self._pages()
        cut: list[Node] = []
        fresh: dict[str, str] = {}
        later: Node | None = self._now[3]
        while later is not node and later is not None:
            cut.append(later)
            if later[3] is not None:
                fresh[later[1]] = later[3]
            if later[1] == target:
                loop = False
            later = later[0]
        while loop and later is not None:
            cut.append(later)
            kept = answers if later is node else later[3]
            if kept is not None:
                fresh[later[1]] = kept
            loop = later[1] != target
            later = later[0]
        drafts: dict[str, str] = self._now[5]
        if fresh:
            drafts = {**drafts, **fresh}
        if later is not node:
            return cut, drafts, cut[-1]
        if answers is not None and node[1] in drafts:
            drafts = _without(drafts, node[1])
        return cut, drafts, None

    def _judge(
        self, edge: Edge, node: Node, data: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Run pre_transition rules, guards and validators; return the data as enriched."""
        given = {} if data is None else mapping(data)
        self._pending = (node, None if data is None else given)
        try:
            for rule in edge.pre_transitions:
                try:
                    _settled(rule(self, given))
                except FSMError as error:
                    raise self._placed(error, edge) from None
                except Exception as error:
                    raise self._crashed("pre_transition", rule, edge, error) from error
                if given:
                    self._pending = (node, given)
            reasons = self._reasons_of_guards(edge)
            if reasons:
                raise self._error(reasons[0], edge, reasons=reasons)
            if edge.validators:
                self._validate(edge, given)
        finally:
            self._pending = None
        return None if data is None and not given else given

    def _refuse(self, edge: Edge, error: Exception) -> NoReturn:
        """Raise GuardRefused with every reason; all guards are asked again, for they are pure."""
        reasons = self._reasons_of_guards(edge)
        if not reasons:  # a guard that is not pure, and says yes when asked twice
            text = f"A guard refused {edge.source!r} -> {edge.target!r}, then did not."
            reasons = [Reason(GuardRefused.default_code, text)]
        cause = None if isinstance(error, GuardRefused) else error
        raise self._error(reasons[0], edge, reasons=reasons) from cause

    def _validate(self, edge: Edge, data: dict[str, Any]) -> None:
        """Run all validators and raise one ValidationFailed with all that they say."""
        messages: list[str] = []
        fields: dict[str, list[str]] = {}
        for rule in edge.validators:
            try:
                _settled(rule(self, data))
            except ValidationFailed as error:
                messages += error.messages
                for name, texts in error.fields.items():
                    fields.setdefault(name, []).extend(texts)
            except ValueError as error:
                messages.append(str(error) or f"{_title(rule)} refused.")
            except FSMError as error:
                raise self._placed(error, edge) from None
            except Exception as error:
                raise self._crashed("validator", rule, edge, error) from error
        if messages or fields:
            texts = [*messages, *(f"{name}: {text}" for name, t in fields.items() for text in t)]
            raise ValidationFailed(
                " ".join(texts),
                messages=messages,
                fields=fields,
                **self._where(edge),
                reasons=[Reason(ValidationFailed.default_code, text) for text in texts],
            )

    # -- reasons ------------------------------------------------------------------------

    def _reason_no_edge(self, here: str, target: str) -> Reason:
        ways = ", ".join(map(repr, self.machine.ways[here])) or "nowhere"
        return Reason(
            InvalidTransition.default_code,
            f"Machine {self.machine.name!r} has no edge {here!r} -> {target!r}; "
            f"{here!r} leads to {ways}.",
        )

    def _reason_to_skip(self, edge: Edge, taken: int) -> Reason | None:
        machine = self.machine
        if not machine.repeat and taken >> edge.number & 1:
            return Reason(
                DuplicateTransition.default_code,
                f"{edge.source!r} -> {edge.target!r} has already been taken in this run.",
            )
        if machine.ordered:
            missing = ~taken & ((1 << edge.number) - 1)
            if missing:
                first = machine.edges[(missing & -missing).bit_length() - 1]
                return Reason(
                    SkippedTransition.default_code,
                    f"{first.source!r} -> {first.target!r} comes before "
                    f"{edge.source!r} -> {edge.target!r} and has not been taken in this run.",
                )
        return None

    def _reasons_of_guards(self, edge: Edge) -> list[Reason]:
        reasons: list[Reason] = []
        for guard in edge.guards:
            code = GuardRefused.default_code
            try:
                if _settled(guard(self)):
                    continue
            except GuardRefused as error:
                if error.message:
                    reasons += error.reasons
                    continue
            except Exception:
                code = "guard_raised"
                logger.exception(
                    "The guard %s raised, which refuses %s -> %s of machine %r.",
                    _title(guard), edge.source, edge.target, self.machine.name,
                )  # fmt: skip
            reasons.append(
                Reason(code, guard.__doc__.strip().splitlines()[0])
                if guard.__doc__ and guard.__doc__.strip()
                else Reason(code, _refusal(guard, edge))
            )
        return reasons

    def _where(self, edge: Edge) -> dict[str, Any]:
        return {
            "flow": self.id,
            "source": edge.source,
            "target": edge.target,
            "allowed": tuple(self.machine.ways[edge.source]),
        }

    def _error(self, reason: Reason, edge: Edge | None, **context: Any) -> FSMError:
        kind = _ERRORS.get(reason.code, GuardRefused)
        if edge is not None:
            context = {**self._where(edge), **context}
        return kind(reason.text, code=reason.code, **context)

    def _placed(self, error: FSMError, edge: Edge) -> FSMError:
        """Say where, on an error that a rule raised."""
        for name, value in self._where(edge).items():
            if not getattr(error, name):
                setattr(error, name, value)
        return error

    def _crashed(
        self, kind: str, rule: Callable[..., Any], edge: Edge, error: Exception
    ) -> RuleCrashed:
        return RuleCrashed(
            f"The {kind} {_title(rule)} of {edge.source!r} -> {edge.target!r} in machine "
            f"{self.machine.name!r} raised {error!r}. To refuse, raise ValidationFailed.",
            **self._where(edge),
        )

    def why_not(
        self, to: str, data: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> list[Reason]:
        """Return every reason why `to` can't be taken now; an empty list says that it can.

        Nothing changes and no pre_transition runs. Validators judge only if `data` is given.
        """
        if self._pending is not None:
            self._refuse_to_move(to)
        if self.finished:
            return [Reason(FlowFinished.default_code, f"This run has ended at {self.current!r}.")]
        try:
            node = self._edited(source or self._now[3][1], to)
        except StaleFlow as error:
            return [Reason(error.code, error.message)]
        if to not in self.machine.states:
            return [
                Reason(
                    UnknownState.default_code,
                    f"Machine {self.machine.name!r} has no state {to!r}.",
                )
            ]
        edge = self.machine.ways[node[1]].get(to)
        if edge is None:
            return [self._reason_no_edge(node[1], to)]
        reasons = []
        skip = self._reason_to_skip(edge, self._taken(node)) if self.machine.counted else None
        if skip is not None:
            reasons.append(skip)
        given = {} if data is None else dict(data)
        self._pending = (node, None if data is None else given)
        try:
            reasons += self._reasons_of_guards(edge)
            if data is not None:
                self._validate(edge, given)
        except FSMError as error:
            reasons += error.reasons
        finally:
            self._pending = None
        return reasons

    def can_transition(
        self, to: str, data: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> bool:
        """Tell whether `to` can be taken now."""
        return not self.why_not(to, data, source=source)

    def has_not_skipped(self, to: str, *, source: str | None = None) -> bool:
        """Tell whether every transition declared before the one to `to` was taken in this run."""
        edge = self.machine.ways[source or self.current].get(to)
        if edge is None:
            return False
        before = (1 << edge.number) - 1
        taken = self.snapshot.taken
        if not self.machine.counted:
            for entry in self.history:
                way = self.machine.ways[entry.source].get(entry.target)
                taken |= 0 if way is None else 1 << way.number
        return taken & before == before

    # -- moving -------------------------------------------------------------------------

    def apply(self, result: Result) -> None:
        """Make a decided transition this flow's own, without running its hooks."""
        after, before, edge, data, cut = result
        if before is not self._now:
            raise StaleFlow(
                f"{edge.source!r} -> {edge.target!r} was decided at rev {before[2]}, but the "
                f"flow is at rev {self.rev}: decide again.",
                flow=self.id,
                source=edge.source,
                target=edge.target,
            )
        on_path = self._on_path or self._pages()
        if cut is not None:
            for node in cut:
                on_path.discard(node[1])
            self._data = None
        elif data is not None and self._data is not None:
            self._data[edge.source] = load_answers(after[3][0][3])
        on_path.add(edge.target)
        self._last = result
        self._now = after

    def run_hooks(self, result: Result) -> None:
        """Run the hooks of a transition that was made. A failure is logged and undoes nothing."""
        for rule in result[2].hooks:
            try:
                _settled(rule(self, result))
            except Exception:
                logger.exception(
                    "The hook %s failed after %s -> %s of machine %r; the transition stands.",
                    _title(rule), result.source, result.target, self.machine.name,
                )  # fmt: skip

    def transition(
        self,
        to: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str | None = None,
    ) -> Result:
        """Decide the transition to `to`, make it, run its hooks, and return the result."""
        result = self._decide(to, data, source, None, 1)
        self.apply(result)
        self.run_hooks(result)
        return result

    def send(self, event: str, data: Mapping[str, Any] | None = None) -> Result:
        """Take the edge out of the current state whose `event` has this name."""
        return self.transition(self.target_of(event), data)

    def target_of(self, event: str) -> str:
        """Return where `event` leads from the current state, or raise InvalidTransition."""
        edges = self.machine.ways[self.current].values()
        for edge in edges:
            if edge.event == event:
                return edge.target
        names = tuple(edge.event for edge in edges if edge.event is not None)
        raise InvalidTransition(
            f"State {self.current!r} knows no event {event!r}; it knows "
            f"{', '.join(map(repr, names)) or 'none'}.",
            flow=self.id,
            source=self.current,
            allowed=names,
            code="no_event",
        )

    def resume(self) -> list[Result]:
        """After an edit, walk the old path on as far as its guards and validators hold.

        The steps belong to the edit's commit: they share its rev. Returns one result for each.
        """
        results = []
        for result in self.steps_to_resume():
            results.append(result)
            self.run_hooks(result)
        return results

    def steps_to_resume(self) -> Iterator[Result]:
        """Make the steps of `resume` one by one, without running their hooks."""
        if self._last is None:
            return
        _, before, edge, _, cut = self._last
        if cut is None or edge.source == before[3][1]:
            return
        # The path as it was, from the page that was edited.
        after = {node[0][1]: node for node in cut if node[0] is not None}
        while not self.finished:
            state = self._now[3][1]
            following = after.pop(state, None)
            if following is None:
                return
            draft = self._now[5].get(state)
            data = None if draft is None else load_answers(draft)
            try:
                result = self._decide(following[1], data, None, following[2], 0)
            except REFUSALS:
                return
            self.apply(result)
            yield result

    def reset(self) -> None:
        """Begin anew: a blank run, under the id that follows this one's."""
        now = int(self.clock())
        self.rewind(blank(self.machine, now, id=successor(self.id), subject=self.snapshot.subject))

    def rewind(self, snapshot: Snapshot) -> None:
        """Stand where `snapshot` stands, whatever was decided since."""
        self._now = snapshot
        self._on_path = self._data = self._last = None

    # -- progress -----------------------------------------------------------------------

    def progress(self, page: str | None = None) -> Progress:
        """Return the pages done, the current one (`page`, if it is on the path) and those ahead.

        What lies ahead is followed while there is one way on, or while the answers, drafts
        included, leave one that its guards allow.
        """
        path = tuple(self.path)
        at = path.index(page) if page in path else len(path) - 1
        ahead: list[str] = list(path[at + 1 :])
        seen = set(path)
        state = path[-1]
        data = {**self.drafts, **self.data}
        open_ended = False
        self._data, kept = data, self._data
        self._pending, pending = (self._now[3], None), self._pending
        try:
            while not self.finished and not self.machine.complete(state):
                ways = [
                    edge for edge in self.machine.ways[state].values() if edge.target not in seen
                ]
                if len(ways) > 1:
                    ways = [e for e in ways if self._holds(e)] if state in data else []
                if len(ways) != 1:
                    open_ended = any(t not in seen for t in self.machine.ways[state])
                    break
                state = ways[0].target
                seen.add(state)
                ahead.append(state)
        finally:
            self._data, self._pending = kept, pending
        return Progress(path[:at], path[at], tuple(ahead), open_ended)

    def _holds(self, edge: Edge) -> bool:
        try:
            return all(_settled(guard(self)) for guard in edge.guards)
        except Exception:
            return False


_ERRORS: Final[dict[str, type[FSMError]]] = {
    kind.default_code: kind
    for kind in (InvalidTransition, DuplicateTransition, SkippedTransition, FlowFinished)
}


def _without(drafts: dict[str, str], page: str) -> dict[str, str]:
    return {other: text for other, text in drafts.items() if other != page}


def _settled(answer: object) -> object:
    """Return what a rule answered; an answer that must be awaited would pass for a yes."""
    if hasattr(answer, "__await__"):
        if hasattr(answer, "close"):
            answer.close()
        raise TypeError("it returned something to await: define it by `async def`")
    return answer


def _refusal(guard: Callable[..., Any], edge: Edge) -> str:
    """Say for a guard without a docstring that it refused; a lambda has no name to show."""
    if getattr(guard, "__name__", "<lambda>") == "<lambda>":
        return "This step is not possible with the answers so far."
    return f"{_title(guard)} does not allow {edge.source!r} -> {edge.target!r}."


def _title(rule: Callable[..., Any]) -> str:
    name = getattr(rule, "__name__", "")
    return "A condition of this step" if name in ("", "<lambda>") else repr(name)
