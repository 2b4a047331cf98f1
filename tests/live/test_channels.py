"""Channels: what is told to whom, in which order, and how those wait who wait for it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from http.client import HTTPConnection
from typing import Any

import pytest
from flask import Flask, request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import make_server
from werkzeug.test import create_environ, run_wsgi_app

from flask_fsm import FlaskFSM, Machine
from flask_fsm.channels import (
    Channel,
    ChannelContainer,
    Connection,
    DuplicateChannel,
    Listener,
    Message,
    NoMessages,
    QueueFull,
    SignedMessage,
    SSEChannel,
    UniqueMessage,
    UnknownChannel,
    UnknownListener,
)
from flask_fsm.errors import FSMError
from flask_fsm.live.channels.listener import MemoryConnections, MessageQueue
from flask_fsm.live.channels.stream import MessageStream
from flask_fsm.live.server.handoff import end_silence

from .eventstream import Event, parse

PATIENCE = 30.0
"""After how many seconds a test gives up; nothing is expected to take that long."""


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so that nobody tells."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "It never came about."
        time.sleep(0.001)


@contextmanager
def thread(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run `work` beside the body, and put what it returns into the list that the body gets."""
    result: list[Any] = []
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # Nobody waits for it when the body fails, or a failure would be seen as a test that hangs.
    threading.Thread(target=run, daemon=True).start()
    yield result
    result.append(future.result(PATIENCE))


def asleep(stream: MessageStream) -> bool:
    """Does somebody sleep who waits for this stream?"""
    return bool(stream._connection.notifier.waiters)


def numbers(outputs: list[Any]) -> list[Any]:
    """The payloads of what a stream has yielded."""
    return [output["data"] for output in outputs]


def tell(channel: Channel, *payloads: Any) -> None:
    for payload in payloads:
        channel.broadcast(Message("n", payload))


def started(channel: Channel) -> Listener:
    listener = channel.add_listener()
    listener.start()
    return listener


def rest(stream: MessageStream) -> list[Any]:
    """All that is left of a stream which has been ended, or is to be after what waits."""
    return list(stream)


class OwnQueue:
    """A queue of an app: it can push and pop, and nothing else."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.kept: deque[Message] = deque()
        self.failure: Exception | None = None
        self.pops = 0
        self.late: Message | None = None
        """What another thread pushes just after nothing was found."""

    def push(self, message: Message) -> None:
        if self.failure is not None:
            raise self.failure
        if len(self.kept) >= self.limit:
            raise QueueFull("full")
        self.kept.append(message)

    def pop(self) -> Message:
        self.pops += 1
        if self.failure is not None:
            raise self.failure
        if not self.kept:
            if self.late is not None:
                self.kept.append(self.late)
            raise NoMessages("empty")
        return self.kept.popleft()


# -- messages -------------------------------------------------------------------------------


def test_a_message_has_a_type_and_a_payload() -> None:
    """A payload is None by default, and no message replaces another unless it says so."""
    message = Message("tick")
    assert (message.type, message.payload, message.latest) == ("tick", None, None)
    assert Message("tick", {"n": 1}, latest="flow").latest == "flow"


def test_a_signed_message_names_its_sender() -> None:
    """The sender is the first argument."""
    message = SignedMessage("me", "tick", 5)
    assert (message.sender_id, message.type, message.payload) == ("me", "tick", 5)


def test_a_unique_message_is_another_one_with_an_id() -> None:
    """It takes all from the message that it wraps, the sender too if none is given."""
    wrapped = UniqueMessage(SignedMessage("me", "tick", 5, latest="k"))
    assert (wrapped.type, wrapped.payload, wrapped.latest) == ("tick", 5, "k")
    assert wrapped.sender_id == "me"
    assert UniqueMessage(Message("tick")).sender_id is None
    named = UniqueMessage(wrapped, sender_id="you", message_id="7")
    assert (named.id, named.sender_id) == ("7", "you")


def test_ids_are_random() -> None:
    """No two ids of messages, listeners, connections and channels are the same, or short."""
    makers: list[Callable[[], Any]] = [
        lambda: UniqueMessage(Message("n")),
        Listener,
        Channel,
        lambda: Connection(Listener("l"), MessageQueue()),
    ]
    ids = {make().id for make in makers for _ in range(100)}
    assert len(ids) == 400
    assert min(map(len, ids)) >= 22


# -- the queue ------------------------------------------------------------------------------


class PlainQueue:
    """What a MessageQueue does, said as simply as it can be."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.items: list[tuple[int, str | None]] = []

    def push(self, number: int, key: str | None) -> bool:
        kept = self.items
        if key is not None and len(kept) > self.limit // 2:
            kept = [item for item in kept if item[1] != key]
        if len(kept) >= self.limit:
            return False
        self.items = [*kept, (number, key)]
        return True

    def pop(self) -> int | None:
        return self.items.pop(0)[0] if self.items else None


@given(
    limit=st.integers(1, 9),
    steps=st.lists(st.sampled_from(["pop", "", "", "a", "a", "b"]), max_size=80),
)
def test_a_queue_does_what_its_model_does(limit: int, steps: list[str]) -> None:
    """Whatever is pushed with which key and popped when: order, replacement and fullness agree."""
    queue, plain = MessageQueue(limit), PlainQueue(limit)
    for number, step in enumerate(steps):
        if step == "pop":
            expected = plain.pop()
            if expected is None:
                with pytest.raises(NoMessages):
                    queue.pop()
            else:
                assert queue.pop().payload == expected
        elif plain.push(number, step or None):
            queue.push(Message("n", number, latest=step or None))
        else:
            with pytest.raises(QueueFull):
                queue.push(Message("n", number, latest=step or None))
        assert len(queue) == len(plain.items)
        assert queue.wait(0) is bool(plain.items)
    assert [queue.pop().payload for _ in range(len(queue))] == [item[0] for item in plain.items]
    assert not queue._keyed


