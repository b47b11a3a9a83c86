"""The batches of a split for a task, on the device that computes."""

import torch

from carousel.model.data import Batch, Bucketed, Corpus, ForecastTask, LanguageModelTask, Streams
from carousel.model.training.recipe import Recipe
from carousel.model.training.workers import Workers

# Of an evaluation: it has no gradient to remember, and long windows are fewer calls.
LEAST_WINDOW = 128


def feed(recipe: Recipe, corpus: Corpus, split: str, workers: Workers) -> Streams | Bucketed:
    """Streams of a text or of series, whole sequences in buckets where there are labels."""
    if isinstance(corpus.task, LanguageModelTask | ForecastTask):
        return Streams(
            corpus,
            split,
            recipe.batch_size,
            recipe.window if split == "train" else max(recipe.window, LEAST_WINDOW),
            rank=workers.rank,
            world=workers.world,
        )
    return Bucketed(
        corpus, split, recipe.batch_size, rank=workers.rank, world=workers.world, seed=recipe.seed
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch there; the host does not wait for the copy."""
    if device.type == "cpu":
        return batch
    parts = (batch.x, batch.targets, batch.lengths, batch.mask, batch.fresh)
    return Batch(
        *(p if p is None else p.pin_memory().to(device, non_blocking=True) for p in parts)  # type: ignore[arg-type]
    )
