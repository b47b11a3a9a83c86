"""Mean and spread of the training part, and missing values filled from the past."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carousel.model.config import Normalization
from carousel.model.data.corpus import Array, CorpusWriter
from carousel.model.errors import DataError

CHUNK = 1 << 14


def normalization_of(steps: Array, train: Array, names: Sequence[str]) -> Normalization:
    """Mean and standard deviation of each column of steps [N, D] over the segments `train`.

    NaN counts nowhere. Raises DataError for a column without values or with one value only.
    """
    size = steps.shape[1]
    count, mean, squares = np.zeros(size), np.zeros(size), np.zeros(size)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    for i in range(0, len(steps), CHUNK):
        values = steps[i : i + CHUNK][scored_rows(train, i, i + CHUNK, len(steps))]
        values = values.astype(np.float64)
        here = ~np.isnan(values)
        n = here.sum(axis=0)
        # Sums of chunks are merged as in Chan, Golub & LeVeque (1983).
        local = np.where(here, values, 0).sum(axis=0) / np.maximum(n, 1)
        spread = (np.where(here, values - local, 0) ** 2).sum(axis=0)
        total = np.maximum(count + n, 1)
        squares += spread + (local - mean) ** 2 * count * n / total
        mean += (local - mean) * n / total
        count += n
        low = np.minimum(low, np.where(here, values, np.inf).min(axis=0, initial=np.inf))
        high = np.maximum(high, np.where(here, values, -np.inf).max(axis=0, initial=-np.inf))
    for i, name in enumerate(names):
        if not count[i]:
            raise DataError("there is no value in the training part", column=name)
        if low[i] == high[i]:
            raise DataError(
                f"the value is always {low[i]:g} in the training part: "
                "a column that says nothing can be neither read nor predicted, leave it out",
                column=name,
            )
    return Normalization(tuple(mean.tolist()), tuple(np.sqrt(squares / count).tolist()))


def changes_of(steps: Array, train: Array, targets: int, horizon: int) -> Normalization | None:
    """Mean and spread of how far the first `targets` columns move in 1 to horizon steps.

    Within the segments `train`, the first step's targets first. The spread of a target is one
    number for all steps ahead, so that their errors weigh alike. Of many rows, about a million are
    looked at, all over them. None where a target never changes.
    """
    stride = CHUNK * max(1, int((train[:, 2] - train[:, 1]).sum()) // (16 * CHUNK))
    means, squares = np.zeros((horizon, targets)), np.zeros(targets)
    for ahead in range(1, horizon + 1):
        count, total, square = 0, np.zeros(targets), np.zeros(targets)
        for _, scored, end in train.tolist():
            for i in range(scored, end - ahead, stride):
                j = min(i + CHUNK, end - ahead)
                now, then = steps[i:j, :targets], steps[i + ahead : j + ahead, :targets]
                change = then.astype(np.float64) - now
                count += len(change)
                total += change.sum(axis=0)
                square += (change**2).sum(axis=0)
        if not count:
            return None
        means[ahead - 1] = total / count
        squares += square / count - means[ahead - 1] ** 2
    spread = np.sqrt(np.maximum(squares / horizon, 0))
    if not (spread > 0).all():
        return None
    return Normalization(tuple(means.ravel().tolist()), tuple(np.tile(spread, horizon).tolist()))


def scored_rows(segments: Array, begin: int, end: int, count: int) -> Array:
    """Which of the rows begin to end, at most `count`, lie in a segment: bool."""
    rows = np.arange(begin, min(end, count))
    segment = np.searchsorted(segments[:, 1], rows, "right") - 1
    inside: Array = (segment >= 0) & (rows < segments[segment, 2])
    return inside


def fill_missing(writer: CorpusWriter, starts: Array, means: Sequence[float], targets: int) -> None:
    """Fill NaN in "steps" with the last value before it in its sequence, else with the mean.

    Which of the first `targets` columns were there is written to "present", when any were not.
    """
    steps = writer.map("steps")
    size = steps.shape[1]
    mark = targets > 0 and any(
        np.isnan(steps[i : i + CHUNK, :targets]).any() for i in range(0, len(steps), CHUNK)
    )
    carried = np.asarray(means, np.float32)
    for i in range(0, len(steps), CHUNK):
        chunk = steps[i : i + CHUNK]
        here = ~np.isnan(chunk)
        if mark:
            writer.append("present", here[:, :targets])
        first = starts[(starts >= i) & (starts < i + len(chunk))] - i
        chunk[first] = np.where(here[first], chunk[first], means)
        here[first] = True
        extended = np.concatenate([carried[None], chunk])
        place = np.where(here, np.arange(1, len(chunk) + 1)[:, None], 0)
        latest = np.maximum.accumulate(place, axis=0)
        chunk[:] = extended[latest, np.arange(size)]
        carried = chunk[-1].copy()
