"""`python -m tests.bench.counts`: what a step costs in counts, which no busy machine changes.

    python -m tests.bench.counts            compare with the baseline; fails where a count has grown
    python -m tests.bench.counts --accept   make what was counted the new baseline

One caller sends one message after the other to a real server, so that nothing depends on who
meets whom in a turn.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from carousel import tensors
from carousel.server import engine
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import inference_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from tests.bench import servers
from tests.bench.child import Child
from tests.conftest import RunningServer, running, tiny_models

BASELINE = Path(__file__).with_name("counts.json")
MESSAGES = 200
MODEL, INPUT = "tiny", 3

# Sessions of a message, and whether it travels on a stream.
SHAPES = {"unary": (1, False), "stream": (1, True), "batch": (64, False)}

# By how much of the baseline each count may grow, and how much more in any case.
LIMITS = {
    "loop_functions": (0.1, 5.0),  # Python functions called in the event loop, a message
    "engine_functions": (0.1, 5.0),  # in its thread, which now and then looks in vain
    "loop_builtins": (0.1, 10.0),  # C functions called from Python; a busy machine adds some
    "engine_builtins": (0.1, 5.0),
    "peak_bytes": (0.25, 4096.0),  # of Python and numpy at once, server and caller together
    "kept_blocks": (0.0, 2.0),  # of memory, a message, once all garbage is gone
    "messages": (0.0, 0.0),  # that the server sends
    "system_calls": (0.25, 1.0),  # that move bytes: sendmsg, recvmsg, read, write and the like
}
MOVES_BYTES = {
    *("sendmsg", "recvmsg", "sendto", "recvfrom", "read", "write", "readv", "writev"),
}

Counts = dict[str, float]
Send = Callable[[], None]

OPTIONS: dict[str, Any] = {
    "durable": False,
    "batch_audit_every": 0,
    "gate_sample_seconds": 0,
}


def versions() -> dict[str, str]:
    """What decides the counts besides our own code."""
    packages = {name: version(name) for name in ("grpcio", "numpy", "protobuf", "torch")}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, "machine": platform.machine(), **packages}


def measure() -> dict[str, Counts]:
    """The counts of every shape, a message each.

    However slow the machine is, whoever is alone is stepped in the event loop.
    """
    short, engine.SHORT_SECONDS = engine.SHORT_SECONDS, math.inf
    try:
        return _measure()
    finally:
        engine.SHORT_SECONDS = short


def _measure() -> dict[str, Counts]:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        tiny_models(store)
        with running(store=store, shipped=False, **OPTIONS) as server:
            found = {shape: _count(server, *SHAPES[shape]) for shape in SHAPES}
        if shutil.which("strace"):
            for shape, calls in _system_calls(store).items():
                found[shape]["system_calls"] = calls
    return found


def compare(found: dict[str, Counts], baseline: dict[str, Counts]) -> list[str]:
    """What has grown beyond its limit, in words."""
    grown = []
    for shape, counts in found.items():
        for name, count in counts.items():
            before, (share, more) = baseline[shape].get(name), LIMITS[name]
            if before is not None and count > before * (1 + share) + more:
                grown.append(f"{shape}: {name} {count:,.1f}, the baseline has {before:,.1f}")
    return grown


def _count(server: RunningServer, sessions: int, streamed: bool) -> Counts:
    counts: Counts = {}
    with _caller(server.target, sessions, streamed) as send:
        for _ in range(MESSAGES):
            send()
        with _profiled(server) as calls:
            for _ in range(MESSAGES):
                send()
        for name, count in calls().items():
            counts[name] = count / MESSAGES
        counts["messages"] = _sent(server, streamed, send)
        counts |= _memory(send)
    return counts


def _memory(send: Send) -> Counts:
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(MESSAGES):
            send()
        gc.collect()
        kept = (sys.getallocatedblocks() - before) / MESSAGES
        tracemalloc.start()
        peaks = []
        for _ in range(MESSAGES // 10):
            tracemalloc.reset_peak()
            current = tracemalloc.get_traced_memory()[0]
            send()
            peaks.append(tracemalloc.get_traced_memory()[1] - current)
    finally:
        tracemalloc.stop()
        gc.enable()
    return {"kept_blocks": max(0.0, kept), "peak_bytes": float(np.median(peaks))}


def _sent(server: RunningServer, streamed: bool, send: Send) -> float:
    """Messages that the server sends for one."""
    metrics, method = server.server.metrics, "StreamSteps" if streamed else "Step"
    kind = "bidi_stream" if streamed else "unary"
    counter = metrics.rpc_sent.labels(kind, "carousel.v1.InferenceService", method)
    before = counter.count
    for _ in range(MESSAGES):
        send()
    sent: float = (counter.count - before) / MESSAGES
    return sent


@contextmanager
def _profiled(server: RunningServer) -> Iterator[Callable[[], dict[str, int]]]:
    """Count the functions that the server's two threads call in this block."""
    counts = {
        f"{who}_{what}": 0 for who in ("loop", "engine") for what in ("functions", "builtins")
    }

    def counter(who: str) -> Callable[[Any, str, Any], None]:
        kinds = {"call": f"{who}_functions", "c_call": f"{who}_builtins"}

        def count(_frame: Any, event: str, _what: Any) -> None:
            if (name := kinds.get(event)) is not None:
                counts[name] += 1

        return count

    async def switch(*, on: bool) -> None:
        sys.setprofile(counter("loop") if on else None)
        await server.server.hall.engine.call(sys.setprofile, counter("engine") if on else None)

    server.run(switch(on=True))
    try:
        yield lambda: counts
    finally:
        server.run(switch(on=False))


