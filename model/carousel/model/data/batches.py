"""What a trainer reads: windows of streams side by side, or whole labelled sequences in buckets.

Both are iterators of `Batch` that can go on from a JSON cursor: `batches.cursor` after a batch,
given to `seek` of a new one, brings the very batches that would have come next. B rows, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carousel.model.data.corpus import Corpus
from carousel.model.data.segments import WARM_UP, pieces
from carousel.model.data.tasks import ForecastTask

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a network reads and should answer.

    - x: int64 [B, T] or float32 [B, T, D].
    - targets: int64 [B, T] (next token, or a label a step), int64 [B] (a label a sequence), or
      float32 [B, T, O] (forecast: horizon x targets, the first step's targets first).
    - lengths: int64 [B], each at least 1; None when all rows are full.
    - mask: bool, shaped as the targets: which of them count; None when all do.
    - fresh: bool [B]: the row's state starts anew; None when every row's does.
    """

    x: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    mask: Tensor | None = None
    fresh: Tensor | None = None


class Streams:
    """Windows of a split's segments for truncated back-propagation, lane beside lane.

    `loop` (as for training): every lane reads on for ever, round all segments; lane i begins at the
    i-th part of the split. Else: one pass, each lane over its own segments; every target counts
    once, and a lane that has ended is masked. `batch_size` lanes are spread over `world` processes;
    `lanes` of them are here. A window never crosses a segment.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        batch_size: int,
        window: int,
        *,
        rank: int = 0,
        world: int = 1,
        loop: bool | None = None,
    ) -> None:
        self._corpus, self._window = corpus, window
        self._forecast = isinstance(corpus.task, ForecastTask)
        self._loop = split == "train" if loop is None else loop
        segments = np.asarray(corpus.segments[split])
        if not self._loop:
            scored = int((segments[:, 2] - segments[:, 1]).sum())
            segments = pieces(segments, max(4 * WARM_UP, -(-scored // batch_size)))
            batch_size = min(batch_size, len(segments))
        self._begin, self._scored, self._end = segments.T
        # A segment's last step is predicted only.
        before = np.concatenate([[0], np.cumsum(self._end - 1 - self._begin)])
        self._share = int(before[-1]) * len(range(rank, batch_size, world)) / max(1, batch_size)
        first = np.arange(batch_size) * before[-1] // max(1, batch_size)
        if self._loop:
            piece = np.searchsorted(before, first, "right") - 1
            self._position = (self._begin[piece] + first - before[piece])[rank::world]
            self._last = np.full(len(self._position), -1)
        else:
            edges = np.concatenate([np.searchsorted(before[:-1], first), [len(segments)]])
            piece, self._last = edges[:-1], edges[1:][rank::world]
            self._position = np.append(self._begin, 0)[piece][rank::world]
        self._piece = piece[rank::world]
        self._fresh = np.ones(len(self._piece), bool)
        self._read = 0

    @property
    def lanes(self) -> int:
        """Rows of every batch."""
        return len(self._piece)

    @property
    def epoch(self) -> float:
        """Passes over the split so far."""
        return self._read / max(1.0, self._share)

    @property
    def cursor(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON."""
        return {
            "piece": self._piece.tolist(),
            "position": self._position.tolist(),
            "fresh": self._fresh.tolist(),
            "read": self._read,
        }

    def seek(self, cursor: Mapping[str, Any]) -> None:
        """Go on from a cursor of streams that were made alike."""
        self._piece = np.array(cursor["piece"], np.int64)
        self._position = np.array(cursor["position"], np.int64)
        self._fresh = np.array(cursor["fresh"], bool)
        self._read = cursor["read"]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        live = np.full(self.lanes, True) if self._loop else self._piece < self._last
        if not live.any():
            raise StopIteration
        piece = np.where(live, self._piece, 0)
        lengths = np.minimum(self._end[piece] - 1 - self._position, self._window)
        lengths = np.where(live, lengths, 1)
        time = np.arange(lengths.max())
        at = np.where(live, self._position, 0)[:, None] + np.minimum(time, lengths[:, None] - 1)
        real = (time < lengths[:, None]) & live[:, None]  # [B, T]
        x, targets, mask = self._window_at(at, real, piece)
        full = bool((lengths == len(time)).all())
        batch = Batch(
            x=torch.from_numpy(x),
            targets=torch.from_numpy(targets),
            lengths=None if full else torch.from_numpy(lengths),
            mask=None if mask.all() else torch.from_numpy(mask),
            fresh=torch.from_numpy(self._fresh),
        )
        self._advance(live, lengths)
        return batch

    def _window_at(self, at: Array, real: Array, piece: Array) -> tuple[Array, Array, Array]:
        corpus, scored, end = self._corpus, self._scored[piece], self._end[piece]
        if not self._forecast:
            mask = real & (at + 1 >= scored[:, None])
            return corpus.steps[at].astype(np.int64), corpus.steps[at + 1].astype(np.int64), mask
        ahead = at[:, :, None] + np.arange(1, corpus.horizon + 1)  # [B, T, horizon]
        inside = (ahead >= scored[:, None, None]) & (ahead < end[:, None, None])
        ahead = np.minimum(ahead, len(corpus.steps) - 1)
        assert corpus.targets is not None
        targets = corpus.targets[ahead]  # [B, T, horizon, targets]
        mask = np.array(np.broadcast_to((inside & real[:, :, None])[..., None], targets.shape))
        if corpus.present is not None:
            mask = mask & corpus.present[ahead]
        flat = (*at.shape, -1)
        return np.asarray(corpus.steps[at]), targets.reshape(flat), mask.reshape(flat)

    def _advance(self, live: Array, lengths: Array) -> None:
        self._read += int(lengths[live].sum())
        position = self._position + np.where(live, lengths, 0)
        ended = live & (position >= self._end[np.where(live, self._piece, 0)] - 1)
        following = self._piece + 1
        if self._loop:
            following %= len(self._begin)
        self._piece = np.where(ended, following, self._piece)
        self._position = np.where(ended, np.append(self._begin, 0)[self._piece], position)
        self._fresh = ended
