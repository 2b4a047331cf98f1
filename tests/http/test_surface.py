"""What the developer of an app calls in views and templates."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from blinker import NamedSignal
from flask import Flask, render_template_string, request
from flask_wtf import FlaskForm
from wtforms import (
    DateField,
    DecimalField,
    FieldList,
    Form,
    FormField,
    IntegerField,
    PasswordField,
    StringField,
    SubmitField,
)
from wtforms.validators import DataRequired

from flask_fsm import (
    FlaskFSM,
    FSMError,
    GuardRefused,
    InvalidData,
    Machine,
    State,
    Transition,
    ValidationFailed,
    signals,
)

from ..apps import SECRET, TO_REVIEW, Shop, Visitor, assert_moved, fields_in, token_in

LINE = [("a", "b"), ("b", "c"), ("c", "d")]


def new_app(**config: Any) -> Flask:
    app = Flask("surface")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, **config)
    return app


def add_pages(app: Flask, fsm: Any, *pages: str, show: Callable[[], object] | None = None) -> None:
    for page in pages:

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            if request.method == "POST":
                return fsm.advance(data=dict(request.form) if request.form else None)
            return page if show is None else show()


@pytest.fixture
def line() -> tuple[FlaskFSM, Visitor, dict[str, Any]]:
    """Pages a to d in a row; what `ask` returns is noted when a page is shown."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("line", LINE))
    asked: dict[str, Any] = {"ask": lambda: None}

    def show() -> str:
        asked["answer"] = asked["ask"]()
        return "ok"

    add_pages(app, fsm, "a", "b", "c", "d", show=show)
    return fsm, Visitor(app), asked


def ask(line: tuple[FlaskFSM, Visitor, dict[str, Any]], page: str, question: Any) -> Any:
    """What `question()` says while `page` is shown."""
    _, visitor, asked = line
    asked["ask"] = question
    assert visitor.open(page).status_code == 200
    return asked["answer"]


# -- asking ---------------------------------------------------------------------------------


def test_history_and_status_say_where_the_flow_has_been(line: Any) -> None:
    """fsm.history holds entries and knows edges; fsm.status has one line for each."""
    fsm, visitor, _ = line
    assert ask(line, "a", lambda: (fsm.current, fsm.status, list(fsm.history))) == ("a", "", [])
    visitor.post("a")
    visitor.post("b")
    current, status, edges, entries = ask(
        line,
        "c",
        lambda: (
            fsm.current,
            fsm.status,
            [edge in fsm.history for edge in [("a", "b"), ("b", "c"), ("b", "a"), ("a", "c")]],
            [(entry.source, entry.target, entry.rev) for entry in fsm.history],
        ),
    )
    assert current == "c"
    assert status == "a -> b\nb -> c"
    assert edges == [True, True, False, False]
    assert entries == [("a", "b", 1), ("b", "c", 2)]


def test_the_repr_says_which_machine_and_where(line: Any) -> None:
    """repr(fsm) is of use in a debugger: machine, state, history."""
    fsm, visitor, _ = line
    visitor.post("a")
    text = ask(line, "b", lambda: repr(fsm))
    assert "line" in text
    assert "'b'" in text
    assert "('a', 'b')" in text


def test_why_not_gives_every_reason_and_changes_nothing() -> None:
    """fsm.why_not(to) has a code and a sentence for each; can_transition is its short form."""
    asked: list[Any] = []

    def is_adult(flow: Any) -> bool:
        """Only for adults."""
        return False

    app = new_app()
    fsm = FlaskFSM(
        app, Machine("m", [Transition("a", "b", when=[is_adult, lambda flow: 1 / 0]), ("a", "c")])
    )

    def show() -> str:
        asked.append({to: fsm.why_not(to) for to in ("a", "b", "c", "moon")})
        asked.append({to: fsm.can_transition(to) for to in ("a", "b", "c", "moon")})
        return fsm.current

    add_pages(app, fsm, "a", "b", "c", show=show)
    visitor = Visitor(app)
    assert visitor.open("a").text == "a"
    why, can = asked
    assert [reason.code for reason in why["b"]] == ["guard", "guard_raised"]
    assert why["b"][0].text == "Only for adults."
    assert [reason.code for reason in why["a"]] == ["no_edge"]
    assert [reason.code for reason in why["moon"]] == ["unknown_state"]
    assert why["c"] == []
    assert can == {"a": False, "b": False, "c": True, "moon": False}


