"""The server side of connections: engines, transports, and the hand-off of sockets.

`lifecycle` cuts slow clients, `leadership` chooses the thread of an event's handler.
"""
