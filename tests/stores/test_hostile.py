"""Records that somebody else wrote: a clear answer, nothing executed, and a way to begin again."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import request, session

from flask_fsm import FlaskFSM, Machine, SnapshotError
from flask_fsm.core.snapshot import Snapshot

from ..apps import SECRET, Visitor, flask_app, notices, show

LINE = {"a": "b", "b": "c", "c": "d", "d": None}
KINDS = ("memory://", "sqlite", "postgres", "redis")
FIELDS = {"text": "record"}  # what a field of Redis is called in SQL


class Line:
    """An app a -> b -> c -> d whose visitors may log in, on a store that a test writes to."""

    def __init__(self, store: str, **options: Any) -> None:
        self.app = flask_app({"SECRET_KEY": SECRET, "TESTING": True, "FSM_STORE_URL": store})
        edges = [edge for edge in LINE.items() if edge[1]]
        self.machine = Machine("line", edges, **options)
        self.fsm = FlaskFSM(self.machine)
        self.fsm.subject(lambda: session.get("user"))
        self.fsm.init_app(self.app)
        with self.app.app_context():
            self.fsm.init_db()
        for page, target in LINE.items():

            def view(page: str = page, target: str | None = target) -> Any:
                if request.method != "POST":
                    return show(page, self.fsm)
                return self.fsm.advance(target, data={"typed": request.form.get("typed", "")})

            self.app.add_url_rule(f"/{page}", page, self.fsm.check()(view), methods=["GET", "POST"])
        self.app.add_url_rule("/login/<name>", "login", self._login)

    def _login(self, name: str) -> str:
        session["user"] = name
        return name

    @property
    def records(self) -> Any:
        return self.app.extensions["fsm"].store.records

    def wipe(self) -> None:
        """Remove all that a server has."""
        if hasattr(self.records, "engine"):
            with self.records.engine.begin() as connection:
                for table in ("fsm_flow", "fsm_history"):
                    connection.execute(sa.text(f"DELETE FROM {table}"))
        else:
            self.records._client.flushdb()

    def write(self, field: str, value: Any) -> None:
        """Write a field of every record that there is."""
        records = self.records
        if hasattr(records, "engine"):
            column = sa.column(FIELDS.get(field, field))
            with records.engine.begin() as connection:
                connection.execute(
                    sa.update(sa.table("fsm_flow", column)).values({column.name: value})
                )
        elif hasattr(records, "_client"):
            for key in records._client.scan_iter(match="*:flow:*"):
                records._client.hset(key, field, value)
        else:
            for cell in records._cells.values():
                cell.record = cell.record._replace(**{field: value})


@pytest.fixture(params=KINDS)
def line(request: pytest.FixtureRequest, fresh_store: Callable[[str], str]) -> Line:
    """The app on each of the stores."""
    kind = request.param
    return Line(kind if "://" in kind else fresh_store(kind))


class Trap:
    """What a pickle makes when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def of_another_machine() -> str:
    other = Machine("other", [("x", "y"), ("y", "z")])
    flow = other.flow()
    flow.transition("y", {"secret": 1})
    return flow.snapshot.to_record(other)


def with_text(change: Callable[[str], str]) -> str:
    """A flow of the line at rev 2 on page c, changed."""
    machine = Machine("line", [edge for edge in LINE.items() if edge[1]])
    flow = machine.flow()
    flow.transition("b", {"typed": "x"})
    flow.transition("c", {"typed": "y"})
    return change(flow.snapshot.to_record(machine))


DEEP = "[" * 50_000 + "]" * 50_000
TEXTS: dict[str, str] = {
    "JSON": json.dumps({"state": "d", "rev": 2, "data": {}}),
    "a JSON list": "[1, 2, 3]",
    "10 MB": "x" * 10_000_000,
    "10 MB of bars": "|" * 10_000_000,
    "deep": with_text(lambda text: text.replace('{"typed":"y"}', DEEP)),
    "not so deep": with_text(lambda text: text.replace('{"typed":"y"}', "[" * 900 + "]" * 900)),
    "another rev": with_text(lambda text: text.replace("|2,", "|3,", 1)),
    "a rev of the past": with_text(lambda text: text.replace("|2,", "|1,", 1)),
    "a huge rev": with_text(lambda text: text.replace("|2,", "|999999999999999,", 1)),
    "another machine": of_another_machine(),
    "another page": with_text(lambda text: text.replace("|c|", "|nowhere|")),
    "a page twice": with_text(lambda text: text.replace("|b|", "|a|")),
    "answers that are none": with_text(lambda text: text.replace('{"typed":"y"}', "7")),
    "no answers": with_text(lambda text: text.replace('{"typed":"y"}', "{'typed': 1}")),
    "a huge number": with_text(
        lambda text: text.replace('{"typed":"y"}', '{"typed":' + "9" * 6_000 + "}")
    ),
    "cut off": with_text(lambda text: text[:-4]),
    "another version": with_text(lambda text: "9" + text[1:]),
    "nothing but a space": " ",
    "digits of elsewhere": with_text(lambda text: text.replace("|2,", "|٢,", 1)),
}


