"""Errors of a database: what each means to a request, by its code, and what a log may show of it.

Databases quote values in their messages, and SQLAlchemy adds the parameters of the statement: they
would bring answers and subjects into logs and tracebacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import exc

from ...errors import ConfigError, FSMError
from ..records.errors import leased_elsewhere, lost_race, unavailable

__all__ = ["REFUSED_PARAMETER", "redact", "sqlstate", "translated_sql", "translation"]

# Deadlock and serialisation failure: the database chose another transaction as the winner.
CONFLICTS: Final = ("40001", "40P01")
LOCK_TIMEOUT: Final = "55P03"
UNDEFINED_TABLE: Final = "42P01"
# The app went on after a statement had failed. No later attempt can succeed.
FAILED_TRANSACTION: Final = "25P02"
# The driver executes or makes a prepared statement on a connection to the server that lacks it, or
# has it already: a pooler has given this connection to somebody else in the meantime.
PREPARED: Final = ("26000", "42P05")
# Connection lost, read-only, credentials, no resources, shutdown or timeout, system, corruption;
# no privilege.
OUTAGES: Final = ("08", "25", "28", "53", "57", "58", "XX", "42501", *PREPARED)
# SQLITE_PERM, _BUSY, _LOCKED, _NOMEM, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _PROTOCOL,
# _AUTH, _NOTADB
SQLITE_OUTAGES: Final = (3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 23, 26)
SQLITE_CONSTRAINT: Final = 19
# What poolers say to the startup parameter `options`: PgBouncer, and the proxy of Amazon RDS.
REFUSED_PARAMETER: Final = ("startup parameter", "command-line options")

POOLED_STATEMENTS: Final = (
    "The driver uses prepared statements behind a pooler such as PgBouncer in transaction mode, "
    'where they do not stay with their connection. Write create_engine(url, connect_args={"'
    'prepare_threshold": None}), or ?prepare_threshold=none behind FSM_STORE_URL; with a driver '
    "other than psycopg, turn off its prepared statements."
)
POOLED_PARAMETER: Final = (
    "A pooler refuses the `options` in the URL of the database. Set what they set for the role "
    "instead (ALTER ROLE ... SET ...), or have PgBouncer ignore them: "
    "ignore_startup_parameters = options."
)


def sqlstate(error: object) -> str | None:
    """Return the SQLSTATE of a driver's error, if it has one."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state is None and isinstance(error, Exception) and error.args:
        fields = error.args[0]  # of pg8000
        state = fields.get("C") if isinstance(fields, dict) else None
    return state if isinstance(state, str) else None


def _sqlite_code(error: object) -> int | None:
    """Return the primary code of an error of SQLite, if it is one."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _is_outage(error: exc.DBAPIError, ours: bool) -> bool:
    """Return whether the database can't serve now, so that a later attempt may succeed."""
    state, code = sqlstate(error.orig), _sqlite_code(error.orig)
    if error.connection_invalidated:
        return True
    if state == FAILED_TRANSACTION:
        return False
    if state is not None and state.startswith(OUTAGES):
        return True
    if code is not None:
        return code in SQLITE_OUTAGES
    # Drivers without codes use these classes for more than that, but not for statements of ours.
    of_server = isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.InternalError))
    return ours and (of_server or type(error) is exc.DatabaseError)


def translation(error: exc.DBAPIError, *, ours: bool = True) -> FSMError | None:
    """Return what an error of a database means to a request, or None if it is a fault.

    Args:
        error: The error.
        ours: Whether the statement was this package's; else it was the app's, flushed by a commit.
    """
    state, text = sqlstate(error.orig), str(error.orig)
    if state in CONFLICTS:
        return lost_race()
    if ours and state == LOCK_TIMEOUT:
        return leased_elsewhere()
    if ours and (state == UNDEFINED_TABLE or "no such table" in text):
        return ConfigError(
            f"The tables of flask_fsm do not exist: run `flask fsm init-db`, or your "
            f"migrations ({text.splitlines()[0]})."
        )
    return unavailable() if _is_outage(error, ours) else None


def redact(error: exc.StatementError) -> None:
    """Remove from an error what its statement was given, and what the database quotes of it."""
    error.hide_parameters = True
    error.params = None
    driver: Any = error.orig
    if driver is None or not isinstance(error, exc.DBAPIError):
        return
    kind, text = type(driver), _loggable(error)
    driver.args = (text,)
    driver.__cause__, driver.__suppress_context__ = None, True  # a driver's may quote the same
    error.args = (f"({kind.__module__}.{kind.__qualname__}) {text}",)


def _loggable(error: exc.DBAPIError) -> str:
    """Return the message of the driver's error if it quotes no value, else only its code.

    What has to be changed in a set-up with a pooler is added.
    """
    driver: Any = error.orig
    text, remedy = _without_values(error), _remedy(driver)
    return text if remedy is None or remedy in text else f"{text}. {remedy}"


def _without_values(error: exc.DBAPIError) -> str:
    driver: Any = error.orig
    state, code = sqlstate(driver), _sqlite_code(driver)
    if state is not None:
        return f"SQLSTATE {state}"
    if code == SQLITE_CONSTRAINT:
        return str(driver.sqlite_errorname)
    of_client = type(driver).__module__.partition(".")[0] in ("psycopg", "psycopg2")
    if code is not None or of_client or error.statement is None:
        return str(driver).strip()
    number = driver.args[0] if driver.args else None
    return f"error {number}" if isinstance(number, int) else "the database refused a statement"


def _remedy(driver: object) -> str | None:
    """Return what to change if an error comes of a pooler between the app and its database."""
    state, text = sqlstate(driver), str(driver)
    # A protocol violation, too, is an execution of somebody else's statement of the same name.
    if state in PREPARED or (state == "08P01" and "prepared statement" in text):
        return POOLED_STATEMENTS
    return POOLED_PARAMETER if any(refused in text for refused in REFUSED_PARAMETER) else None


@contextmanager
def translated_sql() -> Iterator[None]:
    """Turn errors of SQLAlchemy that the app did not cause into errors of this package."""
    try:
        yield
    except exc.TimeoutError as error:
        raise unavailable() from error
    except exc.DBAPIError as error:
        translated = translation(error)
        redact(error)
        if translated is None:
            raise
        raise translated from error
    except exc.StatementError as error:
        redact(error)
        raise
