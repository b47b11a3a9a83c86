"""A hostile network: what others wait for meanwhile, and the server's memory before and after."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np

from tests.conftest import tiny_models
from tests.processes import ServerProcess
from tests.server.contract import Wire
from tests.soak.hostile_callers import KINDS

MOST_CONNECTIONS, SPARE = 10_000, 500
LET_GO = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
PAUSE = 0.005  # between two steps of who is measured
SETTLE_SECONDS, BACK_SECONDS, MIB = 30.0, 60.0, 1024
MORE_MIB = 64  # that may be kept in the end, for the next of the same
# gRPC keeps an event handle of 88 bytes, and a node of a list, for as many connections as there
# ever were at once; each holds a page of what was freed around it. The next ones take them up.
PAGES_KEPT = 2  # of a connection


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=12.0, help="of each kind")
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=[*KINDS])
    parser.add_argument("--guesses", type=int, default=1_000_000)
    parser.add_argument("--times", type=float, default=3.0, help="of the quiet p99 are allowed")


def run(options: argparse.Namespace) -> list[str]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connections = min(most - SPARE, MOST_CONNECTIONS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_models(folder / "models")
        with (
            ServerProcess(
                folder, store=folder / "models", max_connections=MOST_CONNECTIONS + SPARE
            ) as server,
            grpc.insecure_channel(server.target) as channel,
        ):
            return _run(server, Other(Wire(channel)), connections, options)


def _run(
    server: ServerProcess, other: Other, connections: int, options: argparse.Namespace
) -> list[str]:
    wrong = []
    other.waits(until_over(options.seconds))  # all is warm
    before = own_mib(server.pid)
    waits = other.waits(until_over(options.seconds))
    quiet = percentile(waits)
    print(f"  {'':<8} {'p99 ms':>8} {'max ms':>8} {'steps':>7} {'own MiB':>8} {'back after s':>12}")
    row = f"  {'quiet':<8} {quiet:>8.1f} {max(waits):>8.1f} {len(waits):>7,} {before:>8}"
    print(row, flush=True)
    for kind in options.kind:
        count = options.guesses if kind == "guesses" else connections
        with at_it(kind, server, count) as caller:
            guessing = kind == "guesses"
            waits = other.waits(while_it_runs(caller) if guessing else until_over(options.seconds))
            mib = own_mib(server.pid)
            hits = caller.communicate()[0].strip() if guessing else "0"
        p99 = percentile(waits)
        back = other.is_back()
        row = f"  {kind:<8} {p99:>8.1f} {max(waits):>8.1f} {len(waits):>7,} {mib:>8} {back:>12.2f}"
        print(row, flush=True)
        if p99 > options.times * quiet:
            wrong.append(f"{kind}: p99 {p99:.1f} ms, {p99 / quiet:.1f} times the quiet one")
        if hits != "0":
            wrong.append(f"{hits} of {count:,} guessed handles hit something")
    print(f"  {other.refused:,} times a step was let go of and sent again")
    held = connections if {"idle", "silent"} & set(options.kind) else 0
    allowed = before + MORE_MIB + PAGES_KEPT * held * mmap.PAGESIZE // MIB**2
    after = settled(server.pid, allowed)
    waits = other.waits(until_over(options.seconds))
    row = f"  {'after':<8} {percentile(waits):>8.1f} {max(waits):>8.1f} {len(waits):>7,} {after:>8}"
    print(row, flush=True)
    if after > allowed:
        said = f"the server had {before} MiB of its own before and has {after} after"
        wrong.append(f"{said}, {allowed} are allowed")
    return wrong


class Other:
    """Who has nothing to do with it, and measures how long each of its steps takes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._handle = wire.create().handle
        self._steps = self.refused = 0

    def waits(self, more: Callable[[], bool]) -> list[float]:
        """Milliseconds until each step was taken, however often it was let go of."""
        found = []
        while more():
            begin = time.perf_counter()
            while not self._is_taken() and more():
                time.sleep(PAUSE)
            found.append((time.perf_counter() - begin) * 1000)
            time.sleep(PAUSE)
        return found

    def is_back(self) -> float:
        """Seconds until a step is taken again."""
        begin = time.perf_counter()
        while not self._is_taken() and time.perf_counter() - begin < BACK_SECONDS:
            time.sleep(PAUSE)
        return time.perf_counter() - begin

    def _is_taken(self) -> bool:
        """False where too many calls waited before this one, and it was let go of."""
        try:
            self._wire.outputs([self._handle], [self._steps], np.zeros((1, 3), np.float32))
        except grpc.RpcError as failure:
            if not isinstance(failure, grpc.Call) or failure.code() not in LET_GO:
                raise
            self.refused += 1
            return False
        self._steps += 1
        return True


def until_over(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def while_it_runs(process: subprocess.Popen[str]) -> Callable[[], bool]:
    return lambda: process.poll() is None


def percentile(waits: list[float]) -> float:
    return float(np.percentile(waits, 99))


@contextlib.contextmanager
def at_it(kind: str, server: ServerProcess, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that is at it while the block runs."""
    port = server.target.rpartition(":")[2]
    command = [sys.executable, "-m", "tests.soak.hostile_callers", kind, port, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        try:
            if not caller.stdout.readline():
                raise RuntimeError(f"{kind} ended before it was at it")
            yield caller
        finally:
            caller.kill()


def own_mib(pid: int) -> int:
    """Memory of the process that is no file's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) // MIB


def settled(pid: int, enough: int) -> int:
    """Memory once it is little enough, or after a while."""
    end = time.monotonic() + SETTLE_SECONDS
    while own_mib(pid) > enough and time.monotonic() < end:
        time.sleep(0.5)
    return own_mib(pid)
