"""Feed random and mutated texts to the snapshot's decoder: only SnapshotError may come out.

`python -m tests.fuzz.fuzz_snapshot --inputs 200000 [--seed 1]`
"""

from __future__ import annotations

import argparse
import contextlib
import random
from datetime import date
from decimal import Decimal
from uuid import UUID

from flask_fsm.core.flow import Flow
from flask_fsm.core.machine import Machine, Transition
from flask_fsm.core.snapshot import Receipt, Snapshot
from flask_fsm.errors import FlowFinished, InvalidTransition, SnapshotError

MACHINE = Machine(
    "fuzzed",
    [
        ("cart", "address"),
        Transition("address", "payment", back="discard"),
        Transition("payment", "review", back="invalidate"),
        ("review", "address"),
        ("review", "a|b"),
        ("a|b", "-done"),
    ],
    repeat=False,
).seal()
ANSWERS = {
    "day": date(2025, 1, 2),
    "sum": Decimal("1.50"),
    "id": UUID(int=7),
    "$": ["uuid", 5],
    "deep": [{"$x": None}, [1, 2.5, True, '|\\"é']],
}
PIECES = ["|", "~", ",", '"', "{}", "[]", '{"$":', '["uuid",5]', "-", "!", "0", "9" * 30, "\ud800"]
PIECES += ["{", "[" * 3_000, "NaN", "cart", "null", "f" * 40, "\x00", "é", "\n", "A", "_"]


def valid_texts() -> list[str]:
    """Return texts of every kind of snapshot that there is."""
    flow = MACHINE.flow(subject="Ada|1", clock=lambda: 1_750_000_000)
    texts = [flow.snapshot.encode(MACHINE)]
    for target in ("address", "payment", "review", "address"):
        flow.transition(target, ANSWERS)
        texts.append(flow.snapshot.with_receipt(Receipt("nonce", "digest")).encode(MACHINE))
        texts.append(flow.snapshot.with_packed_history(MACHINE, 2).encode(MACHINE))
    return texts


def mutated(chance: random.Random, texts: list[str]) -> str:
    """Return a text in which some characters or fields of a valid one are exchanged."""
    text = chance.choice(texts)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(text) + 1)
        to = min(len(text), at + chance.choice((0, 1, 1, 2, 9)))
        what = chance.randrange(4)
        if what == 0:
            text = text[:at] + chance.choice(PIECES) + text[to:]
        elif what == 1:
            text = text[:at] + chr(chance.randrange(128)) + text[to:]
        elif what == 2:
            text = text[:at] + text[to:]
        else:
            fields, others = text.split("|"), chance.choice(texts).split("|")
            fields[chance.randrange(len(fields))] = chance.choice([*others, *PIECES])
            text = "|".join(fields)
    return text


def noise(chance: random.Random, texts: list[str]) -> str:
    length = chance.randrange(60)
    return "".join(
        chance.choice(PIECES) if chance.random() < 0.5 else chr(chance.randrange(0x3000))
        for _ in range(length)
    )


def feed(text: str) -> bool:
    """Decode `text`, read all there is in it, and use it; tell whether it was accepted."""
    try:
        snapshot = Snapshot.decode(text, MACHINE)
        list(snapshot.history)
    except SnapshotError:
        return False
    assert snapshot.state in MACHINE.states
    assert len(snapshot.data) < len(snapshot.path) or not snapshot.data
    assert set(snapshot.drafts) <= set(MACHINE.states)
    assert Snapshot.decode(snapshot.encode(MACHINE), MACHINE) == snapshot
    flow = Flow(MACHINE, snapshot)
    for target in MACHINE.states:
        with contextlib.suppress(InvalidTransition, FlowFinished):
            flow.step(target)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    chance, texts = random.Random(seed), valid_texts()
    accepted = 0
    for number in range(options.inputs):
        text = (noise if number % 4 == 0 else mutated)(chance, texts)
        try:
            accepted += feed(text)
        except Exception:
            print(f"seed {seed}, input {number}: {text!r}")
            raise
    print(f"seed {seed}: {options.inputs} inputs, {accepted} accepted, the rest SnapshotError")


if __name__ == "__main__":
    main()
