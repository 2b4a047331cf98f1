"""The bus in memory: what it keeps, and for how long."""

from __future__ import annotations

import pytest

from flask_fsm.bus import MemoryBus, Position, Revision

from .recorder import Recorder


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bus(clock: Clock) -> MemoryBus:
    return MemoryBus(replay_time=300, clock=clock)


def test_a_channel_is_kept_for_its_time_after_the_last_receiver_left(
    bus: MemoryBus, clock: Clock
) -> None:
    """Whoever comes within it goes on, and the time begins anew when it leaves."""
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for _ in range(3):
        clock.now += 10_000
        bus.publish("c", "heard")
        bus.unsubscribe("c", recorder)
        clock.now += 299
        bus.publish("c", "missed")
        assert bus.subscribe("c", recorder).epoch == start.epoch
    missed = bus.since("c", start)
    assert missed is not None
    assert [payload for _, payload in missed] == ["heard", "missed"] * 3


@pytest.mark.parametrize(
    "act", ["publish", "since", "subscribe elsewhere", "unsubscribe elsewhere"]
)
def test_a_channel_is_forgotten_when_its_time_is_over(
    bus: MemoryBus, clock: Clock, act: str
) -> None:
    """Whatever is done next; who comes then begins a new epoch."""
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    bus.subscribe("other", recorder)
    bus.unsubscribe("c", recorder)
    clock.now += 300
    match act:
        case "publish":
            bus.publish("c", "missed")
        case "since":
            assert bus.since("c", start) is None
        case "subscribe elsewhere":
            bus.subscribe("another", recorder)
        case "unsubscribe elsewhere":
            bus.unsubscribe("other", recorder)
    clock.now -= 300
    assert bus.since("c", start) is None
    assert bus.subscribe("c", recorder).epoch != start.epoch


def test_what_is_published_for_nobody_leaves_nothing(bus: MemoryBus) -> None:
    """Neither a message nor a run."""
    bus.publish("c", "a", Revision("run", 7))
    recorder = Recorder()
    assert bus.subscribe("c", recorder).offset == 0
    bus.publish("c", "b", Revision("run", 1))
    assert recorder.payloads == ["b"]


def test_acquire_once_ends_with_its_time(bus: MemoryBus, clock: Clock) -> None:
    """Not before, and keys of other times do not hold it up."""
    assert bus.acquire_once("long", 100)
    assert bus.acquire_once("short", 10)
    clock.now += 9
    assert not bus.acquire_once("short", 10)
    clock.now += 1
    assert bus.acquire_once("short", 10)
    assert not bus.acquire_once("long", 100)


def test_what_is_kept_for_all_channels_together_is_bounded() -> None:
    """Many flows with large messages keep less each; those that nobody listens to go first."""
    bus = MemoryBus(replay_limit=1_000, replay_bytes=64_000)
    quiet = Recorder()
    first = bus.subscribe("quiet", quiet)
    bus.publish("quiet", "x" * 32_000)
    bus.unsubscribe("quiet", quiet)
    assert len(bus.since("quiet", first) or ()) == 1
    starts = {}
    for number in range(200):
        starts[number] = bus.subscribe(f"c{number}", Recorder())
        for _ in range(4):
            bus.publish(f"c{number}", "x" * 15_000)
    assert bus.since("quiet", first) is None
    kept = [bus.since(f"c{number}", start) for number, start in starts.items()]
    assert sum(len(payload) for found in kept for _, payload in found or ()) < 65 * 64_000
    bus.publish("c199", "small")
    assert [payload for _, payload in bus.since("c199", Position(starts[199].epoch, 4)) or ()] == [
        "small"
    ]


def test_messages_on_a_channel_whose_time_is_over_take_nothing_from_others(clock: Clock) -> None:
    """They are dropped with it, and do not count towards what all channels may keep."""
    bus = MemoryBus(replay_bytes=1_000, replay_time=300, clock=clock)
    recorder = Recorder()
    for number in range(100):
        bus.subscribe(f"c{number}", recorder)
        bus.unsubscribe(f"c{number}", recorder)
        clock.now += 301
        bus.publish(f"c{number}", "x" * 900)
    start = bus.subscribe("c", recorder)
    bus.publish("c", "x" * 900)
    assert len(bus.since("c", start) or ()) == 1


def test_clients_that_come_and_go_leave_little_behind() -> None:
    """Channels that nobody listens to any more are dropped before their time if they are many."""
    bus = MemoryBus(replay_bytes=64_000)
    recorder = Recorder()
    first = bus.subscribe("first", recorder)
    bus.unsubscribe("first", recorder)
    for number in range(5_000):
        bus.subscribe(f"c{number}", recorder)
        bus.unsubscribe(f"c{number}", recorder)
    assert bus.since("first", first) is None
    assert 1_000 < len(bus._channels) < 4_000
    latest = bus.subscribe("c4999", recorder)
    assert bus.since("c4999", latest) == []
