"""`flask fsm`: what the commands do, and what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import Result
from flask import Flask

from flask_fsm import FlaskFSM
from flask_fsm.cli import fsm as group
from flask_fsm.cli import moment, seconds_of
from flask_fsm.testing import FrozenClock

from .apps import Shop, config_for, flask_app, shop_machine

START = 1_700_000_000
DAY = 86_400


def run(app: Flask, *args: str) -> Result:
    """What `flask fsm ARGS` does in that app. An exception of Python's own is a failure."""
    result = app.test_cli_runner().invoke(group, args)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def done(app: Flask, *args: str) -> str:
    """The output of a command that must succeed."""
    result = run(app, *args)
    assert result.exit_code == 0, result.output
    return result.output


def refused(app: Flask, *args: str, code: int = 2) -> str:
    """The text with which a command fails, on one line: 2 is wrong usage, 1 that it can't."""
    result = run(app, *args)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture
def sqlite(shop: Callable[..., Shop], tmp_path: Path) -> Shop:
    """A shop on a SQLite database."""
    return shop(f"sqlite:///{tmp_path / 'flows.db'}")


def at(app: Flask, time: float) -> None:
    """Set the clock of an app."""
    app.extensions["fsm"].clock = FrozenClock(time)


def visits(shop: Shop) -> None:
    """Three visitors, of whom one orders; each page takes them 100 seconds."""
    for number, pages in enumerate(
        [
            ("cart", "address", "delivery", "payment", "review"),
            ("cart", "address"),
            ("cart",),
        ]
    ):
        visitor = shop.visitor()
        for step, page in enumerate(pages):
            at(shop.app, START + number * DAY + step * 100)
            visitor.walk(page)


# -- the options ----------------------------------------------------------------------------


def test_the_commands_belong_to_the_app() -> None:
    """`flask fsm` is there once the extension is."""
    app = Shop({"SECRET_KEY": "x"}).app
    assert app.cli.commands["fsm"] is group


def test_each_command_says_what_it_is_for(shop: Callable[..., Shop]) -> None:
    """`--help` lists the commands and their options."""
    app = shop().app
    listed = done(app, "--help")
    for name, options in {
        "init-db": (),
        "purge": ("--older-than DAYS", "--history-older-than DAYS"),
        "funnel": ("MACHINE", "--since", "--until", "--format [table|json|svg]", "--output FILE"),
    }.items():
        assert name in listed
        text = done(app, name, "--help")
        assert all(option in text for option in options), text


@pytest.mark.parametrize("command", ["init-db", "purge", "funnel shop"])
def test_a_store_that_can_not_be_opened_is_told_with_its_cause(
    shop: Callable[..., Shop], tmp_path: Path, command: str
) -> None:
    """An operator reads what the driver said, and not what a visitor is told."""
    made = shop(f"sqlite:///{tmp_path / 'flows.db'}")
    made.app.extensions["fsm"].store.records.engine.dispose()
    for file in tmp_path.glob("flows.db*"):
        file.write_bytes(b"no database " * 1000)
    told = refused(made.app, *command.split(), code=1)
    assert "can't be used now: sqlite3.DatabaseError: file is not a database" in told


def test_an_unknown_machine_is_told_with_those_that_are_known() -> None:
    """Who mistypes the name of a machine gets the list of them."""
    app = flask_app({"SECRET_KEY": "x", "FSM_STORE_URL": "memory://"})
    FlaskFSM(app, shop_machine()).add(shop_machine("signup"))
    text = refused(app, "funnel", "shpo")
    assert "This app has no machine 'shpo'. It has 'shop', 'signup'." in text


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize("value", ["yesterday", "31.05.2024", "2024-13-01", "1700000000.5", ""])
def test_what_is_no_date_is_told_with_the_option(
    shop: Callable[..., Shop], option: str, value: str
) -> None:
    """A date is in ISO form, and the text shows one."""
    text = refused(shop().app, "funnel", "shop", option, value)
    assert f"'{option}'" in text
    assert repr(value) in text
    assert "2024-05-31" in text


