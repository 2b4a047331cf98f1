"""Autobahn's cases, run by kosoku: `python -m tests.live.autobahn URL PARALLEL MESSAGES CASES...`.

It is a process of its own, since kosoku changes `sys.path` and the standard library. It writes a
JSON object: for each case None, or how it failed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from ..clients import ROOT

__all__ = ["ALL", "MUST_PASS", "run"]

# Frames, pings, reserved bits, opcodes, fragments, UTF-8, closing, and the auto-fragmented.
MUST_PASS: Final = (*(f"{number}.*" for number in range(1, 8)), "10.*")
# The runner itself, which is native code, is now and then ended by a signal.
ATTEMPTS: Final = 5
# Also limits and speed (9), and compression (12 and 13), which take minutes.
ALL: Final = (*MUST_PASS, "9.*", "12.*", "13.*")


def run(
    url: str, cases: Sequence[str], parallel: int = 4, messages: int = 0
) -> dict[str, str | None]:
    """Run cases against the server at a URL; `messages`: of each case, or 0 for its own number.

    kosoku ends every case after 20 seconds, where Autobahn gives the larger ones up to 480.
    """
    numbers = str(parallel), str(messages)
    command = [sys.executable, "-m", "tests.live.autobahn", url, *numbers, *cases]
    for _ in range(ATTEMPTS):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode >= 0:
            break
    assert done.returncode == 0, (done.returncode, done.stderr)
    found: dict[str, str | None] = json.loads(done.stdout)
    assert found
    return found


async def results(url: str, parallel: int, messages: int, cases: Sequence[str]) -> Any:
    import kosoku

    if messages:
        shorten(cases, messages)
    try:
        return await kosoku.run_fuzzingclient(url, cases, concurrency=parallel)
    except kosoku.FailureError as failure:
        return failure.results


def shorten(names: Sequence[str], messages: int) -> None:
    from kosoku import _caseindex

    _caseindex.initialize_shims()
    from kosoku import cases

    for name in names:
        # A case that has no number of messages would be run as it is.
        assert messages < cases.CASES[name].COUNT, name
        cases.CASES[name].COUNT = messages


def main(url: str, parallel: str, messages: str, *cases: str) -> None:
    told = {
        each.case_id: None
        if each.passed
        else f"{each.behavior.value}: {each.result}; {each.behavior_close.value}: "
        f"{each.result_close}"
        for each in asyncio.run(results(url, int(parallel), int(messages), cases))
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
