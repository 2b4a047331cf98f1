"""Channels of an app: their listeners, whoever else comes and goes meanwhile."""

from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import FunctionType, ModuleType
from typing import Any

import pytest
from cachelib import SimpleCache
from flask import Flask, request
from flask_session import Session

from flask_fsm import FlaskFSM, FSMError, Machine
from flask_fsm.bus import Position, Receiver
from flask_fsm.bus.memory import MemoryBus
from flask_fsm.errors import StoreUnavailable
from flask_fsm.live.channels.app_channels import LiveChannel
from flask_fsm.live.channels.listener import Backlog, Connection
from flask_fsm.live.client.actions import Close, Frame, Job
from flask_fsm.live.client.session import ClientSession
from flask_fsm.live.client.subscriber import Subscriber
from flask_fsm.live.protocol.frames import Envelope, EnvelopeKind
from flask_fsm.runtime.app_state import app_state, unwrap

from ..clients import PATIENCE
from .serving import until


class Overtaken(LiveChannel):
    """While its last listener leaves, the next one comes."""

    coming: threading.Thread | None = None

    def get_connections(self) -> list[Connection]:
        found = super().get_connections()
        if self._changing.locked() and not found and self.coming is None:
            self.coming = threading.Thread(target=self.come)
            self.coming.start()
            self.coming.join(0.2)
        return found

    def come(self) -> None:
        self.next = self.add_listener()
        self.next.start()


def test_the_last_one_leaves_while_the_next_one_comes() -> None:
    """As when a page is loaded anew: who has come hears what is said from then on."""
    with closing(MemoryBus(10, 60)) as bus:
        channel = Overtaken("group:ops", bus, 3_000, 10)
        first = channel.add_listener()
        channel.remove_listener(first.id)
        assert channel.coming is not None
        channel.coming.join()
        channel.broadcast("hello")
        assert channel.deliver_next(channel.next.id).payload == "hello"


class AwayBus(MemoryBus):
    """A bus whose server does not answer, until that is known."""

    def __init__(self) -> None:
        super().__init__(10, 60)
        self.known = threading.Event()
        self.asked = 0

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        self.asked += 1
        if self.asked == 1:
            assert self.known.wait(PATIENCE)
            raise StoreUnavailable("It did not answer in time.")
        return super().subscribe(channel, receiver)


def test_many_come_while_the_bus_is_away() -> None:
    """They wait as long as the first of them; who comes after that has another try."""
    with closing(AwayBus()) as bus:
        channel = LiveChannel("group:ops", bus, 3_000, 10)
        with ThreadPoolExecutor(5) as pool:
            coming = [pool.submit(channel.add_listener) for _ in range(5)]
            until(lambda: len(channel.get_connections()) == 5)
            bus.known.set()
        assert [type(each.exception()) for each in coming] == [StoreUnavailable] * 5
        assert bus.asked == 1
        assert channel.get_connections() == []
        channel.remove_listener(channel.add_listener().id)
        assert bus.asked == 2


@pytest.fixture
def fsm() -> FlaskFSM:
    """An extension without an app."""
    return FlaskFSM(Machine("m", [("a", "b")]))


@pytest.fixture
def app(fsm: FlaskFSM) -> Flask:
    """An app of that extension."""
    made = Flask("channels")
    made.secret_key = "a key"
    fsm.init_app(made)
    return made


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\0", None, 5])
def test_groups_that_nobody_could_join(app: Flask, fsm: FlaskFSM, name: Any) -> None:
    """They are refused where they are named, with the rule for names."""
    with app.app_context(), pytest.raises(FSMError, match="printable characters"):
        fsm.live.group(name)


@pytest.mark.parametrize(
    ("event", "data"),
    [("ping", float("nan")), ("ping", object()), ("", None), (None, None)],
)
def test_events_that_nobody_could_send(app: Flask, fsm: FlaskFSM, event: Any, data: Any) -> None:
    """They are refused here, not at each member."""
    with app.app_context(), pytest.raises(TypeError):
        fsm.live.group("ops").send(event, data)


def test_a_flow_that_is_none(app: Flask, fsm: FlaskFSM) -> None:
    """What is neither a flow nor an id is refused at once."""
    nothing: Any = None
    with app.app_context(), pytest.raises(TypeError):
        fsm.live.flow(nothing)


