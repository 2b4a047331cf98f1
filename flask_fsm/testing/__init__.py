"""Testing an app: visitors of its pages, clients of its live routes, and a clock that a test sets.

visitor = Visitor(app)
visitor.open("address")
visitor.submit(street="Mill Lane 1")
visitor.follow()
assert visitor.state == "payment"
"""

from .clock import FrozenClock, frozen_clock
from .live_client import LiveClient, LiveReply
from .live_connections import LiveEvent, LiveSocket, LiveStream
from .live_server import LiveServer
from .visitor import Form, Visitor

__all__ = [
    "Form",
    "FrozenClock",
    "LiveClient",
    "LiveEvent",
    "LiveReply",
    "LiveServer",
    "LiveSocket",
    "LiveStream",
    "Visitor",
    "frozen_clock",
]