def test_has_not_skipped_asks_for_all_edges_declared_before(line: Any) -> None:
    """fsm.has_not_skipped(to) is true when all transitions declared before it were taken."""
    fsm, visitor, _ = line
    assert ask(line, "a", lambda: (fsm.has_not_skipped("b"), fsm.has_not_skipped("c"))) == (
        True,
        False,
    )
    visitor.post("a")
    assert ask(line, "b", lambda: fsm.has_not_skipped("c")) is True


def test_complete_tells_whether_a_state_ends_the_run(line: Any) -> None:
    """By default the final states do; a machine may say otherwise."""
    fsm, _, _ = line
    assert ask(line, "a", lambda: [fsm.complete(state) for state in "abcd"]) == [
        False,
        False,
        False,
        True,
    ]
    app = new_app()
    other = FlaskFSM(app, Machine("m", [("a", "b"), ("b", "a")], complete=lambda s: s == "b"))
    add_pages(app, other, "a", "b", show=lambda: str([other.complete(s) for s in "ab"]))
    visitor = Visitor(app)
    assert visitor.open("a").text == "[False, True]"
    visitor.post("a")
    assert visitor.post("b").status_code == 410


def test_url_for_names_pages_with_the_arguments_of_the_path() -> None:
    """fsm.url_for() is the current page; another one is named by its state."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b"), ("b", "c")])
    for page in "abc":

        @app.route(f"/<int:n>/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(n: int) -> object:
            if request.method == "POST":
                return fsm.advance()
            return " ".join([fsm.url_for(), *(fsm.url_for(page) for page in "abc")])

    visitor = Visitor(app)
    assert visitor.open("3/a").text == "/3/a /3/a /3/b /3/c"
    visitor.post("3/a")
    assert visitor.open("3/a").text == "/3/b /3/a /3/b /3/c"


def test_fsm_in_templates_is_the_machine_that_guards_the_view() -> None:
    """`fsm` needs no render argument, and elsewhere it is the app's first machine."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("cart", "done")]))
    other = fsm.add(Machine("other", [("x", "y")]))
    text = "{{ fsm.name }} {{ fsm.current }} {{ fsm.token() }}"
    for surface, pages in ((fsm, ("cart", "done")), (other, ("x", "y"))):
        for page in pages:
            app.add_url_rule(
                f"/{page}", page, surface.check()(lambda: render_template_string(text))
            )
    app.add_url_rule("/free", "free", lambda: render_template_string("{{ fsm.name }}"))
    visitor = Visitor(app)
    assert visitor.open("cart").text.startswith('shop cart <input type="hidden" name="fsm_token"')
    assert visitor.open("x").text.startswith("other x <input")
    assert visitor.open("free").text == "shop"
    with app.app_context():
        assert render_template_string("{{ fsm.name }}") == "shop"


def test_the_progress_tells_done_current_and_ahead(line: Any) -> None:
    """fsm.progress() is enough for a progress bar."""
    fsm, visitor, _ = line
    visitor.post("a")
    progress = ask(line, "b", fsm.progress)
    assert (progress.done, progress.current, progress.ahead) == (("a",), "b", ("c", "d"))
    progress = ask(line, "a", fsm.progress)
    assert (progress.done, progress.current) == ((), "a")


# -- answers --------------------------------------------------------------------------------


