"""The text that a flow is stored as, and the answers in it."""

from __future__ import annotations

import math
import random
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from flask_fsm.core.answers import dump_answers, load_answers
from flask_fsm.core.flow import Flow
from flask_fsm.core.machine import Machine, State
from flask_fsm.core.snapshot import Receipt, Snapshot
from flask_fsm.errors import InvalidData, SnapshotError

from .clock import START, Clock

STATES = [f"page{number}" for number in range(20)]


def walked(machine: Machine, length: int, seed: int = 1) -> Flow:
    """A random walk with gaps of 1 s to 10 min, log-uniform."""
    chance, clock = random.Random(seed), Clock()
    flow = machine.flow(clock=clock)
    for _ in range(length):
        clock.now += math.exp(chance.uniform(0, math.log(600)))
        flow.transition(chance.choice([*machine.ways[flow.current]]))
    return flow


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_entries_among_twenty_states_take_at_most_2700_characters(seed) -> None:
    machine = Machine("m", [(a, b) for a in STATES for b in STATES if a != b])
    flow = walked(machine, 1_000, seed)
    text = flow.snapshot.encode(machine)
    assert len(text) <= 2_700
    assert Snapshot.decode(text, machine).history == flow.history
    assert len(flow.history) == 1_000


def test_a_text_holds_all_that_a_snapshot_does() -> None:
    machine = Machine("m", [("a|", '"b'), ('"b', "-c"), ("-c", "!d"), ("!d", "a|"), ("!d", "e")])
    flow = machine.flow(subject="user|7", clock=Clock())
    flow.apply(flow.step('"b', {"when": date(2025, 1, 2)}, args='{"id":1}'))
    flow.transition("-c", {"x": "|"})
    flow.transition("!d")
    flow.transition("a|")
    flow.apply(flow.step('"b', args='{"id":2}'))
    snapshot = flow.snapshot.with_receipt(Receipt("nonce", "digest"))
    back = Snapshot.decode(snapshot.encode(machine), machine)
    assert back == snapshot
    assert back.subject == "user|7"
    assert back.receipt == ("nonce", "digest")
    assert back.drafts == {"a|": {"when": date(2025, 1, 2)}, '"b': {"x": "|"}}
    assert back.path.args('"b') == {"id": 2}
    assert back.rev == len(back.history) == 5
    assert (back.started, back.updated, back.finished) == (START, START, False)


def test_a_finished_flow_is_finished_after_the_trip() -> None:
    machine = Machine("m", [("a", "b")])
    flow = machine.flow()
    flow.transition("b")
    assert Snapshot.decode(flow.snapshot.encode(machine), machine).finished


def test_the_history_can_be_cut_without_consequence_for_decisions() -> None:
    machine = Machine("m", [(a, b) for a in STATES for b in STATES])
    flow = walked(machine, 50)
    cut = flow.snapshot.with_packed_history(machine, 10)
    assert cut.history == flow.history[-len(cut.history) :]
    assert 0 < len(cut.history) <= 10
    assert (cut.path, cut.rev, cut.state) == (flow.path, flow.rev, flow.current)
    assert Snapshot.decode(cut.encode(machine), machine) == cut
    assert len(flow.snapshot.with_packed_history(machine, 0).history) == 0


def test_a_changed_definition_drops_the_history_and_keeps_the_path() -> None:
    old = Machine("m", [("a", "b"), ("b", "c"), ("c", "d")])
    new = Machine("m", [("a", "c"), ("a", "b"), ("b", "c"), ("c", "d")])
    flow = old.flow()
    flow.transition("b", {"x": 1})
    flow.transition("c")
    back = Snapshot.decode(flow.snapshot.encode(old), new)
    assert back.path == ["a", "b", "c"]
    assert back.data == {"a": {"x": 1}}
    assert (back.rev, len(back.history)) == (2, 0)
    moved = new.flow(back)
    moved.transition("d")
    assert Snapshot.decode(moved.snapshot.encode(new), new) == moved.snapshot
    assert [entry.rev for entry in moved.history] == [3]


def test_the_path_of_an_ended_run_outlives_its_edges_and_its_initial_state() -> None:
    """And can be stored and loaded again under the new definition."""
    old = Machine("m", [("a", "b"), ("b", "c")])
    new = Machine("m", [("x", "a"), ("a", "c"), ("x", "b"), ("b", "d"), ("c", "d")])
    flow = old.flow()
    flow.transition("b")
    flow.transition("c")
    back = Snapshot.decode(flow.snapshot.encode(old), new)
    assert Snapshot.decode(back.encode(new), new) == back
    assert (back.path, back.cut_back) == (["a", "b", "c"], False)


