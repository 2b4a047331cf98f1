"""The one road of every door: load a flow, commit a decided step, tell the observers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final
from weakref import ref

from flask import Flask, current_app, session
from flask.sessions import SessionMixin

from .bound import Bound
from .config import Config
from .core.flow import Clock, Flow, Result, blank, successor
from .core.path import root
from .core.snapshot import Receipt, Snapshot
from .errors import (
    ConfigError,
    FlowGone,
    FSMError,
    MissingArguments,
    NotFound,
    SnapshotError,
)
from .signals import emit, finished, reset, transitioned
from .stores import Heads, Store, Turn, open_store
from .stores.session import SESSION_KEY
from .tokens import Tokens

__all__ = ["AppState", "KeptFlow", "Run", "app_state", "behind"]

log: Final = logging.getLogger("flask_fsm")
EXTENSION: Final = "fsm"


@dataclass
class AppState:
    """All that the extension keeps of one app."""

    config: Config
    heads: Heads
    store: Store
    extension: object
    bind: Callable[[], dict[str, Bound]]
    clock: Clock = time.time
    _bound: dict[str, Bound] | None = None
    set_up_lock: Lock = field(default_factory=Lock)
    signers: tuple[tuple[Any, ...], Tokens] | None = None

    @classmethod
    def of(cls, app: Flask, extension: object, bind: Callable[[], dict[str, Bound]]) -> AppState:
        config = Config.read(app.config)
        heads = Heads(config.heads)
        store = open_store(config.store_url, heads, config.history_limit, config.max_snapshot_size)
        return cls(config, heads, store, extension, bind)

    @property
    def bound(self) -> dict[str, Bound]:
        """The machines by name, as the views bind them."""
        return self.bind() if self._bound is None else self._bound

    def fix(self) -> None:
        """Bind the machines for good: from the first request on, no view is added."""
        if self._bound is None:
            with self.set_up_lock:
                if self._bound is None:
                    self._bound = self.bind()

    def tokens(self, app: Flask) -> Tokens:
        """Return what signs with SECRET_KEY and also reads SECRET_KEY_FALLBACKS."""
        keys = (*(app.config.get("SECRET_KEY_FALLBACKS") or ()), app.secret_key)
        if self.signers is None or self.signers[0] != keys:
            if not app.secret_key:
                raise ConfigError(
                    "SECRET_KEY is not set, so nothing can be signed. Set it before init_app, to "
                    "the output of: python -c 'import secrets; print(secrets.token_hex())'"
                )
            self.signers = keys, Tokens([key for key in keys if key])
        return self.signers[1]


def app_state() -> AppState:
    """Return the state of the current app, or raise ConfigError."""
    state: AppState | None = current_app.extensions.get(EXTENSION)
    if state is None:
        raise ConfigError(f"The app {current_app.name!r} has no FlaskFSM: call fsm.init_app(app).")
    return state


def behind(proxy: Any) -> Any:
    """Return the object behind one of Flask's proxies, each use of which is a look-up."""
    return proxy._get_current_object()


