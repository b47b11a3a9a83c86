"""How far the gradient of a job's present window travels back."""

import torch
from torch import Tensor

from carousel.model.data import Batch
from carousel.model.gradients import GradientFlow, diagnose
from carousel.model.network import Network
from carousel.model.training.objective import Objective

# Enough for a mean, few enough to be done in a moment.
ROWS = 4


def gradient_flow(
    network: Network, batch: Batch, objective: Objective, clipped_ratio: float
) -> GradientFlow:
    """Look at the longest rows of the batch, with the loss taken at their last step alone."""
    x, targets = batch.x, batch.targets
    if batch.lengths is not None:
        longest = batch.lengths == batch.lengths.max()
        x, targets = x[longest, : int(batch.lengths.max())], targets[longest]
    x, targets = x[:ROWS], targets[:ROWS]
    if targets.dim() > 1:
        targets = targets[:, x.shape[1] - 1 : x.shape[1]]  # [B, 1], or [B, 1, O]

    def loss_of(outputs: Tensor) -> Tensor:
        total, count = objective(outputs[:, -1:], Batch(x=x[:, -1:], targets=targets))
        return total / count

    with torch.no_grad():
        rows = network.initial_rows(len(x))
    return diagnose(network, x, rows, loss_of, clipped_ratio=clipped_ratio)
