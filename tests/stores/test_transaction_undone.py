"""`fsm.transaction` tells the truth: a step that the app or the database undoes was not made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from flask import request
from sqlalchemy import orm

from flask_fsm import ConfigError, signals

from .test_transaction import Broken, Buyer, Order, Till, breaks, plain, till, url

__all__ = ["plain", "till", "url"]  # the fixtures


def in_savepoint(till: Till, session: Any) -> Any:
    """Take the step in a savepoint, and roll that back."""
    savepoint = session.begin_nested()
    answer = till.fsm.advance("pay", data={})
    savepoint.rollback()
    return answer


def in_released_savepoint(till: Till, session: Any) -> Any:
    """Take the step in a savepoint that is released into one which is rolled back."""
    outer = session.begin_nested()
    with session.begin_nested():
        answer = till.fsm.advance("pay", data={})
    outer.rollback()
    return answer


def in_failed_savepoint(till: Till, session: Any) -> Any:
    """Take the step in a savepoint that an exception ends."""
    try:
        with session.begin_nested():
            answer = till.fsm.advance("pay", data={})
            breaks()
    except Broken:
        pass
    return answer


def in_savepoint_of_the_connection(till: Till, session: Any) -> Any:
    """Take the step in a savepoint that the session knows nothing of, and roll that back."""
    savepoint = session.connection().begin_nested()
    answer = till.fsm.advance("pay", data={})
    savepoint.rollback()
    return answer


def in_released_savepoint_of_the_connection(till: Till, session: Any) -> Any:
    """Take the step in such a savepoint, released into one which is rolled back."""
    outer = session.connection().begin_nested()
    with session.connection().begin_nested():
        answer = till.fsm.advance("pay", data={})
    outer.rollback()
    return answer


def in_savepoint_of_sql(till: Till, session: Any) -> Any:
    """Take the step in a savepoint that is set and rolled back by SQL text."""
    session.execute(sa.text("SAVEPOINT a"))
    answer = till.fsm.advance("pay", data={})
    session.execute(sa.text("ROLLBACK TO SAVEPOINT a"))
    return answer


def in_savepoint_of_the_driver(till: Till, session: Any) -> Any:
    """Take the step in a savepoint that SQLAlchemy knows nothing of."""
    cursor = session.connection().connection.cursor()
    cursor.execute("SAVEPOINT a")
    answer = till.fsm.advance("pay", data={})
    cursor.execute("ROLLBACK TO SAVEPOINT a")
    cursor.execute("RELEASE SAVEPOINT a")
    return answer


def then(do: Callable[[Any], Any]) -> Callable[[Till, Any], Any]:
    """Take the step, then do something to the session."""

    def stepped(till: Till, session: Any) -> Any:
        answer = till.fsm.advance("pay", data={})
        do(session)
        return answer

    return stepped


def failed_statement(session: Any) -> None:
    """Swallow the error of a statement: PostgreSQL will keep nothing of this transaction."""
    try:
        session.execute(sa.text("SELECT * FROM nowhere"))
    except sa.exc.DBAPIError:
        if "sqlite" in str(session.get_bind().url):
            session.rollback()  # SQLite forgives it


def raw_rollback(session: Any) -> None:
    """Roll back past the session, and go on; drivers then begin a transaction by themselves."""
    session.connection().connection.rollback()
    session.execute(sa.insert(Order).values(item="on"))
    session.add(Order(item="and on"))
    session.flush()


def automatic_rollback(session: Any) -> None:
    """Let SQLite roll back by itself, as it does on a full disk, swallow the error, and go on."""
    if "sqlite" in str(session.get_bind().url):
        session.execute(sa.text("INSERT INTO purchase (id, item) VALUES (77, 'x')"))
        with pytest.raises(sa.exc.IntegrityError):
            session.execute(sa.text("INSERT OR ROLLBACK INTO purchase (id, item) VALUES (77, 'x')"))
    else:
        session.connection().connection.rollback()
    session.add(Order(item="on"))
    session.flush()


UNDOING: dict[str, Callable[[Till, Any], Any]] = {
    "rollback": then(lambda session: session.rollback()),
    "close": then(lambda session: session.close()),
    "raw rollback": then(lambda session: session.connection().connection.rollback()),
    "raw rollback, and on": then(raw_rollback),
    "automatic rollback": then(automatic_rollback),
    "failed statement": then(failed_statement),
    "savepoint": in_savepoint,
    "released savepoint": in_released_savepoint,
    "failed savepoint": in_failed_savepoint,
    "savepoint of the connection": in_savepoint_of_the_connection,
    "released savepoint of the connection": in_released_savepoint_of_the_connection,
    "savepoint of SQL": in_savepoint_of_sql,
    "savepoint of the driver": in_savepoint_of_the_driver,
}
every_way = pytest.mark.parametrize("undo", UNDOING.values(), ids=UNDOING)


@every_way
def test_a_step_that_is_undone_in_the_block_was_not_made(
    till: Till, undo: Callable[[Till, Any], Any]
) -> None:
    """No hook and no signal tells of it, no row is committed without it, the form can be resent."""
    told: list[Any] = []
    sent: list[Any] = []

    def ordered(page: str) -> Any:
        with till.fsm.transaction(till.session) as session:
            session.add(Order(item="before"))
            session.flush()
            undo(till, session)
            if undo is not UNDOING["failed statement"]:
                session.add(Order(item="after"))
        told.append((till.fsm.current, till.fsm.flow.rev, len(till.fsm.history)))
        return "something else"

    till.ordered = ordered
    buyer = Buyer(till.app)
    token, carried = buyer.token("cart"), buyer.carried()
    with signals.transitioned.connected_to(lambda app, **facts: sent.append(facts), till.app):
        response = buyer.order(token=token)
    assert (response.status_code, response.text) == (200, "something else")
    assert told == [("cart", 0, 0)]
    assert (till.orders(), till.logged(), till.hooks, sent) == (0, 0, [], [])
    assert buyer.carried() == carried
    assert buyer.see("cart")["rev"] == 0
    del till.ordered
    assert buyer.order(token=token).location == "/pay"
    assert (till.orders(), till.logged()) == (1, 1)


@every_way
@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_the_answer_of_a_step_that_is_undone_becomes_500(
    plain: Till,
    undo: Callable[[Till, Any], Any],
    asking: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The view returns it all the same; the log says what to do instead."""

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            return undo(plain, session)

    plain.ordered = ordered
    buyer = Buyer(plain.app)
    response = buyer.order(asking=asking)
    assert response.status_code == 500
    assert not {"Location", "HX-Redirect"} & set(response.headers.keys())
    assert response.headers["Cache-Control"] == "no-store"
    assert "rolled back" in caplog.text
    assert "'cart'" in caplog.text
    assert (plain.orders(), plain.logged(), plain.hooks) == (0, 0, [])
    assert buyer.see("cart")["rev"] == 0


