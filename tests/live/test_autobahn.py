"""Autobahn's cases against an endpoint that echoes, on each engine and on bare flask-sock."""

from __future__ import annotations

import pytest

from ..clients import LOOPBACK
from ..torture.durations import LONG
from .autobahn import ALL, MUST_PASS, run
from .serving import Site, Sites

ECHO = "tests.live.echo:create_app()"
DAY = 24 * 3600
# A ping of ours in the pause of a case is nothing that Autobahn expects.
CONFIG = {
    "FSM_MAX_MESSAGE_SIZE": 32 * 1024 * 1024,
    "FSM_HEARTBEAT": DAY,
    "FSM_PRESENCE_TTL": 2 * DAY,
}
CASES = ALL if LONG else MUST_PASS
PARALLEL = 2 if LONG else 4
# How kosoku says that it had no more time for a case, and with how many messages of 1,000 the case
# is run then: what it is about stays, only the time that it takes doesn't.
SLOW, FEWER = "did not finish", 50


@pytest.fixture(scope="module")
def bare(sites: Sites) -> dict[str, str]:
    """The cases that fail on bare flask-sock, and how."""
    return failures(sites.get("loop", ECHO, **CONFIG), "/sock")


def failures(site: Site, path: str) -> dict[str, str]:
    """Run the cases, and return those that failed."""
    found = run(f"ws://{LOOPBACK}:{site.port}{path}", CASES, PARALLEL)
    assert len(found) == (517 if LONG else 247)
    slow = [case for case, told in found.items() if told is not None and SLOW in told]
    if slow:
        found |= run(f"ws://{LOOPBACK}:{site.port}{path}", slow, 1, FEWER)
    return {case: told for case, told in found.items() if told is not None}


@pytest.mark.parametrize(
    ("engine", "path"),
    [("loop", "/echo"), ("threads", "/echo"), ("gevent", "/echo"), ("loop", "/live")],
)
def test_what_passes_on_flask_sock_passes_here(
    sites: Sites, engine: str, path: str, bare: dict[str, str]
) -> None:
    """No case fails that passes there; on the loop, those of the protocol itself all pass."""
    failed = failures(sites.get(engine, ECHO, **CONFIG), path)
    assert {case: told for case, told in failed.items() if case not in bare} == {}
    if engine == "loop":
        assert {case for case in failed if case.partition(".")[0] not in ("9", "12", "13")} == set()
