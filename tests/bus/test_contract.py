"""What every bus promises: in this process, and on Valkey by either driver."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable
from itertools import count
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_fsm import StoreUnavailable
from flask_fsm.bus import Bus, Position, Revision
from flask_fsm.bus.base import RUNS

from ..clients import PATIENCE
from .recorder import Recorder, numbers, run_at_once, wait_until

Make = Callable[..., Bus]


@pytest.fixture
def bus(bus_of: Make) -> Bus:
    """One that is subscribed to."""
    return bus_of()


@pytest.fixture
def other(bus_of: Make, bus: Bus) -> Bus:
    """One that publishes."""
    return bus_of()


# -- messages -------------------------------------------------------------------------------------


def test_messages_arrive_in_order_and_once(bus: Bus, other: Bus) -> None:
    """Each at the position that follows that of the one before."""
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    sent = [f"message {number}" for number in range(500)]
    for payload in sent:
        other.publish("c", payload)
    assert recorder.until_count(500) == sent
    assert numbers([(start, ""), *recorder.log]) == list(range(start.offset, start.offset + 501))


def test_all_receivers_get_all_messages(bus: Bus, other: Bus) -> None:
    """Two of one bus and one of another: the same, at the same positions."""
    first, second, third = Recorder(), Recorder(), Recorder()
    assert bus.subscribe("c", first) == bus.subscribe("c", second) == other.subscribe("c", third)
    for payload in "abc":
        other.publish("c", payload)
    assert [each.until_count(3) for each in (first, second, third)] == [list("abc")] * 3
    assert first.log == second.log == third.log


def test_channels_are_apart(bus: Bus, other: Bus) -> None:
    """Whatever their names are like."""
    names = ["c", "c:d", "{c}", "}", "{", "c}", "%7D", "c*", "ö", "a b", "a\nb", "\ud800", "c@0"]
    recorders = [Recorder() for _ in names]
    for name, recorder in zip(names, recorders, strict=True):
        bus.subscribe(name, recorder)
    for name in names:
        other.publish(name, f"to {name}")
    for name, recorder in zip(names, recorders, strict=True):
        assert recorder.until_count(1) == [f"to {name}"]


@pytest.mark.parametrize(
    "payload", ["", " ", "1 2 3", "ö\n\r\0", "\ud83d", "x" * 1_000_000, '{"a": 1}']
)
def test_a_payload_is_carried_as_it_is(bus: Bus, other: Bus, payload: str) -> None:
    """Any text, also one that no encoding likes."""
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    other.publish("c", payload)
    assert recorder.until_count(1) == [payload]
    assert bus.since("c", start) == recorder.log


def test_a_receiver_that_has_left_gets_nothing(bus: Bus, other: Bus) -> None:
    """The others go on; to leave twice, or without having come, does nothing."""
    left, stays = Recorder(), Recorder()
    bus.unsubscribe("c", left)
    bus.subscribe("c", left)
    bus.subscribe("c", stays)
    bus.unsubscribe("c", left)
    bus.unsubscribe("c", left)
    other.publish("c", "a")
    stays.until_count(1)
    bus.unsubscribe("c", stays)
    other.publish("c", "b")
    again = Recorder()
    bus.subscribe("c", again)
    other.publish("c", "c")
    again.until_payload("c")
    assert (left.payloads, stays.payloads) == ([], ["a"])


def test_a_receiver_that_comes_twice_gets_each_message_once(bus: Bus, other: Bus) -> None:
    """And is gone once it leaves."""
    recorder, watch = Recorder(), Recorder()
    bus.subscribe("c", recorder)
    bus.subscribe("c", recorder)
    bus.subscribe("c", watch)
    other.publish("c", "a")
    watch.until_count(1)
    bus.unsubscribe("c", recorder)
    other.publish("c", "b")
    watch.until_count(2)
    assert recorder.payloads == ["a"]


def test_a_receiver_that_fails_disturbs_nobody(
    bus: Bus, other: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and it gets the next message too."""
    calls: list[str] = []

    class Failing(Recorder):
        def receive(self, position: Position, payload: str) -> None:
            calls.append(payload)
            raise RuntimeError("It fails.")

    recorder = Recorder()
    bus.subscribe("c", Failing())
    bus.subscribe("c", recorder)
    with caplog.at_level(logging.ERROR):
        other.publish("c", "a")
        other.publish("c", "b")
        recorder.until_count(2)
    assert calls == ["a", "b"]
    assert len([line for line in caplog.records if line.exc_info]) == 2


