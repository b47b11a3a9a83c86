"""Segments: which steps belong to which split, cut so that nothing is learned from the future."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carousel.model.data.corpus import SPLITS
from carousel.model.errors import ConfigError, DataError

Array = NDArray[Any]

# Steps that a network may read before those that count, to fill its memory.
WARM_UP = 1024
# Steps held out at most: a job evaluates often, and more would take time without telling more.
MOST_VALIDATION, MOST_TEST = 2**17, 2**20


def shares(validation: float, test: float) -> tuple[float, float]:
    """The shares after which validation and test begin; raises ConfigError when impossible."""
    for name, share in (("validation_share", validation), ("test_share", test)):
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(
                f"{name} must be at least 0 and below 1, got {share!r:.80}", field=name
            )
    if validation + test > 0.9:
        raise ConfigError(
            f"validation_share and test_share must be at most 0.9 together, "
            f"got {validation} and {test}",
            field="validation_share",
        )
    return 1 - validation - test, 1 - test


def bounded(edges: tuple[float, float], steps: int) -> tuple[float, float]:
    """The same shares of a corpus of so many steps, but no more held out than is of use."""
    validation = min(edges[1] - edges[0], MOST_VALIDATION / max(1, steps))
    test = min(1 - edges[1], MOST_TEST / max(1, steps))
    return 1 - validation - test, 1 - test


def cut_sequences(starts: Array, cuts: Array) -> dict[str, Array]:
    """Segments [K, 3] of sequences that are cut at positions `cuts` [S, 2] within `steps`.

    Validation and test read up to WARM_UP steps of their sequence before they count.
    """
    edges = [starts[:-1], cuts[:, 0], cuts[:, 1], starts[1:]]
    segments = {}
    for i, split in enumerate(SPLITS):
        scored, end = edges[i], edges[i + 1]
        begin = scored if i == 0 else np.maximum(starts[:-1], scored - WARM_UP)
        rows = np.stack([begin, scored, end], axis=1)
        # One step more than the first of a sequence: something must come before what is predicted.
        segments[split] = rows[(end > scored) & (end - begin >= 2)]
    return segments


def cut_at_shares(starts: Array, edges: tuple[float, float]) -> Array:
    """Cuts [S, 2] of every sequence at the same shares of its length."""
    lengths = np.diff(starts)
    return np.stack([starts[:-1] + np.round(lengths * edge) for edge in edges], 1).astype(np.int64)


def cut_at_position(starts: Array, edges: tuple[float, float]) -> Array:
    """Cuts [S, 2] of the whole at two positions; a sequence lies before, across or behind them."""
    places = [round(int(starts[-1]) * edge) for edge in edges]
    return np.stack([np.clip(place, starts[:-1], starts[1:]) for place in places], 1)


def whole_sequences(starts: Array, splits: Array) -> dict[str, Array]:
    """Segments of whole sequences; `splits` [S] has 0 (train), 1 (validation) or 2 (test)."""
    rows = np.stack([starts[:-1], starts[:-1], starts[1:]], axis=1)
    return {split: rows[splits == i] for i, split in enumerate(SPLITS)}


def check_filled(
    segments: Mapping[str, Array], edges: tuple[float, float], rows: int, unit: str = "rows"
) -> None:
    """Raise DataError when a split that was asked for is left without anything."""
    wanted = dict(zip(SPLITS, (edges[0], edges[1] - edges[0], 1 - edges[1]), strict=True))
    for split, share in wanted.items():
        if share > 1e-9 and not len(segments[split]):
            raise DataError(
                f"{rows} {unit} are too few: nothing is left for the {split} part "
                f"({share:.0%} of them)"
            )


def pieces(segments: Array, longest: int) -> Array:
    """Segments in pieces of at most `longest` scored steps, each with its own warm-up."""
    cut = []
    for begin, scored, end in segments.tolist():
        count = max(1, -(-(end - scored) // longest))
        edges = [scored + (end - scored) * i // count for i in range(count + 1)]
        cut += [
            (begin if a == scored else max(begin, a - WARM_UP), a, b) for a, b in pairwise(edges)
        ]
    return np.array(cut, np.int64).reshape(-1, 3)


def split_sequences(strata: Array, random: np.random.Generator) -> Array:
    """A random order [S] in which every part of it has about the same share of each stratum.

    Each stratum's sequences are spread evenly over it, but one of each stands at the front: what is
    rare is learned before it is asked.
    """
    count = len(strata)
    shuffled = random.permutation(count)
    place = np.empty(count)
    for stratum in np.unique(strata):
        members = shuffled[strata[shuffled] == stratum]
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
        place[members[0]] = 0
    return np.argsort(place, kind="stable")
