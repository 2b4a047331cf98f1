"""Buses: of each kind, several that carry the same messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis
import valkey as valkey_py

from flask_fsm.bus import Bus, MemoryBus
from flask_fsm.bus.redis.bus import RedisBus

Make = Callable[..., Any]


@pytest.fixture
def redis_url(fresh_store: Callable[[str], str]) -> str:
    return fresh_store("redis")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is closed after the test, the last first."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def client(redis_url: str, stack: ExitStack) -> redis.Redis:
    """A client of the test's own."""
    return stack.enter_context(closing(redis.Redis.from_url(redis_url, decode_responses=True)))


@pytest.fixture
def redis_bus(redis_url: str, stack: ExitStack) -> Callable[..., RedisBus]:
    """A maker of buses on one database of Valkey, or on what it is given."""

    def make(source: Any = redis_url, **options: Any) -> RedisBus:
        return stack.enter_context(closing(RedisBus(source, **options)))

    return make


@pytest.fixture(params=["memory", "redis-py", "valkey-py"])
def bus_of(request: pytest.FixtureRequest, stack: ExitStack) -> Callable[..., Bus]:
    """A maker of buses that carry the same messages: the same one again if it is in memory."""
    made: list[MemoryBus] = []

    def make(**options: Any) -> Bus:
        if request.param == "memory":
            if not made:
                made.append(MemoryBus(**options))
            return made[0]
        url = request.getfixturevalue("redis_url")
        driver: Any = redis.Redis if request.param == "redis-py" else valkey_py.Valkey
        handed_over = stack.enter_context(closing(driver.from_url(url)))
        bus: RedisBus = request.getfixturevalue("redis_bus")(handed_over, **options)
        return bus

    return make