def test_what_a_receiver_publishes_comes_after_what_it_got(bus: Bus) -> None:
    """Also to receivers that come later in the row, and on other channels to and fro."""

    class Answering(Recorder):
        def receive(self, position: Position, payload: str) -> None:
            if payload in "ab":
                bus.publish("c", f"{payload}, answered")
                bus.publish("d", f"{payload}, passed on")
            super().receive(position, payload)

    class PassingBack(Recorder):
        def receive(self, position: Position, payload: str) -> None:
            bus.publish("c", f"{payload} and back")

    first, second = Answering(), Recorder()
    bus.subscribe("c", first)
    bus.subscribe("c", second)
    bus.subscribe("d", PassingBack())
    bus.publish("c", "a")
    second.until_payload("a, passed on and back")
    bus.publish("c", "b")
    assert first.until_count(6) == second.until_count(6)
    assert [payload for payload in second.payloads if "back" not in payload] == [
        "a",
        "a, answered",
        "b",
        "b, answered",
    ]
    assert numbers(second.log) == list(range(1, 7))


def test_receivers_that_publish_to_each_other_never_wait_for_each_other(bus: Bus) -> None:
    """Two channels, whose receivers publish on the other one, by several threads at once."""

    class Crossing(Recorder):
        def __init__(self, target: str) -> None:
            super().__init__()
            self.target = target

        def receive(self, position: Position, payload: str) -> None:
            super().receive(position, payload)
            if payload == "there":
                bus.publish(self.target, "back")

    left, right = Crossing("r"), Crossing("l")
    bus.subscribe("l", left)
    bus.subscribe("r", right)
    run_at_once(
        *[lambda name=name: [bus.publish(name, "there") for _ in range(200)] for name in "lrlr"]
    )
    for each in (left, right):
        payloads = each.until_count(800)
        assert payloads.count("there") == payloads.count("back") == 400


def test_a_receiver_may_leave_and_others_come_while_it_is_called(bus: Bus, other: Bus) -> None:
    """On its channel and on another one."""
    late = Recorder()

    class Leaving(Recorder):
        def receive(self, position: Position, payload: str) -> None:
            super().receive(position, payload)
            bus.unsubscribe("c", self)
            bus.unsubscribe("d", late)

    leaving, stays = Leaving(), Recorder()
    bus.subscribe("d", late)
    bus.subscribe("c", leaving)
    bus.subscribe("c", stays)
    other.publish("c", "a")
    other.publish("c", "b")
    stays.until_count(2)
    assert leaving.payloads == ["a"]


def test_a_receiver_that_another_one_removes_does_not_get_that_message(
    bus: Bus, other: Bus
) -> None:
    """If its turn has not come yet."""
    removed, stays = Recorder(), Recorder()

    class Removing(Recorder):
        def receive(self, position: Position, payload: str) -> None:
            bus.unsubscribe("c", removed)

    for receiver in (Removing(), removed, stays):
        bus.subscribe("c", receiver)
    other.publish("c", "a")
    assert stays.until_count(1) == ["a"]
    assert removed.log == []


def test_many_publish_at_once(bus_of: Make) -> None:
    """All receivers see one order, in which each publisher's messages keep theirs."""
    buses = [bus_of() for _ in range(4)]
    recorders = [Recorder() for _ in buses]
    for bus, recorder in zip(buses, recorders, strict=True):
        bus.subscribe("c", recorder)

    def publish(number: int) -> None:
        for turn in range(250):
            buses[number].publish("c", f"{number} {turn}")

    run_at_once(*[lambda number=number: publish(number) for number in range(4)])
    logs = [recorder.until_count(1_000) and recorder.log for recorder in recorders]
    assert all(log == logs[0] for log in logs)
    assert numbers(logs[0]) == list(range(1, 1_001))
    for number in range(4):
        mine = [payload for _, payload in logs[0] if payload.startswith(f"{number} ")]
        assert mine == [f"{number} {turn}" for turn in range(250)]


