"""What all tests share: Hypothesis profiles, the stores an app may use, and the shop."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from .apps import Shop, Visitor, config_for

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


@pytest.fixture(params=["session", "memory://", "flask-session"])
def store(request: pytest.FixtureRequest) -> str:
    """Where flows live: the cookie, this process, or the server side of Flask-Session."""
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
