"""What all tests share: Hypothesis profiles, the stores an app may use, the shop, and servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from .apps import FEW_STORES, Shop, Visitor, config_for
from .store_servers import (
    POSTGRES_VARIABLE,
    REDIS_VARIABLE,
    Given,
    Postgres,
    PostgresDatabases,
    RedisDatabases,
    Valkey,
    given_or,
)

# No deadline: the machines that run these tests are shared, so one slow example means nothing.
COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
# A developer's runs look at new examples each time. The CI looks at the same ones for the same
# code, so that a red run is the fault of the change it tests, and not of the dice.
settings.register_profile("local", **COMMON)
settings.register_profile("ci", derandomize=True, **COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local")
)


@pytest.fixture(params=FEW_STORES)
def store(request: pytest.FixtureRequest) -> str:
    """Where flows live: the cookie and this process, or each of STORES with `every_store`."""
    if request.param in ("sqlite", "redis"):
        url: str = request.getfixturevalue("fresh_store")(request.param)
        return url
    return str(request.param)


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Shop]:
    """A maker of shops whose Flask-Session files, if any, lie in a directory of their own."""

    def make(store: str = "session", **options: object) -> Shop:
        return Shop(config_for(store, tmp_path), **options)

    return make


@pytest.fixture
def stored(shop: Callable[..., Shop], store: str) -> Shop:
    """A shop on each of the stores."""
    return shop(store)


@pytest.fixture
def visitor(stored: Shop) -> Visitor:
    """A visitor of a shop on each of the stores."""
    return stored.visitor()


# -- real servers -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey | Given]:
    """A Valkey for all tests of this process, or the server of FSM_TEST_REDIS_URL."""
    yield from given_or(REDIS_VARIABLE, Valkey)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres | Given]:
    """A PostgreSQL for all tests of this process, or the server of FSM_TEST_POSTGRES_URL."""
    yield from given_or(POSTGRES_VARIABLE, Postgres)


@pytest.fixture(scope="session")
def redis_databases(valkey: Valkey | Given) -> RedisDatabases:
    """The databases of that Valkey."""
    return RedisDatabases(valkey.url)


@pytest.fixture
def fresh_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """A maker of empty stores of a kind (sqlite, postgres, redis), which returns the URL."""
    made: list[PostgresDatabases] = []

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('store') / 'fsm.db'}"
        if kind == "postgres":
            if not made:
                made.append(PostgresDatabases(request.getfixturevalue("postgres").url))
            return made[0].fresh()
        if kind == "redis":
            url: str = request.getfixturevalue("redis_databases").fresh()
            return url
        raise ValueError(f"{kind!r} is no kind of store.")

    try:
        yield make
    finally:
        for databases in made:
            databases.drop()
