"""The commands that use what a job made, as they can be typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carousel.cli import job_views
from carousel.cli.connection import command

if TYPE_CHECKING:
    from carousel.client import Client, Dataset, Job, ModelVersion

PROMPT = "The "
NUMPY = (".npz",)


def commands(client: Client, job: Job, dataset: Dataset, path: Path) -> list[str]:
    """What to type next; `path` is the file that was learned from, where it is here."""
    from carousel.client import LanguageModel, VersionState

    version = client.get_version(job.version)
    name = job_views.version(job)
    first = []
    if version.state is not VersionState.READY:  # `stable` is another one, and still serves
        first = [command("models", "load", name)]
    elif client.get_version(job.promotion.model).name == job.version:
        name = job.promotion.model
    if isinstance(job.recipe.task, LanguageModel):
        return [*first, command("generate", name, _prompt(version))]
    if not path.is_file():
        return [*first, command("models", "show", name)]
    return [*first, command("predict", name, str(path), *_of_file(job, dataset, version, path))]


def _of_file(job: Job, dataset: Dataset, version: ModelVersion, path: Path) -> list[str]:
    """The options by which the file is read as the job read it."""
    from carousel.client import Forecast, Tag

    task: Any = job.recipe.task
    words = []
    if path.suffix.lower() not in NUMPY:
        group = task.group_column if isinstance(task, Forecast) else task.sequence_column
        if not version.config.input_names:
            column = _read_as_tokens(task, dataset)
            words += ["--column", column] if column else []
        words += ["--sequence", group] if group else []
        words += ["--time", task.time_column] if task.time_column else []
    return words if isinstance(task, Tag) else [*words, "--last"]


def _read_as_tokens(task: Any, dataset: Dataset) -> str:
    """The column of text that a model of tokens read: the one that was named, or the only one."""
    if task.features:
        return str(task.features[0])
    special = (task.label_column, task.sequence_column, task.time_column)
    left = [column for column in dataset.columns if column.name not in special]
    return next((column.name for column in left if column.mean is None), "")


def _prompt(version: ModelVersion) -> str:
    """Text that the model knows every character of."""
    tokenizer = json.loads(version.config.json).get("tokenizer") or {}
    symbols = tokenizer.get("symbols")
    if not symbols or set(PROMPT) <= set(symbols):
        return PROMPT
    return next((s for s in str(symbols) if s.isalnum()), str(symbols)[-1])
