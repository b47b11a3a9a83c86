"""Draw the next token from logits: temperature, top-k, top-p, repetition penalty, seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from carousel.model.errors import SamplingError

Logits = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How to draw; raises SamplingError when out of range.

    temperature 0 takes the likeliest token; top_k 0 and top_p 1 keep every token; the repetition
    penalty (Keskar et al. 2019) divides the positive and multiplies the negative logits of the
    tokens in the history, and 1 changes nothing.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, 100)
        _number("repetition_penalty", self.repetition_penalty, 1, 100)
        # Zero would keep nothing; the smallest share keeps the likeliest token.
        _number("top_p", self.top_p, 1e-9, 1)
        if type(self.top_k) is not int or self.top_k < 0:
            raise SamplingError(
                f"top_k must be an integer of at least 0, got {self.top_k!r}", field="top_k"
            )
        if self.seed is not None and (type(self.seed) is not int or not 0 <= self.seed < 2**64):
            raise SamplingError(
                f"seed must be an integer from 0 to 2**64 - 1, got {self.seed!r}", field="seed"
            )

    def generator(self) -> np.random.Generator:
        """The source of randomness of one generation: the same seed draws the same tokens."""
        return np.random.default_rng(self.seed)


def sample(
    logits: Logits,
    options: SamplingOptions,
    history: Sequence[int],
    rng: np.random.Generator,
) -> tuple[int, float]:
    """A token and its log-probability (natural logarithm) under the model itself.

    logits [V] are not normalised; the log-probability is of softmax(logits), before temperature,
    filters and penalty, so that it can be compared between options.
    """
    raw = np.asarray(logits, dtype=np.float64)  # [V]
    if raw.ndim != 1 or not raw.size or not np.isfinite(raw).all():
        raise SamplingError(f"logits must be a vector of finite numbers, got shape {raw.shape}")
    scores = _penalised(raw, history, options.repetition_penalty)
    if options.temperature == 0:
        token = int(scores.argmax())
    else:
        # The largest becomes 0 first, so that no temperature, however small, can overflow.
        scores = (scores - scores.max()) / max(options.temperature, 1e-6)
        order = np.argsort(-scores, kind="stable")
        kept = order[: options.top_k or None]
        p = np.exp(scores[kept])
        p /= p.sum()
        # The fewest tokens that reach top_p: those before which less than top_p has been seen.
        p = p[: max(1, int((np.cumsum(p) - p < options.top_p).sum()))]
        place = np.searchsorted(np.cumsum(p), rng.random() * p.sum(), side="right")
        token = int(kept[min(int(place), len(p) - 1)])
    return token, float(_log_softmax(raw)[token])


def skip(count: int, options: SamplingOptions, rng: np.random.Generator) -> None:
    """Use up the random numbers that `sample` takes for `count` tokens."""
    if options.temperature > 0:
        rng.random(count)


def _log_softmax(logits: Logits) -> Logits:
    shifted: Logits = logits - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def _penalised(logits: Logits, history: Sequence[int], penalty: float) -> Logits:
    if penalty == 1 or not len(history):
        return logits
    seen = np.unique(np.asarray(history, dtype=np.int64))
    scores = logits.copy()
    scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    return scores


def _number(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise SamplingError(
            f"{name} must be a number from {low} to {high}, got {value!r:.80}", field=name
        )
