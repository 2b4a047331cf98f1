"""The definition: what it may say, and every fault that it is refused for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_fsm.core.machine import Machine, State, Transition
from flask_fsm.core.ways import Limits
from flask_fsm.errors import (
    DefinitionError,
    DuplicateEvent,
    DuplicateState,
    UnknownState,
    Unreachable,
)


def edges(machine: Machine) -> set[tuple[str, str]]:
    return {(edge.source, edge.target) for edge in machine.edges}


@pytest.mark.parametrize(
    ("define", "kind", "code"),
    [
        (lambda: Machine("m", [("a", "b")], states=["a", "b", "a"]), DuplicateState, None),
        (lambda: Machine("m", [("a", "b"), ("a", "b")]), DefinitionError, "taken"),
        (
            lambda: Machine("m", [Transition("a", "b", "go"), Transition("a", "c", "go")]),
            DuplicateEvent,
            None,
        ),
        (lambda: Machine("m", [("a", "b")], states=["a"]), UnknownState, None),
        (lambda: Machine("m", [("a", "b")], initial="x"), UnknownState, None),
        (lambda: Machine("m", [("a", "b")], final=["x"]), UnknownState, None),
        (lambda: Machine("m").seal(), DefinitionError, "no_initial"),
        (lambda: Machine("m", [("a", "b"), ("c", "b")]), Unreachable, None),
        (
            lambda: Machine("m", [("a", "b"), ("b", "a")], final=["b"]),
            DefinitionError,
            "final_with_way_out",
        ),
        (
            lambda: Machine("m", [("a", "b"), ("a", "c"), ("c", "c")]),
            DefinitionError,
            "dead_end",
        ),
        (lambda: Machine("m", states=["", "b"]), DefinitionError, None),
        (lambda: Machine("m", [Transition("a", "b", back="no")]), DefinitionError, None),  # type: ignore[arg-type]
        (lambda: Machine("m", [("a", "b")], reset="no"), DefinitionError, None),  # type: ignore[arg-type]
    ],
)
def test_each_fault_of_a_definition_has_its_error(define, kind, code) -> None:
    with pytest.raises(kind) as raised:
        define()
    fault = raised.value
    assert len(fault.faults) == 1
    assert fault.code == (code or kind.default_code)
    assert "'m'" in fault.message


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(DuplicateState) as raised:
        Machine(
            "m",
            [("a", "b"), ("a", "b"), Transition("a", "c", "go"), Transition("a", "d", "go")],
            states=["a", "b", "c", "d", "a", "alone"],
        )
    faults = raised.value.faults
    assert {fault.code for fault in faults} == {
        "duplicate_state",
        "taken",
        "duplicate_event",
        "unreachable",
    }
    assert all(fault.message in raised.value.message for fault in faults)


NAME = "is not a valid state name"
RULE = "is not callable"


@pytest.mark.parametrize(
    ("define", "texts"),
    [
        *(
            (
                lambda wrong=wrong: Machine("m", [("a", "b"), wrong]),
                [f"{wrong!r} is not a transition"],
            )
            for wrong in (None, 5, ("a",), ("a", "b", "c"), "ab", {"a": "b"}, b"ab")
        ),
        *(
            (lambda wrong=wrong: Machine("m", [("a", "b"), wrong]), [f"{offender!r} {NAME}"])
            for wrong, offender in [
                (("a", ["b", "c"]), ["b", "c"]),
                (("a", None), None),
                (("a", ""), ""),
                (("", "b"), ""),
                ((["a", 3], "b"), 3),
                ((["a", ["b"]], "b"), ["b"]),
            ]
        ),
        (lambda: Machine("m", [("a", "b"), (1, 2)]), [f"1 {NAME}", f"2 {NAME}"]),
        (lambda: Machine("m", [("a", "b"), ([], "b")]), ["must have at least one source"]),
        (lambda: Machine("m", [("a", "b"), (None, "b")]), [f"None {NAME}"]),
        (lambda: Machine("m", [("a", "b"), None, (1, "b")]), ["None is no", f"1 {NAME}"]),
        (lambda: Machine("m", None), ["transitions", "None"]),
        (lambda: Machine("m", "ab"), ["transitions", "'ab'"]),
        (lambda: Machine("m", states=["a", None, ["b"]]), [f"None {NAME}", f"['b'] {NAME}"]),
        (lambda: Machine("m", [("a", "b")], states=5), ["states", "5"]),
        (lambda: Machine("m", [("a", "b")], initial=["a"]), [f"['a'] {NAME}"]),
        (lambda: Machine("m", [("a", "b")], initial=""), [f"'' {NAME}"]),
        (
            lambda: Machine("m", [("a", "b")], final=[None, ["b"]]),
            [f"None {NAME}", f"['b'] {NAME}"],
        ),
        (lambda: Machine("m", [("a", "b")], final=5), ["final", "5"]),
        (lambda: Machine("m", [("a", "b")], complete="done"), ["complete", "'done'", RULE]),
        (lambda: Machine("", [("a", "b")]), ["name", "''"]),
        (lambda: Machine(None, [("a", "b")]), ["name", "None"]),
        (lambda: Machine([("a", "b")]), ["name", "[('a', 'b')]"]),
        (lambda: Transition("a", ["b"], ""), [f"['b'] {NAME}", "'' is not a valid event name"]),
        (lambda: Transition("a", "b", 5), ["5 is not a valid event name"]),
        (lambda: Transition("a", "b", when="no"), ["when", "'no'", RULE]),
        (lambda: Transition("a", "b", when=["no"]), ["when", "'no'", RULE]),
        (lambda: Transition("a", "b", when=5), ["when", "5", RULE]),
        (
            lambda: Transition("a", "b", validators=[len, 5], hooks=[None]),
            ["validators", f"5, which {RULE}", "hooks", f"None, which {RULE}"],
        ),
        (lambda: Transition("a", "b", pre_transition="no"), ["pre_transition", "'no'", RULE]),
        (lambda: State("a", validators=[5]), ["State('a')", "validators", "5", RULE]),
        (
            lambda: State(None, ["", 5], hooks=5),
            [f"None {NAME}", f"'' {NAME}", f"5 {NAME}", "hooks"],
        ),
        (lambda: State("a", 5), ["targets", "5"]),
        (lambda: Machine("m", [("a", "b")]).validator("no"), ["'no'", RULE]),
    ],
)
def test_a_malformed_definition_names_each_offender(define, texts) -> None:
    with pytest.raises(DefinitionError) as raised:
        define()
    for text in texts:
        assert text in raised.value.message
    names = sum(NAME in fault.message for fault in raised.value.faults)
    assert names == sum(NAME in text for text in texts)


def test_malformed_parts_are_reported_with_the_other_faults_and_cause_none() -> None:
    with pytest.raises(DefinitionError) as raised:
        Machine("", [None, ("a", 5), ("a", "x")], states=["a", "b"], reset="no", complete=5)  # type: ignore[arg-type, list-item]
    assert len(raised.value.faults) == 6
    for text in ("name", "None is no", "5 is no", "'x'", "reset", "complete"):
        assert text in raised.value.message


MALFORMED = [("q",), (5, "b"), None, ("b", "q", "r"), ("q", None)]


@pytest.mark.parametrize("wrong", MALFORMED)
@pytest.mark.parametrize("states", [(), ["a", "b", "x", "y"]])
def test_one_malformed_transition_hides_no_other_fault(wrong: Any, states: Any) -> None:
    """What can't be reached is told beside it, if the malformed one can't have led there."""
    with pytest.raises(DefinitionError) as caught:
        Machine("m", [("a", "b"), wrong, ("x", "y")], states=states, initial="a")
    assert [fault.target for fault in caught.value.faults] == [None, "x", "y"]


@pytest.mark.parametrize("wrong", [("a", 5), ("b",), (["b", 5], None), (["a"], ["x"])])
def test_a_malformed_transition_that_might_lead_on_makes_nothing_unreachable(wrong: Any) -> None:
    """One mistake is told once."""
    with pytest.raises(DefinitionError) as caught:
        Machine("m", [("a", "b"), wrong, ("x", "y")], initial="a", final=["b", "y", "z"])
    assert all("valid" in fault.message or "no" in fault.message for fault in caught.value.faults)
    assert not any(fault.target for fault in caught.value.faults)


@pytest.mark.parametrize("wrong", MALFORMED)
def test_a_malformed_transition_hides_no_edge_or_event_that_is_given_twice(wrong: Any) -> None:
    """Nor an end with a way out."""
    edges = [
        ("a", "b"),
        ("a", "b"),
        wrong,
        Transition("b", "c", event="e"),
        Transition("b", "d", event="e"),
        ("d", "c"),
    ]
    with pytest.raises(DefinitionError) as caught:
        Machine("m", edges, final=["c", "d"])
    assert [fault.code for fault in caught.value.faults] == [
        "definition",
        "taken",
        "duplicate_event",
        "final_with_way_out",
    ]


def test_a_malformed_initial_state_or_end_hides_no_edge_that_is_given_twice() -> None:
    """Also where the states are those of the transitions."""
    for options in ({"initial": ""}, {"final": [5]}, {"states": 5}):
        with pytest.raises(DefinitionError) as caught:
            Machine("m", [("a", "b"), ("a", "b"), ("x", "y")], **options)  # type: ignore[arg-type]
        assert [fault.code for fault in caught.value.faults] == ["definition", "taken"]


@pytest.mark.parametrize("wrong", [5, "ab", [None], [("a",)]])
def test_without_a_well_formed_transition_nothing_is_said_of_the_graph(wrong: Any) -> None:
    """Any state might be reached."""
    with pytest.raises(DefinitionError) as caught:
        Machine("m", wrong, states=["a", "b"])
    assert len(caught.value.faults) == 1


def test_unknown_states_hide_no_edge_or_event_that_is_given_twice() -> None:
    """And each of the unknown states of an edge is named."""
    with pytest.raises(DefinitionError) as caught:
        Machine(
            "m",
            [
                ("a", "b"),
                ("a", "b"),
                Transition("b", "c", event="e"),
                Transition("b", "d", event="e"),
            ],
            states=[State("a")],
        )
    assert [(fault.code, fault.target) for fault in caught.value.faults] == [
        ("unknown_state", "b"),
        ("unknown_state", "b"),
        ("taken", "b"),
        ("unknown_state", "b"),
        ("unknown_state", "c"),
        ("unknown_state", "b"),
        ("unknown_state", "d"),
        ("duplicate_event", "d"),
    ]


def test_an_edge_of_stored_data_that_is_malformed_hides_no_other_fault() -> None:
    """Written by hand, a definition has the same faults."""
    with pytest.raises(DefinitionError) as caught:
        Machine.from_dict(
            {"name": "m", "transitions": [["a", "b"], ["q"], ["x", "y"]], "initial": "a"}
        )
    assert [fault.target for fault in caught.value.faults] == [None, "x", "y"]


def test_a_lone_name_means_that_one() -> None:
    machine = Machine("m", [("start", "end")], final="end")
    assert machine.finals == {"end"}
    machine = Machine("m", states=[State("start", "end"), "end"], final="end")
    assert edges(machine) == {("start", "end")}
    assert Machine("m", states="start", final="start").names == ("start",)


def test_a_lone_rule_means_that_one() -> None:
    edge = Transition("a", "b", validators=early, hooks=mail, pre_transition=stamp)
    machine = Machine("m", [edge]).seal()
    assert machine.ways["a"]["b"].validators == (early,)
    assert machine.ways["a"]["b"].hooks == (mail,)


def test_initial_is_the_first_state_given_or_else_the_first_source() -> None:
    assert Machine("m", [("*", "x"), ("b", "a"), ("a", "c"), ("x", "b")]).initial == "b"
    assert Machine("m", [("b", "a"), ("a", "b"), ("a", "c")], states=["a", "b", "c"]).initial == "a"


def test_finals_are_by_default_the_states_with_no_way_out() -> None:
    assert Machine("m", [("a", "b"), ("a", "c")]).finals == {"b", "c"}


def test_a_wildcard_means_every_state_but_the_finals_and_the_target() -> None:
    machine = Machine("m", [("a", "b"), ("b", "done"), ("*", "help"), ("help", "a")])
    assert edges(machine) == {
        ("a", "b"),
        ("b", "done"),
        ("help", "a"),
        ("a", "help"),
        ("b", "help"),
    }
    assert machine.finals == {"done"}


def test_an_edge_of_its_own_wins_over_a_wildcard() -> None:
    own = Transition("a", "b", "own")
    machine = Machine("m", [Transition("*", "b", "any"), own, ("a", "c"), ("c", "d")])
    assert machine.transition("a", "b") is own
    assert machine.ways["c"]["b"].event == "any"


def test_a_list_of_sources_makes_an_edge_from_each() -> None:
    machine = Machine("m", [("a", "b"), (["a", "b"], "c")])
    assert edges(machine) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_a_state_may_lead_to_itself() -> None:
    flow = Machine("m", [("a", "a"), ("a", "b")]).flow()
    flow.transition("a", {"x": 1})
    assert flow.path == ["a"]
    assert flow.drafts == {"a": {"x": 1}}
    assert flow.rev == 1


def test_targets_of_states_are_edges_and_none_leads_nowhere() -> None:
    machine = Machine("m", states=[State("a", ["b", "c"]), State("b", []), State("c", ["a"])])
    assert edges(machine) == {("a", "b"), ("a", "c"), ("c", "a")}
    assert machine.finals == {"b"}


def test_without_transitions_a_state_without_targets_leads_anywhere() -> None:
    machine = Machine("m", states=["a", State("b", ["a"]), State("end", [])])
    assert edges(machine) == {("a", "a"), ("a", "b"), ("a", "end"), ("b", "a")}


def test_with_transitions_a_state_without_targets_adds_none() -> None:
    assert edges(Machine("m", [("a", "b")], states=["a", "b"])) == {("a", "b")}


def test_a_machine_is_immutable() -> None:
    machine = Machine("m", [("a", "b")])
    with pytest.raises(AttributeError, match="immutable"):
        machine.initial = "b"
    with pytest.raises(TypeError):
        machine.states["c"] = State("c")  # type: ignore[index]


def paid(flow):
    """Pay first."""
    return False


def stamp(flow, data):
    data["stamped"] = True


def positive(flow, data):
    raise ValueError("not positive")


def early(flow, data):
    raise ValueError("early")


def mail(flow, result):
    pass


def shop() -> Machine:
    machine = Machine(
        "shop",
        [
            Transition("a", "b", "go", when=paid, visit=True, back="discard", hooks=[mail]),
            Transition(["a", "b"], "c", validators=[early]),
            Transition("*", "help"),
            ("help", "a"),
        ],
        states=["a", "b", State("c", guarded=False), "help"],
        repeat=False,
    )
    machine.states["c"].validator(positive, order=2)
    machine.pre_transition(stamp)
    return machine


def test_a_definition_survives_json_with_its_rules() -> None:
    machine = shop()
    data = json.loads(json.dumps(machine.to_dict()))
    again = Machine.from_dict(data, rules=[paid, stamp, positive, early, mail])
    assert again.to_dict() == machine.to_dict()
    assert again.digest == machine.digest
    machine.seal()
    again.seal()
    for one, other in zip(machine.edges, again.edges, strict=True):
        for name in ("source", "target", "event", "visit", "back", "guards", "validators", "hooks"):
            assert getattr(one, name) == getattr(other, name)
    assert again.ways["a"]["c"].validators == (early, positive)


def test_from_dict_takes_the_same_shape_written_by_hand() -> None:
    machine = Machine.from_dict(
        {"name": "m", "transitions": [["a", "b"], {"source": "b", "target": "c", "when": "ok"}]},
        rules={"ok": paid},
    ).seal()
    assert edges(machine) == {("a", "b"), ("b", "c")}
    assert machine.ways["b"]["c"].guards == (paid,)


def test_from_dict_reports_rules_that_are_missing_with_all_other_faults() -> None:
    data = {"name": "m", "transitions": [{"source": "a", "target": "b", "when": ["x", "y"]}]}
    with pytest.raises(DefinitionError) as raised:
        Machine.from_dict({**data, "initial": "z"})
    assert len(raised.value.faults) == 3


@pytest.mark.parametrize(
    "data", [{}, {"name": "m", "transitions": [{}]}, {"name": "m", "states": [1]}]
)
def test_from_dict_refuses_data_of_another_shape(data) -> None:
    with pytest.raises(DefinitionError):
        Machine.from_dict(data)


def test_from_dict_refuses_unknown_keys_and_names_them_all() -> None:
    data = {
        "name": "m",
        "finals": ["b"],
        "states": [{"name": "a", "target": ["b"]}, "b"],
        "transitions": [{"source": "a", "target": "b", "guard": "ok"}],
    }
    with pytest.raises(DefinitionError) as raised:
        Machine.from_dict(data)
    assert len(raised.value.faults) == 3
    for key in ("'finals'", "'target'", "'guard'"):
        assert key in raised.value.message


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (
            {
                "states": [{"name": 5}],
                "transitions": [["a", "b", "c"], {"source": "a", "target": 6}],
            },
            ["5 is not a valid", "'c'] is not a transition", "6 is not a valid"],
        ),
        ({"transitions": [["a", "b"]], "when": 5}, ["shape"]),
        ({"transitions": [["a", "b"]], "when": [["ok", "first"]]}, ["'first'"]),
        ({"transitions": [["a", "b"]], "hooks": ["five"]}, ["'five'", "not callable"]),
        ({"transitions": [["a", "b"]], "complete": ["ok"]}, ["shape"]),
        ({"transitions": "ab"}, ["transitions"]),
    ],
)
def test_from_dict_names_what_is_malformed(data, texts) -> None:
    with pytest.raises(DefinitionError) as raised:
        Machine.from_dict({"name": "m", **data}, rules={"ok": paid, "five": 5})  # type: ignore[dict-item]
    for text in texts:
        assert text in raised.value.message


def test_a_definition_survives_json_whatever_its_names_are() -> None:
    machine = Machine("m", [Transition("a", "preserve", "preserve"), ("preserve", "end")])
    assert Machine.from_dict(machine.to_dict()).events == ("preserve",)


def test_to_dict_refuses_a_rule_without_a_name() -> None:
    with pytest.raises(DefinitionError, match="lambda"):
        Machine("m", [Transition("a", "b", when=lambda flow: True)]).to_dict()


def test_a_narrowed_machine_has_fewer_edges_and_the_same_rules() -> None:
    machine = shop()
    narrow = machine.restricted(Limits(accept={"help": set()}), lambda rule: rule)
    assert edges(narrow) == {("a", "b"), ("a", "c"), ("b", "c"), ("help", "a")}
    assert narrow.ways["a"]["b"].guards == (paid,)
    assert narrow.digest != machine.digest


# -- all faults at once ---------------------------------------------------------------------------


def faults_of(*arguments: Any, **options: Any) -> list[tuple[str, str | None]]:
    """The faults of a definition, by their codes and what they are about."""
    with pytest.raises(DefinitionError) as caught:
        Machine("m", *arguments, **options)
    return [(fault.code, fault.target or fault.source) for fault in caught.value.faults]


def test_unknown_names_hide_no_fault_of_the_graph() -> None:
    """What can't be reached, and what leads to no end, is named beside them."""
    edges = [
        ("a", "b"),
        ("b", "nowhere"),
        ("c", "d"),
        ("a", "x"),
        ("x", "y"),
        ("y", "x"),
    ]
    states = ["a", "b", "c", "d", "x", "y"]
    assert faults_of(edges, states=states, final=["d"]) == [
        ("unknown_state", "nowhere"),
        ("unreachable", "c"),
        ("unreachable", "d"),
        ("dead_end", "x"),
        ("dead_end", "y"),
    ]


