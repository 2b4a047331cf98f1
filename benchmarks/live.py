"""The live part against its rivals: `python -m benchmarks.live [--quick]` prints Markdown tables.

Servers run in processes of their own, and so do the clients, which are the same for all. What is
compared is measured in turn, a fresh server each time. The bars are those that the live part was
built to reach.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from flask import Flask

from flask_fsm import FlaskFSM, Machine, State

from .live_load import Load, allow_files, part
from .live_servers import (
    Kind,
    Running,
    automata,
    bare_gevent,
    bare_pywsgi,
    eric,
    on_gevent,
    on_loop,
    on_loop_stored,
    on_threads,
)
from .measure import ratio, table
from .post import Visitor, guarded_app

# The bars.
FASTER = 1.5  # x automata-ws, events per second
FASTER_STORED = 1  # x automata-ws's echo, events of a stored flow per second
KIBIBYTES = 22  # per connection at the larger number
MILLISECONDS = 10  # of a page, 99th percentile
FASTER_THAN_ERIC = 5  # x, deliveries per second
AS_FAST_AS_GEVENT = 1  # x
IDLE = 2  # per cent of a core
MICROSECONDS = 10  # of a transition
PAGES_A_SECOND = 50


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    echoing: tuple[int, int]
    idle: tuple[int, int]
    subscribers: int
    messages: int
    bursts: int
    echo_seconds: float
    idle_seconds: float
    page_seconds: float
    transitions: int


FULL = Plan(
    rounds=5,
    echoing=(50, 1_000),
    idle=(1_000, 5_000),
    subscribers=1_000,
    messages=50,
    bursts=4,
    echo_seconds=3,
    idle_seconds=30,
    page_seconds=30,
    transitions=50,
)
QUICK = Plan(
    rounds=1,
    echoing=(10, 100),
    idle=(100, 500),
    subscribers=100,
    messages=20,
    bursts=1,
    echo_seconds=1,
    idle_seconds=3,
    page_seconds=3,
    transitions=5,
)


def note(text: str) -> None:
    """Say on stderr how far it is, and how busy the machine is."""
    print(f"[{os.getloadavg()[0]:.2f}] {text}", file=sys.stderr, flush=True)


def times(value: float) -> str:
    return f"{value:.2f} x"


def bar(value: str, fulfilled: bool) -> str:
    """Return a figure with its verdict."""
    return f"{value} {'✓' if fulfilled else '✗'}"


# -- events ---------------------------------------------------------------------------------------


def echo_once(kind: Kind, connections: int, plan: Plan, compressed: bool) -> dict[str, float]:
    with Running(kind) as server, Load() as load:
        load(
            "open",
            kind="socket",
            port=server.port,
            path=kind.path,
            count=connections,
            greeted=kind.greeted,
            compressed=compressed,
        )
        server.settle()
        used = server.cpu()
        result: dict[str, float] = load("echo", seconds=plan.echo_seconds, warm_up=1)
        return {**result, "cpu": (server.cpu() - used) / result["count"]}


def events(plan: Plan) -> str:
    """Each connection sends an event, and the next one as soon as it is answered.

    All echo what they get, with scope="connection" and no store, but for two: the same echo on a
    flow in the store `memory://`, and an event that is a transition of it, with its commit.
    Browsers offer compression, programs often don't; both are measured.
    """
    rows = []
    for connections, compressed in itertools.product(plan.echoing, (False, True)):
        stored = [on_loop_stored("stored", "an echo"), on_loop_stored("moving", "a transition")]
        kinds = [on_loop(), *stored, on_threads(connections), on_gevent(), automata()]
        found: dict[str, list[dict[str, float]]] = {kind.name: [] for kind in kinds}
        setting = f"{connections:,}{', compression' if compressed else ''}"
        for _ in range(plan.rounds):
            for kind in kinds:
                result = echo_once(kind, connections, plan, compressed)
                found[kind.name].append(result)
                note(f"{setting}, {kind.name}: {brief(result)}")
        theirs = [each["rate"] for each in found[automata().name]]
        for name, results in found.items():
            faster = ratio([each["rate"] for each in results], theirs)
            verdict = times(faster)
            if name == on_loop().name:
                verdict = bar(verdict, faster >= FASTER)
            elif name in {kind.name for kind in stored}:
                verdict = bar(verdict, faster >= FASTER_STORED)
            rows.append(
                (
                    f"{setting}: {name}",
                    f"{middle(results, 'rate'):,.0f}",
                    verdict,
                    f"{middle(results, 'p50') * 1e3:.1f}",
                    f"{middle(results, 'p99') * 1e3:.1f}",
                    f"{middle(results, 'cpu') * 1e6:.0f}",
                    f"{middle(results, 'busy'):.0%}",
                )
            )
    return table(
        (
            "an echo, without a store if not said otherwise",
            "answers a second",
            f"automata-ws = 1 (bar: {FASTER} x, stored {FASTER_STORED} x)",
            "p50, ms",
            "p99, ms",
            "processor, µs each",
            "clients busy",
        ),
        rows,
    )


def brief(result: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in result.items())


def middle(results: Iterable[Mapping[str, float]], name: str) -> float:
    return median(each[name] for each in results)


# -- connections that idle ------------------------------------------------------------------------


def idle_once(kind: Kind, plan: Plan, sizes: Iterable[int], pages: bool) -> dict[str, float]:
    """Open connections and leave them; return what they take."""
    found = {}
    with Running(kind) as server, Load() as load, Load() as browser:

        def connect(count: int) -> None:
            load(
                "open",
                kind="socket",
                port=server.port,
                path=kind.path,
                count=count,
                greeted=kind.greeted,
            )
            server.settle()

        def fetch(seconds: float) -> list[float]:
            pages = browser(
                "pages", port=server.port, path="/", rate=PAGES_A_SECOND, seconds=seconds
            )
            return sorted(pages)

        def browse(name: str) -> None:
            took = fetch(plan.page_seconds)
            found[f"{name} p50"], found[f"{name} p99"] = part(took, 0.5), part(took, 0.99)

        # What is made once, whatever the number, is made now.
        connect(20)
        load("close")
        if pages:
            fetch(1)
            browse("0")
        server.settle()
        before, opened = server.memory(), 0
        for size in sizes:
            connect(size - opened)
            opened = size
            found[f"{size} memory"] = (server.memory() - before) / size
            if size == plan.idle[0]:
                start, used = time.monotonic(), server.cpu()
                time.sleep(plan.idle_seconds)
                found["cpu"] = (server.cpu() - used) / (time.monotonic() - start)
        if pages and opened == plan.idle[1]:
            browse(f"{opened}")
    return found


def idle(plan: Plan) -> str:
    """Memory, processor and pages, while connections idle; their pings are answered."""
    few, many = plan.idle
    rounds_here = (plan.rounds + 1) // 2
    kinds = [
        (on_loop(), plan.idle, True, rounds_here),
        (on_threads(few), (few,), False, 1),
        (on_gevent(), plan.idle, True, 1),
        (automata(), plan.idle, False, rounds_here),
    ]
    found: dict[str, list[dict[str, float]]] = {kind.name: [] for kind, *_ in kinds}
    for number in range(rounds_here):
        for kind, sizes, pages, rounds in kinds:
            if number < rounds:
                result = idle_once(kind, plan, sizes, pages)
                found[kind.name].append(result)
                note(f"idle, {kind.name}: {brief(result)}")
    ours = on_loop().name
    rows = []
    for name, results in found.items():
        measured = results[0]

        def memory(size: int, results: Any = results, measured: Any = measured) -> str:
            if f"{size} memory" not in measured:
                return ""
            return f"{middle(results, f'{size} memory') / 1024:.1f}"

        larger, share = memory(many), middle(results, "cpu") * 100
        busy = f"{share:.1f} %"
        if name == ours:
            larger = bar(larger, float(larger) <= KIBIBYTES)
            busy = bar(busy, share < IDLE)
        rows.append((name, memory(few), larger, busy))
    latencies = []
    for name, results in found.items():
        for size in (0, many):
            if f"{size} p99" in results[0]:
                late = middle(results, f"{size} p99") * 1e3
                verdict = f"{late:.1f}"
                if name == ours and size:
                    verdict = bar(verdict, late < MILLISECONDS)
                early = f"{middle(results, f'{size} p50') * 1e3:.1f}"
                latencies.append((f"{size:,}: {name}", early, verdict))
    return "\n\n".join(
        [
            table(
                (
                    "a connection that idles",
                    f"{few:,}: KiB each",
                    f"{many:,}: KiB each (bar: {KIBIBYTES})",
                    f"{few:,}: of a core (bar: {IDLE} %)",
                ),
                rows,
            ),
            table(
                (
                    f"sockets that idle, {PAGES_A_SECOND} pages a second",
                    "p50, ms",
                    f"p99, ms (bar: {MILLISECONDS})",
                ),
                latencies,
            ),
        ]
    )


# -- streams --------------------------------------------------------------------------------------


def fan_out_once(kind: Kind, plan: Plan, bursts: int, at_once: int) -> dict[str, float]:
    with Running(kind) as server, Load() as load:
        load(
            "open",
            kind="stream",
            port=server.port,
            path=kind.path,
            count=plan.subscribers,
            greeted=False,
        )
        load("quiet", seconds=1)
        order = {"port": server.port, "path": "/publish", "at_once": at_once}
        load("fan_out", count=at_once, **order)  # warms up
        used, count = server.cpu(), bursts * at_once
        result: dict[str, float] = load("fan_out", count=count, **order)
        return {**result, "cpu": (server.cpu() - used) / count / plan.subscribers}


def streams(plan: Plan) -> str:
    """Messages to all subscribers: many in a row, and one by one.

    The bars are those of the first manner. In the second, one write to each socket is nearly all
    that there is to do, whoever does it.
    """
    ours = replace(on_loop(), path="/fsm/orders/events?group_id=ops")
    kinds = [ours, eric(), bare_gevent(), bare_pywsgi()]
    rows = []
    for bursts, at_once in ((plan.bursts, plan.messages), (plan.messages, 1)):
        manner = f"{at_once} in a row" if at_once > 1 else "one by one"
        found: dict[str, list[dict[str, float]]] = {kind.name: [] for kind in kinds}
        for _ in range(plan.rounds):
            for kind in kinds:
                result = fan_out_once(kind, plan, bursts, at_once)
                found[kind.name].append(result)
                note(f"streams, {manner}, {kind.name}: {brief(result)}")
        rates = {name: [each["rate"] for each in results] for name, results in found.items()}
        floor = max((bare_gevent().name, bare_pywsgi().name), key=lambda name: median(rates[name]))
        for name, results in found.items():
            eric_s, floor_s = (
                ratio(rates[name], rates["eric-sse"]),
                ratio(rates[name], rates[floor]),
            )
            verdicts = times(eric_s), times(floor_s)
            if name == ours.name and at_once > 1:
                verdicts = (
                    bar(times(eric_s), eric_s >= FASTER_THAN_ERIC),
                    bar(times(floor_s), floor_s >= AS_FAST_AS_GEVENT),
                )
            rows.append(
                (
                    f"{manner}: {name}",
                    f"{median(rates[name]):,.0f}",
                    *verdicts,
                    f"{middle(results, 'cpu') * 1e6:.0f}",
                    f"{middle(results, 'busy'):.0%}",
                )
            )
    return table(
        (
            f"{plan.subscribers:,} subscribers, messages",
            "deliveries a second",
            f"eric-sse = 1 (bar: {FASTER_THAN_ERIC} x)",
            f"faster bare gevent = 1 (bar: {AS_FAST_AS_GEVENT} x)",
            "processor, µs each",
            "clients busy",
        ),
        rows,
    )


# -- nobody watches -------------------------------------------------------------------------------


def moving_app(live: bool) -> Callable[[int], float]:
    """Return what makes so many transitions in a request, and returns the seconds of one."""
    app = Flask("moving")
    app.config.update(SECRET_KEY="benchmark", FSM_STORE_URL="memory://", FSM_LIVE=live)
    fsm = FlaskFSM(Machine("ring", states=[State("a", ["b"]), State("b", ["a"])], final=[]))
    fsm.init_app(app)

    def move(count: int) -> float:
        with app.test_request_context():
            app.preprocess_request()
            pages = itertools.cycle("ba")
            fsm.transition(next(pages))
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            for _ in range(count):
                fsm.transition(next(pages))
            took = time.perf_counter() - start
            gc.enable()
        return took / count

    return move


def posting_app(live: bool) -> Callable[[int], float]:
    """Return what makes so many guarded POSTs, and returns the median of their seconds."""
    visitor = Visitor(guarded_app(FSM_LIVE=live))

    def post(count: int) -> float:
        return median(visitor.step() for _ in range(count))

    return post


def unwatched(plan: Plan) -> str:
    """What a transition costs with the live part and without it, when nobody listens."""
    rows = []
    for name, make, count in (
        ("a transition in a view, store `memory://`", moving_app, 500),
        ("a guarded POST, store `session`", posting_app, 40),
    ):
        without, with_live = make(False), make(True)
        pairs = []
        for number in range(plan.transitions + 1):
            if number % 2:  # neither is always the second
                after = with_live(count)
                pair = without(count), after
            else:
                pair = without(count), with_live(count)
            if number:  # the first round warms up
                pairs.append(pair)
        more = median(b - a for a, b in pairs) * 1e6
        rows.append(
            (
                name,
                f"{median(a for a, _ in pairs) * 1e6:.1f}",
                f"{median(b for _, b in pairs) * 1e6:.1f}",
                bar(f"{more:+.1f}", more <= MICROSECONDS),
            )
        )
        note(f"{rows[-1]}")
    return table(
        (
            "nobody listens",
            "`FSM_LIVE=False`, µs",
            "`FSM_LIVE=True`, µs",
            f"more, µs (bar: {MICROSECONDS})",
        ),
        rows,
    )


PARTS = {"events": events, "idle": idle, "streams": streams, "unwatched": unwatched}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few connections, one round, for CI")
    parser.add_argument("--only", choices=PARTS, action="append", help="one of the tables")
    options = parser.parse_args()
    allow_files()
    plan = QUICK if options.quick else FULL
    print("\n\n".join(PARTS[name](plan) for name in options.only or PARTS))


if __name__ == "__main__":
    main()
