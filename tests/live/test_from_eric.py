"""Code of eric-sse: it runs on both packages, and only its imports differ.

What differs on purpose is listed in docs/from_eric.rst.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import eric_sse.entities
import eric_sse.exception
import eric_sse.listener
import eric_sse.message
import eric_sse.prefabs
import eric_sse.servers
import pytest
from flask import Flask

from flask_fsm import FlaskFSM, Machine, channels
from flask_fsm.channels import Channel, Message, SSEChannel

THEIRS = SimpleNamespace(
    SSEChannel=eric_sse.prefabs.SSEChannel,
    ChannelContainer=eric_sse.servers.ChannelContainer,
    Message=eric_sse.message.Message,
    MessageContract=eric_sse.message.MessageContract,
    SignedMessage=eric_sse.message.SignedMessage,
    UniqueMessage=eric_sse.message.UniqueMessage,
    Listener=eric_sse.listener.MessageQueueListener,
    NoMessages=eric_sse.exception.NoMessagesException,
    UnknownListener=eric_sse.exception.InvalidListenerException,
    UnknownChannel=eric_sse.exception.InvalidChannelException,
)


@pytest.fixture(params=["eric-sse", "flask_fsm"])
def lib(request: pytest.FixtureRequest) -> Any:
    return THEIRS if request.param == "eric-sse" else channels


def plain(output: dict[str, Any]) -> dict[str, Any]:
    """Return what a stream yields, without the time to reconnect, whose default differs."""
    return {name: value for name, value in output.items() if name != "retry"}


# -- code that runs on both ----------------------------------------------------------------------


def test_a_channel_with_one_listener(lib: Any) -> None:
    """add_listener, start, dispatch, and the stream that yields event and data."""

    async def main() -> list[Any]:
        channel = lib.SSEChannel()
        listener = channel.add_listener()
        listener.start()
        channel.dispatch(listener.id, lib.Message(msg_type="greeting", msg_payload="hi there!"))
        found = []
        async for output in channel.message_stream(listener):
            found.append(plain(output))
            listener.stop()
        return found

    assert asyncio.run(main()) == [{"event": "greeting", "data": "hi there!"}]


def test_a_watcher_misses_nothing(lib: Any) -> None:
    """`await channel.watch()` has its listener from then on."""

    async def main() -> list[Any]:
        channel = lib.SSEChannel(channel_id="orders", retry_timeout_milliseconds=10)
        stream = await channel.watch()
        for number in range(3):
            channel.broadcast(lib.Message("counter", number))
        found = []
        async for output in stream:
            found.append(output)
            if len(found) == 3:
                break
        return found

    wanted = [{"event": "counter", "retry": 10, "data": number} for number in range(3)]
    assert asyncio.run(main()) == wanted


def test_thousands_wait_for_a_listener_that_is_not_started(lib: Any) -> None:
    """None of them is lost, and none is delivered before the start."""
    channel = lib.SSEChannel()
    listener = channel.add_listener()
    for number in range(5_000):
        channel.broadcast(lib.Message("n", {"number": number}))
    with pytest.raises(lib.NoMessages):
        channel.deliver_next(listener.id)
    listener.start()
    found = [channel.deliver_next(listener.id).payload["number"] for _ in range(5_000)]
    assert found == list(range(5_000))
    with pytest.raises(lib.NoMessages):
        channel.deliver_next(listener.id)


@dataclass
class Order:
    """An object of an app that happens to be a message."""

    type: str
    payload: Any


def test_any_object_with_type_and_payload_is_a_message(lib: Any) -> None:
    """Listeners get the object itself, and streams its type and payload."""
    told = []

    class Listener(lib.Listener):  # type: ignore[name-defined,misc]
        def on_message(self, msg: Any) -> None:
            told.append(msg)

    class Own(lib.MessageContract):  # type: ignore[name-defined,misc]
        type = "own"
        payload = (1, 2)

    channel, listener = lib.SSEChannel(), Listener()
    channel.register_listener(listener)
    listener.start()
    messages = [Order("order", {"number": 1}), Own(), lib.UniqueMessage(Order("order", 2))]
    channel.broadcast(messages[0])
    for message in messages[1:]:
        channel.dispatch(listener.id, message)
    found = [channel.deliver_next(listener.id) for _ in messages]
    assert [(message.type, message.payload) for message in found] == [
        ("order", {"number": 1}),
        ("own", (1, 2)),
        ("order", 2),
    ]
    assert [id(message) for message in found] == [id(message) for message in told]
    assert [id(message) for message in found] == [id(message) for message in messages]


def test_the_names_of_arguments(lib: Any) -> None:
    """msg_type and msg_payload, in messages and signed ones, by name or by place."""
    for message in (
        lib.Message("t", "p"),
        lib.Message(msg_type="t", msg_payload="p"),
        lib.Message("t", msg_payload="p"),
        lib.SignedMessage("me", "t", "p"),
        lib.SignedMessage(sender_id="me", msg_type="t", msg_payload="p"),
        lib.UniqueMessage(lib.Message("t", "p"), sender_id="me", message_id="1"),
    ):
        assert (message.type, message.payload) == ("t", "p")
    assert lib.Message(msg_type="t").payload is None
    with pytest.raises(TypeError):
        lib.Message()


def test_a_container_takes_what_it_has_not(lib: Any) -> None:
    """register_iterable leaves out the channels whose ids are registered."""
    container = lib.ChannelContainer()
    first, again, second = (lib.SSEChannel(channel_id=each) for each in ("a", "a", "b"))
    container.register(first)
    container.register_iterable([again, second])
    assert list(container.get_all_ids()) == ["a", "b"]
    assert container.get("a") is first
    with pytest.raises(lib.UnknownChannel):
        container.get("c")


# -- what is better here --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: SSEChannel("orders"),  # type: ignore[arg-type]
        lambda: SSEChannel(0, "orders"),  # type: ignore[arg-type]
        lambda: Channel("orders", "1"),  # type: ignore[arg-type]
    ],
)
def test_an_id_is_never_a_delay(make: Any) -> None:
    """It is an error that says where an id goes."""
    with pytest.raises(TypeError, match="channel_id="):
        make()


def test_a_delay_is_never_an_id() -> None:
    """It is an error that says where a delay goes."""
    channel: Any = Channel
    with pytest.raises(TypeError, match="stream_delay_seconds="):
        channel(5)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_a_delay_is_a_time(delay: float) -> None:
    """It is 0 or more seconds."""
    for make in (lambda: SSEChannel(delay), lambda: Channel("a", delay)):
        with pytest.raises(ValueError, match="stream_delay_seconds"):
            make()


@pytest.mark.parametrize("message", ["text", None, {"type": "t"}, ("t", "p"), 5])
def test_what_is_no_message_is_refused_by_name(message: Any) -> None:
    """dispatch and broadcast say what they take and what they got, and no listener is cut."""
    channel = SSEChannel()
    listener = channel.add_listener()
    for call, name in (
        (lambda: channel.dispatch(listener.id, message), "dispatch"),
        (lambda: channel.broadcast(message), "broadcast"),
    ):
        with pytest.raises(TypeError, match=rf"{name}\(\) takes a Message"):
            call()
    assert channel.get_listener(listener.id) is listener


def test_a_listener_in_the_place_of_its_id() -> None:
    """The error says what is to be given."""
    channel = SSEChannel()
    listener: Any = channel.add_listener()
    with pytest.raises(channels.UnknownListener, match=r"listener\.id"):
        channel.dispatch(listener, Message("t"))


@pytest.mark.parametrize(
    "message",
    [Message("t", "x" * 100_000), Order("t", {"text": ["x" * 100_000]})],
    ids=["ours", "of the app"],
)
def test_what_waits_for_the_start_is_bounded_by_bytes(message: Any) -> None:
    """Of 100 KB each some 80 wait, then the sender is told; what is delivered makes room again."""
    channel = Channel()
    listener = channel.add_listener()

    def fill() -> int:
        for sent in range(1_000):
            try:
                channel.dispatch(listener.id, message)
            except channels.QueueFull:
                return sent
        return 1_000

    assert 80 <= fill() <= 84
    listener.start()
    for _ in range(40):
        channel.deliver_next(listener.id)
    assert fill() == 40


def test_a_started_listener_is_slow_at_a_thousand() -> None:
    """After the start, and after a stop, the number of messages counts again."""
    for stop in (False, True):
        channel = Channel()
        listener = channel.add_listener()
        listener.start()
        if stop:
            listener.stop()
        for number in range(1_000):
            channel.dispatch(listener.id, Message("n", number))
        with pytest.raises(channels.QueueFull):
            channel.dispatch(listener.id, Message("n"))


def test_a_named_queue_size_counts_from_the_beginning() -> None:
    """`queue_size=3` holds before the start, too."""
    channel = Channel(queue_size=3)
    listener = channel.add_listener()
    for _ in range(3):
        channel.dispatch(listener.id, Message("n"))
    with pytest.raises(channels.QueueFull):
        channel.dispatch(listener.id, Message("n"))


@pytest.mark.parametrize("what", ["broadcast", "dispatch"])
def test_thousands_wait_for_a_listener_of_a_group(what: str) -> None:
    """`fsm.live.channel()` loses none before the start, either: FSM_QUEUE_BYTES is its limit."""
    app = Flask("ported")
    app.config.update(SECRET_KEY="a key", FSM_QUEUE_SIZE=100, FSM_QUEUE_BYTES=1_000_000)
    fsm = FlaskFSM(app, Machine("m", states=["a"]))
    with app.app_context():
        channel = fsm.live.channel("ops")
        listener = channel.add_listener()
        for number in range(1_500):
            message = Message("n", number)
            if what == "broadcast":
                channel.broadcast(message)
            else:
                channel.dispatch(listener.id, message)
        listener.start()
        found = [channel.deliver_next(listener.id).payload for _ in range(1_500)]
        assert found == list(range(1_500))
        listener.stop()
        slow = channel.add_listener()
        for _ in range(10):
            channel.dispatch(slow.id, Message("n", "x" * 100_000))
        with pytest.raises(channels.QueueFull):
            channel.dispatch(slow.id, Message("n"))
