"""The FSM_* keys of an app's config, read once by `init_app` into one frozen object."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from threading import TIMEOUT_MAX
from typing import Any

from .core.snapshot import MAX_TEXT
from .errors import ConfigError

__all__ = ["Config"]

PREFIX = "FSM_"
# Seconds that every server, system call and timer can count; whoever wants never means this.
WEEK = 7 * 24 * 3600
CEILINGS = {
    "FSM_MAX_SNAPSHOT_SIZE": MAX_TEXT,
    "FSM_LOCK_TIMEOUT": TIMEOUT_MAX,
    **dict.fromkeys(("FSM_HEARTBEAT", "FSM_SEND_TIMEOUT", "FSM_STORE_TIMEOUT"), WEEK),
    **dict.fromkeys(("FSM_PRESENCE_TTL", "FSM_REPLAY_TTL"), 2 * WEEK),
}
# One of the threads leads the loop, so a handler needs another one.
FLOORS = {"FSM_LIVE_WORKERS": 2, "FSM_HEARTBEAT": 0.001}
# What the types of the fields are called in an error.
WORDS = {
    "Any": "a URL, or what the app has itself",
    "bool": "True or False",
    "str": "a text, and not an empty one",
    "int": "a whole number above 0",
    "int | None": "a whole number above 0, or None",
    "float": "a number above 0",
    "float | None": "a number above 0, or None",
    "tuple[str, ...]": "a list of texts",
}
A_PATH = "a path that begins with '/' and has no parameters"


@dataclass(frozen=True)
class Config:
    """Each field is the config key FSM_ and its name in capitals."""

    store_url: Any = "session"
    """Where flows live: `session`, `memory://`, an SQLAlchemy or Redis URL, or what an app has
    itself: an engine, a session or the object of Flask-SQLAlchemy(-Lite), a client of Redis."""
    store_timeout: float = 5.0
    """Seconds to wait for the server of a store, before the answer is 503."""
    flow_table: str = "fsm_flow"
    """The name of the table of flows in a database."""
    history_table: str = "fsm_history"
    """The name of the table of their history."""
    redis_prefix: str = "fsm"
    """What the keys in Redis begin with."""
    flows_per_subject: int = 20
    """How many flows of a machine with `many` a subject may have; the oldest go first."""
    once_lease: float = 60.0
    """Seconds for which a claim of `once=True` holds if the process that has it dies."""
    url_prefix: str = "/fsm"
    """Under which path the extension's own files are served."""
    cache_size: int = 10_000
    """How many flows' newest snapshots this process keeps; with `memory://`, how many flows."""
    flow_lifetime: float | None = 7 * 24 * 3600.0
    """Seconds (or a timedelta) after its last commit at which a flow expires; None: never."""
    history_limit: int | None = 1_000
    """How many entries of its history a flow keeps; None: all."""
    max_snapshot_size: int = 65_536
    """Bytes that a flow may take where its store sets no limit of its own."""
    require_token: bool = False
    """Whether a POST without token is refused on the current page too."""
    token_field: str = "fsm_token"  # noqa: S105
    """The name of the hidden field of the token. The header is always X-FSM-Token."""
    to_field: str = "to"
    """The name of the field or query argument that chooses among the ways on."""
    redact_fields: tuple[str, ...] = ()
    """Names of fields (shell patterns, case ignored) that a conflict page never shows, besides
    those of passwords, secrets, tokens and payment cards."""
    lock_timeout: float = 10.0
    """Seconds that a POST waits while another one of the same flow is served."""
    flash: bool = True
    """Whether a visitor who is sent to another page is told why by `flash(text, "fsm")`."""

    live: bool = True
    """Whether flows are also served to websockets, event streams and programs."""
    live_engine: str = "auto"
    """What serves sockets and streams: `loop` (one event loop), `threads` (a thread, or with gevent
    a greenlet, for each), or `auto`: the loop wherever a socket can be taken from the server."""
    live_workers: int = 8
    """How many threads of the loop run event handlers."""
    max_connections: int = 10_000
    """How many sockets and streams the loop of a process serves; 503 beyond."""
    max_threads: int = 64
    """How many sockets and streams are served by threads of their own; 503 beyond."""
    bus_url: Any = "memory://"
    """What carries messages between processes: `memory://` (one process), a Redis URL, or a client
    of Redis that the app has itself."""
    allowed_origins: tuple[str, ...] = ()
    """Other sites whose pages may open sockets and send events, such as `https://app.example`."""
    require_origin: bool = False
    """Whether programs, which send no Origin, are refused too."""
    max_message_size: int = 65_536
    """Bytes that a client may send as one message."""
    message_rate: float = 500.0
    """How many messages a second are read from a socket on average; more have to wait. Each part
    of a message, each ping and pong counts too."""
    queue_size: int = 1_000
    """How many messages wait for a slow client, before it is cut."""
    send_timeout: float = 10.0
    """Seconds without progress after which a slow client is cut."""
    heartbeat: float = 15.0
    """Seconds between two signs of life on a socket or stream."""
    sse_retry: int = 3_000
    """Milliseconds after which a browser opens a broken stream again."""
    replay_limit: int = 1_000
    """How many messages of each channel are kept for those who come back."""
    replay_ttl: float = 300.0
    """For how many seconds they are kept after the last of a channel's listeners has left."""
    presence_ttl: float = 60.0
    """Seconds after which a member of a group has left, if its process dies."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """Take the FSM_* keys out of an app's config, or raise ConfigError naming the key."""
        known = {PREFIX + field.name.upper(): field for field in fields(cls)}
        for key in config:
            if key.startswith(PREFIX) and key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise ConfigError(f"The config key {key} is unknown to flask_fsm.{hint}")
        values = {
            field.name: _checked(key, str(field.type), config[key])
            for key, field in known.items()
            if key in config
        }
        found = cls(**values)
        if found.live and found.presence_ttl < 2 * found.heartbeat:
            raise ConfigError(
                f"The config key FSM_PRESENCE_TTL can't be {found.presence_ttl:g} where "
                f"FSM_HEARTBEAT is {found.heartbeat:g}: a member says at each heartbeat that it is "
                f"there, so this is at least twice as long."
            )
        return found


def _checked(key: str, kind: str, value: Any) -> Any:
    given = value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if kind.startswith("tuple") and isinstance(value, (list, tuple, set, frozenset)):
        value = tuple(value)
        valid = all(isinstance(item, str) for item in value)
    elif value is None:
        valid = kind.endswith("None")
    elif kind == "bool":
        valid = isinstance(value, bool)
    elif kind == "Any":
        valid = value is not None and value != ""
        valid = valid and not isinstance(value, (bool, int, float))
    elif kind == "str":
        valid = isinstance(value, str) and bool(value)
        if key == "FSM_URL_PREFIX":
            valid = valid and value.startswith("/") and "<" not in value
    elif kind.startswith("int"):
        valid = isinstance(value, int) and not isinstance(value, bool) and value > 0
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        valid = kind.startswith("float") and number and value > 0
    ceiling = CEILINGS.get(key)
    if valid and ceiling is not None and value is not None and value > ceiling:
        raise ConfigError(f"The config key {key} can't be {value!r}: it is at most {ceiling:,}.")
    if not valid:
        what = A_PATH if key == "FSM_URL_PREFIX" else WORDS[kind]
        raise ConfigError(f"The config key {key} can't be {given!r}: it is {what}.")
    floor = FLOORS.get(key)
    if floor is not None and value < floor:
        raise ConfigError(f"The config key {key} can't be {value!r}: it is at least {floor:,}.")
    return value
