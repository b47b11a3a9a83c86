"""What durable sessions cost: written behind, and before each answer, against memory alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carousel.v1 import session_pb2
from tests.bench.closed_loop import Shape
from tests.bench.models import name_of
from tests.bench.turns import buckets, quantile

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
    _copies(bench, model)
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


def _copies(bench: Bench, model: str) -> None:
    """How much later a turn comes because sessions are copied, while 10,240 of them move."""
    from tests.bench.bench import Ratio

    server = bench.start("real", model)
    arm = bench.termed(
        server,
        model,
        Shape(10_240, 256, 2),
        "10,240 sessions, async",
        durability=session_pb2.DURABILITY_ASYNC,
        audit=False,
    )
    facts = {"cell": "lstm", "hidden": 256, "sessions": 10_240}
    bench.compare("durability", [arm], facts)
    copies = buckets(server.greeting, "carousel_store_copy_seconds")
    p50, p99, most = (quantile(copies, share) * 1e3 for share in (0.5, 0.99, 1.0))
    bench.bar("copies", Ratio(p99, p50, most), "bounds of buckets: p99; the median .. the longest")
    server.stop()
