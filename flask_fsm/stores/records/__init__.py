"""Flows as records on a server: what `memory://`, SQL databases and Redis have in common."""