def test_answers_keep_their_types() -> None:
    """Dates, times, decimals, UUIDs and all of JSON come back as what they were."""
    given = {
        "date": date(2024, 2, 29),
        "time": datetime(2024, 2, 29, 12, 30),
        "price": Decimal("19.90"),
        "id": uuid.UUID(int=7),
        "nested": {"list": [1, None, True, {"$": "x"}], "text": "é|\n"},
    }
    app = new_app()
    fsm = FlaskFSM(app, LINE)
    found: list[Any] = []

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        return fsm.advance(data=given) if request.method == "POST" else "a"

    add_pages(app, fsm, "b", "c", "d", show=lambda: found.append(fsm.flow.data["a"]) or "b")
    visitor = Visitor(app)
    visitor.post("a")
    visitor.open("b")
    assert found == [given]
    assert [type(value) for value in found[0].values()] == [type(v) for v in given.values()]


def test_what_a_view_does_to_answers_it_was_given_changes_nothing(line: Any) -> None:
    """fsm.answers() and fsm.flow.data are copies."""
    fsm, visitor, _ = line
    visitor.post("a", {"n": "1"})

    def spoil() -> None:
        fsm.answers("a")["n"] = "2"
        fsm.flow.data["a"]["n"] = "3"
        fsm.flow.data.clear()

    ask(line, "b", spoil)
    assert ask(line, "b", lambda: fsm.answers("a")) == {"n": "1"}


def test_answers_are_found_by_page_and_as_drafts(shop: Callable[..., Shop]) -> None:
    """fsm.answers(page) has what was answered there, on the path or cut off by an edit."""
    made = shop("session")
    found: dict[str, Any] = {}

    @made.app.route("/ask")
    def ask_all() -> str:
        found.update({page: made.fsm.answers(page) for page in (*TO_REVIEW, "pickup")})
        return "ok"

    visitor = made.visitor().walk(*TO_REVIEW)
    visitor.send("address", {"street": "Oak 1", "way": "pickup"})
    visitor.open("ask")
    assert found["address"] == {"street": "Oak 1", "way": "pickup"}
    assert found["delivery"] == {"when": "morning"}
    assert found["payment"] == {"card": "good"}
    assert found["pickup"] is None


# -- moving ---------------------------------------------------------------------------------


def test_transition_moves_and_lets_the_view_answer() -> None:
    """fsm.transition(to, data) returns the result, and the answer is the view's own."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        if request.method == "POST":
            result = fsm.transition("b", {"n": 1})
            return {"source": result.source, "target": result.target, "rev": result.rev}
        return "a"

    add_pages(app, fsm, "b", "c", "d", show=lambda: str(fsm.flow.data))
    visitor = Visitor(app)
    assert visitor.post("a").json == {"source": "a", "target": "b", "rev": 1}
    assert visitor.open("b").text == "{'a': {'n': 1}}"


def test_two_steps_in_one_request_are_two_commits() -> None:
    """A view may go on from where its first step led."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        if request.method == "POST":
            fsm.transition("b")
            return fsm.advance("c")
        return "a"

    add_pages(app, fsm, "b", "c", "d", show=lambda: f"{fsm.flow.rev} {list(fsm.flow.path)}")
    visitor = Visitor(app)
    assert visitor.post("a").location == "/c"
    assert visitor.open("c").text == "2 ['a', 'b', 'c']"


def test_a_refusal_raises_with_data_and_the_view_may_catch_it() -> None:
    """advance(data=...) raises the FSMError itself, which the view may handle."""
    app = new_app()
    fsm = FlaskFSM(app, [Transition("a", "b", when=lambda flow: "n" in flow.data["a"])])

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        if request.method == "GET":
            return "a"
        try:
            return fsm.advance(data={"x": 1, **request.form})
        except GuardRefused as error:
            return {"code": error.code, "target": error.target, "allowed": error.allowed}

    add_pages(app, fsm, "b")
    visitor = Visitor(app)
    assert visitor.post("a").json == {"code": "guard", "target": "b", "allowed": ["b"]}
    assert visitor.post("a", {"n": "1"}).location == "/b"


