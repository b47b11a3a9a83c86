"""The server processes: the real one, the null one and the naive ones, each on a free port."""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

KINDS = ("real", "null", "aio", "naive", "batching", "held")


def run(pipe: Connection, kind: str, store: Path, model: str, options: dict[str, Any]) -> None:
    """The main function of a server process: say the port, serve until ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if kind in ("real", "null"):  # on uvloop, as `carousel serve` does it
            uvloop.run(_carousel(pipe, kind, store, model, options))
        elif kind == "aio":
            uvloop.run(_naive(pipe, kind, store / model / "1"))
        else:
            asyncio.run(_naive(pipe, kind, store / model / "1"))
    except Exception:
        pipe.send((False, traceback.format_exc()))


async def _carousel(
    pipe: Connection, kind: str, store: Path, model: str, options: dict[str, Any]
) -> None:
    from carousel.server import Server, Settings, app, logs

    logs.configure(level="error", style="text")
    if kind == "null":
        from tests.bench.null import NullInference

        setattr(app, "InferenceService", NullInference)  # noqa: B010 - a module, not a class
    settings = Settings.read(
        None,
        host="127.0.0.1",
        port=0,
        http_port=0,
        store=store,
        shipped=False,
        log_level="error",
        # Not beside the store: that folder is everybody's.
        **{"data": store / f"data-{os.getpid()}", "load": (model,), **options},
    )
    server = Server(settings)
    await server.start()
    _end_with_parent(pipe)
    pipe.send((True, server.port))
    await server.wait()


async def _naive(pipe: Connection, kind: str, folder: Path) -> None:
    from tests.bench import naive

    server, port = await naive.start(kind, folder)
    _end_with_parent(pipe)
    pipe.send((True, port))
    await server.wait_for_termination()


def _end_with_parent(pipe: Connection) -> None:
    """The parent says nothing: what comes is the end of the pipe, whatever became of it."""
    asyncio.get_running_loop().add_reader(pipe.fileno(), os._exit, 0)
