"""URL arguments that do not identify a page, such as a language: changing one is no 404."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Blueprint, Flask, g, redirect, request, url_for

from flask_fsm import DefinitionError, FlaskFSM, Machine

from ..apps import FEW_STORES, SECRET, Visitor, token_in

LINE = [("cart", "address"), ("address", "done")]


def new_app(store: str = "session") -> Flask:
    app = Flask("free")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL=store)
    return app


def add(app: Flask | Blueprint, fsm: Any, rule: str, *pages: str, **options: Any) -> None:
    for page in pages:

        @app.route(rule.replace("PAGE", page), methods=["GET", "POST"], endpoint=page)
        @fsm.check(**options)
        def view(**view_args: Any) -> Any:
            if request.method == "POST":
                return fsm.advance(data={"x": "1"})
            return f"{view_args} {fsm.url_for()} {fsm.token()}"


SETUPS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"free_args": ("lang",)}, {}),
    ({"free_args": "lang"}, {}),
    ({}, {"free": ["lang"]}),
    ({}, {"free": "lang"}),
]


@pytest.fixture(params=FEW_STORES)
def store(request: Any) -> str:
    text: str = request.param
    return text


@pytest.mark.parametrize(("machine", "check"), SETUPS)
def test_a_visitor_may_change_the_language_on_every_page(
    store: str, machine: Any, check: Any
) -> None:
    """Pages open in another language, forms are taken in it, and it goes on from page to page."""
    app = new_app(store)
    fsm = FlaskFSM(app, Machine("shop", LINE, **machine))
    add(app, fsm, "/<lang>/<int:shop>/PAGE", "cart", "address", "done", **check)
    visitor = Visitor(app)
    assert visitor.open("en/1/cart").status_code == 200
    token = token_in(visitor.open("de/1/cart").text)
    assert visitor.post("fr/1/cart", token=token).location == "/fr/1/address"
    shown = visitor.open("it/1/address")
    assert shown.text.startswith("{'lang': 'it', 'shop': 1} /it/1/address <input")
    assert visitor.open("es/1/done").location == "/es/1/address"  # on from there in the language
    assert visitor.open("es/1/cart").status_code == 200
    # An edit in another language, too.
    edit = token_in(visitor.open("pt/1/cart").text)
    assert visitor.post("pt/1/cart", token=edit).location == "/pt/1/address"
    token = token_in(visitor.open("it/1/address").text)
    moved = visitor.post("it/1/address", token=token)
    assert moved.location == "/it/1/done"
    assert visitor.post("it/1/address", token=token).location == "/it/1/done"  # a double click
    assert visitor.open("en/1/done").status_code == 200


@pytest.mark.parametrize(("machine", "check"), [*SETUPS, ({}, {})])
def test_the_other_arguments_identify_the_page_as_before(
    store: str, machine: Any, check: Any
) -> None:
    """Another shop is another page, also in the same language; without `free`, so is a language."""
    app = new_app(store)
    fsm = FlaskFSM(app, Machine("shop", LINE, **machine))
    add(app, fsm, "/<lang>/<int:shop>/PAGE", "cart", "address", "done", **check)
    visitor = Visitor(app)
    visitor.post("en/1/cart", token=token_in(visitor.open("en/1/cart").text))
    assert visitor.open("en/1/address").status_code == 200
    assert visitor.open("en/2/address").status_code == 404
    assert visitor.post("en/2/address").status_code == 404
    assert visitor.open("de/2/address").status_code == 404
    free = bool(machine or check)
    assert visitor.open("de/1/address").status_code == (200 if free else 404)


def test_one_page_may_have_a_free_argument_of_its_own() -> None:
    """check(free=...) holds for its page only, also for one that is part of a query-like path."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("cart", "list"), ("list", "done")]))
    add(app, fsm, "/PAGE", "cart", "done")
    app.add_url_rule(
        "/list/<int:page>/<by>",
        "list",
        fsm.check(free="page")(lambda page, by: f"{page} {by} {fsm.url_for()}"),
    )
    app.add_url_rule("/go", "go", lambda: fsm.advance("list", page=1, by="name"), methods=["POST"])
    visitor = Visitor(app)
    assert visitor.post("go").location == "/list/1/name"
    assert visitor.open("list/7/name").text == "7 name /list/7/name"
    assert visitor.open("list/7/price").status_code == 404