def test_an_edit_may_resume_the_old_path(shop: Callable[..., Shop]) -> None:
    """advance(fast_forward=True) walks on after an edit, in one commit, while the rules hold."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)
    for page in "abcd":

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            if request.method == "POST":
                return fsm.advance(data={"n": request.form.get("n")}, fast_forward=True)
            flow = fsm.flow
            return {"rev": flow.rev, "data": flow.data, "token": str(fsm.token())}

    visitor = Visitor(app)
    for page in "ab":
        assert visitor.post(page, {"n": page}).status_code == 303
    token = token_in(visitor.open("a").json["token"])
    assert visitor.post("a", {"n": "edited"}, token).location == "/c"
    shown = visitor.open("c").json
    assert shown["rev"] == 3
    assert shown["data"] == {"a": {"n": "edited"}, "b": {"n": "b"}}
    assert visitor.post("a", {"n": "edited"}, token).location == "/c"


def test_reset_begins_anew_and_the_old_cookie_does_not_come_back(
    shop: Callable[..., Shop],
) -> None:
    """After fsm.reset() there is a blank flow, and a copied cookie brings nothing back."""
    made = shop("session")

    @made.app.post("/again")
    def again() -> str:
        made.fsm.reset()
        return made.fsm.current

    visitor = made.visitor().walk("cart", "address")
    old, token = visitor.cookie, visitor.token("delivery")
    before = visitor.see("delivery")["id"]
    assert visitor.post("again").text == "cart"
    fresh = visitor.see("cart")
    assert (fresh["rev"], fresh["answers"], fresh["data"]) == (0, None, {})
    assert fresh["id"] != before
    assert visitor.post("delivery", {}, token).status_code == 409
    visitor.cookie = old
    assert visitor.open("delivery").location == "/cart"
    visitor.cookie = old
    assert visitor.post("delivery", {}, token).status_code == 410
    visitor.cookie = old
    assert visitor.post("delivery").status_code == 410


# -- forms ----------------------------------------------------------------------------------


class Address(Form):
    street = StringField()
    number = IntegerField()


class Order(FlaskForm):
    name = StringField(validators=[DataRequired()])
    day = DateField()
    price = DecimalField()
    password = PasswordField()
    address = FormField(Address)
    tags = FieldList(StringField(), min_entries=1)
    save = SubmitField()


ORDER = {
    "name": "joe",
    "day": "2024-02-29",
    "price": "1.50",
    "password": "pw",
    "address-street": "Elm",
    "address-number": "5",
    "tags-0": "red",
    "save": "Save",
}


def order_app(machine: Machine, **config: Any) -> tuple[Visitor, FlaskFSM, list[Any]]:
    """A page with a form of every kind of field; the view notes the form after advance()."""
    app = new_app(WTF_CSRF_ENABLED=False, **config)
    fsm = FlaskFSM(app, machine)
    notes: list[Any] = []

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        form = Order(data=fsm.answers())
        if form.validate_on_submit():
            answer = fsm.advance(form=form)
            if answer:
                return answer
        notes.append((form.errors, form.form_errors))
        return f"{form.name()} {form.csrf_token() if 'csrf_token' in form else ''}", (
            422 if form.is_submitted() else 200
        )

    add_pages(app, fsm, "b", show=lambda: notes.append(fsm.flow.data["a"]) or "b")
    return Visitor(app), fsm, notes


def test_a_form_is_kept_without_its_token_buttons_and_passwords() -> None:
    """advance(form=) keeps the fields by name, with their types, and none of these."""
    visitor, _, notes = order_app(Machine("m", [("a", "b")]))
    assert visitor.post("a", ORDER).location == "/b"
    visitor.open("b")
    assert notes[-1] == {
        "name": "joe",
        "day": date(2024, 2, 29),
        "price": Decimal("1.50"),
        "address": {"street": "Elm", "number": 5},
        "tags": ["red"],
    }


def test_csrf_fields_are_dropped_where_they_are_in_use() -> None:
    """With CSRF protection on, the token is checked by the form and not kept."""
    visitor, _, notes = order_app(Machine("m", [("a", "b")]))
    visitor.app.config["WTF_CSRF_ENABLED"] = True
    assert visitor.post("a", ORDER).status_code == 422
    csrf_token = fields_in(visitor.open("a").text)["csrf_token"]
    assert visitor.post("a", {**ORDER, "csrf_token": csrf_token}).location == "/b"
    visitor.open("b")
    assert "csrf_token" not in notes[-1]


def test_a_form_comes_back_filled_with_its_answers() -> None:
    """Form(data=fsm.answers()) shows what was typed when the page is opened again."""
    visitor, _, _ = order_app(Machine("m", [("a", "b"), ("b", "c")]))
    assert 'value=""' in visitor.open("a").text
    visitor.post("a", ORDER)
    assert 'value="joe"' in visitor.open("a").text


def test_messages_of_validators_go_into_the_errors_of_the_form() -> None:
    """Of the field, of a nested field, of the whole form; the view's own page answers, with 422."""

    def check_name(flow: Any, data: dict[str, Any]) -> None:
        raise ValidationFailed("This name is taken.", field="name")

    def check_street(flow: Any, data: dict[str, Any]) -> None:
        raise ValidationFailed({"address.street": "No such street.", "gone": ["one", "two"]})

    def check_all(flow: Any, data: dict[str, Any]) -> None:
        raise ValueError("Come back tomorrow.")

    machine = Machine("m", [Transition("a", "b", validators=[check_name, check_street, check_all])])
    visitor, _, notes = order_app(machine)
    response = visitor.post("a", ORDER)
    assert response.status_code == 422
    assert 'value="joe"' in response.text
    errors, form_errors = notes[-1]
    assert list(errors["name"]) == ["This name is taken."]
    assert errors["address"]["street"] == ["No such street."]
    assert form_errors == ["Come back tomorrow.", "gone: one", "gone: two"]
    assert visitor.open("b").location == "/a"


