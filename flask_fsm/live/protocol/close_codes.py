"""Close codes: why the server ends a websocket (RFC 6455 section 7.4), as docs/protocol lists."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode"]


class CloseCode(IntEnum):
    """A code from 4400 on, or one that IANA has registered."""

    POLICY_VIOLATION = 1008
    """A refusal of a kind that has no code of its own."""
    MESSAGE_TOO_BIG = 1009
    UNRESPONSIVE = 1011
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    """The client is too slow: see `Subscriber.take`."""
    SUBJECT_CHANGED = 4401
    NOT_ADMITTED = 4403
    FLOW_GONE = 4404
