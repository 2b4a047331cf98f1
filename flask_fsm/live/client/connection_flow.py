"""ConnectionFlow: the flow of one connection, for machines with scope="connection"."""

from __future__ import annotations

from typing import Any, Protocol

from flask import Flask

from ...core.event import SAME, EventStatus, check_status, in_order
from ...core.flow import Flow, Result
from ...core.flow_base import Sent
from ...core.machine import Machine
from ...core.reply import dump_reply
from ...runtime.app_state import AppState
from ...signals import emit, finished, transitioned

__all__ = ["ConnectionFlow"]


class Client(Protocol):
    """Sends the frames of a flow to the one client that has it."""

    def moved(self, result: Result, status: int, reply: Any) -> None: ...

    def transmitted(self, data: Any, status: int) -> None: ...


class ConnectionFlow(Flow):
    """The flow of one connection: it is never stored, and ends with the connection.

    A websocket is its `client`. An event by plain HTTP has none: its response tells what was sent.
    """

    __slots__ = ("_app", "_client", "_unnotified")

    def __init__(
        self, app: Flask, state: AppState, machine: Machine, client: Client | None = None
    ) -> None:
        super().__init__(machine, clock=state.clock)
        self._app = app
        self._client = client
        self._unnotified: list[Result] = []
        """The transitions of which hooks and receivers are still to be notified."""

    def transition(
        self,
        to: str,
        *given: Any,
        data: Any = None,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result:
        if given or data is not None:
            data, status, reply = self.arranged(given, data, status, reply)
        sent = data if reply is SAME else reply
        check_status(status)
        dump_reply(sent)  # raises TypeError before anything has changed
        result = self.step(to, data, source=source)
        self.apply(result)
        # Sent first, as a hook may make another transition, which is sent after it.
        if self._sent is not None:
            self._sent.append(Sent(status, sent, result))
        if self._client is not None:
            self._client.moved(result, status, sent)
        self._notify(result)
        return result

    def transmit(self, *given: Any, data: Any = None, status: int = EventStatus.OK) -> Sent:
        if given:
            data, status, _ = in_order(given, data, status)
        if self._client is None:
            dump_reply(data)  # raises TypeError, as a client does
        sent = super().transmit(data=data, status=status)
        if self._client is not None:
            self._client.transmitted(data, status)
        return sent

    def _notify(self, result: Result) -> None:
        """Run the hooks of a transition, and emit its signals."""
        self._unnotified.append(result)
        if len(self._unnotified) > 1:
            return  # a hook or a receiver has made it, so the call below us goes on with it
        try:
            for result in self._unnotified:  # it grows meanwhile
                self.run_hooks(result)
                facts = {"machine": self.machine.name, "flow": self, "result": result}
                emit(transitioned, self._app, **facts)
                if result.finished:
                    emit(finished, self._app, **facts)
        finally:
            self._unnotified.clear()
