"""Clients of redis-py and valkey-py, for the store and the bus; both have the same names.

Neither is imported before an app names a server.
"""

from __future__ import annotations

import re
from typing import Any, Final

from .errors import ConfigError

__all__ = ["SCHEMES", "is_client", "is_unreachable", "names_of", "open_client"]

SCHEMES: Final = ("redis", "rediss", "unix", "valkey", "valkeys")
# Names of the drivers' exceptions that mean that the server can't be reached.
UNREACHABLE: Final = frozenset(
    {
        "ConnectionError",
        "TimeoutError",
        "BusyLoadingError",
        "MaxConnectionsError",
        "ClusterDownError",
        "ReadOnlyError",
        "NoPermissionError",
        "TryAgainError",
        "OutOfMemoryError",
        "NoScriptError",
        "RedisClusterException",
        "ValkeyClusterException",
    }
)
# First words of the errors of a reachable server that can't serve the command now; the drivers
# remove "ERR". Before version 7, the words of an error within a script follow a dash.
REFUSALS: Final = re.compile(
    r"(?:(?:ERR )?Error running script .*?-)?"
    r"(?:NOREPLICAS|MISCONF|BUSY|OOM|CLUSTERDOWN|MASTERDOWN|UNKILLABLE|NOSCRIPT|LOADING|READONLY"
    r"|TRYAGAIN|NOPERM|NOAUTH|(?:ERR )?ACL failure in script)\b",
    re.DOTALL,
)


def is_client(source: Any) -> bool:
    """Return whether an object is a synchronous client of redis-py or valkey-py."""
    module = type(source).__module__
    of_driver = module.partition(".")[0] in ("redis", "valkey") and ".asyncio" not in module
    return of_driver and hasattr(source, "register_script")


def open_client(url: str, timeout: float, key: str) -> Any:
    """Return a client of the server at `url` that waits at most `timeout` seconds.

    Raises ConfigError naming the config `key` if the URL can't be parsed, and ImportError if the
    driver is missing.
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
            # A script whose answer was lost may have run: only the caller can repeat it.
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        scheme = url.partition(":")[0]  # what follows may hold a password
        raise ConfigError(
            f"{key} begins with {scheme}:// and can't be read: {error}. Write it like "
            f"redis://user:password@host:6379/0 or unix:///path/to/socket."
        ) from error


def names_of(error: BaseException) -> set[str]:
    """Return the names of those classes of an error that are a driver's."""
    return {
        kind.__name__
        for kind in type(error).__mro__
        if kind.__module__.partition(".")[0] in ("redis", "valkey")
    }


def is_unreachable(error: BaseException) -> bool:
    """Return whether an error means that the server can't be reached or can't serve now."""
    if isinstance(error, OSError):
        return True
    names = names_of(error)
    return bool(names) and (not names.isdisjoint(UNREACHABLE) or bool(REFUSALS.match(str(error))))
