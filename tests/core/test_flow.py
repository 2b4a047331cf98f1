"""A run of a machine: its path, edits, loops, drafts, and how it ends."""

from __future__ import annotations

import itertools

import pytest

from flask_fsm.core.flow import Flow, blank, successor
from flask_fsm.core.machine import Machine, Transition
from flask_fsm.core.snapshot import Snapshot
from flask_fsm.errors import (
    DuplicateTransition,
    FlowFinished,
    GuardRefused,
    InvalidTransition,
    SkippedTransition,
    StaleFlow,
    UnknownTarget,
)

from .clock import START, Clock


def checkout(**options) -> Machine:
    return Machine(
        "checkout",
        [
            ("cart", "address"),
            ("address", "payment"),
            Transition("payment", "review", when=lambda flow: flow.data["payment"]["ok"]),
            ("review", "address"),
            ("review", "done"),
        ],
        **options,
    )


def at_review() -> Flow:
    flow = checkout().flow(clock=Clock())
    flow.transition("address", {"n": 1})
    flow.transition("payment", {"street": "Long"})
    flow.transition("review", {"ok": True})
    return flow


def poc(**options) -> Machine:
    """The machine of the docstring of the proof of concept."""
    edges = ["ab", "bc", "bd", "db", "ce", "cf", "ed", "fa"]
    return Machine("poc", [(a.upper(), b.upper()) for a, b in edges], **options)


def test_the_machine_of_the_proof_of_concept_walks_and_skips_nothing() -> None:
    flow = poc().flow(clock=Clock())
    with pytest.raises(InvalidTransition) as refused:
        flow.transition("C")
    assert refused.value.allowed == ("B",)
    for state in "BCEDBCFA":
        flow.transition(state)
    assert flow.current == "A"
    assert flow.path == ["A"]
    assert [entry.target for entry in flow.history] == list("BCEDBCFA")
    assert ("E", "D") in flow.history
    assert ("B", "D") not in flow.history
    assert flow.history[0] == ("A", "B", None, START, 1)
    assert not flow.finished


def test_the_proof_of_concept_takes_each_edge_once_without_repeat() -> None:
    flow = poc(repeat=False).flow()
    for state in "BCED":
        flow.transition(state)
    flow.transition("B")
    with pytest.raises(DuplicateTransition) as refused:
        flow.transition("C")
    assert refused.value.code == "taken"
    flow.transition("D")
    assert flow.finished, "the only way out of D has been taken"
    with pytest.raises(FlowFinished):
        flow.transition("B")


def test_a_step_decides_and_changes_nothing() -> None:
    flow = checkout().flow()
    before = flow.snapshot
    result = flow.step("address", {"n": 1})
    assert flow.snapshot is not result.snapshot
    assert flow.snapshot == before == result.previous
    assert (result.source, result.target, result.rev, result.data) == (
        "cart",
        "address",
        1,
        {"n": 1},
    )
    flow.apply(result)
    assert flow.snapshot == result.snapshot


def test_a_decided_step_is_stale_once_the_flow_has_moved() -> None:
    flow = checkout().flow()
    result = flow.step("address")
    flow.transition("address")
    with pytest.raises(StaleFlow):
        flow.apply(result)


def test_an_unknown_target_is_another_error_than_a_missing_edge() -> None:
    flow = checkout().flow()
    with pytest.raises(UnknownTarget):
        flow.transition("nowhere")
    with pytest.raises(InvalidTransition, match="no edge"):
        flow.transition("done")


def test_data_holds_the_answers_of_the_pages_before_the_current_one() -> None:
    flow = at_review()
    assert flow.data == {"cart": {"n": 1}, "address": {"street": "Long"}, "payment": {"ok": True}}
    assert flow.drafts == {}
    assert flow.answers("address") == {"street": "Long"}
    assert flow.answers("review") is None


def test_an_edit_cuts_the_path_and_keeps_the_rest_as_drafts() -> None:
    flow = at_review()
    result = flow.transition("payment", {"street": "Short"}, source="address")
    assert (result.entry.source, result.entry.target, flow.rev) == ("address", "payment", 4)
    assert flow.path == ["cart", "address", "payment"]
    assert flow.data == {"cart": {"n": 1}, "address": {"street": "Short"}}
    assert flow.drafts == {"payment": {"ok": True}}
    assert flow.answers("payment") == {"ok": True}


def test_a_loop_cuts_the_path_and_keeps_its_answers_as_drafts() -> None:
    flow = at_review()
    flow.transition("address")
    assert flow.path == ["cart", "address"]
    assert flow.data == {"cart": {"n": 1}}
    assert flow.drafts == {"address": {"street": "Long"}, "payment": {"ok": True}}


