"""The bench: the processes of a run, its arms, and comparisons between arms in turn."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench import bare, driver, models, servers
from tests.bench.child import Child
from tests.bench.closed_loop import Shape
from tests.bench.models import Floats
from tests.bench.sample import Sample, percentiles
from tests.bench.turns import Turns

TOLERANCE = 2e-5
CHECKED_STEPS, CHECKED_SESSIONS = 6, 8


class WrongOutputs(Exception):
    """An arm does not compute what the reference network computes."""


@dataclass(slots=True)
class Arm:
    """Something to be measured: a loop in the client process, or a bare one.

    `before` is called before each block.
    """

    name: str
    key: str
    client: Child
    server: Child | None  # None: a bare loop
    samples: list[Sample]
    has_turns: bool = False
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    turns: Turns = field(default_factory=Turns)
    before: Callable[[], object] = bool

    def block(self, seconds: float) -> Sample:
        """Run for so long, and keep what came of it."""
        self.before()
        turns = self._turns()
        before = self._cpu()
        sample: Sample = self.client.ask("run", self.key, seconds)
        after = self._cpu()
        self.client_cpu += after[0] - before[0]
        self.server_cpu += after[1] - before[1]
        self.turns.add(turns, self._turns())
        self.samples.append(sample)
        return sample

    def close(self) -> None:
        self.client.ask("close", self.key)

    def clear(self) -> None:
        """Forget what was measured so far."""
        self.samples.clear()
        self.server_cpu = self.client_cpu = 0.0
        self.turns = Turns()

    def _turns(self) -> Turns:
        return Turns.of(self.server.greeting) if self.server and self.has_turns else Turns()

    def _cpu(self) -> tuple[float, float]:
        return self.client.cpu_seconds, self.server.cpu_seconds if self.server else 0.0

    @property
    def rate(self) -> float:
        """Median steps a second."""
        return statistics.median(sample.rate for sample in self.samples)

    def extra(self, name: str) -> list[float]:
        """What only this arm knows, of each block."""
        return [sample.extra[name] for sample in self.samples]

    def figures(self) -> dict[str, Any]:
        thousands = max(1, sum(sample.steps for sample in self.samples)) / 1e3
        extra = {key: [s.extra[key] for s in self.samples] for key in self.samples[0].extra}
        return {
            "arm": self.name,
            "steps_per_second": self.rate,
            "blocks": [sample.rate for sample in self.samples],
            **percentiles(self.samples),
            "server_cpu_s_per_1000": self.server_cpu / thousands if self.server else None,
            "client_cpu_s_per_1000": self.client_cpu / thousands,
            **self.turns.figures(),
            **extra,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two arms, block by block."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratio:
        return cls(statistics.median(values), min(values), max(values))


def ratio(above: Arm, below: Arm) -> Ratio:
    """Steps a second of one arm over another's, for the blocks that ran side by side."""
    pairs = zip(above.samples, below.samples, strict=True)
    return Ratio.of([one.rate / other.rate for one, other in pairs])


