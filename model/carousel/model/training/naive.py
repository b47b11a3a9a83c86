"""What needs no network: seasonal-naive forecasts, the most frequent label, a text's length."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carousel.model.data import ClassifyTask, Corpus

Array = NDArray[Any]

# Steps taken into memory at once.
PIECE = 2**20


def characters(corpus: Corpus, split: str) -> int:
    """Characters of the text whose tokens are scored in the split."""
    if corpus.tokenizer is None:
        return 0
    total = 0
    for begin, scored, end in corpus.segments[split].tolist():
        # The first token of all is read and never predicted.
        for at in range(max(scored, begin + 1), end, PIECE):
            total += len(corpus.tokenizer.decode(corpus.steps[at : min(end, at + PIECE)].tolist()))
    return total


def seasonal_errors(corpus: Corpus, split: str) -> Array:
    """Sums [3, O] over the split's points, in original units: absolute errors, squares, counts.

    The forecast of a value is the one whole seasons before it that was last known when the forecast
    was made; the last known value where the sequence does not go so far back.
    """
    assert corpus.targets is not None
    width, season = corpus.targets.shape[1], corpus.season
    sums = np.zeros((3, corpus.horizon, width))
    for ahead in range(1, corpus.horizon + 1):
        back = season * -(-ahead // season)
        for start, begin, scored, end in _segments(corpus, split):
            for at in range(max(scored, begin + ahead), end, PIECE):
                steps = np.arange(at, min(end, at + PIECE))
                known = np.where(steps - back >= start, steps - back, steps - ahead)
                errors = corpus.targets[known].astype(float) - corpus.targets[steps]
                real = (
                    np.ones_like(errors, bool) if corpus.present is None else corpus.present[steps]
                )
                errors = np.where(real, errors, 0)
                sums[:, ahead - 1] += np.abs(errors).sum(0), (errors**2).sum(0), real.sum(0)
    return sums.reshape(3, -1)


def seasonal_scale(corpus: Corpus) -> Array:
    """The scale [O] of MASE: mean |y_t - y_{t - season}| in the training part, for each output."""
    assert corpus.targets is not None
    season = corpus.season
    total, count = np.zeros((2, corpus.targets.shape[1]))
    for _, begin, _, end in _segments(corpus, "train"):
        for at in range(begin + season, end, PIECE):
            stop = min(end, at + PIECE)
            now, before = slice(at, stop), slice(at - season, stop - season)
            errors = np.abs(corpus.targets[now].astype(float) - corpus.targets[before])
            real = np.ones_like(errors, bool)
            if corpus.present is not None:
                real = corpus.present[now] & corpus.present[before]
            total += np.where(real, errors, 0).sum(0)
            count += real.sum(0)
    return np.tile(total / np.maximum(count, 1), corpus.horizon)


def most_frequent(corpus: Corpus) -> int:
    """The label that the training part has most often."""
    assert corpus.targets is not None
    counts = np.zeros(len(corpus.labels or ""), np.int64)
    for begin, scored, end in corpus.segments["train"].tolist():
        if isinstance(corpus.task, ClassifyTask):
            sequence = np.searchsorted(corpus.starts, begin, "right") - 1
            counts[corpus.targets[sequence]] += 1
        else:
            counts += np.bincount(corpus.targets[scored:end], minlength=len(counts))
    return int(counts.argmax())


def always(label: int, truths: Array) -> tuple[Array, Array, Array]:
    """Hits, guesses and truths [K] of one who always says the same label."""
    hits, guesses = np.zeros_like(truths), np.zeros_like(truths)
    hits[label], guesses[label] = truths[label], truths.sum()
    return hits, guesses, truths


def _segments(corpus: Corpus, split: str) -> Iterator[tuple[int, int, int, int]]:
    """(start of the sequence, begin, scored, end) of each segment."""
    for begin, scored, end in corpus.segments[split].tolist():
        sequence = np.searchsorted(corpus.starts, begin, "right") - 1
        yield int(corpus.starts[sequence]), begin, scored, end
