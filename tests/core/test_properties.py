"""Random machines, random walks: the flow against a plain model of it."""

from __future__ import annotations

import itertools
from datetime import date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_fsm.core.answers import dump_answers, load_answers
from flask_fsm.core.flow import Flow
from flask_fsm.core.machine import Machine, Transition
from flask_fsm.core.snapshot import Snapshot
from flask_fsm.errors import FSMError, SnapshotError

from ..fuzz.fuzz_snapshot import feed, valid_texts
from .clock import Clock
from .reference import Rules, Run

NAMES = ["a", "b", "c|", '"d', "-e", "!f"]
quick = settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    deadline=None,
)


@st.composite
def machines(draw: st.DrawFn) -> tuple[Machine, Rules]:
    """A machine of up to six states without faults, and the model of it."""
    names = NAMES[: draw(st.integers(2, len(NAMES)))]
    final = names[-1]
    # A walk through all states, so that none is unreachable and each leads to the final one.
    edges = dict.fromkeys(itertools.pairwise(names))
    others = [(a, b) for a in names[:-1] for b in names]
    edges |= dict.fromkeys(draw(st.lists(st.sampled_from(others), max_size=10, unique=True)))
    backs = st.sampled_from(["preserve", "preserve", "discard", "invalidate"])
    ways: dict[tuple[str, str], Any] = {edge: draw(backs) for edge in edges}
    kind = draw(st.sampled_from([{}, {"repeat": False}, {"ordered": True}]))
    machine = Machine(
        "random",
        [Transition(a, b, back=back) for (a, b), back in ways.items()],
        initial=names[0],
        **kind,
    )
    assert machine.finals == {final}
    return machine, Rules(ways, names[0], frozenset({final}), **kind)


answers = (
    st.none()
    | st.just({"x": 1})
    | st.fixed_dictionaries({"x": st.integers(0, 9) | st.text(max_size=3)})
)
moves = st.lists(
    st.tuples(
        st.sampled_from(["move", "move", "move", "edit", "edit", "store", "reset"]),
        st.integers(0, 9),
        st.sampled_from(NAMES),
        answers,
        st.integers(-50, 5_000),
    ),
    max_size=25,
)


def same(flow: Flow, run: Run) -> None:
    """Check all that the model knows of the flow."""
    assert flow.current == run.states[-1]
    assert flow.path == run.states
    assert flow.data == run.data
    assert flow.drafts == run.drafts
    assert flow.finished == run.finished
    assert [(entry.source, entry.target) for entry in flow.history] == list(run.history)
    assert flow.rev == len(run.history)
    assert [flow.is_open(state) for state in NAMES] == [run.may_open(state) for state in NAMES]


@quick
@given(machines(), moves)
def test_a_flow_decides_and_moves_as_the_plain_model_does(
    made: tuple[Machine, Rules], walk: list[Any]
) -> None:
    """Edits, loops, resets and a trip through the codec at any time included."""
    machine, rules = made
    clock = Clock()
    flow, run = machine.flow(clock=clock), Run.of(rules)
    for what, number, name, data, gap in walk:
        clock.now += gap
        if what == "reset" or (run.finished and number):
            flow.reset()
            run = Run.of(rules)
        if what == "reset":
            pass
        elif what == "store":
            text = flow.snapshot.encode(machine)
            flow = machine.flow(Snapshot.decode(text, machine), clock=clock)
        else:
            # Mostly edges that exist, or else hardly a walk gets anywhere.
            source = run.states[number % len(run.states)] if what == "edit" else run.states[-1]
            ways = rules.out_of(source)
            target = ways[number % len(ways)][1] if ways and number else name
            if target not in machine.states:
                continue
            refusal = run.refusal(source, target)
            assert flow.can_transition(target, source=source) == (refusal is None)
            before = flow.snapshot
            if refusal is not None:
                with pytest.raises(FSMError) as refused:
                    flow.transition(target, data, source=source)
                assert refused.value.code == refusal
                assert flow.snapshot == before
            else:
                result = flow.transition(target, data, source=source)
                run = run.moved(source, target, data)
                assert result.snapshot == flow.snapshot
                assert result.previous == before
                assert (result.source, result.target, result.rev) == (source, target, flow.rev)
                assert result.entry == flow.history[-1]
        same(flow, run)