# -- answers, and what comes between ---------------------------------------------------------------


def answer(subscriber: Subscriber, channel: str, ref: Any) -> Envelope:
    """An answer that is about to be sent on a channel."""
    body = '{"status":200,"data":null}'
    return subscriber.track_reply(channel, Envelope(EnvelopeKind.DATA, body, subscriber.id, ref))


def refs(subscriber: Subscriber) -> list[Any]:
    """The refs of the frames that go out now."""
    found = []
    while (out := subscriber.take()) is not None:
        assert isinstance(out, Frame)
        found.append(json.loads(out.text).get("ref"))
    return found


def test_an_answer_of_a_run_that_was_begun_meanwhile() -> None:
    """It is told when a later one comes on the old channel, and not again on its own."""
    with closing(MemoryBus(10, 60)) as bus:
        old, new = (LiveChannel(name, bus, 3_000, 10) for name in ("flow:old", "flow:new"))
        subscriber = Subscriber(10, ids=True)
        subscriber.join(old)
        subscriber.switch_flow(new)
        first, second = (answer(subscriber, f"flow:{name}", name) for name in ("new", "old"))
        bus.publish("flow:old", second.encode())
        assert sorted(refs(subscriber)) == ["new", "old"]
        bus.publish("flow:new", first.encode())
        assert refs(subscriber) == []
        assert not subscriber.has_pending_replies
        subscriber.leave()


def test_answers_that_a_gap_has_swallowed() -> None:
    """They are told before the state is asked for; those that come after all are not told again."""
    with closing(MemoryBus(10, 60)) as bus:
        channel = LiveChannel("flow:m", bus, 3_000, 10)
        subscriber = Subscriber(10, ids=True)
        subscriber.join(channel)
        answers = [answer(subscriber, "flow:m", number) for number in range(3)]
        bus.publish("flow:m", answers[0].encode())
        assert refs(subscriber) == [0]
        assert subscriber.has_pending_replies
        channel.gap(channel.position)
        assert isinstance(subscriber.take(), Job)
        assert refs(subscriber) == [1, 2]
        bus.publish("flow:m", answers[2].encode())
        subscriber.unblock()
        assert refs(subscriber) == []
        assert not subscriber.has_pending_replies
        subscriber.leave()


def test_who_leaves_before_all_switches_were_taken() -> None:
    """Of a client whose flow was begun anew twice meanwhile, no channel keeps anything."""
    with closing(MemoryBus(10, 60)) as bus:
        channels = [LiveChannel(f"flow:{name}", bus, 3_000, 10) for name in "abcd"]
        subscriber = Subscriber(10, ids=True)
        subscriber.join(channels[0])
        subscriber.switch_flow(channels[1])
        assert refs(subscriber) == []
        subscriber.switch_flow(channels[2])
        subscriber.switch_flow(channels[3])
        assert subscriber.flow_channel == "flow:d"
        subscriber.leave()
        assert [channel.get_connections() for channel in channels] == [[], [], [], []]


class Sessions(SimpleCache):
    """Sessions on a server that can be away."""

    away = False

    def get(self, key: str) -> Any:
        if self.away:
            raise ConnectionError("The sessions are away.")
        return super().get(key)


def test_a_gap_while_the_sessions_are_away(fsm: FlaskFSM) -> None:
    """The client can't be told of the gap now: it has to come back, and is told nothing before."""
    app, sessions = Flask("away"), Sessions()
    app.config.update(SECRET_KEY="a key", SESSION_TYPE="cachelib", SESSION_CACHELIB=sessions)
    Session(app)
    fsm.init_app(app)
    subscriber = Subscriber(10, ids=True)
    headers = {"Cookie": "session=of-somebody"}
    with app.test_request_context("/fsm/m/ws", headers=headers):
        state = app_state()
        talk = ClientSession(app, state, state.bound["m"], unwrap(request), subscriber, [])
        talk.open(None)
        channel = state.live.channels.get(subscriber.flow_channel)
    assert refs(subscriber) == [None]
    channel.gap(channel.position)
    job = subscriber.take()
    assert isinstance(job, Job)
    sessions.away = True
    talk.handle(job)
    channel.bus.publish(channel.id, Envelope(EnvelopeKind.DATA, '{"status":200,"data":1}').encode())
    assert refs(subscriber) == []
    assert talk.closing == 1012
    subscriber.leave()


