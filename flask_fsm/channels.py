"""Channels of messages, in a process: listeners, their queues, and streams of server-sent events.

Nothing here needs a machine or an app. The streams are answers of any WSGI view.
"""

from .errors import DuplicateChannel, NoMessages, QueueFull, UnknownChannel, UnknownListener
from .live.channels.channel import Channel, ChannelContainer, SSEChannel
from .live.channels.listener import Connection, Listener
from .live.channels.message import Message, MessageContract, SignedMessage, UniqueMessage

__all__ = [
    "Channel",
    "ChannelContainer",
    "Connection",
    "DuplicateChannel",
    "Listener",
    "Message",
    "MessageContract",
    "NoMessages",
    "QueueFull",
    "SSEChannel",
    "SignedMessage",
    "UniqueMessage",
    "UnknownChannel",
    "UnknownListener",
]