def test_a_changed_definition_counts_the_edges_of_the_path_as_taken() -> None:
    old = Machine("m", [("a", "b"), ("b", "a"), ("b", "c"), ("c", "d")], repeat=False)
    new = Machine("m", [("b", "a"), ("a", "b"), ("c", "b"), ("b", "c"), ("c", "d")],
                  initial="a", repeat=False)  # fmt: skip
    flow = old.flow()
    flow.transition("b")
    flow.transition("c")
    moved = new.flow(Snapshot.decode(flow.snapshot.encode(old), new))
    moved.transition("b")
    assert moved.can_transition("a")
    assert [reason.code for reason in moved.why_not("c")] == ["taken"]


def test_a_state_that_no_longer_exists_is_an_error_that_names_it() -> None:
    old, new = Machine("m", [("a", "b"), ("b", "c")]), Machine("m", [("b", "c")])
    flow = old.flow()
    flow.transition("b")
    with pytest.raises(SnapshotError, match="no longer has") as raised:
        Snapshot.decode(flow.snapshot.encode(old), new)
    assert (raised.value.code, raised.value.source, raised.value.flow) == (
        "definition",
        "a",
        flow.id,
    )


def test_drafts_of_states_that_are_gone_are_dropped() -> None:
    old = Machine("m", [("a", "b"), ("b", "a"), ("b", "c")])
    new = Machine("m", [("a", "c")])
    flow = old.flow()
    flow.transition("b", {"x": 1})
    flow.transition("a", {"y": 1})
    assert Snapshot.decode(flow.snapshot.encode(old), new).drafts == {"a": {"x": 1}}


@pytest.mark.parametrize("text", ["", "|", "1", "x" * 2_000_000, None, 7, b"1", "|" * 100])
def test_what_is_no_snapshot_is_a_snapshot_error(text) -> None:
    with pytest.raises(SnapshotError) as raised:
        Snapshot.decode(text, Machine("m", states=[State("a", [])]))
    assert raised.value.code == "bad_snapshot"


def test_each_kind_of_answer_comes_back_as_it_was() -> None:
    data = {
        "day": date(2025, 1, 2),
        "at": datetime(2025, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc),  # noqa: UP017
        "sum": Decimal("1.50"),
        "id": UUID(int=7),
        "plain": [None, True, 1, 1.5, "text", {"deep": ["|"]}],
        "$": {"$date": 1},
    }
    back = load_answers(dump_answers(data))
    assert back == data
    assert [type(value) for value in back.values()] == [type(value) for value in data.values()]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"file": open}, "file"),
        ({"a": [{"b": {1, 2}}]}, "a"),
        ({"a": (1, 2)}, "a"),
        ({"a": {1: 2}}, "a"),
        ({"a": math.nan}, "a"),
        ({"a": b"x"}, "a"),
    ],
)
def test_what_cannot_be_kept_is_refused_naming_the_field(data, field) -> None:
    with pytest.raises(InvalidData) as refused:
        dump_answers(data)
    assert list(refused.value.fields) == [field]
    assert refused.value.status == (422 if data == {"a": math.nan} else 500)


def test_what_is_nested_without_end_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(InvalidData, match="levels deep"):
        dump_answers({"a": loop})


def test_half_a_surrogate_pair_can_be_stored() -> None:
    text = dump_answers({"a": "\ud800é"})
    assert text.isascii()
    assert load_answers(text) == {"a": "\ud800é"}


class OwnZone(tzinfo):
    """A zone that no text names."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)


@pytest.mark.parametrize(
    "zone",
    [timezone(timedelta(hours=1), "CET"), OwnZone(), ZoneInfo.no_cache("Europe/Vienna")],
)
@pytest.mark.parametrize("value", [datetime(2026, 1, 1), time(12)])
def test_a_time_zone_that_would_be_read_back_differently_is_refused(
    zone: tzinfo, value: Any
) -> None:
    """The error names the field and the zone."""
    flow = Machine("m", [("a", "b")]).flow()
    with pytest.raises(InvalidData, match="would be read back differently") as caught:
        flow.transition("b", {"when": value.replace(tzinfo=zone)})
    assert list(caught.value.fields) == ["when"]


@pytest.mark.parametrize(
    "text",
    ["[Mars/Olympus]", "[]", "[", "[../etc]", "[Europe]", "+01:00[Europe/Vienna]", "~1~1", "~1x"],
)
def test_a_stored_time_in_a_zone_that_is_not_known_is_a_snapshot_error(text: str) -> None:
    """As any other text that can't be read."""
    with pytest.raises(SnapshotError):
        load_answers(f'{{"when":{{"$":["datetime","2026-10-25T02:30:00{text}"]}}}}')


@pytest.mark.parametrize("tag", ["datetime", "date", "time", "timedelta", "decimal", "uuid"])
@pytest.mark.parametrize("value", ["5", "null", "{}", "[0,[1],0]"])
def test_a_stored_value_that_is_no_text_is_a_snapshot_error(tag: str, value: str) -> None:
    """Whatever its tag says: such values are written as texts only."""
    with pytest.raises(SnapshotError):
        load_answers(f'{{"a":{{"$":["{tag}",{value}]}}}}')
