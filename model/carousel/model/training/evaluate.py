"""What a network is worth on a split: the loss that it learns by, and metrics that people know.

A baseline stands beside them with the prefix `naive_`: for forecasts the value of one season ago,
for labels the most frequent one of the training part; both on the very same points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from carousel.model.data import Batch, ClassifyTask, Corpus, ForecastTask, LanguageModelTask
from carousel.model.network import Network
from carousel.model.training import naive
from carousel.model.training.feed import feed, to_device
from carousel.model.training.objective import Objective, last
from carousel.model.training.recipe import Recipe
from carousel.model.training.workers import Workers

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The loss, in nats or squared normalised units, and the metrics by name."""

    loss: float
    metrics: dict[str, float]


class Evaluator:
    """Evaluates networks on splits of one corpus; what does not depend on the network is kept.

    `beat` is called after every batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        workers: Workers | None = None,
        *,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._recipe, self._corpus = recipe, corpus
        self._workers, self._beat = workers or Workers(), beat
        self._objective = Objective(corpus, self._workers.device)
        self._known: dict[str, Any] = {}

    @torch.no_grad()
    def __call__(self, network: Network, split: str) -> Evaluation:
        """One pass over the split, without dropout; every worker must call it."""
        device, training = self._workers.device, network.training
        network.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, count
        seen = torch.zeros(3, self._width, dtype=torch.float64, device=device)
        rows: Tensor | None = None
        for batch in feed(self._recipe, self._corpus, split, self._workers):
            if not len(batch.x):
                continue  # the last batch had not a row for every worker
            batch = to_device(batch, device)
            start = network.initial_rows(len(batch.x))
            if batch.fresh is not None and rows is not None:
                start = torch.where(batch.fresh[:, None], start, rows)
            outputs, rows = network.forward_fused(batch.x, start)
            total, count = self._objective(outputs, batch)
            sums += torch.stack([total.double(), count.double()])
            self._see(seen, outputs, batch)
            self._beat()
        network.train(training)
        loss, count = self._workers.sum(sums).tolist()
        loss /= max(1.0, count)
        return Evaluation(loss, self._metrics(split, loss, count, self._workers.sum(seen)))

    @property
    def _width(self) -> int:
        if isinstance(self._corpus.task, ForecastTask):
            return len(self._corpus.task.targets) * self._corpus.horizon
        return len(self._corpus.labels or "")

    def _see(self, seen: Tensor, outputs: Tensor, batch: Batch) -> None:
        """Add to [3, O] absolute errors, squares, counts; or to [3, K] hits, guesses, truths."""
        task = self._corpus.task
        if isinstance(task, LanguageModelTask):
            return
        if isinstance(task, ForecastTask):
            # [B, T, O], in original units, whose squares float32 need not hold.
            error = outputs.double() - batch.targets.double()
            real = torch.ones_like(error) if batch.mask is None else batch.mask.to(error.dtype)
            error = torch.where(real > 0, error, torch.zeros_like(error))
            parts = (error.abs(), error.square(), real)
            seen += torch.stack([part.flatten(0, -2).sum(0) for part in parts])
            return
        if isinstance(task, ClassifyTask):
            outputs = last(outputs, batch)
        guesses, truths = outputs.argmax(-1).flatten(), batch.targets.flatten()
        if batch.mask is not None:
            real = batch.mask.flatten()
            guesses, truths = guesses[real], truths[real]
        hits = truths[guesses == truths]
        for row, labels in zip(seen, (hits, guesses, truths), strict=True):
            row += torch.bincount(labels, minlength=len(row))

    def _metrics(self, split: str, loss: float, count: float, seen: Tensor) -> dict[str, float]:
        task, sums = self._corpus.task, seen.cpu().numpy()
        if isinstance(task, LanguageModelTask):
            characters = self._once(split, lambda: naive.characters(self._corpus, split))
            bits = loss * count / math.log(2) / max(1, characters)
            return {"perplexity": math.exp(min(loss, 700.0)), "bits_per_character": bits}
        if isinstance(task, ForecastTask):
            scale = self._once("scale", lambda: naive.seasonal_scale(self._corpus))
            usual = self._once(split, lambda: naive.seasonal_errors(self._corpus, split))
            usual = forecast_metrics(usual, scale)
            given = forecast_metrics(sums, scale)
        else:
            major = self._once("major", lambda: naive.most_frequent(self._corpus))
            truths = sums[2]
            usual = label_metrics(*naive.always(major, truths))
            given = label_metrics(*sums)
        return given | {f"naive_{name}": value for name, value in usual.items()}

    def _once(self, key: str, compute: Any) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def forecast_metrics(sums: Array, scale: Array) -> dict[str, float]:
    """MAE, RMSE and MASE of [3, O]: sums of absolute errors, of squares, counts.

    MASE (Hyndman & Koehler 2006) divides each target's errors by its `scale` [O], the mean absolute
    error of the seasonal-naive forecast one season ahead in the training part. Targets whose scale
    is 0 are left out of it.
    """
    absolute, squares, counts = sums
    total = max(1.0, counts.sum())
    metrics = {"mae": absolute.sum() / total, "rmse": math.sqrt(squares.sum() / total)}
    moving = (scale > 0) & (counts > 0)
    if moving.any():
        scaled = absolute[moving] / scale[moving]
        metrics["mase"] = scaled.sum() / counts[moving].sum()
    return {name: float(value) for name, value in metrics.items()}


def label_metrics(hits: Array, guesses: Array, truths: Array) -> dict[str, float]:
    """Accuracy and macro F1 of [K] counts: right guesses, guesses and truths of each label.

    The mean of F1 is over the labels that were guessed or true at least once.
    """
    seen = (guesses + truths) > 0
    f1 = 2 * hits[seen] / (guesses + truths)[seen]
    return {
        "accuracy": float(hits.sum() / max(1, truths.sum())),
        "f1": float(f1.mean()) if seen.any() else 0.0,
    }
