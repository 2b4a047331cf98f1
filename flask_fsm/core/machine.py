"""Machine: a definition that is checked when it is made, and immutable from its first use on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeVar

from ..errors import Code, DefinitionError, DuplicateState, UnknownState
from .definition import DERIVED, Definition
from .flow import Clock, Flow
from .graph import (
    collect_states,
    duplicate_events,
    expand_edges,
    list_transitions,
    pairs_with_unknown,
)
from .lint import graph_faults, option_faults
from .migration import Renamed
from .names import Named, as_tuple, is_name, name_faults, plain
from .path import root
from .rules import (
    Function,
    RuleOwner,
    Wrap,
    compile_rules,
    end_registration,
    refuse_async,
    refuse_coroutine,
    set_rules,
)
from .serialization import dump_machine, load_definition
from .snapshot import Snapshot
from .state import Back, Edge, State, Transition, TransitionLike
from .ways import Limits, OpenWays, arcs, every_state, narrowed

__all__ = ["Back", "Edge", "Machine", "MachineOptions", "State", "Transition", "TransitionLike"]

M = TypeVar("M", bound=Callable[[str], str | None] | Mapping[str, str | None])


class _Arguments(NamedTuple):
    """The arguments of a machine that define its states and edges."""

    transitions: tuple[Transition, ...]
    states: tuple[Any, ...]
    initial: str | State | None
    finals: tuple[str, ...] | None


class MachineOptions(TypedDict, total=False):
    """The options of `Machine`, for functions that make one."""

    states: str | Iterable[str | State]
    initial: str | State | None
    final: str | Iterable[str] | None
    repeat: bool
    ordered: bool
    reset: Literal["auto", "manual"]
    many: bool | str
    scope: Literal["subject", "connection"]
    complete: Callable[[str], bool] | None
    free_args: str | Iterable[str]


class Machine(Definition):
    """The states of a flow, and the edges between them.

    Args:
        name: The name, of 1 to 255 characters.
        transitions: `Transition` objects or `(source, target)` pairs.
        states: Names or `State` objects. By default those in `transitions`; if any are given, all
            must be. `register_state` adds more until the machine is first used.
        initial: The state in which a run begins, or its name. By default the first of `states`, or
            else the first source.
        final: The states that end a run, one or several. By default those with no edge out.
        repeat: Whether an edge may be taken more than once in a run. By default True.
        ordered: Whether all transitions declared before one must have been taken in the run. By
            default False.
        reset: Whether the initial page starts a new run after the end (`"auto"`, the default), or
            only a call of `reset` does (`"manual"`).
        many: Whether a subject may have several flows. With True, they differ by a key in the
            query of their URLs; with the name of a URL argument, by that argument. By default
            False.
        scope: Whether a flow belongs to a subject (`"subject"`, the default), or each websocket
            has a flow of its own (`"connection"`).
        complete: Called with the name of a state, returns whether arriving there ends the run. By
            default the final states do.
        free_args: The URL arguments, one or several, that do not identify a page, such as a
            language: a visitor may change them. By default all identify it.

    Raises:
        DefinitionError: The definition has faults; `faults` lists all of them.
    """

    __slots__ = ("_compiled", "_faults", "_given", "_is_growing", "_known")

    _compiled: bool
    _faults: list[DefinitionError]
    _given: _Arguments
    _is_growing: bool
    _known: dict[str, State]

    def __init__(
        self,
        name: str,
        transitions: Iterable[TransitionLike] = (),
        *,
        states: str | Iterable[str | State] = (),
        initial: str | State | None = None,
        final: str | Iterable[str] | None = None,
        repeat: bool = True,
        ordered: bool = False,
        reset: Literal["auto", "manual"] = "auto",
        many: bool | str = False,
        scope: Literal["subject", "connection"] = "subject",
        complete: Callable[[str], bool] | None = None,
        free_args: str | Iterable[str] = (),
    ) -> None:
        faults = self._init_rules()
        name, initial, many = plain(name), plain(initial), plain(many)
        if not is_name(name):
            faults.append(DefinitionError(f"{name!r} is not a valid machine name."))
        faults += option_faults(reset, scope, many)
        if complete is not None and not callable(complete):
            faults.append(  # type: ignore[unreachable]
                DefinitionError(f"complete is {complete!r}, which is not callable.")
            )
        elif complete is not None:
            refuse_coroutine("complete=", complete)
        free = as_tuple("free_args", free_args, faults)
        faults += [
            DefinitionError(f"free_args: {each!r} is not the name of a URL argument.")
            for each in free
            if not is_name(each)
        ]
        malformed: list[DefinitionError] = []
        listed, guessed = list_transitions(transitions, malformed)
        faults += malformed
        malformed.clear()
        named = as_tuple("states", states, malformed)
        finals = None if final is None else as_tuple("final", final, malformed)
        malformed += name_faults("final: ", *(finals or ()))
        first = initial.name if isinstance(initial, State) else initial
        malformed += name_faults("initial: ", *([] if first is None else [first]))
        faults += malformed
        if malformed:
            initial = initial if is_name(first) else None
            finals = None if finals is None else tuple(filter(is_name, finals))
        self._set(
            name=name,
            repeat=repeat,
            ordered=ordered,
            reset=reset,
            many=many,
            scope=scope,
            migration=None,
            completion=complete,
            free_args=free,
            _compiled=False,
            _is_growing=False,
            tracks_edges=ordered or not repeat,
        )
        unsure = bool(malformed or (guessed and not listed))
        self._define(_Arguments(listed, named, initial, finals), faults, unsure, guessed)
        if any(fault.code != Code.NO_INITIAL for fault in self._faults):
            raise DefinitionError.of(f"Machine {name!r}", self._faults)

    @property
    def names_its_ends(self) -> bool:
        """Whether the ends were named, by `final` or `complete`."""
        return self._given.finals is not None or self.completion is not None

    def _define(
        self,
        given: _Arguments,
        faults: list[DefinitionError],
        is_malformed: bool = False,
        guessed: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Make states and edges from the arguments, and keep the faults found.

        If states or ends are malformed, what follows from them is no fault. The malformed edges
        are `guessed`.
        """
        listed, named, initial, finals = given
        known = Named(collect_states(named, listed, initial, faults))
        edges, unrestricted = expand_edges(known, listed, finals, faults)
        targets = every_state(tuple(known), unrestricted)
        first = initial.name if isinstance(initial, State) else initial or next(iter(known), None)
        unknown = pairs_with_unknown(known, listed)
        if finals is None:
            sources = {edge.source for edge in edges} | {s for s, _ in (*unknown, *guessed)}
            sources |= targets.keys()
            finals = tuple(state for state in known if state not in sources)
        for what, state in [("initial", first), *(("final", state) for state in finals)]:
            is_guessed = (guessed or is_malformed) and not named  # as a malformed part may name it
            if state is not None and state not in known and not is_guessed:
                faults.append(UnknownState(f"{what} names the unknown state {state!r}."))
        if first is None and not (guessed or is_malformed):
            faults.append(
                DefinitionError(
                    "there is no initial state: list transitions or states.", code=Code.NO_INITIAL
                )
            )
        elif first is not None and not is_malformed:
            pairs = [*arcs(edges, targets), *unknown]
            empty = (name for name, each in known.items() if each.targets == () and not listed)
            faults += graph_faults(tuple(known), pairs, first, finals, guessed, next(empty, None))
        self._set(
            states=MappingProxyType(known),
            _known=known,
            transitions=listed,
            initial=first,
            finals=frozenset(finals),
            root=root(first or ""),
            _given=given,
            _faults=faults,
        )
        self._set_edges(edges, targets)

    def register_state(self, state: State) -> State:
        """Add a state. The first one becomes the initial state, unless another was named.

        Its targets may be registered later; those missing are reported when the machine is first
        used.

        Args:
            state: The state.

        Returns:
            The state.

        Raises:
            DefinitionError: The machine is already in use, or the state is not valid here.
            DuplicateState: The machine has a state of this name.
        """
        if self._sealed:
            raise DefinitionError(
                f"{self!r}: the state {getattr(state, 'name', state)!r} can't be added, since the "
                f"machine is already in use."
            )
        if not isinstance(state, State):
            raise DefinitionError(f"register_state() must be called with a State, not {state!r}.")
        if state is self._given.initial:
            return state  # `initial` has brought it
        if state.name in self.states:
            raise DuplicateState(
                f"Machine {self.name!r} already has a state {state.name!r}.", target=state.name
            )
        self._known[state.name] = state
        # Made again when it is next read: a machine may get thousands of states.
        if not self._is_growing:
            self._set(_is_growing=True)
            for name in DERIVED:
                object.__delattr__(self, name)
        return state

    if not TYPE_CHECKING:  # a checker would accept any attribute

        def __getattr__(self, name: str) -> Any:
            """Make what depends on all states, after `register_state` has added some."""
            if name not in DERIVED or not self._is_growing:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._set(_is_growing=False)
            self._define(self._given._replace(states=tuple(self._known.values())), [])
            return getattr(self, name)

    def seal(self, wrap: Wrap = refuse_async) -> Machine:
        """End the registration of rules, fix their order, and return this machine."""
        if not self._compiled:
            self._compile(wrap)
        return self

    def restricted(self, limits: Limits, wrap: Wrap) -> Machine:
        """Return this machine with the edges that `limits` leave, its rules wrapped for an app."""
        narrow = Machine.__new__(Machine)
        self._check()
        for name in (*RuleOwner.__slots__, *Definition.__slots__, *Machine.__slots__):
            if hasattr(self, name):
                object.__setattr__(narrow, name, getattr(self, name))
        listed = [e for e in self.listed_edges if limits.keep(e.source, e.target)]
        narrow._set_edges(
            [Edge(e.source, e.transition, 0) for e in listed], narrowed(self.targets, limits)
        )
        for edge in self.existing_edges():
            ways = narrow.ways[edge.source]
            if isinstance(ways, OpenWays):
                ways.adopt(edge.transition)
        narrow._compile(wrap)
        self._end_registration()
        return narrow

    def _check(self) -> None:
        """Raise DefinitionError if the definition, now complete, has faults."""
        faults = [*self._faults, *duplicate_events(self.listed_edges, self.states)]
        if faults:
            raise DefinitionError.of(f"Machine {self.name!r}", faults)

    def _compile(self, wrap: Wrap) -> None:
        self._check()
        later = {
            target: compile_rules(wrap, self, self.states[target])
            for _, target in arcs((), self.targets)
            if target in self.states
        }
        self._set(_entry_rules=later)
        for edge in self.existing_edges():
            state = self.states[edge.target]
            edge.set_rules(compile_rules(wrap, self, state, edge.transition))
        handlers = {
            name: {event: wrap(each.handler) for event, each in state.events.items()}
            for name, state in self.states.items()
        }
        events = {name: list(state.events) for name, state in self.states.items()}
        for edge in self.listed_edges:
            if edge.event is not None:
                events[edge.source].append(edge.event)
        events_of = {name: tuple(each) for name, each in events.items()}
        self._set(_compiled=True, handlers=handlers, _events_of=events_of)
        self._end_registration()

    def _end_registration(self) -> None:
        for owner in (self, *self.states.values(), *(e.transition for e in self.existing_edges())):
            end_registration(owner)

    def migrate(self, names: M) -> M:
        """Map the states of older definitions to their current names, for flows stored earlier.

        The path of a stored flow is cut back before a page that is neither renamed nor known; if
        it is the first one, or the run has ended, SnapshotError is raised with the code
        `"definition"`.

        Args:
            names: A mapping of old names to new ones, or to None for a removed page; or a function
                `(name) -> str | None`, which this method can decorate.

        Returns:
            `names`.

        Raises:
            DefinitionError: It was called before, the machine is already in use, or a new name is
                not a state.
        """
        if self._sealed:
            raise DefinitionError(
                f"{self!r}: migrate() was called too late, since the machine is already in use. "
                f"Call it where the machine is defined."
            )
        if self.migration is not None:
            raise DefinitionError(
                f"{self!r}: migrate() was already called: give all names in one call."
            )
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
            refuse_coroutine("migrate()", names)
            self._set(migration=names)
        else:
            raise DefinitionError(
                f"{self!r}: migrate() needs a mapping of old names to new ones, or a function, "
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
        """Return a flow of this machine, outside of any app and store.

        Args:
            snapshot: Where to go on from. By default a blank run begins.
            subject: Whose run it is, if a blank one begins. By default nobody's.
            context: What rules share, such as a database session; it is never stored.
            clock: Returns seconds since 1970. By default `time.time`.

        Returns:
            The flow.

        Raises:
            SnapshotError: `snapshot` does not belong to this machine.
            DefinitionError: The definition is not complete, or has async rules.
        """
        return Flow(self.seal(), snapshot, subject=subject, context=context, clock=clock)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as JSON-able data, in which rules are named by `__qualname__`.

        Raises:
            DefinitionError: A rule has no unique name, or belongs to an edge of `State.targets`.
        """
        return dump_machine(self)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, rules: Iterable[Function] | Mapping[str, Function] = ()
    ) -> Machine:
        """Return a machine made from data.

        Args:
            data: What `to_dict` returned, or the same shape written by hand.
            rules: The functions that the data names: a mapping of names to functions, or functions,
                which are named by `__qualname__`.

        Returns:
            The machine.

        Raises:
            DefinitionError: The data is not valid, or names a rule that is not given.
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
