"""A modest client's p99 beside a greedy one, against its p99 alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.bench.bench import Arm, Bench, Ratio
from tests.bench.child import Child
from tests.bench.closed_loop import Shape
from tests.bench.models import name_of

Ways = dict[str, tuple[Any, ...]]
"""What `Beside` is given, by names."""

STEPS = Shape(4096, 64, 1, tenant="greedy")
CHUNKS = Shape(512, 16, 1, tenant="greedy", length=64, bulk=True)
CALLERS = Shape(64, 1, 0, 4, tenant="greedy")


def fairness(bench: Bench) -> None:
    """A modest client's p99 beside a greedy one, against its p99 alone."""
    name, other = name_of("lstm", 256), name_of("gru", 256)
    server = bench.start("real", name, load=(name, other))
    one, some = Shape(1, 1, 1, tenant="modest"), Shape(16, 1, 1, tenant="modest")
    nobodys = replace(one, tenant=""), replace(STEPS, tenant="")
    ways: Ways = {
        "alone": (one, None),
        "steps": (one, STEPS),
        "bulk chunks": (one, CHUNKS),
        "bulk chunks of another model": (one, CHUNKS, other),
        "steps, nobody with a tenant": nobodys,
        "64 unary callers": (one, CALLERS),
    }
    try:
        *ratios, unary = measured(bench, server, name, 1, ways)
        bench.bar("fairness-1", *worst(ratios))
        bench.bar("fairness-unary", *unary)
        ways = {"alone": (some, None), "steps": (some, STEPS), "bulk chunks": (some, CHUNKS)}
        bench.bar("fairness-16", *worst(measured(bench, server, name, 16, ways)))
    finally:
        server.stop()


def measured(
    bench: Bench, server: Child, model: str, sessions: int, ways: Ways
) -> list[tuple[Ratio, str]]:
    """For each way but the first, which is alone: its p99 over that."""
    alone, *beside = [
        bench.looped("beside", model, *given, name=name, server=server)
        for name, given in ways.items()
    ]
    facts = {"cell": "lstm", "hidden": 256, "sessions": sessions}
    bench.compare("fairness", [alone, *beside], facts, seconds=bench.seconds * 2)
    return [
        (Ratio.of([a / b for a, b in zip(p99s(arm), p99s(alone), strict=True)]), arm.name)
        for arm in beside
    ]


def worst(ratios: list[tuple[Ratio, str]]) -> tuple[Ratio, str]:
    ratio, name = max(ratios, key=lambda one: one[0].median)
    return ratio, f"the worst: beside {name}"


def p99s(arm: Arm) -> list[float]:
    return [float(np.percentile(sample.latencies, 99)) for sample in arm.samples]
