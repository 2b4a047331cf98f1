"""What a transition costs: `python -m benchmarks.core [--quick]` prints Markdown tables.

All figures of a table are measured side by side in one run. The floors are in `floor.py`.
"""

from __future__ import annotations

import argparse
import itertools
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

from flask_fsm.core.machine import Machine
from flask_fsm.core.snapshot import Snapshot

from .floor import BareFlow, Edge, FullFlow
from .measure import Round, interleaved, ratio, table
from .rivals import around, everyone, floor, guard, hook, pairs, ring, walker

SIZES = (10, 100, 1_000, 10_000)
ANSWERS = {"name": "Ada Lovelace", "street": "12 St James's Square", "city": "London"}


def transitions(rounds: int, steps: int) -> str:
    """One transition with one guard and one hook, on a ring of ten states."""

    def prepared(start: Callable[[], Callable[[int], object]]) -> Round:
        def prepare() -> Callable[[], object]:
            walk = start()
            return lambda: walk(steps)

        return prepare

    seconds = interleaved({name: prepared(make) for name, make in everyone(10).items()}, rounds)
    ours = seconds["flask_fsm"]
    return table(
        ("a transition of", "ns", "flask_fsm takes"),
        [
            (name, round(median(took) / steps * 1e9), f"{ratio(ours, took):.2f} x")
            for name, took in seconds.items()
        ],
    )


def stored(rounds: int, repeats: int) -> str:
    """Load a stored flow of ten states, make one transition, and encode it again."""
    ways = {pair: Edge(*pair, guards=[guard], hooks=[hook]) for pair in pairs(10)}
    machine = ring(10).seal()
    rows = []
    for length in (10, 100, 1_000):
        for answers in (None, ANSWERS):
            full, flow = FullFlow(ways, "s0"), machine.flow()
            for _ in range(length // 10):
                for target in around(10):
                    full.transition(target, answers)
                    flow.transition(target, answers)
            record, text = full.dump(), flow.snapshot.encode(machine)

            def by_hand(record: str = record, answers: Any = answers) -> None:
                for _ in range(repeats):
                    flow = FullFlow.load(ways, record)
                    flow.transition("s1", answers)
                    flow.dump()

            def by_us(text: str = text, answers: Any = answers) -> None:
                for _ in range(repeats):
                    flow = machine.flow(Snapshot.decode(text, machine))
                    flow.transition("s1", answers)
                    flow.snapshot.encode(machine)

            seconds = interleaved(
                {"ours": lambda run=by_us: run, "floor": lambda run=by_hand: run}, rounds
            )
            rows.append(
                (
                    f"{length} entries, {'with' if answers else 'no'} answers",
                    len(text),
                    len(record),
                    f"{median(seconds['ours']) / repeats * 1e6:.1f}",
                    f"{median(seconds['floor']) / repeats * 1e6:.1f}",
                    f"{ratio(seconds['ours'], seconds['floor']):.2f} x",
                )
            )
    return table(("load, move, dump", "characters", "floor's", "µs", "floor's", "ratio"), rows)


def memory(count: int) -> str:
    """The memory of one more blank flow."""
    ways = {pair: Edge(*pair) for pair in pairs(10)}
    machine = ring(10).seal()
    kinds: dict[str, Callable[[], object]] = {
        "flask_fsm": machine.flow,
        "bare floor": lambda: BareFlow(ways, "s0"),
        "full floor": lambda: FullFlow(ways, "s0"),
    }
    rows = []
    for name, make in kinds.items():
        flows: list[object] = [None] * count
        make()
        tracemalloc.start()
        for number in range(count):
            flows[number] = make()
        rows.append((name, round(tracemalloc.get_traced_memory()[0] / count)))
        tracemalloc.stop()
    return table(("a fresh flow of", "bytes"), rows)


def size_of_machine(rounds: int, steps: int) -> str:
    """Transitions around rings of growing size; in the last column, each edge is taken once."""

    def on_ring(size: int) -> Round:
        machine = ring(size).seal()

        def prepare() -> Callable[[], object]:
            walk = walker(machine.flow().transition, size)
            return lambda: walk(steps)

        return prepare

    def by_hand(size: int) -> Round:
        start = floor(FullFlow, size)

        def prepare() -> Callable[[], object]:
            walk = start()
            return lambda: walk(steps)

        return prepare

    def each_once(size: int) -> Round:
        machine = Machine("ring", pairs(size), repeat=False).seal()
        lap = around(size)[:-1]

        def prepare() -> Callable[[], object]:
            flows = [machine.flow() for _ in range(steps // size)]

            def run() -> None:
                for flow in flows:
                    for target in lap:
                        flow.transition(target)

            return run

        return prepare

    sizes = [size for size in SIZES if size <= steps]
    columns = {"ours": on_ring, "floor": by_hand, "once": each_once}
    seconds = interleaved(
        {f"{name} {size}": make(size) for size in sizes for name, make in columns.items()}, rounds
    )

    def cell(name: str, size: int) -> str:
        took = seconds[f"{name} {size}"]
        return f"{median(took) / steps * 1e9:.0f} ({ratio(took, seconds[f'{name} 10']):.2f} x)"

    return table(
        ("states", "flask_fsm, ns", "full floor, ns", "flask_fsm with `repeat=False`, ns"),
        [(f"{size:,}", *(cell(name, size) for name in columns)) for size in sizes],
    )


def length_of_history(rounds: int, repeats: int) -> str:
    """A lap of transitions, after so many earlier ones."""
    machine = ring(10).seal()
    # Round a prime number of states in strides of 1, then of 2, ...: so each edge comes once.
    lap = 103
    stops = [f"s{stride * number % lap}" for stride in range(1, lap) for number in range(lap)]
    strides = list(itertools.pairwise([*stops, "s0"]))
    counted = Machine("strides", strides, repeat=False).seal()

    def steps(machine: Machine, walk: list[str], length: int) -> Round:
        flow = machine.flow()
        for target in walk[:length]:
            flow.transition(target)
        snapshot, targets = flow.snapshot, walk[length : length + lap]

        def run() -> None:
            for _ in range(repeats):
                flow.set_snapshot(snapshot)
                for target in targets:
                    flow.transition(target)

        return lambda: run

    subjects: dict[str, Round] = {}
    for length in SIZES:
        subjects[f"ours {length}"] = steps(machine, around(10) * 1_011, length)
        subjects[f"once {length}"] = steps(counted, [target for _, target in strides], length)
    seconds = interleaved(subjects, rounds)

    def cell(name: str, length: int) -> str:
        took = seconds[f"{name} {length}"]
        ns = median(took) / repeats / lap * 1e9
        return f"{ns:.0f} ({ratio(took, seconds[f'{name} 10']):.2f} x)"

    return table(
        ("entries of history", "ns", f"with `repeat=False`, {len(strides):,} edges, ns"),
        [(f"{length:,}", cell("ours", length), cell("once", length)) for length in SIZES],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    quick = parser.parse_args().quick
    rounds = 3 if quick else 15
    for title, text in (
        ("Transitions", transitions(rounds, 300 if quick else 3_000)),
        ("Stored flows", stored(rounds, 5 if quick else 50)),
        ("Memory", memory(1_000 if quick else 10_000)),
        ("Size of the machine", size_of_machine(rounds, 1_000 if quick else 10_000)),
        ("Length of the history", length_of_history(rounds, 3 if quick else 20)),
    ):
        print(f"### {title}\n\n{text}\n")


if __name__ == "__main__":
    main()
