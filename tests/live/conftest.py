"""What the live tests share: sites that real servers serve, one for all tests that ask alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .serving import ENGINES, Site, Sites


@pytest.fixture(scope="session")
def sites() -> Iterator[Sites]:
    """The sites of this run of the tests."""
    made = Sites()
    yield made
    made.stop()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """What serves sockets: loop, threads, gevent, or the development server."""
    return str(request.param)


@pytest.fixture
def site(sites: Sites, engine: str) -> Site:
    """The app of apps.py on each engine."""
    return sites.get(engine)
