"""Flows that began under an older definition: what machine.migrate() makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flask_fsm import (
    DefinitionError,
    Flow,
    FSMError,
    Machine,
    Snapshot,
    SnapshotError,
    Transition,
)
from flask_fsm.core.ways import Limits

OLD = [("cart", "address"), ("address", "payment"), ("payment", "review"), ("review", "done")]


def old(**options: Any) -> Machine:
    return Machine("shop", [*OLD, ("review", "address")], final=["done"], **options)


def walked(machine: Machine, *targets: str) -> Flow:
    """A flow that answered on each page that it left."""
    flow = machine.flow()
    for target in targets:
        flow.transition(target, {"of": flow.current})
    return flow


def renamed(names: Mapping[str, str | None], edges: list[Any] | None = None) -> Machine:
    """The shop with other names, which maps the old ones with migrate()."""
    if edges is None:
        new = [[names.get(name, name) for name in edge] for edge in [*OLD, ("review", "address")]]
        edges = [tuple(edge) for edge in new]
    machine = Machine("shop", edges, final=["done"])
    machine.migrate(names)
    return machine


def moved(flow: Flow, machine: Machine) -> Flow:
    """The same flow as the new definition reads it."""
    return machine.flow(Snapshot.decode(flow.snapshot.encode(flow.machine), machine))


# -- how to say it ----------------------------------------------------------------------------


def name_of(old: str) -> str | None:
    return {"address": "where"}.get(old, old)


def by_dict(machine: Machine) -> None:
    assert machine.migrate({"address": "where"}) == {"address": "where"}


def by_function(machine: Machine) -> None:
    assert machine.migrate(name_of) is name_of


def by_decorator(machine: Machine) -> None:
    @machine.migrate
    def names(name: str) -> str | None:
        return "where" if name == "address" else name

    assert callable(names)


@pytest.mark.parametrize("say", [by_dict, by_function, by_decorator])
def test_names_are_given_by_a_mapping_a_function_or_a_decorator(
    say: Callable[[Machine], None],
) -> None:
    """All three do the same, and give back what they were given."""
    machine = Machine("shop", [("cart", "where"), ("where", "payment"), ("payment", "done")])
    say(machine)
    flow = moved(walked(old(), "address"), machine)
    assert (flow.current, list(flow.path), flow.rev) == ("where", ["cart", "where"], 1)
    flow.transition("payment")
    assert flow.current == "payment"


@pytest.mark.parametrize("wrong", [None, 7, "where", ["where"], [("address", "where")]])
def test_what_is_neither_is_a_definition_error(wrong: object) -> None:
    """The error is raised when the machine is defined, not at a request."""
    with pytest.raises(DefinitionError, match="migrate"):
        old().migrate(wrong)  # type: ignore[type-var]


@pytest.mark.parametrize("names", [{"address": "nowhere"}, {"address": 7}, {7: "cart"}])
def test_a_mapping_to_no_state_is_a_definition_error(names: Any) -> None:
    """A mapping can be checked at once: each new name is one of the machine's, or None."""
    machine = old()

    def use() -> None:
        machine.migrate(names)
        machine.flow()

    with pytest.raises(DefinitionError, match="migrate"):
        use()


def test_after_first_use_it_is_too_late() -> None:
    """It raises an error; the machine stays as it was."""
    machine = old()
    machine.flow()
    with pytest.raises(DefinitionError, match="too late"):
        machine.migrate({})
    assert machine.migration is None


def test_a_mapping_that_changes_later_changes_nothing() -> None:
    """The machine is immutable."""
    names: dict[str, str | None] = {"address": "where"}
    machine = renamed(names)
    names["address"] = None
    assert moved(walked(old(), "address"), machine).current == "where"


def test_a_second_call_is_an_error_or_adds() -> None:
    """Names that were given are not silently replaced."""
    machine = Machine("shop", [("cart", "where"), ("where", "pay"), ("pay", "done")])
    machine.migrate({"address": "where"})
    try:
        machine.migrate({"payment": "pay"})
    except DefinitionError:
        return
    assert list(moved(walked(old(), "address", "payment"), machine).path) == [
        "cart", "where", "pay",
    ]  # fmt: skip


