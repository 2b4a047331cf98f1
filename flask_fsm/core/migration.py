"""Migration: fit a flow that was stored under an older definition to the current one.

States are renamed, and a path that the current definition does not allow is cut back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from ..errors import Code, SnapshotError
from .names import plain

__all__ = ["Migration", "Renamed", "StoredPage", "cut_back", "migrate_path"]

Migration: TypeAlias = Callable[[str], str | None]


class Renamed:
    """A migration by a mapping of old names to new ones, or to None for a removed state."""

    __slots__ = ("names",)

    def __init__(self, names: Mapping[str, str | None]) -> None:
        self.names: dict[str, str | None] = {plain(old): plain(new) for old, new in names.items()}

    def __call__(self, name: str) -> str | None:
        return self.names.get(name, name)


class StoredPage(NamedTuple):
    """A page of a path as it is stored. `closes_earlier`: all pages before it are closed."""

    name: str
    args: str
    answers: str
    closed: bool
    closes_earlier: bool


def migrate_path(
    pages: list[StoredPage], drafts: dict[str, str], migration: Migration, machine: str
) -> tuple[list[StoredPage], dict[str, str]]:
    """Return path and drafts with the current names of their states.

    Removed pages are left out. If two pages have become one, the path is cut as at any loop: the
    answers of the pages that are cut off become drafts, and what was closed stays closed.
    """
    path: list[StoredPage] = []
    cut: dict[str, str] = {}
    closes_earlier = False
    for page in pages:
        name = _new_name(migration, page.name, machine)
        closes_earlier = closes_earlier or page.closes_earlier
        if name is None:
            if page is not pages[-1]:
                continue
            name = page.name  # the current page can't be left out; it becomes an unknown state
        at = next((place for place, other in enumerate(path) if other.name == name), None)
        if at is None:
            path.append(page._replace(name=name, closes_earlier=closes_earlier))
        else:
            there, later = path[at], path[at + 1 :]
            cut |= {other.name: other.answers for other in later if other.answers}
            closed = closes_earlier or any(other.closes_earlier for other in later)
            path[at:] = [
                there._replace(
                    answers=there.answers or page.answers,
                    closed=there.closed or page.closed or closed,
                    closes_earlier=there.closes_earlier or closed,
                )
            ]
        closes_earlier = False
    current = path[-1]
    if current.answers:
        cut[current.name] = current.answers
    path[-1] = current._replace(answers="", closed=False)
    renamed = {_new_name(migration, page, machine): text for page, text in drafts.items()}
    answered = {page.name for page in path if page.answers}
    drafts_left: dict[str, str] = {}
    for draft, text in [*renamed.items(), *cut.items()]:
        if draft is not None and draft not in answered:
            drafts_left[draft] = text
    return path, drafts_left


def cut_back(
    pages: list[StoredPage], drafts: dict[str, str], length: int, initial: str
) -> tuple[list[StoredPage], dict[str, str]]:
    """Return the first `length` pages of a path, and drafts with the answers of all others.

    The last of them becomes the current page, which is open. The pages before it that were closed
    stay closed. If no page is left, the path is that of a run that begins at `initial`.
    """
    first = StoredPage(initial, "", "", closed=False, closes_earlier=False)
    *path, current = pages[:length] or [first]
    left = pages[max(length - 1, 0) :]
    drafts = drafts | {page.name: page.answers for page in left if page.answers}
    closes_earlier = any(page.closes_earlier for page in left)
    path.append(current._replace(answers="", closed=False, closes_earlier=closes_earlier))
    return path, drafts


def _new_name(migration: Migration, name: str, machine: str) -> str | None:
    try:
        new: str | None = plain(migration(name))
    except Exception as error:
        raise SnapshotError(
            f"The migrate() function of machine {machine!r} raised {error!r} for the state "
            f"{name!r} of a stored flow: return a name, or None.",
            source=name,
            code=Code.DEFINITION,
        ) from error
    return new
