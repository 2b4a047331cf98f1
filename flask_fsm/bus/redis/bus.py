"""A bus on Redis or Valkey, for several processes and machines.

Of each channel the server keeps a hash (the epoch, the offset of the newest message, the runs) and
a stream of the last messages. A message is one script, which counts, keeps and publishes it. What
is published is received on one connection; a hole in the offsets is filled from the stream.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from math import ceil
from threading import Condition, Event, Lock, Thread, current_thread
from typing import Any, Final, NamedTuple

from ...errors import StoreUnavailable
from ...redis_client import is_unreachable, names_of, open_client
from ..base import RUNS, Order, Position, Receiver, closed, new_epoch, raw, text
from .scripts import ENTER, EXPIRED, LEAVE, MEMBERS, PUBLISH, RENEW, SINCE, SYNC, TEAR, Call, Script
from .subscription import Subscription, contiguous_after, newest_and_kept

__all__ = ["RedisBus"]

log: Final = logging.getLogger(__name__)
# How many messages wait while the server is away.
QUEUE: Final = 10_000
# How many channels of lost messages are noted.
TEARS: Final = 100_000
BATCH: Final = 100
# Of how many senders a channel remembers what came last.
SENDERS: Final = 64
# Names in one SUBSCRIBE, members in one script.
CHUNK: Final = 1_000
# Seconds until the first attempt to connect again, at most, and until all later ones.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
# Seconds for which `close` waits for a thread that waits for a server.
FAREWELL: Final = 1.0


class Item(NamedTuple):
    """A message that waits to be sent; without payload: the news that one is lost."""

    channel: str
    payload: bytes | None
    order: Order | None
    number: int


class RedisBus:
    """Sends by one thread, and receives by another one on one connection.

    `source` is a URL or a client of redis-py or valkey-py, `timeout` how many seconds to wait for
    the server. Both threads begin when they are needed, in each process after a fork.
    """

    synchronous = False

    def __init__(
        self,
        source: Any,
        prefix: str = "fsm",
        replay_limit: int = 1_000,
        replay_time: float = 300.0,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._given = (
            open_client(source, timeout, "FSM_BUS_URL") if isinstance(source, str) else source
        )
        self._prefix = prefix
        self._timeout = timeout
        # While there are receivers, what is kept is kept on so much earlier.
        self._refresh = replay_time / 2
        constants = {
            "LIMIT": replay_limit,
            "RUNS": RUNS,
            "SENDERS": SENDERS,
            "TTL": ceil(replay_time + self._refresh),
        }
        self._scripts = {
            text: Script(text, **constants)
            for text in (PUBLISH, TEAR, SYNC, SINCE, ENTER, RENEW, LEAVE, MEMBERS, EXPIRED)
        }
        self._channels: dict[bytes, Subscription] = {}
        self._closed = False
        self._forked = Lock()
        self._begin()

    def _begin(self) -> None:
        """Set up what a process has for itself."""
        self._client = own_client(self._given, self._timeout)
        pool = getattr(self._client, "connection_pool", None)
        self._pipelines = pool is not None
        # Redis publishes to all databases.
        self._database = 0 if pool is None else pool.connection_kwargs.get("db") or 0
        self._name_of_process = secrets.token_hex(8)
        self._closing = Event()
        # The sender's: guarded by the condition.
        self._changed = Condition(Lock())
        self._queue: deque[Item] = deque()
        self._torn: set[str] = set()
        self._untold: set[str] = set()
        self._put = 0
        self._done = 0
        self._sender: Thread | None = None
        self._idle = False
        self._warned = False
        # The receiver's: guarded by the mutex.
        self._mutex = Lock()
        self._link: Any = None
        self._unanswered = 0
        self._reader: Thread | None = None
        self._pid = os.getpid()

    def _check_process(self) -> None:
        if os.getpid() == self._pid:
            return
        # Held by a child only, just after the fork: never while there is another fork.
        with self._forked:
            if os.getpid() == self._pid:
                return
            # Receivers that were subscribed before the fork are so on both sides.
            for channel in self._channels.values():
                channel.lock, channel.turn = Lock(), Lock()
            self._begin()
        if self._channels:
            with self._mutex:
                self._start_reader()

    # -- names --------------------------------------------------------------------------

    def _name(self, channel: str) -> bytes:
        return raw(f"{self._prefix}:live:{{{quoted(channel)}}}")

    def _wire(self, channel: str) -> bytes:
        return self._name(channel) + b"@%d" % self._database

    def _on_channel(self, text: str, channel: str, *arguments: bytes | str | int) -> Call:
        name = self._name(channel)
        keys = (name, name + b":log")
        return Call(self._scripts[text], keys, (self._wire(channel), new_epoch(), *arguments))

    def _on_group(self, text: str, group: str, *arguments: bytes | str | int) -> Any:
        name = raw(f"{self._prefix}:group:{{{quoted(group)}}}")
        return self._ask(Call(self._scripts[text], (name, name + b":info"), arguments))

    # -- asking the server --------------------------------------------------------------

    def _ask(self, call: Call) -> Any:
        self._check_process()
        with translated():
            return self._answer(call)

    def _answer(self, call: Call) -> Any:
        try:
            return self._client.execute_command(*call.command(whole=False))
        except Exception as error:
            if "NoScriptError" not in names_of(error):
                raise
            return self._client.execute_command(*call.command(whole=True))

    def _ask_all(self, calls: Sequence[Call]) -> list[Any]:
        """Return an answer or an exception for each call, in this order; or raise."""
        if len(calls) == 1 or not self._pipelines:
            return self._ask_one_by_one(calls)
        pipeline = self._client.pipeline(transaction=False)
        seen: set[str] = set()
        for call in calls:
            # The first one brings the script along: one that were sent by its digest, and failed,
            # would come after those that follow it.
            pipeline.execute_command(*call.command(whole=call.script.digest not in seen))
            seen.add(call.script.digest)
        return list(pipeline.execute(raise_on_error=False))

    def _ask_one_by_one(self, calls: Sequence[Call]) -> list[Any]:
        answers: list[Any] = []
        for call in calls:
            try:
                answers.append(self._answer(call))
            except Exception as error:
                left = len(calls) - len(answers)
                answers += [error] * (left if is_unreachable(error) else 1)
                if is_unreachable(error):
                    break
        return answers

    # -- sending ------------------------------------------------------------------------

    def has_subscribers(self, channel: str) -> bool:
        return True  # other processes may listen

    def publish(self, channel: str, payload: str, order: Order | None = None) -> None:
        self._check_process()
        sent = raw(payload)
        with self._changed:
            if self._closed:
                return
            if len(self._queue) < QUEUE:
                self._torn.discard(channel)
                self._append(channel, sent, order)
            else:
                self._overflow(channel)
            if self._sender is None:
                self._sender = started(self._send_on, "fsm-bus-sender")

    def _append(self, channel: str, payload: bytes | None, order: Order | None) -> None:
        self._put += 1
        self._queue.append(Item(channel, payload, order, self._put))
        if self._idle:
            self._idle = False
            self._changed.notify_all()

    def _overflow(self, channel: str) -> None:
        """Note that a message is lost, in its place among those of its channel."""
        if not self._warned:
            self._warned = True
            log.error(
                "The bus can't send: %d messages wait for its server. Those that come now are "
                "lost, and their receivers are told so.",
                QUEUE,
            )
        if channel not in self._torn and len(self._queue) < QUEUE + TEARS:
            self._torn.add(channel)
            self._append(channel, None, None)
        if self._wire(channel) in self._channels:
            self._untold.add(channel)
            self._changed.notify_all()

    def _send_on(self) -> None:
        """Send what waits, in this order, until the bus is closed."""
        attempt = 0
        while not self._closing.is_set():
            with self._changed:
                while not (self._queue or self._untold or self._closing.is_set()):
                    self._idle = True
                    self._changed.wait()
                self._idle = False
                batch = list(itertools.islice(self._queue, BATCH))
            self._tell_gaps()
            if not batch or self._closing.is_set():
                continue
            try:
                sent = self._send(batch)
            except Exception as error:
                sent = 0
                if not is_unreachable(error):
                    log.exception("The bus can't send.")
            with self._changed:
                for _ in range(sent):
                    item = self._queue.popleft()
                    if item.payload is None:
                        self._torn.discard(item.channel)
                self._done += sent
                self._changed.notify_all()
            if sent == len(batch):
                attempt, self._warned = 0, False
            else:
                attempt += 1
                self._rest(attempt)

    def _send(self, batch: Sequence[Item]) -> int:
        """Return how many have been dealt with; those that follow are to be sent again."""
        answers = self._ask_all([self._call_of(item) for item in batch])
        for at, (item, answer) in enumerate(zip(batch, answers, strict=True)):
            if not isinstance(answer, Exception):
                continue
            overtaken = any(
                later.channel == item.channel and not isinstance(outcome, Exception)
                for later, outcome in zip(batch[at + 1 :], answers[at + 1 :], strict=True)
            )
            if overtaken or not is_unreachable(answer):
                log.error("A message on the channel %r is lost: %s", item.channel, answer)
                if item.payload is None:
                    return at + 1
                with self._changed:
                    self._queue[at] = item._replace(payload=None, order=None)
            return at
        return len(batch)

    def _call_of(self, item: Item) -> Call:
        if item.payload is None:
            return self._on_channel(TEAR, item.channel)
        order = item.order
        ordered = () if order is None else (raw(order.run), order.rev, raw(order.ended or ""))
        return self._on_channel(
            PUBLISH, item.channel, item.payload, self._name_of_process, item.number, *ordered
        )

    def _tell_gaps(self) -> None:
        with self._changed:
            untold, self._untold = self._untold, set()
        for name in untold:
            channel = self._channels.get(self._wire(name))
            if channel is not None:
                channel.tell_gap()

    def _rest(self, attempt: int) -> None:
        """Wait before the next attempt, and tell meanwhile what is lost."""
        end = time.monotonic() + pause(attempt)
        while not self._closing.is_set() and (left := end - time.monotonic()) > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._untold or self._closing.is_set(), left)
            self._tell_gaps()

    def flush(self, timeout: float) -> bool:
        self._check_process()
        with self._changed:
            until = self._put
            return self._changed.wait_for(
                lambda: self._done >= until or self._closing.is_set(), timeout
            ) and (self._done >= until)

    # -- receiving ----------------------------------------------------------------------

    def subscribe(self, channel: str, receiver: Receiver) -> Position:
        self._check_process()
        wire = self._wire(channel)
        with self._mutex:
            if self._closed:
                raise closed()
            found = self._channels.get(wire)
            if found is None:
                found = self._channels[wire] = Subscription(channel)
                position = found.join(receiver)
                self._start_reader()
                self._tell_server("subscribe", wire)
            else:
                position = found.join(receiver)
        if position is not None:
            return position
        if not found.ready.wait(self._timeout) or found.first is None:
            self.unsubscribe(channel, receiver)
            raise unavailable()
        return found.first

    def unsubscribe(self, channel: str, receiver: Receiver) -> None:
        self._check_process()
        wire = self._wire(channel)
        with self._mutex:
            found = self._channels.get(wire)
            if found is not None and found.drop(receiver):
                del self._channels[wire]
                self._tell_server("unsubscribe", wire)

    def _tell_server(self, command: str, wire: bytes) -> None:
        """Send a command on the connection of the reader, if it stands; under the mutex."""
        if self._link is None:
            return
        try:
            getattr(self._link, command)(wire)
        except Exception:
            log.debug("The connection of the bus is broken.", exc_info=True)
            # The reader sees it, and connects again.
            self._link = None
        else:
            self._unanswered += command == "subscribe"

    def _start_reader(self) -> None:
        if self._reader is None:
            self._reader = started(self._receive_on, "fsm-bus-reader")

    def _receive_on(self) -> None:
        """Receive until the bus is closed, on one connection after another."""
        attempt = 0
        warned = False
        while not self._closing.is_set():
            link = None
            try:
                link = self._connect()
                for _ in self._receive(link):
                    attempt, warned = 0, False
            except Exception as error:
                if self._closing.is_set():
                    break
                if not is_unreachable(error):
                    log.exception("The bus can't receive.")
                elif not warned:
                    warned = True
                    log.warning("The bus has lost its server and connects again: %s", error)
            finally:
                with self._mutex:
                    self._link = None
                if link is not None:
                    with suppress(Exception):
                        link.close()
            attempt += 1
            self._closing.wait(pause(attempt))

    def _connect(self) -> Any:
        link = self._client.pubsub()
        try:
            # Of this channel comes nothing. It keeps the connection in its mode.
            link.subscribe(raw(f"{self._prefix}:live@{self._database}"))
            with self._mutex:
                names = list(self._channels)
                for start in range(0, len(names), CHUNK):
                    link.subscribe(*names[start : start + CHUNK])
                self._unanswered = len(names)
                self._link = link
        except BaseException:
            with suppress(Exception):
                link.close()
            raise
        return link

    def _receive(self, link: Any) -> Iterator[None]:
        """Deal with what comes on a connection until it fails; yield when all is in step."""
        entered: dict[bytes, Subscription] = {}
        heard = time.monotonic()
        refreshed = heard
        asked = False
        while not self._closing.is_set():
            # Never a much shorter time: some drivers use it for the rest of a message, too.
            message = link.get_message(timeout=min(self._timeout, self._refresh))
            if self._link is not link:
                raise ConnectionError("The connection is broken.")
            now = time.monotonic()
            if message is not None:
                heard, asked = now, False
                self._take(message, entered)
            elif now - heard >= self._timeout:
                if asked:
                    raise TimeoutError("The server is silent.")
                link.ping()
                heard, asked = now, True
            if entered and (self._unanswered <= 0 or len(entered) >= BATCH):
                self._synchronise(list(entered.values()))
                entered.clear()
            if now - refreshed >= self._refresh:
                refreshed = now
                channels = list(self._channels.values())
                for start in range(0, len(channels), BATCH):
                    self._synchronise(channels[start : start + BATCH])
            if not entered:
                yield

    def _take(self, message: dict[str, Any], entered: dict[bytes, Subscription]) -> None:
        kind = message["type"]
        if kind not in ("message", "subscribe"):
            return
        wire = message["channel"]
        if isinstance(wire, str):
            wire = raw(wire)
        channel = self._channels.get(wire)
        if kind == "message":
            if channel is not None:
                self._pass_on(channel, message["data"])
            return
        if b"{" in wire:
            with self._mutex:
                self._unanswered -= 1
        if channel is not None:
            # Also where a driver has connected again by itself.
            entered[wire] = channel

    def _pass_on(self, channel: Subscription, data: bytes | str) -> None:
        position = channel.position
        if position is None:
            return  # It comes before the position that is going to be read.
        try:
            epoch, offset, payload = text(data).split(" ", 2)
            arrived = Position(epoch, int(offset))
        except ValueError:
            log.warning("What was published on the channel %r is no message.", channel.name)
            return
        if arrived.epoch == position.epoch and arrived.offset <= position.offset:
            return
        if arrived == (position.epoch, position.offset + 1):
            channel.advance(arrived, payload)
        else:
            self._synchronise([channel])

    def _synchronise(self, channels: Sequence[Subscription]) -> None:
        """Bring channels up to what the server has: fill what is missing, or tell the gap."""
        calls = []
        for channel in channels:
            epoch, offset = channel.position or ("", 0)
            calls.append(self._on_channel(SYNC, channel.name, epoch, offset))
        answers = self._ask_all(calls)
        for channel, answer in zip(channels, answers, strict=True):
            if isinstance(answer, Exception):
                if is_unreachable(answer):
                    raise answer
                log.error("The channel %r can't be read: %s", channel.name, answer)
                continue
            head, kept = newest_and_kept(answer)
            if channel.position is None:
                channel.enter(head)
                continue
            missed = contiguous_after(channel.position, head, kept)
            if missed is None or not self._goes_on(channel, kept):
                channel.advance(head, None)
                continue
            for position, payload in missed:
                channel.advance(position, payload)

    @staticmethod
    def _goes_on(channel: Subscription, kept: dict[int, str]) -> bool:
        assert channel.position is not None
        same = kept.get(channel.position.offset)
        return same is None or channel.newest in (None, hash(same))

    def since(self, channel: str, position: Position) -> list[tuple[Position, str]] | None:
        call = self._on_channel(SINCE, channel, position.epoch, position.offset)
        head, kept = newest_and_kept(self._ask(call))
        return contiguous_after(position, head, kept)

    # -- claims and groups --------------------------------------------------------------

    def acquire_once(self, key: str, seconds: int) -> bool:
        self._check_process()
        with translated():
            name = raw(f"{self._prefix}:once:{key}")
            return bool(self._client.set(name, b"1", nx=True, ex=seconds))

    def enter(self, group: str, member: str, info: str, until: float) -> bool:
        return bool(self._on_group(ENTER, group, left_until(until), raw(member), raw(info)))

    def leave(self, group: str, member: str) -> bool:
        return bool(self._on_group(LEAVE, group, raw(member)))

    def renew(self, group: str, members: Iterable[str], until: float) -> list[str]:
        names = [raw(member) for member in members]
        missing = []
        for start in range(0, len(names), CHUNK):
            some = names[start : start + CHUNK]
            missing += self._on_group(RENEW, group, left_until(until), *some)
        return [text(name) for name in missing]

    def members(self, group: str) -> dict[str, str]:
        return dict(pairs(self._on_group(MEMBERS, group)))

    def expired(self, group: str) -> list[tuple[str, str]]:
        return pairs(self._on_group(EXPIRED, group))

    # -- the end ------------------------------------------------------------------------

    def close(self) -> None:
        self._check_process()
        self._closed = True
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        with self._mutex:
            link, self._link = self._link, None
            waiting = list(self._channels.values())
            self._channels.clear()
        for channel in waiting:
            channel.ready.set()
        if link is not None:
            # Wakes the reader, which waits for something to come.
            with suppress(Exception):
                link.connection.disconnect()
        for thread in (self._sender, self._reader):
            if thread is not None and thread is not current_thread():
                thread.join(min(self._timeout, FAREWELL))
        if self._client is not self._given:
            with suppress(Exception):
                self._client.connection_pool.disconnect()


# -- texts ------------------------------------------------------------------------------------


def quoted(name: str) -> str:
    """Return a name without the sign that ends a hash tag."""
    return name.replace("%", "%25").replace("}", "%7D")


def pairs(flat: Sequence[Any]) -> list[tuple[str, str]]:
    return [(text(name), text(info)) for name, info in zip(flat[::2], flat[1::2], strict=True)]


def left_until(until: float) -> int:
    """Return how many milliseconds are left until a time of this machine's clock."""
    return round((until - time.time()) * 1_000)