def test_the_same_definition_needs_no_migration() -> None:
    """It is asked only where the digest differs."""
    machine = old()
    machine.migrate({"cart": None, "address": None})
    again = Snapshot.decode(walked(machine, "address").snapshot.encode(machine), machine)
    assert list(again.path) == ["cart", "address"]
    assert len(again.history) == 1


# -- pages with other names ---------------------------------------------------------------------


def test_a_renamed_page_keeps_its_answers_and_url_arguments() -> None:
    """On the path before the current page, and as the current page."""
    flow = old().flow()
    flow.apply(flow.step("address", {"item": 1}, args='{"id":7}'))
    flow.transition("payment", {"street": "Elm"})
    new = moved(flow, renamed({"address": "where", "payment": "pay"}))
    assert list(new.path) == ["cart", "where", "pay"]
    assert new.data == {"cart": {"item": 1}, "where": {"street": "Elm"}}
    assert new.path.args("where") == {"id": 7}
    assert new.answers("where") == {"street": "Elm"}
    new.transition("review", {"card": "x"})
    assert new.data["pay"] == {"card": "x"}


def test_a_renamed_page_keeps_its_drafts() -> None:
    """The answers of pages that are not on the path fill their forms again."""
    flow = walked(old(), "address", "payment", "review", "address")
    assert set(flow.drafts) == {"address", "payment", "review"}
    new = moved(flow, renamed({"address": "where", "payment": "pay"}))
    drafts = {"where": "address", "pay": "payment", "review": "review"}
    assert new.drafts == {name: {"of": before} for name, before in drafts.items()}
    assert new.answers("pay") == {"of": "payment"}


def test_two_pages_may_swap_their_names() -> None:
    """Each old name is looked up once."""
    swap = {"address": "payment", "payment": "address"}
    new = moved(walked(old(), "address", "payment"), renamed(swap))
    assert list(new.path) == ["cart", "payment", "address"]
    assert new.data == {"cart": {"of": "cart"}, "payment": {"of": "address"}}


def test_the_initial_page_may_be_renamed() -> None:
    """A run that has not begun, and one that has."""
    machine = renamed({"cart": "basket"})
    for flow in (old().flow(), walked(old(), "address")):
        assert moved(flow, machine).path[0] == "basket"


def test_the_final_page_may_be_renamed() -> None:
    """A finished run stays finished."""
    machine = Machine("shop", [*OLD[:-1], ("review", "thanks")])
    machine.migrate({"done": "thanks"})
    new = moved(walked(old(), "address", "payment", "review", "done"), machine)
    assert (new.current, new.finished) == ("thanks", True)


def test_names_with_signs_of_the_codec_are_read_back() -> None:
    """Names with the signs of the text format are handed to the function as they were."""
    odd = ["a|b", '"c', "-d", "!e", "end"]
    before = Machine("m", list(pairwise(odd)))
    flow = before.flow()
    for target in odd[1:4]:
        flow.transition(target, {"x": target})
    asked: list[str] = []

    def names(name: str) -> str:
        asked.append(name)
        return f"new {name}"

    machine = Machine("m", [(f"new {a}", f"new {b}") for a, b in pairwise(odd)])
    machine.migrate(names)
    assert list(moved(flow, machine).path) == [f"new {name}" for name in odd[:4]]
    assert set(asked) == set(odd[:4])


# -- pages that are gone --------------------------------------------------------------------------


def test_a_page_before_the_current_one_may_be_gone() -> None:
    """It is left out of the path, and its answers are no answers any more."""
    machine = renamed({"address": None}, [("cart", "payment"), *OLD[2:]])
    new = moved(walked(old(), "address", "payment"), machine)
    assert list(new.path) == ["cart", "payment"]
    assert new.data == {"cart": {"of": "cart"}}
    assert new.drafts == {}
    assert new.answers("cart") == {"of": "cart"}
    new.transition("review")
    assert new.rev == 3


def test_the_first_page_may_be_gone() -> None:
    """The path then begins with the next one."""
    machine = renamed({"cart": None}, OLD[1:])
    new = moved(walked(old(), "address", "payment"), machine)
    assert list(new.path) == ["address", "payment"]
    assert new.snapshot.path == Snapshot.decode(new.snapshot.encode(machine), machine).path


def test_a_draft_of_a_page_that_is_gone_is_dropped() -> None:
    """Nothing could show it."""
    machine = renamed({"payment": None}, [OLD[0], ("address", "review"), OLD[3]])
    new = moved(walked(old(), "address", "payment", "review", "address"), machine)
    assert set(new.drafts) == {"address", "review"}


