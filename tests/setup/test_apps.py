"""Ways to bring a machine and an app together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flask import Blueprint, Flask, request
from flask.views import MethodView, View

from flask_fsm import (
    ConfigError,
    DefinitionError,
    FlaskFSM,
    FSMError,
    Machine,
    NotAPage,
    State,
    Transition,
    ValidationFailed,
)

from ..apps import SECRET, Visitor, assert_private, token_in


def new_app(name: str = "app", **config: Any) -> Flask:
    app = Flask(name)
    app.config.update(SECRET_KEY=SECRET, TESTING=True, **config)
    return app


def add_pages(app: Flask | Blueprint, fsm: Any, *pages: str) -> None:
    """Views that show their own name, and advance by the only way or by `to`."""
    for page in pages:

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            return fsm.advance() if request.method == "POST" else f"{page} {fsm.token()}"


LINE = [("a", "b"), ("b", "c")]


# -- constructors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "definition", [Machine("line", LINE), LINE, tuple(LINE), [Transition("a", "b"), ("b", "c")]]
)
def test_a_machine_or_a_list_of_transitions_will_do(definition: Any) -> None:
    """FlaskFSM(machine), FlaskFSM([...]), FlaskFSM(app, machine) and FlaskFSM(app, [...])."""
    app = new_app()
    fsm = FlaskFSM(definition)
    fsm.init_app(app)
    other_app = new_app()
    other = FlaskFSM(other_app, definition)
    for one, surface in ((app, fsm), (other_app, other)):
        add_pages(one, surface, "a", "b", "c")
        visitor = Visitor(one)
        assert visitor.post("a").location == "/b"
        assert visitor.open("c").location == "/b"


def test_a_list_of_transitions_takes_the_options_of_a_machine() -> None:
    """FlaskFSM([...], repeat=False, ordered=True) does what Machine(...) does with them."""
    loop = [("a", "b"), ("b", "a"), ("b", "c")]
    fsm = FlaskFSM(loop, repeat=False, ordered=True, final="c", reset="manual")
    app = new_app()
    fsm.init_app(app)
    add_pages(app, fsm, "a", "b", "c")
    assert (fsm.machine.repeat, fsm.machine.ordered, fsm.machine.reset) == (False, True, "manual")
    visitor = Visitor(app)
    visitor.post("a")
    refused = visitor.post("b", {"to": "c"}, asking="json")
    assert (refused.status_code, refused.get_json()["reason"]) == (409, "skipped")
    with app.test_request_context():
        fsm.transition("b")
        fsm.transition("a")
        assert fsm.flow.finished  # the only edge out has been taken


def test_a_machine_of_the_decorators_takes_the_options_of_a_machine() -> None:
    """FlaskFSM(app, repeat=False) holds for the edges that check(to=...) names."""
    app = new_app()
    fsm = FlaskFSM(app, repeat=False, initial="b")
    app.add_url_rule("/a", "a", fsm.check(to="b")(lambda: "a"))
    app.add_url_rule("/b", "b", fsm.check(to="a")(lambda: "b"))
    with app.app_context():
        assert not fsm.machine.repeat
        assert fsm.machine.initial == "b"


def test_options_of_a_machine_that_is_given_are_an_error() -> None:
    """A Machine has its own options; a misspelt one is an error at once, too."""
    with pytest.raises(ConfigError, match="Give ordered to the Machine 'line' itself"):
        FlaskFSM(Machine("line", LINE), ordered=True)
    for arguments in ((LINE,), ()):
        with pytest.raises(TypeError, match="no option repaet"):
            FlaskFSM(*arguments, repaet=False)  # type: ignore[call-arg]


def test_the_repr_shows_states_transitions_and_history() -> None:
    """It shows what there is: the machine outside of a request, and the flow within one."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b"), ("b", "c")])
    add_pages(app, fsm, "a", "b", "c")
    shape = "'fsm' states=['a', 'b', 'c'] transitions=[('a', 'b'), ('b', 'c')]"
    assert repr(fsm) == f"<FlaskFSM {shape}>"
    with app.test_request_context():
        fsm.transition("b")
        assert repr(fsm) == f"<FlaskFSM {shape} at 'b' history=[('a', 'b')]>"
        assert repr(fsm.default) == f"<MachineViews {shape} at 'b' history=[('a', 'b')]>"


