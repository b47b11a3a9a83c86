"""Losses and metrics against plain numpy, over the whole split in one pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.training.conftest import MakeSeries
from tests.model.training.small import quick

from carousel.model.data import ClassifyTask, Corpus, LanguageModelTask, TagTask
from carousel.model.data.text import prepare_text
from carousel.model.network import Network
from carousel.model.training import Evaluator, make_network

Array = np.ndarray[Any, Any]


def outputs_of(network: Network, steps: Array) -> Array:
    """The reference's outputs [T, O] for one sequence from its beginning."""
    x = torch.from_numpy(np.array(steps))
    x = x.long() if network.config.takes_tokens else x
    with torch.no_grad():
        y, _ = network.eval()(x[None], network.initial_rows(1))
    outputs: Array = y[0].double().numpy()
    return outputs


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def segment(corpus: Corpus, split: str) -> list[list[int]]:
    found: list[list[int]] = np.asarray(corpus.segments[split]).tolist()
    return found


def test_loss_of_a_text_is_the_reference_s(text_corpus: Corpus) -> None:
    network = make_network(quick(text_corpus), text_corpus)
    ((begin, scored, end),) = segment(text_corpus, "validation")
    ids = np.asarray(text_corpus.steps[begin:end]).astype(int)
    logs = log_softmax(outputs_of(network, ids[:-1]))
    nats = -logs[np.arange(len(ids) - 1), ids[1:]][scored - begin - 1 :]
    assert len(nats) == end - scored

    found = Evaluator(quick(text_corpus), text_corpus)(network, "validation")
    assert found.loss == pytest.approx(nats.mean(), rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-5)
    assert found.metrics["bits_per_character"] == pytest.approx(nats.mean() / math.log(2), rel=1e-5)


@pytest.mark.parametrize("tokenization", ["bytes", "subwords"])
def test_bits_are_a_character_whatever_the_token(tmp_path: Any, tokenization: str) -> None:
    text = "Grüße, 世界! Das Karussell dreht sich.\n" * 60
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    task = LanguageModelTask(tokenization=tokenization, vocabulary=300)
    corpus = prepare_text(tmp_path / "text.txt", task, tmp_path / "corpus")
    assert corpus.tokenizer is not None
    found = Evaluator(quick(corpus), corpus)(make_network(quick(corpus), corpus), "test")
    ((_, scored, end),) = segment(corpus, "test")
    characters = len(corpus.tokenizer.decode(np.asarray(corpus.steps[scored:end]).tolist()))
    bits = found.loss * (end - scored) / math.log(2) / characters
    assert found.metrics["bits_per_character"] == pytest.approx(bits, rel=1e-6)
    assert characters < end - scored or tokenization == "subwords"


@pytest.mark.parametrize(("horizon", "season"), [(1, 1), (2, 3), (5, 2)])
def test_forecast_metrics_in_original_units(
    make_series: MakeSeries, horizon: int, season: int
) -> None:
    corpus = make_series(horizon=horizon, season=season)
    network = make_network(quick(corpus), corpus)
    assert corpus.targets is not None
    assert corpus.present is not None
    values, present = np.asarray(corpus.targets[:, 0], float), np.asarray(corpus.present[:, 0])
    errors, naive, scale = [], [], []
    for begin, scored, end in segment(corpus, "test"):
        start = max(s for s in corpus.starts.tolist() if s <= begin)
        y = outputs_of(network, np.asarray(corpus.steps[begin:end]))
        for t in range(begin, end - 1):
            for h in range(1, horizon + 1):
                if scored <= t + h < end and present[t + h]:
                    back = t + h - season * math.ceil(h / season)
                    errors.append(y[t - begin, h - 1] - values[t + h])
                    naive.append((values[back] if back >= start else values[t]) - values[t + h])
    for begin, _, end in segment(corpus, "train"):
        for t in range(begin + season, end):
            if present[t] and present[t - season]:
                scale.append(abs(values[t] - values[t - season]))

    found = Evaluator(quick(corpus), corpus)(network, "test")
    assert found.loss == pytest.approx(np.mean((np.array(errors) / 3.0) ** 2), rel=1e-4)
    expected = {
        "mae": np.abs(errors).mean(),
        "rmse": np.sqrt(np.mean(np.square(errors))),
        "mase": np.abs(errors).mean() / np.mean(scale),
        "naive_mae": np.abs(naive).mean(),
        "naive_rmse": np.sqrt(np.mean(np.square(naive))),
        "naive_mase": np.abs(naive).mean() / np.mean(scale),
    }
    assert found.metrics == pytest.approx(expected, rel=1e-4)


def test_errors_are_squared_in_units_of_any_size(make_series: MakeSeries) -> None:
    corpus = make_series(scale=1e25)
    found = Evaluator(quick(corpus), corpus)(make_network(quick(corpus), corpus), "test")
    assert 1e25 < found.metrics["rmse"] < 1e27


def f1(truths: Array, guesses: Array) -> float:
    """Macro F1 from precision and recall, over the labels that occur."""
    scores = []
    for label in sorted({*truths, *guesses}):
        hits = ((truths == label) & (guesses == label)).sum()
        precision = hits / max(1, (guesses == label).sum())
        recall = hits / max(1, (truths == label).sum())
        total = precision + recall
        scores.append(2 * precision * recall / total if total else 0.0)
    return float(np.mean(scores))


@pytest.mark.parametrize("kind", [ClassifyTask, TagTask])
def test_label_metrics_and_the_most_frequent_label(make_labelled: Any, kind: Any) -> None:
    corpus: Corpus = make_labelled(kind)
    network = make_network(quick(corpus), corpus)
    assert corpus.targets is not None
    by_step = kind is TagTask
    logs: list[Array] = []
    truths: list[int] = []
    for begin, _, end in segment(corpus, "test"):
        y = log_softmax(outputs_of(network, np.asarray(corpus.steps[begin:end])))
        logs.append(y if by_step else y[-1:])
        sequence = int(np.searchsorted(corpus.starts, begin, "right")) - 1
        truths += corpus.targets[begin:end].tolist() if by_step else [corpus.targets[sequence]]
    y, labels = np.concatenate(logs), np.array(truths)
    edge = int(corpus.segments["train"][-1][2]) if by_step else 60
    major = np.bincount(np.asarray(corpus.targets[:edge])).argmax()

    found = Evaluator(quick(corpus), corpus)(network, "test")
    assert found.loss == pytest.approx(-y[np.arange(len(labels)), labels].mean(), rel=1e-5)
    guesses = y.argmax(1)
    expected = {
        "accuracy": (guesses == labels).mean(),
        "f1": f1(labels, guesses),
        "naive_accuracy": (labels == major).mean(),
        "naive_f1": f1(labels, np.full_like(labels, major)),
    }
    assert found.metrics == pytest.approx(expected, rel=1e-9)
