"""Guards, validators, pre_transition rules and hooks."""

from __future__ import annotations

import logging
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

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

DEFAULT = "These answers were not accepted."


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


def test_a_refusal_names_the_reasons_of_all_guards(caplog) -> None:
    def paid(flow):
        """Pay first."""

    def shipped(flow):
        return False

    flow = make(when=[paid, lambda flow: True, shipped]).machine.flow()
    with caplog.at_level(logging.INFO, "flask_fsm"), pytest.raises(GuardRefused) as refused:
        flow.transition("b")
    error = refused.value
    assert error.reasons[0].text == error.message == "Pay first."
    assert error.reasons[1].text == "This step is not possible with the answers so far."
    assert "shipped" in caplog.text  # the name is the developer's
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
        raise KeyError

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


# -- a rule that raises refuses -------------------------------------------------------------------

REFUSALS = [
    ValidationFailed,
    ValidationFailed(),
    ValidationFailed(""),
    ValidationFailed({}),
    ValidationFailed([]),
    ValidationFailed([""]),
    ValidationFailed(()),
    ValidationFailed({"age": ""}),
    ValidationFailed({"age": []}),
    ValidationFailed("", field="age"),
    ValidationFailed([], field="age"),
    ValidationFailed(fields={"age": ()}),
    ValidationFailed(messages=[]),
    ValidationFailed(messages=[""]),
    InvalidData(),
    ValueError,
    ValueError(""),
    ValueError("", ""),
    GuardRefused,
    GuardRefused(""),
]


@pytest.mark.parametrize("kind", ["validators", "pre_transition"])
@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
def test_a_rule_that_raises_without_a_text_refuses_and_says_so(kind: str, refusal: Any) -> None:
    """Whatever it raises it with; the visitor is told something, and the flow stays."""

    def rule(flow: Flow, data: dict[str, Any]) -> None:
        raise refusal

    flow = make(**{kind: [rule]}).machine.flow()
    with pytest.raises((ValidationFailed, GuardRefused)) as caught:
        flow.transition("b", {"age": 3})
    assert flow.rev == 0
    assert str(caught.value)
    assert all(reason.text for reason in caught.value.reasons)
    if isinstance(caught.value, ValidationFailed):
        of_fields = [text for texts in caught.value.fields.values() for text in texts]
        said = [*caught.value.messages, *of_fields]
        assert said
        assert all(said)
    if kind == "validators":
        assert flow.why_not("b", {"age": 3})


def test_a_field_that_is_refused_without_a_text_is_named() -> None:
    """The form shows it there."""
    error = ValidationFailed({"age": [], "name": ["Tell us your name.", ""]})
    assert error.fields == {
        "age": ["These answers were not accepted."],
        "name": ["Tell us your name."],
    }


def test_several_texts_are_several_messages() -> None:
    """A list is not shown as Python writes it."""
    error = ValidationFailed(["Too young.", "Too late."])
    assert (error.messages, str(error)) == (["Too young.", "Too late."], "Too young. Too late.")


def test_other_validators_are_heard_beside_one_without_a_text() -> None:
    """And a text of theirs doesn't hide that it refused."""

    def bare(flow: Flow, data: dict[str, Any]) -> None:
        raise ValidationFailed

    def named(flow: Flow, data: dict[str, Any]) -> None:
        raise ValidationFailed("Too young.", field="age")

    flow = make(validators=[bare, named]).machine.flow()
    with pytest.raises(ValidationFailed) as caught:
        flow.transition("b", {"age": 3})
    assert caught.value.messages == ["These answers were not accepted."]
    assert caught.value.fields == {"age": ["Too young."]}


def test_a_value_error_of_a_pre_transition_refuses_with_its_text() -> None:
    """As one of a validator does."""

    def rule(flow: Flow, data: dict[str, Any]) -> None:
        raise ValueError("There is no such street.")

    flow = make(pre_transition=[rule]).machine.flow()
    with pytest.raises(ValidationFailed) as caught:
        flow.transition("b", {"street": "x"})
    assert caught.value.messages == ["There is no such street."]
    assert (caught.value.status, caught.value.source, caught.value.target) == (422, "a", "b")
    assert flow.rev == 0


