"""Which flow a request means: whose it is, and under which key."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import quote

from flask import request

from ..binding.bound_machine import FLOW_ARGUMENT, Bound
from ..errors import Code, NotFound
from ..stores.base import FlowLocator, digest
from .session_data import SessionFlow, owner_secret

__all__ = ["find_key", "find_owner", "needs_key", "no_such_flow", "session_flow", "subject_of"]

KEY: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
LONGEST_KEY: Final = 200


def subject_of(bound: Bound, url_args: Mapping[str, Any]) -> str | None:
    """Return the subject of this request; None if the flow is the session's."""
    return None if bound.subject_of is None else bound.subject_of(url_args)


def find_owner(
    bound: Bound, url_args: Mapping[str, Any], session: Mapping[str, Any]
) -> FlowLocator:
    """Return whose flow a request means, without a key: its subject's, or its session's."""
    machine = bound.machine
    subject = None if bound.subject_of is None else bound.subject_of(url_args)
    secret: str | None = None
    if machine.many and subject is None:
        # A new one is kept with the first flow.
        secret = owner_secret(session, bound.name) or secrets.token_urlsafe(16)
    return FlowLocator(machine, subject, secret)


def needs_key(bound: Bound) -> bool:
    """Return whether the URL lacks the key of a flow, so that it asks for a new flow."""
    return bound.machine.many is True and FLOW_ARGUMENT not in request.args


def find_key(bound: Bound, url_args: Mapping[str, Any]) -> str:
    """Return the key of the flow that a request means; a new random one if its URL lacks it."""
    many = bound.machine.many
    if many is False:
        return ""
    if many is True:
        asked = request.args.get(FLOW_ARGUMENT)
        if asked is None:
            return secrets.token_urlsafe(9)
        if KEY.fullmatch(asked) is None:
            raise no_such_flow()
        return asked
    if many not in url_args:
        raise NotFound(
            f"Machine {bound.name!r} has a flow for each {many!r}, and this address has "
            f"none: ask within a view that has this URL argument.",
            code=Code.NO_KEY,
        )
    key = quote(bound.text_of(many, url_args[many]), safe="")
    return key if len(key) <= LONGEST_KEY else digest(key)


def session_flow(
    bound: Bound, session: MutableMapping[str, Any], locator: FlowLocator
) -> SessionFlow:
    """Return a flow with its place in the session."""
    slot = locator.key
    if bound.by_url and locator.subject is not None:
        slot = f"{digest(locator.subject)[:16]} {slot}"
    return SessionFlow(session, bound.name, locator, slot, bool(bound.machine.many) or bound.by_url)


def no_such_flow() -> NotFound:
    """Return the one error of a flow that does not exist and of one that is somebody else's."""
    return NotFound("There is no such page.", code=Code.NO_FLOW)
