"""What a finished job leaves: a model version with a card, and how its gates behave on data."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carousel.model import weights
from carousel.model.data import Corpus
from carousel.model.network import Network
from carousel.model.training.checkpoint import sync
from carousel.model.training.evaluate import Evaluation
from carousel.model.training.recipe import Recipe

BASELINE = "baseline.json"
# Steps of the held-out part that the baseline is taken over.
SAMPLE = 512
# Values of a gate, and of what may be negative.
RANGES = {"candidate": (-1.0, 1.0), "hidden": (-1.0, 1.0), "cell": (-4.0, 4.0)}
BINS = 10


def write_result(
    folder: Path,
    network: Network,
    recipe: Recipe,
    corpus: Corpus,
    *,
    step: int,
    seconds: float,
    test: Evaluation | None,
) -> None:
    """Make `folder` a model version, whole or not at all."""
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    card = model_card(network, recipe, corpus, step=step, seconds=seconds, test=test)
    weights.save(draft, network, card=card)
    (draft / BASELINE).write_text(json.dumps(baseline(network, corpus), indent=1) + "\n")
    for file in draft.iterdir():
        sync(file)
    sync(draft)
    if folder.exists():  # of an attempt that did not live to say so
        shutil.rmtree(folder)
    draft.rename(folder)
    sync(folder.parent)


@torch.no_grad()
def baseline(network: Network, corpus: Corpus) -> dict[str, Any]:
    """Means and histograms of every gate, and the norms of the states, over a held-out sample.

    {"steps", "layers": [{"layer", "gates": {name: {"mean", "low", "high", "histogram"}},
    "state_norm": {"mean", "std"}}]}; a histogram is shares of 10 equal bins from low to high, what
    lies beyond counted at the ends. A server can hold live traffic against it.
    """
    part = next((s for s in ("validation", "test", "train") if len(corpus.segments[s])), "train")
    begin, _, end = (int(v) for v in corpus.segments[part][0])
    steps = torch.from_numpy(np.array(corpus.steps[begin : min(end, begin + SAMPLE)]))
    steps = steps.long() if network.config.takes_tokens else steps
    network = network.cpu().eval()
    trace = network.trace(steps, network.initial_rows(1))
    state = trace.gates["cell" if network.config.cell == "lstm" else "hidden"]  # [T, L, H]
    return {
        "steps": len(steps),
        "layers": [
            {
                "layer": layer,
                "gates": {name: _spread(name, v[:, layer]) for name, v in trace.gates.items()},
                "state_norm": _moments(state[:, layer].norm(dim=1)),
            }
            for layer in range(network.config.layers)
        ],
    }


def _spread(name: str, values: Tensor) -> dict[str, Any]:
    low, high = RANGES.get(name, (0.0, 1.0))
    bins = ((values - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    shares = torch.bincount(bins.flatten(), minlength=BINS) / values.numel()
    return {"mean": values.mean().item(), "low": low, "high": high, "histogram": shares.tolist()}


def _moments(values: Tensor) -> dict[str, float]:
    return {"mean": values.mean().item(), "std": values.std(correction=0).item()}


CARD = """# A model trained by Carousel

| | |
|---|---|
| task | {task} |
| network | {config.cell}, {config.layers} layers of {config.hidden_size}, \
{parameters:,} parameters |
| data | corpus {digest}, {train:,} steps in the training part |
| trained | {step:,} updates of {recipe.batch_size} x {recipe.window} steps, {recipe.optimizer}, \
{recipe.schedule} from {recipe.learning_rate:g}, seed {recipe.seed}, {minutes:.1f} minutes |
| weights | {weights} by validation loss, at update {step:,} |

{evaluation}
## Recipe

```json
{json}
```
"""


def model_card(
    network: Network,
    recipe: Recipe,
    corpus: Corpus,
    *,
    step: int,
    seconds: float,
    test: Evaluation | None,
) -> str:
    """The README.md of a version: what it is, of what data, how good, and the recipe."""
    given = recipe.to_dict()
    segments = np.asarray(corpus.segments["train"])
    averaged = {"none": "the best", "ema": "the best moving average", "mean": "the best mean"}
    evaluation = "No part of the data was held out for a test.\n"
    if test is not None:
        rows = [f"| {name} | {value:.4g} |" for name, value in test.metrics.items()]
        head = "| on the held-out test part | |\n|---|---|"
        evaluation = "\n".join([head, f"| **loss** | **{test.loss:.4g}** |", *rows, ""])
    return CARD.format(
        task=given["task"]["type"].replace("_", " "),
        config=network.config,
        parameters=sum(p.numel() for p in network.parameters()),
        digest=corpus.digest[:12],
        train=int((segments[:, 2] - segments[:, 1]).sum()),
        step=step,
        recipe=recipe,
        minutes=seconds / 60,
        weights=averaged[recipe.averaging],
        evaluation=evaluation,
        json=json.dumps(given, indent=1),
    )