def test_the_repr_never_raises() -> None:
    """In a debugger it says what it knows, whatever is missing or broken."""
    app = new_app()
    fsm = FlaskFSM(app)
    assert repr(fsm) == "<FlaskFSM 'fsm' built from decorators>"
    other = FlaskFSM([("a", "b")])
    with app.test_request_context():
        assert repr(fsm) == "<FlaskFSM 'fsm' built from decorators flow unknown: DefinitionError>"
        assert repr(other).startswith("<FlaskFSM 'fsm' states=['a', 'b']")
    broken = FlaskFSM(crashing := new_app(), [("a", "b")])
    broken.subject(lambda: 1 / 0)
    add_pages(crashing, broken, "a", "b")
    with crashing.test_request_context():
        assert repr(broken).endswith("flow unknown: ZeroDivisionError>")


def test_a_machine_and_an_app_in_the_wrong_order_is_an_error() -> None:
    """FlaskFSM(machine, app) is told what it takes."""
    with pytest.raises(ConfigError, match="app and a machine"):
        FlaskFSM(Machine("line", LINE), new_app())  # type: ignore[arg-type]


def test_an_app_has_one_flaskfsm() -> None:
    """A second init_app on the same app is an error that names the way to more machines."""
    app = new_app()
    FlaskFSM(app, LINE)
    with pytest.raises(ConfigError, match=r"fsm\.add"):
        FlaskFSM(app, LINE)


def test_the_state_of_an_app_is_in_its_extensions() -> None:
    """Nothing of an app is kept on the extension object."""
    fsm = FlaskFSM(LINE)
    before = dict(vars(fsm))
    app = new_app()
    fsm.init_app(app)
    add_pages(app, fsm, "a", "b", "c")
    Visitor(app).post("a")
    assert "fsm" in app.extensions
    assert vars(fsm).keys() == before.keys()
    assert app not in vars(fsm).values()


def test_one_extension_serves_apps_of_a_factory() -> None:
    """Two apps made by one factory share the definition and nothing else."""
    fsm = FlaskFSM(Machine("line", LINE))

    def create_app(name: str) -> Flask:
        app = new_app(name)
        fsm.init_app(app)
        add_pages(app, fsm, "a", "b", "c")
        return app

    one, two = Visitor(create_app("one")), Visitor(create_app("two"))
    one.post("a")
    assert two.open("b").location == "/a"
    assert one.open("b").status_code == 200
    assert one.app.extensions["fsm"] is not two.app.extensions["fsm"]


def test_apps_may_narrow_one_machine_differently() -> None:
    """What one app's decorators take away, another app still has."""
    fsm = FlaskFSM(Machine("line", [("a", "b"), ("a", "c"), ("b", "c")]))

    def create_app(to: list[str] | None) -> Flask:
        app = new_app()
        fsm.init_app(app)
        add_pages(app, fsm, "b", "c")

        @app.route("/a", methods=["GET", "POST"])
        @fsm.check(to=to)
        def a() -> object:
            return fsm.advance() if request.method == "POST" else "a"

        return app

    narrow, wide = Visitor(create_app(["b"])), Visitor(create_app(None))
    assert narrow.post("a", {"to": "c"}).status_code == 409
    assert wide.post("a", {"to": "c"}).location == "/c"
    assert narrow.post("a").location == "/b"