def test_from_the_position_of_the_start_nothing_is_missing(bus: Bus, other: Bus) -> None:
    """Receivers that come and go while somebody publishes get what follows it, in full."""
    stop = Event()
    watch = Recorder()
    bus.subscribe("c", watch)

    def publish() -> None:
        for number in count():
            if stop.is_set():
                return
            other.publish("c", str(number))
            if number % 20 == 0:
                other.flush(PATIENCE)

    thread = Thread(target=publish)
    thread.start()
    try:
        for _ in range(30):
            recorder = Recorder()
            start = bus.subscribe("c", recorder)
            recorder.until_count(20)
            bus.unsubscribe("c", recorder)
            got = numbers([(start, ""), *recorder.log[:20]])
            assert got == list(range(start.offset, start.offset + 21))
    finally:
        stop.set()
        thread.join()
    whole = dict(watch.log)
    assert all(whole.get(position, payload) == payload for position, payload in recorder.log)


# -- what was missed ------------------------------------------------------------------------------


def test_what_was_missed_is_kept(bus: Bus, other: Bus) -> None:
    """From any position on, up to the newest message."""
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    assert bus.since("c", start) == []
    for payload in "abcd":
        other.publish("c", payload)
    recorder.until_count(4)
    assert bus.since("c", start) == recorder.log
    for done, (position, _) in enumerate(recorder.log, 1):
        assert bus.since("c", position) == other.since("c", position) == recorder.log[done:]


def test_what_is_missed_while_nobody_listens_is_kept_for_a_while(bus: Bus, other: Bus) -> None:
    """Who comes back within that time goes on where it was."""
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    bus.unsubscribe("c", recorder)
    for payload in "ab":
        other.publish("c", payload)
    assert other.flush(PATIENCE)
    position = bus.subscribe("c", recorder)
    assert position == (start.epoch, start.offset + 2)
    missed = bus.since("c", start)
    assert missed is not None
    assert [payload for _, payload in missed] == ["a", "b"]


def test_only_the_last_messages_are_kept(bus_of: Make) -> None:
    """From a position before those, it is not known what was missed."""
    bus = bus_of(replay_limit=3)
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for payload in "abc":
        bus.publish("c", payload)
    recorder.until_count(3)
    assert bus.since("c", start) == recorder.log
    bus.publish("c", "d")
    recorder.until_count(4)
    assert bus.since("c", start) is None
    assert bus.since("c", recorder.log[0][0]) == recorder.log[1:]


def test_of_a_position_of_somewhere_else_nothing_is_known(bus: Bus) -> None:
    """Another epoch, one ahead of the channel, or a channel that nobody knows."""
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    bus.publish("c", "a")
    recorder.until_count(1)
    for position in (
        Position("another", 1),
        Position(start.epoch, 2),
        Position(start.epoch, 10**14),
    ):
        assert bus.since("c", position) is None
    assert bus.since("d", start) is None


# -- state messages -------------------------------------------------------------------------------


def sent(bus: Bus, *revisions: Revision) -> list[Revision]:
    """Publish messages with these orders, and return those of the ones that arrived."""
    recorder = Recorder()
    channel = f"order {secrets.token_hex(8)}"
    bus.subscribe(channel, recorder)
    for number, revision in enumerate(revisions):
        bus.publish(channel, str(number), revision)
    bus.publish(channel, "end")
    arrived = recorder.until_payload("end")
    assert numbers(recorder.log) == list(range(1, len(arrived) + 1))
    bus.unsubscribe(channel, recorder)
    return [revisions[int(payload)] for payload in arrived[:-1]]


