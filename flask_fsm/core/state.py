"""State, Transition and Edge: what a definition is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from .rules import Function, Ruled

__all__ = ["ANY", "BACK_POLICIES", "Back", "Edge", "State", "Transition", "TransitionLike"]

Back = Literal["preserve", "discard", "invalidate"]
BACK_POLICIES: tuple[Back, ...] = ("preserve", "discard", "invalidate")
ANY = "*"


class State(Ruled):
    """A named node. It is a page if an app has an endpoint for it.

    `targets` names the states it leads to; None adds no edges in a machine that lists
    transitions, and leads anywhere in one that lists none. `guarded=False` says that its view is
    meant to go without `check`. The rules run when the state is entered.
    """

    __slots__ = ("guarded", "name", "targets")

    def __init__(
        self,
        name: str,
        targets: Iterable[str] | None = None,
        *,
        guarded: bool = True,
        when: Function | Iterable[Function] | None = None,
        pre_transition: Iterable[Function] = (),
        validators: Iterable[Function] = (),
        hooks: Iterable[Function] = (),
    ) -> None:
        self.name = name
        self.targets = None if targets is None else tuple(targets)
        self.guarded = guarded
        self._begin(when, pre_transition, validators, hooks)

    def __repr__(self) -> str:
        return f"State({self.name!r})"


class Transition(Ruled):
    """An edge `source -> target`; `source` may be a list, or `"*"`: all but finals and target.

    `event` is the name by which a client may ask for it. `when` holds guards. `visit=True` lets a
    GET of the target take it. `back` says what becomes of the page that was left: it may be
    reopened and edited (`"preserve"`), it is closed (`"discard"`), it and all before it are closed
    (`"invalidate"`). The rules run when the edge is taken.
    """

    __slots__ = ("back", "event", "source", "target", "visit")

    def __init__(
        self,
        source: str | Iterable[str],
        target: str,
        event: str | None = None,
        when: Function | Iterable[Function] | None = None,
        validators: Iterable[Function] = (),
        hooks: Iterable[Function] = (),
        visit: bool = False,
        back: Back = "preserve",
        pre_transition: Iterable[Function] = (),
    ) -> None:
        self.source = source if isinstance(source, str) else tuple(source)
        self.target = target
        self.event = event
        self.visit = visit
        self.back: Back = back
        self._begin(when, pre_transition, validators, hooks)

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
        "hooks",
        "judged",
        "number",
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
        self.back = transition.back
        self.transition = transition
        self.number = number
        self.code = 0
        self.final: bool | None = None
        self.guards: tuple[Function, ...] = ()
        self.pre_transitions: tuple[Function, ...] = ()
        self.validators: tuple[Function, ...] = ()
        self.hooks: tuple[Function, ...] = ()
        self.judged = False

    def __repr__(self) -> str:
        return f"Edge({self.source!r}, {self.target!r})"
