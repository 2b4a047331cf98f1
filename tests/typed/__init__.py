"""A user's program, checked by mypy --strict and by pyright; no test runs it."""
