"""The public visitor fills in forms as a browser does, and the clock stands still."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from flask import Flask, redirect, request
from werkzeug.routing import BuildError

from flask_fsm import FlaskFSM, Machine
from flask_fsm.testing import Visitor, frozen_clock

from ..apps import SECRET, Shop, config_for

FORM = """
<form id="search"><input name="q" value="lamp"></form>
<form id="order" method="post" action="/echo?lang=en">
  <input type="hidden" name="fsm_token" value="a&amp;b">
  <input name="name" value="Ada"><input name="off" value="x" disabled><input value="nameless">
  <input type="checkbox" name="gift" checked><input type="checkbox" name="wrap" value="1">
  <input type="radio" name="way" value="post"><input type="radio" name="way" value="ship" checked>
  <input type="file" name="photo"><input type="reset" name="reset" value="Reset">
  <textarea name="note">
&lt;b&gt; two
lines</textarea>
  <select name="land"><option value="at">Austria<option selected>Hungary</option></select>
  <select name="size"><option value="s">S</option><option value="l">L</option></select>
  <select name="more" multiple><option selected>a</option><option>b</option>
    <option selected>c</option></select>
  <button name="act" value="save">Save</button>
  <button type="button" name="js" value="1">Not sent</button>
  <input type="submit" name="act" value="Delete" formaction="/echo/delete">
  <button formmethod="get" id="look">Look</button>
</form>
<button form="search" name="act" value="find">Find</button>
<input form="search" name="page" value="2">
"""

SHOWN = [
    ("fsm_token", "a&b"),
    ("name", "Ada"),
    ("gift", "on"),
    ("way", "ship"),
    ("note", "<b> two\nlines"),
    ("land", "Hungary"),
    ("size", "s"),
    ("more", "a"),
    ("more", "c"),
]


@pytest.fixture
def visitor() -> Visitor:
    """A visitor who has opened a page with forms; what is sent is answered with itself."""
    app = Flask("forms")
    app.config.update(SECRET_KEY=SECRET)
    FlaskFSM(app, Machine("m", [("a", "b")]))
    app.get("/")(lambda: FORM)

    @app.route("/echo", methods=["GET", "POST"])
    @app.route("/echo/<what>", methods=["GET", "POST"])
    @app.get("/", endpoint="search")
    def echo(what: str = "") -> dict[str, Any]:
        return {
            "method": request.method,
            "path": request.full_path.rstrip("?"),
            "form": list(request.form.items(multi=True)),
            "args": list(request.args.items(multi=True)),
            "files": {name: file.filename for name, file in request.files.items()},
        }

    made = Visitor(app)
    made.open("/")
    return made


def sent(visitor: Visitor, *args: Any, **options: Any) -> dict[str, Any]:
    """Submit the form, and return what arrived."""
    visitor.open("/")
    found = visitor.submit(*args, **options).json
    assert isinstance(found, dict)
    found["form"] = [tuple(pair) for pair in found["form"]]
    return found


def test_a_form_is_sent_as_a_browser_would(visitor: Visitor) -> None:
    """Every field with its value, no disabled or nameless one, and the first button."""
    found = sent(visitor)
    assert (found["method"], found["path"]) == ("POST", "/echo?lang=en")
    assert found["form"] == [*SHOWN, ("act", "save")]
    assert found["files"] == {}


def test_fields_are_filled_in_cleared_and_added(visitor: Visitor) -> None:
    """A text, several values, None for a field that is left out, and a number."""
    found = sent(visitor, {"name": "Eve", "gift": None, "more": ["b"]}, extra=5)
    form = [pair for pair in SHOWN if pair[0] not in ("name", "gift", "more")]
    expected = [("name", "Eve"), ("more", "b"), ("act", "save"), ("extra", "5")]
    assert sorted(found["form"]) == sorted([*form, *expected])


def test_a_file_is_uploaded(visitor: Visitor) -> None:
    """An open file with its name makes the form multipart."""
    found = sent(visitor, photo=(io.BytesIO(b"..."), "me.png"))
    assert found["files"] == {"photo": "me.png"}
    assert ("name", "Ada") in found["form"]


@pytest.mark.parametrize(
    ("which", "path", "pair"),
    [
        ("Delete", "/echo/delete", ("act", "Delete")),
        ("save", "/echo?lang=en", ("act", "save")),
        ("Save", "/echo?lang=en", ("act", "save")),
    ],
)
def test_a_button_is_pressed(
    visitor: Visitor, which: str, path: str, pair: tuple[str, str]
) -> None:
    """By its text or value; it may lead elsewhere, and no other button is sent."""
    found = sent(visitor, button=which)
    assert found["path"] == path
    assert found["form"] == [*SHOWN, pair]


def test_a_button_may_send_the_form_as_a_query(visitor: Visitor) -> None:
    """`formmethod` goes before the form's method."""
    assert sent(visitor, button="look")["method"] == "GET"


def test_to_is_a_field_where_no_button_says_so(visitor: Visitor) -> None:
    """Then no button is pressed."""
    assert sent(visitor, to="b")["form"] == [*SHOWN, ("to", "b")]


