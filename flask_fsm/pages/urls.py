"""URLs of a flow's pages: of a given state, of the current page, of the first page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlunsplit

from werkzeug.wrappers import Request

from ..core.snapshot import Snapshot
from ..errors import MissingArguments, NotFound
from ..runtime.unit_of_work import UnitOfWork

__all__ = ["FlowURLs", "encoded_path"]


def encoded_path(request: Request) -> str:
    """Return path and query of a request's URL as a link needs them: with the mount, encoded.

    `request.url` is for people to read: in it `%25` may stand for itself or for `%`.
    """
    whole = f"{request.root_path}/{request.path.lstrip('/')}"
    path = quote(f"/{whole.lstrip('/')}", safe="/!$&'()*+,;=:@")  # "//x" would be a host
    query = quote(request.query_string, safe="%/?!$&'()*+,;=:@")
    return urlunsplit(("", "", path, query, ""))


class FlowURLs:
    """Builds the URLs of the pages of one flow, as this request may link to them."""

    __slots__ = ("_bound", "_work")

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work
        self._bound = work.bound

    def url(self, state: str, extra: Mapping[str, Any] | None = None) -> str:
        """Return the URL of the page `state` with the path's URL arguments, or the request's."""
        work, page = self._work, self._bound.pages[state]
        on_path = page.values(work.flow.args(state))
        values = page.pick_args(page.free_args(work.url_args), on_path, work.url_args)
        values.update(extra or {})
        return self._bound.url(page, values, work.locator.key)

    def url_of(self, snapshot: Snapshot, key: str | None = None) -> str | None:
        """Return the URL of a snapshot's current page, or None if its state has no page."""
        page = self._bound.pages.get(snapshot.state)
        if page is None:
            return None
        values = {**page.values(snapshot.tip.args), **page.free_args(self._work.url_args)}
        return self._bound.url(page, values, self._work.locator.key if key is None else key)

    def url_or_none(self, snapshot: Snapshot, key: str) -> str | None:
        """Return the URL of the page that a snapshot is at, or None if it can't be built now."""
        try:
            return self.url_of(snapshot, key)
        except (MissingArguments, NotFound):
            return None

    def current_page(self) -> str | None:
        """Return the furthest page that may be opened, or None if no state of the path is one."""
        flow, pages = self._work.flow, self._bound.pages
        if flow.current in pages:
            return flow.current
        return next(
            (
                state
                for state in reversed(tuple(flow.path))
                if state in pages and flow.is_open(state)
            ),
            None,
        )

    def current_url(self) -> str | None:
        """Return the URL of the furthest page that may be opened, or None if there is none."""
        work = self._work
        if self._bound.machine.many is True and (
            work.needs_key or (work.missing_reason is not None and work.version is None)
        ):
            return self.start_url()  # there is no flow under this key
        state = self.current_page()
        return None if state is None else self.state_url_or_none(state)

    def start_url(self) -> str | None:
        """Return the URL of the initial page, or None if it can't be built."""
        initial = self._bound.machine.initial
        page = self._bound.pages.get(initial)
        if page is None:
            return None
        if not self._work.loaded or self._bound.machine.many is True:
            try:
                return page.url(
                    page.pick_args(self._work.url_args)
                )  # where a new flow gets its key
            except (MissingArguments, NotFound):
                return None
        return self.state_url_or_none(initial)

    def state_url_or_none(self, state: str) -> str | None:
        """Return the URL of the page `state`, or None if it can't be built now."""
        try:
            return self.url(state)
        except (MissingArguments, NotFound):
            return None
