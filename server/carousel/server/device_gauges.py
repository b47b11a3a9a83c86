"""Gauges of the devices that a server computes on, read when somebody looks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

_STATM = Path("/proc/self/statm")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU in a period, or "max"; the period
_LEAST_SECONDS = 1.0  # over less, a share says nothing


class DeviceGauges(Collector):
    """What this process takes of the processor, and what is in use of the CUDA device."""

    def __init__(self, device: str, *, registry: CollectorRegistry) -> None:
        self._device = device
        self._processor = Processor()
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        memory = GaugeMetricFamily(
            "carousel_device_memory_used_bytes",
            "Memory in use; cpu: by the server's process; cuda: by all on the device.",
            labels=("device",),
        )
        share = GaugeMetricFamily(
            "carousel_device_utilization_ratio",
            "Share of the time that a device computes; cpu: of all cores that the process may use.",
            labels=("device",),
        )
        if _STATM.exists():
            memory.add_metric(("cpu",), resident_bytes())
        share.add_metric(("cpu",), self._processor.share())
        if self._device != "cpu":
            free, total = torch.cuda.mem_get_info(self._device)
            memory.add_metric((self._device,), total - free)
            busy = cuda_share(self._device)
            if busy is not None:
                share.add_metric((self._device,), busy)
        yield memory
        yield share


class Processor:
    """How much of its cores a process used lately: between two looks, a second apart or more."""

    def __init__(self) -> None:
        self._since = time.monotonic(), time.process_time()
        self._share = 0.0

    def share(self) -> float:
        (before, used_before), now, used = self._since, time.monotonic(), time.process_time()
        if now - before >= _LEAST_SECONDS:
            self._since = now, used
            self._share = min((used - used_before) / (now - before) / cores(), 1.0)
        return self._share


def cores() -> float:
    """How many cores the process may use, by its affinity and its control group."""
    allowed = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = _QUOTA.read_text().split()
        return min(allowed, int(quota) / int(period))
    except (OSError, ValueError):  # no control group, or no limit
        return allowed


def resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cuda_share(device: str) -> float | None:
    """None where NVIDIA's library for it, the package nvidia-ml-py, is not there."""
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # the library's own errors are not known where it is not installed
        return None
