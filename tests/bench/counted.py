"""What counting costs: the CPU time of a turn with its metrics, against the same without."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.bench.child import Child
from tests.bench.models import POOL, inputs, name_of

if TYPE_CHECKING:
    from tests.bench.bench import Bench

# Sessions of a turn, and messages that they came in.
TURNS = {"1 session": (1, 1), "64 callers": (64, 64), "256 in a message": (256, 1)}
WITHOUT, WITH = 0, 1


def measure(bench: Bench) -> None:
    """The bar is the worst of the turns."""
    from tests.bench.bench import Ratio

    child = Child(run, bench.store, name_of("lstm", 256), 20 if bench.brief else 100)
    found: dict[str, list[tuple[float, float]]] = child.greeting
    child.stop()
    ratios = {}
    for name, blocks in found.items():
        ratios[name] = Ratio.of([with_it / without for without, with_it in blocks])
        microseconds = [float(np.median(side)) * 1e6 for side in zip(*blocks, strict=True)]
        facts = {"suite": "metrics", "arm": name, "cell": "lstm", "hidden": 256}
        bench.results.append(facts | {"without_us": microseconds[0], "with_us": microseconds[1]})
        bench.say(
            f"   metrics {name:<16} {microseconds[0]:.1f} us a turn without, {microseconds[1]:.1f} "
            f"with: {ratios[name].median:.3f} ({ratios[name].low:.3f} .. {ratios[name].high:.3f})"
        )
    worst = max(ratios, key=lambda name: ratios[name].median)
    bench.bar("metrics", ratios[worst], f"the worst of {len(ratios)} turns: {worst}")


def run(pipe: Connection, store: Path, model: str, blocks: int) -> None:
    """The main function of a process: measure in it, and say what was found."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send((True, asyncio.run(_measure(store, model, blocks))))


async def _measure(store: Path, model: str, blocks: int) -> dict[str, list[tuple[float, float]]]:
    from carousel.server import Server, Settings, logs

    logs.configure(level="error", style="text")
    options: dict[str, Any] = {"port": 0, "http_port": "off", "store": store, "shipped": False}
    more = {"load": (model,), "durable": False, "batch_audit_every": 0, "log_level": "error"}
    server = Server(Settings.read(None, data=store / ".counted", **options, **more))
    await server.start()
    engine = server.hall.engine
    found = {}
    for name, (batch, messages) in TURNS.items():
        turns = await engine.call(lambda b=batch, m=messages: Turns(server, model, b, m))  # type: ignore[misc]
        count = max(10, 200 // batch)  # short blocks: what else runs disturbs both alike
        await engine.call(turns.block, WITH, count)
        found[name] = [
            await engine.call(turns.pair, count, backwards=bool(number % 2))
            for number in range(blocks)
        ]
    await server.stop()
    return found


class Turns:
    """Turns of one shape; its methods run in the engine's thread."""

    def __init__(self, server: Any, model: str, batch: int, messages: int) -> None:
        from carousel.server.sessions import Terms
        from carousel.server.table import MEMORY

        hall = server.hall
        self._engine = hall.engine
        self._version = hall.registry.resolve(f"models/{model}")
        terms = Terms(durability=MEMORY)
        made = [hall.sessions.create(self._version, terms) for _ in range(batch)]
        self._messages = np.array_split(np.array([s.handle for s in made], np.uint64), messages)
        self._inputs = inputs(batch)
        self._index = 0
        counted = self._engine.turns._measure
        self._measures: Sequence[Callable[..., None]] = (self._uncounted, counted)

    def pair(self, count: int, *, backwards: bool) -> tuple[float, float]:
        """Seconds of CPU a turn, without and with metrics."""
        if backwards:
            with_it = self.block(WITH, count)
            return self.block(WITHOUT, count), with_it
        return self.block(WITHOUT, count), self.block(WITH, count)

    def block(self, arm: int, count: int) -> float:
        engine, version, seconds = self._engine, self._version, 0.0
        engine.turns._measure = self._measures[arm]
        for _ in range(count):
            self._queue()
            plan = version.scheduler.next(engine.table.serving)
            begin = time.thread_time()
            engine.turns.turn(version, plan)
            seconds += time.thread_time() - begin
            engine._outbox.answers.clear()
        engine.turns._measure = self._measures[WITH]
        return seconds / count

    def _queue(self) -> None:
        """One step of every session, as if its messages had just come."""
        from carousel.server import gatekeeper
        from carousel.server.work import Work

        x, at, works = self._inputs[self._index % POOL], 0, []
        for number, handles in enumerate(self._messages):
            indexes = [self._index] * len(handles)
            works.append(
                Work(
                    handles.tolist(),
                    indexes,
                    x[at : at + len(handles)],
                    _ignore,
                    arrived=time.monotonic(),
                    origin={"request_id": str(number)},
                )
            )
            at += len(handles)
        self._index += 1
        assert gatekeeper.admit_together(self._engine.table, self._version, works)

    @staticmethod
    def _uncounted(version: Any, plan: Any, ride: Any, begin: float, seconds: float) -> None:
        """What stays of measuring: the scheduler must know how long turns take."""
        version.scheduler.took(len(ride.places), time.monotonic() - begin)


def _ignore(answer: object) -> None:
    """Answers are not looked at here."""