def test_a_key_replaces_only_when_more_than_half_is_taken() -> None:
    """Up to then each message is kept, even if a newer one says the same."""
    queue = MessageQueue(4)
    for number in range(3):
        queue.push(Message("state", number, latest="flow"))
    assert len(queue) == 3
    queue.push(Message("data", "kept"))
    queue.push(Message("state", 3, latest="flow"))
    assert [queue.pop().payload for _ in range(len(queue))] == ["kept", 3]


def test_a_queue_has_room_for_at_least_one() -> None:
    """A limit of none is an error of the app."""
    with pytest.raises(ValueError, match="at least 1"):
        MessageQueue(0)


def test_errors_of_channels_are_of_the_one_tree() -> None:
    """An empty queue and a full one say so in words, with a code."""
    queue = MessageQueue(1)
    with pytest.raises(FSMError) as empty:
        queue.pop()
    queue.push(Message("n"))
    with pytest.raises(FSMError) as full:
        queue.push(Message("n"))
    assert (empty.value.code, full.value.code) == ("no_messages", "queue_full")
    assert "1 messages" in str(full.value)


def test_on_push_may_take_what_was_pushed() -> None:
    """It is called after each push that was not refused, and without a lock."""
    taken = []
    queue = MessageQueue(1)
    queue.on_push = lambda: taken.append(queue.pop().payload)
    for number in range(3):
        queue.push(Message("n", number))
    assert taken == [0, 1, 2]
    calls: list[int] = []
    small = MessageQueue(1, lambda: calls.append(1))
    small.push(Message("n"))
    with pytest.raises(QueueFull):
        small.push(Message("n"))
    assert calls == [1]


def test_an_on_push_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The message is in the queue, so that its sender is told nothing."""

    def fail() -> None:
        raise RuntimeError("loop is gone")

    queue = MessageQueue(2, fail)
    queue.push(Message("n", 1))
    assert queue.pop().payload == 1
    assert "loop is gone" in caplog.text


def test_who_waits_for_a_queue_is_woken_by_a_push() -> None:
    """From another thread, and nobody is left at the bell then."""
    queue = MessageQueue()
    with thread(lambda: queue.wait(PATIENCE)) as result:
        until(lambda: queue.notifier.waiters)
        queue.push(Message("n"))
    assert result == [True]
    assert not queue.notifier.waiters


def test_a_wait_for_a_queue_ends_after_its_time() -> None:
    """If nothing comes, it says so, and nobody is left at the bell."""
    queue = MessageQueue()
    assert queue.wait(0) is False
    assert queue.wait(-1) is False
    assert queue.wait(0.002) is False
    assert not queue.notifier.waiters


def test_threads_share_a_queue() -> None:
    """Four that push and three that wait and pop: each message once, each sender's in order."""
    queue, per_sender = MessageQueue(100_000), 2000
    total, got, mutex = 4 * per_sender, [], threading.Lock()

    def push(sender: int) -> None:
        for number in range(per_sender):
            queue.push(Message("n", (sender, number)))

    def pop() -> list[tuple[int, int]]:
        mine: list[tuple[int, int]] = []
        while True:
            try:
                message = queue.pop()
            except NoMessages:
                with mutex:
                    if len(got) == total:
                        return mine
                queue.wait(0.01)
                continue
            mine.append(message.payload)
            with mutex:
                got.append(message.payload)

    with ThreadPoolExecutor(7) as pool:
        poppers = [pool.submit(pop) for _ in range(3)]
        pushers = [pool.submit(push, sender) for sender in range(4)]
        for pusher in pushers:
            pusher.result(PATIENCE)
        for popper in poppers:
            mine = popper.result(PATIENCE)
            for sender in range(4):
                own = [number for who, number in mine if who == sender]
                assert own == sorted(own)
    assert sorted(got) == [(who, n) for who in range(4) for n in range(per_sender)]


# -- listeners ------------------------------------------------------------------------------


def test_a_listener_runs_between_start_and_stop() -> None:
    """It is not running at first, and can be started again."""
    listener = Listener("me")
    seen = [listener.is_running()]
    for step in (listener.start, listener.stop, listener.start):
        step()
        seen.append(listener.is_running())
    assert listener.id == "me"
    assert seen == [False, True, False, True]


def test_unknown_listeners_are_errors() -> None:
    """Of whatever kind the question is; the error names the channel and the listener."""
    channel, stranger = Channel("room"), Listener("nobody")
    asked: list[Callable[[], Any]] = [
        lambda: channel.get_listener("nobody"),
        lambda: channel.remove_listener("nobody"),
        lambda: channel.dispatch("nobody", Message("n")),
        lambda: channel.deliver_next("nobody"),
        lambda: channel.message_stream(stranger),
    ]
    for ask in asked:
        with pytest.raises(UnknownListener, match=r"'room'.*'nobody'"):
            ask()