@pytest.mark.parametrize("names", [{"payment": None}, {}])
def test_who_was_on_a_page_that_is_gone_goes_on_from_the_page_before(names: Any) -> None:
    """With the answers of it as a draft, whether migrate() mentions the page or not."""
    machine = renamed(names, [OLD[0], ("address", "review"), OLD[3]])
    flow = walked(old(), "address", "payment")
    new = moved(flow, machine)
    assert (list(new.path), new.snapshot.cut_back) == (["cart", "address"], True)
    assert (new.id, new.rev) == (flow.id, flow.rev)
    assert (new.data, new.drafts) == ({"cart": {"of": "cart"}}, {"address": {"of": "address"}})
    new.transition("review")
    assert list(new.path) == ["cart", "address", "review"]


def test_a_page_that_is_gone_from_within_the_path_cuts_it_back() -> None:
    """The answers of the pages behind become drafts, and those of the page itself are dropped."""
    machine = renamed({}, [("cart", "payment"), ("payment", "review"), OLD[3]])
    new = moved(walked(old(), "address", "payment", "review"), machine)
    assert (list(new.path), new.snapshot.cut_back, new.data) == (["cart"], True, {})
    assert new.drafts == {"cart": {"of": "cart"}, "payment": {"of": "payment"}}


def test_a_page_that_is_gone_from_a_path_of_renamed_pages_cuts_it_back() -> None:
    """A mapping that forgets a page loses none of the pages before it."""
    machine = renamed({"cart": "basket"}, [("basket", "payment"), ("payment", "done")])
    new = moved(walked(old(), "address", "payment"), machine)
    assert (list(new.path), set(new.drafts)) == (["basket"], {"basket"})


def test_a_first_page_that_is_gone_is_a_clear_error() -> None:
    """Nothing of the path is left; the error names the page that migrate() does not map."""
    machine = renamed({"payment": None}, [("address", "review"), OLD[3]])
    with pytest.raises(SnapshotError) as caught:
        moved(walked(old(), "address", "payment"), machine)
    assert (caught.value.code, caught.value.source) == ("definition", "cart")


def test_a_page_that_is_gone_from_a_run_that_has_ended_is_a_clear_error() -> None:
    """Its path is a record, which is not cut."""
    machine = renamed({}, [OLD[0], ("address", "review"), OLD[3]])
    with pytest.raises(SnapshotError) as caught:
        moved(walked(old(), "address", "payment", "review", "done"), machine)
    assert (caught.value.code, caught.value.source) == ("definition", "payment")


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("x"), ZeroDivisionError("x"), RuntimeError("x"), OSError()]
)
def test_a_function_that_raises_is_a_snapshot_error(error: Exception) -> None:
    """Whatever it raises, so that the visitor gets an answer and the log a line."""
    machine = Machine("shop", OLD)

    @machine.migrate
    def names(name: str) -> str | None:
        raise error

    with pytest.raises(SnapshotError) as caught:
        moved(walked(old(), "address"), machine)
    assert "migrate" in str(caught.value)


@pytest.mark.parametrize("answer", [7, [], {}, True, "", b"cart"])
def test_a_function_that_returns_no_name_is_a_snapshot_error(answer: Any) -> None:
    """Neither a state's name nor None."""
    machine = Machine("shop", OLD)
    machine.migrate(lambda name: answer)
    with pytest.raises(SnapshotError):
        moved(walked(old(), "address"), machine)


# -- two pages into one ---------------------------------------------------------------------------


def test_two_pages_that_follow_each_other_may_become_one() -> None:
    """The path has the page once; the answers given on it are those of both, or of the first."""
    machine = renamed({"address": "cart"}, [("cart", "payment"), *OLD[2:]])
    new = moved(walked(old(), "address", "payment"), machine)
    assert list(new.path) == ["cart", "payment"]
    assert new.data["cart"] == {"of": "cart"}
    new.transition("review")


def test_the_current_page_may_become_one_with_that_before() -> None:
    """The visitor stands on the page again, and finds there what was typed."""
    machine = renamed({"address": "cart"}, [("cart", "payment"), *OLD[2:]])
    new = moved(walked(old(), "address"), machine)
    assert list(new.path) == ["cart"]
    assert new.data == {}
    assert new.answers("cart") == {"of": "cart"}
    new.transition("payment", {"of": "both"})
    assert new.data == {"cart": {"of": "both"}}
    assert new.drafts == {}