@pytest.mark.parametrize("kind", ["validators", "pre_transition"])
@pytest.mark.parametrize(
    ("refusal", "messages", "fields"),
    [
        (ValidationFailed(None), [DEFAULT], {}),
        (ValidationFailed([None, ""]), [DEFAULT], {}),
        (ValidationFailed({"x": None}), [], {"x": [DEFAULT]}),
        (ValidationFailed(None, field="x"), [], {"x": [DEFAULT]}),
        (ValidationFailed({"x": {"y": ["No."]}}), [], {"x": ["No."]}),
        (ValueError(None), [DEFAULT], {}),
        (ValueError([]), [DEFAULT], {}),
        (ValueError({}), [DEFAULT], {}),
        (ValueError({"x": "y"}), [], {"x": ["y"]}),
        (ValueError({"x": [None]}), [], {"x": [DEFAULT]}),
        (ValueError(["One.", ("Two.",)]), ["One.", "Two."], {}),
        (ValueError(b"No."), ["No."], {}),
    ],
)
def test_visitors_never_read_how_python_writes_what_a_rule_raised(
    kind: str, refusal: Exception, messages: list[str], fields: dict[str, list[str]]
) -> None:
    """What is no text is a sentence of ours, and texts within lists and fields are found."""

    def refuse(flow: Flow, data: Any) -> None:
        raise refusal

    with pytest.raises(ValidationFailed) as caught:
        make(**{kind: [refuse]}).machine.flow().transition("b", {})
    assert (caught.value.messages, caught.value.fields) == (messages, fields)
    shown = " ".join((str(caught.value), *(text for _, text in caught.value.reasons)))
    assert not any(sign in shown for sign in ("None", "[", "{", "b'"))


@pytest.mark.parametrize("refusal", [GuardRefused(None), GuardRefused([]), GuardRefused("")])
def test_a_guard_that_refuses_with_no_text_gives_the_reason_of_its_docstring(refusal: Any) -> None:
    """As one that returns False."""

    def adult(flow: Flow) -> bool:
        """You must be of age."""
        raise refusal

    assert [reason.text for reason in make(when=adult).machine.flow().why_not("b")] == [
        "You must be of age."
    ]


def at_least(age: int, flow: Flow) -> bool:
    """You are too young."""
    return False


def unexplained(age: int, flow: Flow) -> bool:
    return False


class OfAge:
    """A guard about ages, for developers."""

    def __call__(self, flow: Flow) -> bool:
        """You must be of age."""
        return False


SENTENCE = "This step is not possible with the answers so far."


@pytest.mark.parametrize(
    ("guard", "told"),
    [
        (partial(at_least, 18), "You are too young."),
        (partial(partial(at_least), 18), "You are too young."),
        (partial(unexplained, 18), SENTENCE),
        (partial(lambda age, flow: False, 18), SENTENCE),
        (OfAge(), "You must be of age."),
        (attrgetter("finished"), SENTENCE),
    ],
)
def test_the_reason_of_a_guard_is_the_docstring_of_the_function_behind_it(
    guard: Any, told: str
) -> None:
    """And never that of functools, operator or another tool."""
    assert [reason.text for reason in make(when=guard).machine.flow().why_not("b")] == [told]


# -- what a rule may do ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["when", "validators", "pre_transition"])
def test_a_rule_must_not_reset_the_flow_it_judges(kind: str, caplog: Any) -> None:
    """As it must not move it; a guard that tries refuses, and the log says why."""
    flow = make(**{kind: [lambda flow, data=None: flow.reset()]}).machine.flow()
    before = flow.snapshot
    with pytest.raises(FSMError) as caught:
        flow.transition("b", {"x": 1})
    assert caught.value.code == ("guard_raised" if kind == "when" else "moved_by_rule")
    assert flow.snapshot == before
    assert kind != "when" or "tried to move" in caplog.text


def test_a_hook_may_reset_the_flow() -> None:
    """The transition has been made."""
    flow = make(hooks=[lambda flow, result: flow.reset()]).machine.flow()
    flow.transition("b")
    assert (flow.current, flow.rev) == ("a", 0)