@pytest.mark.parametrize("gap", [False, True])
def test_a_state_that_was_read_before_a_later_one_came(gap: bool) -> None:
    """Who comes back is shown no state that is older than what was missed; a gap is told."""
    with closing(MemoryBus(10, 60)) as bus:
        channel = LiveChannel("flow:m", bus, 3_000, 10)
        other = channel.add_listener()
        since = str(channel.position)
        frames = [f'{{"state":"s{rev}","status":203,"data":{rev},"rev":{rev}}}' for rev in (7, 8)]
        bus.publish("flow:m", Envelope(EnvelopeKind.STATE, frames[1], run="1", rev=8).encode())
        subscriber = Subscriber(10, ids=True)
        subscriber.join(channel)
        assert subscriber.replay_since(since) == []
        subscriber.first_state(frames[0], "1", 7, gap=gap)
        told = []
        while isinstance(out := subscriber.take(), Frame):
            told.append(json.loads(out.text))
        assert [frame["rev"] for frame in told] == ([8, 8] if gap else [8])
        if gap:
            assert (told[1]["gap"], told[1]["status"], told[1]["data"]) == (True, 200, None)
        subscriber.leave()
        channel.remove_listener(other.id)


def test_a_client_whose_large_frames_wait_is_cut() -> None:
    """A thousand messages may wait, but not a thousand large ones: bytes are counted, too."""
    subscriber = Subscriber(1_000, 100_000, ids=False)
    for _ in range(4):
        subscriber.send("x" * 30_000)
    assert not subscriber.queue.overflown
    subscriber.send("x")
    assert subscriber.queue.overflown
    assert subscriber.take() == Close(1013)


def test_what_a_client_has_taken_does_not_count() -> None:
    """A client that reads may get any number of large frames."""
    subscriber = Subscriber(1_000, 100_000, ids=False)
    for _ in range(50):
        subscriber.send("x" * 60_000)
        assert subscriber.take() is not None
    assert not subscriber.queue.overflown


def test_large_states_replace_each_other_for_a_slow_client() -> None:
    """Half full in bytes is half full: only the newest state waits, and nobody is cut."""
    with closing(MemoryBus(10, 60)) as bus:
        channel = LiveChannel("flow:m", bus, 3_000, 1_000, 100_000)
        subscriber = Subscriber(1_000, 100_000, ids=True)
        subscriber.join(channel)
        for rev in range(1, 50):
            state = Envelope(EnvelopeKind.STATE, "x" * 30_000, run="", rev=rev)
            bus.publish("flow:m", state.encode())
        assert not subscriber.queue.overflown
        assert len(subscriber.queue) <= 4


class Slow:
    """Clients of one process that read nothing, of whose queues 10 may be full at one time."""

    FULL, SHARE = 1_000_000, 10_000

    def __init__(self, number: int) -> None:
        self.backlog = Backlog(self.FULL, self.SHARE)
        self.clients = [self.client() for _ in range(number)]

    def client(self) -> Subscriber:
        return Subscriber(1_000, 100_000, self.backlog, ids=False)

    def say(self, size: int) -> None:
        for each in self.clients:
            each.send("x" * size)

    @property
    def cut(self) -> list[Subscriber]:
        return [each for each in self.clients if each.queue.overflown]


def test_slow_clients_that_hold_much_together_are_cut_earlier() -> None:
    """Each holds less than one may; those who hold most are cut, and others are served."""
    slow = Slow(40)
    for _ in range(3):
        slow.say(9_000)
    assert not slow.cut  # 40 * (27,000 - 10,000) bytes
    slow.say(9_000)
    assert 0 < len(slow.cut) <= 40
    for each in slow.clients:
        each.send("x" * 9_000)
    assert len(slow.cut) == 40
    for each in slow.cut:
        each.leave()
    late = slow.client()
    for _ in range(9):
        late.send("x" * 9_000)
    assert not late.queue.overflown
    late.leave()
    assert slow.backlog._bytes == 0


