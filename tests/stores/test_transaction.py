"""`with fsm.transaction(session):` an order row and the transition, both or neither."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, abort, request
from flask_wtf import FlaskForm
from sqlalchemy import event, orm
from werkzeug.test import TestResponse
from wtforms import StringField

from flask_fsm import (
    ConfigError,
    FlaskFSM,
    Machine,
    StoreUnavailable,
    Transition,
    ValidationFailed,
    signals,
)

from ..apps import SECRET, Visitor, flask_app, show

Fresh = Callable[[str], str]
WAYS = ("plain", "flask-sqlalchemy")


class Base(orm.DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


class Order(Base):
    """An order, whose customer is looked for when the transaction is committed."""

    __tablename__ = "purchase"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    item: orm.Mapped[str]
    customer: orm.Mapped[int | None] = orm.mapped_column(
        sa.ForeignKey("customer.id", deferrable=True, initially="DEFERRED")
    )


class Unmade(Base):
    """A table that is not in the database."""

    __tablename__ = "unmade"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


class ItemForm(FlaskForm):
    item = StringField()


def sells(flow: Any, data: Any) -> None:
    if (data or {}).get("item") == "none":
        raise ValidationFailed("We are out of it.", field="item")


def prepared(url: str) -> sa.Engine:
    """An engine of the app's own, with its tables; SQLite is to look at foreign keys."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA foreign_keys = ON"))
    Base.metadata.create_all(engine, tables=[Customer.__table__, Order.__table__])
    return engine


def new_app(url: str, **config: Any) -> Flask:
    """An app whose flows are kept at a URL."""
    known = {"SECRET_KEY": SECRET, "TESTING": True, "WTF_CSRF_ENABLED": False}
    return flask_app({**known, "FSM_STORE_URL": url, **config})


class Till:
    """An app cart -> pay -> done whose pages order something and go on in one transaction."""

    def __init__(self, url: str, way: str = "plain", **config: Any) -> None:
        self.url = url
        self.way = way
        self.engine = prepared(url)
        self.app = new_app(url, **config)
        if way == "plain":
            self.session: Any = orm.scoped_session(orm.sessionmaker(self.engine))
            self.app.teardown_appcontext(lambda _: self.session.remove())
        else:
            from flask_sqlalchemy import SQLAlchemy

            db = SQLAlchemy()
            self.app.config["SQLALCHEMY_DATABASE_URI"] = url
            db.init_app(self.app)
            with self.app.app_context():
                if "sqlite" in url:
                    event.listen(
                        db.engine, "connect", lambda c, _: c.execute("PRAGMA foreign_keys = ON")
                    )
            self.app.config["FSM_STORE_URL"] = db
            self.session = db.session
        machine = Machine(
            "till",
            [
                Transition("cart", "pay", validators=[sells]),
                Transition("pay", "done"),
                ("pay", "cart"),
            ],
            initial="cart",
            final=["done"],
        )
        self.hooks: list[int] = []
        machine.hook(lambda flow, result: self.hooks.append(self.orders()))
        self.fsm = FlaskFSM(self.app, machine)
        if "://" in url and "redis" not in url:
            with self.app.app_context():
                self.fsm.init_db()
        self.before: Callable[[], None] = lambda: None
        self.inside: Callable[[Any], None] = lambda session: None
        self.after: Callable[[Any], None] = lambda session: None
        self.given: Callable[[], Any] = lambda: self.session
        self.ways = {"cart": "pay", "pay": "done"}
        for page in ("cart", "pay", "done"):
            self.app.add_url_rule(
                f"/{page}", page, self.fsm.check()(self._view(page)), methods=["GET", "POST"]
            )

    def _view(self, page: str) -> Callable[[], Any]:
        def view() -> Any:
            if request.method != "POST":
                return show(page, self.fsm)
            return self.ordered(page)

        return view

    def ordered(self, page: str) -> Any:
        """Order, go on, and answer; the tests put other things in its place."""
        self.before()
        with self.fsm.transaction(self.given()) as session:
            session.add(Order(item=request.form["item"]))
            self.inside(session)
            answer = self.fsm.advance(self.ways[page], data={"item": request.form["item"]})
            self.after(session)
        return answer

    def orders(self) -> int:
        """How many orders are committed, as another connection sees it."""
        with self.engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(Order)) or 0)

    def logged(self) -> int:
        """How many entries of the history are committed."""
        with self.engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT count(*) FROM fsm_history")) or 0)

    def close(self) -> None:
        with self.app.app_context():
            if self.way != "plain":
                engine = self.session.get_bind()
                self.session.remove()
                engine.dispose()
            else:
                self.session.remove()
        self.engine.dispose()