def test_what_an_unknown_name_might_lead_to_is_no_fault_of_its_own() -> None:
    """A typo is one fault, and not three."""
    states = ["a", "b", "c", "d"]
    edges = [("a", "typo"), ("typo", "c"), ("a", "b"), ("b", "d"), ("c", "d")]
    assert faults_of(edges, states=states) == [("unknown_state", "typo")] * 2
    assert faults_of([("a", "typo")], states=["a"]) == [("unknown_state", "typo")]


def test_an_unknown_initial_or_final_state_hides_no_other_fault() -> None:
    """An end that is not there ends nothing."""
    assert faults_of([("a", "b"), ("c", "d")], initial="nowhere") == [("unknown_state", None)]
    found = faults_of([("a", "b"), ("c", "b")], initial="a", final=["b", "nowhere"])
    assert found == [("unknown_state", None), ("unreachable", "c")]


def test_unknown_targets_of_states_hide_no_fault_of_the_graph() -> None:
    """As those of transitions."""
    found = faults_of(states=[State("a", "typo"), State("b", "c"), State("c", [])], final=["c"])
    assert found == [("unknown_state", "typo"), ("unreachable", "b"), ("unreachable", "c")]


def test_faults_of_events_and_of_the_graph_are_named_together() -> None:
    """Both are found when a machine that was built by register_state is first used."""
    machine = Machine("m", [Transition("a", "b", event="go")])
    machine.states["a"].event("go")(lambda flow, data: None)
    machine.register_state(State("lonely", "b"))
    with pytest.raises(DefinitionError) as caught:
        machine.flow()
    assert {fault.code for fault in caught.value.faults} == {"unreachable", "duplicate_event"}