@pytest.mark.parametrize("kind", ["when", "validators", "pre_transition"])
@pytest.mark.parametrize("more", [{}, {"validators": [lambda flow, data: None]}])
def test_a_rule_may_ask_what_else_can_be_done(kind: str, more: dict[str, Any]) -> None:
    """About the page that it judges, with the same data; and it sees the flow as before then."""
    asked = []

    def has_x(flow: Flow) -> bool:
        return "x" in flow.data.get("a", {})

    def rule(flow: Flow, data: Any = None) -> bool:
        asked.append((flow.can_transition("c"), [r.code for r in flow.why_not("d")], flow.current))
        assert flow.data["a"] == {"x": 1}
        return True

    def no(flow: Flow) -> bool:
        """No."""
        return False

    rules = {kind: [rule]} if kind in more else {kind: [rule], **more}
    machine = Machine(
        "m",
        [
            Transition("a", "b", **rules),
            Transition("a", "c", when=has_x),
            Transition("a", "d", when=no),
            ("b", "c"),
            ("d", "c"),
        ],
    )
    flow = machine.flow()
    flow.transition("b", {"x": 1})
    assert asked == [(True, ["guard"], "a")]
    flow.transition("b", {"x": 1}, source="a")  # an edit
    assert asked[1:] == [(True, ["guard"], "a")]


@pytest.mark.parametrize("kind", ["when", "validators"])
@pytest.mark.parametrize("more", [{}, {"pre_transition": [lambda flow, data: None]}])
def test_a_rule_that_asks_about_its_own_edge_is_one_clear_error_at_once(
    kind: str, more: dict[str, Any]
) -> None:
    """There is no answer to that, so the developer is told, and the rule is not run again."""
    asked: list[str] = []

    def about_me(flow: Flow, data: Any = None) -> bool:
        asked.append(flow.current)
        return not flow.why_not("b", data=data)

    flow = make(**{kind: [about_me], **more}).machine.flow()
    for ask in (
        lambda: flow.transition("b", {"x": 1}),
        lambda: flow.can_transition("b", {"x": 1}),
        lambda: flow.transition("b", {"x": 1}),
    ):
        asked.clear()
        with pytest.raises(RuleError) as caught:
            ask()
        error = caught.value
        assert (error.code, error.status, error.source, error.target) == ("circular", 500, "a", "b")
        assert "'about_me' of 'a' -> 'b'" in str(error)
        assert "depends on its own answer" in str(error)
        assert asked == ["a"]
    assert (flow.current, flow.rev, flow.data) == ("a", 0, {})


@pytest.mark.parametrize("more", [{}, {"validators": [lambda flow, data: None]}])
def test_guards_that_ask_about_each_other_are_one_clear_error(more: dict[str, Any]) -> None:
    """The one that closes the circle is named."""

    def first(flow: Flow) -> bool:
        return not flow.can_transition("c")

    def second(flow: Flow) -> bool:
        return not flow.can_transition("b")

    edges = [Transition("a", "b", when=first, **more), Transition("a", "c", when=second, **more)]
    flow = Machine("m", edges).flow()
    with pytest.raises(RuleError, match=r"'second' of 'a' -> 'c'.* whether 'a' -> 'b'"):
        flow.transition("b")
    with pytest.raises(RuleError, match=r"'first' of 'a' -> 'b'.* whether 'a' -> 'c'"):
        flow.can_transition("c")
    assert (flow.current, flow.rev) == ("a", 0)


def test_a_guard_that_asks_for_the_progress_which_asks_it_is_one_clear_error() -> None:
    """A progress bar asks the guards of the pages ahead."""

    def few(flow: Flow) -> bool:
        return len(flow.progress().pages) < 9

    machine = Machine("m", [("a", "b"), Transition("b", "c", when=few), ("b", "d")])
    flow = machine.flow()
    flow.transition("b", {})
    with pytest.raises(RuleError, match="'few' of 'b' -> 'c'"):
        flow.transition("c", {})


def test_a_validator_may_ask_whether_the_guards_of_its_edge_accept() -> None:
    """That does not depend on its answer."""
    asked = []
    made = make(
        when=lambda flow: "x" in flow.data["a"],
        validators=[lambda flow, data: asked.append(flow.can_transition("b"))],
    )
    flow = made.machine.flow()
    flow.transition("b", {"x": 1})
    assert (asked, flow.current) == ([True], "b")


