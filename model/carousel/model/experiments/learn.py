"""The one loop in which every network learns every task: Adam, batches of 50, clipping at 1."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from carousel.model.experiments.tasks import Task
from carousel.model.experiments.tasks.task import is_solved
from carousel.model.gradients import GradientFlow, diagnose
from carousel.model.network import Network

BATCH, CLIP = 50, 1.0
LOOKS = 40  # times that the score is taken
PATIENCE = 3  # looks in a row at a solved task, after which there is nothing more to see


@dataclass(frozen=True, slots=True)
class Point:
    """Where learning stands, by sequences that it does not learn from."""

    update: int
    loss: float
    score: float
    seconds: float


def learn(network: Network, task: Task, *, updates: int, rate: float, seed: int) -> Iterator[Point]:
    """Learn, and yield a point at the start, every 40th of the way (or 10 updates) and at the end.

    It ends early when the task was solved at three looks in a row.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    every, solved, begun = max(10, updates // LOOKS), 0, time.perf_counter()
    yield Point(0, *examine(network, task), 0.0)
    for update in range(1, updates + 1):
        x, target = task.batch(BATCH, generator)
        y, _ = network.forward_fused(x, network.initial_rows(BATCH))
        loss = task.loss(y, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        if update % every == 0 or update == updates:
            point = Point(update, *examine(network, task), time.perf_counter() - begun)
            yield point
            solved = solved + 1 if is_solved(task, point.score) else 0
            if solved == PATIENCE:
                return


@torch.no_grad()
def examine(network: Network, task: Task) -> tuple[float, float]:
    """The loss and the score on sequences that are not learned from."""
    x, target = task.exam()
    y, _ = network.forward_fused(x, network.initial_rows(len(x)))
    return float(task.loss(y, target)), task.score(y, target)


def flow(network: Network, task: Task, sequences: int = 8) -> GradientFlow:
    """How the task's own gradient travels back from the last step of a few sequences."""
    x, target = task.exam()
    x, target = x[:sequences], target[:sequences]

    def loss_at_the_end(y: Tensor) -> Tensor:
        # Some tasks count every step; only from one step is a lag a distance.
        return task.loss(torch.cat([y[:, :-1].detach(), y[:, -1:]], dim=1), target)

    return diagnose(network, x, network.initial_rows(len(x)), loss_at_the_end)
