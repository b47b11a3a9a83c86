"""What turns gradients into weights: the optimiser and how its learning rate moves."""

import math
from typing import Any

import torch
from torch import nn

from carousel.model.training.recipe import Recipe

# As for the shipped models; the usual 0.999 is slow to notice that the gradient has grown.
BETAS = (0.9, 0.99)
# Evaluations without anything better after which the plateau schedule halves the rate.
PLATEAU = 2


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with momentum; matrices alone decay.

    Biases do not: decay would pull a forget gate's bias, and so the memory, towards one half; nor
    do initial states. Both are fused, and skip an update on the device when their attribute
    `found_inf` is 1.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        decays = parameter.dim() > 1 and not name.startswith("initial.")
        (matrices if decays else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)


class Schedule:
    """The learning rate at each update; `plateau` also hears of evaluations."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.halvings = 0
        self.stale = 0

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, from 0: it rises in a line, then follows its kind."""
        recipe = self._recipe
        warm_up = recipe.warmup_steps or 0
        if step < warm_up:
            return recipe.learning_rate * (step + 1) / warm_up
        match recipe.schedule:
            case "cosine":
                done = (step - warm_up) / max(1, recipe.max_steps - warm_up)
                cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
                share = recipe.final_share + (1 - recipe.final_share) * cosine
                return recipe.learning_rate * share
            case "plateau":
                return recipe.learning_rate * 0.5**self.halvings
        return recipe.learning_rate

    def evaluated(self, better: bool) -> None:
        """Hear whether an evaluation brought the best loss so far."""
        self.stale = 0 if better else self.stale + 1
        if self.stale >= PLATEAU:
            self.halvings, self.stale = self.halvings + 1, 0

    def to_dict(self) -> dict[str, int]:
        """What it has heard, as JSON."""
        return {"halvings": self.halvings, "stale": self.stale}

    def load(self, state: dict[str, int]) -> None:
        """Take what another one had heard."""
        self.halvings, self.stale = state["halvings"], state["stale"]