def test_a_span_that_ends_before_it_begins_is_told(shop: Callable[..., Shop]) -> None:
    """Nothing could be found in it."""
    text = refused(
        shop().app, "funnel", "shop", "--since", "2024-05-31", "--until", "2024-05-31T00:00Z"
    )
    assert "--since must be before --until." in text


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2024-05-31", datetime(2024, 5, 31, tzinfo=UTC)),
        ("2024-05-31T18:30", datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        ("2024-05-31 18:30:05Z", datetime(2024, 5, 31, 18, 30, 5, tzinfo=UTC)),
        (
            "2024-05-31T18:30+02:00",
            datetime(2024, 5, 31, 18, 30, tzinfo=timezone(timedelta(hours=2))),
        ),
    ],
)
def test_a_date_is_in_utc_unless_it_says_another_zone(text: str, when: datetime) -> None:
    """The zone of the machine that the command runs on has no part in it."""
    assert moment(text) == when
    assert moment(text).tzinfo is not None


def test_a_part_of_a_second_counts_for_the_next() -> None:
    """Entries are in whole seconds, so the first that is not before comes next."""
    assert seconds_of(moment("1970-01-01T00:00:01")) == 1
    assert seconds_of(moment("1970-01-01T00:00:01.000001")) == 2
    assert seconds_of(moment("0001-01-01T00:00+14:00")) == -62135647200
    assert seconds_of(None) is None
    with pytest.raises(click.BadParameter):
        moment("soon")


@pytest.mark.parametrize("option", ["--older-than", "--history-older-than"])
@pytest.mark.parametrize("days", ["0", "-1", "a week", "1.5", "9" * 30])
def test_what_is_no_number_of_days_is_told(
    shop: Callable[..., Shop], option: str, days: str
) -> None:
    """Days are whole, and at least one, so that no slip of a finger removes everything."""
    assert f"'{option}'" in refused(shop().app, "purge", option, days)


def test_purge_asks_for_an_age_where_flows_never_expire() -> None:
    """Without FSM_FLOW_LIFETIME nobody but the operator knows what is old."""
    app = flask_app({"SECRET_KEY": "x", "FSM_STORE_URL": "memory://", "FSM_FLOW_LIFETIME": None})
    FlaskFSM(app, shop_machine())
    text = refused(app, "purge")
    assert "Flows never expire in this app" in text
    assert "--older-than DAYS" in text


def test_an_unknown_format_is_told_with_the_known_ones(shop: Callable[..., Shop]) -> None:
    """There are three."""
    text = refused(shop().app, "funnel", "shop", "--format", "pie")
    assert all(name in text for name in ("table", "json", "svg"))


# -- on stores --------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [("init-db",), ("purge",), ("funnel", "shop")])
def test_a_store_without_a_server_is_told_without_a_traceback(
    shop: Callable[..., Shop], args: tuple[str, ...]
) -> None:
    """Flows in the session can be neither counted nor removed, and the text names the key."""
    assert "FSM_STORE_URL" in refused(shop().app, *args, code=1)


