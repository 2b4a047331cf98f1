"""Channels of an app: their listeners, whoever else comes and goes meanwhile."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import pytest
from flask import Flask

from flask_fsm import FlaskFSM, FSMError, Machine
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


@pytest.fixture
def fsm() -> FlaskFSM:
    """An extension without an app."""
    return FlaskFSM(Machine("m", [("a", "b")]))


@pytest.fixture
def app(fsm: FlaskFSM) -> Flask:
    """An app of that extension."""
    made = Flask("channels")
    made.secret_key = "a key"
    fsm.init_app(made)
    return made


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\0", None, 5])
def test_groups_that_nobody_could_join(app: Flask, fsm: FlaskFSM, name: Any) -> None:
    """They are refused where they are named, with the rule for names."""
    with app.app_context(), pytest.raises(FSMError, match="printable name"):
        fsm.live.group(name)


@pytest.mark.parametrize(
    ("event", "data"),
    [("ping", float("nan")), ("ping", object()), ("", None), (None, None)],
)
def test_events_that_nobody_could_send(app: Flask, fsm: FlaskFSM, event: Any, data: Any) -> None:
    """They are refused here, not at each member."""
    with app.app_context(), pytest.raises(TypeError):
        fsm.live.group("ops").send(event, data)


def test_a_flow_that_is_none(app: Flask, fsm: FlaskFSM) -> None:
    """What is neither a flow nor an id is refused at once."""
    nothing: Any = None
    with app.app_context(), pytest.raises(TypeError):
        fsm.live.flow(nothing)
