"""What goes wrong on real machines: bad numbers, damaged files, full disks, two workers."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.training.conftest import MakeSeries
from tests.model.training.faults import DAMAGES, damage, no_room
from tests.model.training.small import events_of, learn, quick, start, wait_for, write_job
from tests.processes import PATIENCE

from carousel.model import load
from carousel.model.data import Corpus
from carousel.model.training import DivergedError, Trainer
from carousel.model.training.checkpoint import Checkpoints
from carousel.model.training.events import Events
from carousel.model.training.job import run
from carousel.model.training.workers import Workers


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_poisoned_window_is_skipped_and_learning_goes_on(
    make_series: MakeSeries, tmp_path: Path, optimizer: str
) -> None:
    spoiled = make_series(spoil=slice(120, 122))
    options = {"optimizer": optimizer, "learning_rate": 0.01, "batch_size": 1, "max_steps": 60}
    trainer, journal = learn(spoiled, tmp_path, **options)
    assert trainer.back_off.skipped > 0
    assert any("not finite" in e["message"] for e in journal.of("warning"))
    assert journal[-1]["value"] == "finished"
    assert all(v.isfinite().all() for v in trainer.network.state_dict().values())
    assert trainer.best is not None
    assert trainer.best < journal.of("evaluation")[0]["loss"]


def test_three_bad_updates_in_a_row_roll_back_and_the_data_goes_on(
    make_series: MakeSeries, tmp_path: Path
) -> None:
    spoiled = make_series(spoil=slice(100, 140))  # four windows of ten steps
    trainer, journal = learn(spoiled, tmp_path, max_steps=40, batch_size=1)
    messages = [event["message"] for event in journal.of("warning")]
    assert any("back to the checkpoint of step 8" in message for message in messages)
    assert journal[-1]["value"] == "finished"
    assert trainer.step == 40
    assert trainer.back_off.skipped >= 3


def test_a_job_that_cannot_learn_gives_up_with_advice(
    make_series: MakeSeries, tmp_path: Path
) -> None:
    spoiled = make_series(spoil=slice(0, 210))  # the training part of the first series
    corpus_folder = write_job(spoiled, tmp_path / "job", batch_size=1, max_steps=400)
    recipe = quick(spoiled, batch_size=1, max_steps=400)
    with pytest.raises(DivergedError, match="again after 3 roll-backs: a lower learning rate"):
        Trainer(recipe, spoiled, corpus_folder).run()


def test_values_that_no_loss_can_hold_are_named_when_they_are_in_the_test_part(
    make_series: MakeSeries, tmp_path: Path
) -> None:
    job = write_job(make_series(spoil=slice(270, 272)), tmp_path / "job")
    assert run(job, Workers()) == 1
    assert events_of(job)[-1]["message"].startswith("the test loss is not finite: the last part")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_found_and_the_one_before_it_used(
    text_corpus: Corpus, tmp_path: Path, how: str
) -> None:
    trainer, _ = learn(text_corpus, tmp_path)
    *_, before, newest = trainer.checkpoints.steps
    damage(trainer.checkpoints.path(newest), how)

    again, journal = learn(text_corpus, tmp_path)
    assert journal.of("started")[0]["resumed_from"] == before
    assert f"checkpoint {newest:08}" in journal.of("warning")[0]["message"]
    assert again.step == 12


def test_retention_keeps_the_newest_and_the_best(text_corpus: Corpus, tmp_path: Path) -> None:
    # So high a rate makes everything after the first evaluations worse.
    options: dict[str, Any] = {"max_steps": 20, "evaluate_every": 2, "keep_checkpoints": 3}
    trainer, journal = learn(
        text_corpus, tmp_path, **options, learning_rate=0.3, schedule="constant"
    )
    evaluations = journal.of("evaluation")
    best = min(evaluations, key=lambda e: e["loss"])["step"]
    assert trainer.checkpoints.best == best
    assert trainer.checkpoints.steps == sorted({best, 16, 18, 20})
    assert [e["step"] for e in evaluations if e["best"]][-1] == best
    assert not [p for p in trainer.checkpoints.folder.iterdir() if p.name.startswith(".")]


def test_a_kill_while_old_checkpoints_go_leaves_no_half_of_one(
    text_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **options: Any) -> None:
        for file in path.glob("*"):
            file.unlink()
            raise KeyboardInterrupt

    options: dict[str, Any] = {"max_steps": 3, "checkpoint_every": 1, "keep_checkpoints": 1}
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(text_corpus, tmp_path, **options)
    monkeypatch.undo()
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in checkpoints.steps:
        checkpoints.check(step)
    assert checkpoints.newest(pytest.fail) == checkpoints.steps[-1]
    assert [path.name for path in checkpoints.folder.iterdir() if path.name.startswith(".")] == []


def test_what_can_not_be_removed_is_in_no_later_one_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as where a disk refuses
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 1, 1, 2):  # the job had been there before it rolled back
        checkpoints.draft(step).mkdir()
        (checkpoints.draft(step) / "state").write_text(str(step))
        checkpoints.seal(step, best=False)
    assert checkpoints.steps == [2]
    checkpoints.check(2)


def test_a_checkpoint_that_a_kill_left_untold_is_told_by_the_next_process(
    text_corpus: Corpus, tmp_path: Path
) -> None:
    job = write_job(text_corpus, tmp_path / "job")
    events = Events(job / "events.jsonl")

    def emit(kind: str, step: int, **values: Any) -> None:
        if (kind, step) == ("checkpoint", 8):
            raise KeyboardInterrupt
        events.emit(kind, step, **values)

    with pytest.raises(KeyboardInterrupt):
        Trainer(quick(text_corpus), text_corpus, job, emit=emit).run()
    events.close()
    assert run(job, Workers()) == 0
    assert [event["step"] for event in events_of(job).of("checkpoint")] == [0, 4, 8, 12]


def test_a_full_disk_fails_the_job_and_tears_nothing(text_corpus: Corpus, tmp_path: Path) -> None:
    job = write_job(text_corpus, tmp_path / "job", max_steps=200, checkpoint_every=1)
    learn(text_corpus, job, max_steps=8, checkpoint_every=4)
    before = sorted(path.name for path in (job / "checkpoints").iterdir())
    size = max(p.stat().st_size for p in (job / "checkpoints").rglob("*.safetensors"))
    with no_room(size // 2):
        assert run(job, Workers()) == 1
    last = events_of(job)[-1]
    assert last["type"] == "failed"
    assert last["message"].startswith("there is no room left on the disk")
    assert sorted(path.name for path in (job / "checkpoints").iterdir()) == before
    # With room again it goes on from there.
    trainer, journal = learn(text_corpus, job, max_steps=12)
    assert journal.of("started")[0]["resumed_from"] == 8
    assert trainer.step == 12


def test_a_job_leaves_a_version_and_its_story(text_corpus: Corpus, tmp_path: Path) -> None:
    first = write_job(text_corpus, tmp_path / "first", max_steps=6)
    assert run(first, Workers()) == 0
    options = {"baseline": str(first / "result"), "margin": 0.01, "max_steps": 40}
    second = write_job(text_corpus, tmp_path / "second", **options)
    assert run(second, Workers()) == 0

    events = events_of(second)
    assert [e["type"] for e in events][:2] == ["started", "checkpoint"]
    test_loss = next(e["loss"] for e in events if e.get("split") == "test")
    end = events[-1]
    assert end["type"] == "finished"
    assert end["baseline_loss"] == next(
        e["loss"] for e in events_of(first) if e.get("split") == "test"
    )
    assert end["passed"] is (test_loss < end["baseline_loss"] * 0.99)
    for event in events:
        assert {"type", "time", "attempt", "step"} <= event.keys()
        assert all(math.isfinite(v) for v in event.values() if isinstance(v, float))

    network = load(second / "result")
    assert network.config.tokenizer == text_corpus.tokenizer
    assert f"**{test_loss:.4g}**" in (second / "result" / "README.md").read_text()
    baseline = json.loads((second / "result" / "baseline.json").read_text())
    assert len(baseline["layers"]) == 2
    assert math.isclose(sum(baseline["layers"][0]["gates"]["forget"]["histogram"]), 1, rel_tol=1e-5)
    # Once there is a result there is nothing left to do.
    assert run(second, Workers()) == 0
    assert len(events_of(second)) == len(events)


def test_a_result_whose_end_was_not_told_is_made_again(text_corpus: Corpus, tmp_path: Path) -> None:
    job = write_job(text_corpus, tmp_path, max_steps=4)
    assert run(job, Workers()) == 0
    before = (job / "result" / "weights.safetensors").read_bytes()
    lines = (job / "events.jsonl").read_bytes().splitlines(keepends=True)
    (job / "events.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # torn
    assert run(job, Workers()) == 0
    events = events_of(job)
    assert events[-1]["type"] == "finished"
    assert len(events.of("finished")) == 1
    assert (job / "result" / "weights.safetensors").read_bytes() == before


def test_a_job_that_makes_no_sense_says_so(text_corpus: Corpus, tmp_path: Path) -> None:
    job = write_job(text_corpus, tmp_path / "job")
    given = json.loads((job / "job.json").read_text())
    given["recipe"]["widnow"] = 3
    (job / "job.json").write_text(json.dumps(given))
    assert run(job, Workers()) == 1
    assert "recipe has no 'widnow'" in events_of(job)[-1]["message"]


def test_two_workers_learn_what_one_does_and_outlive_a_kill(
    text_corpus: Corpus, tmp_path: Path
) -> None:
    options = {"max_steps": 60, "checkpoint_every": 5, "evaluate_every": 20, "batch_size": 6}
    alone, _ = learn(text_corpus, tmp_path / "alone", **options)
    version = str(alone.checkpoints.path(alone.checkpoints.best or 0))
    job = write_job(text_corpus, tmp_path / "job", baseline=version, margin=0.5, **options)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(job, *launcher, "--max-restarts", "3")
    wait_for(job, lambda events: events.of("checkpoint")[1:])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(PATIENCE) == 0, (job / "log.txt").read_text()

    events = events_of(job)
    assert [e["type"] for e in events].count("started") == 2
    assert events[-1]["type"] == "finished"
    assert events[-1]["attempt"] == 2
    assert events[-1]["passed"] is False  # it is as good as its like, and not twice as good
    newest = max(path for path in (job / "checkpoints").iterdir() if path.name.isdigit())
    assert {"worker-0.json", "worker-1.json"} <= {path.name for path in newest.iterdir()}
    ours = load(newest).state_dict()
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)
