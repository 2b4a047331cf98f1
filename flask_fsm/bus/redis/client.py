"""The connections of the bus to a Redis or Valkey server, and the names of its keys there."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Final

from ...errors import StoreUnavailable
from ...redis_client import is_unreachable, names_of
from ..base import encode_text, new_epoch
from .scripts import Call, Script

__all__ = [
    "BusClient",
    "backoff",
    "milliseconds_until",
    "start_thread",
    "store_errors",
    "unavailable",
]

# Upper bounds, in seconds, of the pause before the first attempt to reconnect and later ones.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
# The connection options that identify the server and the user.
SERVER_OPTIONS: Final = frozenset(
    {
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
    }
)


class BusClient:
    """Runs scripts on the keys of channels and groups, on connections of its own.

    `client` is a client of redis-py or valkey-py, `prefix` begins the names of all keys, `timeout`
    is in seconds, and `scripts` maps the text of each script to the script.
    """

    def __init__(
        self, client: Any, prefix: str, timeout: float, scripts: dict[str, Script]
    ) -> None:
        self._given = client
        self._client = own_client(client, timeout)
        self._prefix = prefix
        self._scripts = scripts
        pool = getattr(self._client, "connection_pool", None)
        self._pipelines = pool is not None
        # Redis publishes to all databases.
        self._database = 0 if pool is None else pool.connection_kwargs.get("db") or 0

    # -- names --------------------------------------------------------------------------

    def _key(self, channel: str) -> bytes:
        return encode_text(f"{self._prefix}:live:{{{quoted(channel)}}}")

    def wire_name(self, channel: str) -> bytes:
        """Return the name under which the server publishes the messages of a channel."""
        return self._key(channel) + b"@%d" % self._database

    def idle_name(self) -> bytes:
        """Return a name on which nothing is published: it keeps a connection subscribed."""
        return encode_text(f"{self._prefix}:live@{self._database}")

    def channel_call(self, text: str, channel: str, *arguments: bytes | str | int) -> Call:
        """Return the call of the script of this text on a channel."""
        key = self._key(channel)
        return Call(
            self._scripts[text],
            (key, key + b":log"),
            (self.wire_name(channel), new_epoch(), *arguments),
        )

    def group_call(self, text: str, group: str, *arguments: bytes | str | int) -> Call:
        """Return the call of the script of this text on a group."""
        key = encode_text(f"{self._prefix}:group:{{{quoted(group)}}}")
        return Call(self._scripts[text], (key, key + b":info"), arguments)

    # -- calls --------------------------------------------------------------------------

    def ask(self, call: Call) -> Any:
        """Return the answer to a call; raises StoreUnavailable if the server can't be reached."""
        with store_errors():
            return self._answer(call)

    def acquire_once(self, key: str, seconds: int) -> bool:
        """Set a key for some seconds; return whether it was free, or raise StoreUnavailable."""
        with store_errors():
            name = encode_text(f"{self._prefix}:once:{key}")
            return bool(self._client.set(name, b"1", nx=True, ex=seconds))

    def _answer(self, call: Call) -> Any:
        try:
            return self._client.execute_command(*call.command(whole=False))
        except Exception as error:
            if "NoScriptError" not in names_of(error):
                raise
            return self._client.execute_command(*call.command(whole=True))

    def ask_all(self, calls: Sequence[Call]) -> list[Any]:
        """Return each call's answer or exception, in order; or raise the driver's error."""
        if len(calls) == 1 or not self._pipelines:
            return self._ask_one_by_one(calls)
        pipeline = self._client.pipeline(transaction=False)
        seen: set[str] = set()
        for call in calls:
            # The first call carries the script's text. A call by digest could fail as unknown, and
            # its repetition would come after the calls that follow it.
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

    # -- connections --------------------------------------------------------------------

    def pubsub(self) -> Any:
        """Return a connection for subscriptions, as the driver has it."""
        return self._client.pubsub()

    def close(self) -> None:
        """Close the connections, unless the client is the app's own."""
        if self._client is not self._given:
            with suppress(Exception):
                self._client.connection_pool.disconnect()


def quoted(name: str) -> str:
    """Return a name in which the character that ends a hash tag is escaped."""
    return name.replace("%", "%25").replace("}", "%7D")


def milliseconds_until(until: float) -> int:
    """Return the milliseconds until a time of this machine's clock."""
    return round((until - time.time()) * 1_000)


def own_client(client: Any, timeout: float) -> Any:
    """Return a client of the same server with connections of its own that time out.

    A client that finds its servers by itself (of a cluster or a sentinel) is returned unchanged.
    """
    pool = getattr(client, "connection_pool", None)
    if pool is None or type(pool).__name__ not in ("ConnectionPool", "BlockingConnectionPool"):
        return client
    driver = type(client).__module__.partition(".")[0]
    retry, driver_backoff = import_module(f"{driver}.retry"), import_module(f"{driver}.backoff")
    options = {
        **{
            name: value
            for name, value in pool.connection_kwargs.items()
            if name in SERVER_OPTIONS or name.startswith("ssl_")
        },
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "decode_responses": False,
        "protocol": 2,
        # A script whose answer was lost may have run.
        "retry": retry.Retry(driver_backoff.NoBackoff(), 0),
    }
    if "path" not in options:
        options["socket_keepalive"] = True
    connection = import_module(f"{driver}.connection")
    made = connection.ConnectionPool(connection_class=pool.connection_class, **options)
    return type(client)(connection_pool=made)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn the errors of a server that can't be reached into StoreUnavailable."""
    try:
        yield
    except Exception as error:
        if not is_unreachable(error):
            raise
        raise unavailable() from error


def unavailable() -> StoreUnavailable:
    """Return the error for a server that does not answer."""
    return StoreUnavailable("The bus's server can't be reached, or did not answer in time.")


def start_thread(work: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread, and return it."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def backoff(attempt: int) -> float:
    """Return the seconds to wait before an attempt: random, up to a bound that doubles."""
    return random.random() * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 10))
