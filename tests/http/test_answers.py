"""What is true of every answer: caches, error handlers, templates, notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import (
    Flask,
    Response,
    abort,
    get_flashed_messages,
    jsonify,
    make_response,
    request,
    session,
)
from jinja2 import DictLoader
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from flask_fsm import FlaskFSM, FSMError, Machine, Refusal, StaleFlow, Transition

from ..apps import (
    ANSWERS,
    ASKING,
    SECRET,
    TO_REVIEW,
    Shop,
    Visitor,
    assert_private,
    config_for,
    every_store,
    fields_in,
    flask_app,
    notices,
)


@pytest.mark.parametrize("asking", ASKING)
def test_no_guarded_answer_may_be_kept_by_a_cache(
    visitor: Visitor, stored: Shop, asking: str
) -> None:
    """Pages, redirects and refusals all say no-store and Vary: Cookie, for a new visitor too."""
    for response in (
        visitor.open("cart", asking),
        visitor.open("payment", asking),
        visitor.post("cart", {}, "bad", asking),
        visitor.post("payment", {}, None, asking),
        visitor.post("cart", {"to": "done"}, None, asking),
        visitor.post("cart", ANSWERS["cart"], None, asking),
        visitor.client.options("/address", headers=ASKING[asking]),
        visitor.client.head("/address", headers=ASKING[asking]),
    ):
        if response.request.method != "OPTIONS":
            assert_private(response)
    visitor.walk("address", "delivery")
    assert_private(visitor.send("payment", {"card": "declined"}, asking))
    visitor.walk("payment", "review")
    assert_private(visitor.post("review", {}, None, asking))
    assert_private(stored.visitor().open("done", asking))


@every_store
def test_what_a_view_answers_to_its_form_may_be_kept_by_its_browser_alone(stored: Shop) -> None:
    """A refused form, a preview, an endpoint's answer: no shared cache, but Back can show it."""
    app, fsm = stored.app, stored.fsm

    @app.route("/upload", methods=["GET", "POST", "PUT"])
    @fsm.requires("address")
    def upload() -> tuple[str, int]:
        return "too large", 422

    stored.before_advance = lambda page: abort(make_response("try again", 422))
    visitor = stored.visitor()
    aborted = visitor.post("cart", {})
    assert_private(aborted)  # an error, which is no answer of the view
    stored.before_advance = lambda page: None
    visitor.walk("cart")
    answers = [visitor.post("upload"), visitor.request("PUT", "/upload")]
    for answer in answers:
        assert answer.status_code == 422
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert "Cookie" in answer.vary
    assert_private(visitor.open("upload"))


def test_the_answer_to_a_navigation_does_not_vary_on_the_cookie(shop: Callable[..., Shop]) -> None:
    """Each step changes a cookie, and Chromium would drop the answer: all else it varies on stays.

    This holds for sessions on a server too, and for an app that adds to Vary after us.
    """
    made = shop("flask-session")

    @made.app.route("/upload", methods=["POST"])
    @made.fsm.requires("cart")
    def upload() -> str:
        session["seen"] = True
        return "too large"

    @made.app.after_request
    def vary(response):  # type: ignore[no-untyped-def]
        response.vary.update(["Accept-Language", "cookie"])
        return response

    navigation = {"Upgrade-Insecure-Requests": "1"}
    answer = made.visitor().post("upload", headers=navigation)
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Vary"] == "Accept-Language"
    assert "Set-Cookie" in answer.headers
    refused = made.visitor().post("payment", headers=navigation)
    assert_private(refused)


def test_a_view_may_keep_its_answer_out_of_every_cache(shop: Callable[..., Shop]) -> None:
    """What a view marks as not to be stored is not stored, not even by its browser."""
    made = shop("session")

    @made.app.route("/upload", methods=["POST"])
    @made.fsm.requires("cart")
    def upload() -> Response:
        response = make_response("a secret")
        response.headers["Cache-Control"] = "no-store, max-age=0"
        return response

    assert_private(made.visitor().post("upload"))


