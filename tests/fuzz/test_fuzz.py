"""The short form of the fuzzers; `make fuzz` is the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INPUTS = os.environ.get("FSM_FUZZ_INPUTS", "3000")


@pytest.mark.parametrize("module", ["fuzz_tokens", "fuzz_snapshot"])
def test_hostile_texts_are_refused_and_nothing_else_happens(module: str) -> None:
    """Random and mutated texts raise the one error that they may, and are never taken as good."""
    ended = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{module}", "--inputs", INPUTS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
