"""The body of a POST: what can't be parsed is refused, what came is kept, and the view reads it."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, jsonify, request
from werkzeug.datastructures import MultiDict
from werkzeug.test import EnvironBuilder, TestResponse
from werkzeug.wrappers import Request

from flask_fsm import FlaskFSM, FlowFinished, Machine
from flask_fsm.pages.urls import encoded_path

from ..apps import SECRET, Visitor, assert_refused

FORM = "application/x-www-form-urlencoded"
BOUNDARY = "----boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
WHOLE = (
    f"--{BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="town"\r\n\r\n'
    "Vienna\r\n"
    f"--{BOUNDARY}--\r\n"
).encode()
BIG = 12 << 20


def pages(read: Callable[[], Any], **config: Any) -> tuple[Flask, FlaskFSM, list[Any]]:
    """An app with the pages a and b, and what `read` returned in each POST on a."""
    app = Flask("bodies")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, **config)
    fsm = FlaskFSM(app, Machine("bodies", [("a", "b")]))
    seen: list[Any] = []

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> Any:
        if request.method == "GET":
            return str(fsm.token().value)
        seen.append(read())
        return fsm.advance()

    @app.get("/b")
    @fsm.check()
    def b() -> Any:
        return jsonify(fsm.flow.data)

    return app, fsm, seen


def read_form() -> None:
    """A function of the app that runs before the guard."""
    request.form.get("town")


def read_data() -> None:
    """So too."""
    request.get_data()


def send(app: Flask, body: bytes, kind: str, **headers: str) -> TestResponse:
    return Visitor(app).request("POST", "/a", data=body, content_type=kind, headers=headers)


# -- what can't be parsed -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (WHOLE[:-20], MULTIPART),
        (WHOLE[:40], MULTIPART),
        (WHOLE, "multipart/form-data"),
        (WHOLE, "multipart/form-data; boundary=another"),
        (b"town=M\xfcnchen", FORM),
        (b"town=M%FCnchen", FORM),
        (b"t%F6wn=Vienna", FORM),
        (WHOLE.replace(b"Vienna", b"M\xfcnchen"), MULTIPART),
        (b'{"town": "Vienn', "application/json"),
        (b'{"town": "M\xfcnchen"}', "application/json"),
        (b"town=Vienna", "application/json"),
        (b"[" * 100_000, "application/json"),
    ],
)
@pytest.mark.parametrize("asking", ["text/html", "application/json"])
def test_a_body_that_cannot_be_parsed_is_400_and_moves_nothing(
    body: bytes, kind: str, asking: str
) -> None:
    """It is never taken for an empty form."""
    app, _, seen = pages(lambda: None)
    response = send(app, body, kind, Accept=asking)
    wanted = "json" if "json" in asking else "html"
    assert_refused(response, wanted, 400, "bad_body")
    assert seen == []
    visitor = Visitor(app)
    token = visitor.request("GET", "/a").text
    with_token = visitor.request(
        "POST", "/a", data=body, content_type=kind, headers={"X-FSM-Token": token}
    )
    assert with_token.status_code == 400
    assert visitor.request("GET", "/b").location == "/a"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(WHOLE[:-20], MULTIPART), (b"town=M\xfcnchen", FORM)],
)
def test_it_is_400_too_where_the_app_has_read_the_form_before(body: bytes, kind: str) -> None:
    """A function of the app that runs before the guard has made an empty form of it."""
    app, _, seen = pages(lambda: None)
    app.before_request(read_form)
    assert send(app, body, kind).status_code == 400
    assert seen == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FORM),
        (b"", MULTIPART),
        (b"", "application/json"),
        (b"null", "application/json"),
        (b"[1]", "application/json"),
        (f"--{BOUNDARY}--\r\n".encode(), MULTIPART),
        (WHOLE, MULTIPART),
        ("town=München&x=%C3%BC".encode(), FORM),
        (b"town=%EF%BF%BD", FORM),
        (WHOLE.replace(b"Vienna", "\N{REPLACEMENT CHARACTER}".encode()), MULTIPART),
        (b"100%", FORM),
        (b"\xff\xfe", "application/octet-stream"),
        (b"\xff\xfe", "text/plain; charset=latin-1"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_an_empty_form_and_other_kinds_of_bodies_are_no_mistake(
    body: bytes, kind: str, before: bool
) -> None:
    """Nothing was sent, or it is the view's to read."""
    app, _, seen = pages(lambda: None)
    if before:
        app.before_request(read_form)
    if not body and "multipart" in kind:
        return  # the server sends no body of no length with a boundary
    assert send(app, body, kind, Accept="text/html").location == "/b"
    assert seen == [None]


