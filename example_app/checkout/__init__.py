"""The checkout: eight pages, a branch, an optional page, and edits from the review."""

from .views import pages

__all__ = ["pages"]
