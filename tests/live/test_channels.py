"""Channels of an app: their listeners, whoever else comes and goes meanwhile."""

from __future__ import annotations

import threading
from contextlib import closing

from flask_fsm.bus.memory import MemoryBus
from flask_fsm.live.channels import LiveChannel
from flask_fsm.live.connection import Connection


class Overtaken(LiveChannel):
    """While its last listener leaves, the next one comes."""

    coming: threading.Thread | None = None

    def get_connections(self) -> list[Connection]:
        found = super().get_connections()
        if self._changing.locked() and not found and self.coming is None:
            self.coming = threading.Thread(target=self.come)
            self.coming.start()
            self.coming.join(0.2)
        return found

    def come(self) -> None:
        self.next = self.add_listener()
        self.next.start()


def test_the_last_one_leaves_while_the_next_one_comes() -> None:
    """As when a page is loaded anew: who has come hears what is said from then on."""
    with closing(MemoryBus(10, 60)) as bus:
        channel = Overtaken("group:ops", bus, 3_000, 10)
        first = channel.add_listener()
        channel.remove_listener(first.id)
        assert channel.coming is not None
        channel.coming.join()
        channel.broadcast("hello")
        assert channel.deliver_next(channel.next.id).payload == "hello"
