"""What the live part carries: slopes that are measured here, and a simulation of many processes.

`python -m benchmarks.capacity [--quick]` prints Markdown tables. Each process of the app is one
worker of gunicorn, with the flows and the bus on one Valkey. What is measured is processor time
and memory, so that a busy machine matters less. The simulation takes the slopes for as many
processes as no machine here could run; its tables say that they are simulated.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import psutil

from tests.clients import LOOPBACK
from tests.store_servers import Valkey

from .live import note
from .live_load import Load, allow_files, part
from .live_servers import Kind, Running, on_loop
from .measure import table

# What the simulation assumes, beside the slopes.
PROCESSES = 100
NETWORK = 0.0002  # seconds from a process to Valkey, and back
LOADS = (0.25, 0.5, 0.75, 0.9)  # of what the busiest part can do
MEMBERS = 100  # of the group, in each process
MICRO = 1e-6


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sockets: tuple[int, int]
    flows: tuple[int, int]
    members: tuple[int, int]
    processes: tuple[int, ...]
    echo_seconds: float
    idle_seconds: float
    broadcasts: int
    simulated_seconds: float


FULL = Plan((500, 3_000), (50, 500), (50, 500), (1, 2, 4), 8, 20, 4_000, 10)
QUICK = Plan((50, 250), (10, 50), (10, 100), (1, 2), 2, 3, 1_000, 2)


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the value at 0 and the growth per unit, by least squares."""
    count = len(points)
    mean_x, mean_y = (sum(each) / count for each in zip(*points, strict=True))
    growth = sum((x - mean_x) * (y - mean_y) for x, y in points)
    growth /= sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - growth * mean_x, growth


# -- measuring ------------------------------------------------------------------------------------


class Site:
    """Processes of the app with one Valkey, and the clients of all of them."""

    def __init__(self, valkey: Valkey, servers: Sequence[Running], load: Load) -> None:
        self.valkey = valkey
        self.servers = servers
        self.load = load
        self._valkey = psutil.Process(valkey.pid)

    def open(self, count: int, path: str, kind: str = "socket") -> None:
        """Let each process get so many clients more."""
        for server in self.servers:
            order = {"port": server.port, "path": path, "count": count, "kind": kind}
            self.load("open", greeted=kind == "socket", **order)

    def settle(self) -> None:
        """Wait until all processes have nothing to do."""
        for server in self.servers:
            server.settle()

    def cpu(self) -> tuple[float, float]:
        """Return the seconds of a core of the processes of the app, and of Valkey."""
        times = self._valkey.cpu_times()
        return sum(server.cpu() for server in self.servers), times.user + times.system

    def memory(self) -> tuple[float, float]:
        """Return the KiB of the processes of the app, and of Valkey's data."""
        with socket.create_connection((LOOPBACK, self.valkey.port)) as connection:
            connection.sendall(b"INFO memory\r\n")
            found = re.search(rb"used_memory:(\d+)", connection.recv(65_536))
        assert found is not None
        used = sum(server.memory() for server in self.servers)
        return used / 1024, int(found[1]) / 1024


@contextmanager
def running(processes: int = 1) -> Iterator[Site]:
    """Start Valkey, processes of the app, and clients."""
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey())
        config = {"FSM_STORE_URL": valkey.url, "FSM_BUS_URL": valkey.url}
        kind: Kind = replace(on_loop(FSM_MESSAGE_RATE=1_000_000, **config), name="flask_fsm")
        servers = [stack.enter_context(Running(kind)) for _ in range(processes)]
        yield Site(valkey, servers, stack.enter_context(Load()))


class Idle(NamedTuple):
    """What an idle connection takes."""

    kib: float
    kib_in_valkey: float
    core: float


def idle(plan: Plan, path: str, kind: str = "socket") -> Idle:
    """Return what one more idle connection takes, by two numbers of them."""
    few, many = plan.sockets
    with running() as site:
        site.open(few, path, kind)
        site.settle()
        ours, theirs = site.memory()
        site.open(many - few, path, kind)
        site.settle()
        more, more_of_theirs = site.memory()
        begun, (used, _) = time.monotonic(), site.cpu()
        time.sleep(plan.idle_seconds)
        share = (site.cpu()[0] - used) / (time.monotonic() - begun)
    count = many - few
    found = Idle((more - ours) / count, (more_of_theirs - theirs) / count, share / many)
    note(f"idle, {path}: {found}")
    return found


