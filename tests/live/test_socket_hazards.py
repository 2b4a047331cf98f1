"""What is known to go wrong with sockets on WSGI servers, and does not here."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..app_servers import Gunicorn
from ..clients import LOOPBACK, PATIENCE
from ..torture.durations import LONG, size
from .apps import SECRET, VARIABLE
from .frames import checked
from .rawsocket import RawSocket, framed, packed
from .serving import ENGINES, Browser, Site, Sites, Socket, Stream, until

APP: Final = "tests.live.hazards:create_app()"
PATH: Final = "/fsm/trap/ws"
OPS: Final = f"{PATH}?group_id=ops"
MIB: Final = 1_048_576
# What a server may need on top of what it held before, whatever its clients do: half of what they
# send it, and more than the allocator takes in the best case, which varies by some MiB.
ROOM: Final = 32 * MIB
# Seconds; gunicorn waits 30 for threads that don't end.
SOON: Final = 10
KINDS: Final = pytest.mark.parametrize("engine", ENGINES)

Start = Callable[..., Site]


@pytest.fixture
def start() -> Iterator[Start]:
    """A maker of sites for one test, as `Site` takes its options."""
    with ExitStack() as stack:
        yield lambda engine, **options: stack.enter_context(Site(engine, APP, **options))


def joined(site: Site, **options: Any) -> Socket:
    """A socket of a new client, after its first frame."""
    made = site.browser().websocket("trap", **options)
    assert made.receive()["state"] == "on"
    return made


def raw(site: Site, path: str = PATH, **options: Any) -> RawSocket:
    """A raw socket of a new client, after its first frame."""
    made = RawSocket(site.port, path, **options)
    assert made.receive()["state"] == "on"
    return made


def memory(site: Site) -> int:
    """The bytes that the server's processes hold now."""
    return sum(psutil.Process(pid).memory_info().rss for pid in site.server.pids())


class Watch:
    """Looks at the memory of a site again and again, and at its end how much more it was."""

    def __init__(self, site: Site) -> None:
        site.browser().get("/ping")
        self._site = site
        self._before = memory(site)
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self._most = max(self._most, memory(self._site))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            self._most = max(self._most, memory(self._site))
            assert self._most - self._before < ROOM, (self._before, self._most)


# -- who writes -----------------------------------------------------------------------------------