def test_the_answer_of_a_block_that_raised_becomes_500(
    plain: Till, caplog: pytest.LogCaptureFixture
) -> None:
    """The view catches the exception around the block, and returns what it has."""

    def ordered(page: str) -> Any:
        try:
            with plain.fsm.transaction(plain.session):
                answer = plain.fsm.advance("pay", data={})
                breaks()
        except Broken:
            pass
        return answer

    plain.ordered = ordered
    assert Buyer(plain.app).order().status_code == 500
    assert "rolled back" in caplog.text


def test_an_errorhandler_of_the_app_answers_for_the_undone_step(plain: Till) -> None:
    """errorhandler(500) shows the app's own page."""
    plain.app.register_error_handler(500, lambda error: ("our own page", 500))

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            answer = plain.fsm.advance("pay", data={})
            session.rollback()
        return answer

    plain.ordered = ordered
    response = Buyer(plain.app).order()
    assert (response.status_code, response.text) == (500, "our own page")


def test_the_block_sees_at_once_that_its_step_was_undone(plain: Till) -> None:
    """After session.rollback() the flow stands where it stood."""
    seen: list[Any] = []

    def look(session: Any) -> None:
        fsm = plain.fsm
        seen.append((fsm.current, fsm.flow.rev))
        session.rollback()
        seen.append((fsm.current, fsm.flow.rev))

    plain.after = look
    Buyer(plain.app).order()
    assert seen == [("pay", 1), ("cart", 0)]


