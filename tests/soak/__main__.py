"""`make soak`: 4,096 sessions of the shipped models for two minutes; memory must stay flat."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from carousel.model import load
from carousel.model.zoo import shipped
from tests.soak.many_sessions import Oracle, Result, run

MIB = 1024**2
GROWTH_MIB = 32  # what the server's memory may differ by after its first half minute


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


async def watched(pid: int, target: str, oracles: list[Oracle], args: argparse.Namespace) -> Result:
    """Run the load and print the server's memory beside it."""
    memory: list[tuple[float, float]] = []

    async def watch() -> None:
        begin = time.monotonic()
        while True:
            memory.append((time.monotonic() - begin, resident(pid)))
            print(f"{memory[-1][0]:6.0f} s  {memory[-1][1]:8.1f} MiB", flush=True)
            await asyncio.sleep(10)

    watcher = asyncio.create_task(watch())
    result = await run(target, oracles, sessions=args.sessions, seconds=args.seconds)
    watcher.cancel()
    settled = [mib for at, mib in memory if at >= min(30, args.seconds / 3)]
    growth = max(settled) - settled[0] if settled else 0.0
    print(
        f"{result.steps:,} steps of {args.sessions:,} sessions in {result.seconds:.0f} s "
        f"({result.steps / result.seconds:,.0f}/s); largest difference {result.worst:.1e} of the "
        f"largest output; memory grew by {growth:.1f} MiB after it had settled"
    )
    if growth > GROWTH_MIB:
        result.wrong.append(f"the server grew by {growth:.1f} MiB")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=120.0)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    oracles = [
        Oracle.of(name, load(folder / "1"), steps=600, rng=rng)
        for name, folder in shipped().items()
    ]
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "carousel.cli", "serve", "--port", "0", "--http-port", "0"]
        command += ["--store", store, "--log-level", "warning", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            target = json.loads(server.stdout.readline())["target"]
            result = asyncio.run(watched(server.pid, target, oracles, args))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    for line in result.wrong[:20]:
        print(line)
    print("FAILED" if result.wrong else "every output was the reference's")
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
