"""What turns gradients into weights: the optimiser and how its learning rate moves."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from carousel.model.training.recipe import Recipe

# Operators that torch has, and torch.optim calls, but no list of exports names.
KERNELS: Any = torch

# As for the shipped models; the usual 0.999 is slow to notice that the gradient has grown.
BETAS = (0.9, 0.99)
EPSILON = 1e-8
# Evaluations without anything better after which the plateau schedule halves the rate.
PLATEAU = 2

State = dict[str, Tensor]
Learned = tuple[nn.Parameter, State]


class Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with momentum; matrices alone decay.

    Biases do not: decay would pull a forget gate's bias, and so the memory, towards one half; nor
    do initial states. These are the fused kernels below torch.optim, whose classes import torch's
    compiler: a second of every job.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        self._recipe = recipe
        matrices: list[Learned] = []
        others: list[Learned] = []
        for name, parameter in network.named_parameters():
            decays = parameter.dim() > 1 and not name.startswith("initial.")
            (matrices if decays else others).append((parameter, self._state(parameter)))
        self._groups = ((matrices, recipe.weight_decay or 0.0), (others, 0.0))

    def _state(self, parameter: Tensor) -> State:
        if self._recipe.optimizer == "sgd":
            return {"momentum_buffer": torch.zeros_like(parameter)}
        return {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    @torch.no_grad()
    def step(self, *, rate: float, skip: Tensor) -> None:
        """Update the weights, unless `skip` (bool, on the device) says to change nothing."""
        update = self._sgd if self._recipe.optimizer == "sgd" else self._adamw
        for learned, decay in self._groups:
            there = [(p, p.grad, state) for p, state in learned if p.grad is not None]
            if there:
                weights, gradients, states = map(list, zip(*there, strict=True))
                update(weights, gradients, states, rate=rate, decay=decay, skip=skip.float())

    def _adamw(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        *,
        rate: float,
        decay: float,
        skip: Tensor,
    ) -> None:
        steps, means, squares = (
            [state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq")
        )
        KERNELS._foreach_add_(steps, 1 - skip)
        KERNELS._fused_adamw_(
            weights,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=rate,
            weight_decay=decay,
            beta1=BETAS[0],
            beta2=BETAS[1],
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            found_inf=skip,
        )

    def _sgd(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        *,
        rate: float,
        decay: float,
        skip: Tensor,
    ) -> None:
        KERNELS._fused_sgd_(
            weights,
            gradients,
            [state["momentum_buffer"] for state in states],
            lr=rate,
            weight_decay=decay,
            momentum=self._recipe.momentum,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
            found_inf=skip,
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that it remembers: `{number of the parameter}.{name}`."""
        states = [state for learned, _ in self._groups for _, state in learned]
        return {
            f"{number}.{name}": value
            for number, state in enumerate(states)
            for name, value in state.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember what another one of the same recipe did. Raises LookupError, RuntimeError."""
        for key, value in self.tensors().items():
            value.copy_(tensors[key])


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
