"""W1: every way of asking over the number of sessions, and many in a message over the models."""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.closed_loop import Shape
from tests.bench.models import HIDDEN

TURN = 256  # the server's largest batch
SESSIONS = (1, 8, 64, 256, 1024, 4096)


def sweep(bench: Bench) -> None:
    """Every arm, with ever more sessions."""
    for sessions in SESSIONS[::2] if bench.brief else SESSIONS:
        at(bench, sessions)
    bench.stop_servers()


def at(bench: Bench, sessions: int) -> None:
    facts = {"cell": "lstm", "hidden": 256, "sessions": sessions}
    lines = -(-sessions // 2048)  # a connection may have 4,096 calls, those that end included
    plain = Shape(sessions, connections=lines)
    arms = [
        bench.light("null", "lstm", 256, plain, "null unary"),
        bench.light("real", "lstm", 256, plain, "unary"),
        bench.light("real", "lstm", 256, Shape(sessions, 1, 1), "stream"),
        bench.coalesced("lstm", 256, sessions),
        bench.light("naive", "lstm", 256, plain),
        bench.held(256, sessions),
    ]
    for size in (64, 256):
        if sessions >= size:
            shape = Shape(sessions, size, 1)
            arms.append(bench.light("real", "lstm", 256, shape, f"batch {size}"))
    # The slowest server must have the time to answer everybody more than once.
    seconds = max(0.3 if bench.brief else 0.5, sessions / 1000)
    bench.compare("sweep", arms, facts, seconds=seconds, blocks=2 if bench.brief else 5)


def sizes(bench: Bench) -> None:
    """256 sessions in a message beside the engine's ceiling, every cell and size."""
    for cell in ("lstm", "gru"):
        for hidden in HIDDEN:
            ceiling = bench.bare_arm("engine", cell, hidden, TURN, name="engine")
            ours = bench.light("real", cell, hidden, Shape(1024, TURN, 1), "batch 256")
            facts = {"cell": cell, "hidden": hidden, "sessions": 1024}
            bench.compare("sizes", [ceiling, ours], facts, seconds=hidden / 512)
            bench.stop_servers()
