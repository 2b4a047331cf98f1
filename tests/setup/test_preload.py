"""`gunicorn --preload`: the app is made, and its engine used, before the workers are forked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..app_servers import Gunicorn
from ..clients import Client
from ..race_app import RING, prepare

Fresh = Callable[[str], str]
APP = "tests.race_app:create_used_app()"
WORKER_CLASSES = ["gthread", "gevent"]
ROUNDS = 30


def preloaded(url: str, worker_class: str, workers: int, **env: str) -> Gunicorn:
    """Workers of an app that has handed its engine over and used it."""
    options = ["--preload", f"--worker-class={worker_class}"]
    return Gunicorn(APP, {"FSM_STORE_URL": prepare(url), **env}, workers=workers, options=options)


def walk(client: Client) -> Counter[int]:
    """Walk the ring of the race app; return the statuses."""
    statuses: Counter[int] = Counter()
    page = "a"
    for _ in range(ROUNDS):
        shown = client.get(f"/{page}")
        sent = client.post(f"/{page}", token=shown.json.get("token"))
        statuses.update((shown.status, sent.status))
        page = RING[page] if sent.status == 200 else page
    return statuses


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_each_worker_has_connections_of_its_own(
    fresh_store: Fresh, kind: str, worker_class: str
) -> None:
    """Of the app's own engine, too, whose pool had a connection when the workers were forked."""
    with preloaded(fresh_store(kind), worker_class, 3) as site, ThreadPoolExecutor(6) as pool:
        walks = [pool.submit(walk, site.client()) for _ in range(6)]
        statuses = sum((walk.result() for walk in walks), Counter[int]())
    assert statuses == {200: 6 * ROUNDS * 2}


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
def test_a_double_click_halts_no_worker(fresh_store: Fresh, worker_class: str) -> None:
    """The second form waits for the first, and others are served meanwhile."""
    with preloaded(fresh_store("sqlite"), worker_class, 2, VIEW_SECONDS="0.3") as site:
        while True:  # until both forms have met the same worker
            visitor = site.client()
            token = visitor.get("/a").json["token"]
            began = time.monotonic()
            with ThreadPoolExecutor(2) as pool:
                clicks = [Client(site.port, cookies=visitor.cookies) for _ in range(2)]
                sent = [pool.submit(click.post, "/a", token=token) for click in clicks]
                answers = [each.result() for each in sent]
            took = time.monotonic() - began
            for click in clicks:
                click.close()
            assert [answer.status for answer in answers] == [200, 200]
            assert took < 5, "the worker waited for a lock that stops all of it"
            if len({answer.worker for answer in answers}) == 1:
                return
