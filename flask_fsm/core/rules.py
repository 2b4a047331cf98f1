"""Guards, validators, pre_transition rules and hooks: how they are registered and ordered.

A rule belongs to a machine, to a state (it runs when that state is entered) or to an edge (when
that edge is taken). Rules of one kind run by `order`; ties run machine, state, edge, and within
each of these in the order of registration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, overload

from ..errors import DefinitionError

__all__ = ["Compiled", "Rule", "Ruled", "Wrap", "guard", "hook", "pre_transition", "validator"]

Function = Callable[..., Any]
Functions = Function | Iterable[Function]
F = TypeVar("F", bound=Function)
Wrap = Callable[[Function], Function]

GUARD, PRE_TRANSITION, VALIDATOR, HOOK = KINDS = ("guard", "pre_transition", "validator", "hook")
# What an argument that holds rules of that kind is called, and a key of a document.
RULE_KEYS = ("when", "pre_transition", "validators", "hooks")


class Rule(NamedTuple):
    """A function and its place among the rules of its kind."""

    order: float
    function: Function


class Compiled(NamedTuple):
    """The rules of one edge, as they run."""

    guards: tuple[Function, ...] = ()
    pre_transitions: tuple[Function, ...] = ()
    validators: tuple[Function, ...] = ()
    hooks: tuple[Function, ...] = ()


class Ruled:
    """What rules can be registered on: a machine, a state, a transition."""

    __slots__ = ("_rules", "_sealed")

    _rules: dict[str, list[Rule]]
    _sealed: bool

    def _begin(
        self,
        when: Functions | None = None,
        pre_transition: Functions = (),
        validators: Functions = (),
        hooks: Functions = (),
    ) -> list[DefinitionError]:
        """Take the rules that are given with the definition; return their faults."""
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
                f"{self!r}: the {kind} {rule_name(function)!r} comes too late, the machine is in "
                f"use. Register rules where the machine is defined, or in a module that is "
                f"imported before the first flow or request."
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
        """Register a pure predicate `(flow) -> bool`; False refuses the edge."""
        return self._decorate(GUARD, function, order)

    @overload
    def pre_transition(self, function: F) -> F: ...
    @overload
    def pre_transition(self, function: None = None, *, order: float = 0) -> Callable[[F], F]: ...
    def pre_transition(self, function: Any = None, *, order: float = 0) -> Any:
        """Register a rule `(flow, data)` that runs first and may enrich `data`, a dict."""
        return self._decorate(PRE_TRANSITION, function, order)

    @overload
    def validator(self, function: F) -> F: ...
    @overload
    def validator(self, function: None = None, *, order: float = 0) -> Callable[[F], F]: ...
    def validator(self, function: Any = None, *, order: float = 0) -> Any:
        """Register a rule `(flow, data)` that raises ValidationFailed or ValueError to refuse."""
        return self._decorate(VALIDATOR, function, order)

    @overload
    def hook(self, function: F) -> F: ...
    @overload
    def hook(self, function: None = None, *, order: float = 0) -> Callable[[F], F]: ...
    def hook(self, function: Any = None, *, order: float = 0) -> Any:
        """Register a rule `(flow, result)` that runs after the commit; a failure is logged."""
        return self._decorate(HOOK, function, order)


def guard(on: Ruled, *, order: float = 0) -> Callable[[F], F]:
    """Register a guard on a machine, state or transition that is defined elsewhere."""
    return on.guard(order=order)


def pre_transition(on: Ruled, *, order: float = 0) -> Callable[[F], F]:
    """Register a pre_transition rule on a machine, state or transition defined elsewhere."""
    return on.pre_transition(order=order)


def validator(on: Ruled, *, order: float = 0) -> Callable[[F], F]:
    """Register a validator on a machine, state or transition that is defined elsewhere."""
    return on.validator(order=order)


def hook(on: Ruled, *, order: float = 0) -> Callable[[F], F]:
    """Register a hook on a machine, state or transition that is defined elsewhere."""
    return on.hook(order=order)


def end_registration(owner: Ruled) -> None:
    """Accept no more rules on `owner`: its machine is in use."""
    object.__setattr__(owner, "_sealed", True)


def rules_of(owner: Ruled) -> Mapping[str, list[Rule]]:
    """Return the rules registered on `owner`, by kind."""
    return owner._rules


def set_rules(owner: Ruled, rules: Mapping[str, list[Rule]]) -> None:
    """Give `owner` the rules of a stored definition, by kind."""
    owner._rules.update(rules)


def compile_rules(wrap: Wrap, *owners: Ruled) -> Compiled:
    """Merge the rules of `owners` (machine, state, transition) into the order in which they run."""
    return Compiled(
        *(
            tuple(
                wrap(rule.function)
                for rule in sorted(
                    (rule for owner in owners for rule in owner._rules[kind]),
                    key=lambda rule: rule.order,
                )
            )
            for kind in KINDS
        )
    )


def rule_name(function: Function) -> str:
    """Return what a rule is called in texts and documents; callable objects have no name."""
    return getattr(function, "__qualname__", None) or repr(function)


def is_async(function: Function) -> bool:
    """Tell whether calling `function` gives something to await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def only_sync(function: Function) -> Function:
    """Refuse an async rule: without an app there is no event loop to run it on."""
    if is_async(function):
        raise DefinitionError(
            f"The rule {rule_name(function)!r} is async. A flow of its own can't await it: "
            f"use the machine through FlaskFSM, which runs async rules as Flask does."
        )
    return function
