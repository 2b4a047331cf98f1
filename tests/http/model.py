"""A plain model of what visitors may see, written from the contract and not from the code.

It knows one browser, and a server with its processes. Everything is copied, nothing is shared, and
nothing is fast. `Model.get` and `Model.post` say what the answer must be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

Guard = Callable[[Mapping[str, Any]], bool]


@dataclass
class Edge:
    """One way on: where to, under which condition, and what becomes of the page behind."""

    source: str
    target: str
    guard: Guard | None = None
    validator: Guard | None = None
    back: str = "preserve"
    visit: bool = False


@dataclass
class Definition:
    """A machine as a list of edges; the first source is the initial page."""

    name: str
    edges: list[Edge]
    repeat: bool = True

    @property
    def initial(self) -> str:
        return self.edges[0].source

    @property
    def pages(self) -> list[str]:
        return list(
            dict.fromkeys(page for edge in self.edges for page in (edge.source, edge.target))
        )

    def ways(self, page: str) -> dict[str, Edge]:
        return {edge.target: edge for edge in self.edges if edge.source == page}


@dataclass
class Stop:
    """A page of the path."""

    page: str
    answers: dict[str, str] | None = None
    closed: bool = False


@dataclass
class Run:
    """One run: its lineage, the number of the run in it, and what has been done."""

    lineage: int
    number: int
    path: list[Stop]
    rev: int = 0
    drafts: dict[str, dict[str, str]] = field(default_factory=dict)
    taken: set[tuple[str, str]] = field(default_factory=set)
    finished: bool = False
    last: tuple[int, Any, str, int] | None = None
    """Nonce, body and place of the submission that made the last commit."""

    @property
    def current(self) -> str:
        return self.path[-1].page

    @property
    def age(self) -> tuple[int, int]:
        return self.number, self.rev

    def stop(self, page: str) -> Stop | None:
        return next((stop for stop in self.path if stop.page == page), None)

    def is_open(self, page: str) -> bool:
        stop = self.stop(page)
        if stop is None:
            return False
        return page == self.current or not (self.finished or stop.closed)

    def data(self) -> dict[str, Any]:
        return {stop.page: stop.answers for stop in self.path[:-1] if stop.answers is not None}

    def seen(self, page: str) -> dict[str, Any]:
        """What the page shows."""
        stop = self.stop(page)
        kept = None if stop is None else stop.answers
        return {
            "page": page,
            "rev": self.rev,
            "state": self.current,
            "path": [stop.page for stop in self.path],
            "data": self.data(),
            "drafts": self.drafts,
            "answers": self.drafts.get(page) if kept is None else kept,
            "finished": self.finished,
        }


@dataclass(frozen=True)
class Ticket:
    """What a token stands for."""

    nonce: int
    lineage: int
    number: int
    rev: int
    page: str


@dataclass
class Expected:
    """An answer: its status as HTML, where it leads, and the flow's state and rev then."""

    status: int
    location: str | None = None
    state: str | None = None
    rev: int | None = None
    seen: dict[str, Any] | None = None


