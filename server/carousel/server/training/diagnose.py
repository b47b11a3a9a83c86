"""`python -m carousel.server.training.diagnose FOLDER CHECKPOINT WINDOW`: gradients as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from carousel.model import load
from carousel.model.data import Corpus
from carousel.model.training.feed import feed
from carousel.model.training.flow import gradient_flow
from carousel.model.training.objective import Objective
from carousel.model.training.recipe import Recipe
from carousel.model.training.workers import Workers
from carousel.server.training.child import Object, answer


def main(folder: Path, checkpoint: Path, window: int) -> Object:
    job = json.loads((folder / "job.json").read_text())
    recipe = Recipe.from_dict(job["recipe"])
    recipe = replace(recipe, window=window or recipe.window)
    corpus = Corpus.open(folder / "corpus")
    batch = next(iter(feed(recipe, corpus, "train", Workers())))
    objective = Objective(corpus, torch.device("cpu"))
    return gradient_flow(load(checkpoint), batch, objective, 0.0).to_dict()


if __name__ == "__main__":
    folder, checkpoint, window = sys.argv[1:]
    answer(lambda: main(Path(folder), Path(checkpoint), int(window)))
