"""Driver: what the store and the bus know of redis-py and valkey-py, which have the same names.

Neither is imported before an app names a server.
"""

from __future__ import annotations

from typing import Any, Final

from .errors import ConfigError

__all__ = ["SCHEMES", "is_client", "is_unreachable", "names_of", "open_client"]

SCHEMES: Final = ("redis", "rediss", "unix", "valkey", "valkeys")
# What the drivers raise when the server is not there, by the names of their classes.
UNREACHABLE: Final = frozenset(
    {
        "ConnectionError",
        "TimeoutError",
        "BusyLoadingError",
        "MaxConnectionsError",
        "ClusterDownError",
        "ReadOnlyError",
        "TryAgainError",
        "OutOfMemoryError",
        "NoScriptError",
        "RedisClusterException",
        "ValkeyClusterException",
    }
)
# What a server says that is there and can't do it now, by the first word.
REFUSALS: Final = (
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "OOM",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "UNKILLABLE",
    "NOSCRIPT",
    "LOADING",
)


def is_client(source: Any) -> bool:
    """Tell whether an object is a client of one of them that does not need an event loop."""
    module = type(source).__module__
    of_driver = module.partition(".")[0] in ("redis", "valkey") and ".asyncio" not in module
    return of_driver and hasattr(source, "register_script")


def open_client(url: str, timeout: float, key: str) -> Any:
    """Return a client of the server at `url`, which waits `timeout` seconds at most.

    Raises ConfigError naming the config `key` where the URL can't be read, and ImportError.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    address = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
    try:
        return Redis.from_url(
            address,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # A script whose answer was lost may have run: whoever asked has to look.
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        scheme = url.partition(":")[0]  # what follows may hold a password
        raise ConfigError(
            f"{key} begins with {scheme}:// and can't be read: {error}. Write it like "
            f"redis://user:password@host:6379/0 or unix:///path/to/socket."
        ) from error


def names_of(error: BaseException) -> set[str]:
    """Return the names of those of an error's classes that are a driver's."""
    return {
        kind.__name__
        for kind in type(error).__mro__
        if kind.__module__.partition(".")[0] in ("redis", "valkey")
    }


def is_unreachable(error: BaseException) -> bool:
    """Tell whether an error says that the server is away, or can't do it now."""
    if isinstance(error, OSError):
        return True
    names = names_of(error)
    return bool(names) and (not names.isdisjoint(UNREACHABLE) or str(error).startswith(REFUSALS))