def test_guards_do_not_see_drafts() -> None:
    flow = at_review()
    flow.transition("address")
    flow.transition("payment", {"street": "Long"})
    with pytest.raises(GuardRefused):
        flow.transition("review")
    flow.transition("review", {"ok": True})
    assert flow.drafts == {}


def test_drafts_are_dropped_at_the_end() -> None:
    flow = at_review()
    flow.transition("address")
    flow.transition("payment")
    flow.transition("review", {"ok": True})
    assert flow.drafts
    flow.transition("done")
    assert flow.finished
    assert flow.drafts == {}
    assert flow.is_open("done")
    assert not flow.is_open("review")


def test_fast_forward_walks_the_old_path_on_in_the_commit_of_the_edit() -> None:
    flow = at_review()
    flow.transition("payment", {"street": "Short"}, source="address")
    results = flow.fast_forward()
    assert [(r.source, r.target, r.rev) for r in results] == [("payment", "review", 4)]
    assert flow.path == ["cart", "address", "payment", "review"]
    assert flow.data["payment"] == {"ok": True}
    assert flow.drafts == {}
    assert flow.rev == flow.history[-1].rev == flow.history[-2].rev == 4
    assert flow.fast_forward() == []


def test_fast_forward_stops_where_a_guard_no_longer_accepts() -> None:
    machine = Machine(
        "m",
        [
            ("a", "b"),
            Transition("b", "c", when=lambda flow: flow.data["a"]["x"] == 1),
            ("c", "d"),
        ],
    )
    flow = machine.flow()
    flow.transition("b", {"x": 1})
    flow.transition("c", {"y": 2})
    flow.transition("b", {"x": 2}, source="a")
    assert flow.fast_forward() == []
    assert flow.current == "b"
    assert flow.drafts == {"b": {"y": 2}}


def test_fast_forward_does_nothing_after_a_plain_step() -> None:
    flow = at_review()
    flow.transition("address")
    assert flow.fast_forward() == []


def test_url_arguments_stay_with_the_page_of_the_path() -> None:
    flow = checkout().flow()
    flow.apply(flow.step("address", args='{"id":7}'))
    flow.transition("payment")
    assert flow.args("address") == '{"id":7}'
    assert flow.path.args("address") == {"id": 7}
    assert flow.path.args("cart") == {}
    assert flow.args("review") is None
    with pytest.raises(KeyError, match="'review' is not on this path: cart -> address -> payment"):
        flow.path.args("review")


@pytest.mark.parametrize(
    ("back", "open_pages"), [("preserve", "abcd"), ("discard", "acd"), ("invalidate", "cd")]
)
def test_the_back_policy_decides_which_pages_stay_open(back, open_pages) -> None:
    edges = [("a", "b"), Transition("b", "c", back=back), ("c", "d"), ("d", "e")]
    machine = Machine("m", edges)
    flow = machine.flow()
    for state in "bcd":
        flow.transition(state, {"x": state})
    for each in (flow, machine.flow(Snapshot.decode(flow.snapshot.encode(machine), machine))):
        assert [state for state in "abcde" if each.is_open(state)] == list(open_pages)
        assert each.data == {"a": {"x": "b"}, "b": {"x": "c"}, "c": {"x": "d"}}
    if back != "preserve":
        with pytest.raises(StaleFlow) as refused:
            flow.transition("c", source="b")
        assert refused.value.code == "closed"
        assert [reason.code for reason in flow.why_not("c", source="b")] == ["closed"]


def test_a_loop_does_not_open_what_was_closed() -> None:
    edges = [("a", "b"), ("b", "c"), Transition("c", "d", back="invalidate"), ("d", "b")]
    machine = Machine("m", [*edges, ("d", "e")])
    flow = machine.flow()
    for state in "bcdb":
        flow.transition(state)
    for each in (flow, machine.flow(Snapshot.decode(flow.snapshot.encode(machine), machine))):
        assert each.path == ["a", "b"]
        assert not each.is_open("a")


def test_a_page_that_is_not_on_the_path_cannot_be_edited() -> None:
    flow = checkout().flow()
    with pytest.raises(StaleFlow) as refused:
        flow.transition("review", source="payment")
    assert refused.value.code == "not_on_path"


def test_an_edit_gives_back_the_edges_it_cuts() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]
    flow = Machine("m", edges, repeat=False).flow()
    for state in "bcd":
        flow.transition(state)
    assert flow.can_transition("c", source="b")
    flow.transition("c", source="b")
    flow.transition("d")
    flow.transition("e")
    assert flow.finished


