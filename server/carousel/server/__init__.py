"""The gRPC server: requests in, turns of the engine, answers out."""

from carousel.server.app import Server
from carousel.server.settings import Settings

__all__ = ["Server", "Settings"]