# -- the view reads the stream --------------------------------------------------------------

BODIES = [
    (b"town=Vienna&town=Graz", FORM),
    (WHOLE, MULTIPART),
    (b'{"town": "Vienna"}', "application/json"),
    (b"\x00\x01" * 200_000, "application/octet-stream"),
    (b"town;Vienna\n", "text/csv"),
]


@pytest.mark.parametrize(("body", "kind"), BODIES)
@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize(
    "read",
    [
        lambda: request.stream.read(),
        lambda: request.get_data(),
        lambda: b"".join(iter(lambda: request.stream.read(7), b"")),
        lambda: request.environ["wsgi.input"].read(),
    ],
    ids=["stream", "get_data", "in pieces", "environ"],
)
def test_a_view_reads_the_whole_body(
    body: bytes, kind: str, with_token: bool, read: Callable[[], bytes]
) -> None:
    """With and without a token in the header; the guard has taken nothing of it."""
    app, _, seen = pages(read)
    visitor = Visitor(app)
    headers = {"Accept": "text/html"}
    if with_token:
        headers["X-FSM-Token"] = visitor.request("GET", "/a").text
    sent = visitor.request("POST", "/a", data=body, content_type=kind, headers=headers)
    assert sent.location == "/b"
    assert seen == [body]


def test_form_and_files_are_there_too() -> None:
    """Reading the stream does not take them away, nor the reverse."""

    def read() -> Any:
        photo = request.files["photo"]
        whole = request.stream.read()
        return request.form["town"], photo.filename, photo.read(), b"Vienna" in whole

    app, _, seen = pages(read)
    data = {"town": "Vienna", "photo": (io.BytesIO(b"x" * 100_000), "x.png")}
    assert Visitor(app).request("POST", "/a", data=data).location == "/b"
    assert seen == [("Vienna", "x.png", b"x" * 100_000, True)]


def test_two_machines_guard_a_page_and_the_view_reads_the_whole_body() -> None:
    """The second guard finds the body as the first one left it."""
    app = Flask("two")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    one = FlaskFSM(app, Machine("one", [("a", "b")]))
    two = one.add(Machine("two", [("a", "b")]))
    seen = []

    @app.route("/a", methods=["GET", "POST"])
    @one.check()
    @two.check()
    def a() -> Any:
        seen.append(request.stream.read())
        return "read"

    app.add_url_rule("/b", "b", one.check()(two.check()(lambda: "b")))
    body = b"\x01" * 300_000
    assert send(app, body, "application/octet-stream").text == "read"
    assert seen == [body]


def test_a_body_that_was_read_before_the_guard_still_tells_two_submissions_apart() -> None:
    """A function of the app checks a signature of the body; the same token with another is 409."""
    app, _, seen = pages(lambda: request.get_data())
    app.before_request(read_data)
    visitor = Visitor(app)
    headers = {"X-FSM-Token": visitor.request("GET", "/a").text}
    kind = "application/octet-stream"

    def post(body: bytes) -> TestResponse:
        return visitor.request("POST", "/a", data=body, content_type=kind, headers=headers)

    assert post(b"one").location == "/b"
    assert post(b"one").location == "/b"
    assert post(b"two").status_code in (409, 410)
    assert seen == [b"one"]


def test_a_view_that_uses_the_body_up_is_recognised_when_it_is_sent_again() -> None:
    """The view reads and closes what was uploaded; a double click counts once, another file not."""

    def read() -> bytes:
        with request.files["photo"].stream as photo:
            content: bytes = photo.read()
        request.stream.close()
        return content

    app, _, seen = pages(read)
    visitor = Visitor(app)
    token = visitor.request("GET", "/a").text

    def post(content: bytes) -> TestResponse:
        data = {"fsm_token": token, "photo": (io.BytesIO(content), "x.png")}
        return visitor.request("POST", "/a", data=data)

    assert post(b"one").location == "/b"
    assert post(b"one").location == "/b"
    assert post(b"two").status_code in (409, 410)
    assert seen == [b"one"]