def test_a_listener_is_registered_found_and_removed() -> None:
    """Those that exist already can be registered, with a connection of their own too."""
    channel, mine, other = Channel(), Listener("mine"), Listener("other")
    made = channel.add_listener()
    channel.register_listener(mine)
    connection = Connection(other, OwnQueue(), "c1")
    channel.register_connection(connection)
    assert [c.listener for c in channel.get_connections()] == [made, mine, other]
    assert channel.get_listener("mine") is mine
    assert channel.get_connections()[-1] is connection
    assert connection.id == "c1"
    channel.remove_listener("mine")
    assert [c.listener for c in channel.get_connections()] == [made, other]
    with pytest.raises(UnknownListener):
        channel.remove_listener("mine")


def test_a_listener_that_is_registered_twice_keeps_its_queue() -> None:
    """So nothing that waited for it is lost."""
    channel, listener = Channel(), Listener()
    channel.register_listener(listener)
    tell(channel, 1)
    channel.register_listener(listener)
    listener.start()
    assert channel.deliver_next(listener.id).payload == 1


def test_another_listener_of_the_same_id_makes_way() -> None:
    """The streams of the one before end, and it has no stream any more."""
    channel, before, after = Channel(), Listener("x"), Listener("x")
    channel.register_listener(before)
    before.start()
    with thread(lambda: rest(channel.message_stream(before))) as result:
        until(lambda: channel.get_connections()[0].notifier.waiters)
        channel.register_listener(after)
    assert result == [[]]
    with pytest.raises(UnknownListener, match="another"):
        channel.message_stream(before)
    assert channel.get_listener("x") is after


def test_messages_wait_until_the_listener_is_started() -> None:
    """`deliver_next` gives them then, in order, and says when there are no more."""
    channel = Channel()
    listener = channel.add_listener()
    tell(channel, 1, 2)
    with pytest.raises(NoMessages, match="start"):
        channel.deliver_next(listener.id)
    listener.start()
    assert [channel.deliver_next(listener.id).payload for _ in range(2)] == [1, 2]
    with pytest.raises(NoMessages):
        channel.deliver_next(listener.id)


def test_a_dispatch_reaches_one_and_a_broadcast_all() -> None:
    """Both go into the same queues, in the order in which they were said."""
    channel = Channel()
    one, two = started(channel), started(channel)
    tell(channel, 1)
    channel.dispatch(one.id, Message("n", "only one"))
    tell(channel, 2)
    channel.remove_listener(two.id)
    channel.register_listener(two)
    assert [channel.deliver_next(one.id).payload for _ in range(3)] == [1, "only one", 2]
    with pytest.raises(NoMessages):
        channel.deliver_next(two.id)


def test_on_message_sees_each_message_at_its_delivery() -> None:
    """By `deliver_next` and by a stream, and not before."""

    class Seeing(Listener):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def on_message(self, message: Message) -> None:
            self.seen.append(message.payload)

    channel, listener = Channel(), Seeing()
    channel.register_listener(listener)
    listener.start()
    tell(channel, 1, 2)
    assert listener.seen == []
    channel.deliver_next(listener.id)
    assert listener.seen == [1]
    next(channel.message_stream(listener))
    assert listener.seen == [1, 2]


def test_a_factory_makes_the_connections() -> None:
    """For listeners that there are and for new ones."""

    class Factory:
        def create(self, listener: Listener | None = None) -> Connection:
            return Connection(listener or Listener("made"), OwnQueue(), "own")

    channel = SSEChannel(0, 3000, "c", Factory())
    channel.register_listener(Listener("mine"))
    assert channel.add_listener().id == "made"
    assert {c.id for c in channel.get_connections()} == {"own"}


# -- a listener that is too slow ------------------------------------------------------------


def test_a_full_queue_refuses_a_dispatch() -> None:
    """The sender is told, and the listener keeps what it has."""
    channel = Channel(queue_size=1)
    listener = started(channel)
    channel.dispatch(listener.id, Message("n", 1))
    with pytest.raises(QueueFull):
        channel.dispatch(listener.id, Message("n", 2))
    assert listener.is_running()
    assert channel.deliver_next(listener.id).payload == 1


def test_a_slow_listener_is_cut_and_the_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is stopped and removed; its stream gives what it has, says that some is lost, and ends."""
    channel = Channel(connections_factory=MemoryConnections(2))
    first, slow, last = (started(channel) for _ in range(3))
    streams = [channel.message_stream(listener) for listener in (first, slow, last)]
    got: list[list[Any]] = [[], []]
    for number in range(4):
        tell(channel, number)
        for place, stream in enumerate((streams[0], streams[2])):
            got[place].append(next(stream)["data"])
    assert got == [[0, 1, 2, 3]] * 2
    assert not slow.is_running()
    assert [c.listener for c in channel.get_connections()] == [first, last]
    *kept, error = rest(streams[1])
    assert numbers(kept) == [0, 1]
    assert error["event"] == "error"
    assert error["data"]["reason"] == "queue_full"
    assert rest(streams[1]) == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert slow.id in record.getMessage()


def test_a_listener_that_was_cut_may_come_back() -> None:
    """Its new stream is as any other, and goes on with what waits."""
    channel = Channel(queue_size=1)
    listener = started(channel)
    (connection,) = channel.get_connections()
    old = channel.message_stream(listener)
    tell(channel, 1, 2)
    channel.register_connection(connection)
    listener.start()
    new = channel.message_stream(listener)
    assert next(new)["data"] == 1
    tell(channel, 3)
    assert next(new)["data"] == 3
    assert [output["event"] for output in rest(old)] == ["error"]


def test_a_waiting_stream_is_told_of_a_cut() -> None:
    """It waits for the start, and the messages that wait with it are not lost."""
    channel = Channel(queue_size=2)
    listener = channel.add_listener()
    stream = channel.message_stream(listener)
    with thread(lambda: rest(stream)) as result:
        until(lambda: asleep(stream))
        tell(channel, 1, 2, 3)
    assert [output["event"] for output in result[0]] == ["n", "n", "error"]


def test_an_own_queue_that_fails_is_cut_too(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises: the others are served, and the log has the reason."""
    channel, queue, failing = Channel(), OwnQueue(), Listener()
    channel.register_connection(Connection(failing, queue))
    other = started(channel)
    queue.failure = ConnectionError("server away")
    tell(channel, 1)
    assert channel.deliver_next(other.id).payload == 1
    assert [c.listener for c in channel.get_connections()] == [other]
    assert "server away" in caplog.text


