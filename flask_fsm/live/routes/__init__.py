"""The routes of websockets, event streams, state and events over plain HTTP."""
