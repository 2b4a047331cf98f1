"""How large a flow is in Flask's session: `python -m benchmarks.cookie` prints a Markdown table.

A flow of 20 states without answers walks at random, with gaps of 1 s to 10 min, log-uniform. A
browser keeps a cookie of up to 4,096 bytes, its name included.
"""

from __future__ import annotations

import argparse
import math
import random
from statistics import mean

from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from flask_fsm.core.flow import Flow
from flask_fsm.core.machine import Machine

from .measure import table

STATES = [f"page{number}" for number in range(20)]
MACHINES = {
    "a wizard: on, back to any, or start over": [
        (page, other)
        for number, page in enumerate(STATES)
        for other in [STATES[0], *STATES[max(number - 3, 0) : number + 2]]
        if other != page
    ],
    "anywhere from anywhere": [(a, b) for a in STATES for b in STATES if a != b],
}


def walked(machine: Machine, length: int, seed: int) -> Flow:
    chance = random.Random(seed)
    now = 1_750_000_000.0
    flow = machine.flow(clock=lambda: now)
    for _ in range(length):
        now += math.exp(chance.uniform(0, math.log(600)))
        flow.transition(chance.choice([*machine.ways[flow.current]]))
    return flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one walk each instead of ten")
    walks = 1 if parser.parse_args().quick else 10
    app = Flask(__name__)
    app.secret_key = "benchmark" * 8
    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer is not None
    rows = []
    for name, edges in MACHINES.items():
        machine = Machine("m", list(dict.fromkeys(edges))).seal()
        for length in (10, 100, 1_000):
            texts = [
                walked(machine, length, seed).snapshot.encode(machine) for seed in range(walks)
            ]
            cookies = [len(str(signer.dumps({"_fsm_m": text}))) for text in texts]
            rows.append(
                (
                    name,
                    f"{length:,}",
                    f"{mean(map(len, texts)):,.0f}",
                    f"{mean(cookies):,.0f}",
                    f"{max(cookies):,}",
                )
            )
    print(
        table(("20 states", "entries", "text, characters", "cookie, bytes", "largest cookie"), rows)
    )


if __name__ == "__main__":
    main()
