"""`flask fsm`: the commands of an operator."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec

import click
from flask.cli import AppGroup

from .errors import FSMError
from .reports.funnel import as_json, as_svg, as_table
from .runtime.state import app_state

__all__ = ["fsm"]

P = ParamSpec("P")

DAY: Final = 86_400
FORMATS: Final = {"table": as_table, "json": as_json, "svg": as_svg}


def moment(text: str | datetime) -> datetime:
    """Read a date, or a date with a time, in ISO 8601; UTC where no zone is given."""
    try:
        read = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no date in ISO form, such as 2024-05-31 or 2024-05-31T18:30."
        ) from error
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read


def seconds_of(when: datetime | None) -> int | None:
    """Return the first whole second since 1970 that is not before `when`."""
    return None if when is None else math.ceil(when.timestamp())


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Tell an error of this package as a command does: its text, and no traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except FSMError as error:
            raise click.ClickException(error.message) from error

    return wrapper


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number:,} days"


def _flows(number: int) -> str:
    return "1 flow" if number == 1 else f"{number:,} flows" if number else "no flow"


fsm = AppGroup("fsm", help="Look after the flows of this app.")


@fsm.command("init-db")
@told
def init_db() -> None:
    """Create the tables of the store, where they are missing."""
    app_state().require_record_store("flask fsm init-db").init()
    click.echo("The store is ready.")


@fsm.command("purge")
@click.option(
    "--older-than",
    type=click.IntRange(1, 1_000_000),
    metavar="DAYS",
    help="Remove the flows whose last commit is older, instead of those past FSM_FLOW_LIFETIME.",
)
@click.option(
    "--history-older-than",
    type=click.IntRange(1, 1_000_000),
    metavar="DAYS",
    help="Also remove the entries of the history that are older. By default it is kept.",
)
@told
def purge(older_than: int | None, history_older_than: int | None) -> None:
    """Remove the flows that have expired."""
    state = app_state()
    store = state.require_record_store("flask fsm purge")
    lifetime = state.config.flow_lifetime if older_than is None else older_than * DAY
    if lifetime is None and history_older_than is None:
        raise click.UsageError(
            "Flows never expire in this app, since FSM_FLOW_LIFETIME is None: say which ones to "
            "remove by --older-than DAYS."
        )
    now = state.clock()
    before = 0 if lifetime is None else math.floor(now - lifetime)
    history_before = None
    if history_older_than is not None:
        history_before = math.floor(now - history_older_than * DAY)
    removed = _flows(store.purge(before, history_before))
    if lifetime is None:
        click.echo("Removed no flow, since they never expire (FSM_FLOW_LIFETIME is None).")
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
    help="Leave out what happened before; in UTC, if no zone is given.",
)
@click.option(
    "--until",
    type=moment,
    metavar="DATE[THH:MM]",
    help="Leave out what happened at that time or later.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="table",
    show_default=True,
    help="Text, JSON, or a bar chart.",
)
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True, atomic=True),
    default="-",
    metavar="FILE",
    help="Write to a file.",
)
@told
def funnel(
    machine: str, since: datetime | None, until: datetime | None, form: str, output: Any
) -> None:
    """Show how far the runs of MACHINE came.

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
