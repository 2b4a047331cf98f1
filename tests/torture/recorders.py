"""Clients that follow a flow, and note all that they are told of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ..clients import PATIENCE
from ..live.serving import Browser, Socket

__all__ = ["GAP", "Follower", "Log"]

# Stands in a log where messages were lost, and the client was told so.
GAP: Final = "gap"
# How a connection ends that is not ended by us.
BROKEN: Final = (ConnectionClosed, EOFError, OSError)


class Log:
    """What one client has been told of a flow. A state that goes back is an error at once."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        """The data of the data frames, in order, with GAP where some are missing."""
        self.state = ""
        self.rev = -1
        self.id = ""
        """The id of the last frame that had one."""
        self.errors: list[Any] = []
        self.frames: list[Any] = []
        """All of it, for a test that fails."""

    @property
    def gaps(self) -> int:
        return self.said.count(GAP)

    def take(self, frame: dict[str, Any], *, first: bool = False) -> None:
        """Note a frame; `first`: of a connection, whose state may be known already."""
        self.frames.append(frame)
        if frame["status"] >= 400:
            self.errors.append(frame)
            return
        if "state" in frame:
            # An answer whose state has been overtaken tells the later one again.
            again = first or "gap" in frame or "ref" in frame
            known = self.rev if again else self.rev + 1
            assert frame["rev"] >= known, ("The state goes back.", self.frames)
            self.state, self.rev = frame["state"], frame["rev"]
            if frame.get("gap"):
                self.said.append(GAP)
        else:
            self.said.append(frame["data"])
        if "id" in frame:
            self._follow(frame["id"], gap="gap" in frame)

    def _follow(self, id: str, *, gap: bool) -> None:
        """Check that ids count on; a state frame may repeat one, or take several."""
        epoch, _, offset = id.partition("-")
        known, _, last = self.id.partition("-")
        if self.id and not gap:
            assert epoch == known, ("A new epoch, and no gap.", self.frames[-5:])
            assert int(offset) >= int(last), ("An id goes back.", self.frames[-5:])
        self.id = id


class Connection(Protocol):
    """A socket or a stream."""

    def receive(self, timeout: float = PATIENCE) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Follower:
    """A client that goes on from where it was whenever its connection breaks, in a thread.

    `next_cut` says after how many frames it breaks the connection itself; None: never again.
    """

    def __init__(self, browser: Browser, kind: str, next_cut: Callable[[], int | None]) -> None:
        self._browser = browser
        self._kind = kind
        self._next_cut = next_cut
        self._stop = threading.Event()
        self._may_connect = threading.Event()
        self._may_connect.set()
        self._more = threading.Condition()
        self._error: BaseException | None = None
        self.log = Log()
        self.connections = 0
        self.cuts = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    # -- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._may_connect.wait(0.05):
                    self._connect_and_read()
        except BaseException as error:
            with self._more:
                self._error = error
                self._more.notify_all()

    def _connect(self) -> Connection | None:
        since = self.log.id or None
        try:
            if self._kind == "websocket":
                return self._browser.copy().websocket("ring", since=since)
            stream = self._browser.copy().curl_events("ring", last_id=since)
        except (InvalidHandshake, *BROKEN):
            return None
        if stream.status == 200:
            return stream
        stream.close()
        return None

    def _connect_and_read(self) -> None:
        connection = self._connect()
        if connection is None:
            self._stop.wait(0.05)  # the server of the bus is away
            return
        self.connections += 1
        left = self._next_cut()
        first = True
        try:
            while self._goes_on() and (left is None or left > 0):
                try:
                    frame = connection.receive(0.1)
                except TimeoutError:
                    continue
                with self._more:
                    # A state frame comes first, or after what was missed.
                    self.log.take(frame, first=first)
                    self._more.notify_all()
                first = first and "state" not in frame
                left = None if left is None else left - 1
        except BROKEN:
            return
        finally:
            self._break(connection)
        self.cuts += 1

    def _goes_on(self) -> bool:
        return self._may_connect.is_set() and not self._stop.is_set()

    def _break(self, connection: Connection) -> None:
        if isinstance(connection, Socket) and not self._stop.is_set():
            connection.cut()
        else:
            connection.close()

    # -- the test -----------------------------------------------------------------------

    def wait_for(self, ready: Callable[[Log], bool], patience: float = PATIENCE) -> bool:
        """Wait until the log is as wanted, and tell whether it is; raise what has gone wrong."""
        deadline = time.monotonic() + patience
        with self._more:
            while not ready(self.log) and self._error is None:
                if not self._more.wait(deadline - time.monotonic()):
                    break
            if self._error is not None:
                raise self._error
            return ready(self.log)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Break the connection, and make none meanwhile."""
        self._may_connect.clear()
        yield
        self._may_connect.set()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