class Refused(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class Model:
    """A browser and a server: the cookie of the one, the cache and receipts of the other."""

    def __init__(self, definition: Definition, *, in_memory: bool, lasting: bool = False) -> None:
        self.definition = definition
        self.in_memory = in_memory or lasting
        self.lasting = lasting
        self.cookie: Run | None = None
        self.evicted: int | None = None
        """The flow that the server had dropped when the session gave it up; until a commit."""
        self.cache: dict[int, Run] = {}
        self.receipts: dict[int, dict[int, tuple[Any, str, int]]] = {}
        self.given_up: set[int] = set()
        self.lineages = 0
        self.nonces = 0

    def restart(self) -> None:
        """Another process goes on: it has the browser's cookie, and a server's record if any."""
        if self.lasting:
            return
        self.cache = {}
        self.receipts = {}
        self.given_up = set()

    # -- loading and keeping ------------------------------------------------------------

    def blank(self, lineage: int | None = None, number: int = 0) -> Run:
        if lineage is None:
            self.lineages += 1
            lineage = self.lineages
        return Run(lineage, number, [Stop(self.definition.initial)])

    def load(self) -> tuple[Run, bool]:
        """The flow that the cookie names, and whether it is gone."""
        if self.cookie is None:
            return self.blank(), False
        if self.cookie.lineage in self.given_up:
            return self.blank(), True
        cached = self.cache.get(self.cookie.lineage)
        if self.in_memory:
            if cached is None:
                if self.cookie.age == (0, 0):
                    return deepcopy(self.cookie), False
                return self.blank(), True
        elif cached is None or cached.age < self.cookie.age:
            cached = self.cookie
            if cached.age != (0, 0) or cached.lineage in self.cache:
                self.cache[cached.lineage] = deepcopy(cached)
        self.cookie = deepcopy(cached)
        return deepcopy(cached), False

    def forget(self) -> None:
        """The session gives up a flow that is gone."""
        assert self.cookie is not None
        if self.cookie.lineage not in self.given_up:
            self.evicted = self.cookie.lineage
        self.cookie = None

    def now(self) -> Run:
        """The flow as the next request will find it; nothing is asked of the server."""
        return deepcopy(self).load()[0]

    def keep(self, run: Run) -> None:
        self.cache[run.lineage] = deepcopy(run)
        self.cookie = deepcopy(run)
        self.evicted = None
        if run.last is not None:
            nonce, body, place, rev = run.last
            self.receipts.setdefault(run.lineage, {})[nonce] = body, place, rev

    # -- moving -------------------------------------------------------------------------

    def judge(self, run: Run, source: str, target: str, data: dict[str, str] | None) -> Edge:
        """Find the edge, or raise Refused. Guards see the answers of the path before `source`."""
        edge = self.definition.ways(source).get(target)
        if edge is None:
            raise Refused(409)
        if not self.definition.repeat and (source, target) in self.taken_after_edit(run, source):
            raise Refused(409)
        place = [stop.page for stop in run.path].index(source)
        known = {stop.page: stop.answers for stop in run.path[:place] if stop.answers is not None}
        if data:
            known[source] = data
        elif place < len(run.path) - 1 and run.path[place].answers is not None:
            known[source] = run.path[place].answers
        if edge.guard is not None and not edge.guard(known):
            raise Refused(409)
        if edge.validator is not None and not edge.validator(data or {}):
            raise Refused(422)
        return edge

    def is_possible(self, run: Run, source: str, target: str, data: dict[str, str]) -> bool:
        try:
            self.judge(run, source, target, data)
        except Refused:
            return False
        return True

    def taken_after_edit(self, run: Run, source: str) -> set[tuple[str, str]]:
        """The edges taken in this run, but for those that an edit of `source` cuts."""
        pages = [stop.page for stop in run.path]
        place = pages.index(source)
        return run.taken - set(zip(pages[place:], pages[place + 1 :], strict=False))

    def move(self, run: Run, edge: Edge, data: dict[str, str] | None) -> None:
        """Take `edge` out of a page of the path."""
        run.taken = self.taken_after_edit(run, edge.source) | {(edge.source, edge.target)}
        place = [stop.page for stop in run.path].index(edge.source)
        cut = run.path[place + 1 :]
        run.path = run.path[: place + 1]
        left = run.path[-1]
        if data is not None:
            left.answers = data
            run.drafts.pop(left.page, None)
        left.closed = edge.back != "preserve"
        if edge.back == "invalidate":
            for stop in run.path:
                stop.closed = True
        again = run.stop(edge.target)
        if again is not None:
            place = run.path.index(again)
            cut = run.path[place:] + cut
            run.path = run.path[:place]
        for stop in cut:
            if stop.answers is not None:
                run.drafts[stop.page] = stop.answers
        run.path.append(Stop(edge.target))
        run.rev += 1
        ways = {(edge.target, target) for target in self.definition.ways(edge.target)}
        if not ways or (not self.definition.repeat and ways <= run.taken):
            run.finished = True
            run.drafts = {}

    # -- requests -----------------------------------------------------------------------

    def peek(self) -> dict[str, Any]:
        """What a view that is no page sees."""
        run, _ = self.load()
        return run.seen(run.current)

    def reset(self) -> None:
        run, gone = self.load()
        # A first run that never moved is as blank as a new one, and leaves no record.
        if self.cookie is not None and not gone and (run.number, run.rev) != (0, 0):
            self.given_up.add(run.lineage)
        self.cookie = self.blank()

    def shown(self, run: Run, page: str) -> tuple[Expected, Ticket]:
        """The page is shown, with a token; from then on the browser holds the flow."""
        if self.cookie is None:
            self.cookie = deepcopy(run)
        self.nonces += 1
        ticket = Ticket(self.nonces, run.lineage, run.number, run.rev, page)
        return Expected(200, seen=run.seen(page)), ticket

    def get(self, page: str) -> tuple[Expected, Ticket | None]:
        run, gone = self.load()
        if gone:
            self.forget()
        if run.finished and page == self.definition.initial:
            return self.shown(self.blank(run.lineage, run.number + 1), page)
        if not run.is_open(page):
            for stop in reversed(run.path):
                edge = self.definition.ways(stop.page).get(page)
                if edge and edge.visit and not run.finished and run.is_open(stop.page) and not gone:
                    try:
                        self.judge(run, stop.page, page, None)
                    except Refused:
                        break
                    self.move(run, edge, None)
                    run.last = None
                    self.keep(run)
                    return self.shown(run, page)
        if not run.is_open(page):
            return Expected(303, run.current), None
        return self.shown(run, page)

    def post(
        self,
        page: str,
        ticket: Ticket | None,
        to: str | None,
        data: dict[str, str],
        *,
        readable: bool,
        asking: str,
    ) -> Expected:
        run, gone = self.load()
        if not readable:
            return Expected(400)
        held = self.cookie is not None
        stored = run
        if run.finished and page == self.definition.initial:
            run = self.blank(run.lineage, run.number + 1)
        body = (page, to, data)
        if ticket is not None and held and not gone:
            known = self.receipts.get(stored.lineage, {}).get(ticket.nonce)
            if known is None and stored.last is not None and stored.last[0] == ticket.nonce:
                known = stored.last[1:]
            if known is not None and known[0] == body:
                return Expected(303, known[1], known[1], known[2])
        if gone:
            self.forget()
        if gone or (ticket is not None and not held):
            if page == self.definition.initial and asking != "json":
                self.cookie = self.blank()  # which the form to send again names
            return Expected(410)
        if run.finished:
            return Expected(410)
        if ticket is None:
            if page != run.current:
                return Expected(409, state=run.current, rev=run.rev)
        elif (ticket.lineage, ticket.number) != (run.lineage, run.number):
            if (ticket.lineage, ticket.number) == (stored.lineage, stored.number):
                return Expected(410)
            return Expected(410 if ticket.lineage == self.evicted else 409)
        elif ticket.rev != run.rev or ticket.page != page or not run.is_open(page):
            return Expected(409, state=run.current, rev=run.rev)
        if to is not None and to not in self.definition.pages:
            return Expected(400)
        try:
            target = to or self.only_way(run, page, data)
            edge = self.judge(run, page, target, data)
        except Refused as refused:
            return Expected(refused.status, state=run.current, rev=run.rev)
        self.move(run, edge, data)
        run.last = None if ticket is None else (ticket.nonce, body, run.current, run.rev)
        self.keep(run)
        return Expected(303, run.current, run.current, run.rev)

    def only_way(self, run: Run, page: str, data: dict[str, str]) -> str:
        """The only way on, as far as edges taken and guards tell."""
        ways = []
        for target in self.definition.ways(page):
            try:
                self.judge(run, page, target, data)
            except Refused as refused:
                if refused.status != 422:
                    continue
            ways.append(target)
        if len(ways) != 1:
            raise Refused(409)
        return ways[0]
