"""State, Transition and Edge: what a definition is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from ..errors import DefinitionError, DuplicateEvent
from .event import Event, Handler
from .names import faults_of_names, is_name, several
from .rules import Function, Functions, Ruled

__all__ = ["ANY", "BACK_POLICIES", "Back", "Edge", "State", "Transition", "TransitionLike"]

Back = Literal["preserve", "discard", "invalidate"]
BACK_POLICIES: tuple[Back, ...] = ("preserve", "discard", "invalidate")
ANY = "*"
H = TypeVar("H", bound=Handler)


class State(Ruled):
    """A named node. It is a page if an app has an endpoint for it.

    `targets` names the states it leads to; None adds no edges in a machine that lists
    transitions, and leads anywhere in one that lists none. `guarded=False` says that its view is
    meant to go without `check`. `events` holds what a client may send to the state, as `event`
    registers it. The rules run when the state is entered.
    """

    __slots__ = ("events", "guarded", "name", "targets")

    def __init__(
        self,
        name: str,
        targets: str | Iterable[str] | None = None,
        *,
        guarded: bool = True,
        events: Iterable[Event] = (),
        when: Functions | None = None,
        pre_transition: Functions = (),
        validators: Functions = (),
        hooks: Functions = (),
    ) -> None:
        self.name = name
        faults = faults_of_names("", name)
        self.targets: tuple[str, ...] | None = None
        if targets is not None:
            self.targets = several(f"{self!r}: targets", targets, faults)
            faults += faults_of_names(f"{self!r}: the target ", *self.targets)
        self.guarded = guarded
        faults += self._begin(when, pre_transition, validators, hooks)
        self.events: dict[str, Event] = {}
        for each in events:
            if not isinstance(each, Event):
                faults.append(  # type: ignore[unreachable]
                    DefinitionError(f"{self!r}: events holds {each!r}, not an Event.")
                )
            elif each.name in self.events:
                faults.append(self._duplicate(each.name))
            else:
                self.events[each.name] = each
        if faults:
            raise DefinitionError.of("State", faults)

    def __repr__(self) -> str:
        return f"State({self.name!r})"

    def event(self, name: str) -> Callable[[H], H]:
        """Register what handles an event in this state: `handler(flow, data)`, sync or async.

        It may move the flow by `flow.transition`, answer by `flow.transmit`, or both, or neither.
        What it returns, unless that is None, is transmitted with status 200.
        """
        if self._sealed:
            raise DefinitionError(
                f"{self!r}: the event {name!r} comes too late, the machine is in use. Register "
                f"events where the machine is defined, or before the first flow or request."
            )
        if not is_name(name):
            raise DefinitionError(f"{self!r}: {name!r} is no name of an event.")
        if name in self.events:
            raise self._duplicate(name)

        def register(handler: H) -> H:
            if name in self.events:
                raise self._duplicate(name)
            self.events[name] = Event(name, handler)
            return handler

        return register

    def _duplicate(self, name: str) -> DuplicateEvent:
        return DuplicateEvent(
            f"{self!r} has a handler of the event {name!r} already.", source=self.name
        )


class Transition(Ruled):
    """An edge `source -> target`; `source` may be a list, or `"*"`: all but finals and target.

    `event` is the name by which a client may ask for it. `when` holds guards. `visit=True` lets a
    GET of the target take it. `once=True` claims the transition before the view of its source runs,
    so that of several requests one runs; it needs a store on a server. `back` says what becomes of
    the page that was left: it may be reopened and edited (`"preserve"`), it is closed
    (`"discard"`), it and all before it are closed (`"invalidate"`). The rules run when the edge is
    taken.
    """

    __slots__ = ("back", "event", "once", "source", "target", "visit")

    def __init__(
        self,
        source: str | Iterable[str],
        target: str,
        event: str | None = None,
        when: Functions | None = None,
        validators: Functions = (),
        hooks: Functions = (),
        visit: bool = False,
        once: bool = False,
        back: Back = "preserve",
        pre_transition: Functions = (),
    ) -> None:
        faults: list[DefinitionError] = []
        where = f"edge {source!r} -> {target!r}"
        alone = isinstance(source, str) or not isinstance(source, Iterable)
        sources: tuple[Any, ...] = (source,) if alone else tuple(source)
        self.source: str | tuple[str, ...] = sources[0] if alone else sources
        self.target = target
        if not sources:
            faults.append(DefinitionError(f"{where} lists no source."))
        faults += faults_of_names(f"{where}: the source ", *sources)
        faults += faults_of_names(f"{where}: the target ", target)
        if event is not None and not is_name(event):
            faults.append(DefinitionError(f"{where}: {event!r} is no name of an event."))
        self.event = event
        if visit and once:
            faults.append(DefinitionError(f"{where}: a GET (visit=True) can't claim (once=True)."))
        self.visit = visit
        self.once = once
        self.back: Back = back
        faults += self._begin(when, pre_transition, validators, hooks)
        if faults:
            raise DefinitionError.of("Transition", faults)

    def __repr__(self) -> str:
        return f"Transition({self.source!r}, {self.target!r})"


TransitionLike = Transition | tuple[str | Sequence[str], str]


class Edge:
    """One way from one state to one other: a `Transition` after its sources are spelled out.

    `number` counts the machine's edges in the order of declaration; `code` counts those out of
    the source from 1, and the codec writes it. `final` says whether it ends the run, or is None if
    `Machine.ends` has to be asked.
    """

    __slots__ = (
        "back",
        "code",
        "event",
        "final",
        "guards",
        "has_rules",
        "hooks",
        "number",
        "once",
        "pre_transitions",
        "source",
        "target",
        "transition",
        "validators",
        "visit",
    )

    def __init__(self, source: str, transition: Transition, number: int) -> None:
        self.source = source
        self.target = transition.target
        self.event = transition.event
        self.visit = transition.visit
        self.once = transition.once
        self.back = transition.back
        self.transition = transition
        self.number = number
        self.code = 0
        self.final: bool | None = None
        self.guards: tuple[Function, ...] = ()
        self.pre_transitions: tuple[Function, ...] = ()
        self.validators: tuple[Function, ...] = ()
        self.hooks: tuple[Function, ...] = ()
        self.has_rules = False

    def __repr__(self) -> str:
        return f"Edge({self.source!r}, {self.target!r})"
