"""Callers that begin calls and take them back, faster than they can be looked at (rapid reset)."""

from __future__ import annotations

from carousel.server.resets.guard import Guard, ShutOut
from carousel.server.resets.opening import open_guard
from carousel.server.resets.tally import Arrivals, newest_server

__all__ = ["Arrivals", "Guard", "ShutOut", "newest_server", "open_guard"]