def test_pages_that_are_apart_may_become_one() -> None:
    """The path is cut as at any loop, and what was answered between them is kept as drafts."""
    machine = renamed(
        {"payment": "cart"},
        [("cart", "address"), ("address", "cart"), ("cart", "review"), ("review", "done")],
    )
    new = moved(walked(old(), "address", "payment", "review"), machine)
    assert list(new.path) == ["cart", "review"]
    assert new.answers("address") == {"of": "address"}
    assert "address" not in new.data


def test_a_draft_and_an_answer_of_pages_that_became_one_leave_the_answer() -> None:
    """What stands on the path decides; the older draft is not shown in its place."""
    flow = walked(old(), "address", "payment", "review", "address")
    machine = renamed(
        {"review": "cart"},
        [("cart", "address"), ("address", "payment"), ("payment", "cart"), ("cart", "done")],
    )
    new = moved(flow, machine)
    assert new.data == {"cart": {"of": "cart"}}
    assert new.answers("cart") == {"of": "cart"}
    assert "cart" not in new.drafts


# -- what is closed -------------------------------------------------------------------------------


def closing(back: str) -> Machine:
    return Machine(
        "m", [("a", "b"), Transition("b", "c", back=back), ("c", "d"), ("d", "e"), ("e", "f")]
    )


def opened(flow: Flow) -> list[str]:
    return [page for page in flow.path if flow.is_open(page)]


@pytest.mark.parametrize(("back", "still"), [("discard", "acd"), ("invalidate", "cd")])
@pytest.mark.parametrize("gone", ["", "a", "b", "c", "ab", "ac", "bc"])
def test_what_was_closed_stays_closed_whatever_page_is_gone(
    back: str, still: str, gone: str
) -> None:
    """A page that could not be opened before the change can't be opened after it."""
    flow = walked(closing(back), "b", "c", "d")
    assert opened(flow) == list(still)
    rest = [page for page in "abcdef" if page not in gone]
    machine = Machine("m", list(pairwise(rest)))
    machine.migrate(dict.fromkeys(gone))
    new = moved(flow, machine)
    assert list(new.path) == [page for page in "abcd" if page not in gone]
    assert opened(new) == [page for page in still if page not in gone]


@pytest.mark.parametrize(("back", "still"), [("discard", "acd"), ("invalidate", "cd")])
def test_what_was_closed_stays_closed_under_another_name(back: str, still: str) -> None:
    """The signs of a page go with it."""
    machine = Machine("m", [(f"{a}2", f"{b}2") for a, b in zip("abcde", "bcdef", strict=True)])
    machine.migrate(lambda name: f"{name}2")
    new = moved(walked(closing(back), "b", "c", "d"), machine)
    assert opened(new) == [f"{page}2" for page in still]
    new.transition("e2")
    assert opened(new) == [*(f"{page}2" for page in still), "e2"]


@pytest.mark.parametrize(("one", "other"), ["ab", "ba", "bc", "cb"])
@pytest.mark.parametrize("back", ["discard", "invalidate"])
def test_a_closed_page_that_became_one_with_an_open_one_is_closed(
    back: str, one: str, other: str
) -> None:
    """What was sent there may not be changed, so neither may the whole."""
    flow = walked(closing(back), "b", "c", "d")
    rest = [page for page in "abcdef" if page != one]
    machine = Machine("m", list(pairwise(rest)))
    machine.migrate({one: other})
    new = moved(flow, machine)
    assert not new.is_open(other)
    assert new.is_open("d")


def test_a_barrier_at_the_current_page_stays() -> None:
    """The edge that closed everything was the last one, and the page before it is gone."""
    flow = walked(closing("invalidate"), "b", "c")
    machine = Machine("m", [("a", "c"), ("c", "d")])
    machine.migrate({"b": None})
    assert opened(moved(flow, machine)) == ["c"]


# -- what the run has done ------------------------------------------------------------------------


def test_a_migrated_flow_goes_on_counting() -> None:
    """rev, start and id are those of before, and the next text is of the new definition."""
    flow = walked(old(), "address")
    machine = renamed({"address": "where"})
    new = moved(flow, machine)
    assert (new.id, new.rev) == (flow.id, 1)
    new.transition("payment")
    text = new.snapshot.encode(machine)
    again = Snapshot.decode(text, machine)
    assert (again.rev, list(again.path)) == (2, ["cart", "where", "payment"])
    assert [entry.rev for entry in again.history] == [2]


