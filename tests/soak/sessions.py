"""4,096 sessions of the shipped models for two minutes, every output compared with the reference.

The server's memory must stay flat meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from carousel.model import load
from carousel.model.zoo import shipped
from tests.processes import ServerProcess
from tests.soak.many_sessions import Oracle, Result, follow_all

MIB = 1024**2
GROWTH_MIB = 32  # what the server's memory may differ by after its first half minute


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=120.0)


def run(options: argparse.Namespace) -> list[str]:
    rng = np.random.default_rng(0)
    oracles = [
        Oracle.of(name, load(folder / "1"), steps=600, rng=rng)
        for name, folder in shipped().items()
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder), store=Path(folder) / "models", shipped=True) as server,
    ):
        result = asyncio.run(watched(server.pid, server.target, oracles, options))
        server.terminate()
    return result.wrong


async def watched(
    pid: int, target: str, oracles: list[Oracle], options: argparse.Namespace
) -> Result:
    """Run the load and print the server's memory beside it."""
    memory: list[tuple[float, float]] = []

    async def watch() -> None:
        begin = time.monotonic()
        while True:
            memory.append((time.monotonic() - begin, resident(pid)))
            print(f"{memory[-1][0]:6.0f} s  {memory[-1][1]:8.1f} MiB", flush=True)
            await asyncio.sleep(10)

    watcher = asyncio.create_task(watch())
    result = await follow_all(target, oracles, sessions=options.sessions, seconds=options.seconds)
    watcher.cancel()
    settled = [mib for at, mib in memory if at >= min(30, options.seconds / 3)]
    growth = max(settled) - settled[0] if settled else 0.0
    print(
        f"{result.steps:,} steps of {options.sessions:,} sessions in {result.seconds:.0f} s "
        f"({result.steps / result.seconds:,.0f}/s); largest difference {result.worst:.1e} of the "
        f"largest output; memory grew by {growth:.1f} MiB after it had settled"
    )
    if growth > GROWTH_MIB:
        result.wrong.append(f"the server grew by {growth:.1f} MiB")
    return result


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB
