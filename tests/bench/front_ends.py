"""Front ends against one process: what they take off it, and what they cost where cores are few.

Two cores hold the client, the engine and the front ends: the rates say what a machine loses that
is too small for front ends. What tells of larger ones is the processor time that is left to the
engine's process for a step, which no number of front ends shares.
"""

from __future__ import annotations

from tests.bench.bench import Arm, Bench, ratio
from tests.bench.closed_loop import Shape
from tests.bench.models import name_of

COUNTS = (1, 2)
CONNECTIONS = 16  # the system deals them out to the front ends
SHAPES = {
    "unary": Shape(64, connections=CONNECTIONS),
    "streams": Shape(256, 1, 256, connections=CONNECTIONS),
}


def measure(bench: Bench) -> None:
    model = name_of("lstm", 256)
    started = {count: bench.start("real", model, frontends=count) for count in COUNTS}
    for what, shape in SHAPES.items():
        null = bench.light("null", "lstm", 256, shape)
        alone = bench.light("real", "lstm", 256, shape, f"{what}, one process")
        arms = [
            bench.termed(child, model, shape, f"{what}, front ends: {count}")
            for count, child in started.items()
        ]
        facts = {"cell": "lstm", "hidden": 256, "sessions": shape.sessions}
        bench.compare("frontends", [null, alone, *arms], facts, seconds=bench.seconds * 2)
        for arm in arms:
            rate = ratio(arm, alone)
            bench.say(
                f"{'':>10} {arm.name}: {rate.median:.2f} x ({rate.low:.2f} .. {rate.high:.2f}) one "
                f"process; of the engine's process a step takes {_micros(arm):.0f} us, of one "
                f"process {_micros(alone):.0f} us"
            )
    for child in started.values():
        child.stop()


def _micros(arm: Arm) -> float:
    """Processor time of the process with the engine for each step."""
    return 1e6 * arm.server_cpu / sum(sample.steps for sample in arm.samples)