def test_an_app_keeps_its_own_vary_and_pages_that_are_not_guarded(
    shop: Callable[..., Shop],
) -> None:
    """What the app varies on stays, and a page without guard is left alone."""
    made = shop("session")

    @made.app.route("/free")
    def free() -> str:
        return "free"

    @made.app.after_request
    def vary(response):  # type: ignore[no-untyped-def]
        response.vary.add("Accept-Language")
        return response

    visitor = made.visitor()
    response = visitor.open("cart")
    assert {"Cookie", "Accept-Language"} <= {str(name) for name in response.vary}
    assert "Cache-Control" not in visitor.open("free").headers


def test_an_answer_for_a_crash_of_a_guarded_view_is_not_kept_either(
    shop: Callable[..., Shop],
) -> None:
    """A 500 of a guarded view is a guarded answer too."""
    made = shop("session")
    made.app.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False)

    def crash(page: str) -> None:
        raise RuntimeError("the view crashed")

    made.before_advance = crash
    visitor = made.visitor()
    token = visitor.token("cart")
    response = visitor.post("cart", {}, token)
    assert response.status_code == 500
    assert_private(response)
    made.before_advance = lambda page: None
    assert visitor.post("cart", {}, token).status_code == 303


def test_an_error_handler_of_the_status_replaces_the_page(stored: Shop) -> None:
    """errorhandler(409) gets an HTTPException with the FSMError, and its answer is the answer."""
    caught: list[HTTPException] = []

    @stored.app.errorhandler(409)
    def conflict(error: HTTPException) -> tuple[str, int]:
        caught.append(error)
        return "Please look again.", 409

    visitor = stored.visitor().walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    response = visitor.post("address", {}, stale)
    assert (response.status_code, response.text) == (409, "Please look again.")
    assert_private(response)
    error = caught[0].error  # type: ignore[attr-defined]
    assert isinstance(error, StaleFlow)
    assert isinstance(error, FSMError)
    assert error.source == "address"
    assert error.allowed == ("payment",)


@pytest.mark.parametrize("status", [400, 409, 410, 413, 422])
def test_every_refusal_can_be_handled_by_its_class(shop: Callable[..., Shop], status: int) -> None:
    """A handler of Refusal, or of HTTPException, sees each refusal with its status."""
    made = shop("session")

    @made.app.errorhandler(Refusal)
    def refused(error: Refusal) -> tuple[object, int]:
        return jsonify(mine=error.error.code), error.code or 0

    visitor = made.visitor().walk("cart", "address", "delivery")
    if status == 400:
        response = visitor.post("payment", {}, "bad")
    elif status == 409:
        response = visitor.post("review")
    elif status == 410:
        token = visitor.token("payment")
        visitor.drop_cookie()
        response = visitor.post("payment", {}, token)
    elif status == 413:
        noise = "".join(chr(0x4E00 + i * i * 7 % 20_000) for i in range(3_000))
        response = visitor.post("payment", {"card": noise})
    else:
        response = visitor.post("payment", {"card": "declined"})
    assert response.status_code == status
    assert response.json is not None
    assert list(response.json) == ["mine"]


def test_templates_of_the_app_replace_the_pages(shop: Callable[..., Shop]) -> None:
    """A template of the same name is used, with what the page knows."""
    made = shop("session")
    made.app.jinja_loader = DictLoader(
        {
            "fsm/conflict.html": "mine: {{ error.code }} {{ current_url }} {{ typed }}",
            "fsm/gone.html": "over: {{ error.code }} {{ start_url }}",
            "fsm/refused.html": "no: {{ error.code }} {{ status }}",
            "fsm/problem.html": "oh: {{ error.code }} {{ status }}",
        }
    )
    visitor = made.visitor().walk("cart", "address")
    response = visitor.post("cart", {"item": "x"})
    assert response.status_code == 409
    assert response.text == "mine: not_current /delivery [(&#39;item&#39;, &#39;x&#39;)]"
    assert visitor.post("delivery", {"to": "cart"}).text == "no: no_edge 409"
    assert visitor.post("delivery", {}, "bad").text == "oh: bad_token 400"
    token = visitor.token("delivery")
    visitor.drop_cookie()
    assert visitor.post("delivery", {}, token).text.startswith("over: ")


