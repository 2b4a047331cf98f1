"""Engine: what serves the sockets that were taken. All engines serve the same peers."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final
from weakref import WeakSet

from ..channels.stream import SSEStream
from ..protocol.close_codes import CloseCode
from .gunicorn import is_ending
from .transport import Peer

__all__ = ["LINGER", "Engine", "Wake"]

log: Final = logging.getLogger("flask_fsm")
# Seconds for which a client that is cut may still fetch the few bytes that say so.
LINGER: Final = 90.0
# Seconds between two looks at whether the server's process is about to end.
LOOK: Final = 0.2


class Wake:
    """What tells the engine that something waits for a peer; at first there is no engine yet."""

    __slots__ = ("_function",)

    def __init__(self) -> None:
        self._function: Callable[[], None] | None = None

    def set(self, function: Callable[[], None]) -> None:
        self._function = function

    def __call__(self) -> None:
        if self._function is not None:
            self._function()


class Engine:
    """Serves at most `limit` connections in this process."""

    patience: ClassVar[float] = 1.0
    """Seconds to wait for the other side's close frame."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._peers: set[Peer] = set()
        self._streams: WeakSet[SSEStream] = WeakSet()
        """Those of the app's own views, which the server itself iterates over."""
        self._mutex = threading.Lock()
        self._watcher: threading.Thread | None = None
        self.going = False
        """Whether the process is about to end."""

    def __len__(self) -> int:
        return len(self._peers)

    def patience_with(self, peer: Peer, pending: bool) -> float:
        """Return for how many seconds an ended connection may still take what is `pending`."""
        lingers = pending and peer.code == CloseCode.TRY_AGAIN_LATER and not self.going
        return LINGER if lingers else self.patience

    @property
    def full(self) -> bool:
        """Whether no more connections are served, as there are too many or the process ends."""
        return self.going or len(self._peers) >= self.limit

    def serve(self, sock: Any, peer: Peer, head: bytes, wake: Wake) -> None:
        """Serve one that is admitted: write `head`, then what it says; `wake` is set to wake us."""
        raise NotImplementedError

    def admit(self, peer: Peer) -> bool:
        """Count a connection, unless we are full, and tell it when the process ends.

        `dismiss` gives its place back, also if it comes to nothing.
        """
        with self._mutex:
            if self.full:
                return False
            self._peers.add(peer)
            self._start_watching()
        return True

    def accompany(self, stream: SSEStream) -> None:
        """End a stream of one of the app's own views, too, when the process ends."""
        with self._mutex:
            self._streams.add(stream)
            self._start_watching()
        if self.going:
            stream.close()

    def _start_watching(self) -> None:
        if self._watcher is None:
            atexit.register(self.stop)
            self._watcher = threading.Thread(
                target=self._watch, name="flask-fsm-watch", daemon=True
            )
            self._watcher.start()

    def dismiss(self, peer: Peer) -> None:
        """Let go of a connection that is closed, once what its client had asked for is done."""
        try:
            peer.finish()
        finally:
            with self._mutex:
                self._peers.discard(peer)

    def _watch(self) -> None:
        """Tell the clients to come back, once gunicorn has told its worker to end.

        A worker waits for its threads before it ends, and these wait for their clients.
        """
        while not self.going:
            if is_ending():
                self.tell_all(CloseCode.SERVICE_RESTART)
                return
            time.sleep(LOOK)

    def tell_all(self, code: int) -> None:
        """End all connections with a code, and take no more."""
        self.going = True
        with self._mutex:
            peers, streams = list(self._peers), list(self._streams)
        for stream in streams:
            try:
                stream.close()
            except Exception:  # of a channel of the app's own
                log.exception("A stream could not be ended.")
        for peer in peers:
            peer.session.closing = code
            peer.subscriber.queue.notify()

    def stop(self, within: float = 1.0) -> None:
        """End all connections at the end of the process, within that many seconds."""
        self.tell_all(CloseCode.SERVICE_RESTART)
        end = time.monotonic() + within
        while len(self._peers) and time.monotonic() < end:
            time.sleep(0.01)
