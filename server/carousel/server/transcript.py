"""Transcript: the tokens of one generation, those that were decided and how the next one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from struct import Struct

import numpy as np

from carousel.model import SamplingOptions, sample, skip
from carousel.server.memo import Memo
from carousel.server.work import Floats

Said = tuple[int | float, ...]
"""A token; where they were asked for, its log-probability (NaN: not known) and the likeliest
tokens, each with its own."""


class Layout:
    """How the tokens of a generation lie in its memo.

    `top` is how many likeliest tokens were asked for; None: no log-probabilities at all.
    """

    def __init__(self, top: int | None, vocabulary: int) -> None:
        self.top = None if top is None else min(top, vocabulary)
        self.struct = Struct("<I" if self.top is None else "<If" + "If" * self.top)

    def unknown(self, token: int) -> Said:
        """A token of which nothing else is known any more."""
        return (token,) if self.top is None else (token, nan, *(0, nan) * self.top)

    def pack(self, rows: Sequence[Said]) -> bytes:
        return b"".join([self.struct.pack(*row) for row in rows])

    def count(self, said: bytes) -> int:
        return len(said) // self.struct.size

    def unpack(self, said: bytes) -> list[Said]:
        return list(self.struct.iter_unpack(said))


class Transcript:
    """Goes on behind what a memo says; `memo` is up to date after every draw."""

    def __init__(
        self, memo: Memo, layout: Layout, options: SamplingOptions, prompt: Sequence[int]
    ) -> None:
        self.memo = memo
        self.rows = layout.unpack(memo.said)
        self._layout = layout
        self._options = options
        self._history = [*prompt, *tokens_of(self.rows)]
        self._rng = np.random.default_rng(memo.seed)
        skip(len(self.rows), options, self._rng)

    def draw(self, logits: Floats) -> int:
        """Decide the next token."""
        token, log_probability = sample(logits, self._options, self._history, self._rng)
        said: Said = (token,)
        if self._layout.top is not None:
            # The logits differ from log-probabilities by one number, the same for all.
            all_of_them = logits - logits[token] + log_probability
            likeliest = np.argsort(-all_of_them, kind="stable")[: self._layout.top].tolist()
            pairs = [(one, float(all_of_them[one])) for one in likeliest]
            said = (token, log_probability, *(number for pair in pairs for number in pair))
        packed = self._layout.pack([said])
        self.memo = replace(self.memo, said=self.memo.said + packed)
        self.rows += self._layout.unpack(packed)
        self._history.append(token)
        return token


def tokens_of(rows: Sequence[Said]) -> list[int]:
    return [int(row[0]) for row in rows]
