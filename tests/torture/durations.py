"""How long the torture lasts: FSM_TORTURE=1 asks for the long form, which `make torture` runs."""

from __future__ import annotations

import os
import random

LONG = os.environ.get("FSM_TORTURE", "0") not in ("", "0")


def size(short: int, long: int) -> int:
    """Return the number for this run."""
    return long if LONG else short


def dice() -> random.Random:
    """Return dice whose seed a failing test shows; FSM_TORTURE_SEED throws the same again."""
    seed = int(os.environ.get("FSM_TORTURE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"FSM_TORTURE_SEED={seed}")
    return random.Random(seed)
