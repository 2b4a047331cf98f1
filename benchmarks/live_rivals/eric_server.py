"""eric-sse as its example eric-api serves it: FastAPI, sse-starlette, uvicorn. Takes the port."""

from __future__ import annotations

import json
import sys

import uvicorn
from eric_sse.message import Message
from eric_sse.prefabs import SSEChannel
from fastapi import FastAPI
from sse_starlette.sse import EventSourceResponse

from .payload import payload

app = FastAPI()
channel = SSEChannel()


@app.get("/events")
async def events() -> EventSourceResponse:
    return EventSourceResponse(await channel.watch())


@app.get("/publish")
async def publish(first: int, count: int) -> None:
    for number in range(first, first + count):
        channel.broadcast(Message("message", json.dumps(payload(number))))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