def assert_begins_again(line: Line, visitor: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    """A form gets 410 and a log line; then the visitor begins again, and goes to the end."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "flask_fsm"):
        response = visitor.open("c")
    assert response.status_code == 303, response.text
    assert response.location.partition("?")[0] == "/a"
    page = visitor.open("a")
    assert page.status_code == 200
    assert notices(page)
    assert caplog.records
    visitor.walk("a", "b", "c")
    assert visitor.see("d")["finished"]


def assert_refused(visitor: Visitor, token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "flask_fsm"):
        response = visitor.post("c", {"typed": "z"}, token)
    assert response.status_code == 410, response.text
    assert 'href="/a"' in response.text
    assert caplog.records
    assert len(caplog.text) < 2_000


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_record_that_is_none_is_refused(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A form is answered by 410 and a log line, a GET by the first page and a notice."""
    refuses(Line("memory://"), text, caplog)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_server_may_hold_such_records(
    kind: str, fresh_store: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """The same, out of databases and out of Redis."""
    line = Line(fresh_store(kind))
    for name in ("JSON", "10 MB", "deep", "another rev", "another machine", "cut off"):
        refuses(line, TEXTS[name], caplog)


def refuses(line: Line, text: str, caplog: pytest.LogCaptureFixture) -> None:
    visitor = line_visitor(line)
    token = visitor.token("c")
    line.write("text", text)
    assert_refused(visitor, token, caplog)
    visitor = line_visitor(line)
    line.write("text", text)
    assert_begins_again(line, visitor, caplog)


def line_visitor(line: Line, user: str | None = None) -> Visitor:
    visitor = Visitor(line.app)
    if user is not None:
        visitor.open(f"login/{user}")
    return visitor.walk("a", "b")


def test_a_record_that_is_none_is_logged_once(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """One line for one request."""
    visitor = line_visitor(line)
    line.write("text", TEXTS["JSON"])
    caplog.clear()
    with caplog.at_level(logging.WARNING, "flask_fsm"):
        visitor.open("c")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("text", ["JSON", "10 MB"])
def test_a_user_whose_record_is_none_begins_again(
    line: Line, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The record of a subject is replaced too, and another device of theirs gets on with that."""
    visitor = line_visitor(line, "ann")
    token = visitor.token("c")
    line.write("text", TEXTS[text])
    assert_refused(visitor, token, caplog)
    assert_begins_again(line, visitor, caplog)
    other = Visitor(line.app)
    other.open("login/ann")
    assert other.see("d")["finished"]


def test_a_device_without_a_flow_of_its_own_gets_over_a_bad_record(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """A second browser of the same user: the first page opens, and the form is taken."""
    line_visitor(line, "ann")
    line.write("text", TEXTS["JSON"])
    other = Visitor(line.app)
    other.open("login/ann")
    assert_begins_again(line, other, caplog)


def test_a_login_onto_a_bad_record_keeps_the_session_s_flow(line: Line) -> None:
    """What the visitor has done is kept, where the user's own record can't be read."""
    line_visitor(line, "ann")
    line.write("text", TEXTS["JSON"])
    visitor = line_visitor(line)
    visitor.open("login/ann")
    assert visitor.see("c")["rev"] == 2
    visitor.walk("c")
    assert visitor.see("d")["finished"]


def test_a_bad_record_of_a_session_does_not_harm_the_user_s(line: Line) -> None:
    """A login with an unreadable flow in the session: the user goes on with their own."""
    visitor = line_visitor(line)
    line.write("text", TEXTS["JSON"])
    line_visitor(line, "ann")
    visitor.open("login/ann")
    assert visitor.see("c")["rev"] == 2
    visitor.walk("c")
    assert visitor.see("d")["finished"]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_not_executed(
    line: Line, protocol: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As text and as bytes, wherever the store can hold it; reading it makes no folder."""
    folder = tmp_path / "made"
    bytes_ = pickle.dumps(Trap(folder), protocol)
    values: list[Any] = [bytes_.decode("latin-1").replace("\x00", "0")]
    if "postgres" not in str(line.app.config["FSM_STORE_URL"]):
        values.append(bytes_)
    for value in values:
        for field in ("text", "sealed"):
            for user in (None, "ann"):
                visitor = line_visitor(line, user)
                line.write(field, value)
                caplog.clear()
                response = visitor.open("c")
                assert response.status_code in (200, 303), response.text
                again = Visitor(line.app)
                if user:
                    again.open(f"login/{user}")
                assert again.open("a").status_code == 200
                assert again.send("a").status_code == 303
    assert not folder.exists()


@pytest.mark.parametrize("sealed", ["", "x", "é" * 20, "A" * 72, "=" * 8, "x" * 100, "\n"])
def test_a_seal_that_is_none_lets_the_user_go_on(line: Line, sealed: str) -> None:
    """The flow is there; on each device it goes on under a new id, and one of two forms wins."""
    visitor = line_visitor(line, "ann")
    token = visitor.token("c")
    line.write("sealed", sealed)
    other = Visitor(line.app)
    other.open("login/ann")
    assert other.see("c")["rev"] == 2
    assert visitor.see("c")["rev"] == 2
    assert visitor.post("c", token=token).status_code == 303
    assert other.see("d")["finished"]


@pytest.mark.parametrize("sealed", ["", "x", "A" * 72])
def test_a_seal_that_is_none_takes_the_form_of_another_device(line: Line, sealed: str) -> None:
    """A form that was opened after the seal was lost can be sent."""
    line_visitor(line, "ann")
    line.write("sealed", sealed)
    other = Visitor(line.app)
    other.open("login/ann")
    token = other.token("c")
    assert other.post("c", token=token).status_code == 303
    assert other.see("d")["finished"]


@pytest.mark.parametrize("field", ["rev", "started", "updated", "finished", "flow", "state"])
@pytest.mark.parametrize("value", ["x", "-1", "99999999999999999999", b"\xff\xfe"])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_field_that_is_none_is_no_500(
    kind: str, field: str, value: Any, fresh_store: Callable[[str], str]
) -> None:
    """Servers that know no types may hold anything in the other fields: no answer is a fault."""
    line = Line(fresh_store(kind))
    line.app.config["PROPAGATE_EXCEPTIONS"] = False
    for user in (None, "ann"):
        line.wipe()
        visitor = line_visitor(line, user)
        token = visitor.token("c")
        line.write(field, value)
        assert visitor.open("c").status_code in (200, 303)
        assert visitor.post("c", token=token).status_code in (303, 409, 410)
        assert visitor.open("a").status_code in (200, 303)
        for _ in range(2):
            again = Visitor(line.app)
            if user:
                again.open(f"login/{user}")
            assert again.open("a").status_code in (200, 303)


def test_another_type_of_key_is_no_500(fresh_store: Callable[[str], str]) -> None:
    """A string, a list or a set where the record was: the visitor begins again."""
    url = fresh_store("redis")
    line = Line(url)
    client = redis.Redis.from_url(url)
    for write in (
        lambda key: client.set(key, b"\x80"),
        lambda key: client.lpush(key, "x"),
        lambda key: client.hset(key, "other", "x"),
    ):
        visitor = line_visitor(line)
        for key in client.scan_iter(match="*:flow:*"):
            client.delete(key)
            write(key)
        assert visitor.open("c").status_code == 303
        visitor.walk("a")
    client.close()


@pytest.mark.parametrize("row", ["{}", "[7]", b"\x80\x04K\x01."])
def test_a_row_of_the_history_that_is_none_stops_nobody(
    row: Any, fresh_store: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """No decision needs the history: pages open and forms are taken; the log goes on."""
    url = fresh_store("redis")
    line = Line(url)
    client = redis.Redis.from_url(url)
    visitor = line_visitor(line)
    token = visitor.token("c")
    (stream,) = client.scan_iter(match="*:history:*")
    client.delete(stream)
    for rev in (1, 2):
        client.xadd(stream, {"row": row}, f"{rev}-0")
    old = visitor.post("b", token=token)
    assert old.status_code in (409, 303)
    assert visitor.see("c")["rev"] == 2
    visitor.walk("c")
    with line.app.app_context():
        assert [entry.rev for entry in line.fsm.log()][-1:] == [3]
    client.close()


@pytest.mark.parametrize("user", [None, "ann"])
def test_a_flow_among_many_that_is_none_leaves_the_others(
    user: str | None, fresh_store: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """The list leaves it out, and its address leads to a first page that opens."""
    line = Line(fresh_store("sqlite"), many=True)
    visitor = Visitor(line.app)
    if user:
        visitor.open(f"login/{user}")

    def begin() -> str:
        location = str(visitor.open("a").location).lstrip("/")
        assert visitor.send(location).status_code == 303
        return location.replace("a", "b", 1)

    bad = begin()
    line.write("text", TEXTS["JSON"])
    good = begin()
    with caplog.at_level(logging.WARNING, "flask_fsm"):
        assert visitor.see(good)["rev"] == 1
        response = visitor.open(bad)
        assert response.status_code == 303
        page = visitor.open(response.location.lstrip("/"))
        if page.status_code == 303:
            page = visitor.open(page.location.lstrip("/"))
        assert page.status_code == 200
        assert notices(page)
    assert caplog.records


def test_the_fields_of_a_snapshot_that_nobody_made_decide_nothing_else() -> None:
    """A text may say anything of numbers, but only what its pages allow can be opened."""
    machine = Machine("line", [edge for edge in LINE.items() if edge[1]])
    text = TEXTS["not so deep"]
    for changed in (text.replace(",0|", ",1|", 1), text.replace("|2,", "|0,", 1)):
        with pytest.raises(SnapshotError):
            Snapshot.decode(changed, machine)