def event(plan: Plan, path: str, flows: int) -> tuple[float, float]:
    """Return the seconds of a core that an event takes, in a process and in Valkey."""
    with running() as site:
        site.open(flows, path)
        site.settle()
        ours, theirs = site.cpu()
        count = site.load("echo", seconds=plan.echo_seconds, warm_up=0.5)["count"]
        after, after_in_valkey = site.cpu()
    found = (after - ours) / count, (after_in_valkey - theirs) / count
    note(f"event, {path}, {flows} flows: {found}")
    return found


def broadcast(plan: Plan, processes: int, members: int) -> tuple[float, float]:
    """Return the seconds of a core that a broadcast to one group takes, in a process and Valkey."""
    with running(processes) as site:
        site.open(members, "/fsm/orders/events?group_id=ops", "stream")
        site.load("quiet", seconds=1)
        site.settle()
        order = {"port": site.servers[0].port, "path": "/publish", "at_once": 10}
        ours, theirs = site.cpu()
        site.load("fan_out", count=plan.broadcasts, **order)
        after, after_in_valkey = site.cpu()
    count = plan.broadcasts
    found = (after - ours) / count / processes, (after_in_valkey - theirs) / count
    note(f"broadcast, {processes} processes, {members} members each: {found}")
    return found


class Slopes(NamedTuple):
    """What grows with what: seconds of a core."""

    event: float
    event_in_valkey: float
    broadcast: float
    per_member: float
    broadcast_in_valkey: float
    per_process: float


def measure(plan: Plan) -> tuple[Slopes, str]:
    """Measure all slopes; return them, and a table."""
    moving, own, streamed = "/fsm/moving/ws", "/fsm/bench/ws", "/fsm/orders/events"
    plain = idle(plan, own)
    stored = idle(plan, moving)
    stream = idle(plan, streamed, "stream")
    grouped = idle(plan, f"{streamed}?group_id=g{{n}}", "stream")
    echo, _ = event(plan, own, plan.flows[1])
    kept, kept_in_valkey = event(plan, "/fsm/stored/ws", plan.flows[1])
    few, many = (event(plan, moving, flows) for flows in plan.flows)
    sizes = [(members, *broadcast(plan, 1, members)) for members in plan.members]
    fixed, per_member = slope([(members, ours) for members, ours, _ in sizes])
    small = plan.members[0]
    spread = [(n, broadcast(plan, n, small)) for n in plan.processes]
    base, per_process = slope([(n, theirs) for n, (_, theirs) in spread])
    # Processor time is counted in hundredths of a second: what is less may seem to be 0.
    least = [max(each, MICRO) for each in (*many, fixed, per_member, base, per_process)]
    slopes = Slopes(*least)

    def micro(seconds: float) -> str:
        return f"{seconds / MICRO:,.1f}"

    rows = [
        ("an idle websocket, no store", f"{plain.kib:.1f} KiB", f"{plain.kib_in_valkey:.1f} KiB"),
        (
            "an idle websocket, stored flow",
            f"{stored.kib:.1f} KiB",
            f"{stored.kib_in_valkey:.1f} KiB",
        ),
        ("an idle stream, stored flow", f"{stream.kib:.1f} KiB", f"{stream.kib_in_valkey:.1f} KiB"),
        (
            "a group with one member, more than that",
            f"{grouped.kib - stream.kib:.1f} KiB",
            f"{grouped.kib_in_valkey - stream.kib_in_valkey:.1f} KiB",
        ),
        ("1,000 idle websockets", f"{stored.core * 1e5:.1f} % of a core", ""),
        ("an event, no store", f"{micro(echo)} µs", ""),
        (
            "an event of a stored flow, no transition",
            f"{micro(kept)} µs",
            f"{micro(kept_in_valkey)} µs",
        ),
        *(
            (f"an event with a transition, {flows:,} flows", f"{micro(a)} µs", f"{micro(b)} µs")
            for flows, (a, b) in zip(plan.flows, (few, many), strict=True)
        ),
        (
            "a broadcast: for itself",
            f"{micro(slopes.broadcast)} µs",
            f"{micro(slopes.broadcast_in_valkey)} µs",
        ),
        ("a broadcast: for each member in the process", f"{micro(per_member)} µs", ""),
        ("a broadcast: for each process that has members", "", f"{micro(slopes.per_process)} µs"),
    ]
    return slopes, table(("measured", "in the process", "in Valkey"), rows)


# -- simulating -----------------------------------------------------------------------------------


VALKEY = -1  # the number of its queue; the others are those of processes
Step = tuple[int, float]


