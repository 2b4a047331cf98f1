"""Room: whether a new connection has a place beside those of its flow, its address, its process."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

from flask import request

from ...errors import Code
from ...texts import _
from ..channels.app_channels import LiveChannel, TooManyConnections
from ..server.engine import Engine
from ..service import Service
from .problem import Problem

__all__ = ["client_address", "full", "room_finder"]

# Set by Werkzeug's ProxyFix when it has replaced the address of a proxy.
PROXY_FIX: Final = "werkzeug.proxy_fix.orig"
# Bits of an IPv6 address that one client can't choose (RFC 6177).
NETWORK_BITS: Final = 64


def client_address() -> str:
    """Return the address under which the client of this request is counted, or ''.

    A client that has an IPv6 address has a whole network of them, so the network is counted. On a
    unix socket no address is known.
    """
    text = request.remote_addr or ""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{int(address) >> (128 - NETWORK_BITS):x}/{NETWORK_BITS}"
    return str(address)


def full() -> Problem:
    """Return the refusal of a connection beyond the limit."""
    text = "This server has reached its limit of connections."
    return Problem.of(503, Code.FULL, text, Retry_After="5")


def room_finder(service: Service, engine: Engine) -> Callable[[LiveChannel | None], int]:
    """Return a function that checks whether a flow, given its channel, may have a new connection.

    It returns how many connections the flow may have. It raises TooManyConnections if the flow or
    the client's address has too many, or Problem if the process has.
    """

    def find_room(channel: LiveChannel | None) -> int:
        most = engine.most_per_flow(service.config.max_connections_per_flow)
        if channel is not None:
            channel.require_room(most)
        address = client_address()
        if engine.is_crowded(address):
            if "X-Forwarded-For" in request.headers and PROXY_FIX not in request.environ:
                service.warn_of_proxy(address)
            raise TooManyConnections(
                _("Your network has too many connections already: try again later.")
            )
        if engine.full:
            raise full()
        return most

    return find_room
