"""All that a run is at one moment, as safetensors and JSON: with it 2 N updates are N and N.

A checkpoint's folder is a model version by itself (config.json and weights.safetensors, averaged
where the recipe says so); beside it lie the trainer's own state and one part for each worker.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from carousel.model import weights
from carousel.model.errors import ModelError
from carousel.model.training.errors import CheckpointError
from carousel.model.training.health import BackOff

if TYPE_CHECKING:
    from carousel.model.training.trainer import Trainer

TENSORS, STATE = "trainer.safetensors", "trainer.json"
# The members of a trainer that are plain numbers.
NUMBERS = ("step", "best", "validation_loss", "stale", "evaluated_at")


class Snapshot:
    """Writes and reads a trainer's state."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def save(self, step: int, *, best: bool) -> int:
        """Make a checkpoint, all workers together; returns its size in bytes (of the first)."""
        trainer, workers = self._trainer, self._trainer.workers
        draft = trainer.checkpoints.draft(step)
        if workers.first:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
        workers.wait()
        try:
            self._save_part(draft)
            if workers.first:
                self._save_shared(draft)
            workers.wait()
            size = trainer.checkpoints.seal(step, best=best) if workers.first else 0
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # leaves room to say that there was none
            raise
        workers.wait()
        return size

    def load(self, path: Path) -> None:
        """Bring the trainer to the state of a checkpoint; raises CheckpointError."""
        try:
            self._load_shared(path)
            self._load_part(path)
        except (OSError, SafetensorError, ModelError, LookupError, ValueError, RuntimeError) as e:
            raise CheckpointError(f"checkpoint {path.name} is not of this job: {e}") from e

    def _save_shared(self, draft: Path) -> None:
        trainer = self._trainer
        tensors = {f"average.{name}": v for name, v in trainer.average.values.items()}
        if trainer.average.values:
            tensors |= {f"network.{name}": v for name, v in trainer.network.state_dict().items()}
        tensors |= {f"optimizer.{key}": value for key, value in trainer.optimizer.tensors().items()}
        with trainer.average.applied():
            weights.save(draft, trainer.network)
        state = {name: getattr(trainer, name) for name in NUMBERS} | {
            "world": trainer.workers.world,
            "seconds": trainer.seconds_now,
            "averaged": trainer.average.count,
            "schedule": trainer.schedule.to_dict(),
            "back_off": asdict(trainer.back_off),
            "streak": trainer.tally.streak,
        }
        _write(draft / TENSORS, tensors)
        (draft / STATE).write_text(json.dumps(state))

    def _load_shared(self, path: Path) -> None:
        trainer, device = self._trainer, str(self._trainer.workers.device)
        tensors = load_file(path / TENSORS, device)
        state = json.loads((path / STATE).read_text())
        own = _below("network.", tensors)
        trainer.network.load_state_dict(own or weights.load(path).state_dict())
        trainer.average.values = _below("average.", tensors)
        trainer.average.count = state["averaged"]
        trainer.optimizer.load(_below("optimizer.", tensors))
        for name in NUMBERS:
            setattr(trainer, name, state[name])
        trainer.seconds = state["seconds"]
        trainer.schedule.load(state["schedule"])
        trainer.back_off = BackOff(**state["back_off"])
        trainer.tally.streak = state["streak"]
        self._world = state["world"]

    def _save_part(self, draft: Path) -> None:
        trainer, rank = self._trainer, self._trainer.workers.rank
        tensors = {"random": torch.get_rng_state()}
        if trainer.rows is not None:
            tensors["rows"] = trainer.rows
        if trainer.workers.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        kind, keys, *rest = np.random.get_state()
        state = {
            "cursor": trainer.batches.cursor,
            "python": random.getstate(),
            "numpy": [kind, np.asarray(keys).tolist(), *rest],
        }
        _write(draft / f"worker-{rank}.safetensors", tensors)
        (draft / f"worker-{rank}.json").write_text(json.dumps(state))

    def _load_part(self, path: Path) -> None:
        trainer, workers = self._trainer, self._trainer.workers
        if self._world != workers.world:
            trainer.emit(
                "warning",
                trainer.step,
                message=f"there were {self._world} workers and are {workers.world} now: "
                "the data is read from its beginning",
            )
            return
        tensors = load_file(path / f"worker-{workers.rank}.safetensors")
        state = json.loads((path / f"worker-{workers.rank}.json").read_text())
        trainer.batches.seek(state["cursor"])
        rows = tensors.get("rows")
        trainer.rows = None if rows is None else rows.to(workers.device)
        torch.set_rng_state(tensors["random"])
        if "random_cuda" in tensors and workers.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random_cuda"])
        version, keys, gauss = state["python"]
        random.setstate((version, tuple(keys), gauss))
        kind, numbers, *rest = state["numpy"]
        np.random.set_state((kind, np.array(numbers, np.uint32), *rest))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    # As bytes first: a full disk is then an OSError with its number.
    path.write_bytes(to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
