"""What durable sessions cost: written behind, and before each answer, against memory alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carousel.v1 import session_pb2
from tests.bench.closed_loop import Shape
from tests.bench.models import name_of

if TYPE_CHECKING:
    from tests.bench.bench import Bench

SHAPES = {
    "64 callers": Shape(64),
    "256 a message": Shape(1024, 256, 1),
}


def durability(bench: Bench) -> None:
    """Steps a second of sessions in memory, written behind, and stored before each answer."""
    from tests.bench.bench import ratio

    model = name_of("lstm", 256)
    for name, shape in SHAPES.items():
        server = bench.start("real", model)
        arms = [
            bench.termed(
                server,
                model,
                shape,
                f"{name}, {word}",
                durability=session_pb2.Durability.Value(f"DURABILITY_{word.upper()}"),
                audit=False,
            )
            for word in ("memory", "async", "sync")
        ]
        facts = {"cell": "lstm", "hidden": 256, "sessions": shape.sessions}
        bench.compare("durability", arms, facts)
        server.stop()
        for arm in arms[1:]:
            share = ratio(arm, arms[0])
            bench.say(
                f"{'':>10} {arm.name}: {share.median:.2f} ({share.low:.2f} .. {share.high:.2f})"
            )