@pytest.mark.parametrize("args", [("purge",), ("funnel", "shop")])
def test_tables_that_are_missing_are_told_with_the_remedy(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    """Whoever forgot init-db is reminded of it."""
    app = flask_app(config_for(f"sqlite:///{tmp_path / 'flows.db'}"))
    FlaskFSM(app, shop_machine())
    assert "flask fsm init-db" in refused(app, *args, code=1)


def test_init_db_can_be_run_again(sqlite: Shop) -> None:
    """The second time it finds the tables, and what is in them stays."""
    assert done(sqlite.app, "init-db") == "The store is ready.\n"
    visits(sqlite)
    assert done(sqlite.app, "init-db") == "The store is ready.\n"
    assert done(sqlite.app, "funnel", "shop").startswith("shop: 3 runs\n")


def funnel(app: Flask, *args: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(done(app, "funnel", "shop", "--format", "json", *args))
    return read


def test_funnel_counts_what_visitors_did(sqlite: Shop) -> None:
    """Of three visitors all left the cart, two the address, and one came to the end."""
    done(sqlite.app, "init-db")
    visits(sqlite)
    read = funnel(sqlite.app)
    assert (read["machine"], read["runs"]) == ("shop", 3)
    stops = {stop["page"]: stop for stop in read["stops"]}
    assert list(stops) == ["cart", "address", "delivery", "pickup", "payment", "review", "done"]
    numbers = {page: (stop["reached"], stop["left"]) for page, stop in stops.items()}
    assert numbers == {
        "cart": (3, 3),
        "address": (3, 2),
        "delivery": (2, 1),
        "pickup": (0, 0),
        "payment": (1, 1),
        "review": (1, 1),
        "done": (1, 0),
    }
    assert stops["address"]["to"] == {"delivery": 2}
    assert stops["address"]["median"] == 100


def test_funnel_can_be_asked_about_a_span(sqlite: Shop) -> None:
    """The visitors came on three days; the end of a span is not in it."""
    done(sqlite.app, "init-db")
    visits(sqlite)

    def day(number: int) -> str:
        return datetime.fromtimestamp(START + number * DAY, UTC).isoformat()

    assert funnel(sqlite.app, "--since", day(1))["runs"] == 2
    assert funnel(sqlite.app, "--until", day(1))["runs"] == 1
    assert funnel(sqlite.app, "--since", day(1), "--until", day(2))["runs"] == 1
    assert funnel(sqlite.app, "--since", day(3))["runs"] == 0


def test_funnel_writes_a_file(sqlite: Shop, tmp_path: Path) -> None:
    """The chart goes to the file, and a sentence to the terminal."""
    done(sqlite.app, "init-db")
    visits(sqlite)
    path = tmp_path / "funnel.svg"
    said = done(sqlite.app, "funnel", "shop", "--format", "svg", "--output", str(path))
    assert said == f"Wrote the funnel of 'shop' to {path}.\n"
    assert ElementTree.parse(path).getroot().attrib["role"] == "img"
    assert path.read_text().rstrip("\n") == done(
        sqlite.app, "funnel", "shop", "--format", "svg"
    ).rstrip("\n")


def test_funnel_tells_a_file_that_can_not_be_written(sqlite: Shop, tmp_path: Path) -> None:
    """A missing directory is no traceback, and no file is left half written."""
    done(sqlite.app, "init-db")
    path = tmp_path / "missing" / "funnel.txt"
    assert str(path) in refused(sqlite.app, "funnel", "shop", "--output", str(path), code=1)
    assert not path.parent.exists()


def test_purge_removes_what_has_expired_and_keeps_the_history(sqlite: Shop) -> None:
    """The flows of the first two days are over, and what was done in them can still be counted."""
    done(sqlite.app, "init-db")
    visits(sqlite)
    lifetime = sqlite.app.extensions["fsm"].config.flow_lifetime
    at(sqlite.app, START + 2 * DAY - 1 + lifetime)
    assert done(sqlite.app, "purge") == "Removed 2 flows that had expired.\n"
    assert done(sqlite.app, "purge") == "Removed no flows that had expired.\n"
    assert funnel(sqlite.app)["runs"] == 3
    at(sqlite.app, START + 2 * DAY + 1 + lifetime)
    assert done(sqlite.app, "purge") == "Removed 1 flow that had expired.\n"


def test_purge_keeps_a_flow_to_the_last_second(sqlite: Shop) -> None:
    """What can still be opened isn't removed."""
    done(sqlite.app, "init-db")
    visitor = sqlite.visitor()
    at(sqlite.app, START)
    visitor.walk("cart")
    at(sqlite.app, START + sqlite.app.extensions["fsm"].config.flow_lifetime)
    assert done(sqlite.app, "purge") == "Removed no flows that had expired.\n"
    assert visitor.see("address")["rev"] == 1


def test_purge_removes_what_is_older_than_asked_for(sqlite: Shop) -> None:
    """`--older-than` is instead of the lifetime, `--history-older-than` goes with it."""
    done(sqlite.app, "init-db")
    visits(sqlite)
    at(sqlite.app, START + 2 * DAY + 1_000)
    assert done(sqlite.app, "purge", "--older-than", "1") == (
        "Removed 2 flows whose last commit was more than 1 day ago.\n"
    )
    assert done(sqlite.app, "purge", "--history-older-than", "2") == (
        "Removed no flows that had expired.\nRemoved the history that was older than 2 days.\n"
    )
    assert funnel(sqlite.app)["runs"] == 2


def test_purge_can_remove_history_where_flows_never_expire(tmp_path: Path) -> None:
    """No flow goes, and the output says why."""
    url = f"sqlite:///{tmp_path / 'flows.db'}"
    shop = Shop({"SECRET_KEY": "x", "FSM_FLOW_LIFETIME": None, "FSM_STORE_URL": url})
    done(shop.app, "init-db")
    visits(shop)
    at(shop.app, START + 500 * DAY)
    said = done(shop.app, "purge", "--history-older-than", "100")
    assert re.fullmatch(r"Removed no flows, .*never expire.*\nRemoved the history .*\n", said)
    assert funnel(shop.app)["runs"] == 0
    assert done(shop.app, "purge", "--older-than", "365").startswith("Removed 3 flows ")
