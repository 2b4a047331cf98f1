"""Random visitors against the plain model: thousands of clicks, and not one surprise."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
from flask import Flask, jsonify, request
from hypothesis import given, note, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from flask_fsm import FlaskFSM, Machine, Transition, ValidationFailed
from flask_fsm.security.tokens import TokenContent, Tokens

from ..apps import ASKING, SECRET, Visitor, prepare, seen, show, token_in, typed
from .model import Definition, Edge, Expected, Model, Ticket

RUNS = int(os.environ.get("FSM_STATEFUL_RUNS", "100"))
STEPS = 24


def chose(what: str) -> Any:
    return lambda data: data.get("b", {}).get("x") == what


def is_fine(data: Any) -> bool:
    return data.get("x") != "bad"


BRANCHES = Definition(
    "branches",
    [
        Edge("a", "b", validator=is_fine),
        Edge("b", "c", guard=chose("c")),
        Edge("b", "d", guard=chose("d")),
        Edge("c", "e", validator=is_fine),
        Edge("d", "e"),
        Edge("e", "b"),
        Edge("e", "f"),
    ],
)
COUNTED = Definition(
    "counted",
    [Edge("index", "a"), Edge("a", "b"), Edge("b", "index"), Edge("b", "c")],
    repeat=False,
)
DOCSTRING = Definition(
    "letters",
    [
        Edge("a", "b"),
        Edge("b", "c"),
        Edge("b", "d"),
        Edge("c", "d"),
        Edge("d", "b"),
        Edge("d", "e"),
        Edge("e", "a"),
        Edge("e", "f"),
    ],
    repeat=False,
)
BACK = Definition(
    "back",
    [
        Edge("a", "b"),
        Edge("b", "c", back="discard"),
        Edge("c", "d"),
        Edge("c", "b"),
        Edge("d", "e", back="invalidate"),
        Edge("d", "a", guard=lambda data: data.get("d", {}).get("x") == "c"),
        Edge("e", "f"),
        Edge("f", "e"),
        Edge("f", "d", validator=is_fine),
        Edge("f", "g"),
    ],
)
VISITS = Definition(
    "visits",
    [
        Edge("a", "b", visit=True),
        Edge("a", "c"),
        Edge("b", "c", visit=True, back="discard"),
        Edge("b", "d"),
        Edge("c", "d", guard=lambda data: data.get("a", {}).get("x") == "d"),
        Edge("c", "a"),
        Edge("d", "e", visit=True, guard=chose("c")),
        Edge("d", "b"),
        Edge("e", "f"),
    ],
)


def app_of(definition: Definition, store: str) -> Flask:
    """The same machine as a real app."""

    def edge(edge: Edge) -> Transition:
        guard, valid = edge.guard, edge.validator

        def validate(flow: Any, data: Any) -> None:
            if not valid(data):  # type: ignore[misc]
                raise ValidationFailed("That won't do.", field="x")

        return Transition(
            edge.source,
            edge.target,
            when=guard and (lambda flow: guard(flow.data)),
            validators=[validate] if valid else (),
            back=edge.back,  # type: ignore[arg-type]
            visit=edge.visit,
        )

    app = Flask(definition.name)
    app.config.update(SECRET_KEY=SECRET, TESTING=True, FSM_STORE_URL=store)
    fsm = FlaskFSM(
        app,
        Machine(definition.name, [edge(e) for e in definition.edges], repeat=definition.repeat),
    )
    prepare(app, fsm)
    for page in definition.pages:

        @app.route(f"/{page}", methods=["GET", "POST"], endpoint=page)
        @fsm.check()
        def view(page: str = page) -> object:
            return fsm.advance(data=typed()) if request.method == "POST" else show(page, fsm)

    @app.get("/peek")
    def peek() -> object:
        flow = fsm.flow
        return jsonify(
            page=flow.current,
            rev=flow.rev,
            state=flow.current,
            path=list(flow.path),
            data=flow.data,
            drafts=flow.drafts,
            answers=fsm.answers(),
            finished=flow.finished,
        )

    @app.post("/again")
    def again() -> str:
        fsm.reset()
        return "ok"

    return app


NUMBER = st.integers(0, 9)
PAGES = st.sampled_from(["current", "current", "current", "path", "path", "any"])
POST = st.tuples(
    st.just("post"),
    PAGES,
    NUMBER,
    st.sampled_from(["fresh"] * 6 + ["none"] * 4 + ["old"] * 3 + ["forged", "foreign"]),
    st.sampled_from(["none"] * 5 + ["way"] * 5 + ["any", "moon"]),
    NUMBER,
    st.sampled_from(["c", "c", "d", "d", "bad", ""]),
    st.sampled_from(list(ASKING)),
)
GET = st.tuples(st.just("get"), PAGES, NUMBER)
WALK = st.tuples(st.just("walk"), st.integers(1, 6), NUMBER, st.sampled_from(["c", "d"]))
OLD_COOKIE = st.tuples(st.just("cookie"), NUMBER)
RARE = st.sampled_from([("drop",), ("restart",), ("reset",), ("peek",)])
# one_of takes each of these as often as any other.
ACTION = st.one_of(
    POST, POST, POST, POST, WALK, WALK, WALK, GET, GET, OLD_COOKIE, RARE, st.just(("repeat",))
)


@functools.cache
def foreign_token(flow: str) -> str:
    """A token that another site signed."""
    return Tokens(["another key"]).sign(TokenContent("A" * 22, 0, "A" * 12, flow))


class Browser:
    """Does each action to the app and to the model, and compares the answers."""

    def __init__(self, definition: Definition, store: str) -> None:
        self.definition = definition
        self.store = store
        served = store not in ("session", "memory://")
        self.model = Model(definition, in_memory=store == "memory://", lasting=served)
        self.visitor = Visitor(app_of(definition, store))
        self.tokens: list[tuple[str, Ticket]] = []
        self.cookies: list[tuple[str, Any, Any]] = []
        self.last: tuple[Any, ...] | None = None

    def run(self, script: list[tuple[Any, ...]]) -> None:
        for action, *arguments in script:
            getattr(self, action)(*arguments)
            self.note_cookie()
        self.peek()

    def note_cookie(self) -> None:
        cookie = self.visitor.client.get_cookie("session")
        if cookie is not None and (not self.cookies or self.cookies[-1][0] != cookie.value):
            self.cookies.append((cookie.value, self.model.cookie, self.model.evicted))

    def page(self, which: str, number: int) -> str:
        path = [stop.page for stop in self.model.now().path]
        if which == "current":
            return str(path[-1])
        if which == "path":
            return str(path[number % len(path)])
        return self.definition.pages[number % len(self.definition.pages)]

    # -- actions ------------------------------------------------------------------------

    def get(self, which: str, number: int) -> tuple[str, Ticket] | None:
        page = self.page(which, number)
        note(f"GET /{page}")
        expected, ticket = self.model.get(page)
        response = self.visitor.open(page)
        self.compare(response, expected, "html")
        if ticket is None:
            return None
        self.tokens.append((token_in(response.text), ticket))
        return self.tokens[-1]

    def post(
        self,
        which: str,
        number: int,
        token: str,
        to: str,
        way: int,
        x: str,
        asking: str,
    ) -> None:
        page = self.page(which, number)
        chosen: tuple[str | None, Ticket | None] = None, None
        readable = True
        if token == "fresh":
            chosen = self.get("any", self.definition.pages.index(page)) or chosen
        elif token == "old" and self.tokens:
            chosen = self.tokens[-1 - number % min(10, len(self.tokens))]
        elif token == "forged":
            readable = False
            text = self.tokens[-1][0] if self.tokens else "a.0.b.c.d"
            place = number * len(text) // 10
            chosen = text[:place] + ("-" if text[place] != "-" else "_") + text[place + 1 :], None
        elif token == "foreign":
            readable = False
            chosen = foreign_token(self.definition.name), None
        ways = list(self.definition.ways(page))
        states = self.definition.pages
        target = {
            "none": None,
            "way": ways[way % len(ways)] if ways else None,
            "any": states[way % len(states)],
            "moon": "moon",
        }[to]
        self.submit(page, chosen, target, {"x": x}, asking, readable)

    def submit(
        self,
        page: str,
        chosen: tuple[str | None, Ticket | None],
        to: str | None,
        data: dict[str, str],
        asking: str,
        readable: bool,
    ) -> None:
        text, ticket = chosen
        note(f"POST /{page} to={to} {data} {ticket or text} as {asking}")
        self.last = page, chosen, to, data, asking, readable
        expected = self.model.post(page, ticket, to, data, readable=readable, asking=asking)
        fields = data if to is None else {**data, "to": to}
        response = self.visitor.post(page, fields, text, asking)
        self.compare(response, expected, asking)

    def walk(self, steps: int, way: int, x: str) -> None:
        """Fill in page after page, by a way that is open if there is one."""
        for _ in range(steps):
            page = self.page("current", 0)
            run = self.model.now()
            ways = [
                target
                for target in self.definition.ways(page)
                if self.model.is_possible(run, page, target, {"x": x})
            ]
            if not ways:
                return
            text, ticket = self.get("current", 0) or (None, None)
            self.submit(page, (text, ticket), ways[way % len(ways)], {"x": x}, "html", True)
            self.note_cookie()

    def repeat(self) -> None:
        if self.last is not None:
            self.submit(*self.last)

    def cookie(self, number: int) -> None:
        if self.cookies:
            value, run, evicted = self.cookies[-1 - number % len(self.cookies)]
            note(f"an older cookie: {run}")
            self.visitor.cookie = value
            self.model.cookie, self.model.evicted = run, evicted

    def drop(self) -> None:
        note("the cookie is lost")
        self.visitor.drop_cookie()
        self.model.cookie = self.model.evicted = None

    def restart(self) -> None:
        note("another process")
        cookie = self.visitor.client.get_cookie("session")
        self.visitor = Visitor(app_of(self.definition, self.store))
        if cookie is not None:
            self.visitor.cookie = cookie.value
        self.model.restart()

    def reset(self) -> None:
        note("fsm.reset()")
        assert self.visitor.client.post("/again").status_code == 200
        self.model.reset()

    def peek(self) -> None:
        assert self.visitor.client.get("/peek").json == self.model.peek()

    # -- comparing ----------------------------------------------------------------------

    def compare(self, response: TestResponse, expected: Expected, asking: str) -> None:
        moved = expected.status == 303
        status = {"html": 303, "json": 200, "htmx": 204}[asking] if moved else expected.status
        assert response.status_code == status, (expected, response.status_code, response.text)
        if moved:
            places: dict[str, Any] = {
                "html": response.location,
                "json": (response.json or {}).get("location") if asking == "json" else None,
                "htmx": response.headers.get("HX-Redirect"),
            }
            assert places[asking] == f"/{expected.location}"
        if asking == "json" and expected.state is not None:
            assert response.json is not None
            assert (response.json["state"], response.json["rev"]) == (expected.state, expected.rev)
        if expected.seen is not None:
            shown = seen(response)
            del shown["id"]
            assert shown == expected.seen


@pytest.fixture(params=["session", "memory://", "sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    """Where flows live; the contract is the same."""
    if request.param in ("session", "memory://"):
        return str(request.param)
    url: str = request.getfixturevalue("fresh_store")(request.param)
    return url


@pytest.mark.parametrize(
    "definition", [BRANCHES, COUNTED, DOCSTRING, BACK, VISITS], ids=lambda d: d.name
)
def test_no_sequence_of_requests_differs_from_the_model(definition: Definition, store: str) -> None:
    """Valid, stale, forged and repeated forms, old cookies, restarts: all as the contract says."""

    @settings(max_examples=max(1, RUNS // 10))
    @given(st.lists(ACTION, min_size=8, max_size=STEPS))
    def check(script: list[tuple[Any, ...]]) -> None:
        Browser(definition, store).run(script)

    check()
