"""The gRPC server: requests in, turns of the engine, answers out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carousel.server.settings import Settings

if TYPE_CHECKING:
    from carousel.server.app import Server

__all__ = ["Server", "Settings"]


def __getattr__(name: str) -> object:
    """Server comes with torch, which reading the settings need not wait for."""
    if name == "Server":
        from carousel.server.app import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
