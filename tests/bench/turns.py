"""Turns of a server: how many there were, how long they took, how many sessions rode."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from carousel.v1 import admin_service_pb2 as pb
from carousel.v1 import admin_service_pb2_grpc

FAMILIES = {
    "carousel_turn_batch_size": "riders",
    "carousel_turn_duration_seconds": "seconds",
}


@dataclass(slots=True)
class Turns:
    """Since the server's start, or over some blocks."""

    count: float = 0.0
    riders: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, port: int) -> Turns:
        turns = cls()
        for family in _statistics(port).families:
            name = FAMILIES.get(family.name)
            for sample in family.samples:
                if name and sample.name.endswith("_sum"):
                    setattr(turns, name, getattr(turns, name) + sample.value)
                elif name == "riders" and sample.name.endswith("_count"):
                    turns.count += sample.value
        return turns

    def add(self, before: Turns, after: Turns) -> None:
        self.count += after.count - before.count
        self.riders += after.riders - before.riders
        self.seconds += after.seconds - before.seconds

    def figures(self) -> dict[str, float]:
        if not self.count:
            return {}
        return {
            "batch_per_turn": self.riders / self.count,
            "turn_ms": self.seconds / self.count * 1e3,
        }


def _statistics(port: int) -> pb.Statistics:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        return stub.GetStatistics(pb.GetStatisticsRequest())


def buckets(port: int, name: str) -> dict[float, float]:
    """Cumulative counts of a histogram without labels since the server's start, by upper bound."""
    return {
        float(sample.labels["le"]): sample.value
        for family in _statistics(port).families
        for sample in family.samples
        if sample.name == f"{name}_bucket"
    }


def quantile(counts: dict[float, float], share: float) -> float:
    """The upper bound of the bucket in which it lies."""
    wanted = share * max(counts.values())
    return min(bound for bound, count in counts.items() if count >= wanted)