@pytest.mark.parametrize("counted", [{"repeat": False}, {"ordered": True}])
def test_the_edges_of_a_migrated_path_count_as_taken(counted: dict[str, bool]) -> None:
    """By the new names."""
    before = Machine("m", [("a", "b"), ("b", "c"), ("c", "d")], **counted)
    after = Machine("m", [("a", "bb"), ("bb", "c"), ("c", "bb"), ("c", "d")],
                    initial="a", final=["d"], **counted)  # fmt: skip
    after.migrate({"b": "bb"})
    new = moved(walked(before, "b", "c"), after)
    assert new.snapshot.taken == 0b11
    assert new.can_transition("bb")


def test_the_receipt_of_the_last_form_is_kept() -> None:
    """A form that was sent before the deploy and comes again after it had its effect."""
    flow = walked(old(), "address")
    text = flow.snapshot.with_receipt(("nonce", "digest")).encode(flow.machine)  # type: ignore[arg-type]
    assert Snapshot.decode(text, renamed({"address": "where"})).receipt == ("nonce", "digest")


# -- as a document --------------------------------------------------------------------------------


def test_a_function_goes_through_to_dict_by_its_name() -> None:
    """And is found again among the rules that are given."""
    machine = old()
    machine.migrate(name_of)
    data = json.loads(json.dumps(machine.to_dict()))
    assert data["migrate"] == "name_of"
    again = Machine.from_dict(data, rules=[name_of])
    assert again.migration is name_of
    assert again.to_dict() == machine.to_dict()
    with pytest.raises(DefinitionError, match="name_of"):
        Machine.from_dict(data)


def test_a_mapping_goes_through_to_dict_as_it_is() -> None:
    """It is plain data."""
    machine = renamed({"address": "where", "gone": None})
    data = json.loads(json.dumps(machine.to_dict()))
    again = Machine.from_dict(data)
    assert moved(walked(old(), "address"), again).current == "where"
    assert again.to_dict() == machine.to_dict()


def test_a_function_without_a_name_can_t_be_written_down() -> None:
    """As with any other rule."""
    machine = old()
    machine.migrate(lambda name: name)
    with pytest.raises(DefinitionError, match="not have a unique name"):
        machine.to_dict()


@pytest.mark.parametrize("many", [True, False, "order_id"])
def test_many_and_once_go_through_to_dict(many: bool | str) -> None:
    """A machine with `many` and `once` edges is read back as such."""
    edges = [Transition("a", "b", once=True), Transition("b", "c"), ("c", "a")]
    machine = Machine("m", edges, final=[], many=many)
    again = Machine.from_dict(json.loads(json.dumps(machine.to_dict())))
    assert again.many == many
    assert type(again.many) is type(many)
    assert [edge.once for edge in again.edges] == [True, False, False]
    assert again.to_dict() == machine.to_dict()
    assert again.digest == machine.digest


@pytest.mark.parametrize("many", ["", 7, None, [], 1.5])
def test_many_is_a_truth_or_the_name_of_an_argument(many: Any) -> None:
    """Else it is a fault of the definition."""
    with pytest.raises(DefinitionError, match="many"):
        Machine("m", [("a", "b")], many=many)


def test_a_migration_stays_through_an_app_s_narrowing() -> None:
    """The machine that an app uses knows the old names too."""
    machine = renamed({"address": "where"})
    narrow = machine.restricted(Limits(), lambda rule: rule)
    assert narrow.migration is machine.migration
    assert moved(walked(old(), "address"), narrow).current == "where"


# -- a path that the new definition does not allow ------------------------------------------------

PAGES = [f"p{number}" for number in range(6)]


@st.composite
def definitions(draw: st.DrawFn, pages: list[str]) -> Machine:
    """A machine of these pages in any order, with any edges and back policies, without faults."""
    order = draw(st.permutations(pages))
    edges = dict.fromkeys(pairwise(order))
    others = [(a, b) for a in order[:-1] for b in order if a != b]
    edges |= dict.fromkeys(draw(st.lists(st.sampled_from(others), max_size=10, unique=True)))
    backs = st.sampled_from(["preserve", "preserve", "discard", "invalidate"])
    return Machine(
        "shop",
        [Transition(a, b, back=draw(backs)) for a, b in draw(st.permutations(list(edges)))],
        initial=order[0],
        repeat=draw(st.booleans()),
        ordered=draw(st.booleans()),
    )