@contextmanager
def _caller(target: str, sessions: int, streamed: bool) -> Iterator[Send]:
    """A function that sends the next step of some sessions and waits for its answer."""
    with grpc.insecure_channel(target) as channel:
        service = session_service_pb2_grpc.SessionServiceStub(channel)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        new = session_service_pb2.CreateSessionRequest(model=f"models/{MODEL}")
        handles = [service.CreateSession(new).handle for _ in range(sessions)]
        inputs = tensors.encode(np.ones((sessions, INPUT), np.float32))
        index = 0

        def message() -> pb.StepRequest:
            nonlocal index
            indexes = [index] * sessions
            index += 1
            return pb.StepRequest(handles=handles, step_indexes=indexes, inputs=inputs)

        if streamed:
            from queue import SimpleQueue

            requests = SimpleQueue[pb.StreamStepsRequest | None]()
            answers = stub.StreamSteps(iter(requests.get, None))

            def send() -> None:
                requests.put(pb.StreamStepsRequest(step=message()))
                assert not next(answers).step.errors

            yield send
            requests.put(None)
        else:

            def call() -> None:
                assert not stub.Step(message()).errors

            yield call


def _system_calls(store: Path) -> dict[str, float]:
    """That move bytes, a message, in a process of its own under strace; none where it may not."""
    child = Child(servers.run, "real", store, MODEL, OPTIONS)
    found = {}
    try:
        for shape, (sessions, streamed) in SHAPES.items():
            with _caller(f"127.0.0.1:{child.greeting}", sessions, streamed) as send:
                send()
                calls = _traced(child.pid, store / f"strace-{shape}", send)
            if calls is not None:
                found[shape] = calls / MESSAGES
    finally:
        child.stop()
    return found


def _traced(pid: int, file: Path, send: Send) -> float | None:
    traced = f"trace={','.join(sorted(MOVES_BYTES))}"
    command = ["strace", "-c", "-f", "-e", traced, "-o", str(file), "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        if "attached" not in strace.stderr.readline():
            return None
        for _ in range(MESSAGES):
            send()
        strace.terminate()
    columns = [line.split() for line in file.read_text().splitlines()]
    return float(sum(int(line[3]) for line in columns if line and line[-1] in MOVES_BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.counts", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="make this the baseline")
    arguments = parser.parse_args()
    found = measure()
    if arguments.accept:
        kept = {"versions": versions(), "counts": found}
        BASELINE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    for shape, counts in found.items():
        for name, count in counts.items():
            before = baseline["counts"][shape].get(name)
            print(f"{shape:8} {name:18} {count:12,.1f} {'' if before is None else before:>12}")
    if baseline["versions"] != versions():
        sys.exit(f"the baseline is of other versions: {baseline['versions']}; see --accept")
    if grown := compare(found, baseline["counts"]):
        sys.exit("\n".join(grown))


if __name__ == "__main__":
    main()
