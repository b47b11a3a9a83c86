"""What tests do with the engine of a running server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from carousel.server.loaded import LoadedVersion
from tests.conftest import RunningServer
from tests.processes import PATIENCE


def in_engine(server: RunningServer, function: Callable[[], Any]) -> Any:
    """Call a function between two turns."""

    async def call() -> Any:
        return await server.server.hall.engine.call(function)

    return server.run(call())


@contextmanager
def held_up(server: RunningServer) -> Iterator[None]:
    """The engine stands still meanwhile."""
    reached, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        go_on.wait(PATIENCE)

    server.loop.call_soon_threadsafe(server.server.hall.engine.call, wait)
    assert reached.wait(PATIENCE)
    try:
        yield
    finally:
        go_on.set()


def version_of(server: RunningServer, model: str = "tiny") -> LoadedVersion:
    return server.server.hall.registry.resolve(f"models/{model}")