def test_a_run_with_no_untaken_way_on_is_exhausted() -> None:
    flow = Machine("m", [("a", "b"), ("b", "a")], repeat=False).flow()
    flow.transition("b")
    flow.transition("a")
    assert flow.finished


def test_ordered_wants_every_transition_declared_before() -> None:
    flow = Machine("m", [("a", "b"), ("b", "a"), ("b", "c")], ordered=True).flow()
    flow.transition("b")
    assert flow.has_not_skipped("a")
    assert not flow.has_not_skipped("c")
    with pytest.raises(SkippedTransition, match=r"'b' -> 'a' comes before"):
        flow.transition("c")
    flow.transition("a")
    flow.transition("b")
    flow.transition("c")
    assert flow.finished


def test_has_not_skipped_answers_for_a_machine_that_is_not_ordered() -> None:
    flow = checkout().flow()
    flow.transition("address")
    assert flow.has_not_skipped("payment")
    assert not flow.has_not_skipped("review", source="payment")
    assert not flow.has_not_skipped("done")
    assert not flow.has_not_skipped("done", source="nowhere")


def test_complete_decides_whether_arriving_ends_the_run() -> None:
    machine = checkout(complete=lambda state: state == "review")
    flow = machine.flow()
    flow.transition("address")
    flow.transition("payment")
    assert not flow.finished
    assert flow.transition("review", {"ok": True}).finished
    with pytest.raises(FlowFinished):
        flow.transition("done")
    assert [reason.code for reason in flow.why_not("done")] == ["finished"]


def test_reset_begins_a_run_with_the_id_that_follows() -> None:
    flow = at_review()
    id = flow.id
    flow.reset()
    assert (flow.id, flow.rev, flow.current) == (successor(id), 0, "cart")
    assert flow.data == flow.drafts == {}
    assert len(flow.history) == 0
    assert successor(successor(id)) == f"{id}~2"


def test_events_lead_along_the_edge_that_has_their_name() -> None:
    flow = Machine("light", [Transition("red", "green", "go"), ("green", "red")]).flow()
    with pytest.raises(InvalidTransition) as refused:
        flow.send("stop")
    assert refused.value.allowed == ("green",)
    result = flow.send("go")
    assert (flow.current, result.event, flow.history[0].event) == ("green", "go", "go")


def test_a_clock_that_jumps_back_does_not_turn_the_history_around() -> None:
    clock = Clock(START + 0.9)
    flow = checkout().flow(clock=clock)
    clock.now = START - 5_000
    flow.transition("address")
    clock.now = START + 2.5
    flow.transition("payment")
    assert [entry.at for entry in flow.history] == [START, START + 2]
    assert flow.snapshot.started == START
    assert flow.snapshot.updated == START + 2


def test_progress_names_pages_done_current_and_ahead() -> None:
    machine = Machine("m", [("a", "b"), ("b", "c"), ("c", "d")])
    flow = machine.flow()
    flow.transition("b")
    assert flow.progress() == (("a",), "b", ("c", "d"), False)
    assert flow.progress().pages == ("a", "b", "c", "d")
    assert flow.progress("a") == ((), "a", ("b", "c", "d"), False)


def test_progress_is_open_ended_until_answers_decide_the_way() -> None:
    machine = Machine(
        "m",
        [
            ("a", "b"),
            Transition("b", "short", when=lambda flow: flow.data["b"]["fast"]),
            Transition("b", "long", when=lambda flow: not flow.data["b"]["fast"]),
            (["short", "long"], "end"),
        ],
    )
    flow = machine.flow()
    flow.transition("b")
    assert flow.progress() == (("a",), "b", (), True)
    flow.transition("short", {"fast": True})
    assert flow.progress("b") == (("a",), "b", ("short", "end"), False)
    flow.transition("b", source="a")
    assert flow.drafts == {"b": {"fast": True}}
    assert flow.progress() == (("a",), "b", ("short", "end"), False)
    assert flow.data == {}


def test_a_long_path_is_handled_like_a_short_one() -> None:
    """Its nodes are linked: nothing recurses over them."""
    names = [f"s{number}" for number in range(2_000)]
    machine = Machine("m", list(itertools.pairwise(names)))
    flow = machine.flow()
    for name in names[1:-1]:
        flow.transition(name, {"x": 1})
    snapshot = Snapshot.decode(flow.snapshot.encode(machine), machine)
    assert snapshot == flow.snapshot
    assert len(snapshot.path) == 1_999
    flow.transition("s1", source="s0")
    assert len(flow.drafts) == 1_997
    assert len(flow.fast_forward()) == 1_997


def test_a_blank_run_has_an_id_of_128_random_bits() -> None:
    machine = checkout()
    ids = {blank(machine, START).id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(id) == 22 for id in ids)
