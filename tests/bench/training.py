"""Tokens a second of the trainer against a bare loop: `python -m tests.bench.training`.

Both run the same network over the same text in this process, by turns (A B B A), one thread. The
bare loop is what one would write by hand: torch's modules, AdamW, clipping, a state carried on. The
trainer does all that a job does but evaluate, for which the bare loop has nothing to be held
against: two checkpoints, one look at the gradients, every number of a progress event. The bar is
held against seconds of the processor, which other work on the machine disturbs least; by the clock
stands beside it.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from carousel.model.data import Corpus, LanguageModelTask
from carousel.model.data.text import prepare_text
from carousel.model.training import NetworkShape, Recipe, Trainer

BAR = 0.9
# Of (hidden units, updates a block): the default network, and one so small that all else shows.
SIZES = {256: 30, 64: 100}


class Bare(nn.Module):
    """Embedding, torch's LSTM, a linear layer."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 64)
        self.rnn = nn.LSTM(64, hidden, 2, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.rnn(self.embedding(x), state)
        return self.head(y), state


def bare_loop(corpus: Corpus, recipe: Recipe) -> Callable[[], None]:
    """Runs a block of updates."""
    network = Bare(corpus.vocabulary, recipe.network.hidden_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate)
    ids = torch.from_numpy(corpus.steps.astype("int64"))
    length = (len(ids) - 1) // recipe.batch_size
    inputs, targets = (
        ids[i : i + length * recipe.batch_size].view(recipe.batch_size, length) for i in (0, 1)
    )

    def run() -> None:
        state: Any = None
        for step in range(recipe.max_steps):
            at = step * recipe.window % (length - recipe.window)
            x, wanted = (v[:, at : at + recipe.window] for v in (inputs, targets))
            logits, state = network(x, state)
            state = tuple(v.detach() for v in state)
            loss = cross_entropy(logits.flatten(0, 1), wanted.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()

    return run


def trainer_loop(corpus: Corpus, recipe: Recipe, folder: Path) -> Callable[[], None]:
    """Runs a whole job of as many updates."""
    number = count()

    def run() -> None:
        trainer = Trainer(recipe, corpus, folder / str(next(number)))
        assert trainer.run() == "finished"

    return run


def measure(corpus: Corpus, hidden: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Tokens a second of both, by turns."""
    recipe = Recipe(
        task=LanguageModelTask(),
        network=NetworkShape(hidden_size=hidden),
        max_steps=SIZES[hidden],
        evaluate_every=SIZES[hidden],
    )
    arms = {"trainer": trainer_loop(corpus, recipe, folder), "bare": bare_loop(corpus, recipe)}
    tokens = recipe.max_steps * recipe.batch_size * recipe.window
    rates: dict[str, list[float]] = {name: [] for name in arms}
    clock: dict[str, list[float]] = {name: [] for name in arms}
    for run in arms.values():
        run()  # warm
    for turn in range(rounds):
        for name in ("trainer", "bare") if turn % 2 == 0 else ("bare", "trainer"):
            begin, began = time.process_time(), time.perf_counter()
            arms[name]()
            rates[name].append(tokens / (time.process_time() - begin))
            clock[name].append(tokens / (time.perf_counter() - began))
    ratios = _ratios(rates)
    return {
        "hidden": hidden,
        **{name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "by_the_clock": _ratios(clock),
    }


def _ratios(rates: dict[str, list[float]]) -> list[float]:
    return [a / b for a, b in zip(rates["trainer"], rates["bare"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = "".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
        (folder / "text.txt").write_text(text)
        task = LanguageModelTask()
        corpus = prepare_text(
            folder / "text.txt", task, folder / "corpus", validation_share=0, test_share=0
        )
        results = [measure(corpus, h, folder / str(h), arguments.rounds) for h in SIZES]
    print(f"{'hidden':>8} {'trainer':>12} {'bare':>12} {'ratio':>7}   tokens a CPU second")
    for found in results:
        clock = statistics.median(found["by_the_clock"])
        low, high = min(found["ratios"]), max(found["ratios"])
        row = f"{found['hidden']:>8} {found['trainer']:>12,.0f} {found['bare']:>12,.0f}"
        print(f"{row} {found['ratio']:>7.2f}   ({low:.2f} to {high:.2f}; by the clock {clock:.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    if any(found["ratio"] < BAR for found in results):
        sys.exit(f"the trainer is below {BAR} of the bare loop")


if __name__ == "__main__":
    main()
