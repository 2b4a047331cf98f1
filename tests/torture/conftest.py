"""What the torture shares: a site of several workers on each kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..app_servers import Gunicorn
from ..clients import Processes, Threads
from ..race_app import prepare
from ..store_servers import KINDS

Serve = Callable[..., Gunicorn]
Racers = Callable[[Gunicorn], Threads | Processes]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of server store."""
    return str(request.param)


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    """The file to which views append their effects."""
    return tmp_path / "effects"


@pytest.fixture
def serve(effects: Path) -> Iterator[Serve]:
    """A maker of sites: the race app under gunicorn, on the store of a URL."""
    with ExitStack() as stack:

        def start(url: str, *, workers: int = 4, threads: int = 8, **env: object) -> Gunicorn:
            settings = {name: str(value) for name, value in env.items()}
            settings |= {"FSM_STORE_URL": prepare(url), "EFFECTS": str(effects)}
            site = Gunicorn(env=settings, workers=workers, threads=threads)
            return stack.enter_context(site)

        yield start


@pytest.fixture
def site(kind: str, serve: Serve, fresh_store: Callable[[str], str]) -> Gunicorn:
    """A site of four workers on a fresh store."""
    return serve(fresh_store(kind))


@pytest.fixture(params=[Threads, Processes], ids=["threads", "processes"])
def racers(request: pytest.FixtureRequest) -> Iterator[Racers]:
    """A maker of 32 clients, in threads or in processes."""
    with ExitStack() as stack:
        yield lambda site: stack.enter_context(request.param(site.port))
