"""Run an experiment: every network learns the task, and the gradients are looked at."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from carousel.model.experiments.catalogue import GRADIENTS, Experiment
from carousel.model.experiments.contestants import CELLS, LEARNERS, make
from carousel.model.experiments.learn import BATCH, CLIP, flow, learn
from carousel.model.experiments.record import Record, environment
from carousel.model.experiments.tasks import Adding
from carousel.model.experiments.tasks.task import is_solved
from carousel.model.gradients import LayerGradients

WINDOWS, QUICK_WINDOWS = (100, 200, 500, 1000), (20, 50)
QUICK = 50  # a quick run is so many times shorter
Say = Callable[[str], None]


def run_task(
    name: str, experiment: Experiment, *, quick: bool, seed: int, say: Say
) -> Iterator[Record]:
    """The record of a task, again with each network that has learned."""
    task = experiment.task()
    updates = max(4, experiment.updates // (QUICK if quick else 1))
    settings = {"updates": updates, "batch": BATCH, "rate": experiment.rate, "clip": CLIP}
    record: Record = {
        "experiment": name,
        "title": task.title,
        "metric": task.metric,
        "baseline": task.baseline,
        "solved": task.solved,
        "published": experiment.published,
        "settings": settings | {"hidden": experiment.hidden, "seed": seed},
        "environment": environment(),
        "runs": [],
    }
    for network_name in LEARNERS:
        network = make(network_name, task, experiment.hidden, seed)
        start = _short(flow(network, task).layers[0])
        points = []
        for point in learn(network, task, updates=updates, rate=experiment.rate, seed=seed):
            points.append(asdict(point))
            say(
                f"{name}: {network_name}: update {point.update} of {updates}, "
                f"{task.metric} {point.score:.4g} (guessing {task.baseline:.4g}), "
                f"{point.seconds:.0f} s"
            )
        run = {
            "network": network_name,
            "parameters": sum(p.numel() for p in network.parameters()),
            "score": points[-1]["score"],
            "solved_at": next((p["update"] for p in points if is_solved(task, p["score"])), None),
            "seconds": round(points[-1]["seconds"], 1),
            "points": {key: [_digits(p[key]) for p in points] for key in points[0]},
            "gradients": {"start": start, "end": _short(flow(network, task).layers[0])},
        }
        record["runs"].append(run)
        yield record


def run_gradients(*, quick: bool, seed: int, say: Say) -> Iterator[Record]:
    """The record of networks that have learned nothing, by the length of the window."""
    windows = QUICK_WINDOWS if quick else WINDOWS
    record: Record = {
        "experiment": GRADIENTS,
        "title": "Gradient at initialisation",
        "settings": {"windows": windows, "hidden": 64, "sequences": 8, "seed": seed},
        "environment": environment(),
        "runs": [],
    }
    for steps in windows:
        for network_name in CELLS:
            task = Adding(steps)
            found = flow(make(network_name, task, 64, seed), task)
            say(f"{GRADIENTS}: {network_name}: {found.verdict}")
            run = {"network": network_name, "window": steps, "verdict": found.verdict}
            record["runs"].append(run | {"gradients": {"start": _short(found.layers[0])}})
        yield record


def _short(layer: LayerGradients) -> dict[str, Any]:
    """What the plots need: the norms of the longer-lived state, of 1 at lag 0."""
    norms = layer.cell_norms or layer.hidden_norms
    first = norms[0] or 1.0
    return {
        "state": "cell" if layer.cell_norms else "hidden",
        "norms": [_digits(norm / first) for norm in norms],
        "horizon": layer.horizon,
        "forget_mean": layer.forget_mean,
        "spectral_radius": layer.spectral_radius,
    }


def _digits(value: float) -> float:
    return float(f"{value:.5g}") if isinstance(value, float) else value
