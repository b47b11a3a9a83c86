"""What a finished job leaves: a model version with a card, and how its gates behave on data."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from carousel.model import weights
from carousel.model.baseline import BASELINE, measure
from carousel.model.data import Corpus
from carousel.model.errors import ConfigError
from carousel.model.network import Network
from carousel.model.training.checkpoint import sync
from carousel.model.training.evaluate import Evaluation
from carousel.model.training.recipe import Recipe

# Steps of the held-out part that the baseline is taken over.
SAMPLE = 512


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
    write_baseline(draft, network, corpus)
    for file in draft.iterdir():
        sync(file)
    sync(draft)
    if folder.exists():  # of an attempt that did not live to say so
        shutil.rmtree(folder)
    draft.rename(folder)
    sync(folder.parent)


def write_baseline(folder: Path, network: Network, corpus: Corpus) -> None:
    """Put how the gates and states behave over a held-out sample beside the weights.

    Where they do not stay finite there is nothing to hold traffic against, and no file.
    """
    part = next((s for s in ("validation", "test", "train") if len(corpus.segments[s])), "train")
    begin, _, end = (int(v) for v in corpus.segments[part][0])
    steps = torch.from_numpy(np.array(corpus.steps[begin : min(end, begin + SAMPLE)]))
    steps = steps.long() if network.config.takes_tokens else steps
    with contextlib.suppress(ConfigError):
        draft = folder / f"{BASELINE}.part"
        draft.write_text(measure(network.cpu().eval(), steps).to_json())
        draft.rename(folder / BASELINE)


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
