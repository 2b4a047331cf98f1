"""Machine: the definition, checked when it is made, then immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

from ..errors import Code, DefinitionError, DuplicateEvent, DuplicateState, UnknownState
from .definition import Definition
from .flow import Clock, Flow
from .graph import collect_states, expand_edges, list_transitions
from .lint import faults_of_graph
from .migration import Renamed
from .names import faults_of_names, is_name, several
from .path import root
from .rules import Function, Ruled, Wrap, compile_rules, end_registration, only_sync, set_rules
from .serialization import dump_machine, load_definition
from .snapshot import Snapshot
from .state import Back, Edge, State, Transition, TransitionLike

__all__ = ["Back", "Edge", "Machine", "State", "Transition", "TransitionLike"]

M = TypeVar("M", bound=Callable[[str], str | None] | Mapping[str, str | None])


class _Given(NamedTuple):
    """What a definition was given: transitions, states, initial and final ones."""

    transitions: tuple[Transition, ...]
    states: tuple[Any, ...]
    initial: str | None
    finals: tuple[str, ...] | None


class Machine(Definition):
    """Which states there are and which edges lead between them.

    `transitions` holds `Transition` objects or `(source, target)` tuples; `states` names or
    `State` objects, and if it is given it must name them all. `initial` is by default the first
    state given, else the first source; `final` by default the states with no way out.
    `repeat=False`: an edge may be taken once per run. `ordered=True`: every transition declared
    before one must have been taken in the run. `reset="auto"`: after the end, the initial page
    starts a new run; `"manual"`: only a reset does. `many=True`: a subject may have several flows,
    told apart by a key in the query of their pages; `many="order_id"`: by that URL argument.
    `scope="connection"`: each websocket has a fresh flow of its own. `complete(name)` says whether
    arriving at a state ends the run; by default the final states do. `register_state` adds states
    until the machine is first used, so a machine may begin without any.

    Every fault of the definition is reported in one `DefinitionError`.
    """

    __slots__ = ("_compiled", "_faults", "_given")

    _compiled: bool
    _faults: list[DefinitionError]
    _given: _Given

    def __init__(
        self,
        name: str,
        transitions: Iterable[TransitionLike] = (),
        *,
        states: str | Iterable[str | State] = (),
        initial: str | None = None,
        final: str | Iterable[str] | None = None,
        repeat: bool = True,
        ordered: bool = False,
        reset: Literal["auto", "manual"] = "auto",
        many: bool | str = False,
        scope: Literal["subject", "connection"] = "subject",
        complete: Callable[[str], bool] | None = None,
    ) -> None:
        faults = self._begin()
        if not is_name(name):
            faults.append(DefinitionError(f"{name!r} is no name of a machine."))
        if reset not in ("auto", "manual"):
            faults.append(DefinitionError(f'reset is "auto" or "manual", not {reset!r}.'))
        if not isinstance(many, bool) and not is_name(many):
            faults.append(
                DefinitionError(f"many is True, False or the name of a URL argument, not {many!r}.")
            )
        if scope not in ("subject", "connection"):
            faults.append(DefinitionError(f'scope is "subject" or "connection", not {scope!r}.'))
        elif scope == "connection" and many:
            faults.append(DefinitionError('scope="connection" has one flow per socket: no `many`.'))
        if complete is not None and not callable(complete):
            faults.append(  # type: ignore[unreachable]
                DefinitionError(f"complete is {complete!r}, which is not callable.")
            )
        malformed: list[DefinitionError] = []
        listed = list_transitions(transitions, malformed)
        named = several("states", states, malformed)
        finals = None if final is None else several("final", final, malformed)
        malformed += faults_of_names("final: ", *(finals or ()))
        malformed += faults_of_names("initial: ", *([] if initial is None else [initial]))
        faults += malformed
        if malformed:
            initial = initial if is_name(initial) else None
            finals = None if finals is None else tuple(filter(is_name, finals))
            if not named:  # the malformed parts might have named any state
                raise DefinitionError.of(f"Machine {name!r}", faults)
        self._set(
            name=name,
            repeat=repeat,
            ordered=ordered,
            reset=reset,
            many=many,
            scope=scope,
            migration=None,
            completion=complete,
            _compiled=False,
            tracks_edges=ordered or not repeat,
        )
        self._define(_Given(listed, named, initial, finals), faults, bool(malformed))
        if any(fault.code != Code.NO_INITIAL for fault in self._faults):
            raise DefinitionError.of(f"Machine {name!r}", self._faults)

    def _define(self, given: _Given, faults: list[DefinitionError], malformed: bool) -> None:
        """Make states and edges of what was given, and keep what is wrong with it."""
        listed, named, initial, finals = given
        known = collect_states(named, listed, initial, faults)
        edges = expand_edges(known, listed, finals, faults)
        first = initial if initial is not None else next(iter(known), None)
        if finals is None:
            sources = {edge.source for edge in edges}
            finals = tuple(state for state in known if state not in sources)
        for what, state in [("initial", first), *(("final", state) for state in finals)]:
            if state is not None and state not in known:
                faults.append(UnknownState(f"{what} names the unknown state {state!r}."))
        if malformed:
            pass  # they might have been ways
        elif first is None:
            faults.append(
                DefinitionError(
                    "there is no initial state: list transitions or states.", code=Code.NO_INITIAL
                )
            )
        elif not any(isinstance(fault, UnknownState) for fault in faults):
            pairs = [(edge.source, edge.target) for edge in edges]
            faults += faults_of_graph(tuple(known), pairs, first, finals)
        self._set(
            states=MappingProxyType(known),
            transitions=listed,
            initial=first,
            finals=frozenset(finals),
            root=root(first or ""),
            _given=given,
            _faults=faults,
        )
        self._set_edges(edges)

    def register_state(self, state: State) -> State:
        """Add a state; the first one is the initial, unless another was named. Returns it.

        Its targets may be registered later: what is missing is told when the machine is first used.
        """
        if self._sealed:
            raise DefinitionError(
                f"{self!r}: the state {getattr(state, 'name', state)!r} comes too late, the "
                f"machine is in use."
            )
        if not isinstance(state, State):
            raise DefinitionError(f"register_state() takes a State, not {state!r}.")
        if state.name in self.states:
            raise DuplicateState(
                f"Machine {self.name!r} has a state {state.name!r} already.", target=state.name
            )
        states = (*self.states.values(), state)
        self._define(self._given._replace(states=states), [], False)
        return state

    def seal(self, wrap: Wrap = only_sync) -> Machine:
        """End the registration of rules and fix the order in which each edge runs its own."""
        if not self._compiled:
            self._compile(wrap)
        return self

    def restricted(self, keep: Callable[[Edge], bool], wrap: Wrap) -> Machine:
        """This machine with only the edges that `keep` accepts, its rules wrapped for an app."""
        narrow = Machine.__new__(Machine)
        self._check()
        for name in (*Ruled.__slots__, *Definition.__slots__, *Machine.__slots__):
            if hasattr(self, name):
                object.__setattr__(narrow, name, getattr(self, name))
        narrow._set_edges([Edge(e.source, e.transition, 0) for e in self.edges if keep(e)])
        narrow._compile(wrap)
        self._end_registration()
        return narrow

    def _check(self) -> None:
        """Raise what is wrong with the definition, now that nothing is added to it."""
        faults = self._faults or [
            DuplicateEvent(
                f"event {edge.event!r} of state {edge.source!r} has a handler, and an edge to "
                f"{edge.target!r}: give one of them another name.",
                source=edge.source,
                target=edge.target,
            )
            for edge in self.edges
            if edge.event in self.states[edge.source].events
        ]
        if faults:
            raise DefinitionError.of(f"Machine {self.name!r}", faults)

    def _compile(self, wrap: Wrap) -> None:
        self._check()
        for edge in self.edges:
            rules = compile_rules(wrap, self, self.states[edge.target], edge.transition)
            edge.guards, edge.pre_transitions, edge.validators, edge.hooks = rules
            edge.has_rules = bool(edge.pre_transitions or edge.validators)
        handlers = {
            name: {event: wrap(each.handler) for event, each in state.events.items()}
            for name, state in self.states.items()
        }
        events_of = {
            name: (
                *state.events,
                *(edge.event for edge in self.ways[name].values() if edge.event is not None),
            )
            for name, state in self.states.items()
        }
        self._set(_compiled=True, handlers=handlers, _events_of=events_of)
        self._end_registration()

    def _end_registration(self) -> None:
        for owner in (self, *self.states.values(), *(edge.transition for edge in self.edges)):
            end_registration(owner)

    def migrate(self, names: M) -> M:
        """Say what the states of an older definition are called now.

        `names` maps an old name to the new one, or to None if its page is gone; a function
        `(name) -> str | None` will do, and may be decorated. It is asked when a stored flow was
        made by another definition. A name that it leaves as it is, and that the machine does not
        have, makes the flow a `SnapshotError` with the code `"definition"`.
        """
        if self._sealed:
            raise DefinitionError(f"{self!r}: migrate() comes too late, the machine is in use.")
        if self.migration is not None:
            raise DefinitionError(f"{self!r}: migrate() was called before: name all in one call.")
        if isinstance(names, Mapping):
            faults = [
                UnknownState(f"migrate maps {old!r} to the unknown state {new!r}.")
                for old, new in names.items()
                if not is_name(old) or (new is not None and new not in self.states)
            ]
            if faults:
                raise DefinitionError.of(repr(self), faults)
            self._set(migration=Renamed(names))
        elif callable(names):
            self._set(migration=names)
        else:
            raise DefinitionError(
                f"{self!r}: migrate() takes a mapping of old names to new ones, or a function, "
                f"not {names!r}."
            )
        return names

    def flow(
        self,
        snapshot: Snapshot | None = None,
        *,
        subject: str | None = None,
        context: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> Flow:
        """Begin a flow, or go on from `snapshot`. `clock` returns seconds since 1970."""
        return Flow(self.seal(), snapshot, subject=subject, context=context, clock=clock)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as JSON-able data; rules stand in it by their qualified names."""
        return dump_machine(self)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, rules: Iterable[Function] | Mapping[str, Function] = ()
    ) -> Machine:
        """Make a machine from what `to_dict` returned, or from the same shape written by hand.

        `rules` holds the functions that the data names: a mapping, or functions by their
        qualified names. A rule that is named but not given is a `DefinitionError`.
        """
        loaded = load_definition(data, rules)
        try:
            machine = cls(loaded.name, loaded.transitions, states=loaded.states, **loaded.options)
        except DefinitionError as error:
            faults = [*error.faults, *loaded.faults]
            raise DefinitionError.of(f"Machine {loaded.name!r}", faults) from None
        set_rules(machine, loaded.rules)
        if loaded.migration is not None:
            machine.migrate(loaded.migration)
        if loaded.faults:
            raise DefinitionError.of(f"Machine {loaded.name!r}", loaded.faults)
        return machine