def test_a_second_attempt_in_a_savepoint_is_the_one_that_counts(till: Till) -> None:
    """The rows and hooks of the first one are gone with its savepoint."""

    def ordered(page: str) -> Any:
        with till.fsm.transaction(till.session) as session:
            for attempt in range(2):
                try:
                    with session.begin_nested():
                        session.add(Order(item=f"attempt {attempt}"))
                        answer = till.fsm.advance("pay", data={"attempt": attempt})
                        if not attempt:
                            breaks()
                except Broken:
                    continue
        return answer

    till.ordered = ordered
    buyer = Buyer(till.app)
    assert buyer.order().location == "/pay"
    told = buyer.see("pay")
    assert (told["rev"], told["data"]) == (1, {"cart": {"attempt": 1}})
    assert (till.orders(), till.logged(), till.hooks) == (1, 1, [1])


def test_a_step_in_a_savepoint_that_is_released_is_made(till: Till) -> None:
    """Nothing is undone by its end."""

    def ordered(page: str) -> Any:
        with till.fsm.transaction(till.session) as session, session.begin_nested():
            session.add(Order(item="lamp"))
            return till.fsm.advance("pay", data={})

    till.ordered = ordered
    assert Buyer(till.app).order().location == "/pay"
    assert (till.orders(), till.logged(), till.hooks) == (1, 1, [1])


def test_a_step_in_a_savepoint_of_the_connection_that_is_released_is_made(till: Till) -> None:
    """Nothing is undone by its end."""

    def ordered(page: str) -> Any:
        with till.fsm.transaction(till.session) as session, session.connection().begin_nested():
            session.add(Order(item="lamp"))
            return till.fsm.advance("pay", data={})

    till.ordered = ordered
    assert Buyer(till.app).order().location == "/pay"
    assert (till.orders(), till.logged(), till.hooks) == (1, 1, [1])


def test_of_two_steps_only_that_in_the_savepoint_of_the_connection_is_undone(till: Till) -> None:
    """The first one is committed and told, and the flow stands where it led."""

    def ordered(page: str) -> Any:
        with till.fsm.transaction(till.session) as session:
            session.add(Order(item="lamp"))
            till.fsm.transition("pay", {})
            savepoint = session.connection().begin_nested()
            till.fsm.transition("done", {})
            savepoint.rollback()
        return f"{till.fsm.current} {till.fsm.flow.rev}"

    till.ordered = ordered
    buyer = Buyer(till.app)
    assert buyer.order().text == "pay 1"
    assert buyer.see("pay")["rev"] == 1
    assert (till.orders(), till.logged(), till.hooks) == (1, 1, [1])


def test_a_commit_of_the_app_without_the_step_tells_of_no_step(plain: Till) -> None:
    """The step is in a savepoint of the connection; the app's own commit keeps the app's rows."""

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            answer = in_savepoint_of_the_connection(plain, session)
            session.add(Order(item="lamp"))
            session.commit()
        return answer

    plain.ordered = ordered
    buyer = Buyer(plain.app)
    assert buyer.order().status_code == 500
    assert (plain.orders(), plain.logged(), plain.hooks) == (1, 0, [])
    assert buyer.see("cart")["rev"] == 0


