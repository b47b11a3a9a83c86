"""Averages of the weights over the updates, which often answer better than the last weights do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from carousel.model.training.recipe import Recipe

DECAY = 0.999


class Average:
    """The exponential moving average, or the plain mean over the last third of the updates.

    The mean is stochastic weight averaging (Izmailov et al. 2018) at every update, as in ASGD
    (Polyak & Juditsky 1992). Until something was averaged the weights are taken as they are.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        self._parameters = dict(network.named_parameters())
        self._kind = recipe.averaging
        self._begin = 0 if recipe.averaging == "ema" else recipe.max_steps * 2 // 3
        self.count = 0
        self.values: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step`, counted from 1."""
        if self._kind == "none" or step <= self._begin:
            return
        self.count += 1
        if not self.values:
            self.values = {name: p.detach().clone() for name, p in self._parameters.items()}
            return
        if self._kind == "ema":
            # Short at first: else the random first weights would stay in it for long.
            share = 1 - min(DECAY, (1 + self.count) / (10 + self.count))
        else:
            share = 1 / self.count
        for name, value in self.values.items():
            value.lerp_(self._parameters[name], share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights inside, and its own ones again after."""
        if not self.values:
            yield
            return
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._set(self.values)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
