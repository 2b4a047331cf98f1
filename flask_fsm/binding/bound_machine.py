"""A machine as one app uses it: which views show its states, and under which URLs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from flask import has_request_context, request, url_for
from werkzeug.routing import BaseConverter, BuildError
from werkzeug.routing.converters import DEFAULT_CONVERTERS

from ..core.answers import dump_answers, load_answers
from ..core.machine import Machine
from ..core.names import plain
from ..core.path import Node, nodes_back
from ..core.reasons import reason_unknown
from ..core.snapshot import Snapshot
from ..errors import MissingArguments, NotFound, UnknownTarget

__all__ = ["FLOW_ARGUMENT", "Bound", "Page", "resolve"]

FLOW_ARGUMENT: Final = "flow"
"""The query argument that names the flow, of a machine with `many=True`."""


@dataclass(frozen=True)
class Page:
    """A state that a view shows: its endpoint, and the names of its URL arguments."""

    state: str
    endpoint: str
    arguments: frozenset[str]
    required: frozenset[str]
    """Those without which the page has no URL."""
    converters: Mapping[str, BaseConverter]
    free: frozenset[str] = frozenset()
    """Those that do not identify the page, so that a visitor may change them."""
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """The page's endpoints by blueprint, where several blueprints show it; else none."""

    def pick_args(self, *sources: Mapping[str, Any]) -> dict[str, Any]:
        """Return this page's URL arguments, each from the first source that has it."""
        found: dict[str, Any] = {}
        if not self.arguments:
            return found
        for source in reversed(sources):
            found.update((name, source[name]) for name in self.arguments & source.keys())
        return found

    def args(self, values: Mapping[str, Any]) -> str | None:
        """Return the URL arguments in the form in which a path stores them.

        Raises NotFound if the page's URL can't contain one of them.
        """
        if not self.arguments:
            return None
        taken = self.pick_args(values)
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
                raise ValueError(f"{text!r} does not match")
            # A converter of the app may return anything, so the text is stored instead.
            return converter.to_python(text) if _is_common(converter) else text
        except (ValueError, TypeError, AttributeError) as error:
            raise NotFound(
                f"The URL of the page {self.state!r} can't have this argument {name!r}: {error}.",
                target=self.state,
            ) from error

    def matches(self, stored: str | None, given: str | None, *, partly: bool) -> bool:
        """Return whether two sets of URL arguments mean the same page, whatever the free ones are.

        With `partly`, either may lack some of those that the other one has.
        """
        one, other = (
            {name: value for name, value in load_answers(args).items() if name not in self.free}
            for args in (stored or "{}", given or "{}")
        )
        if partly:
            return all(one[name] == other[name] for name in one.keys() & other.keys())
        return one == other

    def free_args(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the free ones of a request's URL arguments, which go before those of a path."""
        return {name: values[name] for name in self.free & values.keys()}

    def values(self, args: str | None) -> dict[str, Any]:
        """Return the URL arguments that a path has stored, as a view gets them."""
        values = {} if args is None else self.pick_args(load_answers(args))
        for name, converter in self.converters.items():
            if name in values and not _is_common(converter):
                values[name] = converter.to_python(values[name])
        return values

    def is_complete(self, args: str | None) -> bool:
        """Return whether the URL arguments that a path has stored are all that a URL needs."""
        return not self.required or self.required <= self.values(args).keys()

    def _endpoint_here(self) -> str:
        """Return the endpoint in the blueprint of this request, if it has one."""
        if self.endpoints and has_request_context():
            for blueprint in request.blueprints or [""]:
                if blueprint in self.endpoints:
                    return self.endpoints[blueprint]
        return self.endpoint

    def url(self, values: Mapping[str, Any]) -> str:
        """Return the page's URL; raises MissingArguments, which names those not in `values`."""
        try:
            # By default it is the URL for the method of this request, so that a POST would lead to
            # the URL of a form.
            return url_for(self._endpoint_here(), **{"_method": "GET", **values})
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
    """Return whether a converter is one of Werkzeug's, whose values can be stored as JSON."""
    return type(converter) in DEFAULT_CONVERTERS.values()


def newest(session: Snapshot, users: Snapshot) -> Snapshot:
    """Return the one of two flows that has the later commit."""
    return session if session.updated > users.updated else users


@dataclass(frozen=True)
class Bound:
    """A machine bound to an app: restricted to what its views allow, with its pages."""

    name: str
    machine: Machine
    pages: Mapping[str, Page]
    states: Mapping[str, str]
    """The state that each guarded endpoint shows."""
    guarded: Mapping[int, tuple[str, ...]]
    """The endpoints that each check guards, by the check's identity."""
    subject_of: Callable[[Mapping[str, Any]], str | None] | None = None
    """Returns the subject of a request from its URL arguments; None if flows belong to sessions."""
    by_url: bool = False
    """Whether the subject depends on the URL arguments, so that a session may have several."""
    choose: Callable[[Snapshot, Snapshot], Snapshot] = newest
    """Returns which one to keep after a login: the session's flow or the user's."""
    app_guards: tuple[str, ...] = ()
    """What else guards the pages, of which the live endpoints know nothing."""
    warnings: tuple[str, ...] = ()
    """What may be a mistake in the app, to be logged at the first request."""

    def text_of(self, argument: str, value: Any) -> str:
        """Return a URL argument as it is written in the URL, before its converter."""
        for page in self.pages.values():
            converter = page.converters.get(argument)
            if converter is not None:
                return unquote(converter.to_url(value))
        return str(value)

    def url(self, page: Page, values: Mapping[str, Any], key: str) -> str:
        """Return the URL of a page, with the key of its flow if that is a query argument."""
        if self.machine.many is True and key:
            values = {FLOW_ARGUMENT: key, **values}
        return page.url(values)

    def path_values(self, tip: Node) -> dict[str, Any]:
        """Return the URL arguments that a path has stored, each from the last page that has it."""
        values: dict[str, Any] = {}
        for node in nodes_back(tip):
            page = self.pages.get(node.state)
            if page is not None and node.args is not None:
                values = {**page.values(node.args), **values}
        return values

    def next_args(self, page: Page, tip: Node, url_args: Mapping[str, Any]) -> str | None:
        """Return the URL arguments with which a step leads from `tip` to `page`, as stored.

        They are those of the path; what the path lacks is taken from the request's `url_args`.
        """
        values = self.path_values(tip)
        for node in nodes_back(tip):
            if node.state == page.state:  # a step back to a page of the path
                values |= page.values(node.args)
        return page.args({**url_args, **values, **page.free_args(url_args)})

    def resolve(self, name: Any, endpoint: str | None) -> str:
        """Return the state that `name` means in a view: one of its blueprint, or `name` itself.

        Raises UnknownTarget if `name` is not a str.
        """
        if not isinstance(name, str):
            raise UnknownTarget(reason_unknown(self.machine, name).text, target=name)
        return resolve(self.machine, name, endpoint)


def resolve(machine: Machine, name: str, endpoint: str | None) -> str:
    """Return the state that `name` means in a view: one of its blueprint, or `name` itself."""
    if type(name) is not str:
        name = plain(name)
    if endpoint is not None and "." not in name:
        dotted = f"{endpoint.rpartition('.')[0]}.{name}"
        if dotted in machine.states:
            return dotted
    return name
