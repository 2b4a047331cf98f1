"""Live: channels and what flows through them, to sockets, streams and other processes."""
