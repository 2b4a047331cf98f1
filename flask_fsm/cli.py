"""`flask fsm`: commands for operators, to create tables, remove expired flows and show funnels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec

import click
from flask.cli import AppGroup

from .errors import FSMError, StoreUnavailable
from .outages import describe
from .reports.svg import as_svg
from .reports.table import as_json, as_table
from .runtime.app_state import app_state

__all__ = ["fsm"]

P = ParamSpec("P")

DAY: Final = 86_400
FORMATS: Final = {"table": as_table, "json": as_json, "svg": as_svg}


def moment(text: str | datetime) -> datetime:
    """Return the time of a date, or of a date and time, in ISO 8601; by default in UTC."""
    try:
        read = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a date in ISO format, such as 2024-05-31 or 2024-05-31T18:30."
        ) from error
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read


def seconds_of(when: datetime | None) -> int | None:
    """Return the first whole second since 1970 that is not before `when`."""
    return None if when is None else math.ceil(when.timestamp())


def errors_shown(command: Callable[P, None]) -> Callable[P, None]:
    """Decorate a command to show errors of this package without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except StoreUnavailable as error:  # its message is meant for visitors
            raise click.ClickException(describe(error)) from error
        except FSMError as error:
            raise click.ClickException(error.message) from error

    return wrapper


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number:,} days"


def _flows(number: int) -> str:
    return "1 flow" if number == 1 else f"{number:,} flows" if number else "no flows"


fsm: Final = AppGroup("fsm", help="Manage the flows of this app.")


@fsm.command("init-db")
@errors_shown
def init_db() -> None:
    """Create the tables of the store that are missing."""
    app_state().require_record_store("flask fsm init-db").init()
    click.echo("The store is ready.")


@fsm.command("purge")
@click.option(
    "--older-than",
    type=click.IntRange(1, 1_000_000),
    metavar="DAYS",
    help="Remove flows whose last commit is older, instead of those past FSM_FLOW_LIFETIME.",
)
@click.option(
    "--history-older-than",
    type=click.IntRange(1, 1_000_000),
    metavar="DAYS",
    help="Also remove entries of the history that are older. By default the history is kept.",
)
@errors_shown
def purge(older_than: int | None, history_older_than: int | None) -> None:
    """Remove the flows that have expired."""
    state = app_state()
    store = state.require_record_store("flask fsm purge")
    lifetime = state.config.flow_lifetime if older_than is None else older_than * DAY
    if lifetime is None and history_older_than is None:
        raise click.UsageError(
            "Flows never expire in this app, since FSM_FLOW_LIFETIME is None: choose which ones to "
            "remove with --older-than DAYS."
        )
    now = state.clock()
    before = 0 if lifetime is None else math.floor(now - lifetime)
    history_before = None
    if history_older_than is not None:
        history_before = math.floor(now - history_older_than * DAY)
    removed = _flows(store.purge(before, history_before))
    if lifetime is None:
        click.echo("Removed no flows, since they never expire (FSM_FLOW_LIFETIME is None).")
    elif older_than is None:
        click.echo(f"Removed {removed} that had expired.")
    else:
        click.echo(f"Removed {removed} whose last commit was more than {_days(older_than)} ago.")
    if history_older_than is not None:
        click.echo(f"Removed the history that was older than {_days(history_older_than)}.")


@fsm.command("funnel")
@click.argument("machine")
@click.option(
    "--since",
    type=moment,
    metavar="DATE[THH:MM]",
    help="Ignore what happened before this time; in UTC, unless a zone is given.",
)
@click.option(
    "--until",
    type=moment,
    metavar="DATE[THH:MM]",
    help="Ignore what happened at this time or later.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="table",
    show_default=True,
    help="A table of text, JSON, or a bar chart (SVG).",
)
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True, atomic=True),
    default="-",
    metavar="FILE",
    help="Write to a file instead of standard output.",
)
@errors_shown
def funnel(
    machine: str, since: datetime | None, until: datetime | None, form: str, output: Any
) -> None:
    """Show how far the runs of MACHINE got.

    For each page: how many runs reached it and left it, where they went, and the median time on it.
    """
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until.")
    state = app_state()
    store = state.require_record_store("flask fsm funnel")
    bound = state.bound
    if machine not in bound:
        known = f"It has {', '.join(map(repr, bound))}." if bound else "It has none."
        raise click.BadParameter(
            f"This app has no machine {machine!r}. {known}", param_hint="MACHINE"
        )
    counted = store.funnel(bound[machine].machine, seconds_of(since), seconds_of(until))
    output.write(FORMATS[form](counted).rstrip("\n") + "\n")
    if output.name != "-":
        click.echo(f"Wrote the funnel of {machine!r} to {click.format_filename(output.name)}.")
