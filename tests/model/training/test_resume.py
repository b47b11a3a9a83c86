"""A run that was cut goes on as if it had not been: the same weights, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.training.small import (
    Journal,
    events_of,
    learn,
    quick,
    start,
    wait_for,
    weights_of,
    write_job,
)
from tests.processes import PATIENCE

from carousel.model import weights
from carousel.model.data import ClassifyTask, Corpus
from carousel.model.training import Trainer
from carousel.model.training.precision import has_bfloat16

HARD = {"dropout": 0.2, "weight_dropout": 0.2, "learned_initial_state": True}
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "schedule": "plateau"},
    "ema": {"averaging": "ema"},
    "bfloat16": {"precision": "bfloat16"},
    "mean": {"averaging": "mean", "network": HARD | {"cell": "gru"}},
    "every": {"checkpoint_every": 1, "evaluate_every": 3},
}


@pytest.mark.parametrize("name", RECIPES)
def test_two_halves_equal_the_whole(text_corpus: Corpus, tmp_path: Path, name: str) -> None:
    options = {"max_steps": 12, "network": HARD} | RECIPES[name]
    if name == "bfloat16" and not has_bfloat16():
        pytest.skip("this machine has no instructions for bfloat16")
    whole, _ = learn(text_corpus, tmp_path / "whole", **options)

    cut = tmp_path / "cut"
    first = Stopper(cut, 5)  # between two evaluations
    half = Trainer(quick(text_corpus, **options), text_corpus, cut, emit=first.emit)
    assert half.run() == "stopped"
    (cut / "stop").unlink()
    second, journal = learn(text_corpus, cut, **options)

    assert journal.of("started")[0]["resumed_from"] == half.step
    assert 0 < half.step < whole.step == second.step
    assert second.best == whole.best
    same(weights_of(whole), weights_of(second))
    same(whole.average.values, second.average.values)
    assert whole.rows is not None
    assert second.rows is not None
    assert torch.equal(whole.rows, second.rows)


class Stopper(Journal):
    """Asks for the end as soon as something is told at a step or behind it."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self._folder, self._step = folder, step

    def emit(self, kind: str, step: int, **values: Any) -> None:
        super().emit(kind, step, **values)
        if step >= self._step:
            (self._folder / "stop").touch()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_labelled_sequences_resume_too(make_labelled: Any, tmp_path: Path) -> None:
    corpus = make_labelled(ClassifyTask)
    often = {"evaluate_every": 10}
    whole, _ = learn(corpus, tmp_path / "whole", max_steps=40, **often)
    cut = tmp_path / "cut"
    half = Trainer(quick(corpus, max_steps=40, **often), corpus, cut, emit=Stopper(cut, 20).emit)
    assert half.run() == "stopped"
    (cut / "stop").unlink()
    second, _ = learn(corpus, cut, max_steps=40, **often)
    same(weights_of(whole), weights_of(second))


def test_a_killed_job_ends_with_the_weights_of_one_that_lived(
    text_corpus: Corpus, tmp_path: Path
) -> None:
    options = {"max_steps": 120, "evaluate_every": 40, "checkpoint_every": 20, "network": HARD}
    lived, _ = learn(text_corpus, tmp_path / "lived", **options)
    killed = write_job(text_corpus, tmp_path / "killed", **options)
    process = start(killed)
    wait_for(killed, lambda events: any(e["step"] >= 20 for e in events.of("checkpoint")))
    process.send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert not (killed / "result").exists()
    assert start(killed, "-X", "importtime").wait(PATIENCE) == 0
    # It takes as long to import as all else that a job needs.
    assert "torch._dynamo" not in (killed / "log.txt").read_text()

    resumed = events_of(killed).of("started")[1]
    assert resumed["attempt"] == 2
    assert resumed["resumed_from"] >= 20
    best = lived.checkpoints.best
    assert best is not None
    result = weights.load(killed / "result").state_dict()
    same(weights.load(lived.checkpoints.path(best)).state_dict(), result)
