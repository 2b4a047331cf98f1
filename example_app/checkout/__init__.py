"""The checkout: eight pages, a branch, a page that comes and goes, and edits from the last one."""

from .views import pages

__all__ = ["pages"]
