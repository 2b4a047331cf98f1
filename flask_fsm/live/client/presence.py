"""Presence: the members of groups. Each join and leave is a message of the group."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from ...bus import Bus
from ...errors import StoreUnavailable
from ..channels.app_channels import Channels
from ..protocol.frames import Envelope, EnvelopeKind, dumps, group_frame

__all__ = ["LONGEST_GROUP", "Membership", "is_group", "members"]

log: Final = logging.getLogger("flask_fsm")
LONGEST_GROUP: Final = 128


def is_group(name: object) -> bool:
    """Return whether this is a valid group name: 1 to 128 printable characters."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_GROUP and name.isprintable()


def members(bus: Bus, channel: str) -> list[dict[str, Any]]:
    """Return the presence list of the group with this channel: a dict for each member."""
    return [{"member": member, **json.loads(info)} for member, info in bus.members(channel).items()]


class Membership:
    """The presence of one client in its groups. It expires unless it is renewed."""

    def __init__(
        self,
        channels: Channels,
        groups: Mapping[str, Mapping[str, Any]],
        member: str,
        seconds: float,
    ) -> None:
        """Take the channels of the groups, each with the client's info for its members."""
        self._channels = channels
        self.groups: dict[str, str] = {name: dumps(info) for name, info in groups.items()}
        self._member = member
        self._entering = False
        self._seconds = seconds

    def enter(self) -> None:
        """Join the groups, and announce that to them."""
        self._entering = True
        for name in self.groups:
            self._enter(name)

    def _enter(self, name: str) -> None:
        info = self.groups[name]
        until = time.time() + self._seconds
        if self._channels.bus.enter(name, self._member, info, until):
            self._announce(name, "join", self._member, info)

    def renew(self) -> None:
        """Renew the presence, and announce the members whose presence has expired."""
        bus = self._channels.bus
        try:
            for name in list(self.groups):
                if bus.renew(name, [self._member], time.time() + self._seconds):
                    self._enter(name)
                for member, info in bus.expired(name):
                    self._announce(name, "leave", member, info)
        except StoreUnavailable as error:  # for a while: presence lasts longer than one renewal
            self._channels.outages.log(error)
        except Exception:
            log.exception("Failed to renew the presence of a member in %s.", ", ".join(self.groups))

    def leave(self) -> None:
        """Leave the groups that were joined, and announce that to them."""
        groups, self.groups = self.groups if self._entering else {}, {}
        try:
            for name, info in groups.items():
                if self._channels.bus.leave(name, self._member):
                    self._announce(name, "leave", self._member, info)
        except StoreUnavailable as error:
            self._channels.outages.log(error)
        except Exception:
            log.exception("Failed to announce that a member has left %s.", ", ".join(groups))

    def _announce(self, name: str, type: str, member: str, info: str) -> None:
        payload = {"member": member, **json.loads(info)}
        group = name.partition(":")[2]
        self._channels.publish(
            name, Envelope(EnvelopeKind.GROUP_MESSAGE, group_frame(group, type, payload), member)
        )