def test_a_refusal_with_a_code_of_the_app_goes_into_the_errors_of_the_form() -> None:
    """Whichever rule it is from, and whatever its code."""

    def refuse(flow: Any, data: dict[str, Any]) -> None:
        raise ValidationFailed("This name is taken.", field="name", code="name_taken")

    machine = Machine("m", [Transition("a", "b", pre_transition=[refuse])])
    visitor, _, notes = order_app(machine)
    assert visitor.post("a", ORDER).status_code == 422
    assert list(notes[-1][0]["name"]) == ["This name is taken."]


def test_reasons_of_guards_go_into_the_errors_of_the_form() -> None:
    """A guard that refuses has its sentence in the form's own errors."""

    def is_open(flow: Any) -> bool:
        """The shop is closed."""
        return False

    visitor, _, notes = order_app(Machine("m", [Transition("a", "b", when=is_open)]))
    assert visitor.post("a", ORDER).status_code == 422
    assert notes[-1][1] == ["The shop is closed."]


def test_what_is_no_refusal_of_a_rule_is_raised_with_a_form_too() -> None:
    """An edge that isn't there, and data that can't be kept, are not the form's fault."""
    visitor, _, _ = order_app(Machine("m", [("a", "b")]))
    assert visitor.post("a", {**ORDER, "to": "a"}).status_code == 409

    class Odd(Form):
        name = StringField(filters=[lambda value: {1, 2}])

    app = new_app()
    fsm = FlaskFSM(app, LINE)

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        if request.method == "GET":
            return "a"
        try:
            return fsm.advance(form=Odd(request.form))
        except InvalidData as error:
            return {"fields": list(error.fields)}

    add_pages(app, fsm, "b", "c", "d")
    assert Visitor(app).post("a", {"name": "x"}).json == {"fields": ["name"]}


def test_a_refused_form_can_be_sent_again_with_its_token() -> None:
    """After messages of a rule the page has a token that is still good, and so is the old one."""
    good: list[bool] = [False]

    def check(flow: Any, data: dict[str, Any]) -> None:
        if not good[0]:
            raise ValidationFailed("Not yet.", field="name")

    app = new_app(WTF_CSRF_ENABLED=False)
    fsm = FlaskFSM(app, Machine("m", [Transition("a", "b", validators=[check])]))

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        form = Order()
        if form.validate_on_submit() and (answer := fsm.advance(form=form)):
            return answer
        return str(fsm.token())

    add_pages(app, fsm, "b")
    visitor = Visitor(app)
    first = visitor.token("a")
    second = token_in(visitor.post("a", ORDER, first).text)
    good[0] = True
    assert_moved(visitor.post("a", ORDER, second), "html", "/b")


