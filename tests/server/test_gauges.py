"""What gauges and histograms show, against what can be known otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as some
from prometheus_client import CollectorRegistry

from carousel.server import device_gauges
from carousel.server.histogram import SECONDS, Histogram
from carousel.v1 import session_pb2
from tests.conftest import RunningServer
from tests.server.contract import Wire

Values = list[tuple[float, int]]


@given(
    some.lists(
        some.tuples(some.sampled_from([*SECONDS, 1e-6, 3e-3, 11.0]), some.integers(0, 3)),
        min_size=1,
        max_size=20,
    )
)
def test_values_told_together_are_those_told_one_by_one(told: Values) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    many = Histogram("x", "X.", (), registry=ours)
    one = prometheus_client.Histogram("x", "X.", buckets=SECONDS, registry=theirs)
    values, times = zip(*told, strict=True)
    many.labels().observe_many(np.array(values), np.array(times))
    many.labels().observe_many(np.array(values))
    for value, count in told:
        for _ in range(count + 1):
            one.observe(value)
    assert _samples(ours) == pytest.approx(_samples(theirs))


def _samples(registry: CollectorRegistry) -> dict[tuple[str, float], float]:
    return {
        (sample.name, float(sample.labels.get("le", 0))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def gauge(server: RunningServer, name: str, **labels: str) -> float:
    value = server.server.metrics.registry.get_sample_value(f"carousel_{name}", labels)
    assert value is not None, (name, labels)
    return value


def test_the_processor_is_told_of_in_bytes_and_shares(server: RunningServer) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    told = gauge(server, "device_memory_used_bytes", device="cpu")
    assert told == pytest.approx(pages * page, rel=0.5)
    assert 0 <= gauge(server, "device_utilization_ratio", device="cpu") <= 1


@pytest.mark.parametrize(
    ("quota", "cores"), [("50000 100000", 0.5), ("max 100000", None), ("999900000 100000", None)]
)
def test_cores_are_those_that_the_process_may_use(
    quota: str, cores: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(device_gauges, "_QUOTA", file)
    allowed = len(os.sched_getaffinity(0))
    assert device_gauges.cores() == allowed
    file.write_text(quota + "\n")
    assert device_gauges.cores() == (cores or allowed)


def test_state_is_told_of_where_it_lies(serve: Callable[..., RunningServer]) -> None:
    server = serve(shipped=False, load="tiny", device_rows=4)
    row = server.server.hall.registry.resolve("models/tiny").arena.row_bytes
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        wire.create(durability=session_pb2.DURABILITY_SYNC, rewind_depth=1)
        for durability in (session_pb2.DURABILITY_SYNC, session_pb2.DURABILITY_MEMORY) * 2:
            wire.create(durability=durability)
    bytes_of = {
        tier: gauge(server, "session_state_bytes", model="tiny", tier=tier)
        for tier in ("device", "host", "store")
    }
    labels = {"model": "tiny", "version": "1"}
    parked = gauge(server, "sessions_parked", **labels)
    assert gauge(server, "sessions", **labels) == 5
    assert 1 <= parked <= 2
    assert bytes_of["device"] <= 4 * row
    assert bytes_of["host"] > parked * row  # a record is more than its row
    assert bytes_of["store"] == (2 + 1 + 1) * row
