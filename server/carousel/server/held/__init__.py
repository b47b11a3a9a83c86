"""Held states: steps of states that callers keep themselves; the server keeps nothing."""