class Bench:
    """One run. `brief` measures fewer shapes, shorter and less often."""

    def __init__(self, store: Path, *, brief: bool) -> None:
        self.store = store
        self.brief = brief
        self.blocks = 3 if brief else 6
        self.seconds = 0.4 if brief else 1.0
        self.results: list[dict[str, Any]] = []
        self.bars: dict[str, Ratio] = {}
        self.notes: dict[str, str] = {}
        self.client = Child(driver.run)
        with _environment(OPENBLAS_NUM_THREADS="1"):
            self.bare = Child(bare.run, store)
        self._servers: dict[tuple[str, str], Child] = {}
        self._keys = 0

    def close(self) -> None:
        for child in (self.client, self.bare, *self._servers.values()):
            child.stop()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def server(self, kind: str, model: str) -> Child:
        """The running server of that kind for that model."""
        key = (kind, model)
        if key not in self._servers:
            self._servers[key] = self.start(kind, model)
        return self._servers[key]

    def start(self, kind: str, model: str, **options: Any) -> Child:
        """A server of one's own."""
        return Child(servers.run, kind, self.store, model, options)

    def stop_servers(self) -> None:
        """What one suite started does not stand in the way of the next."""
        for child in self._servers.values():
            child.stop()
        self._servers.clear()

    def light(self, kind: str, cell: str, hidden: int, shape: Shape, name: str = "") -> Arm:
        """Sessions of a server, stepped by the light client; checked."""
        model = models.name_of(cell, hidden)
        server = self.server(kind, model)
        made_there = model if kind == "real" else None
        arm = self._arm(name or kind, server, has_turns=kind == "real")
        self.client.ask("open_light", arm.key, server.greeting, made_there, shape)
        if kind not in ("null", "aio"):
            self._check(arm, cell, hidden, shape.sessions)
        return arm

    def termed(
        self,
        server: Child,
        model: str,
        shape: Shape,
        name: str,
        *,
        client: Child | None = None,
        **terms: object,
    ) -> Arm:
        """As `light`, of sessions that are made on terms of their own, maybe by another client."""
        arm = self._arm(name, server, has_turns=True)
        arm.client = client or self.client
        arm.client.ask("open_termed", arm.key, server.greeting, model, shape, terms)
        return arm

    def held(self, hidden: int, sessions: int) -> Arm:
        server = self.server("held", models.name_of("lstm", hidden))
        arm = self._arm("client-held", server)
        size = models.state_bytes("lstm", hidden)
        self.client.ask("open_held", arm.key, server.greeting, sessions, size)
        self._check(arm, "lstm", hidden, sessions)
        return arm

    def coalesced(self, cell: str, hidden: int, sessions: int) -> Arm:
        """Tasks of Carousel's AsyncClient."""
        model = models.name_of(cell, hidden)
        server = self.server("real", model)
        arm = self._arm("coalesced", server, has_turns=True)
        self.client.ask("open_coalesced", arm.key, server.greeting, model, sessions)
        self._check(arm, cell, hidden, sessions)
        return arm

    def user(self, kind: str, cell: str, hidden: int, sessions: int, name: str) -> Arm:
        """Tasks that call the stub of grpc.aio."""
        model = models.name_of(cell, hidden)
        server = self.server(kind, model)
        arm = self._arm(name, server, has_turns=kind == "real")
        made_there = model if kind == "real" else None
        self.client.ask("open_user", arm.key, server.greeting, made_there, sessions)
        self._check(arm, cell, hidden, sessions)
        return arm

    def looped(
        self, what: str, model: str, *args: Any, name: str, server: Child | None = None
    ) -> Arm:
        """Any other loop of the driver against the real server."""
        server = server or self.server("real", model)
        arm = self._arm(name, server, has_turns=True)
        self.client.ask(f"open_{what}", arm.key, server.greeting, model, *args)
        return arm

    def bare_arm(self, what: str, *args: Any, name: str) -> Arm:
        """A loop without gRPC."""
        self._keys += 1
        arm = Arm(name, str(self._keys), self.bare, None, [])
        self.bare.ask(f"open_{what}", arm.key, *args)
        return arm

    def compare(
        self,
        suite: str,
        arms: Sequence[Arm],
        facts: Mapping[str, object],
        *,
        seconds: float = 0.0,
        blocks: int = 0,
    ) -> None:
        """Measure arms in turn, A B B A, and keep their figures."""
        for arm in arms:
            arm.block(0.1)
            arm.clear()
        for number in range(blocks or self.blocks):
            for arm in arms if number % 2 == 0 else list(reversed(arms)):
                arm.block(seconds or self.seconds)
        for arm in arms:
            figures = {"suite": suite, **facts, **arm.figures()}
            self.results.append(figures)
            self.say(_line(figures))
            arm.close()

    def bar(self, name: str, value: Ratio, note: str = "") -> None:
        self.bars[name] = value
        self.notes[name] = note

    def _arm(self, name: str, server: Child, *, has_turns: bool = False) -> Arm:
        self._keys += 1
        return Arm(name, str(self._keys), self.client, server, [], has_turns)

    def _check(self, arm: Arm, cell: str, hidden: int, sessions: int) -> None:
        looked_at = min(sessions, CHECKED_SESSIONS)
        found: Floats = self.client.ask("outputs", arm.key, CHECKED_STEPS, looked_at)
        truth: Floats = self.bare.ask("reference", cell, hidden, CHECKED_STEPS, looked_at, sessions)
        check(arm.name, found, truth)


def check(name: str, found: Floats, truth: Floats) -> None:
    """Raises WrongOutputs."""
    error = float(np.abs(found - truth).max())
    if not error <= TOLERANCE * max(1.0, float(np.abs(truth).max())):
        raise WrongOutputs(f"{name} differs from the reference by {error:.2g}")


def _line(figures: dict[str, Any]) -> str:
    facts = [f"{k}={figures[k]}" for k in ("cell", "hidden", "sessions", "batch") if k in figures]
    text = f"{figures['suite']:>10} {figures['arm']:<16} {' '.join(facts):<36}"
    text += f"{figures['steps_per_second']:>10,.0f}/s"
    if "p50_ms" in figures:
        text += f"  p50 {figures['p50_ms']:.2f} p99 {figures['p99_ms']:.2f} ms"
    if figures.get("server_cpu_s_per_1000") is not None:
        text += f"  server {figures['server_cpu_s_per_1000'] * 1e3:.0f} us/step"
    if "batch_per_turn" in figures:
        text += f"  {figures['batch_per_turn']:.1f} a turn of {figures['turn_ms']:.2f} ms"
    return text


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