def test_a_client_that_reads_is_served_while_others_hold_much() -> None:
    """It gets what is sent to it, also what is larger than a share, and in one event."""
    slow = Slow(12)
    slow.say(99_000)
    assert slow.backlog.is_full
    assert not slow.cut
    reader = slow.client()
    for _ in range(20):
        reader.send("x" * 50_000)
        assert isinstance(reader.take(), Frame)
    assert reader.queue.lift_limit()
    for _ in range(5):
        reader.send("x" * 50_000)
    reader.queue.restore_limit()
    assert not reader.queue.overflown
    while reader.take() is not None:
        pass
    slow.say(1)
    assert len(slow.cut) == 12


def test_what_is_said_to_all_counts_once() -> None:
    """However many members of a group are slow, they hold the same messages."""
    slow = Slow(100)
    with closing(MemoryBus(1_000, 60)) as bus:
        channel = LiveChannel("group:ops", bus, 3_000, 1_000)
        for each in slow.clients:
            each.join(channel)
        for _ in range(9):
            channel.broadcast("x" * 10_000)
        assert not slow.cut
        assert 0 < slow.backlog._bytes < 100_000
        for each in slow.clients[:-1]:
            while each.take() is not None:
                pass
        assert slow.backlog._bytes > 0
        for each in slow.clients:
            each.leave()
        assert slow.backlog._bytes == 0


def test_states_replace_each_other_for_clients_that_hold_much_together() -> None:
    """Only the newest state waits then, so that nobody is cut for states."""
    slow = Slow(30)
    with closing(MemoryBus(1_000, 60)) as bus:
        channels = [LiveChannel(f"flow:{at}", bus, 3_000, 1_000) for at in range(30)]
        for each, channel in zip(slow.clients, channels, strict=True):
            each.join(channel)
        for rev in range(1, 30):
            for channel in channels:
                state = Envelope(EnvelopeKind.STATE, "x" * 9_000, run="", rev=rev)
                bus.publish(channel.id, state.encode())
        assert not slow.cut
        for each in slow.clients:
            each.leave()
        assert slow.backlog._bytes == 0


def test_replies_that_the_bus_has_not_delivered_count() -> None:
    """A client that asks for large replies while the bus is gone is cut, and not kept for."""
    subscriber = Subscriber(1_000, 100_000, ids=True)
    for _ in range(5):
        subscriber.track_reply("flow:m", Envelope(EnvelopeKind.REPLY, "x" * 30_000))
    assert subscriber.queue.overflown


def test_replies_that_the_bus_has_not_delivered_count_for_the_process() -> None:
    """While the bus is gone, many clients may hold no more for it than slow ones may."""
    slow = Slow(20)
    for _ in range(9):
        for each in slow.clients:
            if not each.queue.overflown:
                each.track_reply("flow:m", Envelope(EnvelopeKind.REPLY, "x" * 9_000))
    assert len(slow.cut) == 20
    assert 1_000_000 < slow.backlog._bytes < 1_300_000
    for each in slow.clients:
        each.leave()
    assert slow.backlog._bytes == 0


def test_a_listener_of_the_app_is_cut_by_bytes_too() -> None:
    """A stream of a group that nobody reads does not hold all that its members say."""
    with closing(MemoryBus(10, 60)) as bus:
        channel = LiveChannel("group:ops", bus, 3_000, 1_000, 100_000)
        stream = channel.watch()
        for _ in range(10):
            channel.broadcast("x" * 30_000)
        assert channel.get_connections() == []
        del stream


# -- what a client has missed before it came back --------------------------------------------------

SIZE = 10_000


def frames_of(subscriber: Subscriber) -> list[dict[str, Any]]:
    """Take all frames, and read on whenever that is asked for."""
    found = []
    while (out := subscriber.take()) is not None:
        if isinstance(out, Frame):
            found.append(json.loads(out.text))
        elif isinstance(out, Job) and out.reads_missed:
            subscriber.read_missed()
    return found