def test_a_late_message_is_dropped(bus: Bus) -> None:
    """One of the same run at the same or an earlier rev, or of a run that is over."""
    one, two, three = Revision("a", 1), Revision("a", 2), Revision("a", 3)
    assert sent(bus, one, three, two, three, one) == [one, three]
    new = Revision("b", 0, ended="a")
    assert sent(bus, one, new, two, three, Revision("b", 1)) == [one, new, Revision("b", 1)]


def test_a_run_that_nobody_knows_is_accepted(bus: Bus) -> None:
    """At any rev, also one lower than that of another run."""
    revisions = (Revision("a", 7), Revision("b", 3), Revision("c", 0, ended="b"), Revision("a", 8))
    assert sent(bus, *revisions) == list(revisions)


def test_a_late_message_still_tells_which_run_is_over(bus: Bus) -> None:
    """The second message of the new run has overtaken its first, which ended the old one."""
    revisions = (Revision("a", 4), Revision("b", 1), Revision("b", 0, ended="a"), Revision("a", 5))
    assert sent(bus, *revisions) == list(revisions[:2])


def test_a_message_may_end_its_own_run(bus: Bus) -> None:
    """It is the last one."""
    last = Revision("a", 2, ended="a")
    assert sent(bus, Revision("a", 1), last, Revision("a", 3)) == [Revision("a", 1), last]


def test_the_last_few_runs_are_remembered(bus: Bus) -> None:
    """Odd names are names like others."""
    names = ["", '"', "[]", "\0", "ö", "\ud800", "over", "run"]
    assert len(names) == RUNS
    first = [Revision(name, 5) for name in names]
    assert sent(bus, *first, *first) == first


class Model:
    """The rule, said once more."""

    def __init__(self) -> None:
        self.known: list[tuple[str, float]] = []

    def admits(self, revision: Revision) -> bool:
        admitted = revision.rev > dict(self.known).get(revision.run, -1)
        if admitted:
            self.note(revision.run, revision.rev)
        if revision.ended is not None:
            self.note(revision.ended, float("inf"))
        return admitted

    def note(self, run: str, rev: float) -> None:
        self.known = [known for known in self.known if known[0] != run]
        self.known = [*self.known, (run, rev)][-RUNS:]


ORDERS = st.lists(
    st.builds(
        Revision,
        st.sampled_from("abcdefghijkl"),
        st.integers(0, 6),
        st.none() | st.sampled_from("abcdefghijkl"),
    ),
    max_size=40,
)


@given(ORDERS)
@settings(max_examples=60)
def test_the_rule_is_that_of_the_model(bus: Bus, revisions: list[Revision]) -> None:
    """Any orders, more runs than are remembered."""
    model = Model()
    assert sent(bus, *revisions) == [revision for revision in revisions if model.admits(revision)]


def test_racing_publishers_end_with_the_newest(bus_of: Make) -> None:
    """Revs only rise, a run that is over does not come back, and the last message is the newest."""
    buses = [bus_of() for _ in range(4)]
    recorder = Recorder()
    buses[0].subscribe("c", recorder)
    runs = [f"run {number}" for number in range(3)]
    revisions = [
        Revision(run, rev, ended=runs[place - 1] if place and rev == 0 else None)
        for place, run in enumerate(runs)
        for rev in range(60)
    ]

    def publish(number: int) -> None:
        dice = random.Random(number)
        late: list[Revision] = []
        for revision in revisions:
            # A little late, as the commits of other processes are. The first of a run is not.
            if revision.ended is None and dice.random() < 0.5:
                late.append(revision)
            else:
                buses[number].publish("c", f"{revision.run} {revision.rev}", revision)
            if len(late) > 5:
                for each in dice.sample(late, len(late)):
                    buses[number].publish("c", f"{each.run} {each.rev}", each)
                late.clear()

    run_at_once(*[lambda number=number: publish(number) for number in range(4)])
    for bus in buses:
        assert bus.flush(PATIENCE)
    buses[0].publish("c", "run 2 100", Revision("run 2", 100))
    arrived = [payload.rsplit(" ", 1) for payload in recorder.until_payload("run 2 100")]
    seen = [(run, int(rev)) for run, rev in arrived]
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen))