# -- rules ----------------------------------------------------------------------------------


def test_data_handed_over_is_seen_by_rules_and_kept_only_if_it_commits() -> None:
    """pre_transition enriches, guards and validators see it, and a refusal keeps nothing."""
    app = new_app()
    order: list[str] = []
    machine = Machine("m", [("a", "b")], states=["a", State("b")])
    b = machine.states["b"]

    @b.hook
    def told(flow: Any, result: Any) -> None:
        order.append(f"hook {result.data['n']}")

    @b.validator
    def not_three(flow: Any, data: dict[str, Any]) -> None:
        order.append("validator")
        if data["n"] == 3:
            raise ValidationFailed("Not three.", field="n")

    @b.guard
    def not_two(flow: Any) -> bool:
        order.append("guard")
        return bool(flow.data["a"]["n"] != 2)

    @b.pre_transition
    def count(flow: Any, data: dict[str, Any]) -> None:
        order.append("pre")
        data["n"] = int(data["n"]) + 1

    fsm = FlaskFSM(app, machine)
    add_pages(app, fsm, "a", "b", show=lambda: str(fsm.flow.data))
    visitor = Visitor(app)
    for n, status in (("1", 409), ("2", 422), ("3", 303)):
        assert visitor.post("a", {"n": n}).status_code == status
    assert order == [
        *("pre", "guard"),
        *("pre", "guard", "validator"),
        *("pre", "guard", "validator", "hook 4"),
    ]
    assert visitor.open("b").text == "{'a': {'n': 4}}"