def test_a_frame_of_the_app_dresses_all_pages(shop: Callable[..., Shop]) -> None:
    """A template fsm/base.html of the app with a block `content` is the frame of the defaults."""
    made = shop("session")
    made.app.jinja_loader = DictLoader(
        {"fsm/base.html": "<nav>mine</nav>{% block content %}{% endblock %}"}
    )
    visitor = made.visitor()
    for response in (visitor.post("payment"), visitor.post("cart", {}, "x")):
        assert response.text.startswith("<nav>mine</nav>")
        assert "<h1>" in response.text


def test_the_default_pages_are_whole_pages_without_another_host(visitor: Visitor) -> None:
    """Conflict, refusal, end and error pages have a language, a title, one heading, own files."""
    visitor.walk("cart", "address", "delivery")
    answers = [
        visitor.post("cart", {"item": "x"}),
        visitor.send("payment", {"card": "declined"}),
        visitor.post("payment", {"to": "cart"}),
        visitor.post("payment", {}, "bad"),
    ]
    visitor.walk("payment", "review")
    answers.append(visitor.post("review"))
    for response in answers:
        assert response.text.lower().lstrip().startswith("<!doctype html>")
        assert '<html lang="' in response.text
        assert response.text.count("<h1") == 1
        assert "<title>" in response.text
        assert "//" not in response.text.replace("http://localhost", "").replace("<!--", "")
    with visitor.client.get("/fsm/static/fsm.css") as style:
        assert style.status_code == 200


def test_the_prefix_of_the_own_files_can_be_set(shop: Callable[..., Shop]) -> None:
    """FSM_URL_PREFIX moves the extension's files."""
    made = Shop({**shop("session").app.config, "FSM_URL_PREFIX": "/flow"})
    visitor = made.visitor()
    assert 'href="/flow/static/fsm.css"' in visitor.post("cart", {}, "bad").text
    with visitor.client.get("/flow/static/fsm.css") as style:
        assert style.status_code == 200


# -- notices --------------------------------------------------------------------------------


def test_the_same_notice_is_not_flashed_twice(visitor: Visitor) -> None:
    """Three deep links opened before a page is shown leave one notice, not three."""
    for page in ("payment", "review", "done"):
        assert visitor.open(page).status_code == 303
    assert len(notices(visitor.open("cart"))) == 1


def test_notices_can_be_turned_off(shop: Callable[..., Shop]) -> None:
    """With FSM_FLASH = False nobody is told by a flash."""
    made = Shop({**shop("session").app.config, "FSM_FLASH": False})
    visitor = made.visitor()
    assert visitor.open("payment").status_code == 303
    assert notices(visitor.open("cart")) == []


def test_a_flash_of_the_app_stays(shop: Callable[..., Shop]) -> None:
    """The app's own pending messages are kept, in their order."""
    made = shop("session")

    @made.app.route("/free")
    def free() -> str:
        from flask import flash

        flash("mine")
        return "ok"

    @made.app.route("/all")
    def everything() -> object:
        return jsonify(get_flashed_messages(with_categories=True))

    visitor = made.visitor()
    visitor.open("free")
    visitor.open("payment")
    visitor.open("done")
    flashed = visitor.open("all").json
    assert flashed[0] == ["message", "mine"]
    assert [category for category, _ in flashed] == ["message", "fsm"]


# -- what a conflict page shows -------------------------------------------------------------


SECRET_FIELDS = {
    "password": "hunter2-hunter2",
    "new_Password2": "hunter3-hunter3",
    "card_number": "4000 0000 0000 0002",
    "cvc": "987654",
    "api_token": "tok-abcdef",
    "secret_word": "xyzzy-xyzzy",
    "pin": "314159265",
}


def test_a_conflict_page_never_shows_secrets(visitor: Visitor) -> None:
    """Passwords, card numbers, tokens and security codes are neither shown nor sent again."""
    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    response = visitor.post("address", {"street": "Oak 1", "way": "pickup", **SECRET_FIELDS}, stale)
    assert response.status_code == 409
    assert "Oak 1" in response.text
    for secret in (*SECRET_FIELDS.values(), stale):
        assert secret not in response.text