def test_a_listener_that_can_not_be_stopped_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """When it is cut, the others are served all the same."""

    class Stubborn(Listener):
        def stop(self) -> None:
            raise RuntimeError("never")

    channel = Channel(queue_size=1)
    channel.register_listener(Stubborn("s"))
    tell(channel, 1)
    other = started(channel)
    tell(channel, 2)
    assert channel.deliver_next(other.id).payload == 2
    assert "never" in caplog.text


def test_what_is_no_message_cuts_nobody() -> None:
    """A broadcast of something else is an error of the caller."""
    channel = Channel()
    listener = started(channel)
    with pytest.raises(TypeError, match="'hello'"):
        channel.broadcast("hello")  # type: ignore[arg-type]
    assert channel.get_listener(listener.id) is listener


# -- streams --------------------------------------------------------------------------------


def test_a_stream_yields_what_adapt_makes_of_messages() -> None:
    """By default the type and the payload; a channel may say it in another way."""

    class Loud(Channel):
        def adapt(self, message: Message) -> Any:
            return message.type.upper()

    for channel, expected in ((Channel(), {"event": "n", "data": 1}), (Loud(), "N")):
        listener = started(channel)
        tell(channel, 1)
        assert next(channel.message_stream(listener)) == expected


def test_a_stream_waits_for_the_start_and_for_messages() -> None:
    """In a thread: it sleeps until both are there, and ends when the listener is stopped."""
    channel = Channel()
    listener = channel.add_listener()
    stream = channel.message_stream(listener)
    got: list[Any] = []

    def take() -> None:
        got.extend(output["data"] for output in stream)

    tell(channel, 1)
    with thread(take):
        until(lambda: asleep(stream))
        assert got == []
        listener.start()
        until(lambda: got == [1])
        until(lambda: asleep(stream))
        channel.dispatch(listener.id, Message("n", 2))
        until(lambda: got == [1, 2])
        until(lambda: asleep(stream))
        channel.get_connections()[0].queue.push(Message("n", 3))
        until(lambda: got == [1, 2, 3])
        until(lambda: asleep(stream))
        assert len(stream._connection.notifier.waiters) == 1
        listener.stop()
    assert not asleep(stream)
    assert not listener.notifier.waiters


@pytest.mark.parametrize("end", ["stop", "remove", "close"])
def test_a_stream_ends_and_keeps_what_it_has_not_yielded(end: str) -> None:
    """A sleeping one is woken for it; what comes later waits for the next stream."""
    channel = Channel()
    listener = started(channel)
    (connection,) = channel.get_connections()
    stream = channel.message_stream(listener)
    with thread(lambda: rest(stream)) as result:
        until(lambda: asleep(stream))
        {
            "stop": listener.stop,
            "remove": lambda: channel.remove_listener(listener.id),
            "close": stream.close,
        }[end]()
    assert result == [[]]
    channel.register_connection(connection)
    tell(channel, 1)
    assert rest(stream) == []
    listener.start()
    assert next(channel.message_stream(listener))["data"] == 1


def test_a_stop_ends_streams_even_if_a_start_follows_at_once() -> None:
    """The old stream does not steal from the new one."""
    channel = Channel()
    listener = started(channel)
    old = channel.message_stream(listener)
    listener.stop()
    listener.start()
    tell(channel, 1)
    assert rest(old) == []
    assert next(channel.message_stream(listener))["data"] == 1


def test_a_listener_may_stop_itself() -> None:
    """The message at which it does so is the last of the stream."""

    class Once(Listener):
        def on_message(self, message: Message) -> None:
            self.stop()

    channel, listener = Channel(), Once()
    channel.register_listener(listener)
    listener.start()
    tell(channel, 1, 2)
    assert numbers(rest(channel.message_stream(listener))) == [1]


def test_a_stream_of_an_own_queue_sleeps_and_is_woken() -> None:
    """The channel wakes it, since such a queue can't; asleep, it asks the queue nothing."""
    channel, queue, listener = Channel(), OwnQueue(), Listener()
    channel.register_connection(Connection(listener, queue))
    listener.start()
    stream = channel.message_stream(listener)
    with thread(lambda: next(stream)) as result:
        until(lambda: asleep(stream) and queue.pops == 2)
        time.sleep(0.05)  # time in which somebody who polls would ask
        assert queue.pops == 2
        tell(channel, 1)
    assert numbers(result) == [1]
    assert queue.pops == 3


def test_a_message_between_a_look_and_the_sleep_is_seen() -> None:
    """Nobody is woken for it, since nobody sleeps yet: so each looks once more, in a loop too."""

    async def take(stream: MessageStream) -> Any:
        return await anext(stream)

    for run in (next, lambda stream: asyncio.run(take(stream))):
        channel, queue, listener = Channel(), OwnQueue(), Listener()
        channel.register_connection(Connection(listener, queue))
        listener.start()
        queue.late = Message("n", 1)
        stream = channel.message_stream(listener)
        with thread(lambda run=run, stream=stream: run(stream)) as result:
            pass
        assert numbers(result) == [1]


