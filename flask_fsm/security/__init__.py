"""Signed tokens, encrypted ids, and the rules of same origin."""
