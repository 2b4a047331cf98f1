"""The floor: a generator and a queue for each subscriber, on gevent, and nothing else.

Gunicorn serves `app`; run as a module with a port, gevent's own pywsgi does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from gevent.pywsgi import WSGIServer
from gevent.queue import SimpleQueue

from .payload import payload

queues: set[SimpleQueue] = set()


def stream(queue: SimpleQueue) -> Iterator[bytes]:
    queues.add(queue)
    try:
        yield b"retry: 3000\n\n"
        while True:
            yield queue.get()
    finally:
        queues.discard(queue)


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return stream(SimpleQueue())
    query = parse_qs(environ["QUERY_STRING"])
    first = int(query["first"][0])
    for number in range(first, first + int(query["count"][0])):
        event = f"event: message\ndata: {json.dumps(payload(number))}\n\n".encode()
        for queue in queues:
            queue.put(event)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return [b""]


if __name__ == "__main__":
    WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None).serve_forever()
