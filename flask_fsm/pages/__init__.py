"""Guarded pages: the decorators of views, what a request gets, and the way to the next page."""
