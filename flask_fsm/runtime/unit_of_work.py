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
from ..core.event import SAME, EventStatus, check_status
from ..core.flow import Flow, blank, successor
from ..core.path import root
from ..core.reply import dump_reply
from ..core.result import Result, Sent
from ..core.snapshot import Receipt, Snapshot
from ..errors import (
    Code,
    ConfigError,
    FlowBusy,
    FSMError,
    NotFound,
    SnapshotError,
    StaleFlow,
)
from ..signals import emit, finished, reset, transitioned
from ..stores import (
    CommitResult,
    FlowLocator,
    FlowLock,
    LoadResult,
    Version,
    root_id,
)
from ..stores.records.store import digest
from .listeners import CommitListener, Sender
from .session_data import SessionData
from .state import AppState, unwrap
from .transaction import Transaction

__all__ = ["StoredFlow", "UnitOfWork", "channel_key"]

log: Final = logging.getLogger("flask_fsm")
TRANSACTION: Final = "_fsm_transaction"
KEY: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
LONGEST_KEY: Final = 200
# Seconds between two looks at a flow that another process has claimed.
POLL: Final = 0.05


class StoredFlow(Flow):
    """The flow of a request: where it is moved, in a view or a hook, the move is committed."""

    __slots__ = ("_run",)

    def __init__(self, run: UnitOfWork, snapshot: Snapshot) -> None:
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
            return self._unit_of_work().commit(decide, said=(status, said))[0]
        dump_reply(said)  # before the commit, for after it nothing can be refused
        before = len(sent)
        result = self._unit_of_work().commit(decide, said=(status, said))[0]
        sent.insert(before, Sent(status, said, result))  # before what its hooks have said
        return result

    def transmit(self, data: Any = None, status: int = EventStatus.OK) -> None:
        dump_reply(data)  # while it can still be refused
        unsay = self.unsaying()
        super().transmit(data, status)
        self._unit_of_work().transmit(data, status, unsay)

    def unsaying(self) -> Callable[[], None]:
        """Return what takes back all that is said in this event from now on."""
        sent, before = self._sent, len(self._sent or ())

        def unsay() -> None:
            if sent is not None:
                del sent[before:]

        return unsay

    def fast_forward(self) -> list[Result]:
        raise FSMError(
            "fast_forward() belongs to the commit of the edit: call "
            "fsm.advance(..., fast_forward=True).",
            flow=self.id,
            code=Code.RESUME_TOO_LATE,
        )

    def reset(self) -> None:
        self._unit_of_work().reset()

    def _unit_of_work(self) -> UnitOfWork:
        run = self._run()
        if run is None or run.flow is not self:
            raise FSMError(
                "This flow belongs to a request that is over, or was read before its turn came: "
                "take it from fsm.flow where it is needed.",
                flow=self.id,
                code=Code.REQUEST_OVER,
            )
        return run