@quick
@given(machines(), moves)
def test_no_illegal_edge_is_ever_committed_and_history_replays_to_the_state(
    made: tuple[Machine, Rules], walk: list[Any]
) -> None:
    """Each entry is an edge whose source had been visited; its rev and time only grow."""
    machine, _ = made
    clock = Clock()
    flow = machine.flow(clock=clock)
    for what, number, name, data, gap in walk:
        clock.now += gap
        source = flow.path[number % len(flow.path)] if what == "edit" else None
        try:
            flow.transition(name, data, source=source)
            if number % 2:
                flow.fast_forward()
        except FSMError:
            continue
    state, rev, at = machine.initial, 0, 0
    visited = {state}
    for entry in flow.history:
        assert machine.ways[entry.source][entry.target]
        assert entry.source == state or entry.source in visited
        assert entry.rev - rev in (0, 1)
        assert entry.at >= at
        state, rev, at = entry.target, entry.rev, entry.at
        visited.add(state)
    assert (state, rev) == (flow.current, flow.rev)
    assert set(flow.path) <= visited
    for source, target in itertools.pairwise(flow.path):
        assert (source, target) in flow.history


@quick
@given(machines(), moves, st.none() | st.integers(0, 6), st.none() | st.text())
def test_a_snapshot_survives_its_text(
    made: tuple[Machine, Rules], walk: list[Any], limit: int | None, subject: str | None
) -> None:
    """With its history cut to a limit or not, whatever the subject; and again when it goes on."""
    machine, _ = made
    clock = Clock()
    flow = machine.flow(subject=subject, clock=clock)
    for what, number, name, data, gap in walk:
        clock.now += gap
        try:
            flow.transition(name, data, source=flow.path[0] if what == "edit" else None)
            if number % 3 == 0:
                flow.fast_forward()
        except FSMError:
            pass
        if what == "store":
            flow.set_snapshot(flow.snapshot.with_packed_history(machine, limit))
            assert limit is None or len(flow.history) <= limit
        text = flow.snapshot.encode(machine)
        assert Snapshot.decode(text, machine) == flow.snapshot
        assert Snapshot.decode(text, machine).encode(machine) == text
        if what == "reset":
            flow = machine.flow(Snapshot.decode(text, machine), clock=clock)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=()))
zones = st.integers(-720, 720).map(lambda m: timezone(timedelta(minutes=m)))
leaves = (
    plain
    | texts
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.none() | zones | st.timezones(), allow_imaginary=True)
    | st.times(timezones=st.none() | zones | st.timezones())
    | st.sampled_from([datetime(2026, 10, 25, 2, 30, fold=1), time(2, 30, fold=1)])
    | st.just(datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Vienna"), fold=1))
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
)
keys = st.text() | st.sampled_from(["$", "$$", "$uuid"])
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


@quick
@given(st.dictionaries(keys, trees, max_size=3))
def test_answers_come_back_as_they_were(data: dict[str, Any]) -> None:
    """Equal and of the same types; so is what looks like a tag of the encoding."""
    text = dump_answers(data)
    assert "|" not in text
    text.encode()
    back = load_answers(text)
    assert back == data
    assert repr(back) == repr(data)


@quick
@given(st.text())
def test_hostile_texts_raise_nothing_but_snapshot_errors(text: str) -> None:
    """Whatever the text is."""
    feed(text)


@quick
@given(st.data())
def test_mutations_of_valid_texts_raise_nothing_but_snapshot_errors(data: st.DataObject) -> None:
    """Characters exchanged, fields exchanged, ends cut off."""
    text = data.draw(st.sampled_from(valid_texts()))
    at = data.draw(st.integers(0, len(text)))
    to = data.draw(st.integers(at, min(len(text), at + 5)))
    text = text[:at] + data.draw(st.text(max_size=5) | st.sampled_from('|~,!-"')) + text[to:]
    feed(text)


@quick
@given(st.text())
def test_answers_that_are_not_ours_raise_nothing_but_snapshot_errors(text: str) -> None:
    """JSON of any other shape included."""
    for candidate in (text, f'{{"{text}":1}}', f'{{"$":["{text}","1"]}}', f'{{"a":{text}}}'):
        try:
            assert type(load_answers(candidate)) is dict
        except SnapshotError:
            continue


def test_dates_are_no_datetimes_after_a_trip() -> None:
    """The type is kept, though a datetime is a date."""
    data = {"day": date(2025, 1, 2), "at": datetime(2025, 1, 2, 3, 4)}
    back = load_answers(dump_answers(data))
    assert [type(value) for value in back.values()] == [date, datetime]
