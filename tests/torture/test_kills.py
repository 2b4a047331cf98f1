"""Workers and servers are killed with signal 9 under load; what was acknowledged is there."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from ..app_servers import Gunicorn
from ..clients import Answer, Client, persist, see
from ..processes import Server
from ..race_app import RING, TILL
from ..store_servers import Postgres, Valkey, unkillable
from .conftest import Serve
from .durations import dice, size
from .records import Token, assert_rows_agree, history_of, marks, open_page

WORKER_KILLS = size(6, 200)
SERVER_KILLS = size(3, 50)
ALONE = 4  # clients that have a flow of their own
RIVALS = 2  # clients of each shared flow
SHARED = 2  # flows
# How long a view takes, so that kills meet some at work.
VIEW = 0.003
# A lease of a process that was killed is given up after this time.
LEASE = 0.5


class Load:
    """Clients that send forms, and each form again until its fate is told."""

    def __init__(self, site: Gunicorn) -> None:
        self._site = site
        self._stop = threading.Event()
        self._checks: list[Callable[[], None]] = []
        self._faults: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self.lost: list[str] = []
        """How requests ended that were not answered."""
        self.acknowledged = 0
        self.worker = 0
        """Who served the last form."""
        for number in range(ALONE):
            machine = "till" if number % 2 else "ring"
            self._add_alone(machine)
        for _ in range(SHARED):
            self._add_rivals()

    def _add(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                while not self._stop.is_set() and not self._faults:
                    work()
            except BaseException as error:
                self._faults.append(error)

        self._threads.append(threading.Thread(target=run))

    def _send(self, client: Client, token: Token, to: str, mark: str) -> Answer:
        answer = persist(
            client, f"/{token.page}", {"mark": mark, "to": to}, token.text, lost=self.lost
        )
        assert answer.status in (200, 409), answer
        self.acknowledged += answer.status == 200
        self.worker = answer.worker
        return answer

    def _add_alone(self, machine: str) -> None:
        """A client with a flow of its own: each form must be taken, and exactly once."""
        client = self._site.client()
        ways = TILL if machine == "till" else RING
        at = [next(iter(ways))]
        done: list[str] = []

        def step() -> None:
            page = at[0]
            shown, token = open_page(client, page)
            assert shown.json["rev"] == len(done), (shown, done[-3:])
            answer = self._send(client, token, ways[page], f"{machine}-{id(client)}-{len(done)}")
            assert answer.status == 200, answer
            at[0] = ways[page]
            done.append(page)
            assert (answer.json["state"], answer.json["rev"]) == (at[0], len(done)), answer

        def check() -> None:
            told = history_of(client, machine)
            assert [source for source, *_ in told.entries] == done

        self._add(step)
        self._checks.append(check)

    def _add_rivals(self) -> None:
        """Clients of one flow: of all forms for one rev one is taken, and all are told."""
        first = self._site.client()
        open_page(first, "a")
        won: list[Token] = []

        def add(client: Client) -> None:
            def step() -> None:
                shown = see(client, "/history")
                page = shown.json["state"]
                opened = see(client, f"/{page}")
                if opened.status == 303:
                    return  # the rival was faster, and the page is off the path
                assert opened.status == 200, opened
                token = Token.read(opened.json["token"])
                if self._send(client, token, RING[page], "rival").status == 200:
                    won.append(token)

            self._add(step)

        for _ in range(RIVALS):
            add(self._site.client(cookies=first.cookies))

        def check() -> None:
            told = history_of(first)
            twice = [rev for rev, times in Counter(t.rev for t in won).items() if times > 1]
            assert not twice, f"These revs were won twice: {twice}"
            pages = {token.rev + 1: token.page for token in won}
            # Each form's fate was told, so that the history holds those that won, and no other.
            assert {rev: source for source, _, _, rev in told.entries} == pages

        self._checks.append(check)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        if kind is None:
            if self._faults:
                raise self._faults[0]
            assert not any(thread.is_alive() for thread in self._threads)
            for check in self._checks:
                check()

    def go_on(self, forms: int = 4) -> None:
        """Wait until some more forms were taken, so that the next kill meets a site at work."""
        goal, deadline = self.acknowledged + forms, time.monotonic() + 60
        while self.acknowledged < goal and not self._faults:
            assert time.monotonic() < deadline, "The site does not get up again."
            time.sleep(0.005)
        if self._faults:
            raise self._faults[0]


def test_killed_workers_lose_nothing(
    kind: str, serve: Serve, fresh_store: Callable[[str], str], effects: Path
) -> None:
    """A worker is killed again and again; every form is taken once, or known not to be."""
    site = serve(fresh_store(kind), VIEW_SECONDS=VIEW, FSM_ONCE_LEASE=LEASE, FSM_LOCK_TIMEOUT=2)
    throw = dice()
    with Load(site) as load:
        for _ in range(WORKER_KILLS):
            load.go_on()
            time.sleep(throw.uniform(0, 0.05))
            while not (workers := site.pids()):
                time.sleep(0.005)
            # One that is at work, if it is still there.
            site.kill_worker(load.worker if load.worker in workers else throw.choice(workers))
    assert load.lost, "No kill met a request."
    assert marks(effects, "open")
    assert_rows_agree(site.env["FSM_STORE_URL"])


@contextmanager
def own_server(kind: str) -> Iterator[Server]:
    """A server that may be killed, and that writes before it answers."""
    reason = unkillable(kind)
    if reason:
        pytest.skip(reason)
    with Postgres(durable=True) if kind == "postgres" else Valkey(durable=True) as server:
        yield server


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_killed_servers_lose_nothing(kind: str, serve: Serve) -> None:
    """The store's server is killed again and again, and started on the same data."""
    throw = dice()
    with own_server(kind) as server:
        url = server.url  # type: ignore[attr-defined]
        site = serve(url, FSM_ONCE_LEASE=LEASE, FSM_LOCK_TIMEOUT=2, FSM_STORE_TIMEOUT=2)
        with Load(site) as load:
            for _ in range(SERVER_KILLS):
                load.go_on()
                time.sleep(throw.uniform(0, 0.05))
                server.kill()
                time.sleep(throw.uniform(0, 0.1))
                server.start()
        assert load.lost, "No kill met a request."
        assert set(load.lost) <= {"503", "409"}, Counter(load.lost)
        assert_rows_agree(url)
