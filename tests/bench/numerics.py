"""`python -m tests.bench.numerics`: what health rules, audits and gates cost, in CPU time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from carousel.model import Features, Kernel, Linear, ModelConfig, Network, make_kernel
from carousel.server.batch_audit import take
from carousel.server.gates import sampler
from carousel.server.gates.metrics import GateMetrics
from carousel.server.gates.window import Window
from carousel.server.health_policy import (
    AGE,
    ALERT,
    CLIP,
    RESET,
    SATURATION,
    STATE_NORM,
    HealthRule,
)
from carousel.server.loaded import LoadedVersion
from carousel.server.metrics import Metrics
from carousel.server.ride import Ride
from carousel.server.scheduler import Plan
from carousel.server.settings import Settings
from carousel.server.state_health import StateHealth
from carousel.server.table import SessionTable

HIDDEN, SIZE, SLICE = 256, 64, 16
CONFIG = ModelConfig(
    cell="lstm", layers=2, hidden_size=HIDDEN, input=Features(SIZE), head=Linear(SIZE)
)
POLICIES = {
    "1 rule that never fires": (HealthRule(STATE_NORM, 1e3, CLIP),),
    "3 rules that never fire": (
        HealthRule(STATE_NORM, 1e3, CLIP),
        HealthRule(SATURATION, 1.0, ALERT),
        HealthRule(AGE, 1e9, RESET),
    ),
    "1 rule that clips every row": (HealthRule(STATE_NORM, 1e-3, CLIP),),
}

Call = Callable[[], object]


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    network = Network(CONFIG).eval()
    kernel = make_kernel(network)
    initial = network.initial_rows(1)[0].numpy()
    for name, rules in POLICIES.items():
        health = StateHealth(rules, CONFIG, initial)
        for batch in (1, 16, 64, 256):
            print(f"{name}, steps, B {batch}: {price(kernel, health, batch, None)}")
        for batch in (1, 16, 64):
            print(f"{name}, slices of {SLICE}, B {batch}: {price(kernel, health, batch, SLICE)}")
    for batch, steps in ((2, None), (64, None), (2, SLICE), (64, SLICE)):
        print(f"audit, B {batch}, {steps or 'single'} steps: {audit(network, batch, steps)}")
        print(f"gates, B {batch}, {steps or 'single'} steps: {gates(network, batch, steps)}")
    print(f"gates, not due: {not_due(network)}")


def price(kernel: Kernel, health: StateHealth, batch: int, steps: int | None) -> str:
    x, lengths, rows = given(batch, steps)
    zeros, slots = np.zeros(batch, np.int64), np.arange(batch)

    def plain() -> object:
        if lengths is None:
            return kernel.step(x, rows)
        return kernel.chunk(x, torch.from_numpy(lengths), rows)

    def watched() -> object:
        return health.run(kernel, x, lengths, rows, zeros, slots)

    without, with_rules = in_turn([plain, watched], max(3, 400 // batch // (steps or 1)))
    ratios = [one / other for one, other in zip(without, with_rules, strict=True)]
    return f"{statistics.median(ratios):.2f} of the rate ({min(ratios):.2f} .. {max(ratios):.2f})"


def audit(network: Network, batch: int, steps: int | None) -> str:
    version, plan, ride = turn(network, batch, steps)
    sample = take(version, plan, ride, 1)
    return copied([lambda: take(version, plan, ride, 1), sample.difference])


def gates(network: Network, batch: int, steps: int | None) -> str:
    version, plan, ride = turn(network, batch, steps)
    table, metrics, window = SessionTable(), GateMetrics(CollectorRegistry()), Window("m", None)
    sample = sampler.take(table, version, plan, ride)
    assert sample is not None
    return copied(
        [
            lambda: sampler.take(table, version, plan, ride),
            lambda: sampler.count(sample, window, metrics),
        ]
    )


def not_due(network: Network) -> str:
    version, plan, ride = turn(network, 2, None)
    never = sampler.GateSampler(seconds=1e9, metrics=GateMetrics(CollectorRegistry()))
    table = SessionTable()
    never.look(table, version, plan, ride)  # the first is always taken
    never.close()
    [found] = in_turn([lambda: never.look(table, version, plan, ride)], 1000)
    return f"{min(found) * 1e6:.2f} us"


def copied(calls: Sequence[Call]) -> str:
    copying, running = in_turn(calls, 50)
    return f"copy {min(copying) * 1e6:.0f} us, run again {min(running) * 1e6:.0f} us"


def turn(network: Network, batch: int, steps: int | None) -> tuple[LoadedVersion, Plan, Ride]:
    """A version, and a turn of it."""
    version = LoadedVersion(
        network,
        model="m",
        version=1,
        ordinal=1,
        digest=b"",
        device="cpu",
        settings=Settings.read(),
        metrics=Metrics().version("m", 1),
    )
    x, lengths, rows = given(batch, steps)
    if lengths is None:
        y, new = version.kernel.step(x, rows)
    else:
        y, new = version.kernel.chunk(x, torch.from_numpy(lengths), rows)
    at = np.arange(batch)
    plan = Plan([], at, at, at, at, at.astype(np.uint64), at, x.numpy(), lengths)
    return version, plan, Ride(at, at, at, rows.numpy(), y.numpy(), new.numpy())


def given(
    batch: int, steps: int | None
) -> tuple[torch.Tensor, np.ndarray[tuple[int], np.dtype[np.int64]] | None, torch.Tensor]:
    """Inputs, lengths and rows."""
    shape = (batch, SIZE) if steps is None else (batch, steps, SIZE)
    lengths = None if steps is None else np.full(batch, steps)
    return torch.randn(shape), lengths, torch.randn(batch, 4 * HIDDEN) * 0.3


def in_turn(calls: Sequence[Call], count: int, blocks: int = 8) -> list[list[float]]:
    """Seconds of CPU a call of each, block by block, A B B A."""
    found: list[list[float]] = [[] for _ in calls]
    for block in range(blocks):
        order = range(len(calls)) if block % 2 == 0 else reversed(range(len(calls)))
        for number in order:
            begin = time.thread_time()
            for _ in range(count):
                calls[number]()
            found[number].append((time.thread_time() - begin) / count)
    return found


if __name__ == "__main__":
    main()
