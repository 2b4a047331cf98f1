"""The FSM_* keys of an app's config, read once by `init_app` into one frozen object."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from threading import TIMEOUT_MAX
from typing import Any, Final

from .core.codec import MAX_TEXT
from .errors import ConfigError

__all__ = ["Config"]

PREFIX: Final = "FSM_"
CHECK: Final = "check"
# In seconds: every server, system call and timer can count that far.
WEEK: Final = 7 * 24 * 3600


# -- checks: each returns the value to use, or raises ValueError saying what it must be -------


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("True or False")


def _flag_or_texts(value: Any) -> bool | tuple[str, ...]:
    try:
        return value if isinstance(value, bool) else _texts(value)
    except ValueError:
        raise ValueError("True, False, or a list of strings") from None


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("a non-empty string")


def _path(value: Any) -> str:
    if isinstance(value, str) and value.startswith("/") and "<" not in value:
        return value
    raise ValueError("a path that begins with '/' and has no parameters")


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple, set, frozenset)) and all(
        isinstance(item, str) for item in value
    ):
        return tuple(value)
    raise ValueError("a list of strings")


def _server(value: Any) -> Any:
    # The store and the bus check which URLs and objects they accept.
    if value is None or value == "" or isinstance(value, (bool, int, float, timedelta)):
        raise ValueError("a URL, or an object that the app already has, such as a client of Redis")
    return value


@dataclass(frozen=True)
class _Number:
    """Checks a number above 0 within its bounds; or None, if it is `optional`."""

    kind: type[int] | type[float]
    least: float = 0
    most: float | None = None
    unit: str = ""
    optional: bool = False

    def __call__(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if isinstance(value, timedelta) and self.kind is float:
            value = value.total_seconds()
        kinds = (int,) if self.kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
            whole = " whole" if self.kind is int else ""
            unit = f" of {self.unit}" if self.unit else ""
            raise ValueError(f"a{whole} number{unit} above 0{', or None' if self.optional else ''}")
        if self.most is not None and value > self.most:
            raise ValueError(f"at most {self.most:,} {self.unit}".rstrip())
        if value < self.least:
            raise ValueError(f"at least {self.least:,} {self.unit}".rstrip())
        return value


# The metadata of the fields: each names the check of its values.
_Check = dict[str, Callable[[Any], Any]]
FLAG: Final[_Check] = {CHECK: _flag}
FLAG_OR_TEXTS: Final[_Check] = {CHECK: _flag_or_texts}
TEXT: Final[_Check] = {CHECK: _text}
PATH: Final[_Check] = {CHECK: _path}
TEXTS: Final[_Check] = {CHECK: _texts}
SERVER: Final[_Check] = {CHECK: _server}
RATE: Final[_Check] = {CHECK: _Number(float)}


def _count(*, least: int = 0, optional: bool = False) -> _Check:
    return {CHECK: _Number(int, least, optional=optional)}


def _bytes(*, most: int | None = None) -> _Check:
    return {CHECK: _Number(int, most=most, unit="bytes")}


def _seconds(*, least: float = 0, most: float | None = None, optional: bool = False) -> _Check:
    return {CHECK: _Number(float, least, most, "seconds", optional)}


@dataclass(frozen=True)
class Config:
    """The settings of an app. Each field is the config key FSM_ and its name in capitals.

    A field of seconds may be given as a `timedelta`, too.
    """

    store_url: Any = field(default="session", metadata=SERVER)
    """Where flows are stored: `session`, `memory://`, an SQLAlchemy or Redis URL, or an object of
    the app: an engine, a session, the object of Flask-SQLAlchemy(-Lite), a client of Redis."""
    store_timeout: float = field(default=5.0, metadata=_seconds(most=WEEK))
    """Seconds to wait for the store's server before the answer is 503."""
    flow_table: str = field(default="fsm_flow", metadata=TEXT)
    """The name of the table of flows in a database."""
    history_table: str = field(default="fsm_history", metadata=TEXT)
    """The name of the table of their history."""
    redis_prefix: str = field(default="fsm", metadata=TEXT)
    """The prefix of all keys in Redis."""
    flows_per_subject: int = field(default=20, metadata=_count())
    """Number of flows of a machine with `many` per subject; beyond it the oldest are dropped."""
    once_lease: float = field(default=60.0, metadata=_seconds())
    """Seconds after which the lease of `once=True` ends if the process that holds it dies."""
    url_prefix: str = field(default="/fsm", metadata=PATH)
    """The path under which the extension's own files and addresses are served."""
    cache_size: int = field(default=10_000, metadata=_count())
    """Number of flows whose newest snapshots this process caches; with `memory://`, of flows."""
    flow_lifetime: float | None = field(default=7 * 24 * 3600.0, metadata=_seconds(optional=True))
    """Seconds after its last commit at which a flow expires; None: never."""
    history_limit: int | None = field(default=1_000, metadata=_count(optional=True))
    """Number of history entries that a flow keeps; None: all."""
    max_snapshot_size: int = field(default=65_536, metadata=_bytes(most=MAX_TEXT))
    """Bytes that a stored flow may take, where its store has no limit of its own."""
    require_token: bool = field(default=False, metadata=FLAG)
    """Whether a POST without a token is refused on the current page, too."""
    token_field: str = field(default="fsm_token", metadata=TEXT)
    """The name of the hidden field of the token. The header is always X-FSM-Token."""
    to_field: str = field(default="to", metadata=TEXT)
    """The name of the field or query argument that chooses among the outgoing edges."""
    redact_fields: tuple[str, ...] = field(default=(), metadata=TEXTS)
    """Names of fields (shell patterns, case ignored) that a conflict page never shows, besides
    those of passwords, secrets, tokens and payment cards."""
    lock_timeout: float = field(default=10.0, metadata=_seconds(most=TIMEOUT_MAX))
    """Seconds that a POST waits for the lock of its flow before the answer is 409."""
    flash: bool = field(default=True, metadata=FLAG)
    """Whether visitors who are redirected are told why by `flash(text, "fsm")`."""

    live: bool | tuple[str, ...] = field(default=True, metadata=FLAG_OR_TEXTS)
    """Whether flows are also served to websockets, event streams and programs; or the names of the
    machines whose flows are."""
    live_engine: str = field(default="auto", metadata=TEXT)
    """What serves websockets and event streams: `loop` (one event loop), `threads` (a thread each,
    or with gevent a greenlet), or `auto`: the loop wherever the server hands over its socket."""
    live_workers: int = field(default=8, metadata=_count(least=2))  # one of them leads the loop
    """Number of threads of the event loop; all but one run event handlers."""
    max_connections: int = field(default=10_000, metadata=_count())
    """Number of websockets and streams that a process serves by its loop; 503 beyond."""
    max_threads: int = field(default=64, metadata=_count())
    """Number of websockets and streams that a process serves by threads; 503 beyond."""
    max_connections_per_flow: int = field(default=32, metadata=_count())
    """Number of websockets and streams of one flow in a process; 429 beyond."""
    max_connections_per_address: int | None = field(default=None, metadata=_count(optional=True))
    """Number of websockets and streams of one IP address in a process; 429 beyond. None: any."""
    bus_url: Any = field(default="memory://", metadata=SERVER)
    """What carries messages between processes: `memory://` (one process), a Redis URL, or a client
    of Redis that the app has."""
    allowed_origins: tuple[str, ...] = field(default=(), metadata=TEXTS)
    """Other sites whose pages may open websockets and send events: `https://app.example`."""
    require_origin: bool = field(default=False, metadata=FLAG)
    """Whether clients that send no Origin, which are programs, are refused."""
    max_message_size: int = field(default=65_536, metadata=_bytes())
    """Bytes that a client may send as one message."""
    message_rate: float = field(default=500.0, metadata=RATE)
    """Messages per second that are read from a websocket on average; more have to wait. Each frame
    of a fragmented message, each ping and each pong counts, too."""
    queue_size: int = field(default=1_000, metadata=_count())
    """Number of messages that wait for a slow client before it is cut."""
    queue_bytes: int = field(default=4_194_304, metadata=_bytes())
    """Bytes that wait for a slow client before it is cut."""
    send_timeout: float = field(default=10.0, metadata=_seconds(most=WEEK))
    """Seconds without progress after which a slow client is cut."""
    heartbeat: float = field(default=15.0, metadata=_seconds(least=0.001, most=WEEK))
    """Seconds between two pings of a websocket, or two comments of an event stream."""
    sse_retry: int = field(default=3_000, metadata=_count())
    """Milliseconds after which a browser reopens a broken event stream."""
    replay_limit: int = field(default=1_000, metadata=_count())
    """Number of messages per channel that are kept for clients that reconnect."""
    replay_bytes: int = field(default=1_048_576, metadata=_bytes())
    """Bytes per channel that are kept for clients that reconnect."""
    replay_ttl: float = field(default=300.0, metadata=_seconds(most=2 * WEEK))
    """Seconds that they are kept after the last listener of the channel has left."""
    presence_ttl: float = field(default=60.0, metadata=_seconds(most=2 * WEEK))
    """Seconds after which a member of a group counts as gone, if its process dies."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """Read the FSM_* keys of an app's config; raises ConfigError, which names the key."""
        known = {PREFIX + each.name.upper(): each for each in fields(cls)}
        for key in config:
            if key.startswith(PREFIX) and key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise ConfigError(f"The config key {key} is unknown to flask_fsm.{hint}")
        values = {}
        for key, each in known.items():
            if key in config:
                try:
                    values[each.name] = each.metadata[CHECK](config[key])
                except ValueError as wanted:
                    raise ConfigError(
                        f"The config key {key} can't be {config[key]!r}: it must be {wanted}."
                    ) from None
        found = cls(**values)
        if found.live and found.presence_ttl < 2 * found.heartbeat:
            raise ConfigError(
                f"The config key FSM_PRESENCE_TTL can't be {found.presence_ttl:g}: it must be at "
                f"least twice FSM_HEARTBEAT, which is {found.heartbeat:g}, since members renew "
                f"their presence at each heartbeat."
            )
        return found
