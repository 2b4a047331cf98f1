"""The one road of every door: load a flow, commit a decided step, tell the observers."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf
from typing import Any, Final
from urllib.parse import quote
from weakref import ref

from flask import Flask, current_app, g, request, session
from flask.sessions import SessionMixin

from ..binding.bound_machine import FLOW_ARGUMENT, Bound
from ..core.event import SAME, EventStatus, Sent, check_status, dump_reply
from ..core.flow import Flow, Result, blank, successor
from ..core.path import nodes_back, root
from ..core.snapshot import Receipt, Snapshot
from ..errors import (
    ConfigError,
    FlowBusy,
    FSMError,
    MissingArguments,
    NotFound,
    SnapshotError,
    StaleFlow,
)
from ..security.tokens import Claim
from ..signals import emit, finished, reset, transitioned
from ..stores import (
    Asked,
    Committed,
    Kept,
    Loaded,
    Place,
    Seen,
    Turn,
    lineage,
)
from ..stores.records.store import digest, link_used
from .listeners import Observer, Sender
from .session_data import Carrier
from .state import AppState, behind
from .transaction import Transaction

__all__ = ["KeptFlow", "Run", "channel_key"]

log: Final = logging.getLogger("flask_fsm")
TRANSACTION: Final = "_fsm_transaction"
KEY: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
LONGEST_KEY: Final = 200
# Seconds between two looks at a flow that another process has claimed.
POLL: Final = 0.05


class KeptFlow(Flow):
    """The flow of a request: where it is moved, in a view or a hook, the move is committed."""

    __slots__ = ("_run",)

    def __init__(self, run: Run, snapshot: Snapshot) -> None:
        super().__init__(run.bound.machine, snapshot, clock=run.state.clock)
        self._run = ref(run)  # the run holds the flow

    def transition(
        self,
        to: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result:
        def decide(flow: Flow) -> list[Result]:
            result = flow.step(to, data, source=source)
            flow.apply(result)
            return [result]

        sent = self._sent
        # Outside of an event nobody has asked for what is kept.
        said = (data if sent is not None else None) if reply is SAME else reply
        check_status(status)
        if sent is None:
            return self._kept().commit(decide, said=(status, said))[0]
        dump_reply(said)  # before the commit, for after it nothing can be refused
        before = len(sent)
        result = self._kept().commit(decide, said=(status, said))[0]
        sent.insert(before, Sent(status, said, result))  # before what its hooks have said
        return result

    def transmit(self, data: Any = None, status: int = EventStatus.OK) -> None:
        dump_reply(data)  # while it can still be refused
        unsay = self.unsaying()
        super().transmit(data, status)
        self._kept().transmit(data, status, unsay)

    def unsaying(self) -> Callable[[], None]:
        """Return what takes back all that is said in this event from now on."""
        sent, before = self._sent, len(self._sent or ())

        def unsay() -> None:
            if sent is not None:
                del sent[before:]

        return unsay

    def resume(self) -> list[Result]:
        raise FSMError(
            "resume() belongs to the commit of the edit: call fsm.advance(..., resume=True).",
            flow=self.id,
            code="resume_too_late",
        )

    def reset(self) -> None:
        self._kept().reset()

    def _kept(self) -> Run:
        run = self._run()
        if run is None or run.flow is not self:
            raise FSMError(
                "This flow belongs to a request that is over, or was read before its turn came: "
                "take it from fsm.flow where it is needed.",
                flow=self.id,
                code="request_over",
            )
        return run


class Run:
    """The flow of one machine as one request sees it, and the only thing that commits one."""

    __slots__ = (
        "__weakref__",
        "_carried",
        "_seen",
        "_url_args",
        "app",
        "bound",
        "claimed",
        "flow",
        "gone",
        "keyless",
        "place",
        "sender",
        "session",
        "state",
        "stored",
    )

    def __init__(
        self,
        state: AppState,
        bound: Bound,
        url_args: Mapping[str, Any],
        sender: Sender | None = None,
    ) -> None:
        self.state = state
        self.bound = bound
        self.app: Flask = behind(current_app)
        self.session: SessionMixin = behind(session)
        self._url_args = url_args
        self.gone: FSMError | None = None
        """Why the flow that the session names is not there any more."""
        self.keyless = bound.machine.many is True and FLOW_ARGUMENT not in request.args
        """Whether the address lacks the key of a flow, so that it asks for a new one."""
        self.claimed = ""
        """The claim on the flow that this request holds."""
        self.sender = sender
        """The socket whose event this is, if it is one."""
        self.place: Place
        self.stored: Snapshot
        self.flow: KeptFlow
        self._seen: Seen | None = None
        self._carried: Carrier

    @classmethod
    def of_flow(
        cls, state: AppState, bound: Bound, id: str, subject: str | None, key: str
    ) -> Run | None:
        """Return the run of a flow that is known by its id, or None if there is none.

        `subject` and `key` say whose it is and which of several, as its id does not.
        """
        run = cls(state, bound, {})
        run.keyless = False
        run.place = Place(bound.machine, subject, None, key)
        carried = state.store.named(run.place, id)
        if carried is None:
            return None
        run._carried = Carrier({}, bound.name, bool(bound.machine.many) or bound.by_url)
        run._carried.keep(run._slot, carried)
        return run

    # -- which flow ---------------------------------------------------------------------

    def find(self) -> None:
        """Find out which flow is meant: whose, and under which key."""
        owner = self._owner()
        self.place = owner._replace(key=self._flow_key())

    def _owner(self) -> Place:
        """Find out whose flows are meant, those of the machine that have keys or the only one."""
        machine = self.bound.machine
        subject = self._subject()
        self._carried = self._carrier()
        secret = self._carried.secret if machine.many and subject is None else None
        owner = Place(machine, subject, secret)
        if subject is not None and machine.many and self._carried.has_secret:
            self._claim_all(owner)
        return owner

    def claim_at_login(self) -> None:
        """Let the flows of a session be those of the subject that it has got, if it has."""
        if self.bound.machine.many:
            self._owner()
        elif self._subject() is not None:
            self.load()

    def _subject(self) -> str | None:
        subject_of = self.bound.subject_of
        return None if subject_of is None else subject_of(self._url_args)

    def _carrier(self) -> Carrier:
        several = bool(self.bound.machine.many) or self.bound.by_url
        return Carrier(self.session, self.bound.name, several)

    @property
    def _slot(self) -> str:
        """What tells the flow apart from others of the same session."""
        place = self.place
        if self.bound.by_url and place.subject is not None:
            return f"{digest(place.subject)[:16]} {place.key}"
        return place.key

    def _flow_key(self) -> str:
        many = self.bound.machine.many
        if many is False:
            return ""
        if many is True:
            asked = request.args.get(FLOW_ARGUMENT)
            if asked is None:
                return secrets.token_urlsafe(9)
            if KEY.fullmatch(asked) is None:
                raise _no_such_flow()
            return asked
        if many not in self._url_args:
            raise NotFound(
                f"Machine {self.bound.name!r} has a flow for each {many!r}, and this address has "
                f"none: ask within a view that has this URL argument.",
                code="no_key",
            )
        key = quote(self.bound.text_of(many, self._url_args[many]), safe="")
        return key if len(key) <= LONGEST_KEY else digest(key)

    @property
    def loaded(self) -> bool:
        return hasattr(self, "flow")

    @property
    def held(self) -> bool:
        """Whether the session names a flow, or its owner has one."""
        return self._seen is not None or self._carried.text(self._slot) is not None

    def load(self) -> None:
        """Read the flow that is meant; a blank one, if there is none."""
        if not hasattr(self, "place"):
            self.find()
        machine, place = self.bound.machine, self.place
        self.gone = None
        carried = self._carried.text(self._slot)
        found = self.state.store.load(place, carried, self._oldest(), self.bound.choose)
        self._seen = found.seen
        self.gone = found.gone
        if isinstance(found.gone, SnapshotError):
            log.warning("%s", found.gone, exc_info=found.gone.__cause__)
        if found.was is not None:
            assert found.snapshot is not None
            self._carried.set_was(self._slot, f"{found.was} {lineage(found.snapshot.id)}")
            self._left(channel_key(found.was))
        if found.gone is None and found.carried != carried:
            self._carried.keep(self._slot, found.carried)
        snapshot = found.snapshot
        if snapshot is None:
            unknown = found.gone is None and found.seen is None
            if machine.many is True and not self.keyless and unknown:
                raise _no_such_flow()
            snapshot = self._blank(None)
        elif snapshot.rev == 0:
            # Nothing is decided yet, so the page decides with which URL arguments the run begins.
            snapshot = self._blank(snapshot.id, snapshot.started)
        self.stored = snapshot
        self.flow = KeptFlow(self, snapshot)

    def _claim_all(self, owner: Place) -> None:
        """Let all flows of a session that has got a subject be that subject's."""
        store = self.state.served(f"many={self.bound.machine.many!r}")
        theirs = owner._replace(subject=None, secret=self._carried.secret)
        begun = dict(store.listed(theirs, self._oldest()))
        together = [*begun.values(), *dict(store.listed(owner, self._oldest())).values()]
        times = sorted(found.snapshot.updated for found in together if found.snapshot)
        surplus = len(times) - self.state.config.flows_per_subject
        if surplus > 0:  # the oldest are left behind, whoever had them
            begun = {
                key: found
                for key, found in begun.items()
                if found.snapshot is not None and found.snapshot.updated >= times[surplus]
            }
        all_here = True
        for key in {**begun, **self._carried.texts}:
            mine = owner._replace(key=key)
            text = self._carried.text(key)
            moved: Loaded | None = None
            if key in begun:
                at = theirs._replace(key=key)
                try:
                    moved = store.settle(mine, at, begun[key], self.bound.choose)
                except StaleFlow:  # another request is at it: it comes along with the next one
                    all_here = False
            elif text is not None:
                moved = store.adopted(mine, text)
            if moved is not None:
                self._carried.keep(key, moved.carried)
                if moved.was is not None and moved.snapshot is not None:
                    self._carried.set_was(key, f"{moved.was} {lineage(moved.snapshot.id)}")
                    self._left(channel_key(moved.was))
        if all_here:
            self._carried.forget_secret()

    def _blank(self, id: str | None, started: int | None = None) -> Snapshot:
        machine = self.bound.machine
        now = int(self.state.clock()) if started is None else started
        page = self.bound.pages.get(machine.initial)
        args = None if page is None else page.args(self._url_args)
        new = blank(machine, now, id=id, subject=self.place.subject)
        return new.beginning_at(root(machine.initial, args))

    def turn(self) -> AbstractContextManager[None] | Turn:
        """Wait until no other request of this flow is served in this process."""
        if not hasattr(self, "place"):
            self.find()
        name = self.state.store.turn_of(self.place, self._carried.text(self._slot))
        return (
            nullcontext() if name is None else self.state.heads.turn(name, self.state.config.wait)
        )

    def forget(self) -> None:
        """Let the session name no flow."""
        self._carried.keep(self._slot, None)

    def hold(self) -> None:
        """Let the session name this flow, although nothing is committed yet."""
        if self._carried.text(self._slot) is None:
            text = self.state.store.carry(self.place, self.flow.snapshot)
            self._carried.keep(self._slot, text)

    def renew(self) -> None:
        """Let the session name this flow, or a new one in place of one that is gone."""
        if self.gone is not None:
            self.forget()
            self.load()
        self.hold()

    @property
    def was(self) -> str | None:
        """The id that the flow had before its session logged in, until the next commit."""
        was, _, id = (self._carried.was(self._slot) or "").partition(" ")
        return was if id == lineage(self.stored.id) else None

    def succeed(self) -> None:
        """Show the blank run that follows a finished one; its first commit replaces that."""
        self.flow.rewind(self._blank(successor(self.stored.id)))

    def listed(self) -> list[tuple[str, Snapshot]]:
        """Return the owner's flows of this machine by their keys, newest first."""
        store = self.state.served("fsm.flows()")
        owner = self._owner()
        if not self.bound.machine.many:
            if not self.loaded:
                self.load()
            return [("", self.stored)] if self.stored.rev else []
        return [
            (key, found.snapshot)
            for key, found in store.listed(owner, self._oldest())
            if found.snapshot is not None
        ]

    def _oldest(self) -> float:
        lifetime = self.state.config.lifetime
        return -inf if lifetime is None else self.state.clock() - lifetime

    # -- going on elsewhere -------------------------------------------------------------

    def pointer(self) -> tuple[str, str, str]:
        """Return what a link says to find this flow again; it opens nothing without a signature."""
        store = self.state.served("fsm.resume_link()")
        if not self.stored.rev:
            error = FSMError(
                "This flow has not begun, so there is nothing to continue elsewhere.",
                flow=self.flow.id,
                code="not_begun",
            )
            error.status = 409
            raise error
        return store.pointer(self.place, self.stored)

    def take(self, owner: str, key: str, mark: str, new_id: str, *, confirmed: bool) -> None:
        """Find the flow of a link; if that is `confirmed`, let it go on in this session.

        `new_id` is the same whenever this session uses the link, so that it finds the flow again if
        the answer was lost. Raises FlowGone if the link was used elsewhere, NotFound if the flow is
        somebody else's.
        """
        store = self.state.served("fsm.resume_link()")
        if confirmed and not self.bound.machine.many and self._took(new_id):
            return
        machine = self.bound.machine
        address, found = store.pointed(machine, owner, key, mark, self._oldest())
        old = found.snapshot
        assert old is not None
        self.keyless = False
        self._url_args = {}
        for node in nodes_back(old.tip):
            if node[1] in self.bound.pages:
                self._url_args |= self.bound.pages[node[1]].values(node[2])
        many = bool(machine.many)
        self._carried = self._carrier()
        subject = self._subject()
        if old.subject not in (None, subject):
            raise NotFound("There is no such page.", code="no_flow")
        secret = self._carried.secret if many and subject is None else None
        self.place = Place(machine, subject, secret, key)
        if not confirmed:
            return
        # Whoever confirms has said what is to go on here, whatever else there is.
        try:
            moved = store.taken(address, found, self.place, lambda old, own: old, id=new_id)
        except FlowBusy:
            raise
        except StaleFlow as error:
            raise link_used() from error
        self._carried.set_was(self._slot, None)
        self._carried.keep(self._slot, moved.carried)
        # Who has the flow of nobody is told by its id, so the owner is that of its channel too.
        self._left(owner)
        self.load()

    def _took(self, id: str) -> bool:
        """Tell whether this session has the flow of a link already; let it go on then."""
        store = self.state.served("fsm.resume_link()")
        self._carried = self._carrier()
        self.place = Place(self.bound.machine)
        snapshot = blank(self.bound.machine, 0, id=id)
        found = store.load(
            self.place, store.carry(self.place, snapshot), self._oldest(), self.bound.choose
        )
        if found.snapshot is None or not found.snapshot.rev:
            return False
        self._carried.keep(self._slot, found.carried)
        self.load()
        return True

    # -- claims -------------------------------------------------------------------------

    def claim(self) -> None:
        """Claim the flow for this request, before its view runs.

        While another request has it, wait up to FSM_WAIT; raises FlowBusy then, and StaleFlow if
        the flow has moved on meanwhile.
        """
        store = self.state.served("once=True")
        claim = secrets.token_urlsafe(12)
        end = time.monotonic() + self.state.config.wait
        while True:
            try:
                until = int(self.state.clock() + self.state.config.once_lease)
                self.hold()
                self.claimed = claim  # whether or not the answer arrives
                self._seen = store.claim(self.place, self._seen, self.flow.snapshot, claim, until)
                return
            except FlowBusy:
                self.claimed = ""
                if time.monotonic() + POLL > end:
                    raise
                time.sleep(POLL)

    def release(self) -> None:
        """Give up a claim that led to no commit."""
        if self.claimed and self._seen is not None:
            store = self.state.served("once=True")
            claim, self.claimed = self.claimed, ""
            store.release(self.place, self.flow.snapshot, self._seen, claim)

    # -- committing ---------------------------------------------------------------------

    def commit(
        self,
        decide: Callable[[Flow], Sequence[Result]],
        receipt: Receipt | None = None,
        location: Callable[[Flow], str | None] = lambda flow: None,
        said: tuple[int, Any] = (EventStatus.OK, None),
    ) -> Sequence[Result]:
        """Make the steps that `decide` makes on the flow, keep them, then run hooks and signals.

        `said` is the status and what else the clients of the flow are told.
        What raises before they are kept leaves the flow as it was; nothing after can undo them.
        """
        flow = self.flow
        before = flow.snapshot
        transaction = self._transaction()
        undo = None if transaction is None else self._undoing()
        try:
            results = decide(flow)
            after = flow.snapshot.with_receipt(receipt)
            within = None if transaction is None else transaction.connection
            committed = self.state.store.commit(
                self.place,
                self._seen,
                after,
                location(flow),
                claim=self.claimed,
                within=within,
            )
        except BaseException:
            flow.rewind(before)
            raise
        self._stand(committed)
        if transaction is None or undo is None:
            self._tell(results, said)
        else:
            transaction.join(lambda: self._tell(results, said), undo)
        return results

    def transmit(self, data: Any, status: int, unsay: Callable[[], None]) -> None:
        """Tell the clients of the flow something, without moving it; `unsay` takes it back."""

        def tell() -> None:
            self._observe(
                lambda observer: observer.transmitted(self.flow, data, status, self.sender)
            )

        transaction = self._transaction()
        if transaction is None:
            tell()
        else:
            transaction.join(tell, unsay, moves=False)

    def _left(self, key: str) -> None:
        self._observe(lambda observer: observer.left(key))

    def _observe(self, tell: Callable[[Observer], None]) -> None:
        """Tell the observers; what they raise can undo nothing."""
        for observer in self.state.observers:
            try:
                tell(observer)
            except Exception:
                log.exception("An observer of machine %r failed.", self.bound.name)

    def _transaction(self) -> Transaction | None:
        """The caller's transaction in which all commits of this request take part, if any."""
        found: Transaction | None = behind(g).get(TRANSACTION)
        return found

    def _undoing(self) -> Callable[[], None]:
        """Return what brings everything back to where it is now."""
        slot, seen, stored, claimed = self._slot, self._seen, self.stored, self.claimed
        carried, was, before = self._carried.text(slot), self._carried.was(slot), self.flow.snapshot
        unsay = self.flow.unsaying()

        def undo() -> None:
            unsay()
            self._carried.keep(slot, carried)
            self._carried.set_was(slot, was)
            self._seen, self.stored, self.claimed = seen, stored, claimed
            self.flow.rewind(before)

        return undo

    @contextmanager
    def joining(self, session: Any) -> Iterator[Any]:
        """Let the transitions of the block commit with `session`, a new one of the store's if None.

        The session is rolled back if the block raises, or makes no transition.
        """
        store, outer = self.state.served("fsm.transaction()"), self._transaction()
        if outer is not None:
            if session is not None and session is not outer.session:
                raise ConfigError(
                    "fsm.transaction() stands within another one, of another session: only one "
                    "can commit with the transitions of a request."
                )
            try:
                yield outer.session
            except BaseException:
                outer.failed = True  # whoever catches it must not commit half
                raise
            return
        with store.joining(session) as (joined, connect):
            transaction = Transaction(joined, connect)
            setattr(behind(g), TRANSACTION, transaction)
            try:
                yield joined
                if transaction.moved and not transaction.failed:
                    store.finish(joined)
                else:
                    joined.rollback()
                if transaction.failed:
                    transaction.rolled_back()
            except BaseException:
                joined.rollback()
                transaction.rolled_back()
                raise
            finally:
                behind(g).pop(TRANSACTION, None)
        if not transaction.failed:
            transaction.committed()

    def _stand(self, committed: Committed) -> None:
        """Go on from what was committed."""
        self._carried.keep(self._slot, committed.carried, first=self.place.owned)
        self._carried.set_was(self._slot, None)
        self._seen = committed.seen
        self.claimed = ""
        self.stored = committed.snapshot
        self.flow.rewind(committed.snapshot)

    def _tell(self, results: Sequence[Result], said: tuple[int, Any]) -> None:
        """Run the hooks of steps that were kept, send the signals, and tell the observers."""
        for result in results:
            self.flow.run_hooks(result)
            facts = {"machine": self.bound.name, "flow": self.flow, "result": result}
            emit(transitioned, self.app, **facts)
            if result.finished:
                emit(finished, self.app, **facts)
        if results and self.state.observers:
            status, reply = said
            self._observe(
                lambda observer: observer.moved(self.flow, results[-1], status, reply, self.sender)
            )

    def reset(self, receipt: Receipt | None = None, location: str | None = None) -> None:
        """Begin a new run; the one before can't come back.

        `receipt` is of the submission that asks for it, `location` where it leads if sent again.
        """
        previous = self.stored
        transaction, undo = self._transaction(), self._undoing()
        if self.held and self.gone is None:
            within = None if transaction is None else transaction.connection
            buried = self.state.store.bury(
                self.place,
                self._seen,
                previous,
                receipt,
                location,
                claim=self.claimed,
                within=within,
            )
            self._seen = buried if self.place.owned else None
            self.claimed = ""
        self._carried.keep(self._slot, None)
        fresh = self._blank(None)
        self.stored = fresh
        self.flow.rewind(fresh)
        self.hold()

        def tell() -> None:
            emit(reset, self.app, machine=self.bound.name, flow=self.flow, previous=previous)
            self._observe(lambda observer: observer.replaced(previous, self.flow))

        if transaction is None:
            tell()
        else:
            transaction.join(tell, undo)

    def kept(self, claim: Claim, receipt: Receipt) -> Kept | None:
        """Return what is kept of a submission with that token, if it has had its effect."""
        gone = self.gone
        id = (gone.flow if gone is not None else None) or self.stored.id
        ids = {lineage(id), lineage(self.was or id)}
        if lineage(claim.flow) not in ids:
            return None
        current = claim.flow in (id, self.was)
        rev = claim.rev
        if gone is not None and gone.code == "reset" and self._seen is not None:
            rev = max(rev, self._seen.rev - 1)  # of a run that was given up, only that counts
        asked = Asked(id, claim.flow, rev, receipt.nonce, self._seen, current)
        return self.state.store.receipt(self.place, asked)

    # -- addresses ----------------------------------------------------------------------

    def url(self, state: str, extra: Mapping[str, Any] | None = None) -> str:
        """Return the URL of the page `state` with the path's URL arguments, or the request's."""
        page = self.bound.pages[state]
        on_path = page.values(self.flow.args(state))
        values = {**page.take(on_path, self._url_args), **(extra or {})}
        return self.bound.url(page, values, self.place.key)

    def url_of(self, snapshot: Snapshot, key: str | None = None) -> str | None:
        """Return the URL of the page that a snapshot is at, or None if it is at none."""
        page = self.bound.pages.get(snapshot.state)
        if page is None:
            return None
        return self.bound.url(
            page, page.values(snapshot.tip[2]), self.place.key if key is None else key
        )

    def url_or_none(self, snapshot: Snapshot, key: str) -> str | None:
        """Return the URL of the page that a snapshot is at, or None if it can't be built now."""
        try:
            return self.url_of(snapshot, key)
        except (MissingArguments, NotFound):
            return None

    def current_page(self) -> str | None:
        """Return the furthest page that may be opened, or None if no state of the path is one."""
        if self.flow.current in self.bound.pages:
            return self.flow.current
        return next(
            (
                state
                for state in reversed(tuple(self.flow.path))
                if state in self.bound.pages and self.flow.is_open(state)
            ),
            None,
        )

    def current_url(self) -> str | None:
        """Return the URL of the furthest page that may be opened, or None if there is none."""
        if self.bound.machine.many is True and (
            self.keyless or (self.gone is not None and self._seen is None)
        ):
            return self.start_url()  # under this key there is nothing to go on with
        state = self.current_page()
        return None if state is None else self._url_or_none(state)

    def start_url(self) -> str | None:
        """Return the URL of the initial page, or None if it can't be built."""
        initial = self.bound.machine.initial
        page = self.bound.pages.get(initial)
        if page is None:
            return None
        if not self.loaded or self.bound.machine.many is True:
            try:
                return page.url(page.take(self._url_args))  # where a new flow gets its key
            except (MissingArguments, NotFound):
                return None
        return self._url_or_none(initial)

    def _url_or_none(self, state: str) -> str | None:
        try:
            return self.url(state)
        except (MissingArguments, NotFound):
            return None


def channel_key(id: str) -> str:
    """Return what names the channel of a flow and of the runs that follow it; it tells no id."""
    return digest(lineage(id))


def _no_such_flow() -> NotFound:
    """Return the one error of a flow that is not there and of one that is somebody else's."""
    return NotFound("There is no such page.", code="no_flow")
