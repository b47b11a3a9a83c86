"""Memory and time of what is not a step: idle sessions, start-up, forks."""

from __future__ import annotations

import statistics
import time

import grpc

from carousel.v1 import session_pb2, session_service_pb2_grpc
from carousel.v1 import session_service_pb2 as pb
from tests.bench.bench import Bench, Ratio
from tests.bench.models import name_of, state_bytes

IDLE = 100_000
FORK = 1_000
AT_ONCE = 10_000
GIB = 1024**3


def measure(bench: Bench) -> None:
    """Of a server of its own, with one model: LSTM, 2 x 256."""
    model = name_of("lstm", 256)
    server = bench.start("real", model)
    try:
        begin_bytes = server.rss_bytes
        with grpc.insecure_channel(f"127.0.0.1:{server.greeting}") as channel:
            service = session_service_pb2_grpc.SessionServiceStub(channel)
            volatile, first = (
                service.CreateSession(
                    pb.CreateSessionRequest(model=f"models/{model}", durability=durability)
                ).name
                for durability in (session_pb2.DURABILITY_MEMORY, session_pb2.DURABILITY_ASYNC)
            )
            forks, durable_forks = (
                [_fork(service, source) for _ in range(bench.blocks)]
                for source in (volatile, first)
            )
            begin = time.monotonic()
            left = IDLE - 2 - FORK * len(forks + durable_forks)
            while left > 0:
                count = min(left, AT_ONCE)
                service.ForkSession(pb.ForkSessionRequest(name=first, count=count))
                left -= count
            seconds = time.monotonic() - begin
            total = service.ListSessions(pb.ListSessionsRequest(page_size=1)).total_size
        grown = server.rss_bytes - begin_bytes
    finally:
        server.stop()
    figures = {
        "suite": "memory",
        "arm": "idle sessions",
        "cell": "lstm",
        "hidden": 256,
        "sessions": total,
        "start_seconds": server.start_seconds,
        "rss_at_start_bytes": begin_bytes,
        "rss_grown_bytes": grown,
        "bytes_per_session": grown / total,
        "state_bytes_per_session": state_bytes("lstm", 256),
        "making_seconds": seconds,
        "fork_1000_ms": [value * 1e3 for value in forks],
        "fork_1000_durable_ms": [value * 1e3 for value in durable_forks],
    }
    bench.results.append(figures)
    bench.say(
        f"    memory {total:,} sessions: {grown / 2**20:,.0f} MiB more, "
        f"{grown / total:,.0f} bytes each; start {server.start_seconds:.2f} s; "
        f"fork into 1,000: {statistics.median(forks) * 1e3:.1f} ms, "
        f"of durable ones {statistics.median(durable_forks) * 1e3:.1f} ms"
    )
    bench.bar("memory", Ratio.of([grown / GIB]))
    bench.bar("fork", Ratio.of([value * 1e3 for value in forks]), "in memory; the whole call")


def _fork(service: session_service_pb2_grpc.SessionServiceStub, name: str) -> float:
    begin = time.perf_counter()
    service.ForkSession(pb.ForkSessionRequest(name=name, count=FORK))
    return time.perf_counter() - begin