class UnitOfWork:
    """The flow of one machine as one request sees it, and the only thing that commits one."""

    __slots__ = (
        "__weakref__",
        "app",
        "bound",
        "flow",
        "lease",
        "locator",
        "missing_reason",
        "needs_key",
        "persisted",
        "sender",
        "session",
        "session_data",
        "state",
        "url_args",
        "version",
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
        self.app: Flask = unwrap(current_app)
        self.session: SessionMixin = unwrap(session)
        self.url_args = url_args
        self.missing_reason: FSMError | None = None
        """Why the flow that the session names is not there any more."""
        self.needs_key = bound.machine.many is True and FLOW_ARGUMENT not in request.args
        """Whether the address lacks the key of a flow, so that it asks for a new one."""
        self.lease = ""
        """The claim on the flow that this request holds."""
        self.sender = sender
        """The socket whose event this is, if it is one."""
        self.locator: FlowLocator
        self.persisted: Snapshot
        self.flow: StoredFlow
        self.version: Version | None = None
        self.session_data: SessionData

    @classmethod
    def of_flow(
        cls, state: AppState, bound: Bound, id: str, subject: str | None, key: str
    ) -> UnitOfWork | None:
        """Return the run of a flow that is known by its id, or None if there is none.

        `subject` and `key` say whose it is and which of several, as its id does not.
        """
        run = cls(state, bound, {})
        run.needs_key = False
        run.locator = FlowLocator(bound.machine, subject, None, key)
        session_value = state.store.session_value_of(run.locator, id)
        if session_value is None:
            return None
        run.session_data = SessionData({}, bound.name, bool(bound.machine.many) or bound.by_url)
        run.session_data.set_text(run.slot, session_value)
        return run

    # -- which flow ---------------------------------------------------------------------

    def find(self) -> None:
        """Find out which flow is meant: whose, and under which key."""
        owner = self._owner()
        self.locator = owner._replace(key=self._flow_key())

    def _owner(self) -> FlowLocator:
        """Find out whose flows are meant, those of the machine that have keys or the only one."""
        machine = self.bound.machine
        subject = self.subject()
        self.session_data = self.read_session()
        secret = self.session_data.secret if machine.many and subject is None else None
        owner = FlowLocator(machine, subject, secret)
        if subject is not None and machine.many and self.session_data.has_secret:
            self._take_all_along(owner)
        return owner

    def take_along_at_login(self) -> None:
        """Let the flows of a session be those of the subject that it has got, if it has."""
        if self.bound.machine.many:
            self._owner()
        elif self.subject() is not None:
            self.load()

    def subject(self) -> str | None:
        subject_of = self.bound.subject_of
        return None if subject_of is None else subject_of(self.url_args)

    def read_session(self) -> SessionData:
        several = bool(self.bound.machine.many) or self.bound.by_url
        return SessionData(self.session, self.bound.name, several)

    @property
    def slot(self) -> str:
        """What tells the flow apart from others of the same session."""
        locator = self.locator
        if self.bound.by_url and locator.subject is not None:
            return f"{digest(locator.subject)[:16]} {locator.key}"
        return locator.key

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
        if many not in self.url_args:
            raise NotFound(
                f"Machine {self.bound.name!r} has a flow for each {many!r}, and this address has "
                f"none: ask within a view that has this URL argument.",
                code=Code.NO_KEY,
            )
        key = quote(self.bound.text_of(many, self.url_args[many]), safe="")
        return key if len(key) <= LONGEST_KEY else digest(key)

    @property
    def loaded(self) -> bool:
        return hasattr(self, "flow")

    @property
    def is_known(self) -> bool:
        """Whether the session names a flow, or its owner has one."""
        return self.version is not None or self.session_data.text(self.slot) is not None

    def load(self) -> None:
        """Read the flow that is meant; a blank one, if there is none."""
        if not hasattr(self, "locator"):
            self.find()
        machine, locator = self.bound.machine, self.locator
        self.missing_reason = None
        session_value = self.session_data.text(self.slot)
        found = self.state.store.load(locator, session_value, self.oldest(), self.bound.choose)
        self.version = found.version
        self.missing_reason = found.missing_reason
        if isinstance(found.missing_reason, SnapshotError):
            log.warning("%s", found.missing_reason, exc_info=found.missing_reason.__cause__)
        if found.previous_id is not None:
            assert found.snapshot is not None
            self.session_data.set_previous_id(
                self.slot, f"{found.previous_id} {root_id(found.snapshot.id)}"
            )
            self.notify_moved_away(channel_key(found.previous_id))
        if found.missing_reason is None and found.session_value != session_value:
            self.session_data.set_text(self.slot, found.session_value)
        snapshot = found.snapshot
        if snapshot is None:
            unknown = found.missing_reason is None and found.version is None
            if machine.many is True and not self.needs_key and unknown:
                raise _no_such_flow()
            snapshot = self._blank(None)
        elif snapshot.rev == 0:
            # Nothing is decided yet, so the page decides with which URL arguments the run begins.
            snapshot = self._blank(snapshot.id, snapshot.started)
        self.persisted = snapshot
        self.flow = StoredFlow(self, snapshot)

    def _take_all_along(self, owner: FlowLocator) -> None:
        """Let all flows of a session that has got a subject be that subject's."""
        store = self.state.require_record_store(f"many={self.bound.machine.many!r}")
        theirs = owner._replace(subject=None, secret=self.session_data.secret)
        begun = dict(store.owner_flows(theirs, self.oldest()))
        together = [*begun.values(), *dict(store.owner_flows(owner, self.oldest())).values()]
        times = sorted(found.snapshot.updated for found in together if found.snapshot)
        surplus = len(times) - self.state.config.flows_per_subject
        if surplus > 0:  # the oldest are left behind, whoever had them
            begun = {
                key: found
                for key, found in begun.items()
                if found.snapshot is not None and found.snapshot.updated >= times[surplus]
            }
        all_here = True
        for key in {**begun, **self.session_data.texts}:
            mine = owner._replace(key=key)
            text = self.session_data.text(key)
            moved: LoadResult | None = None
            if key in begun:
                at = theirs._replace(key=key)
                try:
                    moved = store.merge_at_login(mine, at, begun[key], self.bound.choose)
                except (
                    StaleFlow,
                    FlowBusy,
                ):  # another request is at it: it comes along with the next one
                    all_here = False
            elif text is not None:
                moved = store.adopt_unstarted(mine, text)
            if moved is not None:
                self.session_data.set_text(key, moved.session_value)
                if moved.previous_id is not None and moved.snapshot is not None:
                    self.session_data.set_previous_id(
                        key, f"{moved.previous_id} {root_id(moved.snapshot.id)}"
                    )
                    self.notify_moved_away(channel_key(moved.previous_id))
        if all_here:
            self.session_data.forget_secret()

    def _blank(self, id: str | None, started: int | None = None) -> Snapshot:
        machine = self.bound.machine
        now = int(self.state.clock()) if started is None else started
        page = self.bound.pages.get(machine.initial)
        args = None if page is None else page.args(self.url_args)
        new = blank(machine, now, id=id, subject=self.locator.subject)
        return new.beginning_at(root(machine.initial, args))

    def lock(self) -> AbstractContextManager[None] | FlowLock:
        """Wait until no other request of this flow is served in this process."""
        if not hasattr(self, "locator"):
            self.find()
        name = self.state.store.lock_name(self.locator, self.session_data.text(self.slot))
        return (
            nullcontext()
            if name is None
            else self.state.cache.lock(name, self.state.config.lock_timeout)
        )

    def forget(self) -> None:
        """Let the session name no flow."""
        self.session_data.set_text(self.slot, None)

    def remember(self) -> None:
        """Let the session name this flow, although nothing is committed yet."""
        if self.session_data.text(self.slot) is None:
            text = self.state.store.session_value(self.locator, self.flow.snapshot)
            self.session_data.set_text(self.slot, text)

    def renew(self) -> None:
        """Let the session name this flow, or a new one in place of one that is gone."""
        if self.missing_reason is not None:
            self.forget()
            self.load()
        self.remember()

    @property
    def previous_id(self) -> str | None:
        """The id that the flow had before its session logged in, until the next commit."""
        was, _, id = (self.session_data.previous_id(self.slot) or "").partition(" ")
        return was if id == root_id(self.persisted.id) else None

    def start_next_run(self) -> None:
        """Show the blank run that follows a finished one; its first commit replaces that."""
        self.flow.set_snapshot(self._blank(successor(self.persisted.id)))

    def owner_flows(self) -> list[tuple[str, Snapshot]]:
        """Return the owner's flows of this machine by their keys, newest first."""
        store = self.state.require_record_store("fsm.flows()")
        owner = self._owner()
        if not self.bound.machine.many:
            if not self.loaded:
                self.load()
            return [("", self.persisted)] if self.persisted.rev else []
        return [
            (key, found.snapshot)
            for key, found in store.owner_flows(owner, self.oldest())
            if found.snapshot is not None
        ]

    def oldest(self) -> float:
        lifetime = self.state.config.flow_lifetime
        return -inf if lifetime is None else self.state.clock() - lifetime

    # -- claims -------------------------------------------------------------------------

    def acquire_lease(self) -> None:
        """Claim the flow for this request, before its view runs.

        While another request has it, wait up to FSM_LOCK_TIMEOUT; raises FlowBusy then, and
        StaleFlow if the flow has moved on meanwhile.
        """
        store = self.state.require_record_store("once=True")
        lease = secrets.token_urlsafe(12)
        end = time.monotonic() + self.state.config.lock_timeout
        while True:
            try:
                until = int(self.state.clock() + self.state.config.once_lease)
                self.remember()
                self.lease = lease  # whether or not the answer arrives
                self.version = store.acquire_lease(
                    self.locator, self.version, self.flow.snapshot, lease, until
                )
                return
            except FlowBusy:
                self.lease = ""
                if time.monotonic() + POLL > end:
                    raise
                time.sleep(POLL)

    def release_lease(self) -> None:
        """Give up a claim that led to no commit."""
        if self.lease and self.version is not None:
            store = self.state.require_record_store("once=True")
            lease, self.lease = self.lease, ""
            store.release_lease(self.locator, self.flow.snapshot, self.version, lease)

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
                self.locator,
                self.version,
                after,
                location(flow),
                lease=self.lease,
                within=within,
            )
        except BaseException:
            flow.set_snapshot(before)
            raise
        self._rebase(committed)
        if transaction is None or undo is None:
            self._notify(results, said)
        else:
            transaction.join(lambda: self._notify(results, said), undo)
        return results

    def transmit(self, data: Any, status: int, unsay: Callable[[], None]) -> None:
        """Tell the clients of the flow something, without moving it; `unsay` takes it back."""

        def tell() -> None:
            self._notify_listeners(
                lambda observer: observer.transmitted(self.flow, data, status, self.sender)
            )

        transaction = self._transaction()
        if transaction is None:
            tell()
        else:
            transaction.join(tell, unsay, moves=False)

    def notify_moved_away(self, key: str) -> None:
        self._notify_listeners(lambda observer: observer.moved_away(key))

    def _notify_listeners(self, tell: Callable[[CommitListener], None]) -> None:
        """Tell the observers; what they raise can undo nothing."""
        for observer in self.state.listeners:
            try:
                tell(observer)
            except Exception:
                log.exception("An observer of machine %r failed.", self.bound.name)

    def _transaction(self) -> Transaction | None:
        """The caller's transaction in which all commits of this request take part, if any."""
        found: Transaction | None = unwrap(g).get(TRANSACTION)
        return found

    def _undoing(self) -> Callable[[], None]:
        """Return what brings everything back to where it is now."""
        slot, version, stored, claimed = self.slot, self.version, self.persisted, self.lease
        session_value, was, before = (
            self.session_data.text(slot),
            self.session_data.previous_id(slot),
            self.flow.snapshot,
        )
        unsay = self.flow.unsaying()

        def undo() -> None:
            unsay()
            self.session_data.set_text(slot, session_value)
            self.session_data.set_previous_id(slot, was)
            self.version, self.persisted, self.lease = version, stored, claimed
            self.flow.set_snapshot(before)

        return undo

    @contextmanager
    def transaction(self, session: Any) -> Iterator[Any]:
        """Let the transitions of the block commit with `session`, a new one of the store's if None.

        The session is rolled back if the block raises, or makes no transition.
        """
        store, outer = self.state.require_record_store("fsm.transaction()"), self._transaction()
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
        with store.transaction(session) as (joined, connect):
            transaction = Transaction(joined, connect)
            setattr(unwrap(g), TRANSACTION, transaction)
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
                unwrap(g).pop(TRANSACTION, None)
        if not transaction.failed:
            transaction.committed()

    def _rebase(self, committed: CommitResult) -> None:
        """Go on from what was committed."""
        self.session_data.set_text(self.slot, committed.session_value, first=self.locator.owned)
        self.session_data.set_previous_id(self.slot, None)
        self.version = committed.version
        self.lease = ""
        self.persisted = committed.snapshot
        self.flow.set_snapshot(committed.snapshot)

    def _notify(self, results: Sequence[Result], said: tuple[int, Any]) -> None:
        """Run the hooks of steps that were kept, send the signals, and tell the observers."""
        for result in results:
            self.flow.run_hooks(result)
            facts = {"machine": self.bound.name, "flow": self.flow, "result": result}
            emit(transitioned, self.app, **facts)
            if result.finished:
                emit(finished, self.app, **facts)
        if results and self.state.listeners:
            status, reply = said
            self._notify_listeners(
                lambda observer: observer.moved(self.flow, results[-1], status, reply, self.sender)
            )

    def reset(self, receipt: Receipt | None = None, location: str | None = None) -> None:
        """Begin a new run; the one before can't come back.

        `receipt` is of the submission that asks for it, `location` where it leads if sent again.
        """
        previous = self.persisted
        transaction, undo = self._transaction(), self._undoing()
        if self.is_known and self.missing_reason is None:
            within = None if transaction is None else transaction.connection
            buried = self.state.store.write_tombstone(
                self.locator,
                self.version,
                previous,
                receipt,
                location,
                lease=self.lease,
                within=within,
            )
            self.version = buried if self.locator.owned else None
            self.lease = ""
        self.session_data.set_text(self.slot, None)
        fresh = self._blank(None)
        self.persisted = fresh
        self.flow.set_snapshot(fresh)
        self.remember()

        def tell() -> None:
            emit(reset, self.app, machine=self.bound.name, flow=self.flow, previous=previous)
            self._notify_listeners(lambda observer: observer.replaced(previous, self.flow))

        if transaction is None:
            tell()
        else:
            transaction.join(tell, undo)


def channel_key(id: str) -> str:
    """Return what names the channel of a flow and of the runs that follow it; it tells no id."""
    return digest(root_id(id))


def _no_such_flow() -> NotFound:
    """Return the one error of a flow that is not there and of one that is somebody else's."""
    return NotFound("There is no such page.", code=Code.NO_FLOW)
