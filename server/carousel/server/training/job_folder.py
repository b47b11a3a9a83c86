"""A job's folder as docs/training.md has it, from the server's side."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from carousel.model import BASELINE, ModelError, load
from carousel.model.data import Corpus
from carousel.model.training.result import write_baseline
from carousel.server.training.records import JobRecord, Object

LOG_BYTES = 600


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Paths of a job, and what the server writes there."""

    path: Path

    @property
    def corpus(self) -> Path:
        return self.path / "corpus"

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def baseline(self) -> Path | None:
        """The version that the result was held against."""
        given = json.loads((self.path / "job.json").read_text())["baseline"]
        return Path(given) if given else None

    @property
    def told_to_stop(self) -> bool:
        return (self.path / "stop").exists()

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"{step:08}"

    def add_baseline(self, step: int) -> None:
        """Let a checkpoint have what a result has: how its gates behave on held-out data."""
        folder = self.checkpoint(step)
        # What is wrong with the checkpoint is said when it becomes a version.
        with contextlib.suppress(ModelError, OSError):
            if not (folder / BASELINE).exists():
                write_baseline(folder, load(folder), Corpus.open(self.corpus))

    def write_job(self, job: JobRecord, baseline: Path | None) -> None:
        """job.json, whole or as it was."""
        given = {
            "corpus": str(self.corpus),
            "recipe": job.recipe,
            "baseline": str(baseline) if baseline and job.margin is not None else None,
            "margin": job.margin,
            "parent_pid": None,  # the job outlives its server
        }
        part = self.path / ".job.json.part"
        part.write_text(json.dumps(given))
        os.replace(part, self.path / "job.json")

    def ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):  # it is gone, or will be killed
            (self.path / "stop").touch()

    def forget_to_stop(self) -> None:
        (self.path / "stop").unlink(missing_ok=True)

    def forget_other_recipe(self, job: JobRecord) -> None:
        """Remove a result that is of another recipe: the job was resumed for more steps."""
        with contextlib.suppress(FileNotFoundError):
            given = json.loads((self.path / "job.json").read_text())
            if given["recipe"] != job.recipe:
                self.forget_result()

    def forget_result(self) -> None:
        """All of it or nothing, whenever the server is killed."""
        gone = self.path / ".result.old"
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.result.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def take_fault(self) -> Object | None:
        """What the preparation ended with, once; None: nothing is wrong."""
        file = self.path / "prepare.json"
        if not file.exists():
            return None
        found: Object = json.loads(file.read_text())
        file.unlink()
        return found

    def last_words(self) -> str:
        """The end of what its processes printed."""
        try:
            with (self.path / "log.txt").open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - LOG_BYTES))
                words = log.read().decode(errors="replace").strip()
        except OSError:
            words = ""
        return words.rpartition("\n")[2] or "it said nothing"