@KINDS
def test_many_writers_on_one_compressed_connection(sites: Sites, engine: str) -> None:
    """What several threads say at once arrives whole, and is unpacked without an error."""
    site = sites.get(engine, APP, FSM_QUEUE_SIZE=5_000)
    writers, each, asked = 6, size(50, 1_000), size(50, 1_000)
    with joined(site, groups=["ops"]) as client, ThreadPoolExecutor(writers) as pool:
        assert "permessage-deflate" in client.headers["Sec-WebSocket-Extensions"]
        told = [
            pool.submit(site.browser().get, f"/tell/{number * each}/{each}/3000")
            for number in range(writers)
        ]
        for number in range(asked):
            client.send("echo", f"{number} " * 1_000, ref=number)
        groups: list[int] = []
        answers: list[int] = []
        while len(answers) < asked or len(groups) < writers * each:
            frame = client.receive()
            if "group" not in frame:
                assert frame["data"] == f"{frame['ref']} " * 1_000
                answers.append(frame["ref"])
            elif frame["type"] == "message":
                number, text = frame["data"]
                assert text == (f"{number} " * 3_000)[:3_000]
                groups.append(number)
        assert all(reply.result().status == 200 for reply in told)
    assert answers == list(range(asked))
    assert sorted(groups) == list(range(writers * each))
    for number in range(writers):
        mine = [found for found in groups if found // each == number]
        assert mine == sorted(mine), "The messages of one writer changed their order."


@KINDS
@pytest.mark.parametrize("machine", ["trap", "shared"])
def test_a_handler_that_says_much(sites: Sites, engine: str, machine: str) -> None:
    """A client that reads gets all of it, however much more it is than may wait for a slow one."""
    site = sites.get(engine, APP, FSM_QUEUE_SIZE=100)
    with raw(site, f"/fsm/{machine}/ws") as client:
        for _ in range(3):
            client.say("list", 300 if machine == "trap" else 50)
            got = [client.receive()["data"] for _ in range(300 if machine == "trap" else 50)]
            assert got == list(range(len(got)))


@KINDS
def test_large_messages(sites: Sites, engine: str) -> None:
    """Messages above 4 MiB go both ways whole, also to a client that takes them slowly."""
    site = sites.get(engine, APP, FSM_MAX_MESSAGE_SIZE=16 * MIB)
    many = 9 * MIB
    with joined(site, compression=None) as client:
        text = "".join(map(str, range(many // 7)))
        assert client.ask("echo", text)["data"] == text
    with raw(site) as slow:
        slow.say("large", many, ref=1)
        slow.say("echo", "after", ref=2)
        first, second = slow.receive(), slow.receive()
    assert (first["ref"], len(first["data"])) == (1, many)
    assert (second["ref"], second["data"]) == (2, "after")


@KINDS
@pytest.mark.parametrize("sessions", ["cookie", "server"])
def test_each_event_is_a_request_of_its_own(sites: Sites, engine: str, sessions: str) -> None:
    """`g` and context variables are fresh for each, and what it used is torn down after it."""
    site = sites.get(engine, APP, SESSIONS=sessions)
    with raw(site) as one, raw(site) as other:
        for number in range(3):
            for client, name in ((one, "one"), (other, "other")):
                client.say("context", f"{sessions} {name}")
                said = client.receive()["data"]
                assert said == {
                    "g": None,
                    "variable": None,
                    "path": PATH,
                    "torn": number,
                    "flashes": 0,
                }


@KINDS
@pytest.mark.parametrize("sessions", ["cookie", "server"])
def test_nothing_is_left_where_tearing_down_fails(sites: Sites, engine: str, sessions: str) -> None:
    site = sites.get(engine, APP, SESSIONS=sessions)
    with raw(site) as client:
        for _ in range(2):
            client.say("context", f"fail {sessions}", ref=1)
            assert client.receive()["data"]["g"] is None
            assert client.receive()["status"] == 405
        client.say("context", "after")
        assert client.receive()["data"]["g"] is None


@KINDS
@pytest.mark.parametrize("machine", ["trap", "shared"])
@pytest.mark.parametrize("event", ["raise", "fail_at_the_end", "exit", "cancel", "base"])
def test_no_exception_becomes_http(sites: Sites, engine: str, event: str, machine: str) -> None:
    """A handler that fails is answered by a frame: no text of HTTP is in the stream, no secret.

    However many fail, no thread is lost by it.
    """
    site = sites.get(engine, APP, FSM_LIVE_WORKERS=2)
    for _ in range(3):
        with raw(site, f"/fsm/{machine}/ws") as client:
            client.say(event, ref=1)
            client.say("echo", "goes on", ref=2)
            frames = [client.receive()]
            while frames[-1].get("ref") != 2:
                frames.append(client.receive())
            assert [frame["status"] for frame in frames[-2:]] == [405, 200], frames
            assert SECRET not in json.dumps(frames)
            for frame in frames:
                checked(json.dumps(frame))
    assert site.browser().get("/ping").status == 200
    if machine == "shared" and event != "fail_at_the_end":
        reply = site.browser().event(machine, event)
        assert (reply.status, reply.json["status"]) == (500, 405)


@KINDS
@pytest.mark.parametrize("how", ["raise", "replace"])
@pytest.mark.parametrize("endpoint", ["ws", "events"])
def test_an_answer_that_is_lost(start: Start, engine: str, endpoint: str, how: str) -> None:
    """Nothing is kept of a client whose answer the app has lost on its way."""
    site = start(engine)
    browser = site.browser()
    headers = {"X-Lose": how}
    if endpoint == "ws":
        headers |= {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
    for _ in range(5):
        reply = site.browser().request(
            "GET", f"/fsm/shared/{endpoint}?group_id=ops", headers=headers
        )
        assert reply.status == (500 if how == "raise" else 200)
    until(lambda: browser.get("/kept").json == [0, 0, 0])
    with joined(site, groups=["ops"]):
        assert browser.get("/kept").json[:2] == [1, 1]


# -- the end --------------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """What is started now hears SIGINT, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ended(site: Site) -> None:
    """Ask the server to end, and wait until it has; a development server gets Ctrl-C."""
    assert site.server._child is not None
    process = site.server._child.process
    process.send_signal(signal.SIGINT if site.engine == "werkzeug" else signal.SIGTERM)
    process.wait(SOON)


@KINDS
@pytest.mark.usefixtures("ctrl_c")
def test_the_server_ends_at_once(start: Start, engine: str) -> None:
    """All sockets are told 1012, the streams end, and the process is gone."""
    site = start(engine)
    with ExitStack() as stack:
        sockets = [stack.enter_context(joined(site)) for _ in range(10)]
        stream = stack.enter_context(site.browser().curl_events("trap"))
        assert stream.receive()["state"] == "on"
        own = stack.enter_context(Stream(f"http://{LOOPBACK}:{site.port}/own", {}))
        with ThreadPoolExecutor(len(sockets)) as pool:
            codes = [pool.submit(client.closed) for client in sockets]
            ended(site)
            assert {code.result() for code in codes} == {1012}
        stream.ended()
        own.ended()


@KINDS
@pytest.mark.usefixtures("ctrl_c")
def test_nobody_holds_up_the_end(start: Start, engine: str) -> None:
    """A client that does not answer the close frame, and one that reads nothing, change nothing."""
    site = start(engine, FSM_QUEUE_BYTES=64 * MIB)
    with raw(site) as mute, raw(site, OPS) as stuck, joined(site, groups=["ops"]) as other:
        site.browser().get("/tell/0/400/20000")
        while (frame := other.receive()).get("type") != "message" or frame["data"][0] != 399:
            pass
        ended(site)
        assert mute.receive() == 1012
        assert stuck.receive()["group"] == "ops"


# -- who sends too much ---------------------------------------------------------------------------


@KINDS
def test_a_slow_handler_lets_nobody_fill_memory(start: Start, engine: str) -> None:
    """While a handler waits, the server reads no more of that client, and answers all later."""
    site = start(engine)
    message = framed(json.dumps({"event": "size", "data": "x" * 30_000}).encode())
    with raw(site) as client, Watch(site):
        client.say("wait")
        taken = client.pour(message, 64 * MIB)
        assert taken < 16 * MIB
        site.browser().get("/open")
        assert client.receive()["data"] == "waited"
        client.socket.sendall(message[taken % len(message) :])
        for _ in range(taken // len(message) + 1):
            assert client.receive()["data"] == 30_000


@KINDS
def test_pings_without_end_fill_no_memory(start: Start, engine: str) -> None:
    """From a client that sends pings and reads no pong, the server reads no more at some time."""
    site = start(engine, FSM_MESSAGE_RATE=10_000_000, FSM_SEND_TIMEOUT=600)
    ping = b"\x89\xfd" + bytes(4) + b"x" * 125
    with raw(site) as client, Watch(site):
        assert client.pour(ping * 500, 64 * MIB) < 32 * MIB


@KINDS
def test_a_large_message_is_refused(start: Start, engine: str) -> None:
    """200 KiB are answered by 1009, whatever the frame says of its length; none of it is kept."""
    site = start(engine, threads=512, FSM_MAX_THREADS=500)
    long = b"x" * 200 * 1024
    endless = b"\x81\xff" + (1 << 62).to_bytes(8) + bytes(4) + long
    with ExitStack() as stack, Watch(site):
        for number in range(size(40, 400)):
            client = stack.enter_context(raw(site)) if number % 2 else raw(site)
            client.pour(framed(long) if number % 4 < 2 else endless, len(long))
            assert client.receive() == 1009
            if not number % 2:
                client.close()


@KINDS
def test_what_was_refused_is_freed(start: Start, engine: str) -> None:
    """Of a thousand connections that were refused a message, nothing is left but their closing."""
    site = start(
        engine, threads=512, FSM_MAX_THREADS=500, FSM_HEARTBEAT=600, FSM_PRESENCE_TTL=1_200
    )
    long = b"x" * 200 * 1024
    for _ in range(50):
        refused_and_closed(site, long)
    with Watch(site):
        for _ in range(size(600, 3_000)):
            refused_and_closed(site, long)


def refused_and_closed(site: Site, message: bytes) -> None:
    with raw(site) as client:
        client.pour(framed(message), len(message))
        assert client.receive() == 1009


@KINDS
@pytest.mark.parametrize("end", ["close", "cut"])
def test_what_was_said_before_the_end_is_heard(start: Start, engine: str, end: str) -> None:
    """Events that arrive with the close frame, or before a cut, are run, each once and to its end.

    That their client is gone is nothing that a handler notices: what it says goes nowhere.
    """
    site = start(engine)
    words = b"".join(
        framed(json.dumps({"event": "count", "data": number}).encode()) for number in range(20)
    )
    with raw(site) as client:
        closing = framed((1000).to_bytes(2), opcode=8) if end == "close" else b""
        client.socket.sendall(words + closing)
        if end == "close":
            while not isinstance(client.receive(), int):
                pass
    until(lambda: len(site.browser().get("/told").json) == 20)
    assert site.browser().get("/told").json == list(range(20))
    until(lambda: site.browser().get("/fsm/health").json["connections"] == 0)
    assert "Traceback" not in site.log


@KINDS
def test_a_bomb_is_not_unpacked(start: Start, engine: str) -> None:
    """A message of some KiB that would be 64 MiB is refused before it is."""
    site = start(engine)
    bomb = packed(b"0" * 64 * MIB)
    assert len(bomb) < 100_000
    with Watch(site):
        for _ in range(3):
            with raw(site, deflate=True) as client:
                client.socket.sendall(bomb)
                assert client.receive() == 1009


@KINDS
def test_many_small_bombs_are_not_unpacked_at_once(start: Start, engine: str) -> None:
    """Many messages that are small as they come, and all allowed, are not kept unpacked."""
    site = start(engine)
    message = packed(json.dumps({"event": "size", "data": "x" * 60_000}).encode())
    assert len(message) < 200
    with ExitStack() as stack, Watch(site):
        clients = [stack.enter_context(raw(site, deflate=True)) for _ in range(3)]
        for client in clients:
            # While these wait, the others fill what the kernel keeps.
            client.say("wait")
            for _ in range(8):
                client.say("echo")
        for client in clients:
            client.pour(message, MIB // 2)
        site.browser().get("/open")
        for client in clients:
            assert client.receive()["data"] == "waited"
            for _ in range(200):
                client.receive()


@KINDS
@pytest.mark.parametrize("machine", ["trap", "shared"])
def test_who_sends_too_much_waits(start: Start, engine: str, machine: str) -> None:
    """It is read at FSM_MESSAGE_RATE and loses nothing, whatever else may wake the server."""
    site = start(engine, FSM_MESSAGE_RATE=50, FSM_HEARTBEAT=300, FSM_PRESENCE_TTL=600)
    rate, number = 50, 250
    with raw(site, f"/fsm/{machine}/ws") as client:
        begun = time.monotonic()
        for count in range(number):
            client.say("echo", count)
        last, pauses = begun, []
        for expected in range(number):
            assert client.receive()["data"] == expected
            now = time.monotonic()
            pauses.append(now - last)
            last = now
        # A client may send those of two seconds at once.
        assert last - begun > (number - 2 * rate) / rate - 1
        assert pauses[-1] < PATIENCE / 4
        process = psutil.Process(max(site.server.pids()))
        used = sum(process.cpu_times()[:2])
        time.sleep(1)
        assert sum(process.cpu_times()[:2]) - used < 0.5, "It does not sleep afterwards."


@KINDS
def test_parts_of_messages_count_too(start: Start, engine: str) -> None:
    """Who sends a message in many parts, even empty ones, is read no faster."""
    rate, number = 250, 1_500
    site = start(engine, FSM_MESSAGE_RATE=rate)
    begin, empty = b"\x01\x80" + bytes(4), b"\x00\x80" + bytes(4)
    end = b'{"event": "echo", "data": "whole"}'
    with raw(site) as client:
        begun = time.monotonic()
        client.socket.sendall(begin + empty * number)
        client.socket.sendall(bytes([0x80, 0x80 | len(end)]) + bytes(4) + end)
        assert client.receive()["data"] == "whole"
        # A client may send what is allowed in two seconds at once; the last bytes are read at once.
        assert time.monotonic() - begun > (number - 2 * rate) / rate - 3


# -- who reads nothing ----------------------------------------------------------------------------


class Reader:
    """A member of the group that reads all, and finds that it is in order and whole."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._error: BaseException | None = None
        self.count = 0
        self.leaves = 0
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                frame = self._socket.receive()
                kind = frame.get("type")
                assert kind != "message" or frame["data"][0] == self.count
                with self._more:
                    self.count += kind == "message"
                    self.leaves += kind == "leave"
                    self._more.notify_all()
        except ConnectionClosed:
            pass
        except BaseException as error:
            self._error = error

    def wait_for(self, number: int, *, leaves: int = 0) -> None:
        """Wait until it has got so many, and been told that so many members have left."""
        with self._more:
            assert self._more.wait_for(
                lambda: self.count >= number and self.leaves >= leaves, PATIENCE
            ), self._error

    def stop(self) -> None:
        self._socket.close()
        self._thread.join()
        if self._error is not None:
            raise self._error


@KINDS
@pytest.mark.parametrize("why", ["overflow", "timeout"])
def test_a_client_that_reads_nothing(start: Start, engine: str, why: str) -> None:
    """It is cut with 1013, for nothing can be sent or too much waits; others get everything.

    It leaves its groups when it is cut, not when it has taken what was written before.
    """
    if why == "overflow":
        number, text, config = size(6_000, 100_000), 2_000, {"FSM_SEND_TIMEOUT": 300}
    else:
        # The time of the long form is the one that an app has if it says nothing.
        number, text, config = 600, 20_000, {} if LONG else {"FSM_SEND_TIMEOUT": 1}
    site = start(engine, FSM_PRESENCE_TTL=300, **config)
    begun, duration = time.monotonic(), size(2, 60)
    with raw(site, OPS) as stuck, joined(site, groups=["ops"]) as client, Watch(site):
        reader, browser = Reader(client), site.browser()

        def is_cut() -> bool:
            return 1013 in browser.get("/codes").json

        def ended() -> tuple[list[Any], int]:
            reader.wait_for(0, leaves=1)  # although the connection is not closed yet
            frames: list[Any] = []
            try:
                while not isinstance(frame := stuck.receive(), int):
                    frames.append(frame)
            except (EOFError, ConnectionError):
                # A thread does not wait for a client to read why it was cut.
                assert engine in ("threads", "gevent")
                return frames, 1013
            return frames, frame

        end = None
        try:
            for first in range(0, number, 100):
                assert browser.get(f"/tell/{first}/100/{text}").status == 200
                reader.wait_for(first)
                if end is None and is_cut():
                    end = ended()
                due = begun + duration * first / number
                time.sleep(max(due - time.monotonic(), 0))
            reader.wait_for(number)
            wait_until(lambda: end is not None or is_cut(), browser)
            frames, code = end or ended()
        finally:
            reader.stop()
    assert code == 1013
    got = [frame["data"][0] for frame in frames if frame.get("type") == "message"]
    assert got == list(range(len(got)))
    assert len(got) < number


def wait_until(ready: Callable[[], bool], browser: Browser) -> None:
    """Wait until a condition holds, while HTTP is served."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert browser.get("/ping").status == 200
        assert time.monotonic() < deadline


# -- servers that can't ---------------------------------------------------------------------------


def refused(site: Site, reason: str) -> Any:
    """Check that a socket and a stream are refused with 503, and HTTP is served."""
    with pytest.raises(InvalidStatus) as caught:
        site.browser().websocket("trap")
    response = caught.value.response
    assert response.status_code == 503
    assert checked(response.body, "Problem")["reason"] == reason
    assert site.browser().get("/fsm/trap/events").status == 503
    assert site.browser().get("/ping").status == 200
    return response.headers


@pytest.mark.parametrize(
    ("workers", "bus", "store", "warned"),
    [
        (2, "memory://", "session", {"FSM_BUS_URL", "FSM_STORE_URL"}),
        (2, "memory://", "sqlite", {"FSM_BUS_URL"}),
        (2, "redis", "memory://", {"FSM_STORE_URL"}),
        (2, "redis", "sqlite", set()),
        (1, "memory://", "session", set()),
    ],
)
def test_processes_that_know_nothing_of_each_other(
    start: Start,
    fresh_store: Callable[[str], str],
    workers: int,
    bus: str,
    store: str,
    warned: set[str],
) -> None:
    """The first connection makes the log say which key is missing, once for each process."""
    urls = [fresh_store(kind) if kind in ("redis", "sqlite") else kind for kind in (bus, store)]
    site = start("loop", workers=workers, FSM_BUS_URL=urls[0], FSM_STORE_URL=urls[1])
    for _ in range(5):
        joined(site).close()
    told = [
        line
        for line in site.log.splitlines()
        if "clients will miss what other processes do" in line
    ]
    assert {key for key in ("FSM_BUS_URL", "FSM_STORE_URL") for line in told if key in line} == (
        warned
    )
    assert len(told) <= workers * len(warned)


SYNC: Final = ["--worker-class=sync"]


def on_sync_worker(engine: str) -> Site:
    site = Site(engine, APP, threads=1)
    site.server.options = SYNC
    return site


@pytest.mark.parametrize("kind", ["sync", "one thread"])
def test_one_thread_serves_no_socket_by_threads(kind: str) -> None:
    """It would be starved: 503, and the log says what to do; HTTP goes on."""
    site = on_sync_worker("threads") if kind == "sync" else Site("threads", APP, threads=1)
    with site:
        refused(site, "one_thread")
        assert "--threads" in site.log


@pytest.mark.parametrize("kind", ["sync", "one thread"])
def test_one_thread_serves_sockets_by_the_loop(kind: str) -> None:
    """The loop needs no thread of the server's, so that HTTP goes on beside many sockets."""
    site = on_sync_worker("loop") if kind == "sync" else Site("loop", APP, threads=1)
    with site, ExitStack() as stack:
        sockets = [stack.enter_context(joined(site)) for _ in range(5)]
        for number, client in enumerate(sockets):
            assert client.ask("echo", number)["data"] == number
            assert site.browser().get("/ping").status == 200


@pytest.mark.parametrize(
    ("engine", "cap"),
    [
        ("loop", {"FSM_MAX_CONNECTIONS": 3}),
        ("threads", {"FSM_MAX_THREADS": 3}),
        ("gevent", {"FSM_MAX_THREADS": 3}),
        ("werkzeug", {"FSM_MAX_THREADS": 3, "FSM_LIVE_ENGINE": "threads"}),
    ],
)
def test_beyond_the_cap(start: Start, engine: str, cap: dict[str, Any]) -> None:
    """The connection after the last that is served gets 503, until another one ends."""
    site = start(engine, **cap)
    sockets = [joined(site) for _ in range(3)]
    try:
        assert int(refused(site, "full")["Retry-After"]) > 0
        sockets.pop().close()
        browser = site.browser()
        wait_until(lambda: browser.get("/fsm/health").json["connections"] == 2, browser)
        sockets.append(joined(site))
    finally:
        for client in sockets:
            client.close()


# -- TLS in the worker ----------------------------------------------------------------------------


class Secure(Gunicorn):
    """Gunicorn that speaks TLS itself."""

    def __init__(self, folder: Path, **config: Any) -> None:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={LOOPBACK}"),
                *("-addext", f"subjectAltName=IP:{LOOPBACK}"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        self.trust = ssl.create_default_context(cafile=certificate)
        options = [f"--certfile={certificate}", f"--keyfile={key}"]
        env = {VARIABLE: json.dumps(config)}
        super().__init__(APP, env, workers=1, threads=8, options=options)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(LOOPBACK, self.port, context=self.trust)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return bool(self.pids()) and self.get("/ping")[0] == 200
        except OSError:
            return False


@pytest.mark.parametrize("path", [PATH, "/route"])
def test_tls_in_the_worker(tmp_path: Path, path: str) -> None:
    """The loop can't have such a socket, so that threads serve it, large messages too.

    A route of the app is no different.
    """
    config = {"FSM_LIVE_ENGINE": "auto", "FSM_MAX_THREADS": 2, "FSM_MAX_MESSAGE_SIZE": 16 * MIB}
    with Secure(tmp_path, **config) as server:
        with (
            RawSocket(server.port, OPS, tls=server.trust) as client,
            RawSocket(server.port, path, tls=server.trust, deflate=True) as other,
        ):
            assert (client.receive()["state"], other.receive()["state"]) == ("on", "on")
            # The cap of the threads: the loop would take a third one.
            for endpoint in ("ws", "events"):
                assert server.get(f"/fsm/trap/{endpoint}")[0] == 503
            client.say("large", 9 * MIB, ref=1)
            answer = client.receive()
            while answer.get("ref") != 1:
                answer = client.receive()
            assert len(answer["data"]) == 9 * MIB
            text = "y" * 300_000
            client.say("size", text)
            assert client.receive()["data"] == len(text)
            other.say("echo", text)
            assert other.receive()["data"] == text
            assert server.get("/tell/0/1/10")[0] == 200
            assert client.receive()["data"] == [0, "0 0 0 0 0 "]
            assert server._child is not None
            server._child.process.send_signal(signal.SIGTERM)
            assert client.receive() == 1012
            server._child.process.wait(SOON)
        assert "Traceback" not in server.log, server.log
