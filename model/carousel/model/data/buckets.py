"""Whole labelled sequences, of like length side by side, for classification and tagging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from carousel.model.data.batches import Batch
from carousel.model.data.corpus import Array, Corpus
from carousel.model.data.segments import pieces
from carousel.model.data.tasks import TagTask

# Batches that are shuffled together and sorted by length, so that little is padding.
POOL = 32
# A longer sequence of labelled steps is read in pieces, each with a warm-up.
LONGEST = 4096


class Bucketed:
    """A split's sequences in batches of `batch_size`, padded behind to the longest of each.

    `loop` (as for training): for ever, shuffled anew by `seed` in every epoch. Else: one pass, by
    length. All processes of a `world` agree on the batches and read their own rows of them.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        loop: bool | None = None,
    ) -> None:
        self._corpus, self._size, self._seed = corpus, batch_size, seed
        self._rank, self._world = rank, world
        self._loop = split == "train" if loop is None else loop
        segments = np.asarray(corpus.segments[split])
        self._steps = isinstance(corpus.task, TagTask)
        self._segments = pieces(segments, LONGEST) if self._steps else segments
        self._lengths = self._segments[:, 2] - self._segments[:, 0]
        self._epoch, self._batch = 0, 0
        self._order = self._shuffled()

    @property
    def epoch(self) -> float:
        """Passes over the split so far."""
        return self._epoch + self._batch / max(1, len(self._order))

    @property
    def cursor(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON."""
        return {"epoch": self._epoch, "batch": self._batch}

    def seek(self, cursor: Mapping[str, Any]) -> None:
        """Go on from a cursor of batches that were made alike."""
        self._epoch, self._batch = cursor["epoch"], cursor["batch"]
        self._order = self._shuffled()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._batch == len(self._order):
            if not self._loop or not self._order:
                raise StopIteration
            self._epoch, self._batch = self._epoch + 1, 0
            self._order = self._shuffled()
        rows = self._order[self._batch][self._rank :: self._world]
        self._batch += 1
        return self._padded(rows)

    def _shuffled(self) -> list[Array]:
        """The rows of each batch of the epoch."""
        count = len(self._segments)
        if not self._loop:
            order = np.argsort(self._lengths, kind="stable")
            return [order[i : i + self._size] for i in range(0, count, self._size)]
        random = np.random.default_rng([self._seed, self._epoch])
        order = random.permutation(count)
        pool, batches = POOL * self._size, []
        for i in range(0, count, pool):
            rows = order[i : i + pool]
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
            batches += [rows[k : k + self._size] for k in range(0, len(rows), self._size)]
        # A batch too small for all processes would leave one of them waiting.
        batches = [rows for rows in batches if len(rows) >= min(self._world, count)]
        return [batches[i] for i in random.permutation(len(batches))]

    def _padded(self, rows: Array) -> Batch:
        corpus = self._corpus
        begin, scored, _ = self._segments[rows].T
        lengths = self._lengths[rows]
        time = np.arange(lengths.max(initial=0))
        at = begin[:, None] + np.minimum(time, lengths[:, None] - 1)  # [B, T]
        x = corpus.steps[at]
        if corpus.vocabulary:
            x = x.astype(np.int64)
        assert corpus.targets is not None
        mask = None
        if self._steps:
            targets = corpus.targets[at].astype(np.int64)
            real = (time < lengths[:, None]) & (at >= scored[:, None])
            mask = None if real.all() else torch.from_numpy(real)
        else:
            sequence = np.searchsorted(corpus.starts, begin, "right") - 1
            targets = corpus.targets[sequence].astype(np.int64)
        full = bool((lengths == len(time)).all())
        return Batch(
            x=torch.from_numpy(x),
            targets=torch.from_numpy(targets),
            lengths=None if full else torch.from_numpy(lengths),
            mask=mask,
        )
