"""The state of one app, in `app.extensions["fsm"]`: config, store, cache, machines, signers.

`expired_before` is the expiry: a flow that was committed last before that time has expired, which
its store finds when it loads the flow (stores/session, stores/records/mapper).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from flask import Flask, Response, current_app

from ..binding.bound_machine import Bound
from ..config import Config
from ..core.flow import Clock
from ..errors import ConfigError
from ..outages import OutageLog
from ..security.tokens import Tokens
from ..stores import Cipher, FlowCache, RecordStore, Store, open_store
from .listeners import CommitListener

__all__ = ["EXTENSION", "AppState", "app_state", "secret_keys", "unwrap"]

EXTENSION: Final = "fsm"
MAX_WARNINGS: Final = 100
MIN_KEY: Final = 16
"""Bytes of a secret key, below which a warning is logged."""
log: Final = logging.getLogger("flask_fsm")


@dataclass
class AppState:
    """The state of the extension in one app; it also builds the extension's parts."""

    config: Config
    cache: FlowCache
    store: Store
    extension: object
    bind: Callable[[], dict[str, Bound]]
    clock: Clock = time.time
    listeners: list[CommitListener] = field(default_factory=list)
    session_listeners: list[Callable[[Sequence[Bound]], None]] = field(default_factory=list)
    """Called after a request that changed the session, with the machines that know subjects."""
    stream_listeners: list[Callable[[Response], None]] = field(default_factory=list)
    """Called with each streamed response of the app."""
    live: Any = None
    """The live service of the app, if FSM_LIVE is on."""
    forms: dict[tuple[str, str], tuple[type, ...]] = field(default_factory=dict)
    """The classes of the WTForms forms of a machine's page: the one that was last passed to
    `advance()`, before that those that the page has rendered."""
    outages: OutageLog = field(default_factory=OutageLog)
    """Logs that the store or the bus can't be reached."""
    _warnings: set[str] = field(default_factory=set)
    _bound: dict[str, Bound] | None = None
    set_up_lock: threading.Lock = field(default_factory=lambda: threading.Lock())
    signers: tuple[tuple[Any, ...], Tokens] | None = None

    @classmethod
    def of(
        cls, app: Flask, extension: object, bind: Callable[[], dict[str, Bound]], store: Any = None
    ) -> AppState:
        config = Config.read(app.config)
        cache = FlowCache(config.cache_size)
        source = config.store_url if store is None else store
        state: AppState

        def cipher() -> Cipher:
            from ..security.ids import IdCipher  # of an optional package

            return IdCipher(lambda: secret_keys(app))

        # The clock may be replaced later, as tests do.
        opened = open_store(source, config, cache, cipher, lambda: state.clock())
        state = cls(config, cache, opened, extension, bind)
        return state

    def require_record_store(self, what: str) -> RecordStore:
        """Return the store if it keeps flows on a server; else raise ConfigError.

        `what` is the feature that needs such a store, for the error's text.
        """
        if isinstance(self.store, RecordStore):
            return self.store
        raise ConfigError(
            f"{what} needs a store on a server, and FSM_STORE_URL is 'session': set it to the URL "
            f"of a database{'' if 'transaction' in what else ' or of Redis'}."
        )

    def warn_once(self, text: str) -> None:
        """Log a warning, unless it was logged before; there is an end to different ones, too."""
        if text not in self._warnings and len(self._warnings) < MAX_WARNINGS:
            self._warnings.add(text)
            log.warning("%s", text)

    @property
    def bound(self) -> dict[str, Bound]:
        """The machines by name, as the views bind them."""
        return self.bind() if self._bound is None else self._bound

    def expired_before(self) -> float:
        """Return the limit of expiry: a flow whose last commit is before this time has expired.

        In seconds since 1970; minus infinity where FSM_FLOW_LIFETIME is None.
        """
        lifetime = self.config.flow_lifetime
        return -inf if lifetime is None else self.clock() - lifetime

    def bind_once(self, endpoint: str | None = None, values: dict[str, Any] | None = None) -> None:
        """Bind the machines to the views for good, at the first request.

        The arguments are those that Flask passes to a `url_value_preprocessor`.
        """
        if self._bound is None:
            with self.set_up_lock:
                if self._bound is None:
                    bound = self.bind()
                    if not current_app.debug:
                        warn_of_short_keys(unwrap(current_app))
                    for one in bound.values():
                        for text in one.warnings:
                            log.warning("%s", text)
                    self._bound = bound

    def tokens(self, app: Flask) -> Tokens:
        """Return a signer for SECRET_KEY, which also verifies with SECRET_KEY_FALLBACKS."""
        keys = secret_keys(app)
        if self.signers is None or self.signers[0] != keys:
            if not app.secret_key:
                raise ConfigError(
                    "SECRET_KEY is not set, so nothing can be signed. Set it before init_app, to "
                    "the output of: python -c 'import secrets; print(secrets.token_hex())'"
                )
            if not all(isinstance(key, (str, bytes)) for key in keys):
                raise _error_of_fallbacks()
            self.signers = keys, Tokens(keys)
        return self.signers[1]


def secret_keys(app: Flask) -> tuple[str | bytes, ...]:
    """Return the keys of an app, the newest last."""
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or ()
    if not isinstance(fallbacks, (list, tuple, set, frozenset)):
        raise _error_of_fallbacks()
    return tuple(key for key in (*fallbacks, app.secret_key) if key)


def _error_of_fallbacks() -> ConfigError:
    return ConfigError(
        "SECRET_KEY_FALLBACKS must be a list of keys, each a str or bytes. Of a single text, each "
        "character would be a key: write ['the old key']."
    )


def warn_of_short_keys(app: Flask) -> None:
    """Log the secret keys that are short enough to be guessed from a signature."""
    keys = secret_keys(app)
    short = [len(key.encode() if isinstance(key, str) else key) < MIN_KEY for key in keys]
    for name, is_short in (
        ("SECRET_KEY", short[-1:] == [True]),
        ("SECRET_KEY_FALLBACKS", any(short[:-1])),
    ):
        if is_short:
            log.warning(
                "%s has a key of less than %d bytes, which can be guessed from a signature: use "
                "the output of: python -c 'import secrets; print(secrets.token_hex())'",
                name,
                MIN_KEY,
            )


def app_state() -> AppState:
    """Return the state of the current app, or raise ConfigError."""
    state: AppState | None = current_app.extensions.get(EXTENSION)
    if state is None:
        raise ConfigError(f"The app {current_app.name!r} has no FlaskFSM: call fsm.init_app(app).")
    return state


def unwrap(proxy: Any) -> Any:
    """Return the object behind a Flask proxy, since each use of the proxy is a look-up."""
    return proxy._get_current_object()
