"""The bus on Valkey: processes, holes, and all that happens to servers and connections."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import redis

from flask_fsm import StoreUnavailable
from flask_fsm.bus import PIECE, Position, Revision
from flask_fsm.bus.redis.bus import SENDERS, RedisBus
from flask_fsm.bus.redis.outbox import QUEUE_BYTES, QUEUE_SIZE, Item, KeptBytes

from ..clients import LOOPBACK, PATIENCE
from ..processes import free_port
from ..proxy import Proxy
from ..store_servers import Valkey
from .recorder import GAP, Recorder, numbers, run_at_once, wait_until

Make = Callable[..., RedisBus]
KEY = "fsm:live:{c}"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    """A proxy before Valkey, open at first."""
    with Proxy.before(redis_url) as made:
        yield made


@pytest.fixture
def behind(proxy: Proxy, redis_url: str, redis_bus: Make) -> Make:
    """A maker of buses behind the proxy, which soon lose patience."""

    def make(**options: Any) -> RedisBus:
        return redis_bus(proxy.through(redis_url), **{"timeout": 0.5, **options})

    return make


@pytest.fixture
def own(stack: ExitStack) -> Callable[..., Valkey]:
    """A maker of servers that the test may kill."""

    def make(**options: Any) -> Valkey:
        server = Valkey(**options)
        stack.enter_context(server)
        return server

    return make


def until_in_step(bus: RedisBus, recorder: Recorder) -> None:
    """Wait until a message from this bus reaches a recorder."""
    payload = f"in step {random.random()}"
    bus.publish("c", payload)
    recorder.until_payload(payload)


def assert_whole(recorder: Recorder) -> None:
    """No gap, and no offset that is missing or comes twice."""
    assert GAP not in recorder.payloads
    offsets = numbers(recorder.log)
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


# -- processes ------------------------------------------------------------------------------------


def test_processes_that_publish_at_once(redis_url: str, redis_bus: Make) -> None:
    """Two subscribers get the same, each process's messages in its order."""
    buses = redis_bus(), redis_bus()
    recorders = Recorder(), Recorder()
    for bus, recorder in zip(buses, recorders, strict=True):
        bus.subscribe("c", recorder)
    command = [sys.executable, "-m", "tests.bus.publisher", redis_url]
    processes = [
        subprocess.Popen([*command, name, "500"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    assert [process.communicate(timeout=PATIENCE)[0].strip() for process in processes] == [
        "True"
    ] * 3
    for recorder in recorders:
        recorder.until_count(1_500)
        assert_whole(recorder)
    assert recorders[0].log == recorders[1].log
    for name in "abc":
        mine = [payload for payload in recorders[0].payloads if payload.startswith(name)]
        assert mine == [f"{name} {number}" for number in range(500)]


def test_a_bus_is_used_before_and_after_a_fork(redis_url: str) -> None:
    """In both processes, and what the parent has not sent yet the child does not send again."""
    command = [sys.executable, "-m", "tests.bus.forking", redis_url]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout == "fine\n", done.stdout + done.stderr


def test_a_thousand_channels_need_one_connection(redis_bus: Make, client: redis.Redis) -> None:
    """Also after they were entered by several threads at once."""
    bus, other = redis_bus(), redis_bus()
    names = [f"c{number}" for number in range(1_000)]
    recorders = {name: Recorder() for name in names}

    def enter(start: int) -> None:
        for name in names[start::4]:
            bus.subscribe(name, recorders[name])

    before = {each["id"] for each in client.client_list(_type="pubsub")}
    run_at_once(*[lambda start=start: enter(start) for start in range(4)])
    subscribed = [each for each in client.client_list(_type="pubsub") if each["id"] not in before]
    assert [int(each["sub"]) for each in subscribed] == [1_001]
    for name in names:
        other.publish(name, f"to {name}")
    for name in names:
        assert recorders[name].until_count(1) == [f"to {name}"]
    for name in names:
        bus.unsubscribe(name, recorders[name])
    wait_until(
        lambda: (
            [each["sub"] for each in client.client_list(_type="pubsub") if each["id"] not in before]
            == ["1"]
        )
    )


def test_a_message_is_one_call(redis_bus: Make, client: redis.Redis) -> None:
    """With a script that is sent in full at most once for each pipeline."""
    bus = redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    until_in_step(bus, recorder)
    client.config_resetstat()
    for number in range(50):
        bus.publish("c", str(number))
    recorder.until_payload("49")
    stats = client.info("commandstats")
    calls = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
    assert calls == 50
    assert stats["cmdstat_xadd"]["calls"] == stats["cmdstat_publish"]["calls"] == 50


def listened(bus: RedisBus, channel: str) -> None:
    """Let somebody listen to a channel, and go: until it expires, what is said there is kept."""
    recorder = Recorder()
    bus.subscribe(channel, recorder)
    bus.unsubscribe(channel, recorder)


def test_what_is_kept_expires(redis_bus: Make, client: redis.Redis) -> None:
    """After its time and the half of it, and not while somebody is subscribed."""
    bus = redis_bus(replay_time=2)
    listened(bus, "c")
    bus.publish("c", "a")
    bus.flush(PATIENCE)
    assert 0 < client.ttl(KEY) <= 3
    assert 0 < client.ttl(f"{KEY}:log") <= 3
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for _ in range(2):  # twice as long as it is kept
        listened(bus, "left")
        bus.publish("left", "a")
        bus.flush(PATIENCE)
        assert client.exists("fsm:live:{left}:log")
        wait_until(lambda: not client.exists("fsm:live:{left}"))
    bus.publish("c", "b")
    assert recorder.until_count(1) == ["b"]
    assert recorder.log[0][0] == (start.epoch, start.offset + 1)


def test_a_group_does_not_stay_for_ever(redis_bus: Make, client: redis.Redis) -> None:
    """If all processes die, a day after its last member's time."""
    bus = redis_bus()
    bus.enter("g", "ann", "", time.time() + 1_000)
    bus.enter("g", "bob", "", time.time() + 10)
    bus.renew("g", ["bob"], time.time() + 20)
    for key in ("fsm:group:{g}", "fsm:group:{g}:info"):
        assert 86_400 + 900 < client.ttl(key) <= 86_400 + 1_000


# -- holes ----------------------------------------------------------------------------------------


def lose(client: redis.Redis, *, kept: bool) -> int:
    """Count a message that is not published; keep it in the stream, or don't. Return its offset."""
    offset = int(client.hincrby(KEY, "offset", 1))
    if kept:
        client.xadd(f"{KEY}:log", {"payload": f"lost {offset}"}, f"{offset}-0")
    return offset


def test_a_hole_is_filled(redis_bus: Make, client: redis.Redis) -> None:
    """From the stream, in its place."""
    bus = redis_bus()
    first, second = Recorder(), Recorder()
    bus.subscribe("c", first)
    bus.subscribe("c", second)
    bus.publish("c", "1")
    first.until_count(1)
    lose(client, kept=True)
    lose(client, kept=True)
    bus.publish("c", "4")
    bus.publish("c", "5")
    assert first.until_count(5) == second.until_count(5) == ["1", "lost 2", "lost 3", "4", "5"]
    assert_whole(first)


def test_a_hole_that_can_not_be_filled_is_a_gap(redis_bus: Make, client: redis.Redis) -> None:
    """It goes on after the position of the gap."""
    bus = redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    bus.publish("c", "1")
    recorder.until_count(1)
    lose(client, kept=False)
    bus.publish("c", "3")
    bus.publish("c", "4")
    recorder.until(lambda: recorder.log[-1][0].offset == 4)
    payloads = recorder.payloads
    assert payloads[:2] == ["1", GAP]
    after = numbers(recorder.log[1:])
    # What the gap covers depends on when the server was asked.
    assert payloads[2:] == [str(offset) for offset in after[1:]]
    assert after == list(range(after[0], 5))


def test_a_hole_at_the_end_is_found_in_time(redis_bus: Make, client: redis.Redis) -> None:
    """Though nothing comes after it."""
    bus = redis_bus(replay_time=2)
    recorder = Recorder()
    bus.subscribe("c", recorder)
    bus.publish("c", "1")
    recorder.until_count(1)
    lose(client, kept=True)
    assert recorder.until_count(2) == ["1", "lost 2"]


@pytest.mark.parametrize("gone", [KEY, f"{KEY}:log"])
def test_a_key_that_the_server_has_evicted(
    redis_bus: Make, client: redis.Redis, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was in it is a gap; what comes then is carried and kept."""
    bus, other = redis_bus(), redis_bus()
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for payload in "ab":
        other.publish("c", payload)
    recorder.until_count(2)
    client.delete(gone)
    for payload in "cd":
        other.publish("c", payload)
    assert other.flush(PATIENCE)
    assert bus.since("c", start) is None
    newest = Position(client.hget(KEY, "epoch") or "", int(client.hget(KEY, "offset") or 0))
    recorder.until(lambda: recorder.log[-1][0] == newest)
    if gone == KEY:
        assert recorder.payloads[:3] == ["a", "b", GAP]
    else:
        assert recorder.payloads == ["a", "b", "c", "d"]
    position, _ = recorder.log[-1]
    other.publish("c", "e")
    recorder.until_payload("e")
    assert bus.since("c", position) == recorder.log[-1:]
    assert "is lost" not in caplog.text


def test_what_others_publish_there_is_no_message(
    redis_bus: Make, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and disturbs nothing."""
    bus = redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    with caplog.at_level(logging.WARNING):
        (wire,) = client.pubsub_channels("*{c}*")
        for nonsense in ("", "x", "a b c", "a 1", b"\xff\xff\xff"):
            client.publish(wire, nonsense)
        until_in_step(bus, recorder)
    assert len(recorder.log) == 1
    assert_whole(recorder)
    assert "not a message" in caplog.text
    assert len(client.client_list(_type="pubsub")) >= 1


# -- connections ----------------------------------------------------------------------------------


def test_a_killed_connection_is_made_again(redis_bus: Make, client: redis.Redis) -> None:
    """CLIENT KILL, again and again, while messages flow: none is missing and none comes twice."""
    bus, other = redis_bus(), redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    for turn in range(10):
        for number in range(100):
            other.publish("c", f"{turn} {number}")
        assert other.flush(PATIENCE)
        client.client_kill_filter(_type="pubsub")
    assert recorder.until_count(1_000) == [
        f"{turn} {number}" for turn in range(10) for number in range(100)
    ]
    assert_whole(recorder)


def test_connections_that_are_cut_at_random(
    behind: Make, proxy: Proxy, redis_bus: Make, redis_url: str
) -> None:
    """Of the publisher and the subscriber alike: each message once, in order."""
    bus, other = behind(replay_limit=5_000), behind(replay_limit=5_000)
    recorder = Recorder()
    bus.subscribe("c", recorder)
    over = Event()

    def cut() -> None:
        dice = random.Random(4)
        while not over.wait(dice.random() * 0.05):
            proxy.open()

    thread = Thread(target=cut)
    thread.start()
    try:
        for number in range(2_000):
            other.publish("c", str(number))
            if number % 10 == 0:
                time.sleep(0.001)
    finally:
        over.set()
        thread.join()
    assert recorder.until_count(2_000) == [str(number) for number in range(2_000)]
    assert_whole(recorder)


def test_a_server_that_is_away_for_a_while(behind: Make, proxy: Proxy, redis_bus: Make) -> None:
    """What others published meanwhile is filled, and channels can be left and entered after it."""
    bus, other = behind(), redis_bus()
    recorder, left = Recorder(), Recorder()
    bus.subscribe("c", recorder)
    bus.subscribe("d", left)
    proxy.refuse()
    for number in range(20):
        other.publish("c", str(number))
    assert other.flush(PATIENCE)
    bus.unsubscribe("d", left)
    proxy.open()
    assert recorder.until_count(20) == [str(number) for number in range(20)]
    assert_whole(recorder)
    late = Recorder()
    bus.subscribe("d", late)
    other.publish("d", "a")
    assert late.until_count(1) == ["a"]
    assert left.log == []


def test_much_that_was_missed_is_filled(behind: Make, proxy: Proxy, redis_bus: Make) -> None:
    """However large it is, it comes whole and in order, on several channels."""
    bus, other = behind(replay_bytes=2_000_000), redis_bus(replay_bytes=2_000_000)
    recorders = {name: Recorder() for name in "cd"}
    for name, recorder in recorders.items():
        bus.subscribe(name, recorder)
    proxy.refuse()
    told = [f"{number} {'x' * 20_000}" for number in range(40)]
    for text in told:
        for name in recorders:
            other.publish(name, text)
    assert other.flush(PATIENCE)
    proxy.open()
    for recorder in recorders.values():
        assert recorder.until_count(40) == told
        assert_whole(recorder)


def test_more_is_missed_than_is_kept(behind: Make, proxy: Proxy, redis_bus: Make) -> None:
    """A gap, and what follows it."""
    bus, other = behind(replay_limit=10), redis_bus(replay_limit=10)
    recorder = Recorder()
    bus.subscribe("c", recorder)
    proxy.refuse()
    for number in range(11):
        other.publish("c", str(number))
    assert other.flush(PATIENCE)
    proxy.open()
    assert recorder.until_count(1) == [GAP]
    other.publish("c", "after")
    assert recorder.until_count(2) == [GAP, "after"]
    assert numbers(recorder.log) == [11, 12]


def test_a_silent_server_is_noticed(behind: Make, proxy: Proxy, redis_bus: Make) -> None:
    """The subscriber connects anew, though nobody has cut its connection."""
    bus, other = behind(), redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    before = proxy.accepted
    proxy.blackhole()
    other.publish("c", "a")
    wait_until(lambda: proxy.accepted > before + 1)
    assert recorder.log == []
    proxy.open()
    assert recorder.until_count(1) == ["a"]
    assert_whole(recorder)


def test_a_quiet_connection_is_kept(behind: Make, proxy: Proxy, client: redis.Redis) -> None:
    """While the server answers when it is asked, there is nothing to connect anew for."""
    bus = behind(timeout=0.2)
    recorder = Recorder()
    bus.subscribe("c", recorder)
    before = proxy.accepted

    def pings() -> int:
        calls: int = client.info("commandstats")["cmdstat_ping"]["calls"]
        return calls

    client.ping()
    start = pings()
    wait_until(lambda: pings() >= start + 4)
    assert proxy.accepted == before
    until_in_step(bus, recorder)


# -- publishing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "blackhole"])
def test_to_publish_waits_for_no_server(
    behind: Make, proxy: Proxy, redis_bus: Make, fault: str
) -> None:
    """However long the bus waits itself; it is sent once the server is back."""
    bus, other = behind(timeout=600), redis_bus()
    recorder = Recorder()
    other.subscribe("c", recorder)
    until_in_step(bus, recorder)
    getattr(proxy, fault)()
    for number in range(100):
        bus.publish("c", str(number))
    assert not bus.flush(0.01)
    proxy.open()
    assert recorder.until_count(101)[1:] == [str(number) for number in range(100)]
    assert bus.flush(PATIENCE)
    assert_whole(recorder)


def test_a_server_that_was_never_there(redis_bus: Make, caplog: pytest.LogCaptureFixture) -> None:
    """To publish is no error; what needs an answer says that there is none."""
    bus = redis_bus(f"redis://{LOOPBACK}:{free_port()}", timeout=0.2)
    bus.publish("c", "a")
    assert not bus.flush(0.05)
    for ask in (
        lambda: bus.subscribe("c", Recorder()),
        lambda: bus.since("c", Position("epoch", 1)),
        lambda: bus.acquire_once("key", 10),
        lambda: bus.enter("g", "ann", "", 10**10),
        lambda: bus.leave("g", "ann"),
        lambda: bus.renew("g", ["ann"], 10**10),
        lambda: bus.members("g"),
        lambda: bus.expired("g"),
    ):
        with pytest.raises(StoreUnavailable):
            ask()
    bus.unsubscribe("c", Recorder())


@pytest.mark.parametrize("revision", [None, Revision("run", 7)])
def test_a_message_whose_answer_is_lost_is_sent_once(
    behind: Make, proxy: Proxy, redis_bus: Make, revision: Revision | None
) -> None:
    """It is sent again, and the server knows that it is there already."""
    bus, other = behind(), redis_bus()
    recorder = Recorder()
    other.subscribe("c", recorder)
    lost = proxy.drop_reply_to(b"the lost one")
    bus.publish("c", "the lost one", revision)
    assert lost.wait()
    bus.publish("c", "the next one")
    assert recorder.until_payload("the next one") == ["the lost one", "the next one"]
    assert bus.flush(PATIENCE)
    assert_whole(recorder)


def test_what_arrives_late_from_a_broken_connection_is_dropped(
    redis_bus: Make, client: redis.Redis
) -> None:
    """It has been sent again on another one, and what follows it too."""
    bus, other = redis_bus(), redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    for payload in "abc":
        other.publish("c", payload)
    recorder.until_count(3)
    (sender,) = [field for field in client.hgetall(KEY) if field.startswith("from ")]
    call = other.outbox.call_for(Item("c", b"b", None, 2))
    assert sender == f"from {call.arguments[3]}"
    client.execute_command(*call.command(whole=True))
    other.publish("c", "d")
    assert recorder.until_payload("d") == ["a", "b", "c", "d"]
    assert_whole(recorder)


def test_clients_that_come_back_together_share_what_they_have_missed(
    redis_bus: Make, client: redis.Redis
) -> None:
    """The server is asked once for them, and what is said meanwhile reaches each of them."""
    bus = redis_bus()
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for text in "ab":
        bus.publish("c", text)
    recorder.until_count(2)
    bus.since("another", start, PIECE)  # a script is sent to a new server by a second call
    asked = client.info("commandstats")
    first = bus.since("c", start, PIECE) or []
    others = [bus.since("c", start, PIECE) for _ in range(20)]
    assert [payload for _, payload in first] == ["a", "b"]
    assert all(other is first for other in others)
    assert calls(client.info("commandstats")) - calls(asked) == 1
    bus.publish("c", "c")
    recorder.until_count(3)
    assert bus.since("c", first[-1][0], PIECE) == recorder.log[2:]
    wait_until(lambda: bus.since("c", start, PIECE) == recorder.log)


def calls(stats: dict[str, Any]) -> int:
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


def test_where_nobody_listens_nothing_is_kept(redis_bus: Make, client: redis.Redis) -> None:
    """A page that nobody follows takes no memory of the server, however much it says."""
    bus, other = redis_bus(), redis_bus()
    for number in range(5):
        bus.publish("c", "x" * 10_000, Revision("", number))
    assert bus.flush(PATIENCE)
    assert client.keys() == []
    recorder = Recorder()
    start = other.subscribe("c", recorder)
    bus.publish("c", "a", Revision("", 5))
    bus.publish("c", "late", Revision("", 5))
    bus.publish("c", "b", Revision("", 6))
    assert recorder.until_count(2) == ["a", "b"]
    other.unsubscribe("c", recorder)
    bus.publish("c", "c", Revision("", 7))
    assert bus.flush(PATIENCE)
    assert [payload for _, payload in other.since("c", start) or ()] == ["a", "b", "c"]


def test_a_channel_that_the_server_has_dropped_is_begun_anew(
    redis_bus: Make, client: redis.Redis
) -> None:
    """Its receivers are told of the gap by the next message, and get those after it."""
    bus, other = redis_bus(), redis_bus()
    recorder = Recorder()
    other.subscribe("c", recorder)
    bus.publish("c", "a")
    recorder.until_count(1)
    client.flushdb()
    bus.publish("c", "b")
    recorder.until_count(2)
    bus.publish("c", "c")
    assert recorder.until_payload("c") == ["a", GAP, "c"]


def test_a_process_keeps_so_much_on_the_server(redis_bus: Make, client: redis.Redis) -> None:
    """However many channels one client fills, those of others and the flows have room there."""
    bus = redis_bus(replay_bytes=64_000)
    recorder = Recorder()
    starts = [bus.subscribe(f"c{number}", recorder) for number in range(200)]
    for number in range(200):
        for _ in range(10):
            bus.publish(f"c{number}", "x" * 6_000)
        assert bus.flush(PATIENCE)
    assert 64 * 54_000 <= kept_bytes(client) < 80 * 64_000
    assert len(bus.since("c0", starts[0]) or ()) == 10
    assert bus.since("c199", starts[199]) is None
    client.flushdb()


def kept_bytes(client: redis.Redis) -> int:
    return sum(
        len(entry["payload"]) for key in client.keys("*:log") for _, entry in client.xrange(key)
    )


def test_room_on_the_server_is_free_again_once_channels_have_expired() -> None:
    """Those that somebody listens to stay counted."""
    kept = KeptBytes(64_000, 0.0)
    for number in range(64):
        kept.note(f"c{number}", 64_000)
    assert kept.allowed == 1_000
    kept.drop_expired(lambda channel: channel == "c7")
    assert (kept.total, kept.allowed) == (64_000, 64_000)


def test_senders_are_forgotten(redis_bus: Make, client: redis.Redis) -> None:
    """A channel lives longer than the processes that send on it."""
    bus = redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    for number in range(2 * SENDERS):
        client.hset(KEY, f"from {number}", 1)
    until_in_step(bus, recorder)
    senders = [field for field in client.hkeys(KEY) if field.startswith("from ")]
    assert senders == [f"from {bus.outbox.sender_id}"]


def test_scripts_that_the_server_forgets(redis_bus: Make, client: redis.Redis) -> None:
    """Are sent again; the order of the messages is kept."""
    bus, other = redis_bus(), redis_bus()
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for number in range(2_000):
        other.publish("c", str(number))
        if number % 50 == 0:
            client.script_flush()
    assert recorder.until_count(2_000) == [str(number) for number in range(2_000)]
    client.script_flush()
    assert bus.since("c", recorder.log[-1][0]) == []
    client.script_flush()
    assert bus.enter("g", "ann", "", 10**10)
    assert_whole(recorder)
    assert start.offset == 0


def test_a_server_without_memory_is_waited_for(own: Callable[..., Valkey], redis_bus: Make) -> None:
    """It refuses to write; once it does not, nothing is missing."""
    server = own()
    bus = redis_bus(server.url)
    recorder = Recorder()
    bus.subscribe("c", recorder)
    with closing(redis.Redis.from_url(server.url)) as client:
        client.config_set("maxmemory", "1")
        for number in range(300):
            bus.publish("c", str(number))
        assert not bus.flush(0.2)
        client.config_set("maxmemory", "0")
    assert recorder.until_count(300) == [str(number) for number in range(300)]
    assert_whole(recorder)


def test_a_message_that_can_not_be_kept_is_told_as_a_gap(
    redis_bus: Make, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has put something else where the stream is; others hear of it too."""
    bus, other = redis_bus(), redis_bus()
    recorder = Recorder()
    other.subscribe("c", recorder)
    until_in_step(bus, recorder)
    client.set(f"{KEY}:log", "no stream")
    with caplog.at_level(logging.ERROR):
        bus.publish("c", "lost")
        recorder.until_payload(GAP)
        until_in_step(bus, recorder)
    assert "lost" not in recorder.payloads
    assert "is lost" in caplog.text


def test_the_queue_is_bounded_and_what_is_lost_is_told(
    behind: Make, proxy: Proxy, redis_bus: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """At once to the own receivers, and in its place to all when the server is back."""
    bus, other = behind(replay_limit=QUEUE_SIZE), redis_bus(replay_limit=QUEUE_SIZE)
    mine, theirs, quiet = Recorder(), Recorder(), Recorder()
    bus.subscribe("c", mine)
    other.subscribe("c", theirs)
    other.subscribe("quiet", quiet)
    until_in_step(bus, theirs)
    mine.until_count(1)
    assert bus.flush(PATIENCE)
    proxy.refuse()
    with caplog.at_level(logging.ERROR):
        for number in range(QUEUE_SIZE):
            bus.publish("c", str(number))
        for _ in range(10):
            bus.publish("c", "lost")
            bus.publish("quiet", "lost")
        mine.until_payload(GAP)
    assert [line.levelname for line in caplog.records].count("ERROR") == 1
    assert theirs.payloads[1:] == quiet.payloads == []
    proxy.open()
    theirs.until_payload(GAP)
    quiet.until_payload(GAP)
    assert bus.flush(PATIENCE)
    bus.publish("c", "after")
    assert theirs.until_payload("after")[1:] == [*map(str, range(QUEUE_SIZE)), GAP, "after"]
    assert quiet.payloads == [GAP]
    epoch, _ = theirs.log[-2][0]
    assert epoch != theirs.log[0][0].epoch
    assert theirs.log[-1][0] == (epoch, 1)
    assert other.since("c", theirs.log[0][0]) is None
    # Its gap covers what was sent before it was back.
    mine.until(lambda: mine.log[-1][0] == (epoch, 1))
    assert mine.payloads[-2:] == [GAP, "after"] or mine.payloads[-1] == GAP


def test_the_queue_is_bounded_in_bytes_too(
    redis_bus: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A few hundred large messages that can't be sent fill it, however few they are."""
    bus = redis_bus(f"redis://{LOOPBACK}:{free_port()}", timeout=0.2)
    large = "x" * (1 << 20)
    for _ in range(200):
        bus.publish("c", large)
    waiting = [item.payload for item in bus.outbox.queue]
    assert sum(len(payload or b"") for payload in waiting) == QUEUE_BYTES
    assert waiting[-1] is None
    assert "The bus can't send: 64 messages wait" in caplog.text


def test_each_loss_is_noted_in_its_place(redis_bus: Make) -> None:
    """Though the news of an earlier one of the same channel still waits."""
    bus = redis_bus(f"redis://{LOOPBACK}:{free_port()}", timeout=0.2)
    for _ in range(QUEUE_SIZE + 2):
        bus.publish("c", "a")
    # As if two had been sent.
    with bus.outbox.changed:
        bus.outbox.queue.popleft()
        bus.outbox.queue.popleft()
    for payload in "bcd":
        bus.publish("c", payload)
    waiting = [item.payload for item in bus.outbox.queue]
    assert waiting == [b"a"] * (QUEUE_SIZE - 2) + [None, b"b", None]


# -- a server that is started again ---------------------------------------------------------------


def test_a_server_that_comes_back_with_its_data(
    own: Callable[..., Valkey], redis_bus: Make
) -> None:
    """Nothing is missing: what was published while it was away is sent then."""
    server = own(durable=True)
    bus, other = redis_bus(server.url), redis_bus(server.url)
    recorder = Recorder()
    start = bus.subscribe("c", recorder)
    for number in range(100):
        other.publish("c", str(number))
    assert other.flush(PATIENCE)
    server.kill()
    for number in range(100, 200):
        other.publish("c", str(number))
    server.start()
    assert recorder.until_count(200) == [str(number) for number in range(200)]
    assert_whole(recorder)
    assert bus.since("c", start) == recorder.log


def test_a_server_that_comes_back_empty(own: Callable[..., Valkey], redis_bus: Make) -> None:
    """A gap in a new epoch for each channel, and what is published then."""
    server = own()
    bus, other = redis_bus(server.url), redis_bus(server.url)
    recorder, quiet = Recorder(), Recorder()
    start = bus.subscribe("c", recorder)
    quiet_start = bus.subscribe("quiet", quiet)
    for number in range(10):
        other.publish("c", str(number))
    recorder.until_count(10)
    server.restart()
    assert quiet.until_count(1) == [GAP]
    recorder.until_payload(GAP)
    other.publish("c", "after")
    payloads = recorder.until_payload("after")
    assert payloads == [*map(str, range(10)), GAP, "after"]
    assert recorder.log[-1][0].epoch == recorder.log[-2][0].epoch != start.epoch
    assert bus.since("c", start) is None
    assert bus.since("quiet", quiet_start) is None


def test_a_server_that_comes_back_with_old_data(
    own: Callable[..., Valkey], redis_bus: Make
) -> None:
    """It counts from where it was, so that offsets come twice: that is seen, and a gap."""
    server = own()
    bus, other = redis_bus(server.url), redis_bus(server.url)
    recorder = Recorder()
    bus.subscribe("c", recorder)
    other.publish("c", "1")
    recorder.until_count(1)
    with closing(redis.Redis.from_url(server.url)) as client:
        client.save()
        other.publish("c", "2, forgotten")
        recorder.until_count(2)
        # Before the subscriber is back there is another second message.
        key = client.hgetall(KEY)
        assert key[b"offset"] == b"2"
        server.kill()
        server.start()
        lose(client, kept=True)
        assert client.hget(KEY, "offset") == b"2"
    recorder.until_payload(GAP)
    until_in_step(other, recorder)
    assert recorder.payloads[:3] == ["1", "2, forgotten", GAP]


def test_close_ends_the_threads(redis_bus: Make, client: redis.Redis) -> None:
    """And the connections, also while the server is away."""
    before = len(client.client_list())
    bus = redis_bus()
    recorder = Recorder()
    bus.subscribe("c", recorder)
    until_in_step(bus, recorder)
    threads = bus.outbox.thread, bus.inbox.thread
    assert all(thread is not None and thread.is_alive() and thread.daemon for thread in threads)
    bus.close()
    assert not any(thread is not None and thread.is_alive() for thread in threads)
    wait_until(lambda: len(client.client_list()) <= before)
    with pytest.raises(StoreUnavailable, match="closed"):
        bus.subscribe("c", recorder)