def test_a_reset_in_a_savepoint_of_the_connection_that_is_rolled_back_was_not_made(
    plain: Till,
) -> None:
    """The old run goes on where the step of the same block led, and no signal tells of a reset."""
    sent: list[Any] = []

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            plain.fsm.transition("pay", {})
            savepoint = session.connection().begin_nested()
            plain.fsm.reset()
            savepoint.rollback()
        return plain.fsm.current

    plain.ordered = ordered
    buyer = Buyer(plain.app)
    with signals.reset.connected_to(lambda app, **facts: sent.append(facts), plain.app):
        assert buyer.order().text == "pay"
    assert (sent, len(plain.hooks)) == ([], 1)
    assert buyer.see("pay")["rev"] == 1


def test_a_step_and_the_reset_after_it_are_both_made(plain: Till) -> None:
    """The record of the step is replaced by that of the reset, and yet it was made."""
    sent: list[Any] = []

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session):
            plain.fsm.transition("pay", {})
            plain.fsm.reset()
        return plain.fsm.current

    plain.ordered = ordered
    with signals.reset.connected_to(lambda app, **facts: sent.append(facts), plain.app):
        assert Buyer(plain.app).order().text == "cart"
    assert (len(sent), len(plain.hooks)) == (1, 1)


@pytest.mark.parametrize("after", ["rollback", "exception"])
def test_a_step_that_the_app_has_committed_itself_stays_made(till: Till, after: str) -> None:
    """session.commit() in the block: what follows can't undo it, and its hook runs."""

    def ordered(page: str) -> Any:
        try:
            with till.fsm.transaction(till.session) as session:
                session.add(Order(item="lamp"))
                answer = till.fsm.advance("pay", data={})
                session.commit()
                session.add(Order(item="later"))
                session.flush()
                if after == "rollback":
                    session.rollback()
                else:
                    breaks()
        except Broken:
            pass
        return answer

    till.ordered = ordered
    buyer = Buyer(till.app)
    assert buyer.order().location == "/pay"
    assert buyer.see("pay")["rev"] == 1
    assert (till.orders(), till.logged(), till.hooks) == (1, 1, [1])