# -- clients and their errors -----------------------------------------------------------------


def own_client(client: Any, timeout: float) -> Any:
    """Return a client of the same server whose connections end with silence, and are not shared.

    One that finds its servers by itself (a cluster's, a sentinel's) is taken as it is.
    """
    pool = getattr(client, "connection_pool", None)
    if pool is None or type(pool).__name__ not in ("ConnectionPool", "BlockingConnectionPool"):
        return client
    driver = type(client).__module__.partition(".")[0]
    retry, backoff = import_module(f"{driver}.retry"), import_module(f"{driver}.backoff")
    options = {
        **{name: pool.connection_kwargs[name] for name in pool.connection_kwargs if kept(name)},
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "decode_responses": False,
        "protocol": 2,
        # A script whose answer was lost may have run.
        "retry": retry.Retry(backoff.NoBackoff(), 0),
    }
    if "path" not in options:
        options["socket_keepalive"] = True
    connection = import_module(f"{driver}.connection")
    made = connection.ConnectionPool(connection_class=pool.connection_class, **options)
    return type(client)(connection_pool=made)


def kept(name: str) -> bool:
    """Tell whether an option of a client's connections is one of the server's, and no habit."""
    return name in (
        "host",
        "port",
        "path",
        "db",
        "username",
        "password",
        "credential_provider",
        "client_name",
        "socket_keepalive_options",
        "socket_type",
    ) or name.startswith("ssl_")


@contextmanager
def translated() -> Iterator[None]:
    """Turn the errors of a server that can't be reached into StoreUnavailable."""
    try:
        yield
    except Exception as error:
        if not is_unreachable(error):
            raise
        raise unavailable() from error


def unavailable() -> StoreUnavailable:
    return StoreUnavailable("The server of the bus can't be reached, or did not answer in time.")


# -- threads ----------------------------------------------------------------------------------


def started(work: Callable[[], None], name: str) -> Thread:
    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def pause(attempt: int) -> float:
    """Return how many seconds to wait before an attempt: any time up to one that doubles."""
    return random.random() * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 10))
