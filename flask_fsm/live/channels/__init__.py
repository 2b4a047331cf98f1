"""Channels, their listeners, and the messages and streams that these get."""
