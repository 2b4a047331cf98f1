"""Random clients of shared flows, a log of all they did, and a checker that reads it."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..app_servers import Gunicorn
from ..clients import Client
from ..race_app import RING
from .durations import dice, size
from .records import Token, assert_rows_agree, history_of

FLOWS = size(2, 20)
CLIENTS = 8
ACTIONS = size(25, 150)


@dataclass
class Deed:
    """What one client did: when it began and ended, and what came of it."""

    kind: str
    page: str
    began: float
    ended: float
    status: int
    rev: int | None
    token: Token | None = None


@dataclass
class Log:
    """What the clients of one flow did, and the tokens that lie about in their tabs."""

    deeds: list[Deed] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    mutex: threading.Lock = field(default_factory=threading.Lock)


def click_about(client: Client, log: Log, throw: random.Random) -> None:
    """Do what visitors do: open pages, send new forms and old ones, twice, and without token."""
    for _ in range(ACTIONS):
        kind = throw.choices(["open", "send", "again", "bare"], [4, 4, 1, 1])[0]
        page, token = throw.choice(list(RING)), None
        with log.mutex:
            if kind == "send" and log.tokens:
                token = throw.choice(log.tokens[-CLIENTS:])
            elif kind == "again" and log.tokens:
                token = throw.choice(log.tokens)
            elif kind != "bare":
                kind = "open"
        began = time.monotonic()
        if kind == "open":
            answer = client.get(f"/{page}")
        else:
            page = token.page if token else page
            # Mostly the same body for one token, but not always.
            mark = throw.choice(["same", "same", "same", "other"])
            fields = {"mark": mark, "to": RING[page]}
            answer = client.post(f"/{page}", fields, token.text if token else None)
        ended = time.monotonic()
        rev = answer.json.get("rev") if answer.json else None
        with log.mutex:
            log.deeds.append(Deed(kind, page, began, ended, answer.status, rev, token))
            if kind == "open" and answer.status == 200:
                log.tokens.append(Token.read(answer.json["token"]))


def check(log: Log, entries: list[list[object]], final: int) -> int:
    """Hold the log against the history, and return how many forms won."""
    assert {deed.status for deed in log.deeds} <= {200, 303, 409}
    winners: dict[str | int, Deed] = {}
    revs: dict[int, Deed] = {}
    for number, deed in enumerate(log.deeds):
        if deed.kind == "open" or deed.status != 200:
            continue
        # A form that comes again is told of the flow as it is then: its rev is in its token.
        name = deed.token.text if deed.token else number
        if name in winners:
            winners[name].ended = min(winners[name].ended, deed.ended)
            winners[name].began = min(winners[name].began, deed.began)
            continue
        assert deed.rev is not None
        rev = deed.token.rev + 1 if deed.token else deed.rev
        assert rev not in revs, f"Rev {rev} was won twice: {revs[rev]} and {deed}"
        winners[name] = revs[rev] = deed
    # All that was acknowledged is in the history, and nothing else is.
    assert sorted(revs) == list(range(1, final + 1))
    for source, target, _, rev in entries:
        assert isinstance(rev, int)
        assert (revs[rev].page, RING[revs[rev].page]) == (source, target)
    # Who was done before another one began has the lower rev; and who looks sees what is done.
    done = 0.0
    for rev in sorted(revs, reverse=True):
        later = revs.get(rev + 1)
        if later is not None:
            done = later.ended if not done else min(done, later.ended)
            assert revs[rev].began <= done, f"Rev {rev} was begun after a later one was done."
    for deed in log.deeds:
        if deed.kind == "open" and deed.status == 200:
            before = [rev for rev, winner in revs.items() if winner.ended < deed.began]
            assert deed.rev is not None
            assert max(before, default=0) <= deed.rev <= final, f"{deed} is stale: {max(before)}"
    return len(winners)


def test_a_log_of_random_clients_agrees_with_the_history(site: Gunicorn) -> None:
    """The final rev is the number of winners, no rev is won twice, and nothing told is lost."""
    throw = dice()
    won = 0
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in range(FLOWS):
            first = site.client()
            first.get("/a")
            log = Log()
            clients = [site.client(cookies=first.cookies) for _ in range(CLIENTS)]
            list(
                pool.map(
                    lambda client, seed, log=log: click_about(client, log, random.Random(seed)),
                    clients,
                    [throw.random() for _ in clients],
                )
            )
            told = history_of(first)
            winners = check(log, told.entries, told.rev)
            assert winners == told.rev
            won += winners
    assert won > FLOWS * CLIENTS, "Too few forms were taken for the log to say much."
    assert_rows_agree(site.env["FSM_STORE_URL"])