@pytest.mark.parametrize(
    "number",
    ["4111111111111111", "4111 1111 1111 1111", "5500-0055-5555-5559", " 340000000000009 "],
)
def test_a_card_number_in_a_field_of_any_name_is_not_shown(visitor: Visitor, number: str) -> None:
    """What is a card's number by its digits is left out, whatever its field is called."""
    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    response = visitor.post("address", {"note": number, "street": "Oak 1"}, stale)
    assert response.status_code == 409
    assert "Oak 1" in response.text
    assert number.strip() not in response.text
    assert number.strip()[-4:] not in response.text


def test_the_names_of_secret_fields_can_be_set(shop: Callable[..., Shop]) -> None:
    """FSM_REDACT_FIELDS holds shell patterns of names."""
    made = Shop({**shop("session").app.config, "FSM_REDACT_FIELDS": ["health_*"]})
    visitor = made.visitor().walk("cart", "address")
    response = visitor.post("cart", {"health_note": "flu-flu", "other": "shown-1"})
    assert "flu-flu" not in response.text
    assert "shown-1" in response.text


def test_a_form_from_another_site_is_not_offered_again(visitor: Visitor) -> None:
    """A conflict that another site provoked has no button that would send its form."""
    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    headers = {"Sec-Fetch-Site": "cross-site"}
    response = visitor.post("address", {"street": "evil"}, stale, headers=headers)
    assert response.status_code == 409
    assert "Send again" not in response.text


def test_send_again_carries_the_csrf_token_of_the_app(shop: Callable[..., Shop]) -> None:
    """With Flask-WTF's CSRF protection on, the button's form passes it, and the old token fails."""
    from flask_wtf import CSRFProtect
    from flask_wtf.csrf import generate_csrf

    made = shop("session")
    CSRFProtect(made.app)

    @made.app.route("/csrf")
    def csrf() -> str:
        return generate_csrf()

    visitor = made.visitor()
    key = visitor.open("csrf").text
    assert visitor.post("cart", {}, visitor.token("cart")).status_code == 400
    visitor.post("cart", {"csrf_token": key}, visitor.token("cart"))
    stale = visitor.token("address")
    visitor.post("address", {"way": "delivery", "csrf_token": key}, stale)
    response = visitor.post(
        "address", {"way": "pickup", "street": "Oak 1", "csrf_token": key}, stale
    )
    assert response.status_code == 409
    fields = fields_in(response.text)
    assert fields.keys() == {"way", "street", "fsm_token", "csrf_token"}
    assert visitor.client.post("/address", data=fields).location == "/pickup"


def test_send_again_keeps_every_field_as_it_was_typed(visitor: Visitor) -> None:
    """Markup, quotes and line ends come back as they were, and go with the query."""
    visitor.walk("cart")
    stale = visitor.token("address")
    visitor.walk("address")
    typed = {"street": '"><script>alert(1)</script>', "way": "pickup", "more": "a&b=c"}
    response = visitor.post("address?lang=en", typed, stale)
    assert "<script>alert" not in response.text
    assert "action=" not in response.text
    fields = fields_in(response.text)
    hidden = {"fsm_token", "csrf_token"}  # the latter where Flask-WTF is in use
    assert {name: value for name, value in fields.items() if name not in hidden} == typed
    visitor.submit(button="Send again")
    assert visitor.path == "/address?lang=en"


# -- views without guard --------------------------------------------------------------------


def test_a_refusal_in_a_view_without_guard_is_answered_too() -> None:
    """fsm.transition() in a view that is no page answers as a page would."""
    app = Flask("bare")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("bare", [("a", "b"), ("b", "c")]))

    @app.post("/go")
    def go() -> str:
        fsm.transition(request.form["to"])
        return fsm.current

    visitor = Visitor(app)
    assert visitor.post("go", {"to": "c"}, None, "json").status_code == 409
    assert visitor.post("go", {"to": "b"}).text == "b"
    assert visitor.post("go", {"to": "c"}).text == "c"
    assert visitor.post("go", {"to": "a"}, None, "json").status_code == 410