def test_the_order_of_routes_and_init_app_does_not_matter() -> None:
    """Views may come before init_app, after it, or in a blueprint registered last."""
    fsm = FlaskFSM(Machine("line", [("a", "pages.b"), ("pages.b", "c")]))
    app = new_app()
    add_pages(app, fsm, "a")
    pages = Blueprint("pages", __name__)
    fsm.init_app(app)
    add_pages(pages, fsm, "b")
    add_pages(app, fsm, "c")
    app.register_blueprint(pages, url_prefix="/p")
    visitor = Visitor(app)
    assert visitor.post("a").location == "/p/b"
    assert visitor.post("p/b").location == "/c"


def test_without_init_app_the_error_says_so() -> None:
    """A guarded view of an app without FlaskFSM names the call that is missing."""
    app = new_app()
    fsm = FlaskFSM(LINE)
    add_pages(app, fsm, "a")
    with pytest.raises(ConfigError, match="init_app"):
        Visitor(app).open("a")


def test_outside_of_a_request_the_error_says_so() -> None:
    """fsm.current outside of a request explains where there is a flow."""
    fsm = FlaskFSM(LINE)
    with pytest.raises(ConfigError, match="test_request_context"):
        _ = fsm.current
    assert "FlaskFSM" in repr(fsm)


def test_in_a_test_request_there_is_a_flow() -> None:
    """app.test_request_context() is enough to ask and to move, as in a shell."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)
    add_pages(app, fsm, "a", "b", "c")
    with app.test_request_context("/a"):
        assert fsm.current == "a"
        assert fsm.transition("b").target == "b"
        assert fsm.current == "b"


# -- several machines -----------------------------------------------------------------------


def test_a_second_machine_guards_its_own_pages() -> None:
    """fsm.add(machine) gives a second set of decorators, with a flow of its own."""
    fsm = FlaskFSM(Machine("shop", [("cart", "done")]))
    signup = fsm.add(Machine("signup", [("account", "welcome")]))
    app = new_app()
    fsm.init_app(app)
    add_pages(app, fsm, "cart", "done")
    add_pages(app, signup, "account", "welcome")
    visitor = Visitor(app)
    assert visitor.post("cart").location == "/done"
    assert visitor.open("welcome").location == "/account"
    assert visitor.post("account").location == "/welcome"
    assert visitor.open("done").status_code == 200


def test_machines_added_after_init_app_count_too() -> None:
    """Until the first request, machines may come."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("cart", "done")]))
    later = fsm.add(Machine("later", [("x", "y")]))
    add_pages(app, fsm, "cart", "done")
    add_pages(app, later, "x", "y")
    assert Visitor(app).post("x").location == "/y"


def test_two_machines_of_one_name_are_an_error() -> None:
    """The second one is asked for another name."""
    fsm = FlaskFSM(Machine("shop", LINE))
    with pytest.raises(DefinitionError, match="another name"):
        fsm.add(Machine("shop", LINE))


def test_a_token_of_one_machine_is_no_token_of_another() -> None:
    """Machines of one session have flows, and so tokens, of their own."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("cart", "done")]))
    other = fsm.add(Machine("other", [("x", "y")]))
    add_pages(app, fsm, "cart", "done")
    add_pages(app, other, "x", "y")
    visitor = Visitor(app)
    token = visitor.token("cart")
    visitor.open("x")
    with pytest.raises(FSMError, match=r"token of machine 'shop', but machine 'other' guards"):
        visitor.post("x", {}, token)
    app.testing = False
    assert visitor.post("x", {}, token).status_code == 409


def test_a_view_of_one_machine_may_move_another() -> None:
    """Inside a page of one machine the other one's flow can be asked and moved."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("shop", [("cart", "done")]))
    other = fsm.add(Machine("other", [("x", "y"), ("y", "z")]))
    add_pages(app, other, "x", "y", "z")

    @app.route("/cart", methods=["GET", "POST"])
    @fsm.check()
    def cart() -> object:
        if request.method == "POST":
            other.transition("y", {"from": "cart"})
            return fsm.advance()
        return other.current

    add_pages(app, fsm, "done")
    visitor = Visitor(app)
    assert visitor.open("cart").text == "x"
    assert visitor.post("cart").location == "/done"
    assert visitor.open("y").status_code == 200
    assert visitor.open("z").location == "/y"


