"""Names of states, events and machines: which are valid."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

from ..errors import DefinitionError

__all__ = ["Named", "as_tuple", "is_name", "name_faults", "plain"]

LONGEST: Final = 255
FORBIDDEN: Final = re.compile("[\x00\ud800-\udfff]")
V = TypeVar("V")


def plain(name: Any) -> Any:
    """Return a name as an exact `str`, also if it is a member of a `(str, Enum)`."""
    return str.__str__(name) if type(name) is not str and isinstance(name, str) else name


class Named(dict[str, V]):
    """Values by name, also found by a member of a `(str, Enum)`, which has a hash of its own."""

    def __missing__(self, name: object) -> V:
        exact = plain(name)
        if exact is name:
            raise KeyError(name)
        found: V = self[exact]
        return found


def is_name(name: object) -> bool:
    """Return whether `name` is a valid name of a state, an event or a machine.

    A name has 1 to 255 characters, without those that databases refuse: NUL and lone surrogates.
    """
    return isinstance(name, str) and 0 < len(name) <= LONGEST and FORBIDDEN.search(name) is None


def name_faults(where: str, *names: object) -> list[DefinitionError]:
    """Return a fault for each of `names` that is not a valid name of a state."""
    return [
        DefinitionError(f"{where}{name!r} is not a valid state name.")
        for name in names
        if not is_name(name)
    ]


def as_tuple(where: str, given: Any, faults: list[DefinitionError]) -> tuple[Any, ...]:
    """Return names as a tuple; a single name may be given alone. A non-iterable is a fault."""
    if isinstance(given, str):
        return (plain(given),)
    try:
        return tuple(map(plain, given))
    except TypeError:
        faults.append(DefinitionError(f"{where} must be a list, not {given!r}."))
        return ()