# -- what rules read ------------------------------------------------------------------------------


def spoil(flow: Flow) -> None:
    for answers in flow.data.values():
        answers["price"] = 0
        answers["lines"].append("free")


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("more", [{}, {"validators": [lambda flow, data: None]}])
def test_a_guard_changes_neither_what_is_kept_nor_the_caller_s_objects(
    accepts: bool, more: dict[str, Any]
) -> None:
    """It reads copies, of this page's answers and of those before, which later rules read too."""
    seen: list[Any] = []

    def greedy(flow: Flow) -> bool:
        spoil(flow)
        return True

    def later(flow: Flow) -> bool:
        seen.append(flow.data)
        return accepts

    machine = Machine("m", [("a", "b"), Transition("b", "c", when=[greedy, later], **more)])
    flow = machine.flow()
    flow.transition("b", {"price": 10, "lines": ["one"]})
    given = {"price": 100, "lines": []}
    whole = {"a": {"price": 10, "lines": ["one"]}, "b": {"price": 100, "lines": []}}
    assert flow.can_transition("c", given) is accepts
    if accepts:
        flow.transition("c", given)
        assert flow.data == whole
    else:
        with pytest.raises(GuardRefused):
            flow.transition("c", given)
    assert given == {"price": 100, "lines": []}
    assert seen
    assert all(each == whole for each in seen)


@pytest.mark.parametrize("kind", ["pre_transition", "validators"])
def test_what_other_rules_change_in_flow_data_is_a_copy_too(kind: str) -> None:
    """Only the data that a pre_transition is given is meant to be changed."""
    machine = Machine(
        "m", [("a", "b"), Transition("b", "c", **{kind: [lambda flow, data: spoil(flow)]})]
    )
    flow = machine.flow()
    flow.transition("b", {"lines": ["one"]})
    given = {"lines": []}
    flow.transition("c", given)
    assert given == {"lines": []}
    assert flow.data == {"a": {"lines": ["one"]}, "b": {"lines": []}}


def test_what_a_hook_changes_in_its_result_reaches_nobody() -> None:
    """Neither the caller's objects nor other hooks."""
    seen = []

    def greedy(flow: Flow, result: Any) -> None:
        result.data["lines"].append("free")
        result.data["price"] = 0

    made = make(hooks=[greedy, lambda flow, result: seen.append(result.data)])
    flow = made.machine.flow()
    given = {"lines": ["one"]}
    result = flow.transition("b", given)
    assert given == {"lines": ["one"]}
    assert seen == [given]
    assert result.data == given
    assert flow.data == {"a": given}


# -- a guard is asked once ------------------------------------------------------------------------


