"""Guards, validators, pre_transition rules and hooks: how they are registered and ordered.

A rule belongs to a machine, to a state (it runs when that state is entered) or to an edge (when
that edge is taken). Rules of one kind run by `order`; ties run machine, state, edge, and within
each of these in the order of registration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar, overload

from ..errors import DefinitionError
from ..texts import as_text

__all__ = [
    "CompiledRules",
    "Rule",
    "RuleOwner",
    "Wrap",
    "guard",
    "hook",
    "pre_transition",
    "validator",
]

Function = Callable[..., Any]
Functions = Function | Iterable[Function]
F = TypeVar("F", bound=Function)
Wrap = Callable[[Function], Function]

GUARD, PRE_TRANSITION, VALIDATOR, HOOK = KINDS = ("guard", "pre_transition", "validator", "hook")
# The arguments and the keys of stored definitions that hold the rules of each kind.
RULE_KEYS = ("when", "pre_transition", "validators", "hooks")


class Rule(NamedTuple):
    """A function, and its `order` among the rules of its kind (lowest first)."""

    order: float
    function: Function


class CompiledRules(NamedTuple):
    """The rules of one edge, in the order in which they run."""

    guards: tuple[Function, ...] = ()
    pre_transitions: tuple[Function, ...] = ()
    validators: tuple[Function, ...] = ()
    hooks: tuple[Function, ...] = ()


class RuleOwner:
    """Base class of machines, states and transitions, on which rules can be registered."""

    __slots__ = ("_rules", "_sealed")

    _rules: dict[str, list[Rule]]
    _sealed: bool

    def __copy__(self) -> Self:
        """Return a copy with the same functions, on which rules can be registered apart."""
        new = object.__new__(type(self))
        for kind in type(self).__mro__:
            for name in getattr(kind, "__slots__", ()):
                value = getattr(self, name)
                if isinstance(value, dict):
                    value = {key: list(v) if type(v) is list else v for key, v in value.items()}
                object.__setattr__(new, name, value)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy(self)

    def _init_rules(
        self,
        when: Functions | None = None,
        pre_transition: Functions = (),
        validators: Functions = (),
        hooks: Functions = (),
    ) -> list[DefinitionError]:
        """Set the rules that are given with the definition; return their faults."""
        faults: list[DefinitionError] = []
        rules: dict[str, list[Rule]] = {}
        given = zip(KINDS, RULE_KEYS, (when, pre_transition, validators, hooks), strict=True)
        for kind, key, functions in given:
            alone = callable(functions) or isinstance(functions, str)
            listed: Any = (functions,) if alone else () if functions is None else functions
            if not isinstance(listed, Iterable):
                listed = (listed,)
            rules[kind] = [Rule(0, function) for function in listed]
            faults += [
                DefinitionError(f"{self!r}: {key} holds {function!r}, which is not callable.")
                for _, function in rules[kind]
                if not callable(function)
            ]
        object.__setattr__(self, "_sealed", False)
        object.__setattr__(self, "_rules", rules)
        return faults

    def _register(self, kind: str, function: F, order: float) -> F:
        if not callable(function):
            raise DefinitionError(f"{self!r}: the {kind} {function!r} is not callable.")
        if self._sealed:
            raise DefinitionError(
                f"{self!r}: the {kind} {rule_name(function)!r} can't be registered, since the "
                f"machine is already in use. Register rules where the machine is defined, or in a "
                f"module that is imported before the first flow or request."
            )
        self._rules[kind].append(Rule(order, function))
        return function

    def _decorate(self, kind: str, function: F | None, order: float) -> Any:
        if function is None:
            return lambda f: self._register(kind, f, order)
        return self._register(kind, function, order)

    @overload
    def guard(self, function: F) -> F: ...
    @overload
    def guard(self, function: None = None, *, order: float = 0) -> Callable[[F], F]: ...
    def guard(self, function: Any = None, *, order: float = 0) -> Any:
        """Register a guard, as a decorator.

        Args:
            function: A pure function `(flow) -> bool`. A false value refuses the transition, and so
                does an exception; raise GuardRefused to give a reason.
            order: Its place among the guards, lowest first. By default 0.

        Returns:
            The function, or without one a decorator.

        Raises:
            DefinitionError: It can't be called, or the machine is already in use.
        """
        return self._decorate(GUARD, function, order)

    @overload
    def pre_transition(self, function: F) -> F: ...
    @overload
    def pre_transition(self, function: None = None, *, order: float = 0) -> Callable[[F], F]: ...
    def pre_transition(self, function: Any = None, *, order: float = 0) -> Any:
        """Register a pre_transition rule, as a decorator. These run first and may add to the data.

        Args:
            function: Called as `function(flow, data)`; it may change `data`, a dict. A
                ValidationFailed, ValueError or GuardRefused refuses the transition; then nothing
                of the change remains.
            order: Its place among these rules, lowest first. By default 0.

        Returns:
            The function, or without one a decorator.

        Raises:
            DefinitionError: It can't be called, or the machine is already in use.
        """
        return self._decorate(PRE_TRANSITION, function, order)

    @overload
    def validator(self, function: F) -> F: ...
    @overload
    def validator(self, function: None = None, *, order: float = 0) -> Callable[[F], F]: ...
    def validator(self, function: Any = None, *, order: float = 0) -> Any:
        """Register a validator, as a decorator. Validators run after the guards.

        Args:
            function: Called as `function(flow, data)`, with a copy of the data. It raises
                ValidationFailed or ValueError to refuse them.
            order: Its place among the validators, lowest first. By default 0.

        Returns:
            The function, or without one a decorator.

        Raises:
            DefinitionError: It can't be called, or the machine is already in use.
        """
        return self._decorate(VALIDATOR, function, order)

    @overload
    def hook(self, function: F) -> F: ...
    @overload
    def hook(self, function: None = None, *, order: float = 0) -> Callable[[F], F]: ...
    def hook(self, function: Any = None, *, order: float = 0) -> Any:
        """Register a hook, as a decorator. Hooks run after the commit.

        Args:
            function: Called as `function(flow, result)`. Exceptions are logged and don't affect the
                transition or other hooks.
            order: Its place among the hooks, lowest first. By default 0.

        Returns:
            The function, or without one a decorator.

        Raises:
            DefinitionError: It can't be called, or the machine is already in use.
        """
        return self._decorate(HOOK, function, order)


def guard(on: RuleOwner, *, order: float = 0) -> Callable[[F], F]:
    """Register a guard on a machine, state or transition, as a decorator.

    Args:
        on: The machine, state or transition.
        order: Its place among the rules of its kind, lowest first. By default 0.

    Returns:
        A decorator for the function, `(flow) -> bool`; see `Machine.guard`.

    Raises:
        DefinitionError: The function can't be called, or the machine is already in use.
    """
    return on.guard(order=order)


def pre_transition(on: RuleOwner, *, order: float = 0) -> Callable[[F], F]:
    """Register a pre_transition rule on a machine, state or transition, as a decorator.

    Args:
        on: The machine, state or transition.
        order: Its place among the rules of its kind, lowest first. By default 0.

    Returns:
        A decorator for the function, `(flow, data)`; see `Machine.pre_transition`.

    Raises:
        DefinitionError: The function can't be called, or the machine is already in use.
    """
    return on.pre_transition(order=order)


def validator(on: RuleOwner, *, order: float = 0) -> Callable[[F], F]:
    """Register a validator on a machine, state or transition, as a decorator.

    Args:
        on: The machine, state or transition.
        order: Its place among the rules of its kind, lowest first. By default 0.

    Returns:
        A decorator for the function, `(flow, data)`; see `Machine.validator`.

    Raises:
        DefinitionError: The function can't be called, or the machine is already in use.
    """
    return on.validator(order=order)


def hook(on: RuleOwner, *, order: float = 0) -> Callable[[F], F]:
    """Register a hook on a machine, state or transition, as a decorator.

    Args:
        on: The machine, state or transition.
        order: Its place among the rules of its kind, lowest first. By default 0.

    Returns:
        A decorator for the function, `(flow, result)`; see `Machine.hook`.

    Raises:
        DefinitionError: The function can't be called, or the machine is already in use.
    """
    return on.hook(order=order)


def end_registration(owner: RuleOwner) -> None:
    """Accept no more rules on `owner`: its machine is in use."""
    object.__setattr__(owner, "_sealed", True)


def rules_of(owner: RuleOwner) -> Mapping[str, list[Rule]]:
    """Return the rules registered on `owner`, by kind."""
    return owner._rules


def set_rules(owner: RuleOwner, rules: Mapping[str, list[Rule]]) -> None:
    """Give `owner` the rules of a stored definition, by kind."""
    owner._rules.update(rules)


def compile_rules(wrap: Wrap, *owners: RuleOwner) -> CompiledRules:
    """Merge the rules of `owners` (machine, state, transition) into the order in which they run.

    A guard that several of them have is asked once.
    """
    compiled = {}
    for kind in KINDS:
        rules = sorted(
            (rule for owner in owners for rule in owner._rules[kind]), key=lambda rule: rule.order
        )
        functions: list[Function] = []
        for rule in rules:
            if kind != GUARD or rule.function not in functions:
                functions.append(rule.function)
        compiled[kind] = tuple(map(wrap, functions))
    return CompiledRules(*compiled.values())


def rule_name(function: Function) -> str:
    """Return the name of a rule in messages and stored definitions, or the repr of an object."""
    return getattr(function, "__qualname__", None) or repr(function)


def unwrapped(function: Function) -> Function:
    """Return the function that a `functools.partial` calls, also where an app has wrapped it."""
    while True:
        inner = getattr(function, "__wrapped__", None)
        if isinstance(function, partial):
            function = function.func
        elif isinstance(inner, partial):
            function = inner
        else:
            return function


def has_name(function: Function) -> bool:
    """Return whether a rule has a name for messages: a lambda and most objects have none."""
    return getattr(unwrapped(function), "__name__", "<lambda>") != "<lambda>"


def doc_of(function: Function) -> str:
    """Return the docstring of a rule that is written in Python, or an empty text.

    That of an object is its `__call__`'s, or its class's.
    """
    function = unwrapped(function)
    told = function.__doc__
    if not inspect.isroutine(function):
        call = getattr(type(function), "__call__", None)  # noqa: B004
        told = (call.__doc__ or told) if inspect.isfunction(call) else None
    elif inspect.isbuiltin(function):
        told = None
    return as_text(told or "").strip()


def is_async(function: Function) -> bool:
    """Return whether calling `function` returns something to await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def refuse_coroutine(what: str, function: Function) -> None:
    """Raise DefinitionError for an async function where its result is not awaited."""
    if is_async(function):
        raise DefinitionError(
            f"{what} got {rule_name(function)!r}, which is async, but its result is not awaited: "
            f"define it with `def`."
        )


def refuse_async(function: Function) -> Function:
    """Return a sync rule; raise DefinitionError for an async one, which needs an app to run it."""
    if is_async(function):
        raise DefinitionError(
            f"The rule {rule_name(function)!r} is async, and a flow outside of an app can't await "
            f"it: use the machine through FlaskFSM, which runs async rules as Flask does."
        )
    return function
