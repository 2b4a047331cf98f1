"""ConnectionFlow: the flow of one connection, for machines with scope="connection"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ...core.event import SAME, EventStatus, check_status
from ...core.flow import Flow, Result
from ...core.flow_base import Sent
from ...core.machine import Machine
from ...core.reply import dump_reply
from ...runtime.app_state import AppState

__all__ = ["ConnectionFlow"]


class Client(Protocol):
    """Sends the frames of a flow to the one client that has it."""

    def moved(self, flow: Flow, result: Result, status: int, reply: Any) -> None: ...

    def transmitted(self, data: Any, status: int) -> None: ...


class ConnectionFlow(Flow):
    """The flow of one connection: it is never stored, and ends with the connection."""

    __slots__ = ("_client",)

    def __init__(self, machine: Machine, state: AppState, client: Client) -> None:
        super().__init__(machine, clock=state.clock)
        self._client = client

    def transition(
        self,
        to: str,
        data: Any = None,
        *,
        source: str | None = None,
        status: int = EventStatus.OK,
        reply: Any = SAME,
    ) -> Result:
        # Nothing is stored, so data that is not a mapping can be sent without being an answer.
        answers = data if isinstance(data, Mapping) else None
        sent = data if reply is SAME else reply
        check_status(status)
        dump_reply(sent)  # raises TypeError before anything has changed
        result = self.step(to, answers, source=source)
        self.apply(result)
        if self._sent is not None:
            self._sent.append(Sent(status, sent, result))
        self._client.moved(self, result, status, sent)
        return result

    def transmit(self, data: Any = None, status: int = EventStatus.OK) -> None:
        super().transmit(data, status)
        self._client.transmitted(data, status)
