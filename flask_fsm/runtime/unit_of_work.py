"""The unit of work of a request: load a flow, commit a decided step, notify the listeners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import Any, Final
from weakref import ref

from flask import Flask, current_app, g, request, session
from flask.sessions import SessionMixin

from ..binding.bound_machine import Bound
from ..core.event import EventStatus
from ..core.flow import Flow, blank, successor
from ..core.flow_base import Result
from ..core.path import root
from ..core.snapshot import Receipt, Snapshot
from ..errors import Code, FlowBusy, FlowGone, FSMError, NotFound, SnapshotError
from ..signals import emit, finished, reset, transitioned
from ..stores.base import ROOT_LENGTH, CommitResult, FlowLocator, Version, order_key, root_id
from ..stores.cache import FlowLock
from .app_state import AppState, unwrap
from .lease import Lease
from .listeners import CommitListener, Sender
from .locate import SessionFlow, find_key, find_owner, needs_key, no_such_flow, session_flow
from .login import take_all_along
from .memento import Memento
from .session_data import owner_secret
from .stored_flow import StoredFlow
from .transaction import TRANSACTION, Transaction, current_transaction

__all__ = ["UnitOfWork", "channel_key"]

log: Final = logging.getLogger("flask_fsm")


class UnitOfWork:
    """The flow of one machine in one request. Only this class commits flows.

    Args:
        state: The state of the app.
        bound: The machine.
        url_args: The URL arguments of the request.
        sender: The socket whose event this is, if it is one.
    """

    __slots__ = (
        "__weakref__",
        "_is_notifying",
        "_submission",
        "app",
        "bound",
        "flow",
        "lease",
        "missing_reason",
        "needs_key",
        "notifications",
        "persisted",
        "read_only",
        "sender",
        "session",
        "session_flow",
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
        self.state: AppState = state
        self.bound: Bound = bound
        self.app: Flask = unwrap(current_app)
        self.session: SessionMixin = unwrap(session)
        self.url_args: Mapping[str, Any] = url_args
        self.missing_reason: FSMError | None = None
        """Why the flow that the session names is gone, or can't be read."""
        self.needs_key: bool = bound.machine.many is True and needs_key(bound)
        """Whether the URL lacks the key of a flow, so that it asks for a new one."""
        self.lease: Lease | None = None
        """The lease on the flow that this request holds."""
        self.sender: Sender | None = sender
        self.notifications: list[Callable[[], None]] = []
        """What notifies of each commit that hooks and listeners do not know yet, oldest first."""
        self._is_notifying: bool = False
        self._submission: tuple[Receipt, Callable[[Flow], str | None]] | None = None
        """The submission whose commit hooks are notified of; their own commits are part of it."""
        self.read_only: bool = False  # True while a page is only read, which moves no flow
        self.session_flow: SessionFlow
        """The flow's locator, and the text that the session carries for it."""
        self.persisted: Snapshot
        """The snapshot that is stored; a blank one if none is."""
        self.flow: StoredFlow
        self.version: Version | None = None
        """The version that a commit expects in the store, for its compare-and-swap."""

    # -- which flow ---------------------------------------------------------------------

    @property
    def locator(self) -> FlowLocator:
        """The locator of the flow."""
        return self.session_flow.locator

    @property
    def loaded(self) -> bool:
        return hasattr(self, "flow")

    @property
    def is_known(self) -> bool:
        """Whether the session names a flow, or its owner has one."""
        return self.version is not None or self.session_flow.text is not None

    @property
    def is_anonymous(self) -> bool:
        """Whether the flow has been located, and belongs to no subject."""
        return hasattr(self, "session_flow") and self.locator.subject is None

    @property
    def previous_id(self) -> str | None:
        """The id that the flow had before its session logged in, until the next commit."""
        previous = self.session_flow.previous
        if previous is None or previous.root != root_id(self.persisted.id):
            return None
        return previous.id

    def _find(self) -> None:
        """Find the locator of the flow: its owner and its key."""
        try:
            locator = self.locate_owner()
            if self.bound.machine.many:
                locator = locator._replace(key=find_key(self.bound, self.url_args, locator.subject))
        except NotFound as error:
            if error.code == Code.NO_KEY:
                self.state.warn_once(
                    f"Machine {self.bound.name!r} was used at {request.url_rule}. {error} Add that "
                    f"to the rule of the view, or to the query of the live endpoint."
                )
            raise
        self.session_flow = session_flow(self.bound, self.session, locator)

    def locate_owner(self) -> FlowLocator:
        """Find the owner of the flow; at login, take several flows along."""
        bound, session = self.bound, self.session
        owner = find_owner(bound, self.url_args, session)
        if bound.machine.many and owner.subject is not None:
            secret = owner_secret(session, bound.name)
            if secret is not None:
                for previous_id in take_all_along(self.state, bound, session, secret, owner):
                    self.notify_moved_away(channel_key(previous_id))
        return owner

    def take_along_at_login(self) -> None:
        """Take the flows of the session along to the subject that it has got, if it has."""
        owner = self.locate_owner()
        if not self.bound.machine.many and owner.subject is not None:
            self.load()

    # -- loading ------------------------------------------------------------------------

    def lock(self, form: str = "") -> AbstractContextManager[None] | FlowLock:
        """Return the lock of the flow, for the request with this token of a form; see FlowLock."""
        if not hasattr(self, "session_flow"):
            self._find()
        name = self.state.store.lock_name(self.locator, self.session_flow.text)
        if name is None:
            return nullcontext()
        return self.state.cache.lock(name, self.state.config.lock_timeout, form)

    def load(self) -> None:
        """Load the flow, or a blank one if none is stored."""
        if not hasattr(self, "session_flow"):
            self._find()
        state, machine, flow = self.state, self.bound.machine, self.session_flow
        found = state.store.load(flow.locator, flow.text, state.expired_before(), self.bound.choose)
        self.version = found.version
        self.missing_reason = found.missing_reason
        if isinstance(found.missing_reason, SnapshotError):
            reason = found.missing_reason
            log.warning("Machine %r: %s", machine.name, reason, exc_info=reason.__cause__)
        flow.keep_result(found)
        if found.previous_id is not None:
            self.notify_moved_away(channel_key(found.previous_id))
        snapshot = found.snapshot
        if snapshot is None:
            unknown = found.missing_reason is None and found.version is None
            if machine.many is True and not self.needs_key and unknown:
                raise no_such_flow(self.bound, flow.locator.subject)
            snapshot = self._blank(None)
        elif snapshot.rev == 0:
            # Nothing is decided yet, so the page decides with which URL arguments the run begins.
            snapshot = self._blank(snapshot.id, snapshot.started)
        elif snapshot.cut_back and snapshot.tip.parent is None and snapshot.tip.args is None:
            snapshot = snapshot.beginning_at(self._blank(snapshot.id).tip)  # likewise
        self.persisted = snapshot
        self.flow = StoredFlow(machine, snapshot, clock=state.clock)
        self.flow.committer = ref(self)

    def _blank(self, id: str | None, started: int | None = None) -> Snapshot:
        machine = self.bound.machine
        now = int(self.state.clock()) if started is None else started
        page = self.bound.pages.get(machine.initial)
        args = None if page is None else page.args(self.url_args)
        new = blank(machine, now, id=id, subject=self.locator.subject)
        return new.beginning_at(root(machine.initial, args))

    def start_next_run(self) -> None:
        """Show the blank run that follows a finished one; its first commit replaces that."""
        self.flow.set_snapshot(self._blank(successor(self.persisted.id)))

    def show_persisted(self) -> None:
        """Show the stored run again, after `start_next_run`."""
        self.flow.set_snapshot(self.persisted)

    def forget(self) -> None:
        """Remove the flow from the session; until a commit, its forms are told why it is gone."""
        reason = self.missing_reason
        if isinstance(reason, FlowGone) and reason.flow is not None:
            self.session_flow.set_gone(reason.flow, reason.code)
        self.session_flow.keep(None)

    def remember(self) -> None:
        """Name this flow in the session, although nothing is committed yet."""
        flow = self.session_flow
        if flow.text is None:
            flow.keep(self.state.store.session_value(flow.locator, self.flow.snapshot))

    def renew(self) -> None:
        """Name this flow in the session, or a new one if this one no longer exists."""
        if self.missing_reason is not None:
            self.forget()
            self.load()
        self.remember()

    def acquire_lease(self) -> None:
        """Acquire the lease of the flow before its view runs, so that the view runs only once.

        Raises FlowBusy if another request holds it for longer than FSM_LOCK_TIMEOUT, or StaleFlow.
        """
        self.remember()
        # Set before the call, since the store's answer may be lost.
        self.lease = Lease(self.state, self.locator, self.flow.snapshot)
        try:
            self.version = self.lease.acquire(self.version)
        except FlowBusy:
            self.lease = None
            raise

    def release_lease(self) -> None:
        """Release a lease that led to no commit."""
        if self.lease is not None and self.version is not None:
            lease, self.lease = self.lease, None
            lease.release(self.version)

    # -- committing ---------------------------------------------------------------------

    def commit(
        self,
        decide: Callable[[Flow], Sequence[Result]],
        receipt: Receipt | None = None,
        location: Callable[[Flow], str | None] = lambda flow: None,
        reply: tuple[int, Any] = (EventStatus.OK, None),
    ) -> Sequence[Result]:
        """Make the steps that `decide` makes on the flow, store them, then run hooks and signals.

        An exception before the commit leaves the flow unchanged; none after it can undo the steps.

        Args:
            decide: Makes steps on the flow, and returns their results.
            receipt: Receipt of the submission, by which a double click or a replay is recognised.
            location: Returns the URL that answers such a replay.
            reply: Status and data for the clients of the flow.

        Raises:
            StaleFlow: A conflict: another request has committed since the flow was loaded.
            FlowBusy: Another request holds the lease of the flow.
            SnapshotTooLarge: The snapshot does not fit into the store.
            StoreUnavailable: The store's server can't be reached.
        """
        flow = self.flow
        before = flow.snapshot
        # As current_transaction(), without a further call.
        transaction: Transaction | None = unwrap(g).get(TRANSACTION)
        memento = None if transaction is None else Memento(self)
        if self._submission is not None:
            receipt, location = self._submission
        try:
            results = decide(flow)
            committed = self.state.store.commit(
                self.session_flow.locator,
                self.version,
                flow.snapshot.with_receipt(receipt),
                location(flow),
                lease="" if self.lease is None else self.lease.name,
                within=None if transaction is None else transaction.caller,
            )
        except BaseException:
            flow.set_snapshot(before)
            raise
        self._rebase(committed)
        # After a transaction its answer has been made, so what hooks do then does not change that.
        submission = None if receipt is None or transaction is not None else (receipt, location)
        self.notifications.append(lambda: self._announce(results, reply, submission))
        if transaction is None or memento is None:
            self._notify()
        else:
            transaction.join(self._notify, memento.restore)
        return results

    def _rebase(self, committed: CommitResult) -> None:
        """Continue from what was committed."""
        self.session_flow.keep(committed.session_value, committed=True)
        self.session_flow.clear_past()
        self.version = committed.version
        self.lease = None
        self.persisted = committed.snapshot
        self.flow.set_snapshot(committed.snapshot)

    def reset(self, receipt: Receipt | None = None, location: str | None = None) -> None:
        """Begin a new run; the previous one can't be restored.

        `receipt` is of the submission that asks for it, `location` answers its replay.
        """
        previous = self.persisted
        self.flow.require_unjudged()
        transaction, memento = current_transaction(), Memento(self)
        fresh = self._blank(None)
        if self._submission is not None:
            receipt, location = self._submission[0], self._location_of(fresh)
        # A first run that never moved leaves no record: nobody could bring anything of it back.
        moved = receipt or self.lease or order_key(previous) > (0, 0)
        if moved and self.is_known and self.missing_reason is None:
            version = self.state.store.write_tombstone(
                self.locator,
                self.version,
                previous,
                receipt,
                location,
                lease="" if self.lease is None else self.lease.name,
                within=None if transaction is None else transaction.caller,
            )
            self.version = version if self.locator.owned else None
            self.lease = None
        self.session_flow.keep(None)
        self.persisted = fresh
        self.flow.set_snapshot(fresh)
        self.remember()

        def announce() -> None:
            emit(reset, self.app, machine=self.bound.name, flow=self.flow, previous=previous)
            self._notify_listeners(lambda listener: listener.replaced(previous, self.flow))

        self.notifications.append(announce)
        if transaction is None:
            self._notify()
        else:
            transaction.join(self._notify, memento.restore)

    def _location_of(self, snapshot: Snapshot) -> str | None:
        """Return the location of the current submission, if its hooks lead to `snapshot`."""
        now = self.flow.snapshot
        self.flow.set_snapshot(snapshot)
        try:
            return None if self._submission is None else self._submission[1](self.flow)
        finally:
            self.flow.set_snapshot(now)

    def memento(self) -> Memento | None:
        """Return what a rollback of the caller's transaction restores; None without one."""
        return None if current_transaction() is None else Memento(self)

    # -- notifying ----------------------------------------------------------------------

    def _notify(self) -> None:
        """Notify hooks, signals and listeners of all commits, in the order of their revs.

        Of a commit that a hook or a receiver makes meanwhile they are notified after the others.
        """
        if self._is_notifying:
            return
        self._is_notifying = True
        try:
            while self.notifications:
                self.notifications.pop(0)()
        finally:
            self._is_notifying = False
            self._submission = None

    def _announce(
        self,
        results: Sequence[Result],
        reply: tuple[int, Any],
        submission: tuple[Receipt, Callable[[Flow], str | None]] | None,
    ) -> None:
        """Run the hooks of committed steps, send the signals, and notify the listeners."""
        self._submission = submission
        for result in results:
            self.flow.run_hooks(result)
            if transitioned.receivers or finished.receivers:
                facts = {"machine": self.bound.name, "flow": self.flow, "result": result}
                emit(transitioned, self.app, **facts)
                if result.finished:
                    emit(finished, self.app, **facts)
        if results and self.state.listeners:
            status, data = reply
            self._notify_listeners(
                lambda listener: listener.moved(self.flow, results[-1], status, data, self.sender)
            )

    def transmit(self, data: Any, status: int, memento: Memento | None) -> None:
        """Send something to the clients of the flow, without moving it.

        In a caller's transaction it is sent after the commit; a rollback restores `memento`.
        """

        def notify() -> None:
            self._notify_listeners(
                lambda listener: listener.transmitted(self.flow, data, status, self.sender)
            )

        transaction = current_transaction()
        if transaction is None or memento is None:
            notify()
        else:
            transaction.join(notify, memento.restore, moves=False)

    def notify_moved_away(self, key: str) -> None:
        """Notify the listeners that the flow with this `channel_key` continues elsewhere."""
        self._notify_listeners(lambda listener: listener.moved_away(key))

    def _notify_listeners(self, notify: Callable[[CommitListener], None]) -> None:
        """Notify the listeners; their exceptions are logged and undo nothing."""
        for listener in self.state.listeners:
            try:
                notify(listener)
            except Exception:
                log.exception("A listener of machine %r failed.", self.bound.name)


def channel_key(id: str) -> str:
    """Return the key of the channel of a flow, the same in all its runs; it reveals no id."""
    return sha256(id[:ROOT_LENGTH].encode("utf-8", "surrogatepass")).hexdigest()
