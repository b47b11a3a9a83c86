"""Recipes of a second, their events, and jobs in folders of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.processes import PATIENCE
from torch import Tensor

from carousel.model.data import Corpus, task_to_dict
from carousel.model.training import Recipe, Trainer


def quick(corpus: Corpus, **options: Any) -> Recipe:
    """A recipe of seconds; `network` may be given in part."""
    shape = {"hidden_size": 12, "layers": 2, "embedding_size": 8} | options.pop("network", {})
    plain: dict[str, Any] = {"max_steps": 12, "batch_size": 4, "window": 10, "evaluate_every": 4}
    given = plain | options | {"task": task_to_dict(corpus.task), "network": shape}
    return Recipe.from_dict(given)


class Journal(list[dict[str, Any]]):
    """Keeps the events of a run."""

    def emit(self, kind: str, step: int, **values: Any) -> None:
        self.append({"type": kind, "step": step, **values})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self if event["type"] == kind]


def learn(corpus: Corpus, folder: Path, **options: Any) -> tuple[Trainer, Journal]:
    """A trainer that has run, and what it told."""
    journal = Journal()
    trainer = Trainer(quick(corpus, **options), corpus, folder, emit=journal.emit)
    journal.append({"type": "outcome", "step": trainer.step, "value": trainer.run()})
    return trainer, journal


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def write_job(corpus: Corpus, folder: Path, **options: Any) -> Path:
    """A job's folder as the server makes it; all but `baseline` and `margin` is the recipe's."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {name: options.pop(name, None) for name in ("baseline", "margin")}
    recipe = quick(corpus, **options).to_dict()
    given = {"corpus": str(corpus.folder), "recipe": recipe, "parent_pid": None} | own
    (folder / "job.json").write_text(json.dumps(given))
    return folder


def start(folder: Path, *launcher: str) -> subprocess.Popen[bytes]:
    """The process of a job; `launcher` stands between python and the module."""
    command = [sys.executable, *launcher, "-m", "carousel.model.training", str(folder)]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def events_of(folder: Path) -> Journal:
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return Journal(json.loads(line) for line in lines if line.endswith(b"\n"))


def wait_for(folder: Path, seen: Any, seconds: float = PATIENCE) -> None:
    """Come back when the events show something."""
    end = time.monotonic() + seconds
    while not seen(events_of(folder)):
        assert time.monotonic() < end, (folder / "log.txt").read_text()
        time.sleep(0.005)
