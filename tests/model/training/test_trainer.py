"""The parts of an update: what learns, what is dropped, averaged, clipped, and when it ends."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.training.conftest import MakeSeries
from tests.model.training.small import Journal, learn, quick, weights_of

from carousel.model.data import ClassifyTask, Corpus, TagTask
from carousel.model.training import Trainer, make_network
from carousel.model.training.averaging import Average
from carousel.model.training.feed import feed
from carousel.model.training.optimizer import BETAS, Optimizer, Schedule
from carousel.model.training.progress import Pulse
from carousel.model.training.weight_dropping import dropping
from carousel.model.training.workers import Workers


def test_the_same_seed_gives_the_same_weights_and_another_others(
    text_corpus: Corpus, tmp_path: Path
) -> None:
    options = {"network": {"dropout": 0.3}, "max_steps": 6}
    one, two, other = (
        weights_of(learn(text_corpus, tmp_path / f"{i}", seed=seed, **options)[0])
        for i, seed in enumerate((2**64 - 1, 2**64 - 1, 4))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["rnn.weight_hh_l0"], other["rnn.weight_hh_l0"])


def test_a_text_is_learned_better_with_memory_than_from_pairs(
    text_corpus: Corpus, tmp_path: Path
) -> None:
    trainer, journal = learn(
        text_corpus,
        tmp_path,
        network={"hidden_size": 32, "layers": 1},
        max_steps=150,
        batch_size=16,
        window=16,
        learning_rate=0.02,
        evaluate_every=75,
    )
    ids = torch.from_numpy(text_corpus.steps[:9000].astype("int64"))
    size = int(ids.max()) + 1
    pairs = torch.zeros(size, size).index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), True)
    shares = pairs / pairs.sum(1, keepdim=True).clamp(min=1)
    entropy = -(pairs / pairs.sum() * shares.clamp(min=1e-9).log()).sum()
    assert trainer.best is not None
    assert trainer.best < 0.95 * entropy
    progress = journal.of("progress")
    assert progress[-1]["loss"] < progress[0]["loss"]
    assert progress[0]["step"] == 5


@pytest.mark.parametrize("cell", ["gru", "rnn_tanh"])
def test_a_series_is_forecast_better_than_by_repeating_it(
    make_series: MakeSeries, tmp_path: Path, cell: str
) -> None:
    corpus = make_series(horizon=1, season=1)
    options = {"max_steps": 150, "window": 24, "learning_rate": 0.02, "evaluate_every": 50}
    _, journal = learn(corpus, tmp_path, network={"cell": cell, "layers": 1}, **options)
    metrics = journal.of("evaluation")[-1]["metrics"]
    assert metrics["mae"] < 0.7 * metrics["naive_mae"]
    assert metrics["mase"] < 0.7


@pytest.mark.parametrize("kind", [ClassifyTask, TagTask])
def test_labels_are_learned(make_labelled: Any, tmp_path: Path, kind: Any) -> None:
    options = {"max_steps": 90, "batch_size": 20, "learning_rate": 0.02, "evaluate_every": 30}
    _, journal = learn(make_labelled(kind), tmp_path, **options)
    metrics = journal.of("evaluation")[-1]["metrics"]
    assert metrics["accuracy"] > 0.85 > metrics["naive_accuracy"]


def test_a_learned_initial_state_learns(text_corpus: Corpus, tmp_path: Path) -> None:
    shape = {"learned_initial_state": True}
    trainer, _ = learn(text_corpus, tmp_path, network=shape, max_steps=3)
    assert all(v.abs().sum() > 0 for v in trainer.network.initial.values())


def test_window_after_window_equals_the_whole_stream(text_corpus: Corpus, tmp_path: Path) -> None:
    """Without learning (a rate of next to nothing) the carried state is that of one long read."""
    options = {"learning_rate": 1e-30, "weight_decay": 0.0, "max_steps": 7, "batch_size": 1}
    trainer, _ = learn(text_corpus, tmp_path, **options)
    x = torch.from_numpy(text_corpus.steps[:70].astype("int64"))[None]
    network = trainer.network.eval()
    with torch.no_grad():
        _, rows = network(x, network.initial_rows(1))
    assert trainer.rows is not None
    torch.testing.assert_close(trainer.rows, rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_dropped_recurrent_weights_take_no_gradient_and_come_back(
    text_corpus: Corpus, cell: str
) -> None:
    network = make_network(quick(text_corpus, network={"cell": cell}), text_corpus)
    before = {name: value.clone() for name, value in network.named_parameters()}
    x = torch.randint(0, 10, (3, 5))
    with dropping(network.rnn, 0.5):
        y, _ = network.forward_fused(x, network.initial_rows(3))
    y.square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.rnn.named_parameters():
        assert parameter.grad is not None
        zeros = (parameter.grad == 0).float().mean().item()
        assert (0.3 < zeros < 0.7) if "weight_hh" in name else zeros < 0.1
    assert all(torch.equal(before[name], value) for name, value in network.named_parameters())
    plain, _ = network.forward_fused(x, network.initial_rows(3))
    reference, _ = network(x, network.initial_rows(3))
    torch.testing.assert_close(plain, reference)


def test_the_mean_is_that_of_the_last_third(text_corpus: Corpus) -> None:
    recipe = quick(text_corpus, averaging="mean", max_steps=9)
    network = make_network(recipe, text_corpus)
    average, seen = Average(network, recipe), []
    for step in range(1, 10):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-1, 1)
        average.update(step)
        seen.append(network.weights(0).hh.detach().clone())
    with average.applied():
        inside = network.weights(0).hh.detach().clone()
    torch.testing.assert_close(inside, torch.stack(seen[6:]).mean(0))
    assert torch.equal(network.weights(0).hh, seen[-1])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_updates_are_torch_s_and_a_skipped_one_changes_nothing(
    text_corpus: Corpus, kind: str
) -> None:
    recipe = quick(text_corpus, optimizer=kind, weight_decay=0.1)
    ours, theirs = (make_network(recipe, text_corpus) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer, named = Optimizer(ours, recipe), dict(theirs.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in named.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    reference: torch.optim.Optimizer
    if kind == "adamw":
        reference = torch.optim.AdamW(groups, betas=BETAS, fused=True)
    else:
        reference = torch.optim.SGD(groups, momentum=recipe.momentum, fused=True)
    for step, skip in enumerate((True, False, False, True, False)):
        for parameter, twin in zip(ours.parameters(), theirs.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            twin.grad = parameter.grad.clone()
        rate = 0.01 / (step + 1)
        optimizer.step(rate=rate, skip=torch.tensor(skip))
        if not skip:
            for group in reference.param_groups:
                group["lr"] = rate
            reference.step()
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), (name, step)


def test_schedules_rise_and_fall(text_corpus: Corpus) -> None:
    options = {"max_steps": 100, "warmup_steps": 10, "learning_rate": 0.1, "final_share": 0.2}
    cosine = Schedule(quick(text_corpus, **options))
    assert [cosine.rate(step) for step in (0, 4, 9)] == pytest.approx([0.01, 0.05, 0.1])
    assert cosine.rate(55) == pytest.approx(0.1 * 0.6)
    assert cosine.rate(100) == pytest.approx(0.02)
    plateau = Schedule(quick(text_corpus, **options, schedule="plateau"))
    for better, rate in ((True, 0.1), (False, 0.1), (False, 0.05), (False, 0.05), (False, 0.025)):
        plateau.evaluated(better)
        assert plateau.rate(50) == pytest.approx(rate)


def test_clipping_holds_every_update_s_norm(text_corpus: Corpus, tmp_path: Path) -> None:
    free, journal = learn(text_corpus, tmp_path / "free", clip_norm=0, max_steps=5)
    assert journal.of("progress")[0]["clipped_ratio"] == 0
    tight, journal = learn(text_corpus, tmp_path / "tight", clip_norm=0.01, max_steps=5)
    assert journal.of("progress")[0]["clipped_ratio"] == 1
    norms = [
        math.sqrt(sum(float(p.grad.square().sum()) for p in t.parameters if p.grad is not None))
        for t in (free, tight)
    ]
    assert norms[0] > 0.05
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"max_epochs": 1, "batch_size": 8, "window": 64}, 18.9),
        ({"patience": 2, "learning_rate": 1e-30, "evaluate_every": 3}, 9),
        ({"max_seconds": 0.0}, 0),
    ],
)
def test_it_ends_by_whichever_comes_first(
    text_corpus: Corpus, tmp_path: Path, options: dict[str, Any], end: float
) -> None:
    trainer, journal = learn(text_corpus, tmp_path, **({"max_steps": 1000} | options))
    assert journal[-1]["value"] == "finished"
    assert abs(trainer.step - end) < 2


@pytest.mark.parametrize(("max_steps", "at"), [(3, [3]), (5, [5]), (7, [5, 7])])
def test_there_is_an_evaluation_at_the_end(
    text_corpus: Corpus, tmp_path: Path, max_steps: int, at: list[int]
) -> None:
    _, journal = learn(text_corpus, tmp_path, max_steps=max_steps, evaluate_every=5)
    assert [event["step"] for event in journal.of("evaluation")] == at


def test_the_last_progress_is_the_last_update_where_nothing_is_held_out(
    text_corpus: Corpus, tmp_path: Path
) -> None:
    nothing = {**text_corpus.segments, "validation": np.zeros((0, 3), np.int64)}
    _, journal = learn(replace(text_corpus, segments=nothing), tmp_path)
    assert journal.of("progress")[-1]["step"] == 12


def test_the_gradient_s_reach_is_shown(text_corpus: Corpus, tmp_path: Path) -> None:
    _, journal = learn(text_corpus, tmp_path, gradients_every=5)
    events = journal.of("gradients")
    assert [event["step"] for event in events] == [5, 10]
    layers = events[0]["layers"]
    assert [layer["layer"] for layer in layers] == [0, 1]
    assert len(layers[0]["hidden_norms"]) == 10
    assert events[0]["verdict"]


def test_a_forget_gate_begins_as_the_recipe_says(text_corpus: Corpus) -> None:
    network = make_network(quick(text_corpus, network={"constant_bias": 2.5}), text_corpus)
    weights = network.weights(0)
    assert torch.equal((weights.bias_ih + weights.bias_hh)[12:24], torch.full((12,), 2.5))
    network = make_network(quick(text_corpus, network={"chrono_steps": 100}), text_corpus)
    weights = network.weights(0)
    bias = weights.bias_ih + weights.bias_hh
    assert torch.equal(bias[:12], -bias[12:24])
    assert 0 <= bias[12:24].min() < bias[12:24].max() <= math.log(99)


def test_a_trainer_needs_no_listener(text_corpus: Corpus, tmp_path: Path) -> None:
    assert Trainer(quick(text_corpus, max_steps=2), text_corpus, tmp_path).run() == "finished"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_gpu_learns_what_a_cpu_does_and_goes_on(
    text_corpus: Corpus, tmp_path: Path, optimizer: str
) -> None:
    options = {"optimizer": optimizer, "learning_rate": 0.01, "max_steps": 20}
    recipe = quick(text_corpus, **options)
    cpu, _ = learn(text_corpus, tmp_path / "cpu", **options)
    workers = Workers(device=torch.device("cuda"))
    gpu = Trainer(recipe, text_corpus, tmp_path / "gpu", workers=workers)
    assert gpu.run() == "finished"
    assert gpu.best == pytest.approx(cpu.best, rel=1e-2)
    longer = quick(text_corpus, **options | {"max_steps": 24})
    assert Trainer(longer, text_corpus, gpu.folder, workers=workers).run() == "finished"
    for name, value in cpu.network.state_dict().items():
        ours = gpu.network.state_dict()[name].cpu()
        torch.testing.assert_close(ours, value, rtol=0.02, atol=0.01)


def test_a_sign_of_life_may_come_after_every_update_and_every_batch_of_an_evaluation(
    text_corpus: Corpus, tmp_path: Path
) -> None:
    recipe, journal = quick(text_corpus, max_steps=8, evaluate_every=4), Journal()
    trainer = Trainer(recipe, text_corpus, tmp_path, emit=journal.emit)
    trainer.pulse = Pulse(every=0.0)
    trainer.run()
    batches = len(list(feed(recipe, text_corpus, "validation", Workers())))
    signs = [sign["step"] for sign in journal.of("alive")]
    assert [signs.count(step) for step in range(1, 9)] == [1, 1, 1, 1 + batches] * 2