def simulate(arrivals: Iterable[tuple[float, list[Step], list[Step]]]) -> tuple[list[float], float]:
    """Return how long each job took, sorted, and the share of its time that Valkey was busy.

    A job arrives, and goes through steps one after the other, then through others side by side. A
    step waits until its queue has done what came before, first come first served.
    """
    order = itertools.count()
    free: dict[int, float] = {}
    busy, end = 0.0, 0.0
    left: dict[int, int] = {}
    begun: dict[int, float] = {}
    took: list[float] = []
    waiting: list[tuple[float, int, int, list[Step], list[Step]]] = []
    for number, (at, steps, last) in enumerate(arrivals):
        begun[number], left[number] = at, max(len(last), 1)
        waiting.append((at, next(order), number, steps, last))
    heapq.heapify(waiting)
    while waiting:
        at, _, number, steps, last = heapq.heappop(waiting)
        (queue, seconds), *rest = steps
        done = max(at, free.get(queue, 0.0)) + seconds
        free[queue], end = done, max(end, done)
        if queue == VALKEY:
            busy += seconds
        arrived = done + (NETWORK if VALKEY in (queue, *(step[0] for step in rest[:1])) else 0)
        if rest:
            heapq.heappush(waiting, (arrived, next(order), number, rest, last))
        elif last:
            for step in last:
                heapq.heappush(waiting, (arrived, next(order), number, [step], []))
        else:
            left[number] -= 1
            if not left[number]:
                took.append(arrived - begun[number])
    return sorted(took), busy / end


def events_of(
    slopes: Slopes, rate: float, seconds: float
) -> Iterator[tuple[float, list[Step], list[Step]]]:
    """Yield events at random, each for a process, then Valkey, then the process again."""
    chance, at = random.Random(1), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        process = chance.randrange(PROCESSES)
        half = slopes.event / 2
        yield at, [(process, half), (VALKEY, slopes.event_in_valkey), (process, half)], []


def broadcasts_of(
    slopes: Slopes, rate: float, seconds: float
) -> Iterator[tuple[float, list[Step], list[Step]]]:
    """Yield broadcasts to a group with members in all processes."""
    chance, at = random.Random(2), 0.0
    in_valkey = slopes.broadcast_in_valkey + PROCESSES * slopes.per_process
    in_each = slopes.broadcast + MEMBERS * slopes.per_member
    while (at := at + chance.expovariate(rate)) < seconds:
        steps = [(VALKEY, in_valkey)]
        yield at, steps, [(process, in_each) for process in range(PROCESSES)]


def simulation(slopes: Slopes, seconds: float) -> str:
    """Return tables of what the processes would carry together."""
    most_events = min(1 / slopes.event_in_valkey, PROCESSES / slopes.event)
    in_valkey = slopes.broadcast_in_valkey + PROCESSES * slopes.per_process
    in_each = slopes.broadcast + MEMBERS * slopes.per_member
    most_broadcasts = min(1 / in_valkey, 1 / in_each)
    tables = []
    for what, most, jobs, each in (
        ("events with a transition", most_events, events_of, slopes.event / PROCESSES),
        (f"broadcasts to {PROCESSES * MEMBERS:,} members", most_broadcasts, broadcasts_of, in_each),
    ):
        rows = []
        for load in LOADS:
            rate = most * load
            took, busy = simulate(jobs(slopes, rate, seconds))
            rows.append(
                (
                    f"{load:.0%}",
                    f"{rate:,.0f}",
                    f"{busy:.0%}",
                    f"{rate * each:.0%}",
                    f"{part(took, 0.5) * 1e3:.1f}",
                    f"{part(took, 0.99) * 1e3:.1f}",
                )
            )
        head = (f"simulated: {what}, {PROCESSES} processes, one Valkey", "a second", "Valkey busy")
        tables.append(table((*head, "each process busy", "p50, ms", "p99, ms"), rows))
    assumed = (
        f"Assumed: each process and Valkey have a core each, like the measured one; "
        f"{NETWORK * 1e3:g} ms from a process to Valkey and as long back; events and broadcasts "
        f"come at random, evenly spread; half of an event's work is done before its commit."
    )
    return "\n\n".join([*tables, assumed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few connections, for CI")
    options = parser.parse_args()
    allow_files()
    plan = QUICK if options.quick else FULL
    slopes, measured = measure(plan)
    print(f"{measured}\n\n{simulation(slopes, plan.simulated_seconds)}")


if __name__ == "__main__":
    main()
