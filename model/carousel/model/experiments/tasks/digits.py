"""Handwritten digits, read one row of pixels a step: a small task with real data."""

import gzip
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from carousel.model.config import Classifier, Features
from carousel.model.errors import ModelError

SOURCE = "datasets/data/digits.csv.gz"
SIDE, WHITE, HELD_OUT = 8, 16.0, 360  # pixels a side, the largest value, the last images


class DigitsError(ModelError):
    """The images of the digits are not there, or not what they should be."""


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """images [N, 8, 8] in [0, 1] and labels [N]; the last 360 are held out.

    The data are the 1,797 images of the UCI set "Optical Recognition of Handwritten Digits" that
    come with scikit-learn, whose training part they follow in writers.
    """

    images: Tensor
    labels: Tensor
    input: Features = field(default=Features(SIDE), init=False)
    head: Classifier = field(default=Classifier(tuple("0123456789")), init=False)

    @classmethod
    def read(cls, path: Path | None = None) -> "Digits":
        """From a file `digits.csv.gz`, or that of an installed scikit-learn; DigitsError."""
        if path is None:
            package = find_spec("sklearn")  # its file only: importing it would need scipy
            if package is None or not package.submodule_search_locations:
                raise DigitsError(
                    "the digits are in scikit-learn, which is not installed: "
                    "pip install --no-deps scikit-learn"
                )
            path = Path(package.submodule_search_locations[0]) / SOURCE
        with gzip.open(path, "rt") as file:
            table = torch.tensor([[float(v) for v in line.split(",")] for line in file])
        if table.shape[1] != SIDE * SIDE + 1:
            raise DigitsError(f"a line of {path.name} must have 65 numbers, got {table.shape[1]}")
        return cls(table[:, :-1].view(-1, SIDE, SIDE) / WHITE, table[:, -1].long())

    @property
    def title(self) -> str:
        return "Digits, row by row"

    @property
    def metric(self) -> str:
        return "accuracy"

    @property
    def steps(self) -> int:
        return SIDE

    @property
    def baseline(self) -> float:
        """One class of ten, by chance."""
        return 0.1

    @property
    def solved(self) -> float:
        """Never: it learns to the end, and the table says how far it came."""
        return 1.0

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self.labels) - HELD_OUT, (n,), generator=generator)
        return self.images[chosen], self.labels[chosen]  # [n, 8, 8], [n]

    def exam(self) -> tuple[Tensor, Tensor]:
        return self.images[-HELD_OUT:], self.labels[-HELD_OUT:]

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(y[:, -1], target)

    def score(self, y: Tensor, target: Tensor) -> float:
        return float((y[:, -1].argmax(1) == target).float().mean())