# -- blueprints -----------------------------------------------------------------------------


def test_names_are_looked_up_in_the_blueprint_of_the_view() -> None:
    """In a blueprint, `accept`, `to` and advance() take undotted names as the blueprint's own."""
    fsm = FlaskFSM(Machine("line", [("shop.a", "shop.b"), ("shop.b", "end")]))
    shop = Blueprint("shop", __name__, url_prefix="/shop")

    @shop.route("/a", methods=["GET", "POST"])
    @fsm.check(to=["b"])
    def a() -> object:
        if request.method == "POST":
            assert fsm.can_transition("b")
            return fsm.advance("b")
        return f"{fsm.url_for('a')} {fsm.current}"

    @shop.route("/b", methods=["GET", "POST"])
    @fsm.check(accept=["a"], to="end")
    def b() -> object:
        return fsm.advance("end") if request.method == "POST" else "b"

    app = new_app()
    app.register_blueprint(shop)
    fsm.init_app(app)
    add_pages(app, fsm, "end")
    visitor = Visitor(app)
    assert visitor.open("shop/a").text == "/shop/a shop.a"
    assert visitor.post("shop/a", {"to": "b"}).location == "/shop/b"
    assert visitor.post("shop/b").location == "/end"


def test_blueprints_may_be_nested() -> None:
    """A page of a nested blueprint has a name with two dots, and its neighbours have none."""
    fsm = FlaskFSM(Machine("line", [("outer.inner.a", "outer.inner.b"), ("outer.inner.b", "z")]))
    outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)

    @inner.route("/a", methods=["GET", "POST"])
    @fsm.check(to=["b"])
    def a() -> object:
        return fsm.advance("b") if request.method == "POST" else "a"

    @inner.route("/b", methods=["GET", "POST"])
    @fsm.check(accept=["a"], to=["z"])
    def b() -> object:
        return fsm.advance() if request.method == "POST" else "b"

    outer.register_blueprint(inner, url_prefix="/in")
    app = new_app()
    fsm.init_app(app)
    app.register_blueprint(outer, url_prefix="/out")
    add_pages(app, fsm, "z")
    visitor = Visitor(app)
    assert visitor.open("out/in/b").location == "/out/in/a"
    assert visitor.post("out/in/a").location == "/out/in/b"
    assert visitor.post("out/in/b").location == "/z"


def test_a_blueprint_registered_twice_has_pages_of_each_name() -> None:
    """The same views under two names are the pages of two runs of names."""
    fsm = FlaskFSM(Machine("line", [("one.a", "one.b"), ("one.b", "two.a"), ("two.a", "two.b")]))
    pages = Blueprint("pages", __name__)
    add_pages(pages, fsm, "a", "b")
    app = new_app()
    fsm.init_app(app)
    app.register_blueprint(pages, url_prefix="/1", name="one")
    app.register_blueprint(pages, url_prefix="/2", name="two")
    visitor = Visitor(app)
    assert visitor.post("1/a").location == "/1/b"
    assert visitor.open("2/a").location == "/1/b"
    assert visitor.post("1/b").location == "/2/a"
    assert visitor.post("2/a").location == "/2/b"


# -- views of all kinds ---------------------------------------------------------------------


