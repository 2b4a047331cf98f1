"""Carries messages between processes. `open_bus` turns the value of FSM_BUS_URL into a bus."""

from __future__ import annotations

from typing import Any, Final

from ..errors import ConfigError
from ..redis_client import SCHEMES, is_client
from .base import PIECE, Bus, Position, Receiver, Revision
from .memory import MemoryBus

__all__ = ["PIECE", "Bus", "MemoryBus", "Position", "Receiver", "Revision", "open_bus"]

REMEDY: Final = (
    "It must be 'memory://' (one process), or redis://, rediss://, unix:// or valkey:// (several)."
)


def open_bus(
    source: Any, *, prefix: str, replay_limit: int, replay_bytes: int, replay_time: float
) -> Bus:
    """Return the bus at a URL, or on a client of redis-py or valkey-py.

    Keys on a server begin with `prefix`. The last `replay_limit` messages of each channel are
    stored, as far as they take `replay_bytes`, until `replay_time` seconds after the last receiver
    has left. Raises ConfigError.
    """
    if source == "memory://":
        return MemoryBus(replay_limit, replay_time, replay_bytes)
    if isinstance(source, str):
        scheme, separator, _ = source.partition("://")
        if scheme not in SCHEMES or not separator:
            # What follows a colon may be a password.
            raise ConfigError(f"FSM_BUS_URL begins with {source.partition(':')[0]!r}. {REMEDY}")
    elif not is_client(source):
        raise ConfigError(
            f"FSM_BUS_URL can't be {source!r}. {REMEDY} A redis-py client is accepted, too."
        )
    try:
        from .redis.bus import RedisBus

        return RedisBus(source, prefix, replay_limit, replay_time, replay_bytes)
    except ImportError as error:
        kind = source.partition(":")[0] if isinstance(source, str) else type(source).__name__
        raise ConfigError(
            f"The bus {kind!r} of FSM_BUS_URL needs the extra 'redis': "
            f"pip install 'flask-fsm[redis]', or in a clone pip install '.[redis]' ({error})."
        ) from error
