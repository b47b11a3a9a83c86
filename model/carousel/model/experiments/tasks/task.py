"""What every task offers: batches to learn from, a loss, a score, and what guessing scores."""

from typing import Protocol

import torch
from torch import Tensor

from carousel.model.config import Head, Input

EXAM_SEED = 1_000_003  # sequences that are looked at only to tell the score


class Task(Protocol):
    """Shapes: B batch, T time, D input, O output."""

    @property
    def input(self) -> Input:
        """What a network reads."""
        ...

    @property
    def head(self) -> Head:
        """What it answers."""
        ...

    @property
    def title(self) -> str:
        """For people, with the length."""
        ...

    @property
    def metric(self) -> str:
        """What the score is; lower is better when it is an error ("MSE")."""
        ...

    @property
    def steps(self) -> int:
        """T, at most: what chrono initialisation is told."""
        ...

    @property
    def baseline(self) -> float:
        """The best score of one who guesses; of one who reads the last step too, but in digits."""
        ...

    @property
    def solved(self) -> float:
        """The score from which on the task counts as learned."""
        ...

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x [n, T, D] or tokens [n, T] to learn from, and their targets."""
        ...

    def exam(self) -> tuple[Tensor, Tensor]:
        """As `batch`, sequences that are not learned from; the same ones at every call."""
        ...

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        """The mean loss, a scalar, of the outputs y [n, T, O]."""
        ...

    def score(self, y: Tensor, target: Tensor) -> float:
        """The metric of the outputs y [n, T, O]."""
        ...


def is_solved(task: Task, score: float) -> bool:
    """Whether a score is at least as good as `task.solved`."""
    return score <= task.solved if task.metric == "MSE" else score >= task.solved


def exam_generator() -> torch.Generator:
    """The same numbers at every call."""
    return torch.Generator().manual_seed(EXAM_SEED)
