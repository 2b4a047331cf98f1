"""Compare this checkout with an older one: `python -m benchmarks.compare OLD [OLD_PYTHON]`.

OLD is the folder of a checkout, OLD_PYTHON the Python of its environment (default: its `.venv`).
Each round runs the same measurements three times, each in a process of its own that imports the
checkout's own package and benchmarks: the old one, this one, and the old one again, in an order
that rotates. So each ratio is one of neighbours in time, and the ratio of old to old is the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

HERE = Path(__file__).resolve().parent.parent
STEPS = 3_000
CONNECTIONS = 20
ECHO_SECONDS = 2.0


# -- measuring: in a process of its own, with the package and the benchmarks of one checkout -------


def core() -> dict[str, float]:
    """Return what a transition with a guard and a hook takes, by itself and against the floor."""
    from benchmarks.floor import FullFlow
    from benchmarks.measure import interleaved, ratio
    from benchmarks.rivals import floor, ours

    def prepared(start: Callable[[], Callable[[int], object]]) -> Callable[[], Callable[[], None]]:
        def prepare() -> Callable[[], None]:
            walk = start()

            def run() -> None:
                walk(STEPS)

            return run

        return prepare

    subjects = {"ours": prepared(ours(10)), "floor": prepared(floor(FullFlow, 10))}
    took = interleaved(subjects, 15)
    return {
        "a transition, µs": median(took["ours"]) / STEPS * 1e6,
        "a transition, full floor = 1": ratio(took["ours"], took["floor"]),
    }


def post() -> dict[str, float]:
    """Return what a guarded POST takes, with the store `session` and with SQLite."""
    from benchmarks.post import ENTRIES, batches, flask_step, guarded_app
    from benchmarks.stores import grown, guarded_on

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        session = guarded_app()
        sqlite = guarded_on(grown(Path(folder) / "flows.db", stack))
        subjects = {
            "a guarded POST, session, µs": lambda: flask_step(session, ENTRIES),
            "a guarded POST, SQLite, µs": lambda: flask_step(sqlite, ENTRIES),
        }
        batches(subjects, 1)  # warms up
        return {name: median(took) * 1e6 for name, took in batches(subjects, 4).items()}


def live() -> dict[str, float]:
    """Return what an event on a websocket takes that is echoed, on the event loop."""
    from benchmarks.live import QUICK, echo_once
    from benchmarks.live_servers import on_loop

    plan = replace(QUICK, echo_seconds=ECHO_SECONDS)
    found = echo_once(on_loop(), CONNECTIONS, plan, False)
    return {
        "an echoed event, µs until the answer (median)": found["p50"] * 1e6,
        "an echoed event, µs per answer": 1e6 / found["rate"],
        "an echoed event, µs of the processor": found["cpu"] * 1e6,
    }


PARTS = {"core": core, "post": post, "live": live}


def measure_here(part: str) -> None:
    """Print the figures of a part as JSON, which `measured` reads."""
    import flask_fsm

    assert Path(flask_fsm.__file__).is_relative_to(Path.cwd()), flask_fsm.__file__
    print(json.dumps(PARTS[part]()))


# -- comparing -------------------------------------------------------------------------------------


class Checkout(NamedTuple):
    """A folder with the package and its benchmarks, and the Python that runs them."""

    folder: Path
    python: str

    def measured(self, part: str) -> dict[str, float]:
        """Measure a part in a process of its own."""
        # -P: what is imported comes from the checkout, and not from the folder of this file.
        command = [self.python, "-P", str(Path(__file__).resolve()), "--measure", part]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def rounds_of(
    part: str, old: Checkout, new: Checkout, pairs: int
) -> dict[str, list[dict[str, float]]]:
    """Measure a part in every round for the old checkout, the new one, and the old one again."""
    who = [("old", old), ("new", new), ("again", old)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name, _ in who}
    for number in range(pairs):
        first = number % len(who)
        for name, checkout in who[first:] + who[:first]:
            found[name].append(checkout.measured(part))
        print(f"{part}: {number + 1} of {pairs}", file=sys.stderr, flush=True)
    return found


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Return between which values the middle half of them lies."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def row(name: str, found: dict[str, list[dict[str, float]]]) -> tuple[str, ...]:
    """Return the row of a measurement: medians, ratios with their spread, and what that means."""
    old, new, again = ([each[name] for each in found[who]] for who in ("old", "new", "again"))
    ratios = [b / a for a, b in zip(old, new, strict=True)]
    noise = [b / a for a, b in zip(old, again, strict=True)]
    (low, high), (least, most) = middle_half(ratios), middle_half(noise)
    differs = median(ratios)
    verdict = "within the noise" if least <= differs <= most else f"{differs - 1:+.1%}"
    return (
        name,
        f"{median(old + again):.4g}",
        f"{median(new):.4g}",
        f"{differs:.3f} ({low:.3f} to {high:.3f})",
        f"{median(noise):.3f} ({least:.3f} to {most:.3f})",
        verdict,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, nargs="?", help="the folder of the old checkout")
    parser.add_argument("old_python", nargs="?", help="the Python that runs it")
    parser.add_argument("--pairs", type=int, default=15, help="rounds (default: 15)")
    parser.add_argument("--only", choices=PARTS, action="append", help="one of the parts")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(options.measure)
        return
    if options.old is None or options.pairs < 2:
        parser.error("name the old checkout, and at least two pairs")
    from benchmarks.measure import table

    folder = options.old.resolve()
    old = Checkout(folder, options.old_python or str(folder / ".venv" / "bin" / "python"))
    new = Checkout(HERE, sys.executable)
    rows = []
    for part in options.only or PARTS:
        found = rounds_of(part, old, new, options.pairs)
        rows += [row(name, found) for name in found["new"][0]]
    print(f"Medians of {options.pairs} rounds; in brackets the middle half of the ratios.\n")
    print(table(("measured", "old", "new", "new / old", "old / old", "difference"), rows))


if __name__ == "__main__":
    main()
