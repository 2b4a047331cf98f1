"""One client of the live part: its events, its outgoing queue with replay, its groups."""
