"""Many clients send forms of one flow at the same moment, to four workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ..app_servers import Gunicorn
from ..clients import Answer, Client, Processes, Shot, Threads
from ..race_app import RING
from .conftest import Racers, Serve
from .durations import dice, size
from .records import assert_rows_agree, history_of, marks, open_page

RACES = size(12, 1_000)
# A flow is raced for from its very first form on, and then for some rounds of the ring.
RACES_OF_A_FLOW = size(6, 25)
MOST = 32


def shots_at(client: Client, page: str, tokens: list[str], mark: str = "") -> list[Shot]:
    """Return one form for each token, with a mark of its own unless one is given."""
    to = RING.get(page)
    fields = {"to": to} if to else {}
    return [
        Shot(f"/{page}", {**fields, "mark": mark or str(number)}, token, client.cookies)
        for number, token in enumerate(tokens)
    ]


def rounds(site: Gunicorn) -> Iterator[tuple[int, int, Client, str, int]]:
    """Yield the races: number, racers, client, page, rev; after each flow, check its history."""
    throw = dice()
    for start in range(0, RACES, RACES_OF_A_FLOW):
        page, rev = "a", 0
        client = site.client()
        for number in range(start, min(start + RACES_OF_A_FLOW, RACES)):
            yield number, throw.randint(2, MOST), client, page, rev
            page, rev = RING[page], rev + 1
        told = history_of(client)
        assert (told.state, told.rev) == (page, rev)
        assert [(s, t) for s, t, *_ in told.entries] == list(RING.items()) * (rev // 3) + list(
            RING.items()
        )[: rev % 3]


def decided(answers: list[Answer]) -> list[Answer]:
    """Leave out those that were told to come back, since too many others were waiting already.

    How many these are depends on the machine.
    """
    busy = [answer for answer in answers if answer.status == 503]
    for answer in busy:
        assert (answer.json["reason"], answer.retry_after) == ("busy", "1")
    return [answer for answer in answers if answer.status != 503]


def assert_one_won(answers: list[Answer], state: str, rev: int) -> None:
    """One moved the flow to `state` at `rev`, and all others were told that it is there."""
    answers = decided(answers)
    statuses = Counter(answer.status for answer in answers)
    assert statuses == Counter({200: 1, 409: len(answers) - 1}), [a.text for a in answers]
    for answer in answers:
        assert (answer.json["state"], answer.json["rev"]) == (state, rev), answer
        assert answer.status == 200 or answer.json["status"] == 409


def test_of_forms_with_tokens_of_their_own_exactly_one_wins(site: Gunicorn, racers: Racers) -> None:
    """All others conflict and see the current state, and the history has neither gap nor twin."""
    field = racers(site)
    workers: set[int] = set()
    for _, number, client, page, rev in rounds(site):
        tokens = [open_page(client, page)[1].text for _ in range(number)]
        answers = field.fire(shots_at(client, page, tokens))
        assert_one_won(answers, RING[page], rev + 1)
        workers.update(answer.worker for answer in answers)
    assert len(workers) > 1, "The races were all run in one process."
    assert_rows_agree(site.env["FSM_STORE_URL"])


def test_of_forms_without_a_token_exactly_one_wins(site: Gunicorn, racers: Racers) -> None:
    """A POST without a token counts on the current page only, so one of them comes in time."""
    field = racers(site)
    for _, number, client, page, rev in rounds(site):
        open_page(client, page)
        shots = [shot._replace(token=None) for shot in shots_at(client, page, [""] * number)]
        answers = field.fire(shots)
        assert_one_won(answers, RING[page], rev + 1)


def test_one_form_sent_many_times_is_taken_once_and_told_to_all(
    site: Gunicorn, racers: Racers
) -> None:
    """An impatient hand: one commit, and the same answer for every click."""
    field = racers(site)
    for _, number, client, page, rev in rounds(site):
        token = open_page(client, page)[1].text
        answers = field.fire(shots_at(client, page, [token] * number, mark="same"))
        answers = decided(answers)
        assert {(a.status, a.text) for a in answers} == {(200, answers[0].text)}
        target = RING[page]
        assert answers[0].json == {"state": target, "rev": rev + 1, "location": f"/{target}"}


def test_one_token_with_many_bodies_is_taken_once(site: Gunicorn, racers: Racers) -> None:
    """The same token with another body is a conflict."""
    field = racers(site)
    for _, number, client, page, rev in rounds(site):
        token = open_page(client, page)[1].text
        answers = field.fire(shots_at(client, page, [token] * number))
        assert_one_won(answers, RING[page], rev + 1)


def once(
    serve: Serve,
    url: str,
    racers: Racers,
    effects: Path,
    shots: Callable[[Client, int, str], list[Shot]],
    check: Callable[[list[Answer], int], None],
) -> None:
    """Race for the edge with once=True, which leads out of a slow view with an effect."""
    site = serve(url, VIEW_SECONDS=0.01)
    field: Threads | Processes = racers(site)
    throw = dice()
    client = site.client()
    for race in range(RACES):
        answers = field.fire(shots(client, throw.randint(2, MOST), f"race-{race}"))
        check(answers, 2 * race + 1)
        _, token = open_page(client, "paid")
        assert client.post("/paid", {}, token.text).json["state"] == "open"
    assert Counter(marks(effects, "open")) == {f"race-{race}": 1 for race in range(RACES)}
    assert history_of(client, "till").rev == 2 * RACES


def test_what_happens_once_happens_once_in_a_race(
    kind: str,
    serve: Serve,
    fresh_store: Callable[[str], str],
    racers: Racers,
    effects: Path,
) -> None:
    """The edge is leased before its view runs: of all racers one view runs."""

    def shots(client: Client, number: int, mark: str) -> list[Shot]:
        tokens = [open_page(client, "open")[1].text for _ in range(number)]
        return shots_at(client, "open", tokens, mark)

    def check(answers: list[Answer], rev: int) -> None:
        assert_one_won(answers, "paid", rev)

    once(serve, fresh_store(kind), racers, effects, shots, check)


def test_what_happens_once_happens_once_for_one_form(
    kind: str,
    serve: Serve,
    fresh_store: Callable[[str], str],
    racers: Racers,
    effects: Path,
) -> None:
    """One form sent many times: one view runs, and all are told where it led."""

    def shots(client: Client, number: int, mark: str) -> list[Shot]:
        return shots_at(client, "open", [open_page(client, "open")[1].text] * number, mark)

    def check(answers: list[Answer], rev: int) -> None:
        told = {"state": "paid", "rev": rev, "location": "/paid"}
        answers = decided(answers)
        assert [(a.status, a.json) for a in answers] == [(200, told)] * len(answers)
        assert answers

    once(serve, fresh_store(kind), racers, effects, shots, check)
