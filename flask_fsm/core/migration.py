"""Migration: a stored flow of an older definition, in the names that its states have now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from ..errors import Code, SnapshotError

__all__ = ["Migration", "Renamed", "StoredPage", "migrated"]

Migration: TypeAlias = Callable[[str], str | None]


class Renamed:
    """A migration by a mapping of old names to new ones, or to None."""

    __slots__ = ("names",)

    def __init__(self, names: Mapping[str, str | None]) -> None:
        self.names = dict(names)

    def __call__(self, name: str) -> str | None:
        return self.names.get(name, name)


class StoredPage(NamedTuple):
    """A page of a path as it is stored. `fenced` says that all before it are closed."""

    name: str
    args: str
    answers: str
    closed: bool
    fenced: bool


def migrated(
    pages: list[StoredPage], drafts: dict[str, str], migration: Migration, machine: str
) -> tuple[list[StoredPage], dict[str, str]]:
    """Return path and drafts in the names of now.

    Pages that are gone are left out. If two have become one, the path is cut as at any loop: what
    was answered on the pages cut off becomes drafts, and what was closed stays closed.
    """
    path: list[StoredPage] = []
    cut: dict[str, str] = {}
    fenced = False
    for page in pages:
        name = _asked(migration, page.name, machine)
        fenced = fenced or page.fenced
        if name is None:
            if page is not pages[-1]:
                continue
            name = page.name  # the current page can't be left out: an unknown state
        at = next((place for place, other in enumerate(path) if other.name == name), None)
        if at is None:
            path.append(page._replace(name=name, fenced=fenced))
        else:
            there, later = path[at], path[at + 1 :]
            cut |= {other.name: other.answers for other in later if other.answers}
            fence = fenced or any(other.fenced for other in later)
            path[at:] = [
                there._replace(
                    answers=there.answers or page.answers,
                    closed=there.closed or page.closed or fence,
                    fenced=there.fenced or fence,
                )
            ]
        fenced = False
    current = path[-1]
    if current.answers:
        cut[current.name] = current.answers
    path[-1] = current._replace(answers="", closed=False)
    renamed = {_asked(migration, page, machine): text for page, text in drafts.items()}
    answered = {page.name for page in path if page.answers}
    kept: dict[str, str] = {}
    for draft, text in [*renamed.items(), *cut.items()]:
        if draft is not None and draft not in answered:
            kept[draft] = text
    return path, kept


def _asked(migration: Migration, name: str, machine: str) -> str | None:
    try:
        return migration(name)
    except Exception as error:
        raise SnapshotError(
            f"The migrate() of machine {machine!r} raised {error!r} for the state {name!r} of a "
            f"stored flow: let it return a name, or None.",
            source=name,
            code=Code.DEFINITION,
        ) from error