@pytest.mark.parametrize("where", ["on_message", "adapt"])
def test_a_delivery_that_fails_is_a_message_of_type_error(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, nothing of it is told, and the stream goes on."""

    def check(message: Message) -> None:
        if message.payload == 2:
            raise RuntimeError("two is too many")

    class Wary(Listener):
        def on_message(self, message: Message) -> None:
            if where == "on_message":
                check(message)

    class Picky(Channel):
        def adapt(self, message: Message) -> Any:
            if where == "adapt":
                check(message)
            return super().adapt(message)

    channel, listener = Picky(), Wary()
    channel.register_listener(listener)
    listener.start()
    tell(channel, 1, 2, 3)
    stream = channel.message_stream(listener)
    assert [next(stream) for _ in range(3)] == [
        {"event": "n", "data": 1},
        {"event": "error", "data": None},
        {"event": "n", "data": 3},
    ]
    assert "two is too many" in caplog.text


def test_an_adapt_that_always_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Each message that it fails for is told as an error in the plain form, and the log has why."""

    class Broken(SSEChannel):
        def adapt(self, message: Message) -> Any:
            raise RuntimeError(message.type)

    channel = Broken()
    listener = started(channel)
    tell(channel, 1, 2)
    stream = channel.message_stream(listener)
    assert next(stream) == {"event": "error", "data": None}
    events = channel.sse_stream(listener)
    assert [next(events), next(events)] == [b"retry: 3000\n\n", b"event: error\ndata: null\n\n"]
    assert "RuntimeError: error" in caplog.text


def test_an_adapt_that_returns_text(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what an event is made of."""

    class Text(SSEChannel):
        def adapt(self, message: Message) -> Any:
            return f"data: {message.payload}"

    channel = Text()
    listener = started(channel)
    tell(channel, 1)
    events = channel.sse_stream(listener)
    assert [next(events), next(events)] == [b"retry: 3000\n\n", b"event: error\ndata: null\n\n"]
    assert "must return a mapping of event, data, retry and id, not 'data: 1'" in caplog.text


def test_a_queue_that_can_not_be_read_ends_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    """With a message of type error; what waits in it is for the next stream."""
    channel, queue, listener = Channel(), OwnQueue(), Listener()
    channel.register_connection(Connection(listener, queue))
    listener.start()
    tell(channel, 1)
    stream, queue.failure = channel.message_stream(listener), OSError("disk")
    assert rest(stream) == [{"event": "error", "data": None}]
    assert "disk" in caplog.text
    queue.failure = None
    assert next(channel.message_stream(listener))["data"] == 1


def test_watch_is_a_listener_for_as_long_as_its_stream() -> None:
    """It is there when `watch` returns, and gone when the stream is closed or has ended."""
    channel = Channel()
    with channel.watch() as stream:
        tell(channel, 1)
        assert next(stream)["data"] == 1
        assert len(channel.get_connections()) == 1
    assert channel.get_connections() == []
    stream = channel.watch()
    channel.get_connections()[0].listener.stop()
    assert rest(stream) == []
    assert channel.get_connections() == []


def test_a_watch_that_is_dropped_leaves_no_listener() -> None:
    """Nor does the next broadcast fill its queue."""
    channel = Channel()
    stream = channel.watch()
    (connection,) = channel.get_connections()
    for _ in (1, 2):
        tell(channel, 1)
    assert next(iter(stream))["data"] == 1
    del stream
    tell(channel, 2)
    assert not channel._connections
    assert len(connection.queue) == 1  # type: ignore[arg-type]


def test_a_channel_may_delay_its_streams() -> None:
    """The first message comes at once, the next waits, and pushes don't wake who waits for it."""
    channel = Channel(stream_delay_seconds=3600)
    listener = started(channel)
    stream = channel.message_stream(listener)
    tell(channel, 1, 2)
    assert next(stream)["data"] == 1
    with thread(lambda: rest(stream)) as result:
        until(lambda: asleep(stream))
        (waiter,) = stream._connection.notifier.waiters
        assert not stream._connection.queue.notifier.waiters  # type: ignore[attr-defined]
        tell(channel, 3)
        assert list(stream._connection.notifier.waiters) == [waiter]
        stream.close()
    assert result == [[]]
    channel.stream_delay_seconds = 0.001
    stream = channel.message_stream(listener)
    assert [next(stream)["data"] for _ in range(2)] == [2, 3]
    with thread(lambda: next(stream)) as result:
        until(lambda: stream._connection.queue.notifier.waiters)  # type: ignore[attr-defined]
        tell(channel, 4)
    assert numbers(result) == [4]


def test_broadcasts_of_several_threads_reach_all_streams() -> None:
    """Each once, and those of one sender in order, while others come and go."""
    channel, senders, each = Channel(queue_size=100_000), 4, 500
    going = threading.Event()

    def send(sender: int) -> None:
        for number in range(each):
            tell(channel, (sender, number))

    def take(stream: MessageStream) -> list[Any]:
        return [next(stream)["data"] for _ in range(senders * each)]

    def come_and_go() -> None:
        while not going.is_set():
            with channel.watch():
                channel.get_connections()

    with ThreadPoolExecutor(10) as pool:
        restless = [pool.submit(come_and_go) for _ in range(2)]
        takers = [pool.submit(take, channel.watch()) for _ in range(4)]
        sending = [pool.submit(send, sender) for sender in range(senders)]
        try:
            for future in sending:
                future.result(PATIENCE)
            for taker in takers:
                got = taker.result(PATIENCE)
                for sender in range(senders):
                    assert [n for who, n in got if who == sender] == list(range(each))
        finally:
            going.set()
        for future in restless:
            future.result(PATIENCE)


def test_threads_may_share_a_stream() -> None:
    """Each message goes to one of them, and all end with it."""
    channel = Channel(queue_size=10_000)
    stream = channel.watch()
    got: list[Any] = []
    with ThreadPoolExecutor(4) as pool:
        takers = [
            pool.submit(lambda: got.extend(output["data"] for output in stream)) for _ in range(4)
        ]
        tell(channel, *range(2000))
        until(lambda: len(got) == 2000)
        stream.close()
        for taker in takers:
            taker.result(PATIENCE)
    assert sorted(got) == list(range(2000))


# -- async streams --------------------------------------------------------------------------


async def asleep_in_loop(stream: MessageStream) -> None:
    """Wait until a task sleeps that waits for this stream."""
    while not asleep(stream):
        await asyncio.sleep(0)


def test_an_async_stream_is_woken_from_another_thread() -> None:
    """It waits in the loop, which runs other things meanwhile, and ends when it is closed."""

    async def main() -> list[Any]:
        channel, got = Channel(), []
        async with channel.watch() as stream:

            def send() -> None:
                for number in range(100):
                    until(lambda: asleep(stream))
                    tell(channel, number)

            sending = asyncio.create_task(asyncio.to_thread(send))
            async for output in stream:
                got.append(output["data"])
                if len(got) == 100:
                    break
            await sending
        assert channel.get_connections() == []
        return got

    assert asyncio.run(main()) == list(range(100))


@pytest.mark.parametrize("end", ["stop", "remove", "aclose", "cut"])
def test_an_async_stream_ends(end: str) -> None:
    """A sleeping one is woken for it, by its own loop and by another thread."""

    async def main(elsewhere: bool) -> list[Any]:
        channel = Channel(queue_size=1)
        listener = started(channel)
        stream = channel.message_stream(listener)

        def flood() -> None:
            while listener.is_running():
                tell(channel, 1)

        async def take() -> list[Any]:
            return [output["event"] async for output in stream]

        taking = asyncio.create_task(take())
        await asleep_in_loop(stream)
        if end == "aclose":
            await stream.aclose()
        else:
            act: Callable[[], None] = {
                "stop": listener.stop,
                "remove": lambda: channel.remove_listener(listener.id),
                "cut": flood,
            }[end]
            await asyncio.to_thread(act) if elsewhere else act()
        return await asyncio.wait_for(taking, PATIENCE)

    for elsewhere in (False, True):
        got = asyncio.run(main(elsewhere))
        assert got[-1:] == (["error"] if end == "cut" else [])
        assert set(got[:-1]) <= {"n"}


def test_async_consumers_that_are_cancelled_lose_nothing() -> None:
    """At whichever moment: the next goes on with the next message, none is missing or double."""
    seed = random.randrange(2**32)
    dice, total = random.Random(seed), 3000

    async def main() -> list[Any]:
        channel = Channel(queue_size=total)
        stream, got = channel.watch(), []

        def send() -> None:
            for number in range(total):
                tell(channel, number)
                if number % 7 == 0:
                    time.sleep(0)

        async def take() -> None:
            async for output in stream:
                got.append(output["data"])
                if dice.random() < 0.2:
                    await asyncio.sleep(0)

        sending = asyncio.create_task(asyncio.to_thread(send))
        while len(got) < total:
            taking = asyncio.create_task(take())
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            if dice.random() < 0.5:
                try:
                    output = await asyncio.wait_for(anext(stream), dice.random() / 1000)
                    got.append(output["data"])
                except TimeoutError:
                    pass
            taking.cancel()
            await asyncio.wait([taking])
        await sending
        assert not asleep(stream)
        return got

    assert sorted(asyncio.run(main())) == list(range(total)), f"seed {seed}"


def test_a_cancelled_task_that_was_woken_takes_nothing() -> None:
    """The message came, and the task was cancelled before it ran: the message still waits."""

    async def main() -> Any:
        channel = Channel()
        stream = channel.watch()
        taking = asyncio.ensure_future(anext(stream))
        await asleep_in_loop(stream)
        tell(channel, 1)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        return await anext(stream)

    assert asyncio.run(main())["data"] == 1


def test_a_message_to_a_task_that_was_just_cancelled_waits() -> None:
    """The task has not run since, and nobody is cut for it."""

    async def main() -> Any:
        channel = Channel()
        stream = channel.watch()
        taking = asyncio.ensure_future(anext(stream))
        await asleep_in_loop(stream)
        taking.cancel()
        tell(channel, 1)
        with pytest.raises(asyncio.CancelledError):
            await taking
        return await anext(stream)

    assert asyncio.run(main())["data"] == 1


def test_a_stream_that_never_waits_lets_its_loop_run() -> None:
    """A full queue does not stop the others of the loop until it is empty."""

    async def main() -> list[Any]:
        channel, got = Channel(queue_size=1000), []
        stream = channel.watch()
        tell(channel, *range(1000))
        asyncio.get_running_loop().call_soon(stream.close)
        async for output in stream:
            got.append(output)
        return got

    assert 0 < len(asyncio.run(main())) < 1000


def test_a_loop_that_is_gone_disturbs_no_sender() -> None:
    """Who waited in it is not there any more, and the others are told."""
    channel = Channel()
    loop = asyncio.new_event_loop()
    stream = channel.watch()

    async def fall_asleep() -> None:
        task = asyncio.ensure_future(anext(stream))
        await asleep_in_loop(stream)
        forgotten.append(task)

    forgotten: list[asyncio.Future[Any]] = []
    other = started(channel)
    loop.run_until_complete(fall_asleep())
    waiters = dict(stream._connection.notifier.waiters)
    forgotten[0].cancel()
    loop.run_until_complete(asyncio.wait(forgotten))
    loop.close()
    stream._connection.notifier.waiters.update(waiters)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(tell, channel, 1).result(PATIENCE)
    assert channel.deliver_next(other.id).payload == 1
    assert len(channel.get_connections()) == 2


def test_an_async_stream_may_be_delayed() -> None:
    """The next message waits, and a close ends that wait."""

    async def main() -> None:
        channel = Channel(stream_delay_seconds=3600)
        stream = channel.watch()
        tell(channel, 1, 2)
        assert (await anext(stream))["data"] == 1
        waiting = asyncio.ensure_future(anext(stream))
        await asleep_in_loop(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting

    asyncio.run(main())


# -- server-sent events ---------------------------------------------------------------------

HOSTILE = st.text(st.sampled_from("ab :\r\n\0\ufeff\u2028\x85é\U0001f600\ud800\udc00"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=6,
)


def as_browsers_have_it(text: str) -> str:
    """The text whose line ends are LF, and whose half surrogate pairs are U+FFFD."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\r\n", "\n").replace("\r", "\n")


def stripped(text: str) -> str:
    for end in "\r\n\0":
        text = text.replace(end, "")
    return as_browsers_have_it(text)


@given(
    told=st.lists(st.tuples(HOSTILE, HOSTILE | JSON, st.none() | HOSTILE), min_size=1, max_size=5)
)
def test_events_are_read_as_they_were_told(told: list[tuple[str, Any, str | None]]) -> None:
    """Whatever type, payload and id have in them, each message is one event, and nothing else."""
    channel = SSEChannel()
    listener = started(channel)
    stream = channel.sse_stream(listener)
    for type, payload, id in told:
        message = Message(type, payload)
        channel.broadcast(message if id is None else UniqueMessage(message, message_id=id))
    parsed = parse(b"".join(next(stream) for _ in range(len(told) + 1)))
    assert parsed.retries == [3000]
    assert parsed.comments == []
    last_id = ""
    for (type, payload, id), event in zip(told, parsed.events, strict=True):
        last_id = last_id if id is None else stripped(id)
        assert event.type == (stripped(type) or "message")
        assert event.last_id == last_id
        if isinstance(payload, str):
            assert event.data == as_browsers_have_it(payload)
        else:
            assert json.loads(event.data) == json.loads(json.dumps(payload))


def test_a_channel_of_events_adapts_to_event_retry_and_data() -> None:
    """Its message streams yield these fields, the payload as it is."""
    channel = SSEChannel(retry_timeout_milliseconds=5)
    listener = started(channel)
    tell(channel, {"a": 1})
    expected = {"event": "n", "retry": 5, "data": {"a": 1}}
    assert next(channel.message_stream(listener)) == expected


def test_an_override_of_adapt_says_event_retry_data_and_id() -> None:
    """A retry is told when it has changed; what is left out is not told."""

    class Own(SSEChannel):
        def adapt(self, message: Message) -> Any:
            if message.type == "bare":
                return {"data": "x"}
            return {"event": "own", "retry": message.payload, "data": "y\nz", "id": "7"}

    channel = Own(retry_timeout_milliseconds=50)
    listener = started(channel)
    for type, payload in (("bare", 0), ("n", 50), ("n", 60), ("n", 60)):
        channel.broadcast(UniqueMessage(Message(type, payload), message_id="m"))
    stream = channel.sse_stream(listener)
    parsed = parse(b"".join(next(stream) for _ in range(5)))
    assert parsed.retries == [50, 60]
    own = Event("own", "y\nz", "7")
    assert parsed.events == [Event("message", "x", "m"), own, own, own]


@pytest.mark.parametrize("payload", [float("nan"), {1, 2}, b"bytes"])
def test_a_payload_that_is_no_json_is_an_event_of_type_error(
    payload: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the stream goes on."""
    channel = SSEChannel()
    stream = channel.sse_stream(started(channel))
    tell(channel, payload, 1)
    parsed = parse(b"".join(next(stream) for _ in range(3)))
    assert parsed.events == [Event("error", "null", ""), Event("n", "1", "")]
    assert "could not be delivered" in caplog.text


def test_what_python_has_for_json() -> None:
    """Dates and numbers of Python are told as texts, as everywhere."""
    channel = SSEChannel()
    listener = started(channel)
    tell(channel, {"day": date(2026, 11, 28), "price": Decimal("1.50")})
    stream = channel.sse_stream(listener)
    next(stream)
    assert next(stream) == b'event: n\ndata: {"day":"2026-11-28","price":"1.50"}\n\n'


def test_hearts_that_need_not_beat() -> None:
    """Whoever wants no comments has none, on a socket too."""
    channel, sock = SSEChannel(), socket.socket()
    with sock:
        end_silence(sock, channel.sse_stream(started(channel), heartbeat=float("inf")).heartbeat)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2**31 - 1


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_hearts_that_can_not_beat(seconds: float) -> None:
    """A heartbeat that would fill the line with comments is refused."""
    channel = SSEChannel()
    with pytest.raises(ValueError, match="heartbeat"):
        channel.sse_stream(started(channel), heartbeat=seconds)


@pytest.mark.parametrize("make", [Channel, SSEChannel])
def test_queues_without_room(make: Callable[..., Channel]) -> None:
    """They are refused where they are asked for, not when the first listener comes."""
    with pytest.raises(ValueError, match="limit"):
        make(queue_size=0)


def test_silence_is_broken_by_heartbeats() -> None:
    """They are comments, of which an EventSource tells nobody, before the start and after it."""
    channel = SSEChannel()
    listener = channel.add_listener()
    stream = channel.sse_stream(listener, heartbeat=0.001)
    blocks = [next(stream), next(stream)]
    listener.start()
    blocks.append(next(stream))
    tell(channel, 1)
    blocks.append(next(stream))
    channel.remove_listener(listener.id)
    assert list(stream) == []
    assert blocks == [b"retry: 3000\n\n", b": \n\n", b": \n\n", b"event: n\ndata: 1\n\n"]
    assert parse(b"".join(blocks)).events == [Event("n", "1", "")]


def test_events_can_be_read_in_a_loop() -> None:
    """With the same blocks, heartbeats too."""

    async def main() -> list[bytes]:
        channel = SSEChannel()
        listener = started(channel)
        stream = channel.sse_stream(listener, heartbeat=0.001)
        blocks = [await anext(stream), await anext(stream)]
        tell(channel, "x")
        blocks.append(await anext(stream))
        listener.stop()
        return blocks + [block async for block in stream]

    assert asyncio.run(main()) == [b"retry: 3000\n\n", b": \n\n", b"event: n\ndata: x\n\n"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_streams_and_removes_its_listener_at_the_end(method: str) -> None:
    """Even if nobody reads any of it; its headers keep caches and proxies from holding it up."""
    channel = SSEChannel()
    listener = started(channel)
    response = channel.sse_response(listener)
    tell(channel, 1)
    blocks, status, headers = run_wsgi_app(response, create_environ(method=method))
    assert status == "200 OK"
    assert headers["Content-Type"] == "text/event-stream"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in headers
    if method == "GET":
        assert next(iter(blocks)) == b"retry: 3000\n\n"
    assert len(channel.get_connections()) == 1
    blocks.close()  # type: ignore[attr-defined]
    assert channel.get_connections() == []


def test_a_view_may_answer_with_a_stream() -> None:
    """On a real server: a client reads events as they are told, and goes; its listener is gone."""
    app, channel = Flask(__name__), SSEChannel(retry_timeout_milliseconds=7)
    app.secret_key = "a key"
    FlaskFSM(app, Machine("m", states=["a"]))
    sockets = []

    @app.get("/")
    def index() -> Any:
        sockets.append(request.environ["werkzeug.socket"])
        return channel.sse_response(started(channel), heartbeat=0.05)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    with thread(server.serve_forever):
        try:
            client = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            client.request("GET", "/")
            answer = client.getresponse()
            assert answer.status == 200
            until(channel.get_connections)
            # A client that vanishes without a word is dead for the kernel after two heartbeats.
            option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
            assert sockets[0].getsockopt(*option) == 100
            for number in range(3):
                channel.broadcast(UniqueMessage(Message("n", number), message_id=f"e-{number}"))
            read = b""
            while read.count(b"data: ") < 3 or not read.endswith(b"\n\n"):
                read += answer.readline()
            client.close()
            answer.close()
            until(lambda: not channel.get_connections())
        finally:
            server.shutdown()
            server.server_close()
    parsed = parse(read)
    assert parsed.retries == [7]
    assert parsed.events == [Event("n", str(n), f"e-{n}") for n in range(3)]


# -- containers -----------------------------------------------------------------------------


def test_a_container_keeps_channels_by_their_ids() -> None:
    """They are registered, found, listed and removed."""
    container, one, two = ChannelContainer(), Channel("one"), SSEChannel(channel_id="two")
    container.register(one)
    container.register_iterable(iter([two]))
    assert container.get("two") is two
    assert list(container.get_all_ids()) == ["one", "two"]
    container.rm("one")
    assert list(container.get_all_ids()) == ["two"]


def test_unknown_channels_are_errors() -> None:
    """Whether they are looked for or removed."""
    container = ChannelContainer()
    for ask in (container.get, container.rm):
        with pytest.raises(UnknownChannel, match="'room'"):
            ask("room")


def test_an_id_can_be_registered_once() -> None:
    """Of several, those that are there already are left out, and of two new ones none is added."""
    container, channel = ChannelContainer(), Channel("a")
    container.register(channel)
    with pytest.raises(DuplicateChannel, match="'a'"):
        container.register(channel)
    with pytest.raises(DuplicateChannel):
        container.register_iterable([Channel("b"), Channel("c"), Channel("c")])
    assert list(container.get_all_ids()) == ["a"]
    fresh = Channel("b")
    container.register_iterable([Channel("a"), fresh, channel, fresh])
    assert list(container.get_all_ids()) == ["a", "b"]
    assert (container.get("a"), container.get("b")) == (channel, fresh)


def test_a_message_of_the_app_may_have_a_size_of_its_own() -> None:
    """It means nothing to a queue, whatever its type."""

    class Order(Message):
        size = "large"

    queue = MessageQueue(10, max_bytes=100)
    queue.push(Order("order"))
    assert queue.pop().type == "order"