class Asked:
    """A guard that counts, and answers as it is told, one answer after another."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, flow: Flow) -> Any:
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("more", [{}, {"validators": [lambda flow, data: None]}])
@pytest.mark.parametrize("no", [False, None, GuardRefused("No."), GuardRefused(), KeyError("x")])
def test_each_guard_is_asked_once_for_a_decision(more: dict[str, Any], no: Any) -> None:
    """Whether it accepts or refuses, and whatever it would answer a second time."""
    guards = [Asked(True), Asked(no, True), Asked(True, False), Asked(False, True)]
    flow = make(when=guards, **more).machine.flow()
    with pytest.raises(GuardRefused) as caught:
        flow.transition("b")
    assert [guard.asked for guard in guards] == [1, 1, 1, 1]
    assert len(caught.value.reasons) == 2
    guards = [Asked(True), Asked(True)]
    make(when=guards, **more).machine.flow().transition("b")
    assert [guard.asked for guard in guards] == [1, 1]


def test_a_guard_of_machine_and_edge_is_asked_once() -> None:
    """It is one guard, registered twice."""
    no = Asked(False)
    made = make(when=no)
    made.machine.guard(no)
    made.b.guard(no)
    with pytest.raises(GuardRefused) as caught:
        made.machine.flow().transition("b")
    assert (no.asked, len(caught.value.reasons)) == (1, 1)


# -- data that rules get --------------------------------------------------------------------------


def vandal(flow: Flow, data: dict[str, Any]) -> None:
    """Change everything that can be reached."""
    data["x"].append("vandal")
    data["more"] = "vandal"
    flow.data["before"]["y"].append("vandal")
    flow.data.get("a", data)["x"].append("vandal")


def test_a_validator_changes_neither_what_is_kept_nor_what_others_see() -> None:
    """It gets data of its own, of earlier pages too."""
    seen: list[Any] = []

    def later(flow: Flow, data: dict[str, Any]) -> None:
        seen.append((data, flow.data))

    machine = Machine(
        "m",
        [
            ("before", "a"),
            Transition("a", "b", validators=[vandal, later]),
            Transition("b", "c", when=lambda flow: not seen.append(flow.data)),
        ],
    )
    flow = machine.flow()
    flow.transition("a", {"y": [1]})
    given = {"x": [1]}
    assert flow.can_transition("b", given)
    result = flow.transition("b", given)
    flow.transition("c")
    kept = {"before": {"y": [1]}, "a": {"x": [1]}}
    assert given == {"x": [1]}
    assert seen == [({"x": [1]}, kept), ({"x": [1]}, kept), kept]
    assert (result.data, flow.data) == ({"x": [1]}, kept)


@pytest.mark.parametrize(
    "refusing",
    [
        {"validators": [lambda flow, data: 1 / 0]},
        {"when": [lambda flow: False]},
        {"validators": [lambda flow, data: data["nothing"]]},
    ],
)
def test_what_a_refused_step_s_pre_transition_changed_reaches_nobody(
    refusing: dict[str, Any],
) -> None:
    """Neither the caller's objects nor the next step."""
    seen: list[Any] = []
    machine = Machine(
        "m",
        [
            ("before", "a"),
            Transition("a", "b", pre_transition=[vandal], **refusing),
            Transition("a", "c", when=lambda flow: not seen.append(flow.data)),
            ("b", "c"),
        ],
    )
    flow = machine.flow()
    flow.transition("a", {"y": [1]})
    given: dict[str, Any] = {"x": [1]}
    with pytest.raises(FSMError):
        flow.transition("b", given)
    assert given == {"x": [1]}
    flow.transition("c", given)
    assert seen == [{"before": {"y": [1]}, "a": {"x": [1]}}]


def test_what_a_pre_transition_changes_deep_within_is_kept_without_the_caller_s_objects() -> None:
    """The transition that is made stores it."""
    made = make(pre_transition=[lambda flow, data: data["x"]["deep"].append(2)])
    flow, given = made.machine.flow(), {"x": {"deep": [1]}}
    flow.transition("b", given)
    assert given == {"x": {"deep": [1]}}
    assert flow.data == {"a": {"x": {"deep": [1, 2]}}}


def test_rules_get_data_that_is_nested_too_deeply_and_it_is_refused() -> None:
    """As without rules."""
    data: Any = []
    for _ in range(5000):
        data = [data]
    flow = make(pre_transition=[lambda flow, data: None]).machine.flow()
    with pytest.raises(InvalidData):
        flow.transition("b", {"x": data})


@pytest.mark.parametrize("kind", ["when", "validators", "pre_transition"])
def test_a_rule_without_a_name_is_called_unnamed(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A lambda and most objects have no name that would help."""

    def fails(*arguments: Any) -> bool:
        raise KeyError("x")

    class Broken:
        def __call__(self, *arguments: Any) -> bool:
            raise KeyError("x")

    for rule in (lambda *arguments: fails(), Broken()):
        flow = Machine("m", [Transition("a", "b", **{kind: rule})]).flow()
        with pytest.raises(FSMError) as caught:
            flow.transition("b", data={"n": 1})
        told = caplog.text if kind == "when" else caught.value.message
        name = {"when": "guard", "validators": "validator"}.get(kind, kind)
        assert f"An unnamed {name} " in told
        caplog.clear()
    flow = Machine("m", [Transition("a", "b", **{kind: fails})]).flow()
    with pytest.raises(FSMError) as caught:
        flow.transition("b", data={"n": 1})
    assert "'fails'" in (caplog.text if kind == "when" else caught.value.message)
