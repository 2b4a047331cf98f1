"""Reports on flows other than the request's: a subject's flows, the log, the funnel."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil
from typing import Final, NamedTuple

from flask import request

from ..binding.declaration import Declaration
from ..core.machine import Machine
from ..errors import ConfigError
from ..reports.funnel import Funnel, LogEntry
from ..runtime.app_state import app_state
from ..runtime.other_flows import owner_flows
from ..runtime.unit_of_work import UnitOfWork
from .decisions import page_requests
from .urls import FlowURLs

__all__ = ["FlowReports", "FlowSummary"]


class FlowSummary(NamedTuple):
    """One of a subject's flows. `started` and `updated` are in whole seconds since 1970."""

    key: str
    """What distinguishes it from the subject's other flows of the machine."""
    state: str
    rev: int
    started: int
    updated: int
    finished: bool
    url: str | None
    """The address of its current page, if it has one."""


class FlowReports:
    """The flows of one machine, as lists and counts."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        """What binding reads: the definition, and what was registered for it."""
        self.name: Final[str] = declaration.name
        """The name of the machine."""

    def flows(self) -> list[FlowSummary]:
        """Return the flows of the machine that belong to this request's subject, newest first.

        Raises:
            ConfigError: The flows are stored in the session.
        """
        page_request = page_requests().of.get(self.name)
        if page_request is not None and page_request.work.loaded:
            work = page_request.work
        else:
            state = app_state()
            work = UnitOfWork(state, state.bound[self.name], request.view_args or {})
        urls = FlowURLs(work)
        return [
            FlowSummary(
                key,
                snapshot.state,
                snapshot.rev,
                snapshot.started,
                snapshot.updated,
                snapshot.finished,
                urls.url_or_none(snapshot, key),
            )
            for key, snapshot in owner_flows(work)
        ]

    def log(
        self,
        machine: Machine | str | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
    ) -> Iterator[LogEntry]:
        """Return the history of all runs of a machine, finished ones too, oldest first.

        Args:
            machine: A machine or its name. By default this one.
            since: Leaves out what happened before: a datetime (UTC if it has no zone), or seconds
                since 1970.
            until: Leaves out what happened at that time or later.

        Raises:
            ConfigError: The app has no such machine, or the flows are stored in the session.
        """
        store = app_state().require_record_store("fsm.log()")
        return store.log(self._named(machine), _seconds(since), _seconds(until))

    def funnel(
        self,
        machine: Machine | str | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
    ) -> Funnel:
        """Return for each page how many runs reached and left it, where to, and how long it took.

        Args:
            machine: As for `log`.
            since: As for `log`.
            until: As for `log`.

        Raises:
            ConfigError: As for `log`.
        """
        store = app_state().require_record_store("fsm.funnel()")
        return store.funnel(self._named(machine), _seconds(since), _seconds(until))

    def _named(self, machine: Machine | str | None) -> Machine:
        """Return a machine as the app uses it, by default this one."""
        bound = app_state().bound
        name = self.name if machine is None else getattr(machine, "name", machine)
        if name not in bound:
            raise ConfigError(
                f"This app has no machine {name!r}. It has {', '.join(map(repr, bound))}."
            )
        return bound[str(name)].machine


def _seconds(moment: datetime | float | None) -> int | None:
    """Return a time as whole seconds since 1970, rounded up; one without zone is UTC."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return ceil(moment)
