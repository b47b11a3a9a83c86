"""Callers that begin calls and take them back, faster than they can be looked at (rapid reset)."""

from __future__ import annotations

from carousel.server.resets.guard import Guard, ShutOut
from carousel.server.resets.opening import Counted

__all__ = ["Counted", "Guard", "ShutOut"]
