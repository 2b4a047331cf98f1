"""A process that publishes: python -m tests.bus.publisher URL NAME COUNT."""

from __future__ import annotations

import sys

from flask_fsm.bus.redis.bus import RedisBus


def main(url: str, name: str, messages: str) -> None:
    """Publish messages that are numbered, and say when they are out."""
    bus = RedisBus(url)
    for number in range(int(messages)):
        bus.publish("c", f"{name} {number}")
    print(bus.flush(60))
    bus.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