class Buyer(Visitor):
    """A visitor of the till."""

    def order(self, page: str = "cart", item: str = "lamp", **options: Any) -> TestResponse:
        token = options.pop("token", None) or self.token(page)
        return self.post(page, {"item": item}, token, **options)

    def carried(self) -> dict[str, Any]:
        """What the session cookie holds."""
        with self.client.session_transaction() as session:
            return dict(session)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, fresh_store: Fresh) -> str:
    """An empty database."""
    return fresh_store(request.param)


@pytest.fixture(params=WAYS)
def till(request: pytest.FixtureRequest, url: str) -> Iterator[Till]:
    """The till, with a session of plain SQLAlchemy or with that of Flask-SQLAlchemy."""
    with closing(Till(url, request.param)) as made:
        yield made


@pytest.fixture
def plain(url: str) -> Iterator[Till]:
    """The till with a session of plain SQLAlchemy."""
    with closing(Till(url)) as made:
        yield made


class Broken(Exception):
    """What a view raises."""


def breaks(_: Any = None) -> None:
    raise Broken


# -- both -------------------------------------------------------------------------------------


def test_the_row_and_the_transition_commit_together(till: Till) -> None:
    """After the block both are there, step by step to the end of the run."""
    buyer = Buyer(till.app)
    for number, (page, following) in enumerate(till.ways.items(), 1):
        response = buyer.order(page)
        assert (response.status_code, response.location) == (303, f"/{following}")
        assert (till.orders(), till.logged()) == (number, number)
    told = buyer.see("done")
    assert (told["rev"], told["finished"]) == (2, True)


def test_until_the_end_of_the_block_nobody_sees_either(plain: Till) -> None:
    """Another connection finds no row and no transition while the block runs."""
    found: list[tuple[int, int]] = []
    plain.after = lambda session: found.append((plain.orders(), plain.logged()))
    Buyer(plain.app).order()
    assert found == [(0, 0)]
    assert (plain.orders(), plain.logged()) == (1, 1)


def test_the_block_sees_its_own_transition(plain: Till) -> None:
    """Within the block the flow stands where it went, and its history says so."""
    found: list[Any] = []

    def look(session: Any) -> None:
        fsm = plain.fsm
        found.append((fsm.current, fsm.flow.rev, ("cart", "pay") in fsm.history, fsm.status))

    plain.after = look
    Buyer(plain.app).order()
    assert found == [("pay", 1, True, "cart -> pay")]


def test_hooks_and_signals_run_after_the_commit(till: Till) -> None:
    """Each of them already sees the row from outside."""
    seen: list[int] = []

    def note(app: Any, **_: Any) -> None:
        seen.append(till.orders())

    with signals.transitioned.connected_to(note, till.app):
        till.after = lambda session: seen.append(-1)
        Buyer(till.app).order()
    assert seen == [-1, 1]
    assert till.hooks == [1]


def test_a_hook_that_fails_undoes_nothing(plain: Till) -> None:
    """Row and transition are there, for they were committed before."""
    plain.hooks = ()
    assert Buyer(plain.app).order().location == "/pay"
    assert (plain.orders(), plain.logged()) == (1, 1)


def test_a_session_is_opened_where_none_is_given(plain: Till) -> None:
    """`with fsm.transaction() as session`: one on the database that keeps the flows."""
    plain.given = lambda: None
    kept: list[Any] = []
    plain.inside = kept.append
    response = Buyer(plain.app).order()
    assert response.status_code == 303
    assert (plain.orders(), plain.logged()) == (1, 1)
    assert isinstance(kept[0], orm.Session)
    assert not kept[0].in_transaction()


def test_a_session_that_can_not_be_used_gives_its_connection_back(fresh_store: Fresh) -> None:
    """If the database is locked when the block begins, also while the exception is handled."""
    with closing(Till(fresh_store("sqlite"), FSM_STORE_TIMEOUT=0.1)) as till:
        busy: list[int] = []

        def ordered(page: str) -> Any:
            pool = till.app.extensions["fsm"].store.records.engine.pool
            try:
                with till.fsm.transaction():
                    raise AssertionError("The block must not begin.")
            except StoreUnavailable:
                busy.append(pool.checkedout())
                raise

        till.ordered = ordered  # type: ignore[method-assign]
        buyer = Buyer(till.app)
        token = buyer.token("cart")
        with till.engine.connect() as other:
            other.exec_driver_sql("BEGIN IMMEDIATE")
            assert buyer.order(token=token).status_code == 503
        assert busy == [0]


