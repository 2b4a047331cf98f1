"""Guards, validators, pre_transition rules and hooks."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from flask_fsm.core.flow import Flow
from flask_fsm.core.machine import Machine, State, Transition
from flask_fsm.core.rules import guard, hook, pre_transition, validator
from flask_fsm.errors import (
    DefinitionError,
    FSMError,
    GuardRefused,
    InvalidData,
    InvalidTransition,
    RuleError,
    ValidationFailed,
)


def make(**rules) -> SimpleNamespace:
    """A machine a -> b -> c whose first edge has these rules."""
    edge = Transition("a", "b", **rules)
    b = State("b")
    machine = Machine("m", [edge, ("b", "c")], states=["a", b, "c"])
    return SimpleNamespace(machine=machine, edge=edge, b=b)


def test_rules_run_by_order_and_ties_run_machine_state_edge() -> None:
    made, ran = make(), []

    def note(name):
        return lambda flow, data: ran.append(name)

    made.edge.validator(note("edge"))
    made.b.validator(note("state"))
    made.machine.validator(note("machine"))
    made.b.validator(order=-1)(note("first"))
    validator(made.machine, order=9)(note("last"))
    made.b.validator(note("state, second"))
    made.machine.flow().transition("b")
    assert ran == ["first", "machine", "state", "state, second", "edge", "last"]


def test_rules_can_be_registered_from_another_module() -> None:
    made, ran = make(), []

    @pre_transition(made.b)
    def one(flow, data):
        ran.append("pre_transition")

    @guard(made.edge)
    def two(flow):
        ran.append("guard")
        return True

    @validator(made.machine)
    def three(flow, data):
        ran.append("validator")

    @hook(made.b)
    def four(flow, result):
        ran.append(f"hook at {flow.current}")

    made.machine.flow().transition("b")
    assert ran == ["pre_transition", "guard", "validator", "hook at b"]


def test_the_edge_is_looked_for_before_any_rule_runs() -> None:
    ran: list[str] = []
    made = make(pre_transition=[lambda flow, data: ran.append("ran")])
    made.machine.pre_transition(lambda flow, data: ran.append("ran"))
    with pytest.raises(InvalidTransition):
        made.machine.flow().transition("c")
    assert not ran


def test_what_a_pre_transition_adds_is_seen_by_guards_and_validators_and_kept() -> None:
    seen = []
    made = make(
        pre_transition=[lambda flow, data: data.update(extra=1)],
        when=lambda flow: seen.append(flow.data) or True,
        validators=[lambda flow, data: seen.append(dict(data))],
    )
    flow = made.machine.flow()
    given = {"x": 0}
    flow.transition("b", given)
    assert seen == [{"a": {"x": 0, "extra": 1}}, {"x": 0, "extra": 1}]
    assert flow.data == {"a": {"x": 0, "extra": 1}}
    assert given == {"x": 0}


def test_a_refusal_leaves_everything_as_it_was() -> None:
    made = make(pre_transition=[lambda flow, data: data.update(y=1)], when=lambda flow: False)
    flow = made.machine.flow()
    before = flow.snapshot
    with pytest.raises(GuardRefused):
        flow.transition("b", {"x": 1})
    assert flow.snapshot is not None
    assert flow.snapshot == before
    assert flow.data == {}


def test_late_registration_is_an_error() -> None:
    made = make()
    made.machine.flow()
    for owner in (made.machine, made.b, made.edge):
        for register in (owner.guard, owner.validator, owner.pre_transition, owner.hook):
            with pytest.raises(DefinitionError, match="already in use"):
                register(lambda *_: True)


def test_an_async_rule_is_refused_without_an_app() -> None:
    async def later(flow):
        return True

    with pytest.raises(DefinitionError, match="async"):
        make(when=later).machine.flow()


def test_a_refusal_names_the_reasons_of_all_guards() -> None:
    def paid(flow):
        """Pay first."""

    def shipped(flow):
        return False

    flow = make(when=[paid, lambda flow: True, shipped]).machine.flow()
    with pytest.raises(GuardRefused) as refused:
        flow.transition("b")
    error = refused.value
    assert error.reasons[0].text == error.message == "Pay first."
    assert "shipped" in error.reasons[1].text
    assert len(error.reasons) == 2
    assert (error.flow, error.source, error.target) == (flow.id, "a", "b")
    assert error.allowed == ("b",)


@pytest.mark.parametrize("enriched", [False, True])
def test_a_guard_that_raises_refuses_and_is_logged(enriched, caplog) -> None:
    def broken(flow):
        raise KeyError("payment")

    made = make(when=broken, pre_transition=[lambda flow, data: None] if enriched else [])
    flow = made.machine.flow()
    with caplog.at_level(logging.ERROR, "flask_fsm"), pytest.raises(GuardRefused) as refused:
        flow.transition("b")
    assert refused.value.code == "guard_raised"
    assert "broken" in caplog.text
    assert flow.current == "a"


@pytest.mark.parametrize("enriched", [False, True])
def test_a_guard_may_give_a_reason_by_raising_the_refusal_itself(enriched, caplog) -> None:
    def closed(flow):
        raise GuardRefused("We are closed.")

    made = make(when=closed, pre_transition=[lambda flow, data: None] if enriched else [])
    with pytest.raises(GuardRefused, match=r"We are closed\.") as refused:
        made.machine.flow().transition("b")
    assert refused.value.target == "b"
    assert not caplog.text


def test_validators_report_all_their_messages_by_field() -> None:
    def one(flow, data):
        raise ValidationFailed({"name": "too short", "age": ["odd", "low"]})

    def two(flow, data):
        raise ValidationFailed("no digits", field="name")

    def three(flow, data):
        raise ValueError("all wrong")

    flow = make(validators=[one, two, three]).machine.flow()
    with pytest.raises(ValidationFailed) as refused:
        flow.transition("b", {})
    error = refused.value
    assert error.fields == {"name": ["too short", "no digits"], "age": ["odd", "low"]}
    assert error.messages == ["all wrong"]
    assert len(error.reasons) == 5
    assert (error.source, error.target, flow.rev) == ("a", "b", 0)


def test_a_validator_that_crashes_is_no_refusal() -> None:
    def crashing(flow, data):
        return 1 / 0

    with pytest.raises(RuleError, match="crashing") as crashed:
        make(validators=[crashing]).machine.flow().transition("b")
    assert isinstance(crashed.value.__cause__, ZeroDivisionError)


def test_a_pre_transition_that_crashes_stops_the_transition() -> None:
    def crashing(flow, data):
        raise ValueError

    with pytest.raises(RuleError, match="crashing"):
        make(pre_transition=[crashing]).machine.flow().transition("b")


def test_a_hook_that_fails_is_logged_and_undoes_nothing(caplog) -> None:
    ran = []

    def failing(flow, result):
        raise RuntimeError("mail server")

    flow = make(hooks=[failing, lambda flow, result: ran.append(result.target)]).machine.flow()
    result = flow.transition("b", {"x": 1})
    assert (flow.current, result.target, ran) == ("b", "b", ["b"])
    assert "failing" in caplog.text
    assert "mail server" in caplog.text


def test_a_rule_must_not_move_the_flow_it_judges() -> None:
    made = make(validators=[lambda flow, data: flow.transition("b")])
    with pytest.raises(FSMError) as raised:
        made.machine.flow().transition("b")
    assert raised.value.code == "moved_by_rule"


def test_a_hook_may_move_the_flow_on() -> None:
    made = make(hooks=[lambda flow, result: flow.transition("c")])
    flow = made.machine.flow()
    flow.transition("b")
    assert flow.path == ["a", "b", "c"]


def test_data_that_cannot_be_kept_is_refused_after_the_rules() -> None:
    ran = []
    flow = make(validators=[lambda flow, data: ran.append("ran")]).machine.flow()
    with pytest.raises(InvalidData) as refused:
        flow.transition("b", {"file": object()})
    assert list(refused.value.fields) == ["file"]
    assert (ran, flow.rev) == (["ran"], 0)


def test_why_not_lists_reasons_and_changes_nothing() -> None:
    ran = []

    def no(flow):
        """No."""
        return False

    def bad(flow, data):
        ran.append(data)
        raise ValidationFailed("bad", field="x")

    made = make(when=no, validators=[bad], pre_transition=[lambda flow, data: ran.append("pre")])
    flow = made.machine.flow()
    before = flow.snapshot
    assert [reason.code for reason in flow.why_not("b")] == ["guard"]
    assert [reason.code for reason in flow.why_not("b", {})] == ["guard", "validation"]
    assert [reason.code for reason in flow.why_not("c")] == ["no_edge"]
    assert [reason.code for reason in flow.why_not("nowhere")] == ["unknown_state"]
    assert not flow.can_transition("b")
    assert ran == [{}]
    assert flow.snapshot == before


def test_rules_share_things_through_the_context() -> None:
    made = make(when=lambda flow: flow.context["user"] == "ada")
    assert made.machine.flow(context={"user": "ada"}).can_transition("b")
    assert not made.machine.flow(context={"user": "bob"}).can_transition("b")


def test_a_guard_that_names_a_code_of_another_error_still_is_a_guard_that_refused() -> None:
    """A guard's refusal is GuardRefused, whatever code the guard gives."""

    def closed(flow: Flow) -> bool:
        raise GuardRefused("The shop is closed.", code="finished")

    flow = Machine("m", [Transition("a", "b", when=closed)]).flow()
    with pytest.raises(GuardRefused, match="closed") as caught:
        flow.transition("b")
    assert (caught.value.code, caught.value.status, caught.value.target) == ("finished", 409, "b")
