"""The adding problem: two of many numbers are marked, and their sum is asked for at the end."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from carousel.model.config import Features, Linear
from carousel.model.experiments.tasks.task import exam_generator


@dataclass(frozen=True, slots=True)
class Adding:
    """Each step is (v, m): v uniform in [0, 1], m 1 at one place in each half and 0 elsewhere.

    As in Arjovsky et al. 2016 and Bai et al. 2018; the first form is of Hochreiter & Schmidhuber
    1997 (experiment 4). steps is at least 2.
    """

    steps: int
    input: Features = field(default=Features(2), init=False)
    head: Linear = field(default=Linear(1), init=False)

    @property
    def title(self) -> str:
        return f"Adding problem, T = {self.steps}"

    @property
    def metric(self) -> str:
        return "MSE"

    @property
    def baseline(self) -> float:
        """Always 1: the variance of a sum of two uniform numbers is 2 / 12."""
        return 1 / 6

    @property
    def solved(self) -> float:
        return 0.01

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        half, rows = self.steps // 2, torch.arange(n)
        values = torch.rand(n, self.steps, generator=generator)
        marks = torch.zeros(n, self.steps)
        marks[rows, torch.randint(half, (n,), generator=generator)] = 1
        marks[rows, torch.randint(half, self.steps, (n,), generator=generator)] = 1
        return torch.stack([values, marks], dim=2), (values * marks).sum(1)  # [n, T, 2], [n]

    def exam(self) -> tuple[Tensor, Tensor]:
        return self.batch(1000, exam_generator())

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return mse_loss(y[:, -1, 0], target)

    def score(self, y: Tensor, target: Tensor) -> float:
        return float(self.loss(y, target))
