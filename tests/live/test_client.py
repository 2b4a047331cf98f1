"""fsm.js in Node: against a stand-in that fails on demand, and then against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..proxy import Proxy
from .fake_server import FakeServer, Stream, Websocket
from .node_client import ScriptClient
from .serving import Browser, Site

NO_SOCKET = (501, {"reason": "no_socket", "detail": "This server does not support websockets."})
FINAL = [1008, 1009, 1011, 4401, 4403, 4404, 4429]


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A server that does what the test says."""
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def client(fake_server: FakeServer) -> Iterator[ScriptClient]:
    """A client that comes back at once, and is not connected yet."""
    client = ScriptClient()
    client.do("hurry")
    yield client
    client.stop()


def state(name: str, rev: int, id: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a state frame."""
    known = {"state": name, "events": ["next"], "status": 200, "data": None, "rev": rev}
    return known | ({} if id is None else {"id": id}) | more


def data(content: Any, id: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a data frame."""
    return {"status": 200, "data": content} | ({} if id is None else {"id": id}) | more


def error(reason: str, status: int = 400, **more: Any) -> dict[str, Any]:
    """Return the frame of a refusal."""
    return {"status": status, "data": {"reason": reason, "message": "No."}} | more


def joined(fake_server: FakeServer, client: ScriptClient, **options: Any) -> Websocket:
    """Connect the client by websocket, and show it the state red."""
    client.connect(fake_server.url, **options)
    socket = fake_server.websocket().accept()
    socket.send(state("red", 0, "e-0"))
    client.told("state")
    return socket


def streaming(fake_server: FakeServer, client: ScriptClient, **options: Any) -> Stream:
    """Connect the client by event stream, and show it the state red."""
    client.connect(fake_server.url, transport="sse", **options)
    stream = fake_server.stream().accept()
    stream.send("state", state("red", 0, "e-0"))
    client.told("state")
    return stream


# == against the stand-in =========================================================================

# -- frames ---------------------------------------------------------------------------------------


def test_state(fake_server: FakeServer, client: ScriptClient) -> None:
    """The state is null before the first frame, and then what the last frame says."""
    client.connect(fake_server.url)
    before = client.look("next")
    assert (before["state"], before["rev"], before["can"]) == (None, None, False)
    socket = fake_server.websocket().accept()
    assert client.told("open")["transport"] == "websocket"
    socket.send(state("red", 3))
    client.told("state")
    now = client.look("next")
    assert (now["state"], now["events"], now["rev"], now["connected"], now["can"]) == (
        "red",
        ["next"],
        3,
        True,
        True,
    )
    assert client.look("other")["can"] is False


def test_address(fake_server: FakeServer, client: ScriptClient) -> None:
    """Prefix, machine, groups and the rest of the query make the address."""
    client.connect(
        fake_server.url,
        machine="a b",
        prefix="/live/fsm",
        groups=["ops", "x&y"],
        query={"flow": "k=1"},
    )
    socket = fake_server.websocket()
    assert socket.path == "/live/fsm/a%20b/ws"
    assert socket.query == {"flow": ["k=1"], "group_id": ["ops", "x&y"]}
    socket.accept()
    client.told("open")


def test_own_path(fake_server: FakeServer, client: ScriptClient) -> None:
    """A websocket whose path the app has chosen is found there."""
    client.connect(fake_server.url, path="/live")
    assert fake_server.websocket().path == "/live"


def test_kinds(fake_server: FakeServer, client: ScriptClient) -> None:
    """Each kind of frame goes to its own listeners."""
    socket = joined(fake_server, client)
    group = {"status": 200, "data": {"member": 1}, "group": "ops", "type": "join"}
    socket.send(data("pong"), error("refused"), group, state("green", 1), data("last"))
    assert client.told("data")["frame"] == data("pong")
    told = client.told("error")
    assert (told["name"], told["status"], told["reason"]) == ("FSMError", 400, "refused")
    assert told["data"] == error("refused")["data"]
    assert client.told("group")["frame"] == group
    assert client.told("state")["frame"] == state("green", 1)
    assert client.told("data")["frame"] == data("last")


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_unknown(fake_server: FakeServer, client: ScriptClient, transport: str) -> None:
    """What it doesn't know, whole frames or keys of one, disturbs nothing."""
    strange: list[Any] = [None, 7, "text", [1], {}, {"status": "x"}, {"news": 1}, {"ref": {}}]
    odd = state("green", 1, "e-1", colour="#0f0", events=None)
    if transport == "websocket":
        socket = joined(fake_server, client)
        socket.send(*strange, "no json", odd, data("last"))
    else:
        stream = streaming(fake_server, client)
        stream.write(b"event: data\ndata: no json\n\nevent: news\ndata: {}\n\n: comment\n\n")
        for frame in strange:
            stream.send("data", frame)
        stream.send("state", odd)
        stream.send("data", data("last"))
    client.told("data")
    assert client.frames() == [state("red", 0, "e-0"), odd, data("last")]
    assert client.look()["events"] == []


def test_listeners(fake_server: FakeServer, client: ScriptClient) -> None:
    """A listener that raises is told in the console, and one that was ended hears nothing."""
    client.connect(fake_server.url)
    client.do("disturb", on="data")
    socket = fake_server.websocket().accept()
    socket.send(data(1), data(2))
    client.told("console")
    client.told("console")
    assert client.frames("data") == [data(1), data(2)]


# -- events ---------------------------------------------------------------------------------------


def test_answers(fake_server: FakeServer, client: ScriptClient) -> None:
    """Each promise gets the frame that answers it, in whatever order the answers come."""
    socket = joined(fake_server, client)
    client.send("a", "next", {"n": 1})
    client.send("b", "ping", rev=0)
    first, second = socket.receive(), socket.receive()
    assert first == {"event": "next", "data": {"n": 1}, "ref": first["ref"]}
    assert second == {"event": "ping", "data": None, "ref": second["ref"], "rev": 0}
    assert first["ref"] != second["ref"]
    socket.send(data("pong", ref=second["ref"]))
    assert client.told("answer")["as"] == "b"
    socket.send(state("green", 1, ref=first["ref"]))
    answer = client.told("answer")
    assert (answer["as"], answer["state"], answer["rev"]) == ("a", "green", 1)


def test_refused(fake_server: FakeServer, client: ScriptClient) -> None:
    """An error rejects the promise with what the frame says, and listeners are told too."""
    socket = joined(fake_server, client)
    client.send("a", "next")
    frame = error("guard", 402, ref=socket.receive()["ref"])
    socket.send(frame)
    assert client.told("error")["reason"] == "guard"
    told = client.told("refusal")
    assert (told["name"], told["status"], told["reason"]) == ("FSMError", 402, "guard")
    assert (told["message"], told["frame"]) == ("No.", frame)


def test_refused_unseen(fake_server: FakeServer, client: ScriptClient) -> None:
    """A refusal whose promise nobody awaits is no unhandled rejection."""
    socket = joined(fake_server, client)
    client.do("forget", event="next", data=None)
    socket.send(error("guard", ref=socket.receive()["ref"]))
    client.told("error")
    client.look()  # an unhandled one would be found when the client stops


def test_nothing_said(fake_server: FakeServer, client: ScriptClient) -> None:
    """The answer 202 is for the promise only."""
    socket = joined(fake_server, client)
    client.send("a", "next")
    nothing = data(None, status=202, ref=socket.receive()["ref"])
    socket.send(nothing)
    assert client.told("answer")["frame"] == nothing
    assert client.frames("data") == []


def test_several(fake_server: FakeServer, client: ScriptClient) -> None:
    """The first of several answers is the promise's; listeners are told all, an error too."""
    socket = joined(fake_server, client)
    client.send("a", "next")
    ref = socket.receive()["ref"]
    socket.send(data(1, "e-1", ref=ref), data(2, "e-2", ref=ref), error("crashed", 405, ref=ref))
    client.told("answer", "error")
    client.told("answer", "error")
    (answer,) = client.all_of("answer", "refusal")
    (told,) = client.all_of("error")
    assert (answer["frame"]["data"], told["reason"]) == (1, "crashed")
    assert [frame["data"] for frame in client.frames("data")] == [1, 2]


def test_waits(fake_server: FakeServer, client: ScriptClient) -> None:
    """Events sent before there is a connection go out in their order once there is one."""
    client.connect(fake_server.url)
    for number in range(3):
        client.send(str(number), "ping", number)
    socket = fake_server.websocket().accept()
    assert [socket.receive()["data"] for _ in range(3)] == [0, 1, 2]


def test_waits_in_vain(fake_server: FakeServer, client: ScriptClient) -> None:
    """An event that finds no connection in time is rejected, and does not go out later."""
    client.connect(fake_server.url)
    client.send("a", "ping", 1, timeout=20)
    assert client.told("refusal")["reason"] == "not_sent"
    client.send("b", "ping", 2)
    socket = fake_server.websocket().accept()
    assert socket.receive()["data"] == 2


def test_no_answer(fake_server: FakeServer, client: ScriptClient) -> None:
    """An event without an answer is rejected; an answer that comes later still tells listeners."""
    client.do("patient", value=5_000)
    socket = joined(fake_server, client)
    client.send("a", "ping", timeout=20)
    ref = socket.receive()["ref"]
    assert client.told("refusal")["reason"] == "timeout"
    socket.send(data("late", ref=ref))
    assert client.told("data")["frame"]["data"] == "late"


def test_sent_after_the_end(fake_server: FakeServer, client: ScriptClient) -> None:
    """An event that is sent after the end is rejected at once."""
    joined(fake_server, client)
    client.do("close")
    client.send("a", "ping")
    assert client.told("refusal")["reason"] == "closed"


# -- connections that are lost --------------------------------------------------------------------


def test_never_twice(fake_server: FakeServer, client: ScriptClient) -> None:
    """An event whose answer is lost is rejected and not sent again; one that waits goes out."""
    socket = joined(fake_server, client)
    client.send("a", "pay")
    socket.receive()
    socket.cut()
    told = client.told("refusal")
    assert (told["as"], told["reason"]) == ("a", "connection_lost")
    client.send("b", "ping")
    again = fake_server.websocket().accept()
    assert again.receive()["event"] == "ping"


def test_resumes(fake_server: FakeServer, client: ScriptClient) -> None:
    """After a loss it goes on from the id it has seen, and what is repeated is not told again."""
    socket = joined(fake_server, client)
    socket.send(data(1, "e-1"), data(2, "e-2"))
    client.told("data")
    client.told("data")
    socket.cut()
    closed = client.told("close")
    assert (closed["final"], client.look()["connected"]) == (False, False)
    again = fake_server.websocket()
    assert again.since == "e-2"
    again.accept()
    again.send(data(1, "e-1"), data(2, "e-2"), data(3, "e-3"), state("red", 0, "e-3"))
    again.send(data("mark"))
    while client.told("data")["frame"]["data"] != "mark":
        pass
    assert [frame["data"] for frame in client.frames("data")] == [1, 2, 3, "mark"]
    assert len(client.frames("state")) == 1


ASKED = {"ref": 0}


def test_unanswered(fake_server: FakeServer, client: ScriptClient) -> None:
    """A connection that swallows an event, and then a question, is left for another one."""
    socket = joined(fake_server, client)
    client.send("a", "pay", timeout=100)
    assert socket.receive()["event"] == "pay"
    assert client.told("refusal")["reason"] == "timeout"
    assert socket.receive() == ASKED
    again = fake_server.websocket()
    assert again.since == "e-0"
    again.accept().send(state("green", 1, "e-1"))
    assert client.told("close")["final"] is False
    assert client.told("state")["frame"]["rev"] == 1


@pytest.mark.parametrize("frame", [error("invalid_payload", 403, ref=0), data("of another")])
def test_slow_but_alive(
    fake_server: FakeServer, client: ScriptClient, frame: dict[str, Any]
) -> None:
    """One that says anything is kept, and the answer to the question is told to nobody."""
    client.do("patient", value=5_000)
    socket = joined(fake_server, client)
    client.send("a", "pay", timeout=100)
    socket.receive()
    assert socket.receive() == ASKED
    socket.send(frame, data("late", ref=1))
    while client.told("data")["frame"]["data"] != "late":
        pass
    assert client.all_of("error", "close", "timer") == []
    client.send("b", "pay", timeout=100)
    socket.receive()
    assert socket.receive() == ASKED  # and it is asked again


def test_stream_unanswered(fake_server: FakeServer, client: ScriptClient) -> None:
    """A stream can't be asked, so it is opened anew when an event that was posted is unanswered."""
    streaming(fake_server, client)
    client.send("a", "pay", timeout=100)
    fake_server.request()
    assert client.told("refusal")["reason"] == "timeout"
    again = fake_server.stream()
    assert again.since == "e-0"
    again.accept().send("state", state("green", 1, "e-1"))
    assert client.told("state")["frame"]["rev"] == 1


def test_error_without_close(fake_server: FakeServer, client: ScriptClient) -> None:
    """A WebSocket that only says `error` before it opens has failed."""
    client.do("mute_socket")
    client.connect(fake_server.url, transport="websocket")
    for _ in range(3):
        client.told("timer")


def test_hundred_cuts(fake_server: FakeServer, client: ScriptClient) -> None:
    """Cut a hundred times, with the last frames repeated each time, it misses and doubles none."""
    client.connect(fake_server.url)
    sent = 0
    for turn in range(100):
        socket = fake_server.websocket()
        seen = int(socket.since.partition("-")[2]) if socket.since else 0
        assert seen <= sent
        socket.accept()
        start = max(1, seen - 2) if turn % 2 else seen + 1
        sent = max(sent, seen) + 3
        socket.send(*(data(number, f"e-{number}") for number in range(start, sent + 1)))
        socket.cut()
    socket = fake_server.websocket().accept()
    seen = int(socket.since.partition("-")[2]) if socket.since else 0
    socket.send(*(data(number, f"e-{number}") for number in range(seen + 1, sent + 2)))
    while client.told("data")["frame"]["data"] != sent + 1:
        pass
    assert [frame["data"] for frame in client.frames("data")] == list(range(1, sent + 2))


def test_reordered(fake_server: FakeServer, client: ScriptClient) -> None:
    """A frame older than one that was told is not told, and does not turn the state back."""
    socket = joined(fake_server, client)
    socket.send(state("yellow", 2, "e-2"), state("green", 1, "e-1"), state("yellow", 2, "e-2"))
    socket.send(data("mark"))
    client.told("data")
    assert [frame["rev"] for frame in client.frames("state")] == [0, 2]
    assert client.look()["state"] == "yellow"


def test_groups_apart(fake_server: FakeServer, client: ScriptClient) -> None:
    """A frame is new if it is so in any of its channels, and each channel's place is kept."""
    socket = joined(fake_server, client, groups=["a", "b"])
    for id in ["e-1,a-1,b-1", "e-1,a-1,b-2", "e-0,a-2,b-1", "e-1,a-2,b-2", "e-2,a-1,b-1"]:
        socket.send(data(id, id))
    socket.send(data("mark"))
    while client.told("data")["frame"]["data"] != "mark":
        pass
    assert [frame["data"] for frame in client.frames("data")] == [
        "e-1,a-1,b-1",
        "e-1,a-1,b-2",
        "e-0,a-2,b-1",
        "e-2,a-1,b-1",
        "mark",
    ]
    socket.cut()
    assert fake_server.websocket().since == "e-2,a-2,b-2"


def test_new_epoch(fake_server: FakeServer, client: ScriptClient) -> None:
    """A gap is told with its state, even one that is known, and counting begins anew."""
    socket = joined(fake_server, client)
    socket.send(state("green", 5, "e-9"))
    client.told("state")
    socket.cut()
    again = fake_server.websocket().accept()
    again.send(state("green", 5, "f-0", gap=True), data(1, "f-1"), data(1, "f-1"))
    assert client.told("state")["frame"]["gap"] is True
    client.told("data")
    again.cut()
    assert fake_server.websocket().since == "f-1"
    assert len(client.frames("data")) == 1


def test_shown_ahead(fake_server: FakeServer, client: ScriptClient) -> None:
    """Who comes back is told of a state that is ahead of its channel, though the id is known."""
    joined(fake_server, client).cut()
    again = fake_server.websocket().accept()
    again.send(state("green", 1, "e-0"), state("green", 1, "e-0"), state("yellow", 2, "e-1"))
    assert client.told("state")["frame"]["rev"] == 1
    assert client.told("state")["frame"]["rev"] == 2


def test_no_ids(fake_server: FakeServer, client: ScriptClient) -> None:
    """A flow of the connection's own has no ids: each connection shows its state anew."""
    client.connect(fake_server.url)
    for _ in range(2):
        socket = fake_server.websocket()
        assert socket.since is None
        socket.accept().send(state("red", 0))
        client.told("state")
        socket.cut()


def test_full_jitter(fake_server: FakeServer, client: ScriptClient) -> None:
    """The longest delay doubles up to half a minute, and a frame begins anew."""
    client.do("dice", value=0.5)
    client.connect(fake_server.url, transport="websocket")
    for _ in range(9):
        fake_server.websocket().cut()
    expected = [250.0, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]
    assert [client.told("timer")["delay"] for _ in range(9)] == expected
    socket = fake_server.websocket().accept()
    socket.send(data(1))
    client.told("data")
    socket.cut()
    assert client.told("timer")["delay"] == 250
    client.do("dice", value=0)
    fake_server.websocket().cut()
    assert client.told("timer")["delay"] == 0


@pytest.mark.parametrize("code", [1012, 1013])
def test_sent_away(fake_server: FakeServer, client: ScriptClient, code: int) -> None:
    """Those sent away with many others come back too, but take their time."""
    client.do("dice", value=0.5)
    socket = joined(fake_server, client)
    socket.close(code, "later")
    told = client.told("close")
    assert (told["code"], told["reason"], told["final"]) == (code, "later", False)
    assert client.told("timer")["delay"] == 2_000
    fake_server.websocket()


@pytest.mark.parametrize("code", FINAL)
def test_final(fake_server: FakeServer, client: ScriptClient, code: int) -> None:
    """A close code that is final is told as an error and an end, and not tried again."""
    socket = joined(fake_server, client)
    client.send("a", "ping")
    socket.receive()
    socket.close(code, "Gone.")
    told = client.told("error")
    assert (told["code"], told["reason"], told["message"]) == (code, "closed", "Gone.")
    told = client.told("close")
    assert (told["code"], told["final"]) == (code, True)
    assert client.told("refusal")["reason"] == "connection_lost"
    client.send("b", "ping")
    assert client.told("refusal")["reason"] == "closed"
    assert client.all_of("timer") == []
    assert fake_server.websockets.empty()


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_closed(fake_server: FakeServer, client: ScriptClient, transport: str) -> None:
    """close() ends the connection for good, once, and that is no error."""
    if transport == "websocket":
        socket = joined(fake_server, client)
        client.do("close")
        assert socket.receive() is None
    else:
        streaming(fake_server, client)
        client.do("close")
    told = client.told("close")
    assert (told["code"], told["final"]) == (1000, True)
    client.do("close")
    assert [r["kind"] for r in client.all_of("error", "close", "timer")] == ["close"]


def test_closed_while_it_waits(fake_server: FakeServer, client: ScriptClient) -> None:
    """close() also ends the attempts of a client that is not connected, and what waits to go."""
    client.connect(fake_server.url)
    client.send("a", "ping")
    client.do("close")
    assert client.told("close")["final"] is True
    assert client.told("refusal")["reason"] == "closed"
    assert client.all_of("timer") == []


# -- streams and posts ----------------------------------------------------------------------------


def test_falls_back(fake_server: FakeServer, client: ScriptClient) -> None:
    """After two websockets that did not open where HTTP goes through, it reads a stream."""
    fake_server.why = (426, {})
    client.connect(fake_server.url, groups=["ops"], query={"flow": "k"}, path="/own")
    fake_server.websocket().answer(403, {})
    fake_server.websocket().cut()
    stream = fake_server.stream()
    assert stream.path == "/fsm/traffic/events"
    assert stream.query == {"flow": ["k"], "group_id": ["ops"]}
    assert {why.path for why in fake_server.asked_why} == {"/fsm/traffic/ws"}
    assert [why.query for why in fake_server.asked_why] == [stream.query] * 2
    stream.accept()
    assert client.told("open")["transport"] == "sse"
    for _ in range(2):  # and each time that it is lost, a websocket may be possible again
        stream.cut()
        fake_server.websocket().cut()
        stream = fake_server.stream().accept()
    stream.cut()
    fake_server.websocket().accept().send(state("red", 0))
    client.told("state")
    assert fake_server.streams.empty()


def test_no_sockets(fake_server: FakeServer, client: ScriptClient) -> None:
    """A server that lets nobody at its sockets says so, and the stream is read at once."""
    fake_server.why = NO_SOCKET
    client.connect(fake_server.url)
    fake_server.websocket().answer(501, {})
    fake_server.stream().accept()
    assert client.told("open")["transport"] == "sse"


def test_no_sockets_and_nothing_else(fake_server: FakeServer, client: ScriptClient) -> None:
    """Where there is no websocket, and the client may use nothing else, it gives up and says so."""
    fake_server.why = NO_SOCKET
    client.connect(fake_server.url, transport="websocket")
    fake_server.websocket().answer(501, {})
    told = client.told("error")
    assert (told["code"], told["message"]) == (4501, NO_SOCKET[1]["detail"])
    assert client.told("close")["final"] is True


def test_no_stream_in_place_of_a_websocket(fake_server: FakeServer, client: ScriptClient) -> None:
    """A machine whose flows are websockets' own can't be driven otherwise, so it keeps trying."""
    fake_server.why = (426, {"status": 426, "reason": "websocket_only"})
    client.connect(fake_server.url)
    for _ in range(4):
        fake_server.websocket().cut()
    fake_server.websocket().accept()
    assert fake_server.streams.empty()


@pytest.mark.parametrize(
    "why",
    [
        *(None, (403, {}), (404, {}), (502, {}), (503, {"reason": "full"})),
        *((409, {"reason": "busy"}), (429, {"reason": "slow down"}), (501, {})),
    ],
)
def test_away(fake_server: FakeServer, client: ScriptClient, why: tuple[int, Any] | None) -> None:
    """A server that is away, or a proxy whose server is, is no reason for a stream."""
    fake_server.why = why
    client.connect(fake_server.url)
    for _ in range(4):
        fake_server.websocket().answer(502, {})
    socket = fake_server.websocket().accept()
    assert client.told("open")["transport"] == "websocket"
    for _ in range(3):
        socket.send(data(1))
        client.told("data")
        socket.cut()
        socket = fake_server.websocket().accept()
    assert fake_server.streams.empty()


def test_falls_back_later(fake_server: FakeServer, client: ScriptClient) -> None:
    """A websocket that was open once may be forbidden now: a laptop goes from net to net."""
    fake_server.why = (426, {})
    joined(fake_server, client).cut()
    fake_server.websocket().cut()
    socket = fake_server.websocket().accept()
    socket.send(state("red", 0, "e-0"))
    socket.send(data(1))
    client.told("data")
    socket.cut()  # that one failure is forgotten
    for _ in range(2):
        fake_server.websocket().cut()
    fake_server.stream().accept()
    assert client.told("open")["transport"] == "sse"


def test_nothing_comes_through(fake_server: FakeServer, client: ScriptClient) -> None:
    """A websocket that opens and brings nothing, as some proxies do it, is none."""
    fake_server.why = (426, {})
    client.do("dice", value=0.5)
    client.connect(fake_server.url)
    fake_server.websocket().accept().close(1000)
    fake_server.websocket().accept()  # and says nothing for ten seconds
    fake_server.stream().accept()
    while client.told("open")["transport"] != "sse":
        pass
    assert [each["transport"] for each in client.all_of("open")] == ["websocket"] * 2 + ["sse"]
    assert [each["delay"] for each in client.all_of("timer")] == [250, 500]


def test_who_asks_is_not_known(fake_server: FakeServer, client: ScriptClient) -> None:
    """A websocket of the program's own may say who it is; the global fetch does not."""
    fake_server.why = (403, {"status": 403, "reason": "group"})
    client.do("own_socket")
    client.connect(fake_server.url)
    for _ in range(3):
        fake_server.websocket().cut()
    fake_server.websocket().accept()
    client.told("open")
    assert fake_server.asked_why == []


@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize(("status", "reason"), [(403, "group"), (404, "not_found"), (401, None)])
def test_refused_for_good(
    fake_server: FakeServer, client: ScriptClient, transport: str, status: int, reason: str | None
) -> None:
    """A browser does not say why a handshake was refused, so that is asked for by HTTP."""
    why = {"status": status, "reason": reason, "detail": "You may not join this group."}
    fake_server.why = (status, why)
    client.connect(fake_server.url, transport=transport)
    client.send("a", "ping", timeout=60_000)
    fake_server.websocket().answer(status, why)
    told = client.told("error")
    assert (told["code"], told["message"]) == (4000 + status, why["detail"])
    assert client.told("close")["final"] is True
    assert client.told("refusal")["reason"] == "closed"
    assert client.all_of("timer") == []


def test_posts(fake_server: FakeServer, client: ScriptClient) -> None:
    """Over a stream events are posted; the answer is the promise's, and the stream tells it."""
    stream = streaming(fake_server, client, groups=["ops"], query={"flow": "k"})
    client.send("a", "next", {"n": 1}, rev=0)
    post = fake_server.request()
    assert (post.method, post.path, post.query) == ("POST", "/fsm/traffic/event", {"flow": ["k"]})
    assert post.headers["Content-Type"] == "application/json"
    assert b'"event":"next","data":{"n":1}' in post.body
    assert b'"rev":0' in post.body
    post.answer(200, state("green", 1))
    answer = client.told("answer")
    assert (answer["frame"]["state"], answer["state"]) == ("green", "green")
    assert len(client.frames()) == 1
    stream.send("state", state("green", 1, "e-1"))
    assert client.told("state")["frame"]["rev"] == 1


def test_posts_in_order(fake_server: FakeServer, client: ScriptClient) -> None:
    """An event is posted once the one before it is answered."""
    streaming(fake_server, client)
    for number in range(3):
        client.send(str(number), "ping", number)
    for number in range(3):
        post = fake_server.request()
        client.look()
        assert fake_server.requests.empty()
        assert f'"data":{number}'.encode() in post.body
        post.answer(200, data(number))
        assert client.told("answer")["as"] == str(number)


def test_answer_ahead_of_the_stream(fake_server: FakeServer, client: ScriptClient) -> None:
    """What a stream still brings is told, but does not turn back the state of a later answer."""
    stream = streaming(fake_server, client)
    client.send("a", "next")
    fake_server.request().answer(200, state("yellow", 2))
    client.told("answer")
    stream.send("state", state("green", 1, "e-1"))
    assert client.told("state")["frame"]["rev"] == 1
    assert client.look()["rev"] == 2
    stream.send("state", state("yellow", 2, "e-2"))
    assert client.told("state")["frame"]["rev"] == 2
    stream.send("state", state("red", 0, "e-3"))
    client.told("state")
    assert client.look()["rev"] == 0


def test_answer_ahead_of_a_new_run(fake_server: FakeServer, client: ScriptClient) -> None:
    """The first state of a new run counts, though that of the last answer was never brought."""
    stream = streaming(fake_server, client)
    client.send("a", "next")
    fake_server.request().answer(200, state("yellow", 2))
    client.told("answer")
    stream.send("state", state("red", 0, "e-3"))
    client.told("state")
    assert client.look()["rev"] == 0


def test_post_refused(fake_server: FakeServer, client: ScriptClient) -> None:
    """A post that is refused rejects the promise, and listeners are told."""
    streaming(fake_server, client)
    client.send("a", "next")
    fake_server.request().answer(409, error("guard", 402))
    assert client.told("error")["reason"] == "guard"
    assert client.told("refusal")["status"] == 402
    client.send("b", "next")
    fake_server.request().answer(403, {"status": 403, "title": "Forbidden", "reason": "origin"})
    told = client.told("refusal")
    assert (told["reason"], told["message"]) == ("origin", "Forbidden")


def test_post_several(fake_server: FakeServer, client: ScriptClient) -> None:
    """As over a websocket, the first of several frames is the promise's."""
    stream = streaming(fake_server, client)
    client.send("a", "next")
    frames = [data(1), state("green", 1), data(2, status=400)]
    fake_server.request().answer(200, frames[-1] | {"frames": frames})
    answer = client.told("answer")
    assert (answer["frame"], answer["state"]) == (data(1), "green")
    stream.send("data", data(2, "e-3", status=400))
    client.told("error")
    assert len(client.all_of("error")) == 1
    assert client.frames("data") == []


@pytest.mark.parametrize("fault", ["cut", "html"])
def test_post_lost(fake_server: FakeServer, client: ScriptClient, fault: str) -> None:
    """A post whose answer is lost, or is a proxy's page, is rejected and not posted again."""
    streaming(fake_server, client)
    client.send("a", "pay")
    post = fake_server.request()
    if fault == "cut":
        post.cut()
    else:
        post.answer(502, b"<h1>Bad Gateway</h1>", "text/html")
    assert client.told("refusal")["reason"] == "connection_lost"
    client.send("b", "ping")
    post = fake_server.request()
    assert b'"ping"' in post.body


def test_post_hangs(fake_server: FakeServer, client: ScriptClient) -> None:
    """A post without an answer is given up in time, and the next one goes out."""
    streaming(fake_server, client)
    client.send("a", "ping", timeout=1_000)
    fake_server.request()
    assert client.told("refusal")["reason"] == "timeout"
    client.send("b", "ping", 2)
    fake_server.stream().accept()  # the first one is in doubt
    fake_server.request().answer(200, data("pong"))
    assert client.told("answer")["as"] == "b"


def test_post_outlives_stream(fake_server: FakeServer, client: ScriptClient) -> None:
    """A stream that is lost takes no post with it."""
    stream = streaming(fake_server, client)
    client.send("a", "next")
    post = fake_server.request()
    stream.cut()
    assert client.told("close")["final"] is False
    post.answer(200, data("done"))
    assert client.told("answer")["frame"]["data"] == "done"


def test_stream_resumes(fake_server: FakeServer, client: ScriptClient) -> None:
    """A stream that is cut or ends goes on from the id that was seen, and tells nothing twice."""
    stream = streaming(fake_server, client)
    stream.send("data", data(1, "e-1"))
    client.told("data")
    stream.cut()
    stream = fake_server.stream()
    assert stream.since == "e-1"
    stream.accept()
    for number in (1, 2):
        stream.send("data", data(number, f"e-{number}"))
    client.told("data")
    stream.let_go()
    stream = fake_server.stream()
    assert stream.since == "e-2"
    stream.accept().send("state", state("red", 0, "e-2"))
    stream.send("data", data(3, "e-3"))
    client.told("data")
    assert [frame["data"] for frame in client.frames("data")] == [1, 2, 3]
    assert len(client.frames("state")) == 1


def test_stream_without_ids(fake_server: FakeServer, client: ScriptClient) -> None:
    """A frame without an id is told, though the event of a stream inherits the id before it."""
    stream = streaming(fake_server, client)
    for number in range(2):
        stream.send("data", data(number))
    client.told("data")
    client.told("data")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_stream_final(fake_server: FakeServer, client: ScriptClient, status: int) -> None:
    """A stream that is refused for good is told with the close code of a websocket, and left."""
    client.connect(fake_server.url, transport="sse", groups=["ops"])
    first = fake_server.stream()
    first.answer(status, {})
    asked = fake_server.stream()
    assert (asked.path, asked.query) == (first.path, first.query)
    why = {"status": status, "reason": "group", "detail": "You may not join this group."}
    asked.answer(status, why)
    told = client.told("error")
    assert (told["code"], told["message"]) == (4000 + status, "You may not join this group.")
    assert client.told("close")["final"] is True
    assert client.all_of("timer") == []


def test_stream_refused(fake_server: FakeServer, client: ScriptClient) -> None:
    """After an answer that is no stream, where EventSource gives up, it comes back all the same."""
    client.connect(fake_server.url, transport="sse")
    for status in (503, 404, 403, 429):  # without a reason, that may be a proxy's
        for _ in range(2):
            fake_server.stream().answer(
                status, {}
            )  # to EventSource, and to who asks for the status
    fake_server.stream().answer(503, {})
    fake_server.stream().cut()
    fake_server.stream().answer(503, {})
    fake_server.stream().accept()
    fake_server.stream().accept()
    assert client.told("open")["transport"] == "sse"


def test_nothing_to_connect_with(client: ScriptClient) -> None:
    """Without the class that a transport needs, connect() says so."""
    for options in (
        {"transport": "websocket", "WebSocket": None},
        {"transport": "sse", "EventSource": None},
        {"WebSocket": None, "EventSource": None},
    ):
        client.do("lack", options={"origin": "http://127.0.0.1:9", **options})
        assert client.told("lack")["name"] == "TypeError"
    client.do("lack", options={})
    assert client.told("lack")["name"] == "TypeError"


def test_a_transport_that_is_none(client: ScriptClient) -> None:
    """A slip of the pen is told at once; one that is not given is the default."""
    client.do("lack", options={"origin": "http://127.0.0.1:9", "transport": "websockets"})
    assert '"auto", "websocket" and "sse"' in client.told("lack")["message"]


def test_transport_not_given(fake_server: FakeServer, client: ScriptClient) -> None:
    """As in `transport: condition ? "sse" : null`: it falls back as if nothing was said."""
    fake_server.why = NO_SOCKET
    client.connect(fake_server.url, transport=None)
    fake_server.websocket().answer(501, {})
    fake_server.stream().accept()
    assert client.told("open")["transport"] == "sse"


def test_only_streams(fake_server: FakeServer, client: ScriptClient) -> None:
    """Where there is no WebSocket at all, the stream is found without a word."""
    client.connect(fake_server.url, WebSocket=None)
    fake_server.stream().accept()
    assert client.told("open")["transport"] == "sse"


# == against the real server ======================================================================

TRANSPORTS = ["websocket", "sse"]


@pytest.fixture
def user(site: Site) -> Browser:
    """Somebody with a flow."""
    browser = site.browser()
    browser.state("traffic")
    return browser


def entered(client: ScriptClient, user: Browser, origin: str, **options: Any) -> None:
    """Connect the client with the cookies of a user, and wait for the state."""
    client.do("cookie", value=user.cookie_header["Cookie"])
    client.connect(origin, **options)
    client.told("state")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_real(site: Site, user: Browser, client: ScriptClient, transport: str) -> None:
    """It sees its session's flow, moves it, is answered, refused, and told what others do."""
    entered(client, user, site.origin, transport=transport)
    first = client.look("next")
    assert (first["state"], first["rev"], first["can"]) == ("green", 0, True)
    client.send("a", "ping")
    assert client.told("answer")["frame"]["data"] == "pong"
    client.send("b", "next", {"n": 1}, rev=0)
    answer = client.told("answer")
    assert (answer["state"], answer["rev"], answer["frame"]["data"]) == ("yellow", 1, {"n": 1})
    client.send("c", "next", rev=0)
    assert client.told("refusal")["reason"] == "stale_rev"
    client.send("d", "nowhere")
    assert client.told("refusal")["status"] == 402
    assert user.event("traffic", "next").status == 200
    while client.look()["rev"] < 2:
        client.told("state")
    assert client.look()["state"] == user.state("traffic")["state"] == "red"
    assert [frame["rev"] for frame in client.frames("state")] == [0, 1, 2]
    assert [frame["data"] for frame in client.frames("data")] == ["pong"]
    assert len(client.all_of("error")) == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_real_resume(site: Site, user: Browser, client: ScriptClient, transport: str) -> None:
    """Cut again and again while others move the flow, it is told of each move once, in order."""
    with Proxy(site.port) as proxy:
        entered(client, user, f"http://127.0.0.1:{proxy.port}", transport=transport)
        rev = 0
        for _ in range(10):
            proxy.refuse()
            client.told("close")
            for _ in range(3):
                assert user.event("traffic", "next").status == 200
                rev += 1
            proxy.open()
            while client.look()["rev"] < rev:
                client.told("state")
        assert [frame["rev"] for frame in client.frames("state")] == list(range(rev + 1))
        assert not any(frame.get("gap") for frame in client.frames("state"))
        client.do("close")


def test_real_refusal(site: Site, user: Browser, client: ScriptClient) -> None:
    """A group that one may not join is a reason to end, and said to be it."""
    client.do("cookie", value=user.cookie_header["Cookie"])
    client.connect(site.origin, groups=["forbidden"])
    assert client.told("error")["code"] == 4403
    assert client.told("close")["final"] is True
