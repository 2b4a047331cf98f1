"""A machine as one app uses it: which views show its states, and under which URLs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from flask import url_for
from werkzeug.routing import BaseConverter, BuildError
from werkzeug.routing.converters import DEFAULT_CONVERTERS

from ..core.answers import dump_answers, load_answers
from ..core.machine import Machine
from ..core.snapshot import Snapshot
from ..errors import MissingArguments, NotFound

__all__ = ["FLOW_ARGUMENT", "Bound", "Page", "resolve"]

FLOW_ARGUMENT: Final = "flow"
"""The query argument that names a flow of a machine with `many=True`."""


@dataclass(frozen=True)
class Page:
    """A state that a view shows: its endpoint, and the names of its URL arguments."""

    state: str
    endpoint: str
    arguments: frozenset[str]
    converters: Mapping[str, BaseConverter]

    def take(self, *sources: Mapping[str, Any]) -> dict[str, Any]:
        """Pick this page's URL arguments, each from the first source that has it."""
        found: dict[str, Any] = {}
        if not self.arguments:
            return found
        for source in reversed(sources):
            found.update((name, source[name]) for name in self.arguments & source.keys())
        return found

    def args(self, values: Mapping[str, Any]) -> str | None:
        """Return the URL arguments as they stand on a path: as the page will get them.

        Raises NotFound naming one that the page's URL can't hold.
        """
        if not self.arguments:
            return None
        taken = self.take(values)
        if not taken:
            return None
        for name, converter in self.converters.items():
            if name in taken:
                taken[name] = self._stored(name, converter, taken[name])
        return dump_answers(dict(sorted(taken.items())))

    def _stored(self, name: str, converter: BaseConverter, value: Any) -> Any:
        try:
            text = unquote(converter.to_url(value))
            if re.fullmatch(converter.regex, text) is None:
                raise ValueError(f"{text!r} is none")
            # What the app's own converters make may be anything, so its text is kept.
            return converter.to_python(text) if _is_common(converter) else text
        except (ValueError, TypeError, AttributeError) as error:
            raise NotFound(
                f"The page {self.state!r} has no URL argument {name!r} like this: {error}.",
                target=self.state,
            ) from error

    def agree(self, one: str | None, other: str | None) -> bool:
        """Tell whether no URL argument differs that both have."""
        first, second = (load_answers(args) if args else {} for args in (one, other))
        return all(first[name] == second[name] for name in first.keys() & second.keys())

    def values(self, args: str | None) -> dict[str, Any]:
        """Return the URL arguments that stand on a path, as a view gets them."""
        values = {} if args is None else self.take(load_answers(args))
        for name, converter in self.converters.items():
            if name in values and not _is_common(converter):
                values[name] = converter.to_python(values[name])
        return values

    def url(self, values: Mapping[str, Any]) -> str:
        """Build the page's URL; raise MissingArguments naming those that are not in `values`."""
        try:
            return url_for(self.endpoint, **values)
        except BuildError as error:
            missing = sorted(name for name in self.arguments if values.get(name) is None)
            raise MissingArguments(
                f"The page {self.state!r} needs the URL argument"
                f"{'s' if len(missing) > 1 else ''} {', '.join(missing) or '?'}: "
                f"pass it to advance().",
                target=self.state,
            ) from error
        except ValueError as error:
            raise NotFound(
                f"There is no page {self.state!r} with these URL arguments: {error}.",
                target=self.state,
            ) from error


def _is_common(converter: BaseConverter) -> bool:
    """Tell whether a converter is Werkzeug's, whose values JSON can hold."""
    return type(converter) in DEFAULT_CONVERTERS.values()


def newest(session: Snapshot, users: Snapshot) -> Snapshot:
    """Return the one of two flows that was moved last."""
    return session if session.updated > users.updated else users


@dataclass(frozen=True)
class Bound:
    """A machine as one app uses it: narrowed by its views, and with the pages that show it."""

    name: str
    machine: Machine
    pages: Mapping[str, Page]
    states: Mapping[str, str]
    """Which state each guarded endpoint shows."""
    guarded: Mapping[int, tuple[str, ...]]
    """At which endpoints each check stands, by its identity."""
    subject_of: Callable[[Mapping[str, Any]], str | None] | None = None
    """Whose flow a request with these URL arguments means; None if flows are of sessions only."""
    by_url: bool = False
    """Whether that depends on the URL arguments, so that a session may have several."""
    choose: Callable[[Snapshot, Snapshot], Snapshot] = newest
    """Of a session's flow and its user's, the one to keep after a login."""

    def text_of(self, argument: str, value: Any) -> str:
        """Return a URL argument as the URL has it, whatever its converter has made of it."""
        for page in self.pages.values():
            converter = page.converters.get(argument)
            if converter is not None:
                return unquote(converter.to_url(value))
        return str(value)

    def url(self, page: Page, values: Mapping[str, Any], key: str) -> str:
        """Build the URL of a page, with the key of its flow where the query has it."""
        if self.machine.many is True and key:
            values = {FLOW_ARGUMENT: key, **values}
        return page.url(values)

    def resolve(self, name: str, endpoint: str | None) -> str:
        """Return the state that `name` means in a view: within its blueprint, or as it stands."""
        return resolve(self.machine, name, endpoint)


def resolve(machine: Machine, name: str, endpoint: str | None) -> str:
    """Return the state that `name` means in a view: within its blueprint, or as it stands."""
    if endpoint is not None and "." not in name:
        dotted = f"{endpoint.rpartition('.')[0]}.{name}"
        if dotted in machine.states:
            return dotted
    return name