class KeptFlow(Flow):
    """The flow of a request: where it is moved, in a view or a hook, the move is committed."""

    __slots__ = ("_run",)

    def __init__(self, run: Run, snapshot: Snapshot) -> None:
        super().__init__(run.bound.machine, snapshot, clock=run.state.clock)
        self._run = ref(run)  # the run holds the flow

    def transition(
        self, to: str, data: Mapping[str, Any] | None = None, *, source: str | None = None
    ) -> Result:
        def decide(flow: Flow) -> list[Result]:
            result = flow.step(to, data, source=source)
            flow.apply(result)
            return [result]

        return self._kept().commit(decide)[0]

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
        "_url_args",
        "app",
        "bound",
        "flow",
        "gone",
        "held",
        "key",
        "session",
        "state",
        "stored",
    )

    def __init__(self, state: AppState, bound: Bound, url_args: Mapping[str, Any]) -> None:
        self.state = state
        self.bound = bound
        self.key = SESSION_KEY + bound.name
        self.app: Flask = behind(current_app)
        self.session: SessionMixin = behind(session)
        self._url_args = url_args
        self.gone: FSMError | None = None
        """Why the flow that the session names is not there any more."""
        self.held = False
        """Whether the session names a flow."""
        self.stored: Snapshot
        self.flow: Flow

    @property
    def loaded(self) -> bool:
        return hasattr(self, "flow")

    def load(self) -> None:
        """Read the flow that the session names; a blank one, if it names none that is there."""
        machine = self.bound.machine
        carried = self.session.get(self.key)
        self.held = carried is not None
        self.gone = None
        snapshot: Snapshot | None = None
        if carried is not None:
            try:
                snapshot, newest = self.state.store.load(machine, carried)
                if newest != carried:
                    self.session[self.key] = newest
                if self._expired(snapshot):
                    raise FlowGone(
                        f"This run of {machine.name!r} was left for too long and has expired.",
                        flow=snapshot.id,
                        code="expired",
                    )
            except (SnapshotError, FlowGone) as error:
                self.gone = error
                snapshot = None
                if isinstance(error, SnapshotError):
                    log.warning("%s", error)
        if snapshot is None:
            snapshot = self._blank(None)
        elif snapshot.rev == 0:
            # Nothing is decided yet, so the page decides with which URL arguments the run begins.
            snapshot = self._blank(snapshot.id, snapshot.started)
        self.stored = snapshot
        self.flow = KeptFlow(self, snapshot)

    def _expired(self, snapshot: Snapshot) -> bool:
        lifetime = self.state.config.lifetime
        return lifetime is not None and snapshot.updated + lifetime < self.state.clock()

    def _blank(self, id: str | None, started: int | None = None) -> Snapshot:
        machine = self.bound.machine
        now = int(self.state.clock()) if started is None else started
        page = self.bound.pages.get(machine.initial)
        args = None if page is None else page.args(self._url_args)
        return blank(machine, now, id=id).beginning_at(root(machine.initial, args))

    def turn(self) -> AbstractContextManager[None] | Turn:
        """Wait until no other request of this flow is served in this process."""
        carried = self.session.get(self.key)
        id = None if carried is None else self.state.store.identify(carried)
        return nullcontext() if id is None else self.state.heads.turn(id, self.state.config.wait)

    def forget(self) -> None:
        """Let the session name no flow."""
        self.session.pop(self.key, None)
        self.held = False

    def hold(self) -> None:
        """Let the session name this flow, although nothing is committed yet."""
        if not self.held:
            self.session[self.key] = self.state.store.carry(self.bound.machine, self.flow.snapshot)
            self.held = True

    def succeed(self) -> None:
        """Show the blank run that follows a finished one; its first commit replaces that."""
        self.flow.rewind(self._blank(successor(self.stored.id)))

    def commit(
        self,
        decide: Callable[[Flow], Sequence[Result]],
        receipt: Receipt | None = None,
        location: Callable[[Flow], str | None] = lambda flow: None,
    ) -> Sequence[Result]:
        """Make the steps that `decide` makes on the flow, keep them, then run hooks and signals.

        What raises before they are kept leaves the flow as it was; nothing after can undo them.
        """
        flow = self.flow
        before = flow.snapshot
        try:
            results = decide(flow)
            after = flow.snapshot.with_receipt(receipt)
            carried = self.state.store.commit(
                self.bound.machine, self.stored, after, location(flow)
            )
        except BaseException:
            flow.rewind(before)
            raise
        self.session[self.key] = carried
        self.held = True
        self.stored = after
        flow.rewind(after)
        for result in results:
            flow.run_hooks(result)
            facts = {"machine": self.bound.name, "flow": flow, "result": result}
            emit(transitioned, self.app, **facts)
            if result.finished:
                emit(finished, self.app, **facts)
        return results

    def reset(self, receipt: Receipt | None = None, location: str | None = None) -> None:
        """Begin a new run; the one before can't come back.

        `receipt` is of the submission that asks for it, `location` where it leads if sent again.
        """
        previous = self.stored
        if self.held and self.gone is None:
            self.state.store.bury(previous, receipt, location)
        fresh = self._blank(None)
        self.session[self.key] = self.state.store.carry(self.bound.machine, fresh)
        self.held = True
        self.stored = fresh
        self.flow.rewind(fresh)
        emit(reset, self.app, machine=self.bound.name, flow=self.flow, previous=previous)

    def url(self, state: str, extra: Mapping[str, Any] | None = None) -> str:
        """Return the URL of the page `state` with the path's URL arguments, or the request's."""
        page = self.bound.pages[state]
        on_path = page.values(self.flow.args(state))
        return page.url({**page.take(on_path, self._url_args), **(extra or {})})

    def url_of(self, snapshot: Snapshot) -> str | None:
        """Return the URL of the page that a snapshot is at, or None if it is at none."""
        page = self.bound.pages.get(snapshot.state)
        return None if page is None else page.url(page.values(snapshot.tip[2]))

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
        state = self.current_page()
        return None if state is None else self._url_or_none(state)

    def start_url(self) -> str | None:
        """Return the URL of the initial page, or None if it can't be built."""
        initial = self.bound.machine.initial
        return self._url_or_none(initial) if initial in self.bound.pages else None

    def _url_or_none(self, state: str) -> str | None:
        try:
            return self.url(state)
        except (MissingArguments, NotFound):
            return None