def test_a_state_of_the_session_that_is_no_flow_is_a_fresh_start(
    shop: Callable[..., Shop],
) -> None:
    """Whatever stands in the session under our key, the visitor gets a page and no 500."""
    made = shop("session")

    @made.app.route("/spoil")
    def spoil() -> str:
        session["_fsm_shop"] = rubbish
        return "spoiled"

    for value in ("", "x", "1|2|3", 7, None, ["a"], {"a": 1}, "1" * 5_000, "|" * 50):
        rubbish = value
        visitor = made.visitor()
        visitor.open("spoil")
        assert visitor.open("payment").status_code == 303
        assert visitor.see("cart")["rev"] == 0
        visitor.open("spoil")
        assert visitor.post("cart").status_code in (303, 410)
        assert visitor.see("cart")["rev"] in (0, 1)


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_two_machines_in_one_session_do_not_touch(store: str) -> None:
    """Each machine has a flow of its own, and the end of one leaves the other."""
    app = flask_app(config_for(store))
    fsm = FlaskFSM(app, Machine("one", [("a", "b")]))
    other = fsm.add(Machine("two", [("x", "y")]))
    for pages, page in ((fsm, "a"), (fsm, "b"), (other, "x"), (other, "y")):

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @pages.check()
        def view(pages=pages) -> object:  # type: ignore[no-untyped-def]
            return pages.advance() if request.method == "POST" else pages.current

    visitor = Visitor(app)
    assert visitor.post("a").location == "/b"
    assert visitor.open("x").text == "x"
    assert visitor.open("y").status_code == 303
    assert visitor.post("x").location == "/y"
    assert visitor.open("b").text == "b"
    assert visitor.open("y").text == "y"


@every_store
def test_the_order_page_of_a_finished_run_still_shows_its_answers(visitor: Visitor) -> None:
    """The final page knows all answers of the path, and no drafts."""
    visitor.walk(*TO_REVIEW)
    visitor.walk("review")
    done = visitor.see("done")
    assert done["data"] == {page: ANSWERS[page] for page in TO_REVIEW} | {"review": {}}
    assert done["drafts"] == {}


# -- which format ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept",
    [
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8, */*",
        "application/problem+json; charset=utf-8",
        "APPLICATION/JSON; v=2; q=0.9, text/html; charset=utf-8; q=0.8",
        "text/html; q=0.1, application/json; q=0.2; indent=2",
    ],
)
def test_an_accept_that_prefers_json_is_json_whatever_its_parameters(
    visitor: Visitor, accept: str
) -> None:
    """A charset, a version or an indent decides nothing."""
    headers = {"Accept": accept}
    refused = visitor.client.post("/payment", headers=headers)
    assert (refused.status_code, refused.content_type) == (409, "application/problem+json")
    moved = visitor.client.post("/cart", headers=headers)
    assert (moved.status_code, moved.content_type) == (200, "application/json")


@pytest.mark.parametrize(
    "accept",
    [
        "text/html; level=1, application/json; q=0.9",
        "application/xhtml+xml; profile=basic, application/json; q=0.5",
        "text/html; charset=utf-8, application/json",
        "text/html, */*; q=0.8",
        "*/*",
    ],
)
def test_an_accept_that_prefers_html_is_html_whatever_its_parameters(
    visitor: Visitor, accept: str
) -> None:
    """Parameters of HTML decide nothing either, and of two equals HTML is chosen."""
    refused = visitor.client.post("/payment", headers={"Accept": accept})
    assert (refused.status_code, refused.mimetype) == (409, "text/html")


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.shop+json; charset=utf-8"])
@pytest.mark.parametrize("accept", [None, "*/*", "application/*", "text/html, application/json"])
def test_who_sends_json_and_takes_anything_is_answered_in_json(
    visitor: Visitor, kind: str, accept: str | None
) -> None:
    """As curl and fetch send it: a JSON body, and an Accept that prefers nothing."""
    headers = {} if accept is None else {"Accept": accept}
    refused = visitor.client.post("/payment", data="{}", content_type=kind, headers=headers)
    assert (refused.status_code, refused.content_type) == (409, "application/problem+json")
    moved = visitor.client.post("/cart", data="{}", content_type=kind, headers=headers)
    assert (moved.status_code, moved.content_type) == (200, "application/json")


