"""A process that forks while its bus is in use: python -m tests.bus.forking URL.

The child goes on with what was subscribed before, and its own messages reach the parent.
"""

from __future__ import annotations

import os
import sys
import warnings

from flask_fsm.bus.redis.bus import RedisBus

from .recorder import Recorder


def child(bus: RedisBus, before: Recorder) -> None:
    own = Recorder()
    bus.subscribe("own", own)
    bus.publish("own", "to itself")
    own.until_payload("to itself")
    bus.publish("c", "from the child")
    before.until_payload("from the child")
    before.until_payload("from the parent")
    assert bus.flush(60)
    bus.close()


def main(url: str) -> None:
    warnings.simplefilter("ignore")
    bus = RedisBus(url)
    recorder = Recorder()
    bus.subscribe("c", recorder)
    bus.publish("c", "before")
    recorder.until_payload("before")
    # Some are still on their way in both directions.
    for number in range(200):
        bus.publish("c", str(number))
    pid = os.fork()
    if not pid:
        try:
            child(bus, recorder)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    recorder.until_payload("from the child")
    bus.publish("c", "from the parent")
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    recorder.until_payload("from the parent")
    numbered = [payload for payload in recorder.payloads if payload.isdigit()]
    assert numbered == [str(number) for number in range(200)], "once each, by the parent"
    bus.close()
    print("fine")


if __name__ == "__main__":
    main(*sys.argv[1:])