def test_two_transitions_of_one_block_commit_together(plain: Till) -> None:
    """Both are made or none is, and their hooks run in order."""

    def both(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            session.add(Order(item="lamp"))
            plain.fsm.transition("pay", {"item": "lamp"})
            answer = plain.fsm.advance("done", data={})
            plain.after(session)
        return answer

    plain.ordered = both
    buyer = Buyer(plain.app)
    token = buyer.token("cart")
    plain.after = breaks
    with pytest.raises(Broken):
        buyer.order(token=token)
    assert (plain.orders(), plain.logged(), plain.hooks) == (0, 0, [])
    assert buyer.see("cart")["rev"] == 0
    plain.after = lambda session: None
    assert buyer.order(token=token).location == "/done"
    assert (plain.orders(), plain.logged(), plain.hooks) == (1, 2, [1, 1])
    assert buyer.see("done")["rev"] == 2


def test_work_done_before_the_block_is_part_of_it(till: Till) -> None:
    """What is pending in the session commits too, or is rolled back too."""
    till.before = lambda: (till.session.add(Order(item="early")), till.session.flush())
    buyer = Buyer(till.app)
    till.after = breaks
    with pytest.raises(Broken):
        buyer.order()
    assert till.orders() == 0
    till.after = lambda session: None
    assert buyer.order().status_code == 303
    assert till.orders() == 2


# -- neither ----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["inside", "after"])
def test_an_exception_in_the_block_undoes_both(till: Till, when: str) -> None:
    """Before the transition or after it; the same form can then be sent again."""
    buyer = Buyer(till.app)
    token, carried = buyer.token("cart"), buyer.carried()
    setattr(till, when, breaks)
    with pytest.raises(Broken):
        buyer.order(token=token)
    assert (till.orders(), till.logged(), till.hooks) == (0, 0, [])
    assert buyer.carried() == carried
    assert buyer.see("cart")["rev"] == 0
    setattr(till, when, lambda session: None)
    assert buyer.order(token=token).location == "/pay"
    assert (till.orders(), till.logged()) == (1, 1)


def test_an_answer_by_abort_undoes_both(plain: Till) -> None:
    """abort() is an exception too."""
    plain.after = lambda session: abort(418)
    buyer = Buyer(plain.app)
    assert buyer.order().status_code == 418
    assert (plain.orders(), plain.logged()) == (0, 0)
    assert buyer.see("cart")["rev"] == 0


def test_a_refusal_with_data_undoes_both(plain: Till) -> None:
    """A validator's no is raised out of the block: 422, and no row."""
    buyer = Buyer(plain.app)
    response = buyer.order(item="none")
    assert response.status_code == 422
    assert (plain.orders(), plain.logged()) == (0, 0)
    assert buyer.order().status_code == 303


def test_a_refusal_with_a_form_undoes_both(till: Till) -> None:
    """advance() returns None, the block ends well, and still there is no row."""

    def ordered(page: str) -> Any:
        form = ItemForm()
        with till.fsm.transaction(till.session) as session:
            session.add(Order(item=form.item.data))
            session.flush()
            answer = till.fsm.advance(till.ways[page], form=form)
        return answer or (str(form.errors), 422)

    till.ordered = ordered
    buyer = Buyer(till.app)
    response = buyer.order(item="none")
    assert response.status_code == 422
    assert "out of it" in response.text
    assert (till.orders(), till.logged()) == (0, 0)
    assert buyer.order(item="lamp").location == "/pay"
    assert (till.orders(), till.logged()) == (1, 1)


def test_a_block_without_a_transition_is_rolled_back(plain: Till) -> None:
    """It was opened for the transition, so nothing of it is kept."""

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            session.add(Order(item="lamp"))
            session.flush()
        return "nothing"

    plain.ordered = ordered
    assert Buyer(plain.app).order().text == "nothing"
    assert plain.orders() == 0


def test_a_commit_that_fails_leaves_flow_and_cookie_where_they_were(till: Till) -> None:
    """A deferred constraint is violated: the error reaches the view, which finds the old flow."""
    told: list[Any] = []

    def ordered(page: str) -> Any:
        fsm = till.fsm
        try:
            with fsm.transaction(till.session) as session:
                session.add(Order(item="lamp", customer=int(request.form["item"])))
                answer = fsm.advance("pay", data={})
        except sa.exc.IntegrityError:
            told.append((fsm.current, fsm.flow.rev, fsm.flow.data, len(fsm.history)))
            return "no such customer", 422
        return answer

    till.ordered = ordered
    buyer = Buyer(till.app)
    token, carried = buyer.token("cart"), buyer.carried()
    assert buyer.order(item="7", token=token).status_code == 422
    assert told == [("cart", 0, {}, 0)]
    assert buyer.carried() == carried
    assert (till.orders(), till.logged(), till.hooks) == (0, 0, [])
    with till.engine.begin() as connection:
        connection.execute(sa.insert(Customer).values(id=7))
    assert buyer.order(item="7", token=token).location == "/pay"
    assert (till.orders(), till.logged(), till.hooks) == (1, 1, [1])


def test_a_commit_that_fails_later_in_a_run_leaves_it_where_it_was(plain: Till) -> None:
    """The same from rev 1 on, where the record is there already."""
    buyer = Buyer(plain.app)
    buyer.order()
    token, carried = buyer.token("pay"), buyer.carried()
    plain.inside = lambda session: session.add(Order(item="x", customer=99))
    with pytest.raises(sa.exc.IntegrityError):
        buyer.order("pay", token=token)
    assert buyer.carried() == carried
    assert (buyer.see("pay")["rev"], plain.orders(), plain.logged()) == (1, 1, 1)
    plain.inside = lambda session: None
    assert buyer.order("pay", token=token).location == "/done"


def test_the_view_may_try_again_after_a_failure(plain: Till) -> None:
    """A second block in the same request makes the step that the first one did not."""

    def ordered(page: str) -> Any:
        for attempt in range(2):
            try:
                with plain.fsm.transaction(plain.session) as session:
                    session.add(Order(item="lamp"))
                    answer = plain.fsm.advance("pay", data={"attempt": attempt})
                    if not attempt:
                        breaks()
            except Broken:
                continue
        return answer

    plain.ordered = ordered
    buyer = Buyer(plain.app)
    assert buyer.order().location == "/pay"
    told = buyer.see("pay")
    assert (told["rev"], told["data"]) == (1, {"cart": {"attempt": 1}})
    assert (plain.orders(), plain.logged(), plain.hooks) == (1, 1, [1])


def test_an_edit_may_be_tried_again_after_a_failure(plain: Till) -> None:
    """The second attempt leaves the edited page too, and not the current one."""
    buyer = Buyer(plain.app)
    buyer.order()

    def ordered(page: str) -> Any:
        for attempt in range(2):
            try:
                with plain.fsm.transaction(plain.session) as session:
                    session.add(Order(item="again"))
                    answer = plain.fsm.advance("pay", data={"attempt": attempt})
                    if not attempt:
                        breaks()
            except Broken:
                continue
        return answer

    plain.ordered = ordered
    assert buyer.order("cart").location == "/pay"
    told = buyer.see("pay")
    assert (told["rev"], told["data"]) == (2, {"cart": {"attempt": 1}})
    assert plain.orders() == 2


# -- races ------------------------------------------------------------------------------------


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make these calls in threads at once; return what they returned, in order."""
    answers: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        answers[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rev", [0, 1])
def test_of_two_racers_one_orders(url: str, way: str, rev: int) -> None:
    """Two processes decide on the same rev: one row, one 303, and 409 for the other."""
    one, other = Till(url, way), Till(url, way)
    with closing(one), closing(other):
        page, following = ("cart", "/pay") if not rev else ("pay", "/done")
        for _ in range(3):
            before = one.orders()
            first = Buyer(one.app)
            if rev:
                first.order()
                before += 1
            first.see(page)
            second = Buyer(other.app)
            second.cookie = first.cookie
            tokens = first.token(page), second.token(page)
            one.before = other.before = partial(threading.Barrier(2).wait, 20)
            answers = at_once(
                partial(first.order, page, token=tokens[0]),
                partial(second.order, page, token=tokens[1]),
            )
            one.before = other.before = lambda: None
            assert sorted(answer.status_code for answer in answers) == [303, 409]
            assert one.orders() == before + 1
            for buyer in (first, second):
                assert buyer.open(following[1:]).status_code == 200


@pytest.mark.parametrize("way", WAYS)
def test_one_form_sent_twice_at_once_orders_once(url: str, way: str) -> None:
    """The same token and body in two processes: one row, and the same 303 for both."""
    one, other = Till(url, way), Till(url, way)
    with closing(one), closing(other):
        for number in range(1, 4):
            first = Buyer(one.app)
            token = first.token("cart")
            second = Buyer(other.app)
            second.cookie = first.cookie
            one.before = other.before = partial(threading.Barrier(2).wait, 20)
            answers = at_once(*(partial(each.order, token=token) for each in (first, second)))
            one.before = other.before = lambda: None
            assert [(a.status_code, a.location) for a in answers] == [(303, "/pay")] * 2
            assert (one.orders(), one.logged()) == (number, number)
            assert len(one.hooks) + len(other.hooks) == number


def test_one_form_sent_twice_orders_once(till: Till) -> None:
    """The second time the stored answer is told, and the view does not run."""
    buyer = Buyer(till.app)
    token = buyer.token("cart")
    answers = [buyer.order(token=token) for _ in range(3)]
    assert [(a.status_code, a.location) for a in answers] == [(303, "/pay")] * 3
    assert (till.orders(), till.logged(), till.hooks) == (1, 1, [1])
    assert buyer.order(token=token, item="other").status_code == 409
    assert till.orders() == 1


def test_a_lease_is_given_up_with_the_transaction(url: str) -> None:
    """`once=True` and a failure in the block: the next attempt need not wait for the lease."""
    till = Till(url, FSM_LOCK_TIMEOUT=0.3)
    with closing(till):
        fsm = FlaskFSM(Machine("till", [Transition("cart", "pay", once=True), ("pay", "done")]))
        app = new_app(url, FSM_LOCK_TIMEOUT=0.3)
        fsm.init_app(app)
        fails = [True]

        def cart() -> Any:
            if request.method != "POST":
                return show("cart", fsm)
            with fsm.transaction(till.session) as session:
                session.add(Order(item="lamp"))
                answer = fsm.advance("pay", data={})
                if fails.pop():
                    breaks()
            return answer

        app.add_url_rule("/cart", "cart", fsm.check()(cart), methods=["GET", "POST"])
        for page in ("pay", "done"):
            app.add_url_rule(f"/{page}", page, fsm.check()(lambda page=page: page))
        buyer = Buyer(app)
        token = buyer.token("cart")
        with pytest.raises(Broken):
            buyer.order(token=token)
        fails.append(False)
        assert buyer.order(token=token).status_code == 303
        assert till.orders() == 1


# -- the session afterwards, and what can't be joined ------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_the_session_can_be_used_afterwards(till: Till, fails: bool) -> None:
    """After a commit and after a rollback alike."""

    def ordered(page: str) -> Any:
        try:
            with till.fsm.transaction(till.session) as session:
                session.add(Order(item="lamp"))
                till.fsm.advance("pay", data={"item": "none" if fails else "lamp"})
        except ValidationFailed:
            pass
        assert not till.session().in_transaction()
        assert till.session.scalar(sa.select(sa.func.count(Order.id))) == (not fails)
        till.session.add(Order(item="later"))
        till.session.commit()
        return "done"

    till.ordered = ordered
    assert Buyer(till.app).order().text == "done"
    assert till.orders() == 2 - fails
    assert till.logged() == 1 - fails


def test_a_reset_in_the_block_waits_for_nobody(plain: Till) -> None:
    """fsm.reset() within the block is answered at once, and is undone with it."""

    def ordered(page: str) -> Any:
        with plain.fsm.transaction(plain.session) as session:
            session.add(Order(item="lamp"))
            session.flush()
            plain.fsm.reset()
            plain.after(session)
        return "reset"

    buyer = Buyer(plain.app)
    buyer.order()
    plain.ordered = ordered
    plain.after = breaks
    with pytest.raises(Broken):
        buyer.order("pay")
    assert plain.orders() == 1
    assert buyer.see("pay")["rev"] == 1


def test_a_session_of_another_database_is_a_config_error(
    till: Till, fresh_store: Fresh, url: str
) -> None:
    """Only one database can commit both; the error names the two, and no password."""
    other = prepared(fresh_store("sqlite" if "sqlite" in url else "postgres"))
    session = orm.Session(other)
    till.given = lambda: session
    with closing(session):
        with pytest.raises(ConfigError, match="transaction"):
            Buyer(till.app).order()
        assert not session.in_transaction()
    assert till.logged() == 0
    other.dispose()


@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True), (True, True)])
def test_options_in_a_url_make_no_other_database(
    fresh_store: Fresh, ours: bool, theirs: bool
) -> None:
    """The query of the store's URL, or of the session's, or of both."""
    url, query = fresh_store("postgres"), "?application_name=shop"
    till = Till(url + query * theirs, FSM_STORE_URL=url + query * ours)
    with closing(till):
        assert Buyer(till.app).order().status_code == 303
        assert till.orders() == 1


def test_a_sqlite_file_by_a_relative_path_is_the_same(
    fresh_store: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file, named from here or from the root."""
    url = fresh_store("sqlite")
    folder, _, name = url.removeprefix("sqlite:///").rpartition("/")
    monkeypatch.chdir(folder)
    till = Till(url, FSM_STORE_URL=f"sqlite:///{name}")
    with closing(till):
        assert Buyer(till.app).order().status_code == 303
        assert till.orders() == 1


@pytest.mark.parametrize("store", ["session", "memory://", "redis"])
def test_other_stores_have_no_transaction_to_join(store: str, fresh_store: Fresh) -> None:
    """The error says which kind of store is needed: a database."""
    app = new_app(fresh_store(store) if store == "redis" else store)
    fsm = FlaskFSM(app, [("a", "b")])

    def view() -> Any:
        with fsm.transaction():
            pass
        raise AssertionError

    for page in "ab":
        app.add_url_rule(f"/{page}", page, fsm.check()(view))
    with pytest.raises(ConfigError, match="database") as caught:
        app.test_client().get("/a")
    assert "transaction()" in str(caught.value)
    assert "of Redis" not in str(caught.value)


def test_what_is_no_session_is_a_config_error(plain: Till) -> None:
    """An engine, a URL or a connection is not a session."""
    buyer = Buyer(plain.app)
    for given in (plain.engine, plain.url, 7, orm.Session):
        plain.given = lambda given=given: given
        with pytest.raises(ConfigError, match="session"):
            buyer.order()


def test_outside_of_a_request_it_is_a_config_error(plain: Till) -> None:
    """There is no flow to commit."""
    with pytest.raises(ConfigError), plain.fsm.transaction(plain.session):
        pass


def test_a_missing_table_of_the_app_is_not_taken_for_ours(plain: Till) -> None:
    """What the app's own rows lack is told as the database tells it, and is no 503."""
    plain.inside = lambda session: session.add(Unmade())
    with pytest.raises(sa.exc.DBAPIError):
        Buyer(plain.app).order()
    plain.inside = lambda session: None
    plain.after = lambda session: session.add(Unmade())  # flushed by the commit
    with pytest.raises(sa.exc.DBAPIError):
        Buyer(plain.app).order()
    assert (plain.orders(), plain.logged()) == (0, 0)


def test_a_savepoint_in_the_block_is_the_app_s_own(plain: Till) -> None:
    """What is rolled back to a savepoint is not kept, the rest is."""

    def nested(session: Any) -> None:
        with session.begin_nested() as savepoint:
            session.add(Order(item="gone"))
            session.flush()
            savepoint.rollback()

    plain.inside = nested
    assert Buyer(plain.app).order().status_code == 303
    assert (plain.orders(), plain.logged()) == (1, 1)


def test_the_transaction_of_one_machine_carries_another_one_s(url: str) -> None:
    """A page may move a second machine in the block: the two don't wait for each other."""
    till = Till(url, FSM_STORE_TIMEOUT=0.5, FSM_LOCK_TIMEOUT=0.5)
    with closing(till):
        fsm = FlaskFSM(Machine("one", [("a", "b")]))
        two = fsm.add(Machine("two", [("c", "d")]))
        app = new_app(url, FSM_STORE_TIMEOUT=0.5)
        fsm.init_app(app)

        def view() -> Any:
            if request.method != "POST":
                return show("a", fsm)
            with fsm.transaction(till.session) as session:
                session.add(Order(item="lamp"))
                answer = fsm.advance("b", data={})
                with two.transaction(session) if request.form["item"] == "x" else nullcontext():
                    two.transition("d")
            return answer

        app.add_url_rule("/a", "a", fsm.check()(view), methods=["GET", "POST"])
        app.add_url_rule("/b", "b", fsm.check()(lambda: show("b", fsm)))
        app.add_url_rule("/c", "c", two.check()(lambda: "c"))
        app.add_url_rule("/d", "d", two.check()(lambda: "d"))
        for item in "xy":
            buyer = Buyer(app)
            assert buyer.order("a", item=item).status_code == 303
            assert buyer.open("d").status_code == 200
        assert till.orders() == 2