def test_who_sends_json_and_prefers_html_is_answered_in_html(visitor: Visitor) -> None:
    """The body decides only where Accept doesn't; htmx with a JSON body stays htmx."""
    refused = visitor.client.post("/payment", json={}, headers={"Accept": "text/html"})
    assert (refused.status_code, refused.mimetype) == (409, "text/html")
    moved = visitor.client.post("/cart", json={}, headers={"HX-Request": "true"})
    assert (moved.status_code, moved.headers["HX-Redirect"]) == (204, "/address")


# -- where to go on -------------------------------------------------------------------------


def assert_allowed(response: TestResponse, status: int, state: str) -> None:
    """The refusal names the state of the flow, what that leads to, and its page."""
    leads_to = {
        "cart": ["address"],
        "address": ["delivery", "pickup"],
        "payment": ["review"],
        "review": ["address", "done"],
        "done": [],
    }
    problem = response.json
    assert problem is not None
    assert (response.status_code, problem["state"]) == (status, state), problem
    assert problem["allowed"] == leads_to[state]
    assert problem["location"] == f"/{state}"


def test_every_refusal_names_the_states_to_which_the_flow_may_go(
    stored: Shop,
) -> None:
    """`allowed` is what the flow's state leads to, whatever was refused, and wherever."""
    visitor = stored.visitor()
    bare = visitor.token("cart")
    assert_allowed(visitor.post("payment", {}, None, "json"), 409, "cart")  # not reached
    assert_allowed(visitor.post("cart", {"to": "done"}, None, "json"), 409, "cart")
    assert_allowed(visitor.post("cart", {"to": "nowhere"}, None, "json"), 400, "cart")
    assert_allowed(visitor.post("cart", {}, "bad", "json"), 400, "cart")
    skipping = visitor.open("payment", "json")
    assert (skipping.status_code, skipping.json["allowed"]) == (303, ["address"])

    visitor.walk("cart")
    assert_allowed(visitor.post("cart", {"item": "x"}, bare, "json"), 409, "address")
    assert_allowed(visitor.send("address", {"way": "none"}, "json"), 400, "address")
    visitor.walk("address", "delivery")
    assert_allowed(visitor.send("payment", {"card": "declined"}, "json"), 422, "payment")
    # Of an edit that is refused too: the flow stays where it is.
    refused = visitor.send("address", {"way": "delivery", "to": "done"}, "json")
    assert_allowed(refused, 409, "payment")
    visitor.walk("payment", "review")
    assert_allowed(visitor.post("review", {}, None, "json"), 410, "done")


def test_a_refused_event_on_a_page_names_states_and_no_events() -> None:
    """An event that the state does not have is refused with where the flow may go."""
    app = flask_app(config_for("session"))
    fsm = FlaskFSM(app, Machine("light", [Transition("red", "green", "go"), ("green", "red")]))

    @app.route("/red", methods=["GET", "POST"])
    @fsm.check()
    def red() -> str:
        fsm.flow.send("stop")
        return "sent"

    app.add_url_rule("/green", "green", fsm.check()(lambda: "green"))
    refused = Visitor(app).post("red", {}, None, "json")
    assert refused.json is not None
    assert (refused.json["reason"], refused.json["allowed"]) == ("no_event", ["green"])


def test_htmx_that_restores_its_history_is_answered_as_a_browser(stored: Shop) -> None:
    """It puts what it gets into the page: so it is redirected to a page, and refused by a page."""
    restoring = {"HX-Request": "true", "HX-History-Restore-Request": "true"}
    visitor = stored.visitor()
    skipping = visitor.open("payment", headers=restoring)
    assert (skipping.status_code, skipping.location) == (303, "/cart")
    assert len(notices(visitor.open("cart", headers=restoring))) == 1
    visitor.walk(*TO_REVIEW, "review")
    ended = visitor.open("payment", headers=restoring)
    assert (ended.status_code, ended.location) == (303, "/done")
    refused = visitor.post("payment", {}, None, headers=restoring)
    assert (refused.status_code, "HX-Retarget" in refused.headers) == (410, False)
    assert visitor.open("payment", "htmx").headers["HX-Redirect"] == "/done"
