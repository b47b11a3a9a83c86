"""Temporal order: two far-apart marks among distractors, and in which order they came is asked."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from carousel.model.config import Classifier, Tokens
from carousel.model.experiments.tasks.task import exam_generator

DISTRACTORS, X, START, END = 4, 4, 6, 7  # ids 0 to 3; X is 4 and Y is 5


@dataclass(frozen=True, slots=True)
class Order:
    """Each mark is X or Y; the class is the ordered pair of them (XX, XY, YX or YY).

    Experiment 6a of Hochreiter & Schmidhuber 1997: a start symbol, 100 to 110 symbols in all, the
    first mark at a step from 10 to 20 and the second at one from 50 to 60, an end symbol. All
    sequences of a batch have one length. `Order.short()` is the same with 30 to 33.
    """

    lengths: tuple[int, int] = (100, 110)
    first: tuple[int, int] = (10, 20)
    second: tuple[int, int] = (50, 60)
    input: Tokens = field(default=Tokens(8, 8), init=False)
    head: Classifier = field(default=Classifier(("XX", "XY", "YX", "YY")), init=False)

    @classmethod
    def short(cls) -> "Order":
        """A third of the length."""
        return cls((30, 33), (3, 6), (15, 18))

    @property
    def title(self) -> str:
        return f"Temporal order, {self.lengths[0]} to {self.lengths[1]} steps"

    @property
    def metric(self) -> str:
        return "accuracy"

    @property
    def steps(self) -> int:
        return self.lengths[1]

    @property
    def baseline(self) -> float:
        """One class of four, by chance."""
        return 0.25

    @property
    def solved(self) -> float:
        return 1.0

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def between(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high + 1, shape, generator=generator)

        length, rows = int(between(*self.lengths, 1)), torch.arange(n)
        x = between(0, DISTRACTORS - 1, n, length)
        marks = between(0, 1, n, 2)
        x[rows, between(*self.first, n)] = X + marks[:, 0]
        x[rows, between(*self.second, n)] = X + marks[:, 1]
        x[:, 0], x[:, -1] = START, END
        return x, 2 * marks[:, 0] + marks[:, 1]  # [n, T], [n]

    def exam(self) -> tuple[Tensor, Tensor]:
        return self.batch(1000, exam_generator())

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(y[:, -1], target)

    def score(self, y: Tensor, target: Tensor) -> float:
        return float((y[:, -1].argmax(1) == target).float().mean())
