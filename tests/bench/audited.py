"""What audit logs cost: all sessions of a server with one, against none."""

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


def audit(bench: Bench) -> None:
    """Steps a second with and without audit logs, in every class of durability."""
    from tests.bench.bench import ratio

    model = name_of("lstm", 256)
    for name, shape in SHAPES.items():
        for durability in ("memory", "async", "sync"):
            number = session_pb2.Durability.Value(f"DURABILITY_{durability.upper()}")
            server = bench.start("real", model)
            arms = [
                bench.termed(server, model, shape, f"{name}, {word}", durability=number, audit=on)
                for on, word in ((False, "no log"), (True, "audited"))
            ]
            facts = {"cell": "lstm", "hidden": 256, "sessions": shape.sessions}
            bench.compare("audit", arms, facts | {"durability": durability})
            server.stop()
            share = ratio(arms[1], arms[0])
            bench.say(
                f"{'':>10} {durability}: {share.median:.2f} ({share.low:.2f} .. {share.high:.2f})"
            )
