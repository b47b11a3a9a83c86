"""A server beside a training job that it runs, against the same while the job rests.

The job is the default recipe, which computes without a pause. In the arms without it its processes
are stopped, so that nothing else differs.
"""

from __future__ import annotations

import pydoc_data.topics
import signal
from functools import partial
from pathlib import Path

import numpy as np

from carousel.client import Client, LanguageModel, Recipe
from carousel.server.training.process import members, signal_all
from tests.bench.bench import Arm, Bench, Ratio
from tests.bench.child import Child, cpu_seconds
from tests.bench.models import name_of

# Single steps that keep the server busy, and whole sequences that leave it half idle.
LOADS: dict[str, tuple[str, tuple[float, ...]]] = {
    "58 single": ("mixed", (58, 0)),
    "100 sequences/s": ("open", (100.0,)),
}
SECONDS = 4.0


def measure(bench: Bench) -> None:
    """The bar is the worse of the loads: the p99 with the job over that without, block by block."""
    folder = bench.store / ".beside"
    server = bench.start("real", name_of("lstm", 256), data=folder)
    job = folder / "jobs" / "1"
    try:
        with Client(f"127.0.0.1:{server.greeting}", timeout=60) as client:
            _start_job(client)
            found = {name: _compare(bench, server, job, name) for name in LOADS}
    finally:
        signal_all(job, signal.SIGKILL)
        server.stop()
    ratio, _ = max(found.values(), key=lambda one: one[0].median)
    shares = ", ".join(f"{name} {share:.2f}" for name, (_, share) in found.items())
    bench.bar("beside", ratio, f"the worse of two loads; the job's share of a core: {shares}")


def _start_job(client: Client) -> None:
    text = "".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    dataset = client.datasets.upload(text.encode(), id="topics", format="text")
    recipe = Recipe(task=LanguageModel(), max_steps=1_000_000, evaluate_every=100_000)
    job = client.jobs.create(recipe=recipe, dataset=dataset.name)
    next(event for event in client.jobs.watch(job.name) if event.kind == "progress")


def _compare(bench: Bench, server: Child, job: Path, name: str) -> tuple[Ratio, float]:
    """Of the p99, with the job over without; and what share of a core the job had."""
    what, given = LOADS[name]
    model, arms = name_of("lstm", 256), list[Arm]()
    for label, number in ((", job", signal.SIGCONT), ("", signal.SIGSTOP)):
        arm = bench.looped(what, model, *given, name=f"{name}{label}", server=server)
        arm.before = partial(signal_all, job, number)
        arms.append(arm)
    before = _cpu(job)
    bench.compare("beside", arms, {"cell": "lstm", "hidden": 256}, seconds=SECONDS)
    share = (_cpu(job) - before) / sum(sample.seconds for sample in arms[0].samples)
    p99s = [[float(np.percentile(s.latencies, 99)) for s in arm.samples] for arm in arms]
    return Ratio.of([one / other for one, other in zip(*p99s, strict=True)]), share


def _cpu(job: Path) -> float:
    return sum(cpu_seconds(pid) for pid in members(job))
