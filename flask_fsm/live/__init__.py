"""Live: channels, and the websockets, event streams and processes that they connect."""
