"""State, Transition and Edge: the parts of a definition.

The back policy of a transition (`back=`) is applied by core/path when its edge is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from ..errors import DefinitionError, DuplicateEvent
from .event import Event, Handler
from .names import as_tuple, is_name, name_faults, plain
from .rules import CompiledRules, Function, Functions, RuleOwner

__all__ = ["ANY", "BACK_POLICIES", "Back", "Edge", "State", "Transition", "TransitionLike"]

Back = Literal["preserve", "discard", "invalidate"]
BACK_POLICIES: tuple[Back, ...] = ("preserve", "discard", "invalidate")
ANY = "*"
H = TypeVar("H", bound=Handler)


class State(RuleOwner):
    """A state of a machine. It is a page if an app has an endpoint for it.

    Args:
        name: The name, of 1 to 255 characters.
        targets: The states it leads to. With None, the default, it leads to those that the
            machine's transitions say; if the machine lists no transitions, to every state. An empty
            list is the opposite: the state leads nowhere, and arriving there ends the run.
        guarded: Whether its view must have `check`. By default True.
        events: The events that clients may send to the state; `event` registers more.
        when: Guards, one or several.
        pre_transition: pre_transition rules, one or several.
        validators: Validators, one or several.
        hooks: Hooks, one or several. All these rules run when the state is entered.

    Raises:
        DefinitionError: Arguments are not valid; `faults` lists everything found.
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
        self.name: str = plain(name)
        faults = name_faults("", name)
        self.targets: tuple[str, ...] | None = None
        if targets is not None:
            self.targets = as_tuple(f"{self!r}: targets", targets, faults)
            faults += name_faults(f"{self!r}: the target ", *self.targets)
        self.guarded: bool = guarded
        faults += self._init_rules(when, pre_transition, validators, hooks)
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
        """Register the handler of an event in this state, as a decorator.

        Args:
            name: The name that clients send.

        Returns:
            A decorator for the handler, `(flow, data)`, sync or async. It may move the flow by
            `flow.transition`, reply by `flow.transmit`, or both, or neither; a value that it
            returns, unless None, is transmitted with status 200.

        Raises:
            DefinitionError: The name is not valid, or the machine is already in use.
            DuplicateEvent: The state has a handler of this event.
        """
        if self._sealed:
            raise DefinitionError(
                f"{self!r}: the event {name!r} can't be registered, since the machine is already "
                f"in use. Register events where the machine is defined, or before the first flow "
                f"or request."
            )
        name = plain(name)
        if not is_name(name):
            raise DefinitionError(f"{self!r}: {name!r} is not a valid event name.")
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
            f"{self!r} already has a handler of the event {name!r}.", source=self.name
        )


class Transition(RuleOwner):
    """A way from one state, or from several, to another.

    Args:
        source: The state it leads out of, a list of such states, or `"*"` for all states but final
            ones and the target.
        target: The state it leads to.
        event: The event by which clients may take it. By default none.
        when: Guards, one or several.
        validators: Validators, one or several.
        hooks: Hooks, one or several.
        visit: Whether a GET of the target takes it. By default False.
        once: Whether a request takes a lease on the transition before the view of its source
            runs, so that only one of several requests runs it. It needs a store on a server. By
            default False.
        back: The back policy, which says whether the page that is left can be edited later:
            `"preserve"` (the default) leaves it open, `"discard"` closes it, `"invalidate"` closes
            it and all pages before it.
        pre_transition: pre_transition rules, one or several. All rules run when it is taken.

    Raises:
        DefinitionError: Arguments are not valid; `faults` lists everything found.
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
        alone = isinstance(source, str) or not isinstance(source, Iterable)
        sources: tuple[Any, ...] = tuple(map(plain, (source,) if alone else source))
        target, event = plain(target), plain(event)
        named = sources[0] if alone else sources
        where = f"edge {named!r} -> {target!r}"
        self.source: str | tuple[str, ...] = named
        self.target: str = target
        if not sources:
            faults.append(DefinitionError(f"{where} must have at least one source."))
        faults += name_faults(f"{where}: the source ", *sources)
        faults += name_faults(f"{where}: the target ", target)
        if event is not None and not is_name(event):
            faults.append(DefinitionError(f"{where}: {event!r} is not a valid event name."))
        self.event: str | None = event
        if visit and once:
            faults.append(
                DefinitionError(f"{where}: a GET (visit=True) can't take a lease (once=True).")
            )
        self.visit: bool = visit
        self.once: bool = once
        self.back: Back = back
        faults += self._init_rules(when, pre_transition, validators, hooks)
        if faults:
            raise DefinitionError.of("Transition", faults)

    def __repr__(self) -> str:
        return f"Transition({self.source!r}, {self.target!r})"


TransitionLike = Transition | tuple[str | Sequence[str], str]


class Edge:
    """A way from one state to one other: a `Transition` for one of its sources.

    `number` counts the machine's edges in the order of declaration, and `code` those out of the
    source from 1, as the text of a history does. `final` is whether taking it ends the run, or None
    if only `Machine.ends` can tell.
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
        self.source: str = source
        self.target: str = transition.target
        self.event: str | None = transition.event
        self.visit: bool = transition.visit
        self.once: bool = transition.once
        self.back: Back = transition.back
        self.transition: Transition = transition
        self.number: int = number
        self.code: int = 0
        self.final: bool | None = None
        self.guards: tuple[Function, ...] = ()
        self.pre_transitions: tuple[Function, ...] = ()
        self.validators: tuple[Function, ...] = ()
        self.hooks: tuple[Function, ...] = ()
        self.has_rules: bool = False

    def set_rules(self, rules: CompiledRules) -> None:
        """Set the rules that run when this edge is taken."""
        self.guards, self.pre_transitions, self.validators, self.hooks = rules
        self.has_rules = bool(rules.pre_transitions or rules.validators)

    def __repr__(self) -> str:
        return f"Edge({self.source!r}, {self.target!r})"
