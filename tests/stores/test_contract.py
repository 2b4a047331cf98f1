"""What every store promises. A new store joins by one line in STORES."""

from __future__ import annotations

import random
import string
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
from flask import Flask

from flask_fsm import Flow, FlowGone, Machine, Snapshot, SnapshotError, SnapshotTooLarge, StaleFlow
from flask_fsm.binding.bound_machine import newest
from flask_fsm.config import Config
from flask_fsm.core.flow import blank, successor
from flask_fsm.core.snapshot import Receipt
from flask_fsm.security.ids import IdCipher
from flask_fsm.stores import (
    FlowCache,
    FlowLocator,
    LoadResult,
    RecordStore,
    SubmissionQuery,
    Version,
    open_store,
)
from flask_fsm.stores import StoredReply as Answer

from ..apps import SECRET

MAX_SIZE = 20_000
STORES = ("session", "memory://", "sqlite", "postgres", "redis")

# One app for all: to make apps in several threads at once trips over a fault of CPython 3.11.
APP = Flask("stores")
APP.config["SECRET_KEY"] = SECRET


class Kind:
    """A store's URL, and in which context it is used."""

    def __init__(self, name: str, url: str) -> None:
        self.url = url
        self.context: Callable[[], AbstractContextManager[object]] = (
            (lambda: APP.test_request_context("/")) if name == "session" else nullcontext
        )