def test_class_based_views_are_guarded_by_decorators() -> None:
    """`decorators = [fsm.check(...)]` guards every method of a MethodView, and a plain View."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("classes", [("first", "second"), ("second", "third")]))

    class First(MethodView):
        decorators = [fsm.check(to=["second"])]

        def get(self) -> str:
            return f"first {fsm.token()}"

        def post(self) -> object:
            return fsm.advance("second", data={"n": 1})

    class Second(View):
        methods = ["GET", "POST"]
        decorators = [fsm.check(accept=["first"])]
        init_every_request = False

        def dispatch_request(self) -> object:
            return fsm.advance() if request.method == "POST" else "second"

    app.add_url_rule("/first", view_func=First.as_view("first"))
    app.add_url_rule("/second", view_func=Second.as_view("second"))
    add_pages(app, fsm, "third")
    visitor = Visitor(app)
    assert visitor.open("second").location == "/first"
    token = visitor.token("first")
    assert visitor.post("first", {}, token).location == "/second"
    assert visitor.open("second").text == "second"
    assert visitor.post("second").location == "/third"
    assert visitor.client.put("/first").status_code == 405


def test_async_views_and_rules_run() -> None:
    """Async views, guards, validators, pre_transition rules and hooks are awaited."""
    ran: list[str] = []

    async def guard(flow: Any) -> bool:
        """Async says yes or no."""
        await asyncio.sleep(0)
        ran.append("guard")
        return "no" not in flow.data["a"]

    async def enrich(flow: Any, data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        data["enriched"] = True

    async def validate(flow: Any, data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if "bad" in data:
            raise ValidationFailed("Bad.", field="bad")

    async def hook(flow: Any, result: Any) -> None:
        await asyncio.sleep(0)
        ran.append("hook")

    app = new_app()
    machine = Machine(
        "async",
        [
            Transition(
                "a",
                "b",
                when=guard,
                pre_transition=[enrich],
                validators=[validate],
                hooks=[hook],
            )
        ],
    )
    fsm = FlaskFSM(app, machine)

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    async def a() -> object:
        await asyncio.sleep(0)
        if request.method == "POST":
            return fsm.advance(data=dict(request.form))
        return f"a {fsm.token()}"

    @app.route("/b")
    @fsm.check()
    async def b() -> object:
        return dict(fsm.flow.data["a"])

    visitor = Visitor(app)
    assert visitor.open("b").location == "/a"
    assert visitor.post("a", {"bad": "1"}).status_code == 422
    assert visitor.post("a", {"no": "1"}, None, "json").json["reasons"] == [
        {"code": "guard", "text": "Async says yes or no."}
    ]
    ran.clear()
    assert visitor.post("a", {"fine": "1"}, visitor.token("a")).location == "/b"
    assert ran == ["guard", "hook"]
    assert visitor.open("b").json == {"fine": "1", "enriched": True}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_unsafe_method_is_judged_as_a_post(method: str) -> None:
    """PUT, PATCH and DELETE run only where a POST would, and may advance."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)
    ran: list[str] = []
    for page in "abc":

        @app.route(f"/{page}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            ran.append(request.method)
            return page if request.method == "GET" else fsm.advance()

    client = app.test_client()
    assert client.open("/b", method=method).status_code == 409
    assert ran == []
    response = client.open("/a", method=method)
    assert (response.status_code, response.location) == (303, "/b")
    assert_private(response)
    assert client.open("/a", method=method).status_code == 409
    assert ran == [method]


def test_options_and_head_never_advance_or_refuse_wrongly() -> None:
    """OPTIONS says which methods there are; HEAD is a GET without body."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)
    add_pages(app, fsm, "a", "b", "c")
    client = app.test_client()
    assert client.options("/a").status_code == 200
    assert {"GET", "HEAD", "OPTIONS", "POST"} == set(client.options("/a").allow)
    assert client.head("/a").status_code == 200
    assert client.head("/b").status_code == 303
    assert client.get("/a").status_code == 200


def test_one_state_may_have_an_endpoint_for_each_method() -> None:
    """check(state=...) lets a GET view and a POST view show the same page."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)

    @app.get("/a", endpoint="a_form")
    @fsm.check(state="a")
    def a_form() -> str:
        return f"form {fsm.token()}"

    @app.post("/a", endpoint="a_sent")
    @fsm.check(state="a")
    def a_sent() -> object:
        return fsm.advance("b", data={"n": 1})

    add_pages(app, fsm, "b", "c")
    visitor = Visitor(app)
    assert visitor.open("b").location == "/a"
    assert visitor.post("a", {}, visitor.token("a")).location == "/b"
    assert visitor.open("a").status_code == 200
    assert visitor.post("a", {}, visitor.token("a")).location == "/b"


def test_a_view_that_is_no_page_runs_while_its_page_may_be_opened() -> None:
    """fsm.requires guards an AJAX endpoint: closed before the page is reached, open after."""
    app = new_app()
    fsm = FlaskFSM(app, LINE)
    add_pages(app, fsm, "a", "b", "c")
    ran: list[str] = []

    @app.route("/suggest", methods=["GET", "POST"])
    @fsm.requires("b")
    def suggest() -> object:
        ran.append(request.method)
        return {"state": fsm.current, "answers": fsm.answers("a")}

    visitor = Visitor(app)
    for response in (visitor.open("suggest", "json"), visitor.post("suggest", {}, None, "json")):
        assert response.status_code == 409
        assert response.json["reason"] == "not_on_path"
        assert_private(response)
    assert ran == []
    visitor.post("a")
    assert visitor.open("suggest").json == {"state": "b", "answers": None}
    assert visitor.post("suggest").status_code == 200
    visitor.post("b")
    assert visitor.open("suggest").status_code == 409  # the run has ended


def test_other_decorators_may_stand_around_the_guard() -> None:
    """A decorator that uses functools.wraps may be above or below fsm.check."""
    import functools

    def noted(view: Any) -> Any:
        @functools.wraps(view)
        def around(*args: Any, **kwargs: Any) -> Any:
            seen.append(request.endpoint)
            return view(*args, **kwargs)

        return around

    seen: list[str | None] = []
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b")])

    @app.route("/a", methods=["GET", "POST"])
    @noted
    @fsm.check()
    def a() -> object:
        return fsm.advance() if request.method == "POST" else "a"

    @app.route("/b")
    @fsm.check()
    @noted
    def b() -> str:
        return "b"

    visitor = Visitor(app)
    visitor.open("b")
    assert seen == []
    visitor.post("a")
    visitor.open("b")
    assert seen == ["a", "b"]


# -- states and pages -----------------------------------------------------------------------


def test_a_view_that_says_so_goes_without_guard() -> None:
    """State(guarded=False) is a page that always opens."""
    app = new_app()
    fsm = FlaskFSM(
        app,
        Machine("open", [("a", "b"), ("b", "c")], states=["a", "b", State("c", guarded=False)]),
    )
    add_pages(app, fsm, "a", "b")

    @app.route("/c")
    def c() -> str:
        return fsm.current

    visitor = Visitor(app)
    assert visitor.open("c").text == "a"
    visitor.post("a")
    assert visitor.post("b").location == "/c"
    assert visitor.open("c").text == "c"


def test_a_state_need_not_be_a_page() -> None:
    """advance() to a state without a page says so; transition() goes there quietly."""
    app = new_app()
    fsm = FlaskFSM(app, Machine("quiet", [("a", "waiting"), ("waiting", "b")]))

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        if request.method == "GET":
            return "a"
        if "quietly" in request.form:
            fsm.transition("waiting", {"n": 1})
            return "Please wait."
        return fsm.advance("waiting")

    @app.post("/paid")
    def paid() -> str:
        fsm.transition("b")
        return "ok"

    add_pages(app, fsm, "b")
    visitor = Visitor(app)
    with pytest.raises(NotAPage, match="no page"):
        visitor.post("a", {}, None, "json")
    assert visitor.post("a", {"quietly": "1"}).text == "Please wait."
    assert visitor.open("b").location == "/a"
    assert visitor.open("a").status_code == 200
    assert visitor.post("paid").text == "ok"
    assert visitor.open("b").status_code == 200


# -- built from decorators ------------------------------------------------------------------


def test_a_machine_can_be_built_from_the_decorators() -> None:
    """Without transitions the decorators say them all; the first view is the initial page."""
    fsm = FlaskFSM()
    app = new_app()

    @app.route("/one", methods=["GET", "POST"])
    @fsm.check(to=["two"])
    def one() -> object:
        return fsm.advance("two") if request.method == "POST" else "one"

    @app.route("/two", methods=["GET", "POST"])
    @fsm.check(accept=["one"])
    def two() -> object:
        return fsm.advance("three") if request.method == "POST" else "two"

    @app.route("/three")
    @fsm.check(accept=["two"])
    def three() -> str:
        return f"three {fsm.status}"

    fsm.init_app(app)
    visitor = Visitor(app)
    assert visitor.open("three").location == "/one"
    assert visitor.post("one").location == "/two"
    assert visitor.post("two").location == "/three"
    assert visitor.open("three").text == "three one -> two\ntwo -> three"


def test_decorators_in_blueprints_build_a_machine_too() -> None:
    """Undotted names in a blueprint are its own views."""
    fsm = FlaskFSM()
    pages = Blueprint("pages", __name__)

    @pages.route("/one", methods=["GET", "POST"])
    @fsm.check(to=["two", "end"])
    def one() -> object:
        return fsm.advance() if request.method == "POST" else "one"

    @pages.route("/two")
    @fsm.check()
    def two() -> str:
        return "two"

    app = new_app()
    app.register_blueprint(pages)
    add_pages(app, fsm, "end")
    fsm.init_app(app)
    visitor = Visitor(app)
    assert visitor.open("two").location == "/one"
    assert visitor.post("one", {"to": "two"}).location == "/two"
    assert Visitor(app).post("one", {"to": "end"}).location == "/end"


# -- URL arguments --------------------------------------------------------------------------


def test_missing_url_arguments_are_named() -> None:
    """Arguments of the next page that neither the call nor the request has are named."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b")])

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        if request.method == "GET":
            return "a"
        return fsm.advance("b", **{k: int(v) for k, v in request.form.items()})

    @app.route("/b/<int:year>/<int:month>")
    @fsm.check()
    def b(year: int, month: int) -> str:
        return f"{year}-{month} {fsm.url_for()}"

    visitor = Visitor(app)
    with pytest.raises(Exception, match="month, year"):
        visitor.post("a")
    with pytest.raises(Exception, match="month"):
        visitor.post("a", {"year": "2024"})
    assert visitor.open("a").status_code == 200
    assert visitor.post("a", {"year": "2024", "month": "5"}).location == "/b/2024/5"
    assert visitor.open("b/2024/5").text == "2024-5 /b/2024/5"
    assert visitor.open("b/2024/6").status_code == 404
    assert visitor.open("b/2024/x").status_code == 404


def test_url_arguments_that_the_page_lacks_go_into_its_query() -> None:
    """advance(..., tab="x") of a page without such an argument leads to ?tab=x, as url_for does."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b")])

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> object:
        return fsm.advance("b", tab="x") if request.method == "POST" else "a"

    add_pages(app, fsm, "b")
    visitor = Visitor(app)
    assert visitor.post("a").location == "/b?tab=x"
    assert visitor.open("b?tab=x").status_code == 200
    assert visitor.open("b").status_code == 200


def test_the_arguments_of_the_path_are_those_of_a_redirect() -> None:
    """Who is sent on is sent to the page with the arguments with which it was reached."""
    app = new_app()
    fsm = FlaskFSM(app, [("a", "b"), ("b", "c")])
    for page in "abc":

        @app.route(f"/<name>/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(name: str, page: str = page) -> object:
            if request.method == "POST":
                return fsm.advance(name="other" if page == "a" else name)
            return f"{page} {fsm.token()}"

    visitor = Visitor(app)
    assert visitor.post("mine/a").location == "/other/b"
    assert visitor.open("mine/c").location == "/other/b"
    assert visitor.open("mine/a").status_code == 200
    assert visitor.open("other/a").status_code == 404
    token = token_in(visitor.open("mine/a").text)
    assert visitor.post("other/a", {}, token).status_code == 404