def test_a_hook_that_fails_is_logged_and_undoes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After the commit nothing can undo it: the visitor goes on, and the failure is in the log."""

    def hook(flow: Any, result: Any) -> None:
        raise RuntimeError("the mail server is down")

    ran: list[str] = []
    app = new_app()
    machine = Machine(
        "m", [Transition("a", "b", hooks=[hook, lambda flow, result: ran.append("next")])]
    )
    fsm = FlaskFSM(app, machine)
    add_pages(app, fsm, "a", "b")
    visitor = Visitor(app)
    with caplog.at_level(logging.ERROR, "flask_fsm"):
        assert visitor.post("a").location == "/b"
    assert "the mail server is down" in caplog.text
    assert ran == ["next"]
    assert visitor.open("b").status_code == 200


def test_a_rule_that_crashes_is_a_500_and_changes_nothing() -> None:
    """A validator that raises what is no refusal is a fault of the app, not of the visitor."""
    app = new_app(PROPAGATE_EXCEPTIONS=False)
    app.config["TESTING"] = False

    def crash(flow: Any, data: Any) -> None:
        raise KeyError("typo")

    fsm = FlaskFSM(app, Machine("m", [Transition("a", "b", validators=[crash])]))
    add_pages(app, fsm, "a", "b", show=lambda: fsm.current)
    visitor = Visitor(app)
    assert visitor.post("a", {"n": "1"}).status_code == 500
    assert visitor.open("a").text == "a"


# -- signals --------------------------------------------------------------------------------


@contextmanager
def heard(*wanted: NamedSignal) -> Iterator[list[tuple[str, Any, dict[str, Any]]]]:
    """Note each signal with its sender and arguments."""
    found: list[tuple[str, Any, dict[str, Any]]] = []
    receivers = []
    for signal in wanted:

        def receive(sender: Any, name: str = signal.name, **arguments: Any) -> None:
            found.append((name, sender, arguments))

        receivers.append(receive)
        signal.connect(receive)
    try:
        yield found
    finally:
        for signal, receiver in zip(wanted, receivers, strict=True):
            signal.disconnect(receiver)


ALL = (signals.transitioned, signals.denied, signals.finished, signals.reset)


def test_each_transition_is_signalled_after_its_commit(shop: Callable[..., Shop]) -> None:
    """`transitioned` and, at the end, `finished`; the sender is the app, the facts are keywords."""
    made = shop("session")
    with heard(*ALL) as found:
        made.visitor().walk(*TO_REVIEW, "review")
    assert [name for name, _, _ in found] == ["fsm-transitioned"] * 5 + ["fsm-finished"]
    for _, sender, facts in found:
        assert sender is made.app
        assert facts["machine"] == "shop"
    edges = [(f["result"].source, f["result"].target) for _, _, f in found[:5]]
    assert edges[0] == ("cart", "address")
    assert found[-1][2]["result"].target == "done"
    assert found[-1][2]["flow"].finished


def test_each_refusal_is_signalled(shop: Callable[..., Shop]) -> None:
    """`denied` carries the error: deep links, stale forms, refusals of rules."""
    made = shop("session")
    visitor = made.visitor().walk("cart", "address", "delivery")
    token = visitor.token("payment")
    with heard(signals.denied) as found:
        visitor.open("done")
        visitor.post("cart")
        visitor.post("payment", {"card": "declined"}, token)
        visitor.post("payment", {}, "bad")
    assert [facts["error"].code for _, _, facts in found] == [
        "not_on_path",
        "not_current",
        "validation",
        "bad_token",
    ]
    assert all(isinstance(facts["error"], FSMError) for _, _, facts in found)
    assert {sender for _, sender, _ in found} == {made.app}


def test_a_refusal_that_goes_into_a_form_is_signalled_too() -> None:
    """Whether the page or the view answers, the observers hear of it."""
    visitor, _, _ = order_app(Machine("m", [Transition("a", "b", when=lambda flow: False)]))
    with heard(signals.denied) as found:
        visitor.post("a", ORDER)
    assert len(found) == 1


def test_a_reset_is_signalled_with_what_was_left(shop: Callable[..., Shop]) -> None:
    """`reset` carries the blank flow and the snapshot before it."""
    made = shop("session")

    @made.app.post("/again")
    def again() -> str:
        made.fsm.reset()
        return "ok"

    visitor = made.visitor().walk("cart")
    with heard(*ALL) as found:
        visitor.post("again")
    assert [name for name, _, _ in found] == ["fsm-reset"]
    _, sender, facts = found[0]
    assert sender is made.app
    assert facts["previous"].state == "address"
    assert (facts["flow"].current, facts["flow"].rev) == ("cart", 0)


def test_what_moved_nothing_signals_no_transition(shop: Callable[..., Shop]) -> None:
    """A repeated form, a GET and a refusal are no transitions."""
    made = shop("session")
    visitor = made.visitor()
    token = visitor.token("cart")
    visitor.post("cart", {}, token)
    with heard(signals.transitioned, signals.finished) as found:
        visitor.post("cart", {}, token)
        visitor.open("address")
        visitor.post("cart")
    assert found == []


def test_a_receiver_that_fails_undoes_nothing(
    shop: Callable[..., Shop], caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of an observer is logged, and the visitor goes on."""
    made = shop("session")

    def fail(sender: Any, **facts: Any) -> None:
        raise RuntimeError("the observer failed")

    with signals.transitioned.connected_to(fail), caplog.at_level(logging.ERROR, "flask_fsm"):
        assert made.visitor().send("cart").location == "/address"
    assert "the observer failed" in caplog.text


# -- the proof of concept -------------------------------------------------------------------


