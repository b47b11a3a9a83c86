"""A modest client's p99 beside a greedy one, against its p99 alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tests.bench import driver
from tests.bench.bench import Arm, Bench, Ratio
from tests.bench.beside import Beside, settle
from tests.bench.child import Child
from tests.bench.closed_loop import Shape
from tests.bench.models import name_of

STEPS = Shape(4096, 64, 1, tenant="greedy")
CHUNKS = Shape(512, 16, 1, tenant="greedy", length=64, bulk=True)
CALLERS = Shape(64, 1, 0, 4, tenant="greedy")

MODEL, OTHER = name_of("lstm", 256), name_of("gru", 256)


@dataclass(frozen=True, slots=True)
class Way:
    """The work of the two clients; `greedy` None: the modest one is alone."""

    name: str
    modest: Shape
    greedy: Shape | None = None
    model: str = MODEL  # of the greedy one


def fairness(bench: Bench) -> None:
    """A modest client's p99 beside a greedy one, against its p99 alone."""
    one, some = Shape(1, 1, 1, tenant="modest"), Shape(16, 1, 1, tenant="modest")
    ways = (
        Way("alone", one),
        Way("steps", one, STEPS),
        Way("bulk chunks", one, CHUNKS),
        Way("steps of another model", one, STEPS, OTHER),
        Way("bulk chunks of another model", one, CHUNKS, OTHER),
        Way("chunks", one, replace(CHUNKS, bulk=False)),
        Way("steps, nobody with a tenant", replace(one, tenant=""), replace(STEPS, tenant="")),
        Way("64 unary callers", one, CALLERS),
    )
    with ExitStack() as stack:
        server = bench.start("real", MODEL, load=(MODEL, OTHER))
        stack.callback(server.stop)
        crowd = Child(driver.run)
        stack.callback(crowd.stop)
        *ratios, unary = measured(bench, server, crowd, ways)
        bench.bar("fairness-1", *worst(ratios))
        bench.bar("fairness-unary", *unary)
        few = (Way("alone", some), Way("steps", some, STEPS), Way("bulk chunks", some, CHUNKS))
        bench.bar("fairness-16", *worst(measured(bench, server, crowd, few)))


def measured(
    bench: Bench, server: Child, crowd: Child, ways: Sequence[Way]
) -> list[tuple[Ratio, str]]:
    """For each way but the first, which is alone: its p99 over that."""
    arms = [_arm(bench, server, crowd, way) for way in ways]
    facts = {"cell": "lstm", "hidden": 256, "sessions": ways[0].modest.sessions}
    bench.compare("fairness", arms, facts, seconds=bench.seconds * 2)
    alone, *beside = arms
    return [
        (Ratio.of([a / b for a, b in zip(p99s(arm), p99s(alone), strict=True)]), arm.name)
        for arm in beside
    ]


def _arm(bench: Bench, server: Child, crowd: Child, way: Way) -> Arm:
    one = bench.termed(server, MODEL, way.modest, way.name)
    if way.greedy is None:
        one.before = partial(settle, server)
        return one
    greedy = bench.termed(server, way.model, way.greedy, way.name, client=crowd)
    return Beside(one.name, one.key, one.client, server, [], has_turns=True, greedy=greedy)


def worst(ratios: list[tuple[Ratio, str]]) -> tuple[Ratio, str]:
    ratio, name = max(ratios, key=lambda one: one[0].median)
    return ratio, f"the worst: beside {name}"


def p99s(arm: Arm) -> list[float]:
    return [float(np.percentile(sample.latencies, 99)) for sample in arm.samples]
