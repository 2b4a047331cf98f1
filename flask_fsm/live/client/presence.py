"""Presence: who is in a group. Joining and leaving are messages of the group, as any other."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from ...bus import Bus
from ..channels.app_channels import Channels
from ..protocol.frames import Envelope, EnvelopeKind, dumps, group_frame

__all__ = ["LONGEST_GROUP", "Membership", "is_group", "members"]

log: Final = logging.getLogger("flask_fsm")
LONGEST_GROUP: Final = 128


def is_group(name: object) -> bool:
    """Tell whether a group may have this name: a printable text of 1 to 128 characters."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_GROUP and name.isprintable()


def members(bus: Bus, channel: str) -> list[dict[str, Any]]:
    """Return what is known of each member of the group with this channel."""
    return [{"member": member, **json.loads(info)} for member, info in bus.members(channel).items()]


class Membership:
    """One client's place in its groups. Unless it is renewed, it is over after some seconds."""

    def __init__(
        self,
        channels: Channels,
        groups: Mapping[str, Mapping[str, Any]],
        member: str,
        seconds: float,
    ) -> None:
        """Take the channels of the groups, and what each is told of the member."""
        self._channels = channels
        self.groups = {name: dumps(info) for name, info in groups.items()}
        self._member = member
        self._entering = False
        self._seconds = seconds

    def enter(self) -> None:
        """Join the groups, and tell them."""
        self._entering = True
        for name in self.groups:
            self._enter(name)

    def _enter(self, name: str) -> None:
        info = self.groups[name]
        until = time.time() + self._seconds
        if self._channels.bus.enter(name, self._member, info, until):
            self._tell(name, "join", self._member, info)

    def renew(self) -> None:
        """Stay, and tell the groups of those who have not."""
        bus = self._channels.bus
        try:
            for name in list(self.groups):
                if bus.renew(name, [self._member], time.time() + self._seconds):
                    self._enter(name)
                for member, info in bus.expired(name):
                    self._tell(name, "leave", member, info)
        except Exception:  # the server may be away: the time goes on
            log.exception("The presence in %s could not be renewed.", ", ".join(self.groups))

    def leave(self) -> None:
        """Leave the groups, as far as they were joined, and tell them."""
        groups, self.groups = self.groups if self._entering else {}, {}
        try:
            for name, info in groups.items():
                if self._channels.bus.leave(name, self._member):
                    self._tell(name, "leave", self._member, info)
        except Exception:
            log.exception("Leaving %s could not be told.", ", ".join(groups))

    def _tell(self, name: str, type: str, member: str, info: str) -> None:
        payload = {"member": member, **json.loads(info)}
        group = name.partition(":")[2]
        self._channels.publish(
            name, Envelope(EnvelopeKind.GROUP_MESSAGE, group_frame(group, type, payload), member)
        )
