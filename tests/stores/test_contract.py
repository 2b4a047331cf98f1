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
from flask_fsm.core.flow import blank, successor
from flask_fsm.core.snapshot import Receipt
from flask_fsm.stores import Heads, MemoryStore, SessionStore, Store

from ..apps import SECRET

MAX_SIZE = 20_000


# One app for all: to make apps in several threads at once trips over a fault of CPython 3.11.
APP = Flask("stores")
APP.config["SECRET_KEY"] = SECRET


class Kind:
    """How a store is made, and in which context it is used."""

    def __init__(
        self,
        make: Callable[[Heads, int], Store],
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.make = make
        self.context = context


STORES = {
    "session": Kind(
        lambda heads, limit: SessionStore(heads, limit, MAX_SIZE),
        lambda: APP.test_request_context("/"),
    ),
    "memory://": Kind(lambda heads, limit: MemoryStore(heads, limit, MAX_SIZE)),
}

MACHINE = Machine(
    "stores", [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")], initial="a", final=["d"]
).seal()
NOW = 1_800_000_000


class Kept:
    """A store under test, with what is needed to move a flow in it."""

    def __init__(self, kind: Kind, size: int = 100, history_limit: int = 1_000) -> None:
        self.kind = kind
        self.heads = Heads(size)
        self.store = kind.make(self.heads, history_limit)

    def begin(self) -> tuple[Snapshot, str]:
        """A blank flow, and what the session carries for it."""
        snapshot = blank(MACHINE, NOW)
        return snapshot, self.store.carry(MACHINE, snapshot)

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
        return self.store.commit(MACHINE, old, new, f"/{new.state}")

    def walk(self, *targets: str) -> tuple[Snapshot, str]:
        """A flow that has gone through these states."""
        snapshot, carried = self.begin()
        for target in targets:
            carried = self.step(snapshot, target)
            snapshot = self.load(carried)
        return snapshot, carried

    def load(self, carried: str) -> Snapshot:
        return self.store.load(MACHINE, carried).snapshot


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = STORES[request.param]
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
    snapshot, carried = kept.begin()
    assert facts(kept.load(carried)) == facts(snapshot)
    assert kept.store.identify(carried) == snapshot.id


def test_what_was_committed_is_loaded(kept: Kept) -> None:
    """After each commit, the text it returned leads to all that was committed."""
    snapshot, carried = kept.begin()
    for target, data in [("b", {"n": 1}), ("c", {"é|😀": ["|", None]}), ("a", {})]:
        new = kept.decided(snapshot, target, data)
        carried = kept.commit(snapshot, new)
        loaded = kept.store.load(MACHINE, carried)
        assert facts(loaded.snapshot) == facts(new)
        assert loaded.carried == carried
        assert kept.store.identify(carried) == new.id
        snapshot = loaded.snapshot


def test_loading_twice_changes_nothing(kept: Kept) -> None:
    """Loading is reading."""
    snapshot, carried = kept.walk("b", "c")
    assert kept.store.load(MACHINE, carried) == kept.store.load(MACHINE, carried)
    assert facts(kept.load(carried)) == facts(snapshot)


def test_flows_do_not_touch_each_other(kept: Kept) -> None:
    """Moving one flow leaves all others where they are."""
    one, carried_one = kept.walk("b")
    two, carried_two = kept.walk("b", "c")
    kept.step(one, "c")
    assert facts(kept.load(carried_two)) == facts(two)
    assert kept.load(carried_one).rev == 2


def test_the_text_for_the_session_is_short_and_plain(kept: Kept) -> None:
    """What the session carries is text, and a thousand steps make it no novel."""
    snapshot, carried = kept.begin()
    for number in range(999):
        carried = kept.step(snapshot, "bca"[number % 3])
        snapshot = kept.load(carried)
    assert isinstance(carried, str)
    assert len(carried) < 4_000
    assert snapshot.rev == 999


# -- one winner -----------------------------------------------------------------------------


def test_a_commit_from_an_old_rev_is_stale(kept: Kept) -> None:
    """Who decided on what is no longer the newest is refused, and nothing changes."""
    old, _ = kept.walk("b")
    carried = kept.step(old, "c", {"first": True})
    before = facts(kept.load(carried))
    with pytest.raises(StaleFlow) as caught:
        kept.step(old, "c", {"second": True})
    assert caught.value.flow == old.id
    assert facts(kept.load(carried)) == before


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
    carried = kept.commit(finished, first)
    with pytest.raises(StaleFlow):
        kept.commit(finished, kept.decided(following, "b", {"n": 2}))
    assert kept.load(carried).data == {"a": {"n": 1}}


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
    snapshot, carried = kept.begin()
    texts = [carried]
    for target in "bcab":
        texts.append(kept.step(snapshot, target))
        snapshot = kept.load(texts[-1])
    for text in texts:
        loaded = kept.store.load(MACHINE, text)
        assert facts(loaded.snapshot) == facts(snapshot)
        assert loaded.carried == texts[-1]


def test_a_text_of_a_replaced_run_leads_to_the_new_run(kept: Kept) -> None:
    """Once the next run has begun, the finished one can't come back."""
    finished, old = kept.walk("b", "c", "d")
    following = blank(MACHINE, NOW, id=successor(finished.id))
    kept.commit(finished, kept.decided(following, "b"))
    loaded = kept.load(old)
    assert (loaded.id, loaded.rev, loaded.state) == (following.id, 1, "b")


def test_a_flow_that_was_given_up_can_not_come_back(kept: Kept) -> None:
    """After a reset every text of the flow is gone, and nothing can be committed to it."""
    snapshot, carried = kept.begin()
    texts = [carried]
    for target in "bc":
        texts.append(kept.step(snapshot, target))
        snapshot = kept.load(texts[-1])
    kept.store.bury(snapshot)
    for text in texts:
        with pytest.raises(FlowGone):
            kept.load(text)
    with pytest.raises(StaleFlow):
        kept.step(snapshot, "d")


def test_only_the_newest_can_be_given_up(kept: Kept) -> None:
    """A reset that was decided on an old rev is stale, and the flow lives on."""
    old, _ = kept.walk("b")
    carried = kept.step(old, "c")
    with pytest.raises(StaleFlow):
        kept.store.bury(old)
    assert kept.load(carried).state == "c"


def test_a_blank_flow_can_be_given_up(kept: Kept) -> None:
    """A flow that has not begun can be given up too."""
    snapshot, carried = kept.begin()
    kept.store.bury(snapshot)
    with pytest.raises(FlowGone):
        kept.load(carried)


# -- receipts -------------------------------------------------------------------------------


def test_a_submission_is_remembered_with_its_place(kept: Kept) -> None:
    """The digest and the location of the last submissions can be asked for by their nonces."""
    snapshot, _ = kept.begin()
    for number, target in enumerate("bcab"):
        carried = kept.step(snapshot, target, nonce=f"nonce{number}")
        snapshot = kept.load(carried)
    for number, target in enumerate("bcab"):
        receipt = kept.heads.receipt(snapshot.id, f"nonce{number}")
        assert receipt == ("digest", f"/{target}")
    assert snapshot.receipt == ("nonce3", "digest")
    assert kept.heads.receipt(snapshot.id, "another") is None
    assert kept.heads.receipt(kept.begin()[0].id, "nonce3") is None


def test_only_the_last_submissions_are_remembered(kept: Kept) -> None:
    """A flow keeps some receipts, not all, so that it does not grow for ever."""
    snapshot, _ = kept.begin()
    for number in range(60):
        snapshot = kept.load(kept.step(snapshot, "bca"[number % 3], nonce=f"nonce{number}"))
    known = [n for n in range(60) if kept.heads.receipt(snapshot.id, f"nonce{n}") is not None]
    assert known == list(range(60 - len(known), 60))
    assert 8 <= len(known) <= 32


def test_a_refused_commit_leaves_no_receipt(kept: Kept) -> None:
    """A submission that lost is not remembered as if it had won."""
    old, _ = kept.walk("b")
    kept.step(old, "c", nonce="winner")
    with pytest.raises(StaleFlow):
        kept.step(old, "c", nonce="loser")
    assert kept.heads.receipt(old.id, "winner") is not None
    assert kept.heads.receipt(old.id, "loser") is None


# -- too much -------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_and_nothing_changes(kept: Kept) -> None:
    """The error says how much it is and how much may be; the flow is where it was."""
    old, carried = kept.walk("b")
    noise = "".join(random.Random(2).choices(string.ascii_letters, k=40_000))
    with pytest.raises(SnapshotTooLarge) as caught:
        kept.step(old, "c", {"noise": noise}, nonce="large")
    assert caught.value.size > caught.value.limit > 0
    assert str(caught.value.size) in caught.value.message
    assert facts(kept.load(carried)) == facts(old)
    assert kept.heads.receipt(old.id, "large") is None
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
    kept.store.identify(text)


@pytest.mark.parametrize("value", [None, 7, [], {}, b"bytes", 1.5])
def test_what_is_no_text_is_a_snapshot_error(kept: Kept, value: object) -> None:
    """A session may carry any JSON under our key."""
    with pytest.raises(SnapshotError):
        kept.load(value)  # type: ignore[arg-type]
    assert kept.store.identify(value) is None  # type: ignore[arg-type]


def test_a_cut_text_is_no_flow(kept: Kept) -> None:
    """Each beginning of a carried text is the flow itself, an error, or a blank flow; no crash."""
    _, carried = Kept(kept.kind).walk("b", "c")
    for length in range(len(carried)):
        with pytest.raises((SnapshotError, FlowGone)):
            kept.load(carried[:length])
