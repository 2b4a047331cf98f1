"""docs/asyncapi.json: it is a document of AsyncAPI 3, says what the code does, and refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, ValidationError

from flask_fsm import EventStatus
from flask_fsm.live.protocol.frames import InvalidPayload, parse

from .frames import checked, document, refused, validator

META = Path(__file__).with_name("asyncapi-3.0.0.json")
STATE = {"state": "a", "events": ["go"], "status": 200, "data": None, "rev": 0}
DATA = {"status": 200, "data": None}
GROUP = {"status": 200, "data": 1, "group": "ops", "type": "message"}
ID = "O0K980OfXq6T-0"


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def found(reference: str) -> Any:
    part: Any = document()
    for name in reference.removeprefix("#/").split("/"):
        part = part[name]
    return part


def test_it_is_a_document_of_asyncapi() -> None:
    """The document is valid by the schema that the AsyncAPI Initiative publishes for 3.0.0."""
    schema = json.loads(META.read_text())
    Draft7Validator.check_schema(schema)
    assert [error.message for error in Draft7Validator(schema).iter_errors(document())] == []


def test_all_references_lead_somewhere() -> None:
    """Each $ref names a part of the document, and each operation's messages its channel's."""
    assert len([found(each) for each in references(document())]) > 40
    for operation in document()["operations"].values():
        for side in (operation, operation.get("reply", operation)):
            channel = side["channel"]["$ref"]
            assert all(each["$ref"].startswith(f"{channel}/messages/") for each in side["messages"])


@pytest.mark.parametrize("name", document()["components"]["schemas"])
def test_all_schemas_are_schemas(name: str) -> None:
    """Each schema is one of JSON Schema's draft 7, and each is used or stands for HTTP."""
    Draft7Validator.check_schema(document()["components"]["schemas"][name])
    used = f"#/components/schemas/{name}" in set(references(document()))
    assert used or name in ("ServerFrame", "Health", "Problem")


def test_examples_are_valid() -> None:
    """Each example of a message is valid by the schema of that message."""
    for message in document()["components"]["messages"].values():
        schema = message["payload"]["$ref"].rpartition("/")[2]
        for example in message.get("examples", ()):
            validator(schema).validate(example["payload"])


def test_it_names_all_statuses() -> None:
    """The statuses of the document are those of EventStatus, and each is explained."""
    status = document()["components"]["schemas"]["Status"]
    assert status["enum"] == [int(each) for each in EventStatus]
    assert all(f"{int(each)} {each.name}" in status["description"] for each in EventStatus)


@pytest.mark.parametrize(
    "frame",
    [
        STATE,
        {**STATE, "ref": 0, "id": ID, "gap": True},
        {**STATE, "events": []},
        DATA,
        {**DATA, "ref": False, "id": f"{ID},{ID}"},
        GROUP,
        {**GROUP, "type": "join", "data": {"member": "me", "name": "Ada"}, "id": ID},
        {**GROUP, "type": "gap", "data": None, "gap": True},
    ],
)
def test_frames(frame: Any) -> None:
    """The frames that the protocol knows are taken."""
    assert checked(json.dumps(frame)) == frame


@pytest.mark.parametrize(
    "frame",
    [
        [],
        {},
        {**STATE, "status": 204},
        {**STATE, "rev": -1},
        {**STATE, "rev": "0"},
        {**STATE, "events": ["go", "go"]},
        {**STATE, "events": None},
        {**STATE, "gap": False},
        {**STATE, "id": "no-id"},
        {**STATE, "more": 1},
        {name: STATE[name] for name in STATE if name != "rev"},
        {name: STATE[name] for name in STATE if name != "data"},
        {"status": 200},
        {**DATA, "gap": True},
        {**DATA, "ref": None},
        {**DATA, "ref": [1]},
        {**DATA, "events": []},
        {**GROUP, "state": "a"},
        {**GROUP, "status": 400},
        {**GROUP, "gap": True},
        {**GROUP, "type": "gap", "data": None},
        {**GROUP, "type": "join"},
        {**GROUP, "type": "leave", "data": {"name": "Ada"}},
    ],
)
def test_what_is_no_frame(frame: Any) -> None:
    """The checker can fail: a frame with one fault is refused."""
    with pytest.raises(ValidationError):
        checked(json.dumps(frame))


def test_what_is_no_json() -> None:
    """NaN, two frames in one, and a frame cut short are refused."""
    for text in ('{"status":200,"data":NaN}', '{"status":200,"data":1}{}', '{"status":200'):
        with pytest.raises(ValueError):
            checked(text)


def test_refusals() -> None:
    """A refusal has a reason and a message, and is a frame like any other."""
    text = json.dumps({"status": 402, "data": {"reason": "no_event", "message": "No."}, "ref": 1})
    assert refused(text) == checked(text)
    for wrong in ({"status": 200}, {"data": {"reason": "x"}}, {"data": "x"}, {"id": ID}):
        with pytest.raises(ValidationError):
            refused(json.dumps({**json.loads(text), **wrong}))


EVENT: dict[str, Any] = {"event": "go", "data": None}
CLIENT_FRAMES: list[Any] = [
    EVENT,
    {**EVENT, "ref": None},
    {**EVENT, "ref": "a" * 128},
    {**EVENT, "ref": "a" * 129},
    {**EVENT, "ref": 1.5},
    {**EVENT, "ref": True},
    {**EVENT, "ref": 2**63},
    {**EVENT, "ref": -(2**63) + 1},
    {**EVENT, "ref": [1]},
    {**EVENT, "ref": {}},
    {**EVENT, "rev": 0},
    {**EVENT, "rev": None},
    {**EVENT, "rev": -1},
    {**EVENT, "rev": True},
    {**EVENT, "rev": "1"},
    {**EVENT, "rev": 1.5},
    {**EVENT, "event": ""},
    {**EVENT, "event": "e" * 255},
    {**EVENT, "event": "e" * 256},
    {**EVENT, "event": None},
    {**EVENT, "event": 1},
    {**EVENT, "data": {"deep": [[[]]]}},
    {**EVENT, "more": 1},
    {"event": "go"},
    {"data": 1},
    {},
    [],
    [EVENT],
    "go",
    1,
    None,
    True,
]


@pytest.mark.parametrize("frame", CLIENT_FRAMES)
def test_client_frames(frame: Any) -> None:
    """The server takes what the schema of client frames takes, and nothing else."""
    try:
        parse(json.dumps(frame))
    except InvalidPayload:
        taken = False
    else:
        taken = True
    assert validator("ClientFrame").is_valid(frame) == taken