class Missed:
    """A group that has said something, and a client which comes back for it."""

    def __init__(self, bus: MemoryBus, number: int, names: str = "a") -> None:
        self.bus = bus
        self.channels = [LiveChannel(f"group:{name}", bus, 3_000, 1_000) for name in names]
        self.others = [(channel, channel.add_listener()) for channel in self.channels]
        self.since = ",".join(str(channel.position) for channel in self.channels)
        self.say(number)
        self.subscriber = Subscriber(1_000, ids=True)
        for channel in self.channels:
            self.subscriber.join(channel)

    def say(self, number: int) -> None:
        for at in range(number):
            for channel in self.channels:
                channel.broadcast(f"{at} {'x' * SIZE}")

    def __enter__(self) -> Missed:
        return self

    def __exit__(self, *_: object) -> None:
        self.subscriber.leave()
        for channel, other in self.others:
            channel.remove_listener(other.id)
        self.bus.close()


def numbers_of(frames: list[dict[str, Any]], group: str = "a") -> list[int]:
    return [int(frame["data"].partition(" ")[0]) for frame in frames if frame["group"] == group]


def test_a_client_that_comes_back_holds_one_piece_of_what_it_has_missed() -> None:
    """It gets all, in each group in order, and before what is said meanwhile."""
    with Missed(MemoryBus(1_000, 60, 10_000_000), 100, "ab") as missed:
        assert missed.subscriber.replay_since(missed.since) == []
        tracemalloc.start()
        missed.subscriber.read_missed()
        missed.subscriber.read_missed()
        held, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert max(held, most) < 40 * SIZE
        missed.say(3)
        frames = frames_of(missed.subscriber)
        for group in "ab":
            assert numbers_of(frames, group) == [*range(100), *range(3)]
        assert frames_of(missed.subscriber) == []


def test_a_client_that_reads_so_slowly_that_the_rest_is_lost_is_told_of_a_gap() -> None:
    """What came after the gap follows it, in each group."""
    with Missed(MemoryBus(20, 60, 10_000_000), 20, "ab") as missed:
        assert missed.subscriber.replay_since(missed.since) == []
        first = json.loads(missed.subscriber.take().text)
        missed.say(15)
        frames = [first, *frames_of(missed.subscriber)]
        for group in "ab":
            mine = [frame for frame in frames if frame["group"] == group]
            types = [frame["type"] for frame in mine]
            assert types.count("gap") == 1
            at = types.index("gap")
            assert mine[at]["gap"]
            before, after = numbers_of(mine[:at], group), numbers_of(mine[at + 1 :], group)
            assert before == list(range(len(before)))
            assert len(before) < 20
            assert after == list(range(15))


def messages_held(holder: Any) -> int:
    """Count the long texts to which an object refers, through others."""
    seen, ahead, count = {id(holder)}, [holder], 0
    while ahead:
        for each in gc.get_referents(ahead.pop()):
            if id(each) not in seen and not isinstance(each, type | ModuleType | FunctionType):
                seen.add(id(each))
                ahead.append(each)
                count += isinstance(each, str) and len(each) >= SIZE
    return count


def test_what_waits_for_a_client_is_dropped_when_it_is_cut() -> None:
    """Nothing of it stays, neither what it has missed nor what is queued."""
    with Missed(MemoryBus(1_000, 60, 10_000_000), 100) as missed:
        subscriber = missed.subscriber
        assert subscriber.replay_since(missed.since) == []
        subscriber.first_state('{"state":"a"}', "", 0)
        missed.say(5)
        assert messages_held(subscriber) >= 5
        subscriber.leave()
        assert messages_held(subscriber) == 0
        assert subscriber.take() == Close(1013)


class Unreachable(MemoryBus):
    """A bus whose server is away."""

    def since(self, *args: Any) -> Any:
        if self.gone:
            raise StoreUnavailable("The server is away.")
        return super().since(*args)

    gone = False


def test_a_bus_that_is_away_while_a_client_reads_on(fsm: FlaskFSM) -> None:
    """The client is told nothing more and has to come back, or it would miss something."""
    app = Flask("away")
    app.config["SECRET_KEY"] = "a key"
    fsm.init_app(app)
    with Missed(Unreachable(1_000, 60, 10_000_000), 100) as missed, app.test_request_context("/"):
        subscriber = missed.subscriber
        assert subscriber.replay_since(missed.since) == []
        state = app_state()
        talk = ClientSession(app, state, state.bound["m"], unwrap(request), subscriber, [])
        while isinstance(out := subscriber.take(), Frame):
            pass
        assert isinstance(out, Job)
        missed.bus.gone = True
        talk.handle(out)
        assert talk.closing == 1012
        assert subscriber.take() is None