def test_the_proof_of_concept_walks_as_it_did() -> None:
    """index, a, b, c with repeat=False: `to` chooses, each edge once, b shows the status."""
    app = new_app()
    fsm = FlaskFSM(
        app,
        Machine("poc", [("index", "a"), ("a", "b"), ("b", "index"), ("b", "c")], repeat=False),
    )
    for page, accept, to in (
        ("index", ["b"], ["a"]),
        ("a", ["index"], ["b"]),
        ("b", ["a"], ["index", "c"]),
        ("c", ["b"], None),
    ):

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check(accept=accept, to=to)
        def view(page: str = page) -> object:
            return fsm.advance() if request.method == "POST" else f"{page}|{fsm.status}"

    visitor = Visitor(app)
    assert visitor.open("b").location == "/index"
    assert visitor.post("index").location == "/a"
    assert visitor.post("a?to=b").location == "/b"
    assert visitor.open("b").text == "b|index -> a\na -> b"
    assert visitor.post("b").status_code == 409  # two ways: which one?
    assert visitor.post("b", {"to": "a"}).status_code == 409
    assert visitor.post("b?to=c").location == "/c"
    assert visitor.open("c").text == "c|index -> a\na -> b\nb -> c"
    assert visitor.open("index").text == "index|"  # after the end a blank run is shown


def test_a_run_without_an_untaken_way_on_ends() -> None:
    """Back at the index every way on is taken, so the run is over and the next one begins."""
    app = new_app()
    edges = [("index", "a"), ("a", "b"), ("b", "index"), ("b", "c")]
    fsm = FlaskFSM(app, Machine("poc", edges, repeat=False))
    add_pages(app, fsm, "index", "a", "b", "c", show=lambda: f"{fsm.current} {fsm.flow.rev}")
    visitor = Visitor(app)
    with heard(signals.finished) as found:
        visitor.post("index")
        visitor.post("a")
        assert visitor.post("b", {"to": "index"}).location == "/index"
    assert len(found) == 1
    assert visitor.open("index").text == "index 0"
    assert visitor.post("index").location == "/a"
    assert visitor.open("a").text == "a 1"


class Names(str, Enum):  # noqa: UP042
    """Members hash by their names, and not as their values do."""

    A = "a"
    B = "b"
    C = "c"


def test_names_given_as_members_of_an_enumeration_are_plain_texts() -> None:
    """In decorators, calls, URLs, JSON and the session."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("m", [(Names.A, Names.B), (Names.B, Names.C)]))
    told: list[Any] = []

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check(to=Names.B, state=Names.A)
    def first() -> object:
        if request.method == "GET":
            return "a"
        told.append((fsm.can_transition(Names.B), fsm.has_not_skipped(Names.B), fsm.current))
        return fsm.advance(Names.B, data={"x": 1})

    @app.route("/b", methods=["GET", "POST"], endpoint="b")
    @fsm.check(accept=[Names.A], to=[Names.C])
    def second() -> object:
        told.append((fsm.answers(Names.A), fsm.complete(Names.C), fsm.url_for(Names.A)))
        if request.method == "POST":
            fsm.transition(Names.C)
        return {"current": fsm.current, "history": [list(entry) for entry in fsm.history]}

    @app.route("/extra")
    @fsm.requires(Names.C)
    def extra() -> str:
        return fsm.current

    add_pages(app, fsm, "c")
    visitor = Visitor(app)
    assert visitor.open("extra").status_code == 409
    response = visitor.post("a", asking="json")
    assert response.json == {"state": "b", "rev": 1, "location": "/b"}
    body = visitor.open("b").get_data(as_text=True)
    assert "Names" not in body
    assert visitor.post("b").json is not None
    assert visitor.open("extra").text == "c"
    assert told[0] == (True, True, "a")
    assert told[1] == ({"x": 1}, True, "/a")


def test_a_copy_of_the_flow_of_a_request_stores_nothing() -> None:
    """To try what would be: the flow itself stays where it is."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)
    seen: list[Any] = []

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        for duplicate in (copy, deepcopy):
            other = duplicate(fsm.flow)
            other.transition("b", {"x": 1})
            seen.append((other.current, other.rev, fsm.current, fsm.flow.is_on_path("b")))
        return "a"

    add_pages(app, fsm, "b", "c", "d")
    assert Visitor(app).open("a").text == "a"
    assert seen == [("b", 1, "a", False)] * 2
    assert Visitor(app).open("b").location == "/a"
