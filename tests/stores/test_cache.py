"""The cache: which flows a process remembers, and the lock of each flow."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from flask_fsm import FlowBusy, FlowGone, FSMError, Machine, StaleFlow
from flask_fsm.core.flow import blank, successor
from flask_fsm.stores import FlowCache, FlowLocator, Version

from .test_contract import MACHINE, NOW, Kept, Kind

MEMORY = Kind("memory://", "memory://")
SESSION = Kind("session", "session")


def test_the_flows_used_longest_ago_are_dropped_first() -> None:
    """FSM_CACHE_SIZE bounds how many flows are remembered, and use keeps a flow."""
    with SESSION.context():
        kept = Kept(SESSION, cache_size=3)
        flows = [kept.walk("b") for _ in range(3)]
        kept.load(flows[0][1])
        flows.append(kept.walk("b"))
        assert len(kept.cache) == 3
        known = [kept.cache.newest(snapshot.id) is not None for snapshot, _ in flows]
    assert known == [True, False, True, True]


def test_memory_says_that_it_dropped_a_flow() -> None:
    """A flow that memory:// had to drop is gone, and the text says why."""
    kept = Kept(MEMORY, cache_size=1)
    _, session_value = kept.walk("b")
    kept.walk("b")
    with pytest.raises(FlowGone) as caught:
        kept.load(session_value)
    assert caught.value.code == "evicted"


def test_the_session_brings_back_a_flow_that_was_dropped() -> None:
    """The cookie holds all of it, so a process that has not cached a flow reads it from there."""
    with SESSION.context():
        kept = Kept(SESSION, cache_size=1)
        snapshot, session_value = kept.walk("b", "c")
        for _ in range(3):
            kept.walk("b")
        assert kept.cache.newest(snapshot.id) is None
        assert kept.load(session_value).rev == 2


def test_a_flow_that_is_being_served_is_never_dropped() -> None:
    """However many others come, the flow that is locked stays."""
    for kind in (SESSION, MEMORY):
        with kind.context():
            kept = Kept(kind, cache_size=2)
            snapshot, session_value = kept.walk("b")
            with kept.cache.lock(snapshot.id, 1):
                for _ in range(10):
                    kept.walk("b", "c")
                session_value = kept.step(snapshot, "c")
                assert kept.load(session_value).rev == 2
            assert len(kept.cache) <= 3


def test_blank_flows_take_no_room() -> None:
    """A crawler that opens the first page a thousand times drops no one's flow."""
    for kind in (SESSION, MEMORY):
        with kind.context():
            kept = Kept(kind, cache_size=2)
            _, session_value = kept.walk("b")
            for _ in range(1_000):
                other, text = kept.begin()
                kept.load(text)
                with kept.cache.lock(other.id, 1):
                    pass
            assert kept.load(session_value).rev == 1


def test_the_lock_of_a_flow_is_held_by_one_after_another() -> None:
    """While one request is served, another one of the same flow waits until it is over."""
    cache = FlowCache(10)
    id = blank(MACHINE, NOW).id
    running, most, served = 0, 0, 0
    mutex = threading.Lock()

    def serve() -> None:
        nonlocal running, most, served
        for _ in range(50):
            with cache.lock(id, 20):
                with mutex:
                    running += 1
                    most = max(most, running)
                with mutex:
                    running -= 1
                    served += 1

    threads = [threading.Thread(target=serve) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert (most, served) == (1, 300)
    assert len(cache) == 0


def acquire(cache: FlowCache, id: str, wait: float = 0.01) -> None:
    """Acquire the lock of a flow and release it."""
    with cache.lock(id, wait):
        pass


def test_a_run_and_its_successors_share_a_lock() -> None:
    """Else the first forms of a new run, and the last ones of the old, could race."""
    cache = FlowCache(10)
    id = blank(MACHINE, NOW).id
    with cache.lock(id, 1), ThreadPoolExecutor(1) as another:
        for other in (id, successor(id), successor(successor(id))):
            with pytest.raises(FlowBusy) as caught:
                another.submit(acquire, cache, other).result()
            assert caught.value.flow == other
        with cache.lock(blank(MACHINE, NOW).id, 0.01):
            pass


def test_the_wait_for_a_lock_is_bounded_and_leaves_nothing_behind() -> None:
    """Who waited in vain is told so, and the lock is free again afterwards."""
    cache = FlowCache(10)
    id = blank(MACHINE, NOW).id
    with cache.lock(id, 1), ThreadPoolExecutor(1) as another, pytest.raises(FlowBusy):
        another.submit(acquire, cache, id).result()
    acquire(cache, id)
    assert len(cache) == 0


def test_nobody_waits_for_himself() -> None:
    """Who asks for a lock that they hold is told so at once, and keeps it."""
    cache = FlowCache(10)
    id = blank(MACHINE, NOW).id
    with cache.lock(id, 1):
        with pytest.raises(FSMError) as caught:
            acquire(cache, successor(id), 1_000)
        assert caught.value.code == "in_turn"
        with ThreadPoolExecutor(1) as another, pytest.raises(FlowBusy):
            another.submit(acquire, cache, id).result()
    acquire(cache, id)
    assert len(cache) == 0


def test_a_lock_is_released_when_its_request_fails() -> None:
    """An error inside of a lock releases it."""
    cache = FlowCache(10)
    id = blank(MACHINE, NOW).id
    with pytest.raises(ZeroDivisionError), cache.lock(id, 1):
        _ = 1 / 0
    with cache.lock(id, 0.01):
        pass


def test_a_snapshot_from_elsewhere_is_taken_if_it_is_newer() -> None:
    """Of two snapshots of a flow the one with the higher rev, or of the later run, is kept."""
    elsewhere = Kept(MEMORY)
    snapshot, _ = elsewhere.begin()
    revs = [snapshot]
    for target in "bca":
        snapshot = elsewhere.decided(snapshot, target)
        revs.append(snapshot)
    cache = FlowCache(10)
    assert cache.adopt(revs[1], "1")[1] == "1"
    assert cache.adopt(revs[3], "3")[1] == "3"
    assert cache.adopt(revs[2], "2")[1] == "3"
    assert cache.adopt(revs[3], "another 3")[1] == "3"
    later = elsewhere.decided(blank(MACHINE, NOW, id=successor(snapshot.id)), "b")
    assert cache.adopt(later, "later")[1] == "later"
    assert cache.adopt(revs[3], "3")[1] == "later"


def test_a_tombstone_stays_while_the_flow_is_remembered() -> None:
    """Neither an older nor a newer snapshot of a flow that was given up comes back."""
    kept = Kept(MEMORY)
    snapshot, _ = kept.walk("b")
    newer = kept.decided(snapshot, "c")
    kept.cache.write_tombstone(Version(snapshot.id, snapshot.rev))
    for text in (snapshot, newer):
        with pytest.raises(FlowGone):
            kept.cache.adopt(text, "text")
    with pytest.raises(FlowGone):
        kept.cache.newest(snapshot.id)
    with pytest.raises(StaleFlow):
        kept.cache.compare_and_swap(Version(snapshot.id, snapshot.rev), newer, "text", None)


def test_another_machine_reads_nothing_into_a_text() -> None:
    """A session text of one machine is an error for another, not a state of it."""
    from flask_fsm import SnapshotError

    other = Machine("other", [("x", "y")]).seal()
    with SESSION.context():
        _, session_value = Kept(SESSION).walk("b")
        fresh = Kept(SESSION, FlowLocator(other))
        with pytest.raises(SnapshotError):
            fresh.load(session_value)