@pytest.mark.parametrize("which", [0, "search"])
def test_a_form_is_chosen(visitor: Visitor, which: int | str) -> None:
    """By its place or id; controls elsewhere on the page may belong to it."""
    form = visitor.form(which)
    assert form.values == {"q": ["lamp"], "page": ["2"]}
    response = form.submit(q="desk")
    assert response.request.args.to_dict() == {"q": "desk", "page": "2", "act": "find"}


def test_what_is_not_there_is_named(visitor: Visitor) -> None:
    """Without a form, button, redirect or page there is a clear error."""
    with pytest.raises(LookupError, match="no form 7 here: / answered 200"):
        visitor.form(7)
    with pytest.raises(LookupError, match="with a button 'Fly'"):
        visitor.submit(button="Fly")
    with pytest.raises(LookupError, match=r"no button 'Fly', but \['Save', 'Delete', 'Look'\]"):
        visitor.form().submit(button="Fly")
    with pytest.raises(LookupError, match="no redirect to follow: / answered 200 OK"):
        visitor.follow()
    with pytest.raises(BuildError, match="Could not build url"):
        visitor.open("nowhere")
    with pytest.raises(LookupError, match="opened no page yet"):
        _ = Visitor(visitor.app).status
    with pytest.raises(LookupError, match="has no FlaskFSM"):
        _ = Visitor(Flask("bare")).state


def test_redirects_are_followed_to_their_end(visitor: Visitor) -> None:
    """Through several, but not for ever."""
    app = Flask("round")
    leads = {"in": redirect("/out"), "out": redirect("end"), "loop": redirect("/loop")}
    app.get("/<name>")(lambda name: leads.get(name, "there"))
    traveller = Visitor(app)
    assert traveller.open("/in").location == "/out"
    assert (traveller.follow().text, traveller.path) == ("there", "/end")
    traveller.open("/loop")
    with pytest.raises(LookupError, match="More than 20 redirects, the last one to /loop"):
        traveller.follow()


@pytest.mark.parametrize("root", ["/", "/shop"])
def test_an_app_below_a_path_is_visited(root: str) -> None:
    """APPLICATION_ROOT is in the links of pages, and each is found."""
    shop = Shop({**config_for("memory://"), "APPLICATION_ROOT": root})
    visitor = Visitor(shop.app)
    visitor.open("cart")
    assert visitor.submit(item="a lamp").status_code == 303
    assert visitor.follow().status_code == 200
    assert visitor.state == "address"
    assert visitor.session_cookie


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_the_flow_is_read_and_nothing_changes(store: str) -> None:
    """The state, answers and revision of each visitor's own flow, and of each machine."""
    shop = Shop(config_for(store))
    signup = shop.fsm.add(Machine("signup", [("x", "y")]))
    ada, eve = Visitor(shop.app), Visitor(shop.app)
    assert ada.state == "cart"
    assert ada.session_cookie is None
    ada.open("cart")
    ada.submit(item="a lamp")
    cookie = ada.session_cookie
    flow = ada.flow()
    assert (flow.state, flow.rev, flow.data) == ("address", 1, {"cart": {"item": "a lamp"}})
    assert (eve.state, ada.flow(signup).state) == ("cart", "x")
    assert ada.session_cookie == cookie
    ada.session_cookie = None
    assert ada.state == "cart"
    ada.session_cookie = cookie
    assert ada.state == "address"


def test_a_json_client_follows_its_location() -> None:
    """`location` of a JSON answer and HX-Redirect lead on as a redirect does."""
    shop = Shop(config_for("memory://"))
    for headers in ({"Accept": "application/json"}, {"HX-Request": "true"}):
        visitor = Visitor(shop.app, headers=headers)
        visitor.open("cart")
        visitor.submit(item="a lamp")
        assert visitor.status in (200, 204)
        assert visitor.location == "/address"
        assert visitor.follow().status_code == 200


# -- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["session", "memory://"])
def test_a_frozen_clock_stamps_and_expires_flows(store: str) -> None:
    """It moves when it is told to, and the app's own clock comes back."""
    shop = Shop({**config_for(store), "FSM_FLOW_LIFETIME": 100})
    visitor = Visitor(shop.app)
    with frozen_clock(shop.app, at=1_750_000_000) as clock:
        visitor.open("cart")
        visitor.submit(item="a lamp")
        assert visitor.flow().updated == 1_750_000_000
        assert clock.tick(99) == clock.now == 1_750_000_099
        assert visitor.open("address").status_code == 200
        clock.tick(2)
        assert visitor.open("address").location == "/cart"
    assert shop.app.extensions["fsm"].clock is time.time


def test_a_frozen_clock_begins_now() -> None:
    """Without a time it stands at the present one."""
    shop = Shop(config_for("session"))
    before = time.time()
    with frozen_clock(shop.app) as clock:
        assert before <= clock() <= time.time()
    with pytest.raises(LookupError, match="has no FlaskFSM"), frozen_clock(Flask("bare")):
        pass
