"""The losses: one function from outputs and a batch to the sum over what counts, and how many."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from carousel.model.data import Batch, ClassifyTask, Corpus, ForecastTask

IGNORED = -100


class Objective:
    """Nats a token or label; for forecasts squared error in units of the normalised targets."""

    def __init__(self, corpus: Corpus, device: torch.device) -> None:
        self._task = corpus.task
        given = corpus.output_normalization
        self.std = None if given is None else torch.tensor(given.std, device=device)  # [O]

    def __call__(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the loss over what counts, and the count, for outputs [B, T, O]."""
        if isinstance(self._task, ForecastTask):
            return self._squared(outputs.float(), batch)
        if isinstance(self._task, ClassifyTask):
            outputs = last(outputs, batch)  # [B, K]
        targets = batch.targets
        if batch.mask is not None:
            targets = targets.masked_fill(~batch.mask, IGNORED)
        total = cross_entropy(
            outputs.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total, counted(batch)

    def _squared(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        error = outputs - batch.targets  # [B, T, O]
        if self.std is not None:
            error = error / self.std
        if batch.mask is not None:
            # Not multiplied: what is not there may be anything.
            error = error.masked_fill(~batch.mask, 0)
        return error.square().sum(), counted(batch)


def counted(batch: Batch) -> Tensor:
    """How many targets of the batch count in the loss: a number on the device of the batch."""
    if batch.mask is None:
        return torch.full((), batch.targets.numel(), device=batch.targets.device)
    return batch.mask.sum()


def last(outputs: Tensor, batch: Batch) -> Tensor:
    """The outputs [B, O] of each row's last real step, of outputs [B, T, O]."""
    if batch.lengths is None:
        return outputs[:, -1]
    return outputs[torch.arange(len(outputs), device=outputs.device), batch.lengths - 1]
