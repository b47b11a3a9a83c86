"""Copy memory: ten symbols are read, then nothing for a long time, then they are asked for."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from carousel.model.config import Softmax, Tokens
from carousel.model.experiments.tasks.task import exam_generator

SYMBOLS, KEPT = 8, 10  # different symbols (ids 1 to 8), and how many of them are to be kept
BLANK, DELIMITER = 0, 9


@dataclass(frozen=True, slots=True)
class Copying:
    """`blanks` + 20 steps: 10 random symbols, blanks - 1 blanks, a delimiter, 10 blanks.

    The target is a blank at every step but the last 10, where it is the 10 symbols in their order
    (Arjovsky et al. 2016, after Hochreiter & Schmidhuber 1997). blanks is at least 1.
    """

    blanks: int
    input: Tokens = field(default=Tokens(10, 10), init=False)
    head: Softmax = field(default=Softmax(10), init=False)

    @property
    def title(self) -> str:
        return f"Copy memory, T = {self.blanks}"

    @property
    def metric(self) -> str:
        return "recall"

    @property
    def steps(self) -> int:
        return self.blanks + 2 * KEPT

    @property
    def baseline(self) -> float:
        """One symbol of eight, by chance."""
        return 1 / SYMBOLS

    @property
    def baseline_loss(self) -> float:
        """Blanks are known, and the ten symbols are guessed evenly."""
        return KEPT * math.log(SYMBOLS) / self.steps

    @property
    def solved(self) -> float:
        return 0.99

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        symbols = torch.randint(1, SYMBOLS + 1, (n, KEPT), generator=generator)
        x = torch.full((n, self.steps), BLANK)
        x[:, :KEPT] = symbols
        x[:, -KEPT - 1] = DELIMITER
        target = torch.full((n, self.steps), BLANK)
        target[:, -KEPT:] = symbols
        return x, target  # [n, T] each

    def exam(self) -> tuple[Tensor, Tensor]:
        return self.batch(500, exam_generator())

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(y.transpose(1, 2), target)

    def score(self, y: Tensor, target: Tensor) -> float:
        """Share of the ten symbols that are given back in their place."""
        right = y[:, -KEPT:].argmax(2) == target[:, -KEPT:]
        return float(right.float().mean())
