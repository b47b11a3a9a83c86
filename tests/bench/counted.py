"""What the guarantees cost: the CPU time of a turn with and without its checks and metrics.

`bare` computes, keeps the states and answers: no exactly-once check and no reply kept for a retry,
no look at NaN and infinity, no metrics, no gate sampled. Of the gates the engine's part is
measured; the rest is a thread's, which takes at most a hundredth of a core.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
BARE, UNCOUNTED, WHOLE = ARMS = ("bare", "without metrics", "whole")
# The bars, each the ratio of the whole turn to another.
AGAINST = {"guards": BARE, "metrics": UNCOUNTED}


def measure(bench: Bench) -> None:
    """Each bar is the worst of the turns."""
    from tests.bench.bench import Ratio

    child = Child(run, bench.store, name_of("lstm", 256), 20 if bench.brief else 100)
    found: dict[str, list[dict[str, float]]] = child.greeting
    child.stop()
    for name, blocks in found.items():
        seconds = {arm: float(np.median([block[arm] for block in blocks])) for arm in ARMS}
        facts = {"suite": "metrics", "arm": name, "cell": "lstm", "hidden": 256}
        bench.results.append(facts | {"us": {arm: seconds[arm] * 1e6 for arm in ARMS}})
        told = ", ".join(f"{arm} {seconds[arm] * 1e6:.1f}" for arm in ARMS)
        bench.say(f"   metrics {name:<16} us a turn: {told}")
    for bar, without in AGAINST.items():
        ratios = {
            name: Ratio.of([block[WHOLE] / block[without] for block in blocks])
            for name, blocks in found.items()
        }
        worst = max(ratios, key=lambda name: ratios[name].median)
        bench.bar(bar, ratios[worst], f"the worst of {len(ratios)} turns: {worst}")


def run(pipe: Connection, store: Path, model: str, blocks: int) -> None:
    """The main function of a process: measure in it, and say what was found."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send((True, asyncio.run(_measure(store, model, blocks))))


async def _measure(store: Path, model: str, blocks: int) -> dict[str, list[dict[str, float]]]:
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
        await engine.call(turns.block, WHOLE, count)
        found[name] = [
            await engine.call(turns.round, count, backwards=bool(number % 2))
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

    def round(self, count: int, *, backwards: bool) -> dict[str, float]:
        """Seconds of CPU a turn, by arm."""
        return {arm: self.block(arm, count) for arm in (ARMS[::-1] if backwards else ARMS)}

    def block(self, arm: str, count: int) -> float:
        engine, version, seconds = self._engine, self._version, 0.0
        for _ in range(count):
            self._queue()
            plan = version.scheduler.next(engine.table.serving)
            with self._as(arm):
                begin = time.thread_time()
                engine.turns.turn(version, plan, checked=arm == BARE)
                seconds += time.thread_time() - begin
            engine.table.next_index[plan.slots] = plan.indexes + 1
            engine._outbox.answers.clear()
        return seconds / count

    @contextmanager
    def _as(self, arm: str) -> Iterator[None]:
        """Take out of the turns what the arm does without."""
        from carousel.server import turns as module

        of = self._engine.turns
        with ExitStack() as undo:
            if arm != WHOLE:
                undo.enter_context(_replaced(of, "_measure", self._uncounted))
            if arm == BARE:
                undo.enter_context(_replaced(module, "finite_rows", lambda *_: None))
                undo.enter_context(_replaced(of, "_gates", None))
                undo.enter_context(_replaced(of._committer, "commit", self._commit))
            yield

    def _commit(self, version: Any, plan: Any, ride: Any) -> None:
        """What stays of a commit: the states, whose turn is next, and the answers."""
        table, committer = self._engine.table, self._engine.turns._committer
        version.arena.write(ride.rows, ride.new)
        table.last_use[ride.slots] = committer._clock()
        table.serving[ride.slots] = plan.tickets + 1
        committer._answer_steps(plan, ride, ride.outputs)

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


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _ignore(answer: object) -> None:
    """Answers are not looked at here."""