MACHINE = Machine(
    "stores", [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")], initial="a", final=["d"]
).seal()
NOW = 1_800_000_000


class Kept:
    """A store under test, with what is needed to move a flow in it."""

    def __init__(self, kind: Kind, locator: FlowLocator | None = None, **options: object) -> None:
        self.kind = kind
        self.locator = FlowLocator(MACHINE) if locator is None else locator
        config = Config(
            **{
                "store_url": kind.url,
                "max_snapshot_size": MAX_SIZE,
                "flow_lifetime": None,
                **options,
            }
        )
        self.cache = FlowCache(config.cache_size)
        cipher = IdCipher(lambda: [SECRET])
        self.store = open_store(kind.url, config, self.cache, lambda: cipher, lambda: NOW)
        if isinstance(self.store, RecordStore):
            self.store.init()
        self.version: dict[tuple[str, int], Version | None] = {}

    def begin(self) -> tuple[Snapshot, str]:
        """A blank flow, and what the session carries for it."""
        snapshot = blank(MACHINE, NOW, subject=self.locator.subject)
        return snapshot, self.store.session_value(self.locator, snapshot)

    def step(
        self,
        old: Snapshot,
        target: str,
        data: dict[str, object] | None = None,
        nonce: str | None = None,
    ) -> str:
        """Decide a step from `old` and commit it."""
        return self.commit(old, self.decided(old, target, data, nonce))

    def decided(
        self,
        old: Snapshot,
        target: str,
        data: dict[str, object] | None = None,
        nonce: str | None = None,
    ) -> Snapshot:
        flow = Flow(MACHINE, old, clock=lambda: NOW)
        flow.apply(flow.step(target, data))
        return flow.snapshot.with_receipt(None if nonce is None else Receipt(nonce, "digest"))

    def commit(self, old: Snapshot, new: Snapshot) -> str:
        version = self.version.get((old.id, old.rev))
        committed = self.store.commit(self.locator, version, new, f"/{new.state}")
        self.version[new.id, new.rev] = committed.version
        return committed.session_value

    def bury(self, old: Snapshot, receipt: Receipt | None = None, to: str | None = None) -> None:
        self.store.write_tombstone(
            self.locator, self.version.get((old.id, old.rev)), old, receipt, to
        )

    def walk(self, *targets: str) -> tuple[Snapshot, str]:
        """A flow that has gone through these states."""
        snapshot, session_value = self.begin()
        for target in targets:
            session_value = self.step(snapshot, target)
            snapshot = self.load(session_value)
        return snapshot, session_value

    def loaded(self, session_value: str | None, expired_before: float = 0) -> LoadResult:
        return self.store.load(self.locator, session_value, expired_before, newest)

    def load(self, session_value: str) -> Snapshot:
        """The newest snapshot; raises why it is gone."""
        found = self.loaded(session_value)
        if found.missing_reason is not None:
            raise found.missing_reason
        assert found.snapshot is not None
        self.version.setdefault((found.snapshot.id, found.snapshot.rev), found.version)
        return found.snapshot

    def receipt(self, snapshot: Snapshot, rev: int, nonce: str) -> Answer | None:
        """What is kept of a form that was made for the flow of `snapshot` at `rev`."""
        version = self.version.get((snapshot.id, snapshot.rev))
        asked = SubmissionQuery(snapshot.id, snapshot.id, rev, nonce, version, current=True)
        return self.store.stored_reply(self.locator, asked)


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    name = request.param
    served = name not in ("session", "memory://")
    kind = Kind(name, request.getfixturevalue("fresh_store")(name) if served else name)
    with kind.context():
        yield kind


@pytest.fixture
def kept(kind: Kind) -> Kept:
    return Kept(kind)


def facts(snapshot: Snapshot) -> tuple[object, ...]:
    """All that a flow is."""
    return (
        snapshot.id,
        snapshot.subject,
        snapshot.rev,
        snapshot.state,
        list(snapshot.path),
        list(snapshot.history),
        snapshot.data,
        snapshot.drafts,
        snapshot.started,
        snapshot.updated,
        snapshot.finished,
    )


# -- keeping --------------------------------------------------------------------------------


def test_a_flow_that_has_not_begun_is_found_blank(kept: Kept) -> None:
    """What the session carries for a blank flow leads to that flow, with the same id."""
    snapshot, session_value = kept.begin()
    assert facts(kept.load(session_value)) == facts(snapshot)
    assert kept.store.lock_name(kept.locator, session_value) == snapshot.id


def test_what_was_committed_is_loaded(kept: Kept) -> None:
    """After each commit, the text it returned leads to all that was committed."""
    snapshot, session_value = kept.begin()
    for target, data in [("b", {"n": 1}), ("c", {"é|😀": ["|", None]}), ("a", {})]:
        new = kept.decided(snapshot, target, data)
        session_value = kept.commit(snapshot, new)
        loaded = kept.loaded(session_value)
        snapshot = kept.load(session_value)
        assert facts(snapshot) == facts(new)
        assert loaded.session_value == session_value
        assert kept.store.lock_name(kept.locator, session_value) == new.id


def test_loading_twice_changes_nothing(kept: Kept) -> None:
    """Loading is reading."""
    snapshot, session_value = kept.walk("b", "c")
    assert kept.loaded(session_value) == kept.loaded(session_value)
    assert facts(kept.load(session_value)) == facts(snapshot)


def test_flows_do_not_touch_each_other(kept: Kept) -> None:
    """Moving one flow leaves all others where they are."""
    one, carried_one = kept.walk("b")
    two, carried_two = kept.walk("b", "c")
    kept.step(one, "c")
    assert facts(kept.load(carried_two)) == facts(two)
    assert kept.load(carried_one).rev == 2


def test_the_text_for_the_session_is_short_and_plain(kept: Kept) -> None:
    """What the session carries is text, and a thousand steps make it no novel."""
    snapshot, session_value = kept.begin()
    for number in range(999):
        session_value = kept.step(snapshot, "bca"[number % 3])
        snapshot = kept.load(session_value)
    assert isinstance(session_value, str)
    assert len(session_value) < 4_000
    assert snapshot.rev == 999


# -- one winner -----------------------------------------------------------------------------


def test_a_commit_from_an_old_rev_is_stale(kept: Kept) -> None:
    """Who decided on what is no longer the newest is refused, and nothing changes."""
    old, _ = kept.walk("b")
    session_value = kept.step(old, "c", {"first": True})
    before = facts(kept.load(session_value))
    with pytest.raises(StaleFlow) as caught:
        kept.step(old, "c", {"second": True})
    assert caught.value.flow == old.id
    assert facts(kept.load(session_value)) == before


def test_two_first_commits_of_a_flow_have_one_winner(kept: Kept) -> None:
    """A blank flow is begun once."""
    blank_flow, _ = kept.begin()
    kept.step(blank_flow, "b")
    with pytest.raises(StaleFlow):
        kept.step(blank_flow, "b")


def test_two_first_commits_of_a_successor_have_one_winner(kept: Kept) -> None:
    """The run after a finished one is begun once, by whom its predecessor was the newest."""
    finished, _ = kept.walk("b", "c", "d")
    assert finished.finished
    following = blank(MACHINE, NOW, id=successor(finished.id))
    first = kept.decided(following, "b", {"n": 1})
    session_value = kept.commit(finished, first)
    with pytest.raises(StaleFlow):
        kept.commit(finished, kept.decided(following, "b", {"n": 2}))
    assert kept.load(session_value).data == {"a": {"n": 1}}


def race(kept: Kept, old: Snapshot, target: str) -> list[str]:
    """Commit from `old` in eight threads at once; return what the winners got."""
    start = threading.Barrier(8)
    texts: list[str] = []
    stale: list[StaleFlow] = []

    def commit(who: int) -> None:
        new = kept.decided(old, target, {"who": who})
        with kept.kind.context():
            start.wait(timeout=20)
            try:
                texts.append(kept.commit(old, new))
            except StaleFlow as error:
                stale.append(error)

    threads = [threading.Thread(target=commit, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(texts) + len(stale) == 8
    return texts


def test_of_racing_threads_one_wins_each_rev(kept: Kept) -> None:
    """Eight threads commit from the same rev, many times: each time one, and only one, wins."""
    snapshot, _ = kept.begin()
    for number in range(30):
        winners = race(kept, snapshot, "bca"[number % 3])
        assert len(winners) == 1
        snapshot = kept.load(winners[0])
        assert snapshot.rev == number + 1


# -- an older text never wins ---------------------------------------------------------------


def test_an_older_text_leads_to_the_newest_state(kept: Kept) -> None:
    """Whichever text of a flow comes back, the newest state is loaded, and its text with it."""
    snapshot, session_value = kept.begin()
    texts = [session_value]
    for target in "bcab":
        texts.append(kept.step(snapshot, target))
        snapshot = kept.load(texts[-1])
    for text in texts:
        assert facts(kept.load(text)) == facts(snapshot)
        assert kept.loaded(text).session_value == texts[-1]


def test_a_text_of_a_replaced_run_leads_to_the_new_run(kept: Kept) -> None:
    """Once the next run has begun, the finished one can't come back."""
    finished, old = kept.walk("b", "c", "d")
    following = blank(MACHINE, NOW, id=successor(finished.id))
    kept.commit(finished, kept.decided(following, "b"))
    loaded = kept.load(old)
    assert (loaded.id, loaded.rev, loaded.state) == (following.id, 1, "b")


def test_a_flow_that_was_given_up_can_not_come_back(kept: Kept) -> None:
    """After a reset every text of the flow is gone, and nothing can be committed to it."""
    snapshot, session_value = kept.begin()
    texts = [session_value]
    for target in "bc":
        texts.append(kept.step(snapshot, target))
        snapshot = kept.load(texts[-1])
    kept.bury(snapshot)
    for text in texts:
        with pytest.raises(FlowGone):
            kept.load(text)
    with pytest.raises(StaleFlow):
        kept.step(snapshot, "d")


def test_only_the_newest_can_be_given_up(kept: Kept) -> None:
    """A reset that was decided on an old rev is stale, and the flow lives on."""
    old, _ = kept.walk("b")
    session_value = kept.step(old, "c")
    with pytest.raises(StaleFlow):
        kept.bury(old)
    assert kept.load(session_value).state == "c"


def test_a_blank_flow_can_be_given_up(kept: Kept) -> None:
    """A flow that has not begun can be given up too."""
    snapshot, session_value = kept.begin()
    kept.bury(snapshot)
    with pytest.raises(FlowGone):
        kept.load(session_value)


# -- receipts -------------------------------------------------------------------------------


def test_a_submission_is_remembered_with_its_place(kept: Kept) -> None:
    """The digest and the location of the last submissions can be asked for by their nonces."""
    snapshot, _ = kept.begin()
    for number, target in enumerate("bcab"):
        session_value = kept.step(snapshot, target, nonce=f"nonce{number}")
        snapshot = kept.load(session_value)
    for number, target in enumerate("bcab"):
        receipt = kept.receipt(snapshot, number, f"nonce{number}")
        assert receipt == ("digest", f"/{target}", number + 1, target)
    assert snapshot.receipt == ("nonce3", "digest")
    assert kept.receipt(snapshot, 3, "another") is None
    assert kept.receipt(kept.begin()[0], 3, "nonce3") is None


def test_the_last_submissions_are_remembered(kept: Kept) -> None:
    """Whoever sends one of the last forms again is answered, however many came since."""
    snapshot, _ = kept.begin()
    for number in range(60):
        snapshot = kept.load(kept.step(snapshot, "bca"[number % 3], nonce=f"nonce{number}"))
    known = [n for n in range(60) if kept.receipt(snapshot, n, f"nonce{n}") is not None]
    assert known == list(range(60 - len(known), 60))
    assert len(known) >= 8


def test_a_refused_commit_leaves_no_receipt(kept: Kept) -> None:
    """A submission that lost is not remembered as if it had won."""
    old, _ = kept.walk("b")
    session_value = kept.step(old, "c", nonce="winner")
    with pytest.raises(StaleFlow):
        kept.step(old, "c", nonce="loser")
    newest = kept.load(session_value)
    assert kept.receipt(newest, 1, "winner") is not None
    assert kept.receipt(newest, 1, "loser") is None


# -- too much -------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_and_nothing_changes(kept: Kept) -> None:
    """The error says how much it is and how much may be; the flow is where it was."""
    old, session_value = kept.walk("b")
    noise = "".join(random.Random(2).choices(string.ascii_letters, k=40_000))
    with pytest.raises(SnapshotTooLarge) as caught:
        kept.step(old, "c", {"noise": noise}, nonce="large")
    assert caught.value.size > caught.value.limit > 0
    assert str(caught.value.size) in caught.value.message
    assert facts(kept.load(session_value)) == facts(old)
    assert kept.receipt(old, 1, "large") is None
    assert kept.load(kept.step(old, "c")).state == "c"


def test_the_history_is_cut_to_its_limit(kind: Kind) -> None:
    """The newest entries are kept, at most as many as the limit says; all else is unharmed."""
    kept = Kept(kind, history_limit=8)
    snapshot, _ = kept.begin()
    for number in range(30):
        snapshot = kept.load(kept.step(snapshot, "bca"[number % 3], {"n": number}))
        revs = [entry.rev for entry in snapshot.history]
        assert revs == list(range(snapshot.rev + 1 - len(revs), snapshot.rev + 1))
        assert min(snapshot.rev, 6) <= len(revs) <= 8
    assert (snapshot.rev, snapshot.state, list(snapshot.path)) == (30, "a", ["a"])
    assert [(e.source, e.target) for e in snapshot.history][-2:] == [("b", "c"), ("c", "a")]
    assert snapshot.drafts == {"a": {"n": 27}, "b": {"n": 28}, "c": {"n": 29}}


@pytest.mark.parametrize(
    "text", ["", "x", "|", "||", "|||||||||", "1|2|3", "a,b,c", "\x00", "é" * 99, "1" * 2_000_000]
)
def test_a_text_that_cannot_be_read_is_a_snapshot_error(kept: Kept, text: str) -> None:
    """Whatever the session carries, what comes out is a flow, SnapshotError, or FlowGone."""
    with pytest.raises(SnapshotError):
        kept.load(text)
    kept.store.lock_name(kept.locator, text)


@pytest.mark.parametrize("value", [7, [], {}, b"bytes", 1.5])
def test_what_is_no_text_is_a_snapshot_error(kept: Kept, value: object) -> None:
    """A session may carry any JSON under our key."""
    with pytest.raises(SnapshotError):
        kept.load(value)  # type: ignore[arg-type]
    assert kept.store.lock_name(kept.locator, value) is None  # type: ignore[arg-type]


def test_a_cut_text_is_no_flow(kept: Kept) -> None:
    """Each beginning of a carried text is the flow itself, an error, or a blank flow; no crash."""
    _, session_value = Kept(kept.kind).walk("b", "c")
    for length in range(len(session_value)):
        with pytest.raises((SnapshotError, FlowGone)):
            kept.load(session_value[:length])
