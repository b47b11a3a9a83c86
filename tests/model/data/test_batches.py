"""Batches bring every target that counts, never look past a segment, and go on from a cursor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from carousel.model.data import (
    Batch,
    Bucketed,
    ClassifyTask,
    Corpus,
    ForecastTask,
    LanguageModelTask,
    Streams,
    TagTask,
)
from carousel.model.data import segments as segments_module
from carousel.model.data.corpus import CorpusWriter
from carousel.model.data.segments import WARM_UP, cut_sequences


def text_corpus(folder: Path, lengths: list[int], cuts: tuple[float, float] = (0.6, 0.8)) -> Corpus:
    """Every token is its own place, so that a batch shows where it was read."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    writer = CorpusWriter(folder)
    writer.append("steps", np.arange(starts[-1], dtype=np.uint32))
    writer.append("starts", starts)
    places = [np.clip(int(starts[-1] * cut), starts[:-1], starts[1:]) for cut in cuts]
    segments = cut_sequences(starts, np.stack(places, 1))
    return writer.seal(LanguageModelTask(), segments, vocabulary=int(starts[-1]))


def series_corpus(folder: Path, lengths: list[int], horizon: int, gaps: bool = False) -> Corpus:
    """Two targets and a feature; the first target is the place."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    writer = CorpusWriter(folder)
    place = np.arange(starts[-1], dtype=np.float32)
    writer.append("steps", np.stack([place, place + 0.5, -place], axis=1))
    writer.append("starts", starts)
    if gaps:
        writer.append("present", np.stack([place % 3 != 0, place % 4 != 0], axis=1))
    cuts = starts[:-1, None] + (np.diff(starts)[:, None] * np.array([0.6, 0.8])).astype(np.int64)
    task = ForecastTask(targets=("a", "b"), horizon=horizon)
    return writer.seal(task, cut_sequences(starts, cuts), inputs=("a", "b", "c"), horizon=horizon)


def counted(batch: Batch) -> torch.Tensor:
    mask = torch.ones(batch.targets.shape, dtype=torch.bool) if batch.mask is None else batch.mask
    return batch.targets[mask]


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    batch_size=st.integers(1, 5),
    window=st.integers(1, 17),
    warm_up=st.integers(1, 9),
    world=st.integers(1, 3),
)
def test_one_pass_scores_every_target_of_a_split_once(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    batch_size: int,
    window: int,
    warm_up: int,
    world: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments_module, "WARM_UP", warm_up)
        patch.setattr("carousel.model.data.batches.WARM_UP", warm_up)
        corpus = text_corpus(tmp_path_factory.mktemp("corpus"), lengths)
        for split, segments in corpus.segments.items():
            found = [
                target
                for rank in range(world)
                for batch in Streams(
                    corpus, split, batch_size, window, rank=rank, world=world, loop=False
                )
                for target in counted(batch).tolist()
            ]
            # Nothing comes before the first step of a sequence, so it can't be predicted.
            expected = {
                place
                for begin, scored, end in segments.tolist()
                for place in range(max(scored, begin + 1), end)
            }
            assert sorted(found) == sorted(expected)


def test_lanes_read_on_window_after_window_and_start_anew_with_each_segment(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path, [50, 30, 120], cuts=(1, 1))
    streams = Streams(corpus, "train", 4, 16)
    assert streams.lanes == 4
    last: list[int | None] = [None] * 4
    for _ in range(60):
        batch = next(streams)
        assert batch.fresh is not None
        lengths = [batch.x.shape[1]] * 4 if batch.lengths is None else batch.lengths.tolist()
        for lane, length in enumerate(lengths):
            places = batch.x[lane, :length].tolist()
            assert places == list(range(places[0], places[0] + length))
            assert batch.targets[lane, :length].tolist() == [p + 1 for p in places]
            assert batch.fresh[lane] == (last[lane] is None or places[0] in (0, 50, 80))
            if not batch.fresh[lane]:
                assert places[0] == last[lane]
            last[lane] = places[-1] + 1
            document = np.searchsorted(corpus.starts, [places[0], places[-1] + 1], "right")
            assert document[0] == document[1]
        if batch.lengths is not None:
            real = torch.arange(batch.x.shape[1]) < batch.lengths[:, None]
            assert batch.mask is not None
            assert torch.equal(batch.mask, real)
        else:
            assert batch.mask is None


def test_an_epoch_is_as_many_steps_as_the_split_has(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path, [401], cuts=(1, 1))
    for rank, world in ((0, 1), (1, 2)):
        streams = Streams(corpus, "train", 4, 10, rank=rank, world=world)
        for _ in range(10):
            next(streams)
        assert streams.epoch == pytest.approx(1)


def test_validation_warms_up_on_what_came_before_it(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path, [8000])
    [[begin, scored, end]] = corpus.segments["validation"].tolist()
    assert scored - begin == WARM_UP
    batches = list(Streams(corpus, "validation", 1, 100))
    assert batches[0].x[0, 0] == begin
    assert batches[0].mask is not None
    assert not batches[0].mask.any()
    assert torch.cat([counted(b) for b in batches]).tolist() == list(range(scored, end))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("gaps", [False, True])
def test_forecasts_are_of_the_next_steps_first_step_first(
    tmp_path: Path, split: str, gaps: bool
) -> None:
    horizon = 3
    corpus = series_corpus(tmp_path, [40, 25], horizon, gaps)
    segments = corpus.segments[split]
    seen: list[tuple[int, int, int]] = []
    for batch in Streams(corpus, split, 3, 7, loop=False):
        assert batch.targets.shape == (*batch.x.shape[:2], horizon * 2)
        mask = torch.ones_like(batch.targets, dtype=torch.bool)
        mask = mask if batch.mask is None else batch.mask
        for lane, time, output in mask.nonzero().tolist():
            place = int(batch.x[lane, time, 0])
            step, column = divmod(output, 2)
            assert batch.targets[lane, time, output] == place + 1 + step + 0.5 * column
            seen.append((place, step, column))
    expected = [
        (place, step, column)
        for begin, scored, end in segments.tolist()
        for place in range(begin, end - 1)
        for step in range(horizon)
        for column in range(2)
        if scored <= place + 1 + step < end and (not gaps or (place + 1 + step) % (3 + column) != 0)
    ]
    assert sorted(seen) == sorted(expected)


def labelled_corpus(folder: Path, task: ClassifyTask | TagTask, lengths: list[int]) -> Corpus:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count = int(starts[-1]) if isinstance(task, TagTask) else len(lengths)
    writer = CorpusWriter(folder)
    writer.append("steps", np.arange(starts[-1], dtype=np.float32)[:, None])
    writer.append("starts", starts)
    writer.append("targets", (np.arange(count) % 7).astype(np.int32))
    rows = np.stack([starts[:-1], starts[:-1], starts[1:]], 1)
    splits = {"train": rows, "validation": rows[:5], "test": rows[:0]}
    return writer.seal(task, splits, inputs=("x",), labels=tuple("abcdefg"))


LENGTHS = [3 + (i * 37) % 29 for i in range(200)]


@pytest.mark.parametrize("task", [ClassifyTask(), TagTask()], ids=["classify", "tag"])
@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_has_every_sequence_once_with_its_labels(
    tmp_path: Path, task: ClassifyTask | TagTask, world: int
) -> None:
    corpus = labelled_corpus(tmp_path, task, LENGTHS)
    found, padding, steps = [], 0, 0
    for rank in range(world):
        batches = Bucketed(corpus, "train", 8, seed=3, rank=rank, world=world)
        while True:
            batch = next(batches)
            if batches.epoch > 1:
                break
            size = batch.x.shape[1]
            lengths = [size] * len(batch.x) if batch.lengths is None else batch.lengths.tolist()
            padding += sum(size - length for length in lengths)
            steps += sum(lengths)
            for row, length in enumerate(lengths):
                begin = int(batch.x[row, 0, 0])
                sequence = int(np.searchsorted(corpus.starts, begin))
                found.append(sequence)
                assert batch.x[row, :length, 0].tolist() == list(range(begin, begin + length))
                assert length == LENGTHS[sequence]
                if isinstance(task, ClassifyTask):
                    assert batch.targets[row] == sequence % 7
                    continue
                assert batch.targets[row, :length].tolist() == [
                    place % 7 for place in range(begin, begin + length)
                ]
                assert batch.mask is None or int(batch.mask[row].sum()) == length
    assert sorted(found) == list(range(200))
    assert padding < 0.1 * steps


def test_epochs_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    corpus = labelled_corpus(tmp_path, ClassifyTask(), LENGTHS)

    def first(seed: int, epochs: int = 2) -> list[list[float]]:
        batches = Bucketed(corpus, "train", 8, seed=seed)
        return [next(batches).x[:, 0, 0].tolist() for _ in range(25 * epochs)]

    assert first(1) == first(1)
    assert first(1)[:25] != first(2)[:25]
    assert first(1)[:25] != first(1)[25:]


def test_one_pass_over_labelled_sequences_ends(tmp_path: Path) -> None:
    corpus = labelled_corpus(tmp_path, TagTask(), LENGTHS)
    assert sum(len(batch.x) for batch in Bucketed(corpus, "validation", 2)) == 5
    assert list(Bucketed(corpus, "test", 2)) == []


def test_long_tagged_sequences_are_read_in_pieces_and_every_label_counts_once(
    tmp_path: Path,
) -> None:
    corpus = labelled_corpus(tmp_path, TagTask(), [10_000, 20, 5_000])
    places = []
    for batch in Bucketed(corpus, "train", 4, loop=False):
        assert batch.x.shape[1] <= 4096 + WARM_UP
        mask = torch.ones(batch.x.shape[:2], dtype=torch.bool)
        places += batch.x[..., 0][mask if batch.mask is None else batch.mask].tolist()
    assert sorted(places) == list(range(15_020))


def make(corpus: Corpus) -> Any:
    if isinstance(corpus.task, ClassifyTask | TagTask):
        return Bucketed(corpus, "train", 8, seed=5)
    return Streams(corpus, "train", 3, 16)


@pytest.mark.parametrize("kind", ["text", "series", "labelled"])
def test_a_cursor_brings_the_very_batches_that_would_have_come(tmp_path: Path, kind: str) -> None:
    corpus = {
        "text": lambda: text_corpus(tmp_path, [50, 3, 120], cuts=(1, 1)),
        "series": lambda: series_corpus(tmp_path, [50, 120], 2, gaps=True),
        "labelled": lambda: labelled_corpus(tmp_path, ClassifyTask(), LENGTHS),
    }[kind]()
    ahead = make(corpus)
    for steps in range(60):
        if steps in (0, 13, 25, 59):
            other = make(corpus)
            other.seek(json.loads(json.dumps(ahead.cursor)))
            assert other.epoch == ahead.epoch
            expected, found = next(ahead), next(other)
            for name in ("x", "targets", "lengths", "mask", "fresh"):
                one, two = getattr(expected, name), getattr(found, name)
                assert (one is None) == (two is None)
                assert one is None or torch.equal(one, two)
            assert ahead.cursor == other.cursor
        else:
            next(ahead)