# -- once and groups ------------------------------------------------------------------------------


def test_acquire_once_is_true_for_one_caller(bus_of: Make) -> None:
    """Of all that ask at once, and for its time only."""
    buses = [bus_of() for _ in range(4)]
    won: list[int] = []

    def acquire(number: int) -> None:
        if buses[number].acquire_once("key", 300):
            won.append(number)

    run_at_once(*[lambda number=number: acquire(number) for number in range(4)])
    assert len(won) == 1
    assert buses[0].acquire_once("another key", 300)
    assert buses[0].acquire_once("short", 1)
    wait_until(lambda: buses[1].acquire_once("short", 1))


def soon(seconds: float = 300) -> float:
    return time.time() + seconds


def test_members_enter_and_leave(bus: Bus, other: Bus) -> None:
    """Each is new once, and gone once; groups are apart."""
    assert bus.members("g") == {}
    assert bus.enter("g", "ann", "info of ann", soon())
    assert not other.enter("g", "ann", "other info", soon())
    assert other.enter("g", "bob", "ö \ud800", soon())
    assert other.enter("h", "ann", "", soon())
    assert bus.members("g") == {"ann": "other info", "bob": "ö \ud800"}
    assert bus.members("h") == {"ann": ""}
    assert other.leave("g", "ann")
    assert not bus.leave("g", "ann")
    assert bus.members("g") == {"bob": "ö \ud800"}
    assert bus.expired("g") == []


def test_a_member_whose_time_is_over_is_removed_for_one_caller(bus_of: Make) -> None:
    """Nobody sees it any more, and one of all that ask is told."""
    buses = [bus_of() for _ in range(4)]
    for number in range(50):
        buses[0].enter("g", f"m{number}", f"info {number}", soon(-1))
    buses[0].enter("g", "stays", "", soon())
    assert buses[1].members("g") == {"stays": ""}
    told: list[tuple[str, str]] = []
    run_at_once(*[lambda bus=bus: told.extend(bus.expired("g")) for bus in buses])
    assert sorted(told) == sorted((f"m{number}", f"info {number}") for number in range(50))
    assert not buses[0].leave("g", "m1")


def test_a_time_passes(bus: Bus) -> None:
    """A member stays until its time is over, and then it is gone."""
    bus.enter("g", "ann", "info", soon(0.3))
    wait_until(lambda: bus.members("g") == {})
    assert bus.expired("g") == [("ann", "info")]


def test_who_comes_back_when_its_time_is_over_is_new(bus: Bus) -> None:
    """Others have seen it missing, and nobody is told that it left."""
    bus.enter("g", "ann", "", soon(-1))
    assert bus.enter("g", "ann", "again", soon())
    assert bus.expired("g") == []
    assert bus.members("g") == {"ann": "again"}


def test_who_leaves_when_its_time_is_over_was_there(bus: Bus) -> None:
    """So that its end is told once."""
    bus.enter("g", "ann", "", soon(-1))
    assert bus.leave("g", "ann")
    assert bus.expired("g") == []


def test_members_stay_longer(bus: Bus, other: Bus) -> None:
    """Those that are not there are returned, and do not come into being."""
    bus.enter("g", "ann", "info", soon(-1))
    bus.enter("g", "bob", "", soon())
    assert other.renew("g", ["ann", "cid", "bob"], soon()) == ["cid"]
    assert bus.members("g") == {"ann": "info", "bob": ""}
    assert other.renew("g", iter(["bob"]), soon(-1)) == []
    assert bus.expired("g") == [("bob", "")]
    assert other.renew("g", [], soon()) == []
    many = [f"m{number}" for number in range(2_500)]
    assert bus.renew("g", many, soon()) == many


# -- the end --------------------------------------------------------------------------------------


def test_after_a_flush_all_is_out(bus: Bus, other: Bus) -> None:
    """What was published before is kept."""
    start = bus.subscribe("c", Recorder())
    for number in range(300):
        other.publish("c", str(number))
    assert other.flush(PATIENCE)
    missed = bus.since("c", start)
    assert missed is not None
    assert len(missed) == 300


