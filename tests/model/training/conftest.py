"""Small corpora made on the spot, and recipes that take a moment each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carousel.model.config import Normalization
from carousel.model.data import (
    ClassifyTask,
    Corpus,
    ForecastTask,
    LanguageModelTask,
    TagTask,
)
from carousel.model.data.corpus import CorpusWriter
from carousel.model.data.segments import cut_at_shares, cut_sequences, whole_sequences
from carousel.model.data.text import prepare_text

WORDS = ("the ", "carousel ", "turns ", "and ", "sessions ", "hop ", "on ", "off.\n")


@pytest.fixture(scope="session")
def text_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 12,000 characters of words at random."""
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(5)
    (folder / "words.txt").write_text("".join(WORDS[i] for i in random.integers(0, 8, 2000)))
    return prepare_text(folder / "words.txt", LanguageModelTask(), folder / "corpus")


MakeSeries = Callable[..., Corpus]
MakeLabelled = Callable[[type[ClassifyTask | TagTask]], Corpus]


@pytest.fixture
def make_series(tmp_path: Path) -> MakeSeries:
    """Two series of a target and a feature; a tenth of the targets is missing."""

    def make(
        *, horizon: int = 2, season: int = 3, spoil: slice | None = None, scale: float = 1.0
    ) -> Corpus:
        random = np.random.default_rng(3)
        starts = np.array([0, 300, 500], np.int64)
        time = np.arange(500)
        steps = np.stack([np.sin(time / 3) * 4 + 10, np.cos(time / 5)], 1)
        steps = (steps + random.normal(0, 0.1, steps.shape)).astype(np.float32)
        steps[:, 0] *= scale
        if spoil is not None:
            steps[spoil, 0] = 3e38  # finite, and far too large for any loss
        present = random.random((500, 1)) > 0.1
        task = ForecastTask(targets=("y",), features=("x",), horizon=horizon, season=season)
        writer = CorpusWriter(tmp_path / f"series-{horizon}-{season}-{spoil is not None}")
        for name, values in (("steps", steps), ("starts", starts), ("present", present)):
            writer.append(name, values)
        outward = Normalization((10.0 * scale,) * horizon, (3.0 * scale,) * horizon)
        return writer.seal(
            task,
            cut_sequences(starts, cut_at_shares(starts, (0.7, 0.85))),
            inputs=("y", "x"),
            normalization=Normalization((10.0 * scale, 0.0), (3.0 * scale, 0.7)),
            output_normalization=outward,
            horizon=horizon,
            season=season,
        )

    return make


@pytest.fixture
def make_labelled(tmp_path: Path) -> MakeLabelled:
    """90 sequences of 3 to 12 steps with one of three labels, by sequence or by step."""

    def make(kind: type[ClassifyTask | TagTask]) -> Corpus:
        random = np.random.default_rng(4)
        lengths = random.integers(3, 13, 90)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        steps = random.normal(0, 1, (starts[-1], 2)).astype(np.float32)
        labels = random.choice(3, 90, p=[0.5, 0.3, 0.2]).astype(np.int32)
        targets = np.repeat(labels, lengths).astype(np.int32)
        steps[:, 0] += 3 * targets
        writer = CorpusWriter(tmp_path / kind.__name__)
        writer.append("steps", steps)
        writer.append("starts", starts)
        writer.append("targets", labels if kind is ClassifyTask else targets)
        splits = np.repeat([0, 1, 2], [60, 15, 15])
        return writer.seal(
            kind(),
            whole_sequences(starts, splits),
            inputs=("a", "b"),
            labels=("low", "middle", "high"),
            normalization=Normalization((2.0, 0.0), (2.0, 1.0)),
        )

    return make