def test_a_commit_of_the_app_that_the_database_turns_into_a_rollback_makes_no_step(
    fresh_store: Callable[[str], str],
) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK, and no error, if a statement had failed before."""

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            answer = plain.fsm.advance("pay", data={})
            failed_statement(session)
            session.commit()
        return answer

    with closing(Till(fresh_store("postgres"))) as plain:
        plain.ordered = ordered
        buyer = Buyer(plain.app)
        assert buyer.order().status_code == 500
        assert (plain.logged(), plain.hooks) == (0, [])
        assert buyer.see("cart")["rev"] == 0


def test_a_reset_that_is_rolled_back_in_the_block_was_not_made(plain: Till) -> None:
    """The old run goes on, and no signal tells of a reset."""
    sent: list[Any] = []

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            plain.fsm.reset()
            session.rollback()
        return plain.fsm.current

    buyer = Buyer(plain.app)
    buyer.order()
    plain.ordered = ordered
    with signals.reset.connected_to(lambda app, **facts: sent.append(facts), plain.app):
        assert buyer.order("pay").text == "pay"
    assert sent == []
    assert buyer.see("pay")["rev"] == 1


# -- a server that is lost in the block -------------------------------------------------------


def ends(session: Any, engine: sa.Engine) -> None:
    """Let PostgreSQL close the connection of a session."""
    number = session.scalar(sa.text("SELECT pg_backend_pid()"))
    with engine.connect() as other:
        other.scalar(sa.text(f"SELECT pg_terminate_backend({number})"))


@pytest.mark.parametrize("way", ["exception", "no step", "rollback", "statement", "commit"])
def test_a_connection_lost_in_the_block_is_503_and_leaves_the_flow(
    fresh_store: Callable[[str], str], way: str
) -> None:
    """Whether our rollback finds out, or the app's own, or a statement of the app's."""

    def ordered(page: str) -> Any:
        with till.fsm.transaction(till.session) as session:
            answer = None if way == "no step" else till.fsm.advance("pay", data={})
            ends(session, till.engine)
            if way == "exception":
                breaks()
            elif way == "rollback":
                session.rollback()
            elif way == "statement":
                session.execute(sa.text("SELECT 1"))
        return answer or "nothing"

    with closing(Till(fresh_store("postgres"))) as till:
        till.ordered = ordered
        buyer = Buyer(till.app)
        token, carried = buyer.token("cart"), buyer.carried()
        response = buyer.order(token=token)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert 'value="lamp"' in response.text
        assert buyer.carried() == carried
        assert (till.orders(), till.logged(), till.hooks) == (0, 0, [])
        del till.ordered
        assert buyer.order(token=token).location == "/pay"


def test_a_rollback_that_raises_leaves_the_flow_and_is_503(plain: Till) -> None:
    """Whatever the session raises there."""

    class Refusing(orm.Session):
        def rollback(self) -> None:
            raise sa.exc.InvalidRequestError("I will not.")

    def ordered(page: str) -> Any:
        try:
            with plain.fsm.transaction(Refusing(plain.engine)):
                plain.fsm.advance("pay", data={})
                breaks()
        finally:
            told.append((plain.fsm.current, plain.fsm.flow.rev))

    told: list[Any] = []
    plain.ordered = ordered
    buyer = Buyer(plain.app)
    assert buyer.order().status_code == 503
    assert told == [("cart", 0)]
    assert (plain.logged(), plain.hooks) == (0, [])
    assert buyer.see("cart")["rev"] == 0


# -- transactions of the caller's -------------------------------------------------------------


@pytest.mark.parametrize("begun", ["with begin", "begin", "savepoint"])
def test_a_transaction_that_the_app_will_commit_is_not_committed_for_it(
    plain: Till, begun: str
) -> None:
    """Inside `with session.begin():` it is a ConfigError that says what to write instead."""

    def ordered(page: str) -> Any:
        with orm.Session(plain.engine) as session:
            session.begin()
            if begun == "savepoint":
                session.begin_nested()
            session.add(Order(item="early"))
            with plain.fsm.transaction(session):
                plain.fsm.advance("pay", data={})

    def within(page: str) -> Any:
        with orm.Session(plain.engine) as session, session.begin():
            session.add(Order(item="early"))
            with plain.fsm.transaction(session):
                plain.fsm.advance("pay", data={})

    plain.ordered = within if begun == "with begin" else ordered
    buyer = Buyer(plain.app)
    with pytest.raises(ConfigError, match=r"with fsm\.transaction\(session\)"):
        buyer.order()
    assert (plain.orders(), plain.logged(), plain.hooks) == (0, 0, [])
    assert buyer.see("cart")["rev"] == 0


def test_a_session_without_autobegin_can_be_used(plain: Till) -> None:
    """Its transaction begins with the block."""

    def ordered(page: str) -> Any:
        session = orm.Session(plain.engine, autobegin=False)
        with closing(session), plain.fsm.transaction(session):
            session.add(Order(item=request.form["item"]))
            return plain.fsm.advance("pay", data={})

    plain.ordered = ordered
    assert Buyer(plain.app).order().location == "/pay"
    assert (plain.orders(), plain.logged(), plain.hooks) == (1, 1, [1])


def test_removing_the_scoped_session_in_the_block_undoes_the_step(till: Till) -> None:
    """As Flask-SQLAlchemy does at the end of each app context."""
    till.after = lambda session: till.session.remove()
    buyer = Buyer(till.app)
    assert buyer.order().status_code == 500
    assert (till.orders(), till.logged(), till.hooks) == (0, 0, [])
    assert buyer.see("cart")["rev"] == 0


def begins(connection: sa.Connection) -> sa.RootTransaction:
    """Begin a transaction on a connection, in which savepoints can be set."""
    outer = connection.begin()
    if connection.dialect.name == "sqlite":  # whose driver begins too late for savepoints
        connection.exec_driver_sql("BEGIN")
    return outer


MODES = ("conditional_savepoint", "rollback_only", "control_fully", "create_savepoint")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_session_in_an_outer_transaction_of_its_connection_is_a_config_error(
    plain: Till, mode: Any, ends: str
) -> None:
    """The app may roll that back after hooks and signals have told of the step."""
    sent: list[Any] = []

    def ordered(page: str) -> Any:
        with plain.engine.connect() as connection:
            outer = begins(connection)
            with closing(orm.Session(connection, join_transaction_mode=mode)) as session:
                try:
                    with plain.fsm.transaction(session):
                        plain.fsm.advance("pay", data={})
                finally:
                    getattr(outer, ends)()

    plain.ordered = ordered
    buyer = Buyer(plain.app)
    with (
        signals.transitioned.connected_to(lambda app, **facts: sent.append(facts), plain.app),
        pytest.raises(ConfigError, match=r"outer transaction.*test suite"),
    ):
        buyer.order()
    assert (plain.logged(), plain.hooks, sent) == (0, [], [])
    assert buyer.see("cart")["rev"] == 0


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "create_savepoint"])
def test_a_used_session_in_an_outer_transaction_keeps_and_tells_nothing(
    plain: Till, mode: Any
) -> None:
    """Also if the session has begun before the block, and the error is swallowed."""
    caught: list[ConfigError] = []

    def ordered(page: str) -> Any:
        with plain.engine.connect() as connection:
            outer = begins(connection)
            with closing(orm.Session(connection, join_transaction_mode=mode)) as session:
                session.add(Order(item="early"))
                session.flush()
                try:
                    with plain.fsm.transaction(session):
                        answer = plain.fsm.advance("pay", data={})
                except ConfigError as error:
                    caught.append(error)
                    answer = plain.fsm.current
            if outer.is_active:
                outer.rollback()
        return answer

    plain.ordered = ordered
    buyer = Buyer(plain.app)
    assert buyer.order().text == "cart"
    assert "outer transaction" in str(caught[0])
    assert (plain.orders(), plain.logged(), plain.hooks) == (0, 0, [])
    assert buyer.see("cart")["rev"] == 0


def test_a_commit_of_the_app_into_an_outer_transaction_tells_of_no_step(plain: Till) -> None:
    """session.commit() in the block commits nothing there."""

    def ordered(page: str) -> Any:
        with plain.engine.connect() as connection:
            outer = begins(connection)
            with closing(orm.Session(connection)) as session:
                session.add(Order(item="early"))
                session.flush()
                with plain.fsm.transaction(session):
                    answer = plain.fsm.advance("pay", data={})
                    session.commit()
            outer.rollback()
        return answer

    plain.ordered = ordered
    buyer = Buyer(plain.app)
    assert buyer.order().status_code == 500
    assert (plain.orders(), plain.logged(), plain.hooks) == (0, 0, [])
    assert buyer.see("cart")["rev"] == 0


@pytest.mark.parametrize("used", [False, True])
def test_a_session_on_a_connection_without_an_outer_transaction_can_be_used(
    plain: Till, used: bool
) -> None:
    """The transaction of its connection is then its own, also if it has begun before the block."""

    def ordered(page: str) -> Any:
        with plain.engine.connect() as connection, closing(orm.Session(connection)) as session:
            if used:
                session.add(Order(item="early"))
                session.flush()
            with plain.fsm.transaction(session):
                session.add(Order(item="lamp"))
                return plain.fsm.advance("pay", data={})

    plain.ordered = ordered
    assert Buyer(plain.app).order().location == "/pay"
    assert (plain.orders(), plain.logged(), len(plain.hooks)) == (1 + used, 1, 1)