def test_a_closed_bus_carries_nothing(bus: Bus) -> None:
    """To close it twice, or to publish on it, is no error; nobody can begin to listen."""
    recorder = Recorder()
    bus.subscribe("c", recorder)
    bus.close()
    bus.close()
    bus.publish("c", "a")
    bus.unsubscribe("c", recorder)
    with pytest.raises(StoreUnavailable):
        bus.subscribe("c", recorder)
    assert recorder.log == []


# -- positions ------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9_]{1,32}", fullmatch=True), st.integers(0, 10**15 - 1))
def test_a_position_is_a_text(epoch: str, offset: int) -> None:
    """It is read back as it was."""
    position = Position(epoch, offset)
    assert str(position) == f"{epoch}-{offset}"
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "given_text",
    [
        "", "-", "a", "a-", "-1", "a--1", "a-1-2", "a-1,b-2", "a-01", "a- 1", "a-1 ", "a-1\n",
        "ä-1", "a-\u0661", "a-1e3", "a-" + "9" * 16, "a" * 33 + "-1", "a-" + "9" * 100_000, None,
        7, b"a-1",
    ],
)  # fmt: skip
def test_what_is_no_position_is_none(given_text: Any) -> None:
    """Whatever a client sends."""
    assert Position.parse(given_text) is None


@given(st.text())
def test_any_text_is_a_position_or_none(given_text: str) -> None:
    """And nothing is raised."""
    parsed = Position.parse(given_text)
    assert parsed is None or str(parsed) == given_text


def test_an_epoch_is_new_and_can_be_read(bus: Bus) -> None:
    """It has at least 8 characters, and no sign that has a meaning in an id."""
    found = {bus.subscribe(f"channel {number}", Recorder()).epoch for number in range(20)}
    assert len(found) == 20
    assert all(len(epoch) >= 8 and Position.parse(f"{epoch}-0") for epoch in found)


def test_large_messages_are_kept_as_far_as_they_fit(bus_of: Make) -> None:
    """However many may be kept: beyond `replay_bytes` the oldest ones go, and that is told."""
    bus = bus_of(replay_limit=1_000, replay_bytes=20_000)
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for number in range(20):
        bus.publish("c", f"{number} {'x' * 4_000}")
    recorder.until_count(20)
    assert bus.since("c", start) is None
    assert bus.since("c", recorder.log[9][0]) is None
    latest = bus.since("c", recorder.log[-3][0])
    assert latest == recorder.log[-2:]


def test_what_is_missed_is_read_in_pieces(bus_of: Make) -> None:
    """Each piece is about as large as asked for and has a message at least; all make the whole."""
    bus = bus_of(replay_limit=1_000, replay_bytes=1_000_000)
    recorder = Recorder()
    position = bus.subscribe("c", recorder)
    for number in range(100):
        bus.publish("c", f"{number} {'x' * (4_000 if number % 10 else 40_000)}")
    recorder.until_count(100)
    pieces = []
    while piece := bus.since("c", position, 20_000):
        pieces.append(piece)
        position = piece[-1][0]
    assert piece == []
    assert [message for piece in pieces for message in piece] == recorder.log
    assert len(pieces) >= 10
    for piece in pieces:
        assert sum(len(payload) for _, payload in piece[:-1]) <= 44_100


def test_of_a_piece_that_is_gone_meanwhile_nothing_is_known(bus_of: Make) -> None:
    """Who reads so slowly that the next message is not kept any more learns of it."""
    bus = bus_of(replay_limit=1_000, replay_bytes=50_000)
    recorder = Recorder()
    position = bus.subscribe("c", recorder)
    for _ in range(10):
        bus.publish("c", "x" * 4_000)
    recorder.until_count(10)
    piece = bus.since("c", position, 4_000)
    assert piece
    for _ in range(20):
        bus.publish("c", "y" * 4_000)
    recorder.until_count(30)
    assert bus.since("c", piece[-1][0], 4_000) is None