def is_allowed(machine: Machine, path: list[str]) -> bool:
    """Whether a new run can walk exactly this way, and not have ended: found by walking it."""
    flow = machine.flow()
    if path[0] != flow.current:
        return False
    try:
        for page in path[1:]:
            flow.transition(page)
    except FSMError:
        return False
    return not flow.finished


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_deploy_leaves_the_longest_part_of_a_path_that_the_new_definition_allows(
    data: st.DataObject,
) -> None:
    """Nothing that was typed is lost, and nothing that was closed opens but the current page."""
    before = data.draw(definitions(PAGES[: data.draw(st.integers(2, 6))]))
    after = data.draw(definitions(PAGES))
    assume(before.digest != after.digest)
    flow = before.flow()
    for number, edit in data.draw(
        st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8)
    ):
        source = flow.path[number % len(flow.path)] if edit else flow.current
        ways = list(before.ways[source])
        try:
            flow.transition(ways[number % len(ways)], {"n": number}, source=source)
        except (FSMError, ZeroDivisionError):
            continue
    old, text = flow.snapshot, flow.snapshot.encode(before)
    new = Snapshot.decode(text, after)
    path = list(old.path)
    assert (new.id, new.rev, new.finished) == (old.id, old.rev, old.finished)
    assert {**new.data, **new.drafts} == {**old.data, **old.drafts}
    if old.finished:
        assert (list(new.path), new.cut_back) == (path, False)
        return
    kept = list(new.path)
    longest = max((n for n in range(1, len(path) + 1) if is_allowed(after, path[:n])), default=0)
    assert kept == (path[:longest] or [after.initial])
    assert new.cut_back == (kept != path)
    went_on = after.flow(new)
    assert {page for page in kept if went_on.is_open(page)} <= (
        {page for page in path if flow.is_open(page)} | {went_on.current}
    )
    again = Snapshot.decode(new.encode(after), after)
    assert (again, again.cut_back) == (new, False)
    for target in after.ways[went_on.current]:
        if went_on.can_transition(target):
            went_on.transition(target)
            assert not went_on.snapshot.cut_back
            break


def test_what_an_edge_behind_the_cut_had_closed_stays_closed() -> None:
    """`invalidate` closed all before it; the deploy opens the page of the cut, and no other."""
    flow = walked(closing("invalidate"), "b", "c", "d")
    new = moved(flow, Machine("m", [("a", "b"), ("b", "x"), ("x", "c"), *pairwise("cdef")]))
    assert list(new.path) == ["a", "b"]
    assert opened(new) == ["b"]
    new.transition("x")
    assert opened(new) == ["b", "x"]


def test_renamed_pages_are_compared_by_their_new_names() -> None:
    """A page is renamed and another put in by the same deploy."""
    machine = renamed(
        {"address": "where"},
        [("cart", "where"), ("where", "x"), ("x", "payment"), *OLD[2:]],
    )
    new = moved(walked(old(), "address", "payment", "review"), machine)
    assert (list(new.path), new.snapshot.cut_back) == (["cart", "where"], True)
    assert set(new.drafts) == {"where", "payment"}


def test_an_ordered_machine_compares_the_order_too() -> None:
    """Its edges are all there, but one that now comes before was never taken."""
    before = Machine("m", [("a", "b"), ("b", "c"), ("c", "d")], ordered=True)
    after = Machine("m", [("a", "b"), ("b", "x"), ("x", "b"), ("b", "c"), ("c", "d")], ordered=True)
    new = moved(walked(before, "b", "c"), after)
    assert list(new.path) == ["a", "b"]
    for target in ("x", "b", "c", "d"):
        new.transition(target)
    assert new.finished


def test_a_complete_function_that_raises_is_a_snapshot_error() -> None:
    """As one of migrate() is: an answer for the visitor, and a line in the log."""

    def broken(state: str) -> bool:
        raise RuntimeError("it broke")

    with pytest.raises(SnapshotError, match="it broke") as caught:
        moved(walked(old(), "address"), Machine("shop", OLD, complete=broken))
    assert caught.value.code == "definition"
