"""Guarded page-flow state machines for Flask."""
