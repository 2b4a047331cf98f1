"""Names: what may be one, and the faults of what is none."""

from __future__ import annotations

import re
from typing import Any, Final

from ..errors import DefinitionError

__all__ = ["faults_of_names", "is_name", "several"]

LONGEST: Final = 255
UNFIT: Final = re.compile("[\x00\ud800-\udfff]")


def is_name(name: object) -> bool:
    """Tell whether `name` may name a state, an event or a machine.

    It is a text of 1 to 255 characters, without what no database takes: NUL, half surrogate pairs.
    """
    return isinstance(name, str) and 0 < len(name) <= LONGEST and UNFIT.search(name) is None


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