def test_a_request_without_the_argument_links_to_the_language_of_the_path() -> None:
    """A view elsewhere has no language: there the page is linked to as it was reached."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", LINE, free_args=("lang",)))
    add(app, fsm, "/<lang>/PAGE", "cart", "address", "done")
    app.add_url_rule("/box", "box", lambda: fsm.url_for())
    visitor = Visitor(app)
    visitor.post("de/cart", token=token_in(visitor.open("de/cart").text))
    visitor.open("en/address")
    assert visitor.open("box").text == "/de/address"


def test_a_view_may_move_in_the_language_of_the_request() -> None:
    """fsm.flow.transition() takes the other arguments of the path, and the language of now."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", LINE, free_args=("lang",)))
    add(app, fsm, "/<lang>/<int:shop>/PAGE", "cart", "address", "done")

    @app.post("/<lang>/step")
    def step(lang: str) -> Any:
        fsm.flow.transition("done")
        return redirect(fsm.url_for())

    visitor = Visitor(app)
    visitor.post("de/1/cart", token=token_in(visitor.open("de/1/cart").text))
    assert visitor.post("fr/step").location == "/fr/1/done"
    with app.test_request_context("/x"):
        assert fsm.name == "shop"


def test_a_language_that_the_app_takes_out_of_the_arguments_is_free_by_itself() -> None:
    """As Flask's documentation does it: url_value_preprocessor and url_defaults."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", LINE))

    @app.url_value_preprocessor
    def pull(endpoint: str | None, values: dict[str, Any] | None) -> None:
        g.lang = (values or {}).pop("lang", "en")

    @app.url_defaults
    def add_lang(endpoint: str, values: dict[str, Any]) -> None:
        if app.url_map.is_endpoint_expecting(endpoint, "lang"):
            values.setdefault("lang", g.lang)

    add(app, fsm, "/<lang>/PAGE", "cart", "address", "done")
    visitor = Visitor(app)
    visitor.post("de/cart", token=token_in(visitor.open("en/cart").text))
    assert visitor.open("fr/address").status_code == 200
    with app.test_request_context("/fr/address"):
        g.lang = "fr"
        assert url_for("cart") == "/fr/cart"


# -- faults -----------------------------------------------------------------------------------


def faults_of(app: Flask) -> str:
    with pytest.raises(DefinitionError) as caught:
        Visitor(app).open("en/cart")
    return str(caught.value)


def test_a_free_argument_that_no_route_has_is_a_fault() -> None:
    """A misspelt one would free nothing; the error names it, and where it stands."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", LINE, free_args=("lnag",)))
    add(app, fsm, "/<lang>/PAGE", "cart", "address", "done", free=["lan"])
    text = faults_of(app)
    assert "view 'cart', machine 'shop': free names 'lan', which its route does not have." in text
    assert "free_args names 'lnag', which the route of no page has." in text


def test_an_argument_that_selects_the_flow_is_not_free() -> None:
    """Neither the key of many flows nor an argument of the subject."""
    app = new_app("memory://")
    fsm = FlaskFSM(app, Machine("shop", LINE, many="order", free_args=["order", "user"]))
    fsm.subject(lambda user: str(user))
    add(app, fsm, "/<user>/<order>/PAGE", "cart", "address", "done")
    with pytest.raises(DefinitionError) as caught:
        Visitor(app).open("ada/1/cart")
    for name in ("order", "user"):
        assert f"{name!r} can't be a free argument" in str(caught.value)


@pytest.mark.parametrize("wrong", [[1], 7, [""], None])
def test_free_args_that_are_no_names_are_a_fault_of_the_machine(wrong: Any) -> None:
    """It is said where the machine is defined."""
    with pytest.raises(DefinitionError, match="free_args"):
        Machine("shop", LINE, free_args=wrong)


def test_a_definition_keeps_its_free_arguments_as_data() -> None:
    """to_dict and from_dict have them as the other options."""
    machine = Machine("shop", LINE, free_args=["lang", "page"])
    again = Machine.from_dict(machine.to_dict())
    assert again.free_args == machine.free_args == ("lang", "page")


def test_a_route_argument_that_many_uses_itself_is_a_fault() -> None:
    """The query argument `flow` names the flow; a page's own `flow` would hide it."""
    app = new_app("memory://")
    fsm = FlaskFSM(app, Machine("shop", LINE, many=True))
    add(app, fsm, "/<flow>/PAGE", "cart", "address", "done")
    assert "its route has the argument 'flow'" in faults_of(app)
