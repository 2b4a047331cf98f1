"""automata-ws as its README serves it: one state with one event. Takes the port."""

from __future__ import annotations

import sys
from typing import Any

from automata import Automata, EventStatus, State, transmit

idle = State("idle")


@idle.event("echo")
async def echo(automata: Any, data: Any) -> None:
    await transmit(automata, EventStatus.OK, data)


machine = Automata(name="bench")
machine.register_state(idle)

if __name__ == "__main__":
    machine.run("127.0.0.1", int(sys.argv[1]))