def test_a_form_with_other_ends_of_lines_is_the_same_form() -> None:
    """A script sends them as LF, and the browser that repeats its form as CRLF."""
    app, _, seen = pages(lambda: request.form["words"])
    visitor = Visitor(app)
    token = visitor.request("GET", "/a").text
    for words in ("one\ntwo", "one\r\ntwo"):
        data = {"words": words, "fsm_token": token}
        assert visitor.request("POST", "/a", data=data).location == "/b"
    assert seen == ["one\ntwo"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("\\\r\n", "\\\n"),  # a backslash before the end of a line, which JSON doubles
        ("\r\n\r\n", "\n\n"),
        ('"\r\nx\N{SNOWMAN}\r\n', '"\nx\N{SNOWMAN}\n'),
    ],
)
def test_ends_of_lines_are_the_same_beside_any_character(first: str, second: str) -> None:
    """The repeated form gets the first answer."""
    app, _, seen = pages(lambda: request.form["words"])
    visitor = Visitor(app)
    token = visitor.request("GET", "/a").text
    for words in (first, second):
        data = {"words": words, "fsm_token": token}
        assert visitor.request("POST", "/a", data=data).location == "/b"
    assert seen == [first]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"words": "\\r\n"}, {"words": "\\n"}),  # the letter r after a backslash is no end
        ({"words": "\\r\\n"}, {"words": "\\n"}),
        ({"words": ["x", "y"]}, {"words": ["y", "x"]}),
        ({"words": "x", "y": "z"}, {"words": "x", "z": "y"}),
    ],
)
def test_another_form_with_the_same_token_does_not_get_the_first_answer(
    first: Any, second: Any
) -> None:
    """However alike the forms are; 410, since the run has ended."""
    app, _, seen = pages(lambda: request.form["words"])
    visitor = Visitor(app)
    token = visitor.request("GET", "/a").text
    assert visitor.request("POST", "/a", data={**first, "fsm_token": token}).location == "/b"
    assert visitor.request("POST", "/a", data={**second, "fsm_token": token}).status_code == 410
    assert len(seen) == 1


class Endless(io.RawIOBase):
    """A body of `size` bytes that is nowhere as a whole."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.left)
        buffer[:count] = b"x" * count
        self.left -= count
        return count


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_is_not_held_in_memory(with_token: bool, chunked: bool) -> None:
    """12 MB take less than 2 MB, whether their length is known before or not."""

    def read() -> int:
        return sum(len(piece) for piece in iter(lambda: request.stream.read(1 << 16), b""))

    app, _, seen = pages(read)
    visitor = Visitor(app)
    headers = {"X-FSM-Token": visitor.request("GET", "/a").text} if with_token else {}
    environ = {"wsgi.input": io.BufferedReader(Endless(BIG))}
    environ |= {"wsgi.input_terminated": True} if chunked else {"CONTENT_LENGTH": str(BIG)}
    tracemalloc.start()
    try:
        sent = visitor.client.post(
            "/a",
            content_type="application/octet-stream",
            headers=headers,
            environ_overrides=environ,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent.location == "/b"
    assert seen == [BIG]
    assert peak < 2 << 20


def test_a_body_over_the_limit_of_the_app_is_refused_as_flask_does() -> None:
    """MAX_CONTENT_LENGTH holds, and the view does not run."""
    app, _, seen = pages(lambda: None, MAX_CONTENT_LENGTH=1000)
    assert send(app, b"x" * 1001, "application/octet-stream").status_code == 413
    assert seen == []


# -- fields that came several times ---------------------------------------------------------


def app_that_keeps(keep: Callable[[FlaskFSM], Any]) -> Flask:
    app = Flask("keeps")
    app.config.update(SECRET_KEY=SECRET, TESTING=True)
    fsm = FlaskFSM(app, Machine("keeps", [("a", "b"), ("a", "c")]))

    @app.route("/a", methods=["GET", "POST"])
    @fsm.check()
    def a() -> Any:
        return keep(fsm) if request.method == "POST" else str(fsm.token().value)

    for page in "bc":

        @app.get(f"/{page}", endpoint=page)
        @fsm.check()
        def shown() -> Any:
            return jsonify(fsm.flow.data["a"])

    return app


def kept(app: Flask, **sent: Any) -> Any:
    """Send a form or JSON with a token, and return what was kept of it."""
    visitor = Visitor(app)
    token = visitor.request("GET", "/a").text
    if "data" in sent:
        sent["data"] = MultiDict([*sent["data"], ("fsm_token", token), ("csrf_token", "x")])
    else:
        sent["json"] = {**sent["json"], "fsm_token": token}
    answer = visitor.request("POST", "/a", **sent)
    assert answer.location in ("/b", "/c"), answer.text
    return visitor.request("GET", answer.location).json


SEVERAL = [("size", "s"), ("size", "m"), ("town", "Vienna"), ("size", "s")]


@pytest.mark.parametrize(
    ("keep", "more"),
    [
        (lambda fsm: fsm.advance("b", data=request.form), []),
        (lambda fsm: fsm.advance(data=request.form), [("to", "b")]),
        (lambda fsm: fsm.advance("b", request.values), []),
        (lambda fsm: fsm.transition("b", request.form) and fsm.advance_nowhere(), []),
    ],
    ids=["to", "without to", "values", "transition"],
)
def test_every_value_of_a_repeated_field_is_kept(
    keep: Callable[[Any], Any], more: list[tuple[str, str]]
) -> None:
    """A field that came several times is a list, one that came once is a text."""

    def run(fsm: Any) -> Any:
        fsm.advance_nowhere = lambda: ("", 303, {"Location": "/b"})
        return keep(fsm)

    app = app_that_keeps(run)
    assert kept(app, data=[*SEVERAL, *more]) == {"size": ["s", "m", "s"], "town": "Vienna"}


@pytest.mark.parametrize(
    "keep",
    [
        lambda fsm: fsm.advance(data=request.form),
        lambda fsm: fsm.advance(data=request.form.to_dict()),
    ],
)
def test_the_field_that_names_the_next_page_is_no_answer(keep: Callable[[Any], Any]) -> None:
    """The field `to` says where to go, so it is not kept."""
    assert kept(app_that_keeps(keep), data=[("town", "Vienna"), ("to", "c")]) == {"town": "Vienna"}


def test_the_member_that_names_the_next_page_is_no_answer() -> None:
    """So too in JSON."""
    app = app_that_keeps(lambda fsm: fsm.advance(data=request.get_json()))
    assert kept(app, json={"town": ["Vienna"], "to": "c"}, headers={"Accept": "text/html"}) == {
        "town": ["Vienna"]
    }


def test_an_answer_that_the_view_calls_to_is_kept() -> None:
    """A field of the app's own with that name is an answer."""
    app = app_that_keeps(lambda fsm: fsm.advance("b", data={"to": "ada@example.com"}))
    assert kept(app, data=[("town", "Vienna")]) == {"to": "ada@example.com"}
    assert json.dumps(kept(app, data=[("town", "x")]))


