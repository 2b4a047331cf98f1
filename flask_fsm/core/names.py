"""Names: what may be one, and the faults of what is none."""

from __future__ import annotations

from typing import Any

from ..errors import DefinitionError

__all__ = ["faults_of_names", "is_name", "several"]


def is_name(name: object) -> bool:
    """Tell whether `name` may name a state, an event or a machine."""
    return isinstance(name, str) and name != ""


def faults_of_names(where: str, *names: object) -> list[DefinitionError]:
    """List a fault for each of `names` that can't be the name of a state."""
    return [
        DefinitionError(f"{where}{name!r} is no name of a state.")
        for name in names
        if not is_name(name)
    ]


def several(where: str, given: Any, faults: list[DefinitionError]) -> tuple[Any, ...]:
    """Return what was given as a tuple: a lone name means that one, and no iterable is a fault."""
    if isinstance(given, str):
        return (given,)
    try:
        return tuple(given)
    except TypeError:
        faults.append(DefinitionError(f"{where} takes a list, not {given!r}."))
        return ()
