"""What a result is held against: a version that reads and answers the same, whatever its shape."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carousel.model import Features, Linear, ModelConfig
from carousel.model.config import Input
from carousel.model.training.job import alike

NEW = ModelConfig(
    cell="lstm",
    layers=2,
    hidden_size=8,
    input=Features(2, ("load", "wind")),
    head=Linear(3, residual=1, targets=("load",)),
)


@pytest.mark.parametrize(
    ("inward", "head", "same"),
    [
        (Features(2, ("load", "wind")), Linear(3, targets=("load",)), True),
        (Features(2), Linear(3), True),  # of a release that kept no names
        (Features(2, ("load", "sun")), Linear(3, targets=("load",)), False),
        (Features(2, ("load", "wind")), Linear(3, targets=("wind",)), False),
        (Features(2, ("load", "wind")), Linear(2, targets=("load",)), False),
        (Features(3), Linear(3), False),
    ],
)
def test_columns_count_where_both_name_them(inward: Input, head: Linear, same: bool) -> None:
    old = replace(NEW, cell="gru", layers=1, hidden_size=4, input=inward, head=head)
    assert alike(old, NEW) is same