def test_json_that_is_nested_too_deeply_hides_no_refusal_of_a_view_without_a_guard() -> None:
    """Nothing has read the body of such a view before its refusal shows what was sent."""
    app, fsm, _ = pages(lambda: None)

    @app.post("/api")
    def api() -> Any:
        raise FlowFinished(f"The run at {fsm.current} is over.")

    deep = b"[" * 100_000
    response = Visitor(app).client.post("/api", data=deep, content_type="application/json")
    assert (response.status_code, response.get_json()["reason"]) == (410, "finished")


@pytest.mark.parametrize("kind", ["application/json", "text/json", "application/vnd.api+json"])
def test_a_token_is_read_from_every_kind_of_json(kind: str) -> None:
    """By its media type (WHATWG MIME Sniffing), whatever the charset."""
    app, _, _ = pages(lambda: "")
    visitor = Visitor(app)
    data = json.dumps({"fsm_token": visitor.request("GET", "/a").text})
    kind = f"{kind}; charset=utf-8"
    answer = visitor.request("POST", "/a", data=data, content_type=kind)
    assert (answer.status_code, answer.json["location"]) == (200, "/b")
    cut_off = visitor.request("POST", "/a", data=data[:-1], content_type=kind)
    assert (cut_off.status_code, cut_off.json["reason"]) == (400, "bad_body")


@pytest.mark.parametrize(
    ("root", "path", "encoded"),
    [
        ("", "//host.example/x", "/host.example/x?a=//b"),
        ("/", "///host.example", "/host.example?a=//b"),
        ("/mount", "//x%25", "/mount/x%2525?a=//b"),
    ],
)
def test_the_address_of_a_form_is_never_another_host(root: str, path: str, encoded: str) -> None:
    """However many slashes a server lets pass."""
    environ = EnvironBuilder(query_string="a=//b").get_environ()
    assert encoded_path(Request({**environ, "SCRIPT_NAME": root, "PATH_INFO": path})) == encoded
